//! The keys of steps, and what the cache has under them.

use super::{Executor, Failure};
use crate::build::BuildError;
use crate::build::images::FoundImage;
use crate::build::packer::Promise;
use crate::build::run_mounts;
use crate::build::sources::{Part, describe};
use crate::build::stack::{Layer, StepRecord};
use crate::image::{ChainId, DiffId};
use crate::plan::key::{self, Description, InstructionKey};
use crate::plan::{Action, MountKind, Origin, RunStep, Step};

impl Executor<'_, '_> {
    pub(super) fn key(
        &mut self,
        step: &Step<FoundImage>,
        parts: Option<&[Part]>,
    ) -> Result<InstructionKey, Failure> {
        let times = self.options.times.key();
        Ok(match &step.action {
            Action::Run(run) => {
                let mut description = key::run(run, &times);
                self.describe_mounts(run, &mut description)?;
                description.key()
            }
            Action::Workdir { path, user } => key::workdir(path, user, &times),
            Action::Copy(copy) => {
                let mut description = key::copy(copy, &times);
                match parts {
                    Some(parts) => {
                        let context = match &copy.from {
                            Origin::Context(name) => Some(name),
                            _ => None,
                        };
                        for part in parts {
                            let digest = self.sources.digest(context, &part.selection)?;
                            describe(&mut description, &digest, part.unpack);
                        }
                    }
                    None => {
                        let chain = self.origin_chain(&copy.from)?.map(|c| c.to_string());
                        description.text("layers").option(chain.as_deref());
                        key::copy_sources(&mut description, &copy.sources);
                    }
                }
                description.key()
            }
        })
    }

    /// What the mounts of a `RUN` bring into its key: all that they show but caches and secrets.
    pub(super) fn describe_mounts(
        &mut self,
        run: &RunStep<FoundImage>,
        description: &mut Description,
    ) -> Result<(), Failure> {
        for mount in &run.mounts {
            let origin = match &mount.kind {
                MountKind::Bind { from, source, .. } => Some((from, source)),
                MountKind::Cache { from: Some(from), source, .. } => Some((from, source)),
                _ => None,
            };
            let Some((from, source)) = origin else { continue };
            match from {
                Origin::Context(name) => {
                    let selection = run_mounts::select(&mut self.sources, name, source)?;
                    let digest = self.sources.digest(Some(name), &selection)?;
                    description.text(&digest.to_string());
                }
                other => {
                    let chain = self.origin_chain(other)?.map(|c| c.to_string());
                    description.option(chain.as_deref());
                }
            }
        }
        Ok(())
    }

    /// The layer that an earlier build, or this one for another platform, has made of the same step, with
    /// the newest time in it; if its blob is still there.
    pub(super) fn look_up(
        &mut self,
        position: usize,
        key: InstructionKey,
        alone: bool,
    ) -> Result<Option<(Layer, i64)>, BuildError> {
        // An instruction that was never run on anything has no need to wait for the layers below.
        let known = !self.options.no_cache && self.store.cache_path(&key.directory()).is_dir();
        if !known && self.done.is_empty() {
            return Ok(None);
        }
        let chain = if alone { None } else { self.chain(position)? };
        let record = key.on(chain).record();
        tracing::debug!("looking for {record} in the cache");
        if let Some(layer) = self.done.get(&record) {
            let time = layer.record.as_ref().map_or(i64::MIN, |r| r.time);
            return Ok(Some((layer.clone(), time)));
        }
        if !known {
            return Ok(None);
        }
        let record: Option<StepRecord> = self.store.cached(&record);
        let usable = |r: &StepRecord| self.store.blob_size(&r.layer.digest) == Some(r.layer.size);
        Ok(record.filter(usable).map(|r| {
            let layer = Layer { packed: Promise::kept(r.layer), fresh: None, base: false, record: None };
            (layer, r.time)
        }))
    }

    /// The chain ID of a stage's layers so far; waits for those that are being packed.
    pub(super) fn chain(&self, position: usize) -> Result<Option<ChainId>, BuildError> {
        let layers = &self.ends[position].layers;
        let diff_ids: Vec<DiffId> =
            layers.iter().map(|l| Ok(l.packed.wait()?.diff_id)).collect::<Result<_, BuildError>>()?;
        Ok(ChainId::of(&diff_ids))
    }
}
