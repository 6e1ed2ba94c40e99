//! What a step copies and mounts from.

use std::sync::{Arc, Mutex, PoisonError};

use cooper_runtime::sys::fs::Time;

use super::cached::Copied;
use super::{Executor, Failure, Opened, StepFailure, base_image};
use crate::build::arrivals::{Unpacking, confirm};
use crate::build::images::FoundImage;
use crate::build::run_mounts::{self, Resolved};
use crate::build::sources::{Part, Seen};
use crate::build::stack::{Fresh, StageEnd, image_end};
use crate::build::{BuildError, StepError};
use crate::context::{ItemKind, SourceTree};
use crate::image::ChainId;
use crate::plan::{CopyStep, MountKind, Origin, RunStep};
use crate::rootfs::LayerDir;
use crate::rootfs::storage::ReadOnly;
use crate::rootfs::unpack::{Stacked, unpack};

impl Executor<'_, '_> {
    /// What a `COPY` takes that can be told without the layers of a stage or an image.
    pub(super) fn copied_beforehand(&self, copy: &CopyStep<FoundImage>) -> Result<Copied, StepError> {
        let tree = match &copy.from {
            _ if !copy.has_paths() => None,
            Origin::Context(name) => Some(self.sources.context(name)?),
            Origin::Scratch | Origin::Stage(_) | Origin::Image(_) => Some(self.sources.nothing()?),
        };
        let parts = self.sources.parts(copy, tree.as_ref())?;
        let newest = parts.iter().filter_map(|p: &Part| p.selection.newest_mtime()).max();
        Ok(Copied { parts, time: newest.unwrap_or(i64::MIN) })
    }

    /// The layers of a stage or an image; where steps are carried out, waits for the stage.
    pub(super) fn origin_end(
        &self,
        from: &Origin<FoundImage>,
        opened: Option<&Opened>,
    ) -> Result<Option<StageEnd>, Failure> {
        match from {
            Origin::Stage(position) => self.stage_end(*position, opened),
            Origin::Image(found) => Ok(Some(image_end(found))),
            Origin::Context(_) | Origin::Scratch => Ok(Some(StageEnd::default())),
        }
    }

    /// Mounts the layers of a stage or an image to read from.
    pub(super) fn mount_origin(
        &self,
        from: &Origin<FoundImage>,
        opened: &Opened,
    ) -> Result<Arc<ReadOnly>, StepFailure> {
        let (seen, image) = match from {
            Origin::Stage(position) => (Seen::Stage(*position), base_image(self.plan, *position)),
            Origin::Image(found) => {
                (Seen::Image(ChainId::of(&found.image.config.rootfs.diff_ids)), Some(found))
            }
            Origin::Context(_) | Origin::Scratch => (Seen::Image(None), None),
        };
        let end = self.origin_end(from, Some(opened))?.unwrap_or_default();
        self.sources.mounted(seen, || {
            if let Some(found) = image {
                self.fetch(found, opened)?;
            }
            let dirs = self.layer_dirs(&end, opened)?;
            Ok(opened.workshop.storage.mount_read_only(&dirs).map_err(StepError::Rootfs)?)
        })
    }

    /// What a `COPY` takes from the layers of a stage or an image.
    pub(super) fn copied_from_layers(
        &self,
        copy: &CopyStep<FoundImage>,
        opened: &Opened,
    ) -> Result<Copied, StepFailure> {
        let mounted = self.mount_origin(&copy.from, opened)?;
        let time = self.origin_end(&copy.from, Some(opened))?.map_or(0, |end| end.time);
        let root = mounted.root().try_clone_to_owned().map_err(open_error)?;
        let name = match &copy.from {
            Origin::Stage(position) => format!("stage {}", self.plan.stages[*position].label),
            _ => "the image".to_owned(),
        };
        let mut parts = self.sources.parts(copy, Some(&SourceTree::image(root, name)))?;
        // Hardly a layer says when its root was changed, and what a mounted one says is when it was unpacked.
        for source in parts.iter_mut().flat_map(|part| &mut part.selection.sources) {
            if let (true, Some(root)) = (source.location.is_empty(), source.items.first_mut())
                && root.kind == ItemKind::Directory
            {
                root.stat.mtime = Time { sec: time, nsec: 0 };
            }
        }
        Ok(Copied { parts, time })
    }

    /// Where the content of a step's mounts lies.
    pub(super) fn resolve_mounts(
        &self,
        run: &RunStep<FoundImage>,
        opened: &Opened,
    ) -> Result<Vec<Resolved>, StepFailure> {
        let mut resolved = Vec::new();
        for mount in &run.mounts {
            resolved.push(match (mount.origin(), &mount.kind) {
                (
                    Some(Origin::Context(name)),
                    MountKind::Bind { source, .. } | MountKind::Cache { source, .. },
                ) => run_mounts::resolve_context(&self.sources, name, source)?,
                (Some(from), _) => {
                    // A cache is another one when what it starts from is.
                    let identity = match &mount.kind {
                        MountKind::Cache { .. } => match self.origin_end(from, Some(opened))? {
                            Some(end) => end.chain().map_err(BuildError::Pack)?.map(|c| c.to_string()),
                            None => None,
                        },
                        _ => None,
                    };
                    let root = Some(self.mount_origin(from, opened)?.path().to_owned());
                    Resolved { root, identity: identity.unwrap_or_default(), selection: None }
                }
                (None, _) => Resolved::default(),
            });
        }
        Ok(resolved)
    }

    /// Brings an image's layers here, and unpacks those that come from a registry on the way: one is
    /// downloaded while another is decompressed and a third is written to disk.
    pub(super) fn fetch(&self, found: &FoundImage, opened: &Opened) -> Result<(), BuildError> {
        if found.is_here() {
            return Ok(());
        }
        let place = opened.workshop.place(self.store);
        let done = Mutex::default();
        std::thread::scope(|scope| self.finder().fetch(found, Some(&Unpacking::new(scope, place, &done))))?;
        Ok(confirm(place, &done)?)
    }

    /// The directories of a stage's layers, ready to be stacked.
    pub(super) fn layer_dirs(&self, end: &StageEnd, opened: &Opened) -> Result<Vec<LayerDir>, StepFailure> {
        // Layers from the store come first; those that this command has just made follow, unless one
        // from the cache lies above them. Then it has to be known what they are.
        let first_fresh = end.layers.iter().position(|l| l.fresh.is_some()).unwrap_or(end.layers.len());
        let mixed = end.layers[first_fresh..].iter().any(|l| l.fresh.is_none());
        let known = if mixed { end.layers.len() } else { first_fresh };
        let mut layers = Vec::new();
        for layer in &end.layers[..known] {
            layers.push(match &layer.fresh {
                Some(fresh) => {
                    let diff_id = layer.packed.diff_id().map_err(BuildError::Pack)?;
                    Stacked::Made(diff_id, Fresh::dir(fresh))
                }
                None => {
                    let packed = layer.packed.wait().map_err(BuildError::Pack)?;
                    Stacked::Stored(packed.diff_id, packed.digest)
                }
            });
        }
        let place = opened.workshop.place(self.store);
        let mut dirs = {
            let _once = self.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
            unpack(place, &layers).map_err(StepError::Unpack)?
        };
        dirs.extend(end.layers[known..].iter().filter_map(|l| l.fresh.as_deref().map(Fresh::dir)));
        Ok(dirs)
    }
}

fn open_error(source: std::io::Error) -> StepError {
    StepError::Io { what: "cannot open the stage to copy from", source }
}
