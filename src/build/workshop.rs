//! The place where work happens: inside the user namespace, with a launcher for steps.
//!
//! It is opened when the first step is not in the cache, and not before: a fully cached build is
//! plain lookups by the plain user.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cooper_runtime::enter::{EnterError, enter};
use cooper_runtime::identity::{Extent, IdMap};
use cooper_runtime::launcher::{Launcher, Signaller};
use cooper_runtime::record::{Attributes, Inode};
use cooper_runtime::recording::{self, Recording, Scope};
use nix::sys::signal::{SigSet, Signal};

use crate::progress::{Event, Progress};
use crate::rootfs::storage::{Backend, RootFs, RootfsError, Storage};
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
    /// No thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
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
/// The same signal again, so soon after the first, is the same.
const ECHO: Duration = Duration::from_millis(300);
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
    setgroups: bool,
    /// Whether what steps cannot make is recorded.
    recording: bool,
    interrupts: Arc<Interrupts>,
}

/// The signal that asked this command to stop, and the steps to pass it to.
#[derive(Debug, Default)]
pub struct Interrupts {
    signal: AtomicI32,
    steps: Mutex<Steps>,
}

/// The steps that are running.
#[derive(Debug, Default)]
struct Steps {
    /// By a number that each has of its own.
    running: BTreeMap<u64, Signaller>,
    next: u64,
    /// Whether none is to go on.
    ended: bool,
}

/// A step that signals are passed to, until this is dropped.
#[derive(Debug)]
pub struct Listening<'w> {
    interrupts: &'w Interrupts,
    number: u64,
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.interrupts.steps().running.remove(&self.number);
    }
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
            let what = "only one user id can be used";
            if workshop.recording {
                tracing::info!("{what}, so owners are kept on record, which is slower: {reason}");
            } else {
                let text = format!("{what}, so steps cannot change owners or users: {reason}");
                progress.event(Event::Warning { text });
            }
        }
        Ok(workshop)
    }

    fn open_single_threaded(store: &Store, storage: Option<Backend>) -> Result<Workshop, WorkshopError> {
        let map = enter()?;
        let recording = match recording::available() {
            Ok(()) => true,
            Err(e) => {
                tracing::info!("steps cannot be recorded (seccomp user notification, Linux 5.14): {e}");
                false
            }
        };
        let launcher = Launcher::start().map_err(WorkshopError::Launcher)?;
        let interrupts = Arc::new(Interrupts::default());
        watch_signals(interrupts.clone()).map_err(WorkshopError::Launcher)?;
        let tag = MapTag::of(&map.fingerprint());
        let resolv_conf = std::fs::read("/etc/resolv.conf").unwrap_or_default();
        let work = Arc::new(store.work_dir()?);
        let setgroups = std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|s| s.trim() == "allow");
        let single = matches!(map.extent, Extent::Single { .. });
        let storage = Storage::open(storage, work.clone(), single)?;
        Ok(Workshop { setgroups, recording, map, tag, work, storage, launcher, resolv_conf, interrupts })
    }

    /// Whether there is one id, so that owners are recorded instead of made.
    pub fn single_id(&self) -> bool {
        matches!(self.map.extent, Extent::Single { .. })
    }

    /// Which ids a step's user may have: any where ids are recorded.
    pub fn covers(&self, uid: u32, gid: u32) -> bool {
        (self.single_id() && self.recording) || self.map.covers(uid, gid)
    }

    /// Whether a step may have supplementary groups.
    pub fn has_groups(&self) -> bool {
        self.setgroups || (self.single_id() && self.recording)
    }

    /// What is recorded of a step in a root file system. `also` is on record of other files that it sees;
    /// `watch` says whether it is likely to make something that has to be recorded.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn recording(
        &self,
        rootfs: &RootFs,
        also: &[(Inode, Attributes)],
        watch: bool,
    ) -> io::Result<Option<Recording>> {
        if !self.recording {
            return Ok(None);
        }
        let (uids, gids) = self.map.counts();
        let scope = if self.single_id() { Scope::Everything } else { Scope::Beyond { uids, gids } };
        let mut known = rootfs.known()?;
        known.extend_from_slice(also);
        let (upper, settled) = (rootfs.renumbering(), rootfs.settled());
        Ok(Some(Recording { scope, known, watch, upper, settled }))
    }

    /// The workshop as unpacking wants it.
    pub fn place<'a>(&'a self, store: &'a Store) -> Place<'a> {
        Place { store, work: &self.work, tag: &self.tag, single: self.single_id() }
    }

    /// The signal that asked this command to stop, if one has.
    pub fn interrupted(&self) -> Option<i32> {
        Some(self.interrupts.signal.load(Ordering::Relaxed)).filter(|s| *s != 0)
    }

    /// Whether no step is to go on: that signal has come, or [`kill_steps`](Self::kill_steps) was called.
    pub fn is_stopped(&self) -> bool {
        self.interrupted().is_some() || self.interrupts.steps().ended
    }

    /// Passes signals on to a step that was started.
    pub fn listen(&self, step: Signaller) -> Listening<'_> {
        let mut steps = self.interrupts.steps();
        if steps.ended {
            let _ = step.send(Signal::SIGKILL as i32);
        }
        let number = steps.next;
        steps.next += 1;
        steps.running.insert(number, step);
        Listening { interrupts: &self.interrupts, number }
    }

    /// Ends all steps that are running, and all that will be.
    pub fn kill_steps(&self) {
        self.interrupts.steps().ended = true;
        self.interrupts.pass_on(Signal::SIGKILL as i32);
    }
}

/// Takes the signals that ask to stop on a thread of their own: the first is passed to the steps, which
/// are killed if they do not end; the second ends this process, and with it everything. So does the first
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
        let began = Instant::now();
        while let Ok(second) = signals.wait() {
            // One who means it once may well say it twice: to this process, and to its group, as timeout(1) does.
            if second == first && began.elapsed() < ECHO {
                continue;
            }
            interrupts.pass_on(Signal::SIGKILL as i32);
            std::process::exit(128 + second as i32);
        }
    })?;
    Ok(())
}

impl Interrupts {
    fn steps(&self) -> MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_step(&self) -> bool {
        !self.steps().running.is_empty()
    }

    fn pass_on(&self, signal: i32) {
        for step in self.steps().running.values() {
            let _ = step.send(signal);
        }
    }
}
