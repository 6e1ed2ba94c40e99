//! Packs layers on threads of their own, while the next steps run.

use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use cooper_runtime::sys::process::processors;

use crate::image::DiffId;
use crate::layer::compress::Compression;
use crate::layer::entry::{Entry, EntryKind};
use crate::rootfs::pack::{How, PackError, PackedLayer, pack};
use crate::rootfs::segments::Ahead;
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

    /// Whether waiting for the layer takes no longer than until `deadline`.
    pub fn is_settled_by(&self, deadline: Instant) -> bool {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        while matches!(*state, State::Pending | State::Hashed(_)) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            (state, _) = changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        true
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

/// The threads that pack: two for large layers, and one for small ones, whose diff IDs somebody may be
/// waiting for while large ones are compressed. Dropped, they finish what they were given.
pub struct Packer {
    large: Lane,
    small: Lane,
    ahead: Arc<Ahead>,
}

/// Up to here a layer is small: bytes of content, and entries.
const SMALL: (u64, usize) = (1 << 20, 256);
/// Large layers packed at a time: while one is read, another is compressed.
const LARGE_AT_ONCE: usize = 2;

impl Packer {
    /// Starts the threads.
    pub fn start(
        store: &Arc<Store>,
        work: &Arc<WorkDir>,
        compression: Compression,
    ) -> std::io::Result<Packer> {
        let ahead = Arc::<Ahead>::default();
        let cores = processors();
        let lane = |name: &str, threads: usize, workers: usize| {
            let (store, work) = (store.clone(), work.clone());
            let how = How { compression, workers, ahead: ahead.clone() };
            let pack = move |job: &Job| {
                let hashed = |diff_id| job.promise.enter(State::Hashed(diff_id));
                pack(&store, &work, &job.dir, &job.entries, &how, &hashed)
            };
            Lane::start(name, threads, Arc::new(pack))
        };
        let (large, small) = (lane("packer", LARGE_AT_ONCE, cores)?, lane("packer-small", 1, 1)?);
        Ok(Packer { large, small, ahead })
    }

    /// What was compressed before its layer was there.
    pub fn ahead(&self) -> &Ahead {
        &self.ahead
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

type Pack = dyn Fn(&Job) -> Result<PackedLayer, PackError> + Send + Sync;

/// Threads that pack layers in the order in which they come.
struct Lane {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Lane {
    fn start(name: &str, threads: usize, pack: Arc<Pack>) -> std::io::Result<Lane> {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let thread = |_| {
            let (queue, pack) = (queue.clone(), pack.clone());
            std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                while let Ok(job) = next() {
                    job.promise.settle(pack(&job));
                }
            })
        };
        let threads = (0..threads).map(thread).collect::<std::io::Result<_>>()?;
        Ok(Lane { jobs: Some(jobs), threads })
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
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
