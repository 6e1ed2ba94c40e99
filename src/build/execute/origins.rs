//! What a step copies and mounts from.

use super::{Executor, Failure, base_image};
use crate::build::images::FoundImage;
use crate::build::mounts::secret;
use crate::build::run_mounts::{self, Resolved};
use crate::build::sources::Part;
use crate::build::stack::{StageEnd, image_end};
use crate::build::{BuildError, StepError};
use crate::context::SourceTree;
use crate::image::ChainId;
use crate::plan::{Action, CopyStep, MountKind, Origin, Step};
use crate::rootfs::storage::ReadOnly;

impl Executor<'_, '_> {
    /// What a `COPY` takes, if it can be told without the layers of a stage or an image.
    pub(super) fn parts_beforehand(
        &mut self,
        copy: &CopyStep<FoundImage>,
    ) -> Result<Option<Vec<Part>>, StepError> {
        let tree = match &copy.from {
            _ if !copy.has_paths() => None,
            Origin::Context(name) => Some(self.sources.context(name)?),
            Origin::Scratch => Some(self.sources.nothing()?),
            Origin::Stage(_) | Origin::Image(_) => return Ok(None),
        };
        Ok(Some(self.sources.parts(copy, tree.as_ref())?))
    }

    /// The chain ID of the layers that a step copies or mounts from.
    pub(super) fn origin_chain(&self, from: &Origin<FoundImage>) -> Result<Option<ChainId>, BuildError> {
        match from {
            Origin::Context(_) | Origin::Scratch => Ok(None),
            Origin::Stage(position) => self.chain(*position),
            Origin::Image(found) => Ok(ChainId::of(&found.image.config.rootfs.diff_ids)),
        }
    }

    /// Mounts the layers of a stage or an image to read from; gives the newest time in it.
    pub(super) fn mount_origin(&mut self, from: &Origin<FoundImage>) -> Result<(&ReadOnly, i64), Failure> {
        let end = match from {
            Origin::Stage(position) => self.ends[*position].clone(),
            Origin::Image(found) => image_end(found),
            Origin::Context(_) | Origin::Scratch => StageEnd::default(),
        };
        let chain = self.origin_chain(from)?;
        if !self.sources.mounted.contains_key(&chain) {
            let image = match from {
                Origin::Stage(position) => base_image(self.plan, *position),
                Origin::Image(found) => Some(found),
                Origin::Context(_) | Origin::Scratch => None,
            };
            if let Some(found) = image {
                self.fetch(found)?;
            }
            let dirs = self.layer_dirs(&end)?;
            let workshop = self.opened()?;
            let mounted = workshop.storage.mount_read_only(&dirs).map_err(StepError::Rootfs)?;
            self.sources.mounted.insert(chain, mounted);
        }
        match self.sources.mounted.get(&chain) {
            Some(mounted) => Ok((mounted, end.time)),
            None => Err(open_error(std::io::ErrorKind::NotFound.into()).into()),
        }
    }

    pub(super) fn parts_from_layers(
        &mut self,
        copy: &CopyStep<FoundImage>,
    ) -> Result<(Vec<Part>, i64), Failure> {
        let (mounted, time) = self.mount_origin(&copy.from)?;
        let root = mounted.root().try_clone_to_owned().map_err(open_error)?;
        let name = match &copy.from {
            Origin::Stage(position) => format!("stage {}", self.plan.stages[*position].label),
            _ => "the image".to_owned(),
        };
        let tree = SourceTree::image(root, name);
        Ok((self.sources.parts(copy, Some(&tree))?, time))
    }

    /// Where the content of a step's mounts lies.
    pub(super) fn resolve_mounts(&mut self, step: &Step<FoundImage>) -> Result<Vec<Resolved>, Failure> {
        let Action::Run(run) = &step.action else { return Ok(Vec::new()) };
        let mut resolved = Vec::new();
        for mount in &run.mounts {
            resolved.push(match (mount.origin(), &mount.kind) {
                (
                    Some(Origin::Context(name)),
                    MountKind::Bind { source, .. } | MountKind::Cache { source, .. },
                ) => run_mounts::resolve_context(&mut self.sources, name, source)?,
                (Some(from), _) => {
                    let identity = self.origin_chain(from)?.map_or_else(String::new, |c| c.to_string());
                    let (mounted, _) = self.mount_origin(from)?;
                    Resolved { root: Some(mounted.path().to_owned()), identity, selection: None }
                }
                (None, _) => Resolved::default(),
            });
        }
        Ok(resolved)
    }

    /// Reads the secrets that steps want, before the user namespace is entered: inside it a file that is
    /// readable through one of the user's further groups no longer is.
    pub(super) fn read_secrets(&mut self) -> Result<(), BuildError> {
        let steps = self.plan.stages.iter().flat_map(|stage| &stage.steps);
        for step in steps {
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
                    self.secrets.insert(id.clone(), content);
                }
            }
        }
        Ok(())
    }
}

fn open_error(source: std::io::Error) -> StepError {
    StepError::Io { what: "cannot open the stage to copy from", source }
}
