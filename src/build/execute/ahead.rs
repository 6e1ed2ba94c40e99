//! What can be done for a `COPY` while the `RUN` before it still runs on another processor.
//!
//! Nothing of it is relied on, so that nothing of it can be wrong: the `COPY` looks at its sources when its
//! turn has come, as if this had not been. It finds the hashes of files that did not change since, it finds
//! their directories written, and when its layer is packed, most of what it holds is compressed.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use cooper_runtime::sys::fs;
use cooper_runtime::sys::process::step_back;

use super::step::now_coarse;
use super::walk::Walk;
use super::{Executor, Opened, StepFailure};
use crate::build::StepError;
use crate::build::copy::Staged;
use crate::build::images::FoundImage;
use crate::build::sources::{Part, describe};
use crate::context::select::{Item, ItemKind, Origin as From, Source, names_directory};
use crate::context::stat_cache::clock;
use crate::context::tree::{Cursor, join};
use crate::layer::compress::Compression;
use crate::layer::content::FileContent;
use crate::layer::entry::{Entry, EntryKind};
use crate::layer::write::TarWriter;
use crate::plan::{Action, CopyStep, Origin, Stage, key};

/// More than this is neither hashed nor written ahead: it would hold up the end of a build that fails
/// meanwhile.
const HASHED: u64 = 256 << 20;
/// More files and directories than this are not written ahead, to remember what each was.
const WRITTEN: usize = 50_000;
/// What is written ahead takes space at a time when the RUN may need all that there is. So it has to be this
/// many times what the COPY takes, and as many bytes more.
const ROOM: (u64, u64) = (8, 1 << 30);
/// Less than this is not compressed ahead.
const COMPRESSED: u64 = 4 << 20;

/// What was written ahead for a step.
pub(super) struct Ready {
    /// The step, in its stage.
    pub(super) step: usize,
    pub(super) staged: Vec<Staged>,
}

impl Executor<'_, '_> {
    /// Carries a step out, and on another thread what can be done for the next `COPY`, if there is room. What
    /// is ready for that one is added to `walk`.
    pub(super) fn with_next_copy<T>(
        &self,
        walk: &mut Walk,
        stage: &Stage<FoundImage>,
        opened: &Opened,
        carry_out: impl FnOnce(&Walk) -> T,
    ) -> T {
        let is_run = matches!(stage.steps[walk.next].action, Action::Run(_));
        let mut steps = stage.steps.iter().enumerate().skip(walk.next + 1);
        let next = steps.find_map(|(number, step)| match &step.action {
            Action::Copy(copy) => Some((number, copy)),
            _ => None,
        });
        let next = next.filter(|(_, copy)| is_run && is_plain(copy) && self.board.has_room());
        let Some((step, copy)) = next else { return carry_out(walk) };
        let (over, below) = (&AtomicBool::new(false), walk.end.time);
        // An earlier RUN may have left time for some of it.
        let mut staged = walk.take_ready(step);
        let (done, staged) = std::thread::scope(|scope| {
            let ahead = move || {
                // The RUN may have use for all processors.
                step_back();
                let _urgent = self.leisure.urgent();
                if let Err(StepFailure::Step(e)) = self.ahead(copy, below, opened, over, &mut staged) {
                    tracing::debug!("nothing more done ahead for {}: {e}", copy.dest);
                }
                staged
            };
            // Without a thread there is nothing done ahead, and that is all.
            let thread = std::thread::Builder::new().name("ahead".to_owned()).spawn_scoped(scope, ahead);
            let done = carry_out(walk);
            over.store(true, Ordering::Relaxed);
            (done, thread.ok().and_then(|thread| thread.join().ok()).unwrap_or_default())
        });
        walk.ready = Some(Ready { step, staged });
        done
    }

    /// `below` is how new the layers below are, seconds since 1970.
    fn ahead(
        &self,
        copy: &CopyStep<FoundImage>,
        below: i64,
        opened: &Opened,
        over: &AtomicBool,
        staged: &mut Vec<Staged>,
    ) -> Result<(), StepFailure> {
        let Origin::Context(context) = &copy.from else { return Ok(()) };
        let copied = self.copied_beforehand(copy)?;
        let sources = || copied.parts.iter().flat_map(|part| &part.selection.sources);
        let items = sources().flat_map(|s| &s.items);
        let bytes: u64 = items.filter(|item| item.kind == ItemKind::File).map(|item| item.stat.size).sum();
        let count: usize = sources().map(|s| s.items.len()).sum();
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
        let free = fs::open_dir(opened.workshop.work.path()).and_then(fs::free_space);
        if free.is_ok_and(|free| free < bytes.saturating_mul(ROOM.0).saturating_add(ROOM.1)) {
            tracing::debug!("nothing is written ahead for {}: there is not much space left", copy.dest);
            return Ok(());
        }
        let from = now_coarse();
        let clamp = self.options.times.clamp(from, from + 1, copied.time.max(below));
        let written = bytes <= HASHED && count <= WRITTEN && staged.is_empty();
        let mut rest = Vec::new();
        for Part { selection, .. } in copied.parts {
            let into_directory = selection.dest_is_directory || names_directory(copy.dest.as_bytes());
            for source in selection.sources {
                let dest = destination(copy, &source, into_directory);
                if !written || !source.is_directory() {
                    rest.push((dest, source));
                    continue;
                }
                let storage = &opened.workshop.storage;
                match Staged::write(storage, source, &dest, clamp, clock(), over) {
                    Ok(written) => staged.push(written),
                    Err((source, e)) => {
                        tracing::debug!("{} is not written ahead: {e}", dest.escape_ascii());
                        rest.push((dest, source));
                    }
                }
            }
        }
        if bytes >= COMPRESSED && matches!(self.options.compression, Compression::Gzip { .. }) {
            let staged = staged.iter().filter(|_| written).map(|staged| (staged.base(), staged.source()));
            let rest = rest.iter().map(|(dest, source)| (&dest[..], source));
            let compressed = self.compress(staged.chain(rest), opened, over);
            compressed.map_err(|source| StepError::Io { what: "cannot compress ahead", source })?;
        }
        Ok(())
    }

    /// Compresses an archive like the one that the step's layer will most likely be: of sources, and where in
    /// the layer each goes.
    fn compress<'s>(
        &self,
        sources: impl Iterator<Item = (&'s [u8], &'s Source)>,
        opened: &Opened,
        over: &AtomicBool,
    ) -> io::Result<()> {
        let mut files = Vec::new();
        for (dest, source) in sources {
            files.extend(source.items.iter().filter_map(|item| Some((entry(dest, item)?, source, item))));
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
            let file = fs::open_file_at(dir, name)?;
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
