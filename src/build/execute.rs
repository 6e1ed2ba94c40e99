//! Walks the plan.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::assemble::{Built, ImageLayer, assemble};
use super::copy::{Chmod, CopyOptions, copy_into};
use super::images::{Finder, FoundImage};
use super::packer::{Packer, Promise};
use super::stack::{Fresh, Layer, StageEnd, StepRecord, image_end};
use super::workdir::Ownership;
use super::workshop::Workshop;
use super::{BuildError, Options, StepError, archive, users, workdir};
use crate::context::{
    DirectoryContext, IgnoreRules, SelectOptions, Selection, SourceTree, StatCache, select,
};
use crate::image::{ChainId, DiffId, Digest};
use crate::plan::key::{self, Description, InstructionKey};
use crate::plan::{Action, Base, CopyFrom, CopyStep, Plan, Stage, Step};
use crate::progress::{Event, Progress, TaskId};
use crate::rootfs::overlay::{Overlay, ReadOnly};
use crate::rootfs::pack::{PackedLayer, recompress};
use crate::rootfs::unpack::unpack;
use crate::rootfs::{Clamp, LayerDir};
use crate::store::Store;

/// Builds the plan's target and puts the image into the store.
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
) -> Result<Built, BuildError> {
    let stages = plan.stages.len();
    let mut executor = Executor {
        store,
        plan,
        finder,
        options,
        progress,
        workshop: None,
        packer: None,
        context: None,
        stat_cache: None,
        sources: HashMap::new(),
        ends: vec![StageEnd::default(); stages],
        next_task: 1,
    };
    let result = executor.stages();
    // Also after a failure: what is done is done.
    let settled = executor.settle_all();
    result?;
    settled?;
    executor.finish()
}

struct Executor<'a, 'f> {
    store: &'a Arc<Store>,
    plan: &'a Plan<FoundImage>,
    finder: &'a mut Finder<'f>,
    options: &'a Options,
    progress: &'a dyn Progress,
    packer: Option<Packer>,
    context: Option<DirectoryContext>,
    stat_cache: Option<StatCache>,
    /// Stages and images that are mounted to copy from.
    sources: HashMap<Option<ChainId>, ReadOnly>,
    ends: Vec<StageEnd>,
    next_task: usize,
    // Last: its work directory goes after all that lies in it.
    workshop: Option<Workshop>,
}

impl Executor<'_, '_> {
    fn stages(&mut self) -> Result<(), BuildError> {
        for position in 0..self.plan.stages.len() {
            self.stage(position)?;
        }
        Ok(())
    }

    fn stage(&mut self, position: usize) -> Result<(), BuildError> {
        let stage = &self.plan.stages[position];
        self.ends[position] = match &stage.base {
            Base::Scratch => StageEnd::default(),
            Base::Stage(of) => self.ends[*of].clone(),
            Base::Image(found) => image_end(found),
        };
        for number in 0..stage.steps.len() {
            self.step(position, stage, number)?;
        }
        Ok(())
    }

    fn step(&mut self, position: usize, stage: &Stage<FoundImage>, number: usize) -> Result<(), BuildError> {
        let step = &stage.steps[number];
        let label = format!("[{} {}/{}]", stage.label, number + 1, stage.steps.len());
        let task = TaskId(self.next_task);
        self.next_task += 1;
        let failed = |source: StepError| BuildError::Step {
            label: label.clone(),
            text: step.text.clone(),
            span: step.span,
            source: Box::new(source),
        };
        self.check_interrupt()?;
        let selection = match &step.action {
            Action::Copy(copy) if matches!(copy.from, CopyFrom::Context) => {
                Some(self.select_from_context(copy).map_err(failed)?)
            }
            _ => None,
        };
        let key = self.key(step, selection.as_ref()).map_err(|e| e.or_step(failed))?;
        if let Some(record) = self.look_up(position, key)? {
            let (label, text) = (label.clone(), step.text.clone());
            self.progress.event(Event::Cached { task, label, text });
            let layer = Layer { packed: Promise::kept(record.layer), fresh: None, base: false, record: None };
            let end = &mut self.ends[position];
            end.layers.push(layer);
            end.time = end.time.max(record.time);
            return Ok(());
        }
        self.open_workshop()?;
        let (label_shown, text) = (label.clone(), step.text.clone());
        self.progress.event(Event::Started { task, label: label_shown, text });
        let began = Instant::now();
        let done = self.carry_out(position, step, selection, task, key);
        let elapsed = began.elapsed();
        match done {
            Ok(()) => {
                self.progress.event(Event::Finished { task, elapsed });
                Ok(())
            }
            Err(e) => {
                self.progress.event(Event::Failed { task, elapsed });
                self.check_interrupt()?;
                Err(e.or_step(failed))
            }
        }
    }

    fn check_interrupt(&self) -> Result<(), BuildError> {
        match self.workshop.as_ref().and_then(Workshop::interrupted) {
            Some(signal) => Err(BuildError::Interrupted { signal }),
            None => Ok(()),
        }
    }

    // ---- The cache.

    /// What a step's times depend on besides its inputs.
    fn times(&self) -> String {
        self.options.epoch.map_or_else(|| "inputs".to_owned(), |epoch| format!("epoch {epoch}"))
    }

    fn key(
        &mut self,
        step: &Step<FoundImage>,
        selection: Option<&Selection>,
    ) -> Result<InstructionKey, Failure> {
        let times = self.times();
        Ok(match &step.action {
            Action::Run(run) => key::run(run, &times),
            Action::Workdir { path, user } => key::workdir(path, user, &times),
            Action::Copy(copy) => {
                // ADD does with archives what COPY does not.
                let mut description = Description::of(if copy.add { "add" } else { "copy" });
                description
                    .text(&copy.dest)
                    .option(copy.chown.as_ref().map(|(v, _)| v.as_str()))
                    .option(copy.chmod.as_ref().map(|(v, _)| v.as_str()))
                    .text(&times);
                match selection {
                    Some(selection) => {
                        let digest = self.content_digest(selection)?;
                        description.text("content").text(&digest.to_string());
                    }
                    None => {
                        let chain = self.source_chain(&copy.from)?;
                        let sources: Vec<&str> = copy.sources.iter().map(|(s, _)| s.as_str()).collect();
                        let chain = chain.map(|c| c.to_string());
                        description.text("layers").option(chain.as_deref()).list(&sources);
                    }
                }
                description.key()
            }
        })
    }

    fn content_digest(&mut self, selection: &Selection) -> Result<Digest, StepError> {
        if self.stat_cache.is_none() {
            self.stat_cache = Some(StatCache::load(self.store, &self.options.context));
        }
        let Some(cache) = &mut self.stat_cache else { return Ok(Digest::of(b"")) };
        Ok(selection.digest(cache)?)
    }

    /// The layer that an earlier build has made of the same step, if its blob is still there.
    fn look_up(&mut self, position: usize, key: InstructionKey) -> Result<Option<StepRecord>, BuildError> {
        // An instruction that was never run on anything has no need to wait for the layers below.
        if self.options.no_cache || !self.store.cache_path(&key.directory()).is_dir() {
            return Ok(None);
        }
        let chain = self.chain(position)?;
        let record: Option<StepRecord> = self.store.cached(&key.on(chain).record());
        let usable = |r: &StepRecord| self.store.blob_size(&r.layer.digest) == Some(r.layer.size);
        Ok(record.filter(usable))
    }

    /// The chain ID of a stage's layers so far; waits for those that are being packed.
    fn chain(&self, position: usize) -> Result<Option<ChainId>, BuildError> {
        let layers = &self.ends[position].layers;
        let diff_ids: Vec<DiffId> =
            layers.iter().map(|l| Ok(l.packed.wait()?.diff_id)).collect::<Result<_, BuildError>>()?;
        Ok(ChainId::of(&diff_ids))
    }

    // ---- Sources of COPY.

    fn select_from_context(&mut self, copy: &CopyStep<FoundImage>) -> Result<Selection, StepError> {
        if self.context.is_none() {
            let rules = IgnoreRules::read(&self.options.context, self.options.containerfile.as_deref())?;
            self.context = Some(DirectoryContext::open(&self.options.context, rules)?);
        }
        let Some(context) = &self.context else {
            return Err(StepError::Chmod("the build context is not open".to_owned()));
        };
        select_sources(context.tree(), copy)
    }

    /// The chain ID of the layers that a `COPY --from` copies from.
    fn source_chain(&self, from: &CopyFrom<FoundImage>) -> Result<Option<ChainId>, BuildError> {
        match from {
            CopyFrom::Context => Ok(None),
            CopyFrom::Stage(position) => self.chain(*position),
            CopyFrom::Image(found) => Ok(ChainId::of(&found.image.config.rootfs.diff_ids)),
        }
    }

    fn select_from_layers(&mut self, copy: &CopyStep<FoundImage>) -> Result<(Selection, i64), Failure> {
        let end = match &copy.from {
            CopyFrom::Stage(position) => self.ends[*position].clone(),
            CopyFrom::Image(found) => image_end(found),
            CopyFrom::Context => StageEnd::default(),
        };
        let chain = self.source_chain(&copy.from)?;
        if !self.sources.contains_key(&chain) {
            let dirs = self.layer_dirs(&end)?;
            let workshop = self.opened()?;
            let mounted = ReadOnly::mount(&workshop.work, &dirs).map_err(StepError::Rootfs)?;
            self.sources.insert(chain, mounted);
        }
        let io_error = |source| StepError::Io { what: "cannot open the stage to copy from", source };
        let Some(mounted) = self.sources.get(&chain) else {
            return Err(io_error(std::io::ErrorKind::NotFound.into()).into());
        };
        let root = mounted.root().map_err(io_error)?.try_clone_to_owned().map_err(io_error)?;
        let name = match &copy.from {
            CopyFrom::Stage(position) => format!("stage {}", self.plan.stages[*position].label),
            _ => "the image".to_owned(),
        };
        let tree = SourceTree::image(root, name);
        Ok((select_sources(&tree, copy)?, end.time))
    }

    // ---- Doing it.

    fn open_workshop(&mut self) -> Result<(), BuildError> {
        if self.workshop.is_some() {
            return Ok(());
        }
        // While there is still a network to wait for and no namespace yet. Threads end with it.
        for stage in &self.plan.stages {
            if let Base::Image(found) = &stage.base {
                self.finder.fetch(found)?;
            }
            for step in &stage.steps {
                if let Action::Copy(CopyStep { from: CopyFrom::Image(found), .. }) = &step.action {
                    self.finder.fetch(found)?;
                }
            }
        }
        let workshop = Workshop::open(self.store, self.progress)?;
        // Only here, where subordinate ids are ours.
        self.store.sweep()?;
        let packer = Packer::start(self.store.clone(), workshop.work.clone(), self.options.compression)
            .map_err(super::workshop::WorkshopError::Launcher)?;
        self.packer = Some(packer);
        self.workshop = Some(workshop);
        Ok(())
    }

    fn opened(&self) -> Result<&Workshop, StepError> {
        let closed = || std::io::Error::from(std::io::ErrorKind::NotConnected);
        self.workshop
            .as_ref()
            .ok_or_else(|| StepError::Io { what: "the workshop is closed", source: closed() })
    }

    /// The directories of a stage's layers, ready to be stacked.
    fn layer_dirs(&self, end: &StageEnd) -> Result<Vec<LayerDir>, Failure> {
        let workshop = self.opened()?;
        let place = workshop.place(self.store);
        // Layers from the store come first; those that this command has just made follow, unless one
        // from the cache lies above them.
        let first_fresh = end.layers.iter().position(|l| l.fresh.is_some()).unwrap_or(end.layers.len());
        let mixed = end.layers[first_fresh..].iter().any(|l| l.fresh.is_none());
        let from_store = if mixed { end.layers.len() } else { first_fresh };
        let mut stored = Vec::new();
        for layer in &end.layers[..from_store] {
            let packed = layer.packed.wait().map_err(BuildError::Pack)?;
            if let Some(fresh) = &layer.fresh {
                Fresh::keep(fresh, place, packed.diff_id).map_err(BuildError::Store)?;
            }
            stored.push((packed.diff_id, packed.digest));
        }
        let mut dirs = unpack(place, &stored).map_err(StepError::Unpack)?;
        dirs.extend(end.layers[from_store..].iter().filter_map(|l| l.fresh.as_deref().map(Fresh::dir)));
        Ok(dirs)
    }

    fn carry_out(
        &mut self,
        position: usize,
        step: &Step<FoundImage>,
        selection: Option<Selection>,
        task: TaskId,
        key: InstructionKey,
    ) -> Result<(), Failure> {
        let dirs = self.layer_dirs(&self.ends[position])?;
        let (selection, source_time) = match (&step.action, selection) {
            (Action::Copy(copy), None) => {
                let (selection, time) = self.select_from_layers(copy)?;
                (Some(selection), time)
            }
            (_, selection) => {
                let newest = selection.as_ref().and_then(Selection::newest_mtime).unwrap_or(i64::MIN);
                (selection, newest)
            }
        };
        let time = self.ends[position].time.max(source_time);
        let from = now_coarse();
        let workshop = self.opened()?;
        let records = workshop.records();
        let mut rootfs = Overlay::mount(&workshop.work, &dirs, records).map_err(StepError::Rootfs)?;
        let open_root = |source| StepError::Io { what: "cannot open the root file system", source };
        let root = rootfs.root().map_err(open_root)?.try_clone_to_owned().map_err(open_root)?;
        match &step.action {
            Action::Run(run) if run.argv.is_empty() => {}
            Action::Run(run) => {
                super::run::run(workshop, &rootfs, run, task, self.progress).map_err(StepError::Run)?
            }
            Action::Workdir { path, user } => {
                let who = users::identity(root.as_fd(), user).map_err(StepError::User)?;
                let mut ownership = Ownership { records: records.then_some(&mut rootfs.owners) };
                workdir::make(root.as_fd(), path, (who.uid, who.gid), &mut ownership)
                    .map_err(|source| StepError::Workdir { path: path.clone(), source })?;
            }
            Action::Copy(copy) => {
                let Some(selection) = selection else { return Ok(()) };
                if copy.add {
                    refuse_archives(&selection)?;
                }
                let chown = match &copy.chown {
                    Some((who, _)) => Some(users::owner(root.as_fd(), who).map_err(StepError::User)?),
                    None => None,
                };
                let chmod = match &copy.chmod {
                    Some((mode, _)) => Some(Chmod::parse(mode).map_err(|e| StepError::Chmod(e.to_string()))?),
                    None => None,
                };
                let mut ownership = Ownership { records: records.then_some(&mut rootfs.owners) };
                let options = CopyOptions { chown, chmod };
                copy_into(root.as_fd(), copy.dest.as_bytes(), &selection, &options, &mut ownership)
                    .map_err(StepError::Copy)?;
            }
        }
        drop(root);
        if workshop.interrupted().is_some() {
            // Checked by the caller; what was made under an interrupt is not worth keeping.
            return Err(StepError::Io {
                what: "interrupted",
                source: std::io::ErrorKind::Interrupted.into(),
            }
            .into());
        }
        let clamp = match self.options.epoch {
            Some(epoch) => Clamp::Newest(epoch),
            // What that clock says is rounded down, so the step's last second begins with it.
            None => Clamp::Between { from, until: now_coarse() + 1, to: time },
        };
        let frozen = rootfs.freeze(clamp).map_err(StepError::Rootfs)?;
        let Some(packer) = &self.packer else {
            return Err(self.opened().err().map_or_else(
                || Failure::Build(BuildError::Assemble("the packer is gone".to_owned())),
                Failure::Step,
            ));
        };
        let packed = packer.pack(frozen.layer.path.clone(), frozen.entries);
        let end = &mut self.ends[position];
        end.time = time;
        let fresh = Some(Fresh::new(frozen.layer));
        end.layers.push(Layer { packed, fresh, base: false, record: Some((key, time)) });
        Ok(())
    }

    /// Waits for all layers, moves them to where unpacked layers lie, and writes their records.
    fn settle_all(&mut self) -> Result<(), BuildError> {
        // Nothing may have them mounted by a path that is about to change.
        self.sources.clear();
        if let Some(mut cache) = self.stat_cache.take() {
            cache.save(self.store)?;
        }
        let Some(workshop) = &self.workshop else { return Ok(()) };
        let place = workshop.place(self.store);
        for end in &mut self.ends {
            let mut diff_ids = Vec::new();
            for layer in &mut end.layers {
                let packed = layer.packed.wait()?;
                if let Some(fresh) = &layer.fresh {
                    Fresh::keep(fresh, place, packed.diff_id)?;
                }
                if let Some((key, time)) = layer.record.take() {
                    let record = StepRecord { layer: packed.clone(), time };
                    self.store.remember(&key.on(ChainId::of(&diff_ids)).record(), &record)?;
                }
                diff_ids.push(packed.diff_id);
            }
        }
        Ok(())
    }

    /// Puts the image together.
    fn finish(&mut self) -> Result<Built, BuildError> {
        let stage = &self.plan.stages[self.plan.target];
        let mut base = stage;
        while let Base::Stage(of) = &base.base {
            base = &self.plan.stages[*of];
        }
        if let Base::Image(found) = &base.base {
            self.finder.fetch(found)?;
        }
        let mut layers = Vec::new();
        for layer in &self.ends[self.plan.target].layers {
            let mut packed = layer.packed.wait()?;
            if !layer.base && packed.compression != self.options.compression.to_string() {
                packed = self.converted(&packed)?;
            }
            layers.push(ImageLayer {
                diff_id: packed.diff_id,
                digest: packed.digest,
                size: packed.size,
                media_type: packed.media_type,
            });
        }
        let fresh = self.options.no_cache;
        assemble(self.store, stage, layers, self.options.epoch, fresh)
    }

    /// A cached layer in the compression asked for.
    fn converted(&self, packed: &PackedLayer) -> Result<PackedLayer, BuildError> {
        let compression = self.options.compression;
        let record = format!("layers/{}/{compression}", packed.diff_id.0.hex());
        if let Some(known) = self.store.cached::<PackedLayer>(&record)
            && self.store.blob_size(&known.digest) == Some(known.size)
        {
            return Ok(known);
        }
        let work = self.store.work_dir()?;
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let converted = recompress(self.store, &work, packed, compression, workers)?;
        self.store.remember(&record, &converted)?;
        Ok(converted)
    }
}

/// A failure of a step, or of the whole build.
enum Failure {
    Step(StepError),
    Build(BuildError),
}

impl Failure {
    fn or_step(self, step: impl FnOnce(StepError) -> BuildError) -> BuildError {
        match self {
            Failure::Step(e) => step(e),
            Failure::Build(e) => e,
        }
    }
}

impl From<StepError> for Failure {
    fn from(e: StepError) -> Self {
        Failure::Step(e)
    }
}

impl From<BuildError> for Failure {
    fn from(e: BuildError) -> Self {
        Failure::Build(e)
    }
}

fn select_sources(tree: &SourceTree, copy: &CopyStep<FoundImage>) -> Result<Selection, StepError> {
    let sources: Vec<&str> = copy.sources.iter().map(|(s, _)| s.as_str()).collect();
    Ok(select(tree, &sources, copy.dest.as_bytes(), &SelectOptions::default())?)
}

/// `ADD` extracts what is an archive; copying it as a file instead would be another image.
fn refuse_archives(selection: &Selection) -> Result<(), StepError> {
    let io_error = |source| StepError::Io { what: "cannot read what is to be added", source };
    match archive::first(selection).map_err(io_error)? {
        Some(source_path) => Err(StepError::Archive { source_path }),
        None => Ok(()),
    }
}

/// Now, as file systems tell it: inode times come from a clock that is up to a tick behind.
fn now_coarse() -> i64 {
    let tick = Duration::from_millis(10);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(tick).as_secs() as i64
}
