//! Writes what a COPY or ADD selected straight into the directory of a layer.
//!
//! Nothing is mounted: what a copy needs to know of what lies below is read from the layers there, and what
//! the layer says of a file is known when it is written, so nobody has to find it again. Directories are
//! spread over threads.
//!
//! Directories that were [written ahead](Staged) are moved in.
//!
//! The layer is the one that [`copy_into`](super::copy_into) would leave in a mounted root, byte for byte.
//! What is not plain does not go this way, and neither does what fails: whoever calls writes it into a
//! mounted root then, and is told there what is wrong. That are archives to extract, devices, names that
//! two sources write, directories that meet something else, `--parents` over directories that are there,
//! and existing directories with an access control list or, where their owner is changed, a record.

mod ground;
mod staged;
mod tree;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use cooper_runtime::record::Attributes;
use cooper_runtime::sys::fs::{self, Time};

use super::{Chmod, CopyOptions, CopyReport};
use crate::context::select::{Item, ItemKind, Origin, Selection, Source, names_directory};
use crate::layer::entry::Entry;
use crate::rootfs::freeze::{keep_records, link};
use crate::rootfs::storage::{Storage, discard};
use crate::rootfs::way::Way;
use crate::rootfs::{Clamp, Frozen, LayerDir, Records};
use ground::Ground;
pub use staged::Staged;

/// Where a copy is written to, and how.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Makes the layer's directory.
    pub storage: &'a Storage,
    /// What lies below, lowest first.
    pub parents: &'a [LayerDir],
    /// The destination, as for [`copy_into`](super::copy_into).
    pub dest: &'a [u8],
    /// Which times the layer has.
    pub clamp: Clamp,
    /// When the copy began, seconds since 1970: what has no time of its own is as old as this.
    pub now: i64,
    /// What was written before.
    pub staged: &'a [Staged],
}

/// Writes selections one after the other. `None` when this way does not do for them; nothing is left then.
pub fn copy_directly(
    target: &Target<'_>,
    parts: &[(&Selection, CopyOptions)],
) -> Option<(Frozen, Vec<CopyReport>)> {
    if !parts.iter().all(|(selection, options)| is_plain(selection, options)) {
        return None;
    }
    let (path, root) = target.storage.empty_layer().ok()?;
    match write(target, parts, &path, root) {
        Ok(Some(frozen)) => Some((frozen, parts.iter().map(|(selection, _)| report(selection)).collect())),
        Ok(None) => {
            discard(&path);
            None
        }
        Err(e) => {
            tracing::debug!("a copy to {} is not written directly: {e}", target.dest.escape_ascii());
            discard(&path);
            None
        }
    }
}

/// Whether a selection has only what can be written directly.
fn is_plain(selection: &Selection, options: &CopyOptions) -> bool {
    let mut sources = selection.sources.iter();
    sources.all(|source| {
        let archive =
            options.unpack && !source.is_directory() && source.items.iter().any(|i| i.stat.size > 0);
        let device = |item: &Item| matches!(item.kind, ItemKind::CharDevice(..) | ItemKind::BlockDevice(..));
        !archive && !source.items.iter().any(device)
    })
}

fn report(selection: &Selection) -> CopyReport {
    let mut report = CopyReport::default();
    for item in selection.sources.iter().flat_map(|source| &source.items) {
        match item.kind {
            ItemKind::Directory => report.directories += 1,
            ItemKind::File => {
                (report.files, report.bytes) = (report.files + 1, report.bytes + item.stat.size)
            }
            _ => report.files += 1,
        }
    }
    report
}

fn write(
    target: &Target<'_>,
    parts: &[(&Selection, CopyOptions)],
    path: &Path,
    root: OwnedFd,
) -> io::Result<Option<Frozen>> {
    let mut made = Made::default();
    let mut ground = None;
    let mut root = Some(root);
    for (selection, options) in parts {
        let rules = Rules {
            chown: options.chown.unwrap_or((0, 0)),
            chmod: options.chmod.as_ref(),
            clamp: target.clamp,
            now: Time { sec: target.now, nsec: 0 },
            single: target.storage.single_id(),
            umask: umask(),
            staged: target.staged,
        };
        for source in &selection.sources {
            let Some(first) = source.items.first() else { continue };
            let ground = match (&mut ground, root.take()) {
                (Some(ground), _) => ground,
                (none, Some(root)) => {
                    let Some(way) = Way::find(target.parents, target.dest)? else { return Ok(None) };
                    let into = selection.dest_is_directory || names_directory(target.dest);
                    let directory = into || first.kind == ItemKind::Directory;
                    let Some(laid) = Ground::lay(root, target.parents, way, directory, &rules, &mut made)?
                    else {
                        return Ok(None);
                    };
                    none.insert(laid)
                }
                (None, None) => return Ok(None),
            };
            match first.kind {
                ItemKind::Directory if ground.is_directory() => {
                    ground.directory(source, &rules, &mut made)?
                }
                ItemKind::Directory => return Ok(None),
                _ => ground.single(source, first, &rules, &mut made)?,
            }
        }
    }
    match (ground, root) {
        (Some(ground), _) => ground.end(target.clamp, &mut made)?,
        // Nothing is copied.
        (None, Some(root)) => {
            fs::chmod(&root, ground::own_root(&root, target.parents, target.storage.single_id())?)?;
        }
        (None, None) => {}
    }
    let Made { mut entries, links, records } = made;
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    // Names of one file are told apart from those of others by source and first item.
    link(&mut entries, links);
    let mut records: Records = records.into_iter().collect();
    keep_records(&mut records, &entries);
    Ok(Some(Frozen { layer: LayerDir { path: path.to_owned(), records: records.into() }, entries }))
}

/// What holds for all that a selection writes.
struct Rules<'a> {
    chown: (u32, u32),
    chmod: Option<&'a Chmod>,
    clamp: Clamp,
    now: Time,
    single: bool,
    umask: u32,
    staged: &'a [Staged],
}

impl Rules<'_> {
    fn mode(&self, item: &Item) -> u32 {
        let is_directory = item.kind == ItemKind::Directory;
        self.chmod.map_or(item.stat.mode, |chmod| chmod.apply(item.stat.mode, is_directory))
    }

    /// The time that an item brings. A here-document has none of its own.
    fn time(&self, source: &Source, item: &Item) -> Time {
        match source.origin {
            Origin::Tree(_) => item.stat.mtime,
            Origin::Text(_) => self.now,
        }
    }
}

/// What was written.
#[derive(Debug, Default)]
struct Made {
    entries: Vec<Entry>,
    /// Files with several names.
    links: Vec<((u64, u64), Vec<u8>)>,
    records: Vec<(Vec<u8>, Attributes)>,
}

/// The mode bits that new files of this process do not get; all where the kernel does not tell
/// (`proc(5)`, since Linux 4.7).
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o777)
}

#[cfg(test)]
mod tests;
