//! What the stages of a build know of one another.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::Failure;
use crate::build::BuildError;
use crate::build::stack::{Layer, StageEnd};

/// Which stages are done, whether one has failed, and how many steps may still begin.
pub(super) struct Board {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    stages: Vec<Reached>,
    /// Steps that may begin beside those that are being carried out.
    free: usize,
    /// Threads that still walk a stage.
    walking: usize,
    failed: bool,
    /// The first failure, until it is told.
    failure: Option<BuildError>,
}

#[derive(Default)]
struct Reached {
    end: StageEnd,
    done: bool,
}

impl Board {
    /// Of so many stages, with at most `jobs` steps at a time.
    pub(super) fn new(stages: usize, jobs: usize) -> Board {
        let stages = std::iter::repeat_with(Reached::default).take(stages).collect();
        let state = State { stages, free: jobs.max(1), walking: 0, failed: false, failure: None };
        Board { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready` gives something, or a stage has failed.
    fn wait<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> Result<T, Failure> {
        let mut state = self.lock();
        loop {
            if state.failed {
                return Err(Failure::Abandoned);
            }
            if let Some(found) = ready(&mut state) {
                return Ok(found);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Says how far a stage has come, and whether it is done. What is not done may still be worth keeping.
    pub(super) fn publish(&self, stage: usize, end: StageEnd, done: bool) {
        self.lock().stages[stage] = Reached { end, done };
        self.changed.notify_all();
    }

    /// What a stage has become, if it is done.
    pub(super) fn finished(&self, stage: usize) -> Option<StageEnd> {
        let state = self.lock();
        let reached = &state.stages[stage];
        reached.done.then(|| reached.end.clone())
    }

    /// The same, once it is.
    pub(super) fn wait_for(&self, stage: usize) -> Result<StageEnd, Failure> {
        self.wait(|state| {
            let reached = &state.stages[stage];
            reached.done.then(|| reached.end.clone())
        })
    }

    /// What all stages have become, done or not.
    pub(super) fn ends(&self) -> Vec<StageEnd> {
        self.lock().stages.iter().map(|reached| reached.end.clone()).collect()
    }

    /// Waits until a step may be carried out. Says whether that took any time.
    pub(super) fn permit(&self) -> Result<(Permit<'_>, bool), Failure> {
        let mut asked = 0;
        self.wait(|state| {
            asked += 1;
            state.free = state.free.checked_sub(1)?;
            Some(())
        })?;
        Ok((Permit(self), asked > 1))
    }

    /// Whether one more step could be carried out now.
    pub(super) fn has_room(&self) -> bool {
        self.lock().free > 0
    }

    /// Keeps the first failure, and lets nobody wait any more.
    pub(super) fn fail(&self, error: BuildError) {
        let mut state = self.lock();
        state.failed = true;
        state.failure.get_or_insert(error);
        self.changed.notify_all();
    }

    /// Whether the build goes on.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.lock().failed { Err(Failure::Abandoned) } else { Ok(()) }
    }

    /// The failure, if there was one.
    pub(super) fn outcome(&self) -> Result<(), BuildError> {
        self.lock().failure.take().map_or(Ok(()), Err)
    }

    /// So many threads will walk.
    pub(super) fn begin(&self, threads: usize) {
        self.lock().walking = threads;
    }

    /// One of them will not come.
    pub(super) fn absent(&self) {
        self.lock().walking -= 1;
        self.changed.notify_all();
    }

    /// One of them is done: it waits here for the others. The last one does `then`.
    pub(super) fn leave(&self, then: impl FnOnce()) {
        let mut state = self.lock();
        if state.walking == 1 {
            // Unlocked, since others are only waiting for this.
            drop(state);
            then();
            state = self.lock();
        }
        state.walking -= 1;
        self.changed.notify_all();
        while state.walking > 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Leave to carry out a step, until it is dropped.
pub(super) struct Permit<'b>(&'b Board);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.lock().free += 1;
        self.0.changed.notify_all();
    }
}

/// A step that somebody carries out.
#[derive(Default)]
pub(super) struct Slot {
    state: Mutex<Option<Option<Made>>>,
    changed: Condvar,
}

/// What it has made: a layer, and the newest time that went into the stage so far.
pub(super) type Made = (Layer, i64);

impl Slot {
    /// Says what was made; `None` when the step has failed.
    pub(super) fn settle(&self, made: Option<Made>) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
        self.changed.notify_all();
    }

    /// Waits for it.
    pub(super) fn wait(&self) -> Result<Made, Failure> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(made) = &*state {
                return made.clone().ok_or(Failure::Abandoned);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[test]
    fn no_more_steps_at_a_time_than_jobs() {
        let board = Board::new(0, 2);
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let Ok(_permit) = board.permit() else { panic!("nothing has failed") };
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(20));
                    now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(most.into_inner(), 2);
    }

    #[test]
    fn a_failure_wakes_all_who_wait_and_the_first_is_told() {
        let board = Board::new(2, 1);
        let permit = board.permit();
        std::thread::scope(|scope| {
            let stage = scope.spawn(|| matches!(board.wait_for(1), Err(Failure::Abandoned)));
            let step = scope.spawn(|| matches!(board.permit(), Err(Failure::Abandoned)));
            std::thread::sleep(Duration::from_millis(20));
            board.fail(BuildError::Interrupted { signal: 2 });
            board.fail(BuildError::Interrupted { signal: 15 });
            assert!(stage.join().unwrap() && step.join().unwrap());
        });
        drop(permit);
        assert!(matches!(board.outcome(), Err(BuildError::Interrupted { signal: 2 })));
    }

    #[test]
    fn all_stay_until_the_last_has_tidied_up() {
        let board = Board::new(0, 1);
        board.begin(3);
        let (tidied, left) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for number in 0..3 {
                let (board, tidied, left) = (&board, &tidied, &left);
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_millis(10 * number));
                    board.leave(|| {
                        assert_eq!(left.load(Ordering::SeqCst), 0);
                        tidied.fetch_add(1, Ordering::SeqCst);
                    });
                    left.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!((tidied.into_inner(), left.into_inner()), (1, 3));
    }
}
