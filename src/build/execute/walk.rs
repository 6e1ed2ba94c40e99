//! One stage, step by step.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::ahead::Ready;
use super::board::{Made, Slot};
use super::cached::Looked;
use super::{Executor, Failure, Opened, StepFailure};
use crate::build::copy::Staged;
use crate::build::images::FoundImage;
use crate::build::stack::{StageEnd, image_end};
use crate::build::{BuildError, StepError};
use crate::image::Digest;
use crate::plan::{Action, Base, CopySource, Origin, Stage, Step};
use crate::progress::{Event, TaskId};

/// How far a stage has come.
pub(super) struct Walk {
    /// In the plan.
    pub(super) position: usize,
    /// Of the stage.
    pub(super) label: String,
    /// What it has become so far.
    pub(super) end: StageEnd,
    begun: bool,
    /// Steps that are done.
    pub(super) next: usize,
    /// What was found out about the next step.
    looked: Option<Looked>,
    /// What was written ahead for a later one.
    pub(super) ready: Option<Ready>,
}

impl Walk {
    /// Nowhere yet.
    pub(super) fn new(position: usize, label: String) -> Walk {
        Walk { position, label, end: StageEnd::default(), begun: false, next: 0, looked: None, ready: None }
    }

    /// What was written ahead for this step.
    pub(super) fn take_ready(&mut self, step: usize) -> Vec<Staged> {
        self.ready.take_if(|ready| ready.step == step).map_or_else(Vec::new, |ready| ready.staged)
    }

    fn take(&mut self, key: &Looked, alone: bool, (layer, time): Made) {
        self.end.lineage = Some(key.key.after(self.end.lineage));
        // What stands alone does not know how new that below is.
        self.end.time = if alone { self.end.time.max(time) } else { time };
        self.end.layers.push(layer);
        self.next += 1;
    }
}

/// A step that this thread carries out, for all that come to it.
struct Claim<'c>(&'c Slot);

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.settle(None);
    }
}

impl Executor<'_, '_> {
    /// Goes on with a stage to its end; without what it takes to carry steps out, as far as can be told by
    /// looking. Says whether it is done.
    pub(super) fn advance(&self, walk: &mut Walk, opened: Option<&Opened>) -> Result<bool, Failure> {
        let stage = &self.plan.stages[walk.position];
        if !walk.begun {
            walk.end = match &stage.base {
                Base::Scratch => StageEnd::default(),
                Base::Image(found) => image_end(found),
                Base::Stage(of) => match self.stage_end(*of, opened)? {
                    Some(end) => end,
                    None => return Ok(false),
                },
            };
            walk.begun = true;
        }
        while walk.next < stage.steps.len() {
            if !self.step(walk, stage, opened)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What another stage has become; waits for it where steps are carried out.
    pub(super) fn stage_end(
        &self,
        stage: usize,
        opened: Option<&Opened>,
    ) -> Result<Option<StageEnd>, Failure> {
        match opened {
            None => Ok(self.board.finished(stage)),
            Some(_) => self.board.wait_for(stage).map(Some),
        }
    }

    fn step(
        &self,
        walk: &mut Walk,
        stage: &Stage<FoundImage>,
        opened: Option<&Opened>,
    ) -> Result<bool, Failure> {
        let step = &stage.steps[walk.next];
        let label = format!("[{} {}/{}]", stage.label, walk.next + 1, stage.steps.len());
        let failed = |source: StepError| BuildError::Step {
            label: label.clone(),
            text: step.text.clone(),
            span: step.span,
            source: Box::new(source),
        };
        self.check_interrupt()?;
        self.board.check()?;
        // What will be run whatever the cache says is looked at when its turn has come.
        if self.options.no_cache && opened.is_none() {
            return Ok(false);
        }
        let mut looked = match walk.looked.take() {
            Some(looked) => looked,
            None => match self.look_at(step, opened).map_err(|e| e.or_step(failed))? {
                Some(looked) => looked,
                None => return Ok(false),
            },
        };
        let alone = stands_alone(step);
        if let Some(made) = self.look_up(&walk.end, looked.key, alone)? {
            self.tell_cached(label, step);
            walk.take(&looked, alone, made);
            return Ok(true);
        }
        let Some(opened) = opened else {
            walk.looked = Some(looked);
            return Ok(false);
        };
        let (permit, waited) = self.board.permit()?;
        self.check_interrupt()?;
        if waited && sees_context(step) {
            // Meanwhile somebody may have worked on it.
            if let Some(again) = self.look_at(step, Some(opened)).map_err(|e| e.or_step(failed))? {
                looked = again;
            }
        }
        let (slot, claim) = self.slot(looked.key.after(walk.end.lineage.filter(|_| !alone)));
        if !claim {
            drop(permit);
            let made = slot.wait()?;
            self.tell_cached(label, step);
            walk.take(&looked, alone, made);
            return Ok(true);
        }
        let claim = Claim(&slot);
        tracing::debug!("{label} is not in the cache");
        let task = self.task();
        let (label_shown, text) = (label.clone(), step.text.clone());
        self.progress.event(Event::Started { task, label: label_shown, text });
        let began = Instant::now();
        let staged = walk.take_ready(walk.next);
        let done = self.with_next_copy(walk, stage, opened, |walk| {
            let made = self.carry_out(walk, step, &mut looked, &staged, task, opened)?;
            self.still_the_same(step, &looked, made, opened)
        });
        let elapsed = began.elapsed();
        match done {
            Ok(made) => {
                self.progress.event(Event::Finished { task, elapsed });
                drop(permit);
                claim.0.settle(Some(made.clone()));
                std::mem::forget(claim);
                walk.take(&looked, alone, made);
                Ok(true)
            }
            Err(e) => {
                // A step that was killed because another has failed, or because of a signal, has nothing to tell.
                self.board.check()?;
                self.check_interrupt()?;
                self.progress.event(Event::Failed { task, elapsed });
                if let Failure::Build(error) = e.or_step(failed) {
                    // Before the next step has leave to begin.
                    self.give_up(error, opened);
                }
                drop(permit);
                Err(Failure::Abandoned)
            }
        }
    }

    /// Looks again at what a step has seen of build contexts. A `COPY` of what has changed meanwhile is nothing;
    /// what a `RUN` has made of it is not to be found again under the key of what it was.
    fn still_the_same(
        &self,
        step: &Step<FoundImage>,
        looked: &Looked,
        (mut layer, time): Made,
        opened: &Opened,
    ) -> Result<Made, StepFailure> {
        if sees_context(step) {
            let again = self.look_at(step, Some(opened))?;
            if again.is_none_or(|again| again.key != looked.key) {
                if matches!(step.action, Action::Copy(_)) {
                    return Err(StepError::ContextChanged.into());
                }
                let text = "files of the build context that the step sees changed while it ran; its layer is \
                            not kept in the cache";
                self.progress.event(Event::Warning { text: text.to_owned() });
                layer.record = None;
            }
        }
        Ok((layer, time))
    }

    fn tell_cached(&self, label: String, step: &Step<FoundImage>) {
        self.progress.event(Event::Cached { task: self.task(), label, text: step.text.clone() });
    }

    pub(super) fn task(&self) -> TaskId {
        TaskId(self.next_task.fetch_add(1, Ordering::Relaxed))
    }

    /// Where the result of a step will be, and whether the caller is the one to carry it out.
    fn slot(&self, lineage: Digest) -> (Arc<Slot>, bool) {
        let mut slots = self.slots.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(slot) = slots.get(&lineage) {
            return (slot.clone(), false);
        }
        let slot = Arc::<Slot>::default();
        slots.insert(lineage, slot.clone());
        (slot, true)
    }
}

/// Whether files of a build context are in a step's key, and can be looked at again.
fn sees_context(step: &Step<FoundImage>) -> bool {
    let context = |origin: &&Origin<FoundImage>| matches!(origin, Origin::Context(_));
    match &step.action {
        Action::Copy(copy) => {
            let local = |s: &CopySource| matches!(s, CopySource::Path(_) | CopySource::Inline { .. });
            context(&&copy.from) && copy.has_paths() && copy.sources.iter().all(local)
        }
        Action::Run(_) => step.origins().iter().any(context),
        Action::Workdir { .. } => false,
    }
}

/// Whether a step's layer depends on nothing below it: `COPY --link`. With `--chmod` it does not stand
/// alone in BuildKit either.
pub(super) fn stands_alone(step: &Step<FoundImage>) -> bool {
    matches!(&step.action, Action::Copy(copy) if copy.link && copy.chmod.is_none())
}
