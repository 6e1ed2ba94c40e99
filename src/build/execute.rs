//! Walks the plan.
//!
//! First every stage is walked as far as the cache goes, by the plain user in a single thread: a build
//! that is all in the cache ends there. Then the workshop is opened, and the stages that are left go on
//! side by side, each in a thread of its own, with as many steps at a time as `--jobs` says. A stage waits
//! for those that it starts from at its beginning, and for those that it copies or mounts from when it
//! comes to that step.
//!
//! | file | does |
//! |---|---|
//! | `walk` | one stage, step by step |
//! | `board` | what stages know of one another: which are done, whether one has failed, who may work |
//! | `cached` | keys, and what the cache has under them |
//! | `ahead` | what can be done for a `COPY` before its turn has come: hashing, writing, compressing |
//! | `leisure` | what can wait for everything else |
//! | `origins` | what steps copy and mount from |
//! | `step` | carries one step out |
//! | `finish` | keeps what was made, and puts the image together |

mod ahead;
mod board;
mod cached;
mod finish;
mod leisure;
mod origins;
mod step;
mod walk;

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::assemble::BuiltImage;
use super::images::{Finder, FoundImage};
use super::mounts::secret;
use super::packer::Packer;
use super::sources::Sources;
use super::stack::StageEnd;
use super::workshop::{Workshop, WorkshopError};
use super::{BuildError, Options, StepError};
use crate::image::Digest;
use crate::plan::{Action, Base, MountKind, Plan};
use crate::progress::Progress;
use crate::store::Store;
use board::{Board, Slot};
use cached::Memo;
use leisure::Leisure;
use walk::Walk;

/// Builds the plan's targets and puts them into the store: one image, or for several platforms an index.
///
/// # Errors
/// When a step fails, a source is missing, or the environment cannot do it. Steps that were finished
/// before are in the cache all the same.
pub fn build(
    store: &Arc<Store>,
    plan: &Plan<FoundImage>,
    finder: &mut Finder<'_>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<BuiltImage, BuildError> {
    let executor = Executor {
        store,
        plan,
        finder: Mutex::new(finder),
        options,
        progress,
        board: Board::new(plan.stages.len(), options.jobs),
        sources: Sources::new(store, &options.contexts),
        slots: Mutex::default(),
        memos: Mutex::default(),
        unpacking: Mutex::default(),
        leisure: Arc::default(),
        next_task: AtomicUsize::new(1),
        opened: OnceLock::new(),
    };
    let result = executor.stages();
    // Also after a failure: what is done is done.
    let settled = executor.settle();
    result?;
    settled?;
    executor.finish()
}

struct Executor<'a, 'f> {
    store: &'a Arc<Store>,
    plan: &'a Plan<FoundImage>,
    finder: Mutex<&'a mut Finder<'f>>,
    options: &'a Options,
    progress: &'a dyn Progress,
    board: Board,
    sources: Sources<'a>,
    /// The steps that this command carries out, by lineage: where two stages come to the same step, one
    /// carries it out for both.
    slots: Mutex<HashMap<Digest, Arc<Slot>>>,
    /// Contents of stages that were made just now, to be remembered when their layers are packed.
    memos: Mutex<Vec<Memo>>,
    /// Held while layers are unpacked: that is done by several threads anyway, and once for each.
    unpacking: Mutex<()>,
    leisure: Arc<Leisure>,
    next_task: AtomicUsize,
    // Last: its work directory goes after all that lies in it.
    opened: OnceLock<Opened>,
}

/// What it takes to carry steps out.
struct Opened {
    /// By id. They are read before the user namespace is entered: inside it a file that is readable
    /// through one of the user's further groups no longer is.
    secrets: BTreeMap<String, Vec<u8>>,
    packer: Packer,
    workshop: Workshop,
}

impl<'a, 'f> Executor<'a, 'f> {
    fn stages(&self) -> Result<(), BuildError> {
        let mut left = Vec::new();
        for position in 0..self.plan.stages.len() {
            let mut walk = Walk::new(position, self.plan.stages[position].label.clone());
            match self.advance(&mut walk, None) {
                Ok(true) => self.board.publish(position, walk.end, true),
                Ok(false) => left.push(walk),
                Err(Failure::Build(e)) => return Err(e),
                Err(Failure::Abandoned) => return self.board.outcome(),
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        let opened = self.open()?;
        self.board.begin(left.len());
        if left.len() == 1 {
            left.into_iter().for_each(|walk| self.walk(walk, opened));
        } else {
            std::thread::scope(|scope| {
                for walk in left {
                    let thread = std::thread::Builder::new().name(walk.label.clone());
                    let (position, started) =
                        (walk.position, thread.spawn_scoped(scope, || self.walk(walk, opened)));
                    if let Err(e) = started {
                        self.give_up(BuildError::Workshop(WorkshopError::Thread(e)), opened);
                        self.board.publish(position, StageEnd::default(), false);
                        self.board.absent();
                    }
                }
            });
        }
        self.board.outcome()
    }

    /// One stage's thread.
    fn walk(&self, mut walk: Walk, opened: &Opened) {
        let advanced = catch_unwind(AssertUnwindSafe(|| self.advance(&mut walk, Some(opened))));
        let done = match advanced {
            Ok(Ok(_)) => true,
            Ok(Err(Failure::Abandoned)) => false,
            Ok(Err(Failure::Build(e))) => {
                self.give_up(e, opened);
                false
            }
            Err(panic) => {
                // The others would wait for this stage.
                self.give_up(BuildError::Panic, opened);
                self.board.absent();
                resume_unwind(panic);
            }
        };
        self.board.publish(walk.position, walk.end, done);
        // What serves a FUSE mount ends with the thread that has started it, and others may read from it:
        // so all wait for the last, who unmounts.
        self.board.leave(|| self.sources.unmount());
    }

    /// Ends the build because of a failure; of several the first is told.
    fn give_up(&self, error: BuildError, opened: &Opened) {
        self.board.fail(error);
        opened.workshop.kill_steps();
    }

    fn open(&self) -> Result<&Opened, BuildError> {
        let secrets = self.read_secrets()?;
        let workshop = Workshop::open(self.store, self.options.storage, self.progress)?;
        self.sweep()?;
        self.store.watch_layers().map_err(WorkshopError::Thread)?;
        let packer = Packer::start(self.store, &workshop.work, self.options.compression)
            .map_err(WorkshopError::Thread)?;
        Ok(self.opened.get_or_init(|| Opened { secrets, packer, workshop }))
    }

    /// Removes what earlier commands have left: here, where subordinate ids are ours. What is much goes on a
    /// thread that nobody waits for.
    fn sweep(&self) -> Result<(), BuildError> {
        const AT_ONCE: u64 = 200;
        if !self.store.sweep(AT_ONCE)? {
            leisure::sweep(self.store.clone(), self.leisure.clone()).map_err(WorkshopError::Thread)?;
        }
        Ok(())
    }

    fn finder(&self) -> MutexGuard<'_, &'a mut Finder<'f>> {
        self.finder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_interrupt(&self) -> Result<(), BuildError> {
        match self.opened.get().and_then(|opened| opened.workshop.interrupted()) {
            Some(signal) => Err(BuildError::Interrupted { signal }),
            None => Ok(()),
        }
    }

    fn read_secrets(&self) -> Result<BTreeMap<String, Vec<u8>>, BuildError> {
        let mut secrets = BTreeMap::new();
        for step in self.plan.stages.iter().flat_map(|stage| &stage.steps) {
            let Action::Run(run) = &step.action else { continue };
            for mount in &run.mounts {
                let MountKind::Secret { id, .. } = &mount.kind else { continue };
                let read = secret(&self.options.secrets, id, false);
                let read = read.map_err(|e| BuildError::Step {
                    label: String::new(),
                    text: step.text.clone(),
                    span: step.span,
                    source: Box::new(e.into()),
                })?;
                if let Some(content) = read {
                    secrets.insert(id.clone(), content);
                }
            }
        }
        Ok(secrets)
    }
}

/// The image that a stage starts from, over however many other stages.
fn base_image(plan: &Plan<FoundImage>, position: usize) -> Option<&FoundImage> {
    let mut base = &plan.stages[position].base;
    while let Base::Stage(of) = base {
        base = &plan.stages[*of].base;
    }
    match base {
        Base::Image(found) => Some(found),
        _ => None,
    }
}

/// Why a stage does not go on.
enum Failure {
    /// Something failed.
    Build(BuildError),
    /// Something else did, and was told.
    Abandoned,
}

impl From<BuildError> for Failure {
    fn from(e: BuildError) -> Self {
        Failure::Build(e)
    }
}

/// Why a step was not carried out: its own failure, or one of [`Failure`].
enum StepFailure {
    Step(StepError),
    Other(Failure),
}

impl StepFailure {
    fn or_step(self, step: impl FnOnce(StepError) -> BuildError) -> Failure {
        match self {
            StepFailure::Step(e) => Failure::Build(step(e)),
            StepFailure::Other(e) => e,
        }
    }
}

impl From<StepError> for StepFailure {
    fn from(e: StepError) -> Self {
        StepFailure::Step(e)
    }
}

impl From<Failure> for StepFailure {
    fn from(e: Failure) -> Self {
        StepFailure::Other(e)
    }
}

impl From<BuildError> for StepFailure {
    fn from(e: BuildError) -> Self {
        StepFailure::Other(Failure::Build(e))
    }
}
