//! The mounts of one `RUN`: from what is planned to what the step is given.
//!
//! In two moves: [`Resolved`] finds where a mount's content lies while contexts can be read and
//! stages mounted, and [`Maker::make`] makes caches, copies and overlays of it in the workshop.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;

use cooper_runtime::record::{Attributes, Inode};
use cooper_runtime::step::{Mount, MountSource};
use cooper_runtime::sys::fs::{self, Stat};

use super::StepError;
use super::copy::{CopyOptions, copy_into};
use super::mounts::{self, CacheMount, Caches, Initial, MountError, Throwaway};
use super::sources::Sources;
use super::workdir::Ownership;
use super::workshop::Workshop;
use crate::context::{SelectError, SelectOptions, Selection, SourceTree};
use crate::plan::{ContextName, MountKind, RunMount};
use crate::progress::Progress;
use crate::rootfs::Records;
use crate::store::Store;

/// Where the content of a mount lies.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    /// A trusted directory; `None` for mounts without a source.
    pub(super) root: Option<PathBuf>,
    /// The same content has the same.
    pub(super) identity: String,
    /// What of a build context is shown, where that is not all that lies there.
    pub(super) selection: Option<Selection>,
}

/// What a step is given.
#[derive(Default)]
pub(super) struct Prepared<'w> {
    pub(super) mounts: Vec<Mount>,
    /// Secrets that are variables, `NAME=value`.
    pub(super) env: Vec<String>,
    /// What is on record of the mounts' own directories.
    pub(super) known: Vec<(Inode, Attributes)>,
    caches: Option<Caches<'w>>,
    throwaways: Vec<Throwaway>,
}

/// What is known of a mount's source in a build context, for its key and for mounting it.
pub(super) fn select(
    sources: &Sources<'_>,
    context: &ContextName,
    path: &str,
) -> Result<Selection, StepError> {
    Ok(select_in(&sources.context(context)?, path)?)
}

/// What a mount shows of a tree.
pub(super) fn select_in(tree: &SourceTree, path: &str) -> Result<Selection, SelectError> {
    crate::context::select(tree, &[path], b"/mount", &SelectOptions::default())
}

/// Finds the source of a mount that shows a build context.
pub(super) fn resolve_context(
    sources: &Sources<'_>,
    context: &ContextName,
    path: &str,
) -> Result<Resolved, StepError> {
    let (root, hides) = sources.context_dir(context)?;
    let selection = if hides { Some(select(sources, context, path)?) } else { None };
    Ok(Resolved { root: Some(root), identity: String::new(), selection })
}

/// What it takes to make mounts ready.
pub(super) struct Maker<'w> {
    pub(super) workshop: &'w Workshop,
    pub(super) store: &'w Store,
    pub(super) secrets: &'w BTreeMap<String, Vec<u8>>,
    pub(super) progress: &'w dyn Progress,
}

impl<'w> Maker<'w> {
    /// Makes the mounts of a step ready, in their order.
    pub(super) fn make<I>(
        &self,
        wanted: &[RunMount<I>],
        resolved: Vec<Resolved>,
    ) -> Result<Prepared<'w>, StepError> {
        let mut prepared = Prepared::default();
        for (mount, resolved) in wanted.iter().zip(resolved) {
            self.add(&mut prepared, mount, resolved)?;
        }
        mounts::in_order(&mut prepared.mounts);
        Ok(prepared)
    }

    fn add<I>(
        &self,
        prepared: &mut Prepared<'w>,
        mount: &RunMount<I>,
        resolved: Resolved,
    ) -> Result<(), StepError> {
        let (source, read_only) = match &mount.kind {
            MountKind::Bind { source, read_only, .. } => {
                let (root, path) = self.shown(resolved, source)?;
                let source = if *read_only {
                    MountSource::Bind { root, path }
                } else {
                    let throwaway = mounts::throwaway(&self.workshop.storage, &root, &path)?;
                    let source = throwaway.source.clone();
                    prepared.throwaways.push(throwaway);
                    source
                };
                (source, *read_only)
            }
            MountKind::Cache { id, source, sharing, mode, uid, gid, read_only, .. } => {
                let identity = format!("{}\n{source}", resolved.identity);
                let initial = match resolved.root {
                    Some(_) => Some(self.shown(resolved, source)?),
                    None => None,
                };
                let wanted = CacheMount {
                    id,
                    initial: initial.as_ref().map(|(root, path)| Initial { root, path, identity: &identity }),
                    mode: *mode,
                    uid: *uid,
                    gid: *gid,
                    sharing: *sharing,
                };
                let place = self.workshop.place(self.store);
                let caches = prepared.caches.get_or_insert_with(|| Caches::new(place));
                let interrupted = || self.workshop.is_stopped();
                let source = caches.take(&wanted, self.progress, &interrupted)?;
                if self.workshop.single_id()
                    && let MountSource::Bind { root, path } = &source
                {
                    let stat = fs::open_dir(&root.join(path)).and_then(fs::stat);
                    let Stat { dev, ino, .. } = stat
                        .map_err(|source| StepError::Io { what: "cannot look at a cache mount", source })?;
                    let record = Attributes {
                        owner: Some((uid.unwrap_or(0), gid.unwrap_or(0))),
                        ..Attributes::default()
                    };
                    prepared.known.push((Inode { dev, ino }, record));
                }
                (source, *read_only)
            }
            MountKind::Tmpfs { size } => (MountSource::Tmpfs { size: *size }, false),
            MountKind::Secret { id, file, env, required, mode, owner } => {
                let Some(content) = self.secrets.get(id) else {
                    return match required {
                        true => Err(MountError::NoSecret { id: id.clone() }.into()),
                        false => Ok(()),
                    };
                };
                if let Some(name) = env {
                    let text = String::from_utf8(content.clone());
                    let text = text.map_err(|_| StepError::SecretText { id: id.clone() })?;
                    prepared.env.push(format!("{name}={text}"));
                }
                if !file {
                    return Ok(());
                }
                let (uid, gid) = if self.workshop.single_id() { (0, 0) } else { *owner };
                (MountSource::File { content: content.clone(), mode: *mode, uid, gid }, true)
            }
            MountKind::Script { content } => {
                let content = content.clone().into_bytes();
                (MountSource::File { content, mode: 0o755, uid: 0, gid: 0 }, true)
            }
        };
        prepared.mounts.push(Mount { target: mount.target.clone(), source, read_only });
        Ok(())
    }

    /// A trusted directory, and the path in it that a mount shows. A context of which an ignore file leaves
    /// something out is copied, less that.
    fn shown(&self, resolved: Resolved, source: &str) -> Result<(PathBuf, String), StepError> {
        let Resolved { root, selection, .. } = resolved;
        let Some(selection) = selection else { return Ok((root.unwrap_or_default(), source.to_owned())) };
        let io = |source| StepError::Io { what: "cannot make a directory for a mount", source };
        let dir = self.workshop.work.fresh("bind-");
        std::fs::create_dir(&dir).map_err(io)?;
        let root = fs::open_dir(&dir).map_err(io)?;
        let mut forgotten = Records::new();
        let mut ownership = Ownership { records: &mut forgotten, single: self.workshop.single_id() };
        copy_into(root.as_fd(), b"/shown", &selection, &CopyOptions::default(), &mut ownership)?;
        Ok((dir, "shown".to_owned()))
    }
}
