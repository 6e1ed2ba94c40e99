//! Packs layers on a thread of its own, while the next step runs.

use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::layer::compress::Compression;
use crate::layer::entry::Entry;
use crate::rootfs::pack::{PackError, PackedLayer, pack};
use crate::store::{Store, WorkDir};

/// A layer that will be there.
#[derive(Debug, Clone, Default)]
pub struct Promise(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Pending,
    Done(PackedLayer),
    Failed(Option<PackError>),
}

impl Promise {
    /// One that is there already.
    pub fn kept(layer: PackedLayer) -> Promise {
        let promise = Promise::default();
        promise.settle(Ok(layer));
        promise
    }

    fn settle(&self, result: Result<PackedLayer, PackError>) {
        let (state, settled) = &*self.0;
        *state.lock().unwrap_or_else(PoisonError::into_inner) = match result {
            Ok(layer) => State::Done(layer),
            Err(e) => State::Failed(Some(e)),
        };
        settled.notify_all();
    }

    /// Whether waiting for it takes no time.
    pub fn is_settled(&self) -> bool {
        !matches!(*self.0.0.lock().unwrap_or_else(PoisonError::into_inner), State::Pending)
    }

    /// Waits for the layer.
    ///
    /// # Errors
    /// Why it could not be packed; told once, to whoever asks first.
    pub fn wait(&self) -> Result<PackedLayer, PackError> {
        let (state, settled) = &*self.0;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &mut *state {
                State::Done(layer) => return Ok(layer.clone()),
                State::Failed(e) => {
                    let again = || PackError::Io(std::io::Error::other("packing it has failed before"));
                    return Err(e.take().unwrap_or_else(again));
                }
                State::Pending => state = settled.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

struct Job {
    dir: PathBuf,
    entries: Vec<Entry>,
    promise: Promise,
}

/// The thread. Dropped, it finishes what it was given.
#[derive(Debug)]
pub struct Packer {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Packer {
    /// Starts the thread.
    pub fn start(store: Arc<Store>, work: Arc<WorkDir>, compression: Compression) -> std::io::Result<Packer> {
        let (jobs, queue) = channel::<Job>();
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let thread = std::thread::Builder::new().name("packer".to_owned()).spawn(move || {
            for job in queue {
                job.promise.settle(pack(&store, &work, &job.dir, &job.entries, compression, workers));
            }
        })?;
        Ok(Packer { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Packs the frozen layer in `dir` when its turn comes. The directory must stay where it is until
    /// the promise is kept.
    pub fn pack(&self, dir: PathBuf, entries: Vec<Entry>) -> Promise {
        let promise = Promise::default();
        let job = Job { dir, entries, promise: promise.clone() };
        if self.jobs.as_ref().is_none_or(|jobs| jobs.send(job).is_err()) {
            promise.settle(Err(PackError::Io(std::io::Error::other("the packing thread is gone"))));
        }
        promise
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
