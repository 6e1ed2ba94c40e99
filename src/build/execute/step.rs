//! Carries one step out.

use std::os::fd::AsFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::board::Made;
use super::cached::{Copied, Looked};
use super::walk::{Walk, stands_alone};
use super::{Executor, Opened, StepFailure, base_image};
use crate::build::copy::{CopyOptions, CopyReport, Staged, Target, copy_directly, copy_into};
use crate::build::images::FoundImage;
use crate::build::packer::Packer;
use crate::build::run_mounts::{Maker, Prepared};
use crate::build::sources::Part;
use crate::build::stack::{Fresh, Layer, Record};
use crate::build::workdir::Ownership;
use crate::build::{StepError, run, users, workdir};
use crate::context::Selection;
use crate::dockerfile::mode::Chmod;
use crate::layer::write::check;
use crate::plan::{Action, CopyStep, Step};
use crate::progress::{Event, Progress, TaskId};
use crate::rootfs::Frozen;

impl Executor<'_, '_> {
    /// Makes the layer of a step, which is packed from then on. `staged` was written for it ahead.
    pub(super) fn carry_out(
        &self,
        walk: &Walk,
        step: &Step<FoundImage>,
        looked: &mut Looked,
        staged: &[Staged],
        task: TaskId,
        opened: &Opened,
    ) -> Result<Made, StepFailure> {
        let Opened { workshop, packer, secrets } = opened;
        let alone = stands_alone(step);
        let dirs = match alone {
            true => Vec::new(),
            false => {
                if let Some(found) = base_image(self.plan, walk.position) {
                    self.fetch(found, opened)?;
                }
                self.layer_dirs(&walk.end, opened)?
            }
        };
        let (mounts, copied) = match &step.action {
            Action::Run(run) => {
                let resolved = self.resolve_mounts(run, opened)?;
                let (store, progress) = (self.store, self.progress);
                let maker = Maker { workshop, store, secrets, progress };
                (maker.make(&run.mounts, resolved)?, None)
            }
            Action::Copy(copy) => {
                let copied = match looked.copied.take() {
                    Some(copied) => copied,
                    None => self.copied_from_layers(copy, opened)?,
                };
                (Prepared::default(), Some(copied))
            }
            Action::Workdir { .. } => (Prepared::default(), None),
        };
        let Copied { parts, time } = copied.unwrap_or(Copied { parts: Vec::new(), time: i64::MIN });
        let time = if alone { time } else { time.max(walk.end.time) };
        let from = now_coarse();
        let single = workshop.single_id();
        if let Action::Copy(copy) = &step.action {
            let clamp = self.options.times.clamp(from, now_coarse() + 1, time);
            let (storage, dest) = (&workshop.storage, copy.dest.as_bytes());
            let target = Target { storage, parents: &dirs, dest, clamp, now: from, staged };
            if let Some(frozen) = self.copied_directly(copy, &parts, &target) {
                return packed(frozen, packer, Record { key: looked.key, time, alone });
            }
        }
        let mut rootfs = workshop.storage.mount(&dirs).map_err(StepError::Rootfs)?;
        let open_root = |source| StepError::Io { what: "cannot open the root file system", source };
        let root = rootfs.root().try_clone_to_owned().map_err(open_root)?;
        // What names could be looked up in.
        let known = (!dirs.is_empty()).then(|| users::Files::Root(root.as_fd()));
        let progress = self.progress;
        let mut unknown = |e: users::UserError| {
            progress.event(Event::Warning { text: format!("{e}; root owns what is made") });
        };
        match &step.action {
            Action::Run(run) => {
                let mut ownership = Ownership { records: &mut rootfs.records, single };
                let who = users::identity(root.as_fd(), &run.user).map_err(|e| StepError::Run(e.into()))?;
                run::prepare_cwd(root.as_fd(), &run.cwd, &who, &mut ownership).map_err(StepError::Run)?;
                let result = run::run(workshop, &rootfs, run, who, &mounts, task, self.progress);
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
        if workshop.is_stopped() {
            // Checked by the caller; what was made under an interrupt is not worth keeping.
            let source = std::io::ErrorKind::Interrupted.into();
            return Err(StepError::Io { what: "interrupted", source }.into());
        }
        // What that clock says is rounded down, so the step's last second begins with it.
        let clamp = self.options.times.clamp(from, now_coarse() + 1, time);
        let frozen = rootfs.freeze(clamp).map_err(StepError::Rootfs)?;
        packed(frozen, packer, Record { key: looked.key, time, alone })
    }

    /// Carries a `COPY` or `ADD` out without a mount, if that can be done.
    fn copied_directly(
        &self,
        copy: &CopyStep<FoundImage>,
        parts: &[Part],
        target: &Target<'_>,
    ) -> Option<Frozen> {
        let files = (!target.parents.is_empty()).then_some(users::Files::Layers(target.parents));
        let mut unknown = false;
        let chown = match &copy.chown {
            Some(who) => Some(users::owner(files, who, &mut |_| unknown = true).ok()?),
            None => None,
        };
        let chmod = match &copy.chmod {
            Some(mode) => Some(Chmod::parse(mode).ok()?),
            None => None,
        };
        if unknown {
            return None;
        }
        let with_options = |part: &Part| CopyOptions { chown, chmod: chmod.clone(), unpack: part.unpack };
        let plain: Vec<_> = parts.iter().map(|part| (&part.selection, with_options(part))).collect();
        let (frozen, reports) = copy_directly(target, &plain)?;
        for (part, report) in parts.iter().zip(&reports) {
            notes(copy, &part.selection, report, self.progress);
        }
        Some(frozen)
    }
}

/// Has a layer packed.
fn packed(frozen: Frozen, packer: &Packer, record: Record) -> Result<Made, StepFailure> {
    frozen.entries.iter().try_for_each(check).map_err(StepError::Layer)?;
    let packed = packer.pack(frozen.layer.path.clone(), frozen.entries);
    let (fresh, time) = (Some(Fresh::new(frozen.layer)), record.time);
    Ok((Layer { packed, fresh, base: false, record: Some(record) }, time))
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

/// Now, as file systems tell it: inode times come from a clock that is up to a tick behind.
pub(super) fn now_coarse() -> i64 {
    let tick = Duration::from_millis(10);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(tick).as_secs() as i64
}
