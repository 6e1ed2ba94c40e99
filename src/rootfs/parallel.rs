//! Work that brings more work, on all processors.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use cooper_runtime::sys::process::processors;

/// More would only wait for the same disk.
const MAX_THREADS: usize = 8;
/// With so many jobs waiting, a second thread is worth what it takes to start one.
const ENOUGH: usize = 8;

struct Queue<J> {
    jobs: Vec<J>,
    /// Threads that may still bring jobs.
    busy: usize,
    error: Option<io::Error>,
}

/// Calls `work` for `first` and for every job that comes of one, and gives what each thread has made. A
/// thread takes its own latest job first, so that jobs which hold a directory open are soon done with;
/// one that has nothing to do gets the older half of another's. There is one thread, the caller's, until
/// there is enough for more.
///
/// # Errors
/// The first that `work` gives.
pub(crate) fn run<J: Send, R: Default + Send>(
    first: J,
    work: impl Fn(J, &mut Vec<J>, &mut R) -> io::Result<()> + Sync,
) -> io::Result<Vec<R>> {
    let threads = processors().min(MAX_THREADS);
    run_on(threads, first, work)
}

/// The same on at most so many threads.
pub(crate) fn run_on<J: Send, R: Default + Send>(
    threads: usize,
    first: J,
    work: impl Fn(J, &mut Vec<J>, &mut R) -> io::Result<()> + Sync,
) -> io::Result<Vec<R>> {
    let queue = Mutex::new(Queue { jobs: vec![first], busy: 1, error: None });
    let (more, hungry) = (Condvar::new(), AtomicUsize::new(0));
    let lock = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    let next = |own: &mut Vec<J>| {
        if let Some(job) = own.pop() {
            return Some(job);
        }
        let mut shared = lock();
        shared.busy -= 1;
        hungry.fetch_add(1, Ordering::Relaxed);
        loop {
            if shared.error.is_some() {
                return None;
            }
            if let Some(job) = shared.jobs.pop() {
                shared.busy += 1;
                hungry.fetch_sub(1, Ordering::Relaxed);
                return Some(job);
            }
            if shared.busy == 0 {
                more.notify_all();
                return None;
            }
            shared = more.wait(shared).unwrap_or_else(PoisonError::into_inner);
        }
    };
    // `waiting` is told after each job how many the thread has.
    let thread = |waiting: &mut dyn FnMut(usize)| {
        let (mut own, mut made) = (Vec::new(), R::default());
        while let Some(job) = next(&mut own) {
            if let Err(e) = work(job, &mut own, &mut made) {
                let mut shared = lock();
                shared.error.get_or_insert(e);
                shared.busy -= 1;
                more.notify_all();
                break;
            }
            waiting(own.len());
            if own.len() > 1 && hungry.load(Ordering::Relaxed) > 0 {
                lock().jobs.extend(own.drain(..own.len() / 2));
                more.notify_all();
            }
        }
        made
    };
    let thread = &thread;
    let (made, whole) = std::thread::scope(|scope| {
        let mut others = Vec::new();
        let made = thread(&mut |waiting| {
            if !others.is_empty() || waiting < ENOUGH {
                return;
            }
            for _ in 1..threads {
                lock().busy += 1;
                match std::thread::Builder::new().spawn_scoped(scope, || thread(&mut |_| ())) {
                    Ok(other) => others.push(other),
                    // Then fewer will do.
                    Err(_) => {
                        lock().busy -= 1;
                        break;
                    }
                }
            }
        });
        let (mut made, expected) = (vec![made], others.len() + 1);
        made.extend(others.into_iter().filter_map(|t| t.join().ok()));
        let whole = made.len() == expected;
        (made, whole)
    });
    match queue.into_inner().unwrap_or_else(PoisonError::into_inner).error {
        Some(e) => Err(e),
        None if whole => Ok(made),
        None => Err(io::Error::other("a thread has ended before its work")),
    }
}

/// Of the failures that threads meet, the one that comes first by path: that is the same whatever the
/// number of threads, if all jobs are done.
#[derive(Debug)]
pub(crate) struct First<E>(Mutex<Option<(Vec<u8>, E)>>);

impl<E> Default for First<E> {
    fn default() -> Self {
        First(Mutex::default())
    }
}

impl<E> First<E> {
    /// Takes a failure at `path`.
    pub(crate) fn met(&self, path: Vec<u8>, error: E) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if first.as_ref().is_none_or(|(known, _)| path < *known) {
            *first = Some((path, error));
        }
    }

    /// Gives it.
    ///
    /// # Errors
    /// It, if there was one.
    pub(crate) fn told(self) -> Result<(), E> {
        match self.0.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_is_done_once() {
        let made: Vec<Vec<u32>> = run(1u32, |n, more, made: &mut Vec<u32>| {
            made.push(n);
            more.extend([2 * n, 2 * n + 1].into_iter().filter(|n| *n < 10_000));
            Ok(())
        })
        .unwrap();
        let mut all: Vec<u32> = made.into_iter().flatten().collect();
        all.sort_unstable();
        assert_eq!(all, (1..10_000).collect::<Vec<_>>());
    }

    #[test]
    fn few_jobs_stay_on_one_thread() {
        let ids: Vec<Vec<_>> = run_on(4, 1u32, |n, more, made: &mut Vec<_>| {
            made.push(std::thread::current().id());
            more.extend((n < 100).then_some(n + 1));
            Ok(())
        })
        .unwrap();
        assert_eq!(ids, [vec![std::thread::current().id(); 100]]);
    }

    #[test]
    fn the_first_failure_by_path_is_told() {
        let first = First::default();
        for path in ["b", "a/x", "a-b", "c"] {
            first.met(path.into(), path);
        }
        assert_eq!(first.told(), Err("a-b"));
        assert_eq!(First::<()>::default().told(), Ok(()));
    }

    #[test]
    fn an_error_ends_it() {
        let result = run(1u64, |n, more, _: &mut ()| {
            more.extend([n + 1, n + 2]);
            if n > 1000 { Err(io::Error::other(n.to_string())) } else { Ok(()) }
        });
        assert!(result.unwrap_err().to_string().parse::<u64>().unwrap() > 1000);
    }
}
