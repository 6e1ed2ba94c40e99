//! Packs layers on threads of their own, while the next steps run.

use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::image::DiffId;
use crate::layer::compress::Compression;
use crate::layer::entry::{Entry, EntryKind};
use crate::rootfs::pack::{PackError, PackedLayer, pack};
use crate::store::{Store, WorkDir};

/// A layer that will be there.
#[derive(Debug, Clone, Default)]
pub struct Promise(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Pending,
    /// The tar is made, and is being compressed.
    Hashed(DiffId),
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
        self.enter(match result {
            Ok(layer) => State::Done(layer),
            Err(e) => State::Failed(Some(e)),
        });
    }

    fn enter(&self, now: State) {
        let (state, changed) = &*self.0;
        *state.lock().unwrap_or_else(PoisonError::into_inner) = now;
        changed.notify_all();
    }

    /// Whether to wait for the diff ID takes no time.
    pub fn is_hashed(&self) -> bool {
        !matches!(*self.0.0.lock().unwrap_or_else(PoisonError::into_inner), State::Pending)
    }

    /// Waits for the diff ID, which is known before the layer is packed.
    ///
    /// # Errors
    /// As of [`wait`](Self::wait).
    pub fn diff_id(&self) -> Result<DiffId, PackError> {
        self.wait_until(|state| match state {
            State::Hashed(diff_id) => Some(*diff_id),
            State::Done(layer) => Some(layer.diff_id),
            State::Pending | State::Failed(_) => None,
        })
    }

    /// Waits for the layer.
    ///
    /// # Errors
    /// Why it could not be packed; told once, to whoever asks first.
    pub fn wait(&self) -> Result<PackedLayer, PackError> {
        self.wait_until(|state| match state {
            State::Done(layer) => Some(layer.clone()),
            State::Pending | State::Hashed(_) | State::Failed(_) => None,
        })
    }

    fn wait_until<T>(&self, known: impl Fn(&State) -> Option<T>) -> Result<T, PackError> {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = known(&state) {
                return Ok(found);
            }
            if let State::Failed(e) = &mut *state {
                let again = || PackError::Io(std::io::Error::other("packing it has failed before"));
                return Err(e.take().unwrap_or_else(again));
            }
            state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

struct Job {
    dir: PathBuf,
    entries: Vec<Entry>,
    promise: Promise,
}

/// The threads that pack: one for large layers, and one for small ones, whose diff IDs somebody may be
/// waiting for while a large one is compressed. Dropped, they finish what they were given.
#[derive(Debug)]
pub struct Packer {
    large: Lane,
    small: Lane,
}

/// Up to here a layer is small: bytes of content, and entries.
const SMALL: (u64, usize) = (1 << 20, 256);

impl Packer {
    /// Starts the threads.
    pub fn start(store: Arc<Store>, work: Arc<WorkDir>, compression: Compression) -> std::io::Result<Packer> {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let (small_store, small_work) = (store.clone(), work.clone());
        let pack_with = |store: Arc<Store>, work: Arc<WorkDir>, workers| {
            move |job: &Job| {
                let hashed = |diff_id| job.promise.enter(State::Hashed(diff_id));
                pack(&store, &work, &job.dir, &job.entries, compression, workers, &hashed)
            }
        };
        Ok(Packer {
            large: Lane::start("packer", pack_with(store, work, workers))?,
            small: Lane::start("packer-small", pack_with(small_store, small_work, 1))?,
        })
    }

    /// Packs the frozen layer in `dir` when its turn comes. The directory must stay where it is until
    /// the promise is kept.
    pub fn pack(&self, dir: PathBuf, entries: Vec<Entry>) -> Promise {
        let promise = Promise::default();
        let content = |entry: &Entry| match entry.kind {
            EntryKind::File { size } => size,
            _ => 0,
        };
        let bytes: u64 = entries.iter().map(content).sum();
        let small = bytes <= SMALL.0 && entries.len() <= SMALL.1;
        let lane = if small { &self.small } else { &self.large };
        lane.take(Job { dir, entries, promise: promise.clone() });
        promise
    }
}

/// A thread that packs one layer after the other.
#[derive(Debug)]
struct Lane {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Lane {
    fn start(
        name: &str,
        pack: impl Fn(&Job) -> Result<PackedLayer, PackError> + Send + 'static,
    ) -> std::io::Result<Lane> {
        let (jobs, queue) = channel::<Job>();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            for job in queue {
                job.promise.settle(pack(&job));
            }
        })?;
        Ok(Lane { jobs: Some(jobs), thread: Some(thread) })
    }

    fn take(&self, job: Job) {
        let promise = job.promise.clone();
        if self.jobs.as_ref().is_none_or(|jobs| jobs.send(job).is_err()) {
            promise.settle(Err(PackError::Io(std::io::Error::other("the packing thread is gone"))));
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
