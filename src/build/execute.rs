//! Walks the plan: `cached` looks steps up, `origins` finds what they copy and mount from.

mod cached;
mod origins;

use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::arrivals::{Unpacking, confirm};
use super::assemble::{Built, BuiltImage, ImageLayer, assemble, join};
use super::copy::{CopyOptions, CopyReport, copy_into};
use super::images::{Finder, FoundImage};
use super::packer::Packer;
use super::run_mounts::{Maker, Prepared};
use super::sources::{Part, Sources};
use super::stack::{Fresh, Layer, Record, StageEnd, StepRecord, image_end};
use super::workdir::Ownership;
use super::workshop::Workshop;
use super::{BuildError, Options, StepError, users, workdir};
use crate::context::Selection;
use crate::dockerfile::mode::Chmod;
use crate::image::ChainId;
use crate::layer::write::check;
use crate::plan::key::InstructionKey;
use crate::plan::{Action, Base, CopyStep, Plan, Stage, Step};
use crate::progress::{Event, Progress, TaskId};
use crate::rootfs::LayerDir;
use crate::rootfs::pack::{PackedLayer, recompress};
use crate::rootfs::unpack::unpack;
use crate::store::Store;

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
    let stages = plan.stages.len();
    let mut executor = Executor {
        store,
        plan,
        finder,
        options,
        progress,
        workshop: None,
        packer: None,
        sources: Sources::new(store, &options.contexts),
        done: HashMap::new(),
        secrets: BTreeMap::new(),
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
    sources: Sources<'a>,
    /// Steps that this command has run: their records are written when it ends.
    done: HashMap<String, Layer>,
    /// By id.
    secrets: BTreeMap<String, Vec<u8>>,
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
        let parts = match &step.action {
            Action::Copy(copy) => self.parts_beforehand(copy).map_err(failed)?,
            _ => None,
        };
        let key = self.key(step, parts.as_deref()).map_err(|e| e.or_step(failed))?;
        let alone = stands_alone(step);
        if let Some((layer, time)) = self.look_up(position, key, alone)? {
            let (label, text) = (label.clone(), step.text.clone());
            self.progress.event(Event::Cached { task, label, text });
            let end = &mut self.ends[position];
            end.layers.push(layer);
            end.time = end.time.max(time);
            return Ok(());
        }
        tracing::debug!("{label} is not in the cache");
        self.open_workshop()?;
        let (label_shown, text) = (label.clone(), step.text.clone());
        self.progress.event(Event::Started { task, label: label_shown, text });
        let began = Instant::now();
        let done = self.carry_out(position, step, parts, task, key);
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

    // ---- Doing it.

    fn open_workshop(&mut self) -> Result<(), BuildError> {
        if self.workshop.is_some() {
            return Ok(());
        }
        self.read_secrets()?;
        let workshop = Workshop::open(self.store, self.options.storage, self.progress)?;
        // Only here, where subordinate ids are ours.
        self.store.sweep()?;
        let packer = Packer::start(self.store.clone(), workshop.work.clone(), self.options.compression)
            .map_err(super::workshop::WorkshopError::Launcher)?;
        self.packer = Some(packer);
        self.workshop = Some(workshop);
        Ok(())
    }

    fn opened(&self) -> Result<&Workshop, StepError> {
        self.workshop.as_ref().ok_or_else(closed)
    }

    /// Brings an image's layers here, and unpacks those that come from a registry on the way: one is
    /// downloaded while another is decompressed and a third is written to disk.
    fn fetch(&mut self, found: &FoundImage) -> Result<(), Failure> {
        let Some(workshop) = &self.workshop else { return Err(closed().into()) };
        let place = workshop.place(self.store);
        let done = Mutex::default();
        let fetched =
            std::thread::scope(|scope| self.finder.fetch(found, Some(&Unpacking::new(scope, place, &done))));
        fetched.map_err(BuildError::from)?;
        confirm(place, &done).map_err(BuildError::Store)?;
        Ok(())
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
        parts: Option<Vec<Part>>,
        task: TaskId,
        key: InstructionKey,
    ) -> Result<(), Failure> {
        let alone = stands_alone(step);
        let dirs = match alone {
            true => Vec::new(),
            false => {
                if let Some(found) = base_image(self.plan, position) {
                    self.fetch(found)?;
                }
                self.layer_dirs(&self.ends[position])?
            }
        };
        let (parts, source_time) = match (&step.action, parts) {
            (Action::Copy(copy), None) => self.parts_from_layers(copy)?,
            (_, parts) => {
                let parts = parts.unwrap_or_default();
                let newest = parts.iter().filter_map(|p| p.selection.newest_mtime()).max();
                (parts, newest.unwrap_or(i64::MIN))
            }
        };
        let below = if alone { 0 } else { self.ends[position].time };
        let time = below.max(source_time);
        let resolved = self.resolve_mounts(step)?;
        let workshop = self.opened()?;
        let mounts = match &step.action {
            Action::Run(run) => {
                let (store, secrets, progress) = (self.store, &self.secrets, self.progress);
                Maker { workshop, store, secrets, progress }.make(&run.mounts, resolved)?
            }
            _ => Prepared::default(),
        };
        let from = now_coarse();
        let single = workshop.single_id();
        let mut rootfs = workshop.storage.mount(&dirs).map_err(StepError::Rootfs)?;
        let open_root = |source| StepError::Io { what: "cannot open the root file system", source };
        let root = rootfs.root().try_clone_to_owned().map_err(open_root)?;
        // What names could be looked up in.
        let known = (!dirs.is_empty()).then(|| root.as_fd());
        let progress = self.progress;
        let mut unknown = |e: users::UserError| {
            progress.event(Event::Warning { text: format!("{e}; root owns what is made") });
        };
        match &step.action {
            Action::Run(run) => {
                let mut ownership = Ownership { records: &mut rootfs.records, single };
                super::run::prepare_cwd(root.as_fd(), run, &mut ownership).map_err(StepError::Run)?;
                let result = super::run::run(workshop, &rootfs, run, &mounts, task, self.progress);
                if let Some(inodes) = result.map_err(StepError::Run)? {
                    rootfs.set_inodes(inodes);
                }
            }
            Action::Workdir { path, user } => {
                let who = users::owner(known, user, &mut unknown).map_err(StepError::User)?;
                let mut ownership = Ownership { records: &mut rootfs.records, single };
                workdir::make(root.as_fd(), path, who, &mut ownership)
                    .map_err(|source| StepError::Workdir { path: path.clone(), source })?;
            }
            Action::Copy(copy) => {
                let chown = match &copy.chown {
                    Some(who) => Some(users::owner(known, who, &mut unknown).map_err(StepError::User)?),
                    None => None,
                };
                let chmod = match &copy.chmod {
                    Some(mode) => Some(Chmod::parse(mode).map_err(|e| StepError::Chmod(e.to_string()))?),
                    None => None,
                };
                let mut ownership = Ownership { records: &mut rootfs.records, single };
                for Part { selection, unpack } in &parts {
                    let options = CopyOptions { chown, chmod: chmod.clone(), unpack: *unpack };
                    let dest = copy.dest.as_bytes();
                    let report = copy_into(root.as_fd(), dest, selection, &options, &mut ownership)
                        .map_err(StepError::Copy)?;
                    notes(copy, selection, &report, self.progress);
                }
            }
        }
        drop(root);
        drop(mounts);
        if workshop.interrupted().is_some() {
            // Checked by the caller; what was made under an interrupt is not worth keeping.
            return Err(StepError::Io {
                what: "interrupted",
                source: std::io::ErrorKind::Interrupted.into(),
            }
            .into());
        }
        // What that clock says is rounded down, so the step's last second begins with it.
        let clamp = self.options.times.clamp(from, now_coarse() + 1, time);
        let frozen = rootfs.freeze(clamp).map_err(StepError::Rootfs)?;
        frozen.entries.iter().try_for_each(check).map_err(StepError::Layer)?;
        let packer = self.packer.as_ref().ok_or_else(closed)?;
        let packed = packer.pack(frozen.layer.path.clone(), frozen.entries);
        let fresh = Some(Fresh::new(frozen.layer));
        let layer = Layer { packed, fresh, base: false, record: Some(Record { key, time, alone }) };
        if self.plan.targets.len() > 1 {
            let chain = if alone { None } else { self.chain(position)? };
            self.done.insert(key.on(chain).record(), layer.clone());
        }
        let end = &mut self.ends[position];
        end.time = end.time.max(time);
        end.layers.push(layer);
        Ok(())
    }

    /// Waits for all layers, moves them to where unpacked layers lie, and writes their records.
    fn settle_all(&mut self) -> Result<(), BuildError> {
        // Nothing may have them mounted by a path that is about to change.
        self.sources.close()?;
        let Some(workshop) = &self.workshop else { return Ok(()) };
        let place = workshop.place(self.store);
        for end in &mut self.ends {
            let mut diff_ids = Vec::new();
            for layer in &mut end.layers {
                let packed = layer.packed.wait()?;
                if let Some(fresh) = &layer.fresh {
                    Fresh::keep(fresh, place, packed.diff_id)?;
                }
                if let Some(Record { key, time, alone }) = layer.record.take() {
                    let record = StepRecord { layer: packed.clone(), time };
                    let below = if alone { None } else { ChainId::of(&diff_ids) };
                    self.store.remember(&key.on(below).record(), &record)?;
                }
                diff_ids.push(packed.diff_id);
            }
        }
        Ok(())
    }

    /// Puts the images together.
    fn finish(&mut self) -> Result<BuiltImage, BuildError> {
        let mut images = Vec::new();
        for target in &self.plan.targets {
            images.push((target.platform.clone(), self.image(target.stage)?));
        }
        join(self.store, images)
    }

    fn image(&mut self, position: usize) -> Result<Built, BuildError> {
        let stage = &self.plan.stages[position];
        if let Some(found) = base_image(self.plan, position) {
            self.finder.fetch(found, None)?;
        }
        let mut layers = Vec::new();
        for layer in &self.ends[position].layers {
            let mut packed = layer.packed.wait()?;
            if !layer.base && packed.compression != self.options.compression.to_string() {
                packed = self.converted(&packed)?;
            }
            layers.push(ImageLayer {
                diff_id: packed.diff_id,
                digest: packed.digest,
                size: packed.size,
                media_type: packed.media_type,
                urls: packed.urls,
            });
        }
        let fresh = self.options.no_cache;
        assemble(self.store, stage, layers, self.options.times.created(), fresh)
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

/// Whether a step's layer depends on nothing below it: `COPY --link`. With `--chmod` it does not stand
/// alone in BuildKit either.
fn stands_alone(step: &Step<FoundImage>) -> bool {
    matches!(&step.action, Action::Copy(copy) if copy.link && copy.chmod.is_none())
}

/// What a `COPY` or `ADD` has done otherwise than somebody may expect.
fn notes(copy: &CopyStep<FoundImage>, selection: &Selection, report: &CopyReport, progress: &dyn Progress) {
    let tell = |text: String| progress.event(Event::Warning { text });
    for socket in selection.sockets() {
        tell(format!("{socket} is a socket; in the image it is an empty file"));
    }
    for source in &selection.not_excluded {
        tell(format!("--exclude does not leave out {source}, which the instruction names"));
    }
    for name in &report.skipped {
        tell(format!("{name} was left out of what was extracted: devices cannot be made"));
    }
    if report.extracted > 0 && copy.chmod.is_some() {
        tell("--chmod does not change what is extracted from an archive; its modes are kept".to_owned());
    }
}

fn closed() -> StepError {
    StepError::Io { what: "the workshop is closed", source: std::io::ErrorKind::NotConnected.into() }
}

/// Now, as file systems tell it: inode times come from a clock that is up to a tick behind.
fn now_coarse() -> i64 {
    let tick = Duration::from_millis(10);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(tick).as_secs() as i64
}
