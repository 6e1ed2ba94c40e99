//! The keys of steps, and what the cache has under them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;

use cooper_runtime::sys::fs;

use super::board::Made;
use super::{Executor, Opened, StepFailure};
use crate::build::images::FoundImage;
use crate::build::packer::Promise;
use crate::build::run_mounts;
use crate::build::sources::{Content, Part, describe};
use crate::build::stack::{Layer, StageEnd, StepRecord};
use crate::build::{BuildError, StepError};
use crate::context::SourceTree;
use crate::context::tree::Cursor;
use crate::layer::entry::kept_xattr;
use crate::plan::key::{self, Description, InstructionKey};
use crate::plan::{Action, CopyStep, MountKind, Origin, RunStep, Step};

/// What is known of a step before it is carried out.
pub(super) struct Looked {
    pub(super) key: InstructionKey,
    /// What a `COPY` takes, if it had to be looked at for the key.
    pub(super) copied: Option<Copied>,
}

/// What a `COPY` takes.
pub(super) struct Copied {
    pub(super) parts: Vec<Part>,
    /// The newest time in it, seconds since 1970.
    pub(super) time: i64,
}

/// What a `COPY` takes, as the key has it, and itself where it had to be looked at.
type Told = (Vec<Content>, Option<Copied>);

/// Contents of a stage that could not be remembered yet, since its layers are being packed.
pub(super) struct Memo {
    key: InstructionKey,
    stage: usize,
    contents: Vec<Content>,
}

impl Memo {
    /// Remembers them under the chain ID of the stage's layers.
    pub(super) fn keep(self, executor: &Executor<'_, '_>, ends: &[StageEnd]) -> Result<(), BuildError> {
        let chain = ends[self.stage].chain()?;
        Ok(executor.store.remember(&self.key.on(chain).contents(), &self.contents)?)
    }
}

impl Executor<'_, '_> {
    /// Makes a step's key. Without `opened`, as far as that goes without waiting for stages or mounting
    /// layers: else there is none.
    pub(super) fn look_at(
        &self,
        step: &Step<FoundImage>,
        opened: Option<&Opened>,
    ) -> Result<Option<Looked>, StepFailure> {
        let times = self.options.times.key();
        let (key, copied) = match &step.action {
            Action::Run(run) => {
                let mut description = key::run(run, &times);
                if !self.describe_mounts(run, &mut description, opened)? {
                    return Ok(None);
                }
                (description.key(), None)
            }
            Action::Workdir { path, user } => (key::workdir(path, user, &times), None),
            Action::Copy(copy) => {
                let mut description = key::copy(copy, &times);
                let (contents, copied) = match &copy.from {
                    Origin::Stage(_) | Origin::Image(_) if copy.has_paths() => {
                        let Some(found) = self.contents_of_layers(copy, opened)? else { return Ok(None) };
                        description.text("layers");
                        found
                    }
                    _ => {
                        let copied = self.copied_beforehand(copy)?;
                        let context = match &copy.from {
                            Origin::Context(name) => Some(name),
                            _ => None,
                        };
                        (self.sources.contents(context, &copied.parts)?, Some(copied))
                    }
                };
                contents.iter().for_each(|content| describe(&mut description, content));
                (description.key(), copied)
            }
        };
        Ok(Some(Looked { key, copied }))
    }

    /// What a `COPY` takes from the layers of a stage or an image: remembered by their chain ID, or else
    /// looked at, and remembered.
    fn contents_of_layers(
        &self,
        copy: &CopyStep<FoundImage>,
        opened: Option<&Opened>,
    ) -> Result<Option<Told>, StepFailure> {
        let memo = key::copied(copy);
        let Some(end) = self.origin_end(&copy.from, opened)? else { return Ok(None) };
        if let Some(contents) = self.remembered(&end, memo)? {
            return Ok(Some((contents, None)));
        }
        let Some(opened) = opened else { return Ok(None) };
        let copied = self.copied_from_layers(copy, opened)?;
        let contents = self.sources.contents(None, &copied.parts)?;
        self.remember(&copy.from, &end, memo, &contents)?;
        Ok(Some((contents, Some(copied))))
    }

    fn remembered(&self, end: &StageEnd, memo: InstructionKey) -> Result<Option<Vec<Content>>, BuildError> {
        Ok(match end.is_hashed() {
            true => self.store.cached(&memo.on(end.chain()?).contents()),
            false => None,
        })
    }

    fn remember(
        &self,
        from: &Origin<FoundImage>,
        end: &StageEnd,
        memo: InstructionKey,
        contents: &[Content],
    ) -> Result<(), BuildError> {
        match from {
            Origin::Stage(stage) if !end.is_hashed() => {
                let memo = Memo { key: memo, stage: *stage, contents: contents.to_vec() };
                self.memos.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(memo);
                Ok(())
            }
            _ => Ok(self.store.remember(&memo.on(end.chain()?).contents(), &contents)?),
        }
    }

    /// What the mounts of a `RUN` bring into its key: all that they show but caches and secrets. Says
    /// whether it could be told.
    fn describe_mounts(
        &self,
        run: &RunStep<FoundImage>,
        description: &mut Description,
        opened: Option<&Opened>,
    ) -> Result<bool, StepFailure> {
        for mount in &run.mounts {
            let origin = match &mount.kind {
                MountKind::Bind { from, source, .. } => Some((from, source)),
                MountKind::Cache { from: Some(from), source, .. } => Some((from, source)),
                _ => None,
            };
            let Some((from, source)) = origin else { continue };
            match from {
                Origin::Context(name) => {
                    let selection = run_mounts::select(&self.sources, name, source)?;
                    description.text(&self.sources.digest(Some(name), &selection)?.to_string());
                    // A COPY makes nothing of a directory's own mode, and so the digest does not have it.
                    let root = selection.sources.first().and_then(|source| source.items.first());
                    description.number(root.map_or(0, |item| item.stat.mode.into()));
                }
                Origin::Scratch => {
                    description.option(None);
                }
                Origin::Stage(_) | Origin::Image(_) => {
                    let Some(content) = self.mounted_content(from, source, opened)? else {
                        return Ok(false);
                    };
                    description.option(Some(&content));
                }
            }
        }
        Ok(true)
    }

    /// What a mount shows of the layers of a stage or an image, as it comes into a key.
    fn mounted_content(
        &self,
        from: &Origin<FoundImage>,
        source: &str,
        opened: Option<&Opened>,
    ) -> Result<Option<String>, StepFailure> {
        let Some(end) = self.origin_end(from, opened)? else { return Ok(None) };
        let memo = key::mounted(source);
        if let Some(contents) = self.remembered(&end, memo)? {
            return Ok(contents.first().map(|content| content.digest.to_string()));
        }
        // An image's layers are what they are: to read all that is in them would tell nothing new.
        let exact = |end: &StageEnd| -> Result<Option<String>, StepFailure> {
            let chain = end.chain().map_err(BuildError::Pack)?;
            Ok(Some(chain.map_or_else(String::new, |c| c.to_string())))
        };
        if matches!(from, Origin::Image(_)) {
            return exact(&end);
        }
        let Some(opened) = opened else { return Ok(None) };
        // Owners that are on record are not to be seen in the mounted layers.
        if opened.workshop.single_id() {
            return exact(&end);
        }
        let mounted = self.mount_origin(from, opened)?;
        let root = mounted.root().try_clone_to_owned().map_err(open_error)?;
        let tree = SourceTree::image(root, "the stage");
        let Ok(selection) = run_mounts::select_in(&tree, source) else {
            // There is no such thing, as mounting it will tell.
            return exact(&end);
        };
        let digest = self.sources.digest(None, &selection)?;
        let mut seen = Description::of("mounted");
        seen.text(&digest.to_string());
        let mut cursor = Cursor::new(mounted.root());
        for source in &selection.sources {
            for item in &source.items {
                let stat = &item.stat;
                seen.number(stat.mode.into()).number(stat.uid.into()).number(stat.gid.into());
                let attributes = attributes(&mut cursor, &source.location_of(item)).map_err(open_error)?;
                seen.number(attributes.len() as u64);
                attributes.iter().for_each(|(name, value)| {
                    seen.bytes(name.as_bytes()).bytes(value);
                });
            }
        }
        let content = Content { digest: seen.key().digest(), unpack: false };
        let told = content.digest.to_string();
        self.remember(from, &end, memo, &[content])?;
        Ok(Some(told))
    }

    /// The layer that an earlier build has made of the same step, with the newest time in it; if its blob
    /// is still there.
    pub(super) fn look_up(
        &self,
        end: &StageEnd,
        key: InstructionKey,
        alone: bool,
    ) -> Result<Option<Made>, BuildError> {
        // An instruction that was never run on anything has no need to wait for the layers below.
        if self.options.no_cache || !self.store.cache_path(&key.directory()).is_dir() {
            return Ok(None);
        }
        let chain = if alone { None } else { end.chain()? };
        let record = key.on(chain).record();
        tracing::debug!("looking for {record} in the cache");
        let record: Option<StepRecord> = self.store.cached(&record);
        let usable = |r: &StepRecord| self.store.blob_size(&r.layer.digest) == Some(r.layer.size);
        Ok(record.filter(usable).map(|r| {
            let layer = Layer { packed: Promise::kept(r.layer), fresh: None, base: false, record: None };
            (layer, r.time)
        }))
    }
}

/// The extended attributes of a file that a layer keeps, by name.
fn attributes(cursor: &mut Cursor<'_>, location: &[u8]) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let (dir, name) = match location.is_empty() {
        true => (cursor.dir(b"")?, OsStr::new(".")),
        false => cursor.parent(location)?,
    };
    let found = fs::xattrs_at(dir, name)?;
    Ok(found.into_iter().filter(|(name, _)| kept_xattr(name.as_bytes())).collect())
}

fn open_error(source: io::Error) -> StepError {
    StepError::Io { what: "cannot look at the stage to mount from", source }
}
