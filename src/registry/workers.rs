//! A few threads for a list of transfers, all gone at return.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// How many transfers run at once: more do not make a link faster, and registries count connections.
const AT_ONCE: usize = 4;

/// Runs `work` for each item, and gives the first error. After an error nothing new begins, and the
/// flag that `work` gets tells what is under way to stop.
pub(super) fn for_each<T: Sync, E: Send>(
    items: &[T],
    work: impl Fn(&T, &AtomicBool) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let (next, stop, failure) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
    let run = || {
        while !stop.load(Ordering::Relaxed)
            && let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed))
        {
            if let Err(error) = work(item, &stop) {
                stop.store(true, Ordering::Relaxed);
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    thread::scope(|scope| {
        // The calling thread works too. Where no thread can be had (a pod's limit), it does it all.
        let helpers: Vec<_> = (1..items.len().min(AT_ONCE))
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, run).ok())
            .collect();
        run();
        // Joined one by one: the scope itself waits for the closures only, and not until the threads
        // are gone, which whoever unshares a user namespace afterwards has to count on.
        for helper in helpers {
            if let Err(panic) = helper.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_done_once_and_an_error_ends_it() {
        let items: Vec<usize> = (0..100).collect();
        let done = AtomicUsize::new(0);
        let all = for_each(&items, |i, _| {
            done.fetch_add(*i, Ordering::Relaxed);
            Ok::<(), ()>(())
        });
        assert_eq!((all, done.load(Ordering::Relaxed)), (Ok(()), 4950));
        assert_eq!(for_each(&items, |i, _| if *i == 7 { Err(*i) } else { Ok(()) }), Err(7));
        assert_eq!(for_each(&[(); 0], |(), _| Err(())), Ok(()));
    }
}
