//! Work that can wait.
//!
//! To be nice is not enough: Linux shares processors between sessions first (autogroups, sched(7)), and a
//! step has a session of its own. Two threads of ours beside it would take a third of its processor from it,
//! on a machine with two. So the less urgent one waits for the other.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use cooper_runtime::sys::process::step_back;

use crate::store::Store;

/// Names that are removed before somebody more urgent can begin.
const SLICE: u64 = 1000;

/// How many do something more urgent than what can wait.
#[derive(Default)]
pub(super) struct Leisure {
    urgent: Mutex<usize>,
    changed: Condvar,
}

/// Until it is dropped, what can wait does.
pub(super) struct Urgent<'a>(&'a Leisure);

impl Leisure {
    pub(super) fn urgent(&self) -> Urgent<'_> {
        *self.urgent.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Urgent(self)
    }

    fn wait(&self) {
        let urgent = self.urgent.lock().unwrap_or_else(PoisonError::into_inner);
        let none = self.changed.wait_while(urgent, |urgent| *urgent > 0);
        drop(none.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        *self.0.urgent.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.changed.notify_all();
    }
}

/// Removes what earlier commands have left, on a thread that nobody waits for.
///
/// # Errors
/// When the thread cannot be started.
pub(super) fn sweep(store: Arc<Store>, leisure: Arc<Leisure>) -> std::io::Result<()> {
    let sweep = move || {
        step_back();
        loop {
            leisure.wait();
            match store.sweep(SLICE) {
                Ok(true) => return,
                Ok(false) => {}
                Err(e) => {
                    tracing::info!("what earlier commands have left is still there: {e}");
                    return;
                }
            }
        }
    };
    std::thread::Builder::new().name("sweep".to_owned()).spawn(sweep).map(drop)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_can_wait_waits_for_all_that_is_urgent() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        let dead = dir.path().join("work/1-dead");
        std::fs::create_dir(&dead).unwrap();
        for number in 0..3 * SLICE {
            std::fs::write(dead.join(number.to_string()), "").unwrap();
        }
        let leisure = Arc::<Leisure>::default();
        let (first, second) = (leisure.urgent(), leisure.urgent());
        sweep(store, leisure.clone()).unwrap();
        drop(first);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(std::fs::read_dir(&dead).unwrap().count() as u64, 3 * SLICE);
        drop(second);
        for _ in 0..1000 {
            if !dead.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it was never removed");
    }
}
