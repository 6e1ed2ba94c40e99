//! Work that brings more work, on all processors.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// More would only wait for the same disk.
const MAX_THREADS: usize = 16;

struct Queue<J> {
    jobs: Vec<J>,
    /// Threads that may still bring jobs.
    busy: usize,
    error: Option<io::Error>,
}

/// Calls `work` for `first` and for every job that comes of one, and gives what each thread has made. A
/// thread takes its own latest job first, so that jobs which hold a directory open are soon done with;
/// one that has nothing to do gets the older half of another's.
///
/// # Errors
/// The first that `work` gives.
pub(super) fn run<J: Send, R: Default + Send>(
    first: J,
    work: impl Fn(J, &mut Vec<J>, &mut R) -> io::Result<()> + Sync,
) -> io::Result<Vec<R>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    let queue = Mutex::new(Queue { jobs: vec![first], busy: threads, error: None });
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
    let thread = || {
        let (mut own, mut made) = (Vec::new(), R::default());
        while let Some(job) = next(&mut own) {
            if let Err(e) = work(job, &mut own, &mut made) {
                let mut shared = lock();
                shared.error.get_or_insert(e);
                shared.busy -= 1;
                more.notify_all();
                break;
            }
            if own.len() > 1 && hungry.load(Ordering::Relaxed) > 0 {
                lock().jobs.extend(own.drain(..own.len() / 2));
                more.notify_all();
            }
        }
        made
    };
    let made = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(thread)).collect();
        let mut made = vec![thread()];
        made.extend(others.into_iter().filter_map(|t| t.join().ok()));
        made
    });
    match queue.into_inner().unwrap_or_else(PoisonError::into_inner).error {
        Some(e) => Err(e),
        None if made.len() == threads => Ok(made),
        None => Err(io::Error::other("a thread has ended before its work")),
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
    fn an_error_ends_it() {
        let result = run(1u64, |n, more, _: &mut ()| {
            more.extend([n + 1, n + 2]);
            if n > 1000 { Err(io::Error::other(n.to_string())) } else { Ok(()) }
        });
        assert!(result.unwrap_err().to_string().parse::<u64>().unwrap() > 1000);
    }
}
