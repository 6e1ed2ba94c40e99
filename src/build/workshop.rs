//! The place where work happens: inside the user namespace, with a launcher for steps.
//!
//! It is opened when the first step is not in the cache, and not before: a fully cached build is
//! plain lookups by the plain user.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cooper_runtime::enter::{EnterError, enter};
use cooper_runtime::identity::{Extent, IdMap};
use cooper_runtime::launcher::{Launcher, Signaller};
use nix::sys::signal::{SigSet, Signal};

use crate::progress::{Event, Progress};
use crate::rootfs::storage::{Backend, RootfsError, Storage};
use crate::rootfs::unpack::Place;
use crate::store::layers::MapTag;
use crate::store::{Store, StoreError, WorkDir};

/// Why the workshop cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum WorkshopError {
    /// No user namespace to be had.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// No launcher.
    #[error("cannot start the process that runs steps: {0}")]
    Launcher(io::Error),
    /// Nothing stacks layers here.
    #[error(transparent)]
    Storage(#[from] RootfsError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How long a step may take to end after it was asked to. Most cannot hear it: the kernel passes the
/// first process of a PID namespace only those signals that it has a handler for.
const GRACE: Duration = Duration::from_secs(1);
/// How long this process has for ending by itself, without a step to wait for.
const TIDYING: Duration = Duration::from_secs(1);

/// An open workshop.
#[derive(Debug)]
pub struct Workshop {
    /// Which ids there are.
    pub map: IdMap,
    /// Names the id map in the store.
    pub tag: MapTag,
    /// What this command is making.
    pub work: Arc<WorkDir>,
    /// Stacks layers.
    pub storage: Storage,
    /// Starts steps.
    pub launcher: Launcher,
    /// The host's `/etc/resolv.conf`, as steps see it.
    pub resolv_conf: Vec<u8>,
    /// Whether processes may have supplementary groups: under a single-id map the kernel does not let
    /// anybody change them.
    pub setgroups: bool,
    interrupts: Arc<Interrupts>,
}

/// The signal that asked this command to stop, and the step to pass it to.
#[derive(Debug, Default)]
pub struct Interrupts {
    signal: AtomicI32,
    step: Mutex<Option<Signaller>>,
}

impl Workshop {
    /// Enters the user namespace and starts the launcher.
    ///
    /// # Errors
    /// [`WorkshopError::Enter`] where the environment forbids it. This process must have one thread.
    pub fn open(
        store: &Store,
        storage: Option<Backend>,
        progress: &dyn Progress,
    ) -> Result<Workshop, WorkshopError> {
        progress.pause();
        let opened = Workshop::open_single_threaded(store, storage);
        progress.resume();
        let workshop = opened?;
        tracing::debug!("entered a user namespace; id map {:?}", workshop.map.extent);
        if let Extent::Single { reason } = &workshop.map.extent {
            let text =
                format!("only one user id can be used, so steps cannot change owners or users: {reason}");
            progress.event(Event::Warning { text });
        }
        Ok(workshop)
    }

    fn open_single_threaded(store: &Store, storage: Option<Backend>) -> Result<Workshop, WorkshopError> {
        let map = enter()?;
        let launcher = Launcher::start().map_err(WorkshopError::Launcher)?;
        let interrupts = Arc::new(Interrupts::default());
        watch_signals(interrupts.clone()).map_err(WorkshopError::Launcher)?;
        let tag = MapTag::of(&map.fingerprint());
        let resolv_conf = std::fs::read("/etc/resolv.conf").unwrap_or_default();
        let work = Arc::new(store.work_dir()?);
        let setgroups = std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|s| s.trim() == "allow");
        let single = matches!(map.extent, Extent::Single { .. });
        let storage = Storage::open(storage, work.clone(), single)?;
        Ok(Workshop { setgroups, map, tag, work, storage, launcher, resolv_conf, interrupts })
    }

    /// Whether there is one id, so that owners are recorded instead of made.
    pub fn single_id(&self) -> bool {
        matches!(self.map.extent, Extent::Single { .. })
    }

    /// The workshop as unpacking wants it.
    pub fn place<'a>(&'a self, store: &'a Store) -> Place<'a> {
        Place { store, work: &self.work, tag: &self.tag, single: self.single_id() }
    }

    /// The signal that asked this command to stop, if one has.
    pub fn interrupted(&self) -> Option<i32> {
        Some(self.interrupts.signal.load(Ordering::Relaxed)).filter(|s| *s != 0)
    }

    /// Says which step a signal is to be passed to; `None` when it has ended.
    pub fn set_running(&self, step: Option<Signaller>) {
        *self.interrupts.step.lock().unwrap_or_else(PoisonError::into_inner) = step;
    }
}

/// Takes the signals that ask to stop on a thread of their own: the first is passed to the step, which
/// is killed if it does not end; the second ends this process, and with it everything. So does the first
/// when nobody has heeded it: a server that sends slowly, or a very large file, would hold up the thread that
/// looks for it for as long as they like. What is left below `work/` the next command sweeps.
fn watch_signals(interrupts: Arc<Interrupts>) -> io::Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let Ok(first) = signals.wait() else { return };
        interrupts.signal.store(first as i32, Ordering::Relaxed);
        interrupts.pass_on(first as i32);
        let after_grace = interrupts.clone();
        let _ = std::thread::Builder::new().name("grace".to_owned()).spawn(move || {
            if after_grace.has_step() {
                std::thread::sleep(GRACE);
                after_grace.pass_on(Signal::SIGKILL as i32);
            }
            std::thread::sleep(TIDYING);
            std::process::exit(128 + first as i32);
        });
        if let Ok(second) = signals.wait() {
            interrupts.pass_on(Signal::SIGKILL as i32);
            std::process::exit(128 + second as i32);
        }
    })?;
    Ok(())
}

impl Interrupts {
    fn has_step(&self) -> bool {
        self.step.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn pass_on(&self, signal: i32) {
        if let Some(step) = &*self.step.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = step.send(signal);
        }
    }
}
