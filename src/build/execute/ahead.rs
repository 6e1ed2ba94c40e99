//! What can be done for a `COPY` while the `RUN` before it still runs on another processor.
//!
//! Nothing of it is relied on, so that nothing of it can be wrong: the `COPY` looks at its sources when its
//! turn has come, as if this had not been. It finds the hashes of files that did not change since, and when
//! its layer is packed, most of what it holds is compressed.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use cooper_runtime::sys::process::step_back;

use super::cached::Copied;
use super::{Executor, Opened, StepFailure};
use crate::build::StepError;
use crate::build::images::FoundImage;
use crate::build::sources::describe;
use crate::context::select::{Item, ItemKind, Origin as From, Source, names_directory};
use crate::context::tree::{Cursor, join};
use crate::layer::compress::Compression;
use crate::layer::content::FileContent;
use crate::layer::entry::{Entry, EntryKind};
use crate::layer::write::TarWriter;
use crate::plan::{Action, CopyStep, Origin, Stage, key};

/// More than this is not hashed ahead: it would hold up the end of a build that fails meanwhile.
const HASHED: u64 = 256 << 20;
/// Less than this is not compressed ahead.
const COMPRESSED: u64 = 4 << 20;

impl Executor<'_, '_> {
    /// Carries a step out, and on another thread what can be done for the next `COPY`, if there is room.
    pub(super) fn with_next_copy<T>(
        &self,
        stage: &Stage<FoundImage>,
        number: usize,
        opened: &Opened,
        carry_out: impl FnOnce() -> T,
    ) -> T {
        let next = stage.steps[number + 1..].iter().find_map(|step| match &step.action {
            Action::Copy(copy) => Some(copy),
            _ => None,
        });
        let is_run = matches!(stage.steps[number].action, Action::Run(_));
        let Some(copy) = next.filter(|copy| is_run && is_plain(copy) && self.board.has_room()) else {
            return carry_out();
        };
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let ahead = || {
                // The RUN may have use for all processors.
                step_back();
                if let Err(StepFailure::Step(e)) = self.ahead(copy, opened, &over) {
                    tracing::debug!("nothing done ahead for {}: {e}", copy.dest);
                }
            };
            // Without a thread there is nothing done ahead, and that is all.
            let _ = std::thread::Builder::new().name("ahead".to_owned()).spawn_scoped(scope, ahead);
            let done = carry_out();
            over.store(true, Ordering::Relaxed);
            done
        })
    }

    fn ahead(
        &self,
        copy: &CopyStep<FoundImage>,
        opened: &Opened,
        over: &AtomicBool,
    ) -> Result<(), StepFailure> {
        let Origin::Context(context) = &copy.from else { return Ok(()) };
        let copied = self.copied_beforehand(copy)?;
        let items = copied.parts.iter().flat_map(|part| &part.selection.sources).flat_map(|s| &s.items);
        let bytes: u64 = items.filter(|item| item.kind == ItemKind::File).map(|item| item.stat.size).sum();
        if bytes <= HASHED {
            let mut description = key::copy(copy, &self.options.times.key());
            for content in self.sources.contents(Some(context), &copied.parts)? {
                describe(&mut description, &content);
            }
            // It may well be in the cache.
            let directory = description.key().directory();
            if !self.options.no_cache && self.store.cache_path(&directory).is_dir() {
                return Ok(());
            }
        }
        if bytes >= COMPRESSED && matches!(self.options.compression, Compression::Gzip { .. }) {
            let compressed = self.compress(copy, &copied, opened, over);
            compressed.map_err(|source| StepError::Io { what: "cannot compress ahead", source })?;
        }
        Ok(())
    }

    /// Compresses an archive like the one that the step's layer will most likely be.
    fn compress(
        &self,
        copy: &CopyStep<FoundImage>,
        copied: &Copied,
        opened: &Opened,
        over: &AtomicBool,
    ) -> io::Result<()> {
        let mut files = Vec::new();
        for selection in copied.parts.iter().map(|part| &part.selection) {
            let into_directory = selection.dest_is_directory || names_directory(copy.dest.as_bytes());
            for source in &selection.sources {
                let dest = destination(copy, source, into_directory);
                files
                    .extend(source.items.iter().filter_map(|item| Some((entry(&dest, item)?, source, item))));
            }
        }
        files.sort_by(|(a, ..), (b, ..)| a.path.cmp(&b.path));
        let writer =
            opened.packer.ahead().start(self.store, &opened.workshop.work, self.options.compression)?;
        let mut tar = TarWriter::new(io::BufWriter::with_capacity(256 * 1024, writer));
        let mut open: Option<(&Source, Cursor<'_>)> = None;
        for (entry, source, item) in files {
            if over.load(Ordering::Relaxed) {
                return Ok(());
            }
            let From::Tree(tree) = &source.origin else { continue };
            let EntryKind::File { size } = entry.kind else {
                tar.append(&entry, &mut io::empty())?;
                continue;
            };
            let cursor = match &mut open {
                Some((of, cursor)) if std::ptr::eq(*of, source) => cursor,
                other => &mut other.insert((source, Cursor::new(tree.root()))).1,
            };
            let location = source.location_of(item);
            let (dir, name) = cursor.parent(&location)?;
            let file = cooper_runtime::sys::fs::open_file_at(dir, name)?;
            tar.append(&entry, &mut FileContent::new(file, size))?;
        }
        tar.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
        Ok(())
    }
}

/// Whether what a `COPY` will make of its files can be told without the layers below.
fn is_plain(copy: &CopyStep<FoundImage>) -> bool {
    let local = matches!(copy.from, Origin::Context(_)) && copy.has_paths();
    local && copy.add.is_none() && copy.chown.is_none() && copy.chmod.is_none() && !copy.parents
}

/// Where a source goes, without the slash at the beginning.
fn destination(copy: &CopyStep<FoundImage>, source: &Source, into_directory: bool) -> Vec<u8> {
    let dest = copy.dest.trim_matches('/').as_bytes();
    if source.is_directory() || !into_directory { dest.to_vec() } else { join(dest, &source.name) }
}

fn entry(dest: &[u8], item: &Item) -> Option<Entry> {
    let kind = match &item.kind {
        ItemKind::Directory => EntryKind::Directory,
        ItemKind::File => EntryKind::File { size: item.stat.size },
        ItemKind::Symlink(target) => EntryKind::Symlink { target: target.clone() },
        _ => return None,
    };
    let mode = if matches!(kind, EntryKind::Symlink { .. }) { 0o777 } else { item.stat.mode };
    let (path, mtime) = (join(dest, &item.path), item.stat.mtime.sec);
    (!path.is_empty()).then(|| Entry { path, kind, mode, uid: 0, gid: 0, mtime, xattrs: Default::default() })
}
