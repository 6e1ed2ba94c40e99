//! From an overlay's upper directory to a layer.
//!
//! A layer is a function of two trees, the parent's and the result's: an entry is in it exactly when
//! what the layer would say about the name differs. An upper directory holds more than that: files
//! that were opened for writing and left as they were, directories on the way to them, directories
//! marked opaque whose new content partly equals the old. Freezing takes those away, so that the
//! directory afterwards is what applying the layer's tar to an empty directory would give, and can be
//! stacked on any parent.
//!
//! Nobody else may have the directory open or mounted.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use cooper_runtime::record::Attributes;
use cooper_runtime::sys::fs::{self, FileKind, Stat, Time};

use super::lower::{self, MergedDir};
use super::{Clamp, LayerDir, Records};
use crate::layer::apply::{ROOT_XATTR, make_whiteout};
use crate::layer::entry::{Entry, EntryKind, kept_xattr, normalise_xattr};

/// Freezes `upper` over `parents` (lowest first) and gives the layer's entries, sorted by path.
/// `records` holds what was recorded while working in it, and afterwards what is on record of the whole
/// layer. With `single`, owners were recorded and not made.
pub fn freeze(
    upper: BorrowedFd<'_>,
    parents: &[LayerDir],
    clamp: Clamp,
    records: &mut Records,
    single: bool,
) -> io::Result<Vec<Entry>> {
    let root = MergedDir::root(parents)?;
    let mut freezer = Freezer { clamp, records, single, entries: Vec::new(), links: HashMap::new() };
    freezer.root(upper, &root)?;
    freezer.directory(upper, Some(&root), &[], false)?;
    let mut entries = freezer.entries;
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    elect_link_targets(&mut entries);
    records.retain(|path, record| {
        // What is not on record belongs to root where owners cannot be made, else to whom it belongs.
        if record.owner == Some((0, 0)) {
            record.owner = None;
        }
        let entry = entries.binary_search_by(|e| e.path.cmp(path));
        !record.is_empty() && entry.is_ok_and(|at| entries[at].kind != EntryKind::Whiteout)
    });
    Ok(entries)
}

struct Freezer<'a> {
    clamp: Clamp,
    records: &'a mut Records,
    single: bool,
    entries: Vec<Entry>,
    /// Device and inode of files with several names → the first name met.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl Freezer<'_> {
    /// The root directory is in the layer only when its mode or owner has changed: its time changes
    /// with everything below it, and Docker's layers do not speak of it at all.
    fn root(&mut self, upper: BorrowedFd<'_>, parent: &MergedDir) -> io::Result<()> {
        strip(upper, OsStr::new("."))?;
        let stat = fs::stat(upper)?;
        let (mut entry, _) = self.entry(upper, OsStr::new("."), &stat, Vec::new())?;
        let before = parent.root_attributes()?;
        if (entry.mode, entry.uid, entry.gid) != before {
            fs::set_xattr_at(upper, OsStr::new("."), OsStr::new(ROOT_XATTR), b"1")?;
            entry.mtime = self.clamp.apply(entry.mtime);
            self.entries.push(entry);
        }
        Ok(())
    }

    /// Freezes what is in a directory; says whether anything is left in it.
    fn directory(
        &mut self,
        dir: BorrowedFd<'_>,
        parent: Option<&MergedDir>,
        path: &[u8],
        opaque: bool,
    ) -> io::Result<bool> {
        // The stack holds so many levels and no more; Docker's own tar writer ends at paths of 4096 bytes.
        let depth = if path.is_empty() { 0 } else { path.iter().filter(|b| **b == b'/').count() + 1 };
        fs::check_depth(depth)?;
        let mut left = false;
        let names = fs::list(dir)?;
        if opaque && let Some(parent) = parent {
            // All names of the parent are gone; say it of each.
            let present: std::collections::HashSet<&OsStr> =
                names.iter().map(|e| e.name.as_os_str()).collect();
            for name in parent.names()? {
                if !present.contains(name.as_os_str()) {
                    make_whiteout(dir, &name)?;
                    self.entries.push(whiteout(join(path, &name)));
                    left = true;
                }
            }
        }
        for entry in names {
            left |= self.name(dir, parent, &entry.name, join(path, &entry.name), opaque)?;
        }
        Ok(left)
    }

    /// Freezes one name; says whether it is in the layer. `opaque` says that the directory it is in
    /// hides what the parent has there: the kernel marks only the topmost such directory, and those in
    /// it are opaque without a mark.
    fn name(
        &mut self,
        dir: BorrowedFd<'_>,
        parent: Option<&MergedDir>,
        name: &OsStr,
        path: Vec<u8>,
        opaque: bool,
    ) -> io::Result<bool> {
        let stat = fs::stat_at(dir, name)?;
        let found = match parent {
            Some(parent) => parent.lookup(name, &path)?,
            None => None,
        };
        if stat.is_whiteout() {
            if found.is_none() {
                fs::unlink_at(dir, name)?;
                return Ok(false);
            }
            self.entries.push(whiteout(path));
            return Ok(true);
        }
        if stat.kind == FileKind::Socket {
            // No layer can hold one. What it replaced is gone all the same.
            fs::unlink_at(dir, name)?;
            if found.is_some() {
                make_whiteout(dir, name)?;
                self.entries.push(whiteout(path));
            }
            return Ok(found.is_some());
        }
        if let Some(found) = &found
            && let Some(record) = found.record
            && !opaque
            && !self.records.contains_key(&path)
            && is_copy_of_lower(dir, name, stat.kind, found)?
        {
            self.records.insert(path.clone(), record.clone());
        }
        // Files on record belong to root; one that does not was given away since, by the kernel.
        if !self.single
            && (stat.uid, stat.gid) != (0, 0)
            && let Some(record) = self.records.get_mut(&path)
        {
            record.owner = None;
        }
        let (mut entry, stat) = self.entry(dir, name, &stat, path)?;
        let before = match &found {
            Some(found) => self.entry_below(found, name, &entry.path)?,
            None => None,
        };
        // Compared before and after the time is clamped: what nobody touched is the same even where
        // its time is newer than the clamp, and what was touched may be the same once it is clamped.
        let mut same = before.as_ref() == Some(&entry);
        let clamped = self.clamp.apply(entry.mtime);
        let final_time = if clamped == entry.mtime { stat.mtime } else { Time { sec: clamped, nsec: 0 } };
        entry.mtime = clamped;
        same |= before.as_ref() == Some(&entry);
        if stat.kind != FileKind::Directory {
            return self.leaf(dir, name, &stat, entry, found, same, final_time);
        }

        let inner = fs::open_dir_at(dir, name)?;
        let opaque = opaque || lower::is_opaque(dir, name)?;
        let below = match (&found, parent) {
            (Some(found), Some(parent)) if found.stat.kind == FileKind::Directory => {
                Some(parent.open(name, found)?)
            }
            _ => None,
        };
        let at = self.entries.len();
        let path = entry.path.clone();
        self.entries.push(entry);
        let left = self.directory(inner.as_fd(), below.as_ref(), &path, opaque)?;
        drop(inner);
        if same && !left {
            self.entries.remove(at);
            fs::remove_dir_at(dir, name)?;
            return Ok(false);
        }
        strip(dir, name)?;
        // Taking names away, or marking them as gone, has touched the directory.
        fs::set_mtime_at(dir, name, final_time)?;
        Ok(true)
    }

    #[expect(clippy::too_many_arguments, reason = "one name, as seen in both trees")]
    fn leaf(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Stat,
        mut entry: Entry,
        found: Option<lower::Found<'_>>,
        same: bool,
        time: Time,
    ) -> io::Result<bool> {
        // A file with several names here has become part of a group of links, which the parent did
        // not know: that is a difference.
        if same
            && stat.nlink == 1
            && let Some(found) = found
            && (stat.kind != FileKind::File || same_content(dir, found.dir, name)?)
        {
            fs::unlink_at(dir, name)?;
            return Ok(false);
        }
        strip(dir, name)?;
        if time != stat.mtime {
            fs::set_mtime_at(dir, name, time)?;
        }
        if stat.nlink > 1 {
            match self.links.entry((stat.dev, stat.ino)) {
                std::collections::hash_map::Entry::Occupied(first) => {
                    entry.kind = EntryKind::Hardlink { target: first.get().clone() };
                }
                std::collections::hash_map::Entry::Vacant(slot) => {
                    slot.insert(entry.path.clone());
                }
            }
        }
        self.entries.push(entry);
        Ok(true)
    }

    /// What a layer says of a name in the upper directory, with its attributes as they ought to be; the
    /// time is not clamped yet.
    fn entry(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Stat,
        path: Vec<u8>,
    ) -> io::Result<(Entry, Stat)> {
        let record = self.records.get(&path);
        let mut stat = *stat;
        if self.single {
            (stat.uid, stat.gid) = (0, 0);
        }
        if let Some(record) = record {
            lower::dress(&mut stat, record);
        }
        Ok((describe(dir, name, &stat, record, path)?, stat))
    }

    /// What a layer would say of the parent's name. `None` for what no layer says.
    fn entry_below(&self, found: &lower::Found<'_>, name: &OsStr, path: &[u8]) -> io::Result<Option<Entry>> {
        if found.stat.kind == FileKind::Socket {
            return Ok(None);
        }
        Ok(Some(describe(found.dir, name, &found.stat, found.record, path.to_vec())?))
    }
}

/// The layer entry of one name, as it stands; `stat` says already what is on record.
pub(crate) fn describe(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    stat: &Stat,
    record: Option<&Attributes>,
    path: Vec<u8>,
) -> io::Result<Entry> {
    let kind = match stat.kind {
        FileKind::Directory => EntryKind::Directory,
        FileKind::File => EntryKind::File { size: stat.size },
        FileKind::Symlink => EntryKind::Symlink { target: fs::read_link_at(dir, name)?.as_bytes().to_vec() },
        FileKind::CharDevice => EntryKind::CharDevice { major: stat.rdev.0, minor: stat.rdev.1 },
        FileKind::BlockDevice => EntryKind::BlockDevice { major: stat.rdev.0, minor: stat.rdev.1 },
        FileKind::Fifo => EntryKind::Fifo,
        FileKind::Socket => return Err(io::Error::from(io::ErrorKind::InvalidInput)),
    };
    let mut xattrs: BTreeMap<_, _> = fs::xattrs_at(dir, name)?
        .into_iter()
        .map(|(name, value)| (name.as_bytes().to_vec(), value))
        .filter(|(name, _)| kept_xattr(name))
        .map(|(name, value)| {
            let value = normalise_xattr(&name, value);
            (name, value)
        })
        .collect();
    xattrs.extend(record.iter().flat_map(|r| r.xattrs.clone()));
    let mode = if stat.kind == FileKind::Symlink { 0o777 } else { stat.mode };
    Ok(Entry { path, kind, mode, uid: stat.uid, gid: stat.gid, mtime: stat.mtime.sec, xattrs })
}

/// Takes away the attributes that are bookkeeping: the kernel's, which would mean something else in
/// another stack, and those named like ours, which a step may have set. No layer speaks of either, so
/// two layers with one diff ID could differ in them.
fn strip(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    for attr in fs::xattr_names_at(dir, name)? {
        let bytes = attr.as_bytes();
        if bytes.starts_with(b"user.overlay.") || bytes.starts_with(b"user.cooper.") {
            fs::remove_xattr_at(dir, name, &attr)?;
        }
    }
    Ok(())
}

/// Whether the upper directory's name was copied up from below, which the kernel notes, and not made
/// anew under the same name.
fn is_copy_of_lower(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    kind: FileKind,
    found: &lower::Found<'_>,
) -> io::Result<bool> {
    // What stands for a device is an empty file.
    let device = found.record.is_some_and(|r| r.node.is_some());
    let lower = if device { FileKind::File } else { found.stat.kind };
    match kind {
        kind if kind != lower => Ok(false),
        // Directories are merged with what is below them unless they are opaque.
        FileKind::Directory => Ok(!lower::is_opaque(dir, name)?),
        FileKind::File => Ok(fs::xattr_at(dir, name, OsStr::new("user.overlay.origin"))?.is_some()),
        // User attributes do not exist on anything else, so nothing tells; a link that is there
        // again is taken for the same.
        _ => Ok(true),
    }
}

fn same_content(a: BorrowedFd<'_>, b: BorrowedFd<'_>, name: &OsStr) -> io::Result<bool> {
    let (mut a, mut b) = (fs::open_file_at(a, name)?, fs::open_file_at(b, name)?);
    let (mut left, mut right) = (vec![0; 128 * 1024], vec![0; 128 * 1024]);
    loop {
        let n = read_full(&mut a, &mut left)?;
        let m = read_full(&mut b, &mut right)?;
        if left[..n] != right[..m] {
            return Ok(false);
        }
        if n == 0 {
            return Ok(true);
        }
    }
}

fn read_full(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

/// The walk meets names in the file system's order; in the layer the first name by path is the file,
/// and the others link to it.
fn elect_link_targets(entries: &mut [Entry]) {
    let mut groups: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
    for (at, entry) in entries.iter().enumerate() {
        if let EntryKind::Hardlink { target } = &entry.kind {
            groups.entry(target.clone()).or_default().push(at);
        }
    }
    for (file, links) in groups {
        let Ok(file_at) = entries.binary_search_by(|e| e.path.cmp(&file)) else { continue };
        let first = links.iter().copied().min().unwrap_or(file_at).min(file_at);
        let target = entries[first].path.clone();
        let kind = entries[file_at].kind.clone();
        for at in links.into_iter().chain([file_at]) {
            entries[at].kind = EntryKind::Hardlink { target: target.clone() };
        }
        entries[first].kind = kind;
    }
}

fn whiteout(path: Vec<u8>) -> Entry {
    Entry { path, kind: EntryKind::Whiteout, mode: 0, uid: 0, gid: 0, mtime: 0, xattrs: BTreeMap::new() }
}

pub(super) fn join(path: &[u8], name: &OsStr) -> Vec<u8> {
    let mut joined = path.to_vec();
    if !joined.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name.as_bytes());
    joined
}

/// Opens the regular file at `path` below `dir`, component by component.
pub(crate) struct FileOpener {
    /// Directories from the layer's root to the last file opened, with their names.
    open: Vec<(OsString, OwnedFd)>,
    root: OwnedFd,
}

impl FileOpener {
    pub(crate) fn new(root: BorrowedFd<'_>) -> io::Result<FileOpener> {
        Ok(FileOpener { open: Vec::new(), root: fs::open_dir_at(root, OsStr::new("."))? })
    }

    /// Paths that come sorted share most of their directories, which stay open.
    pub(crate) fn open(&mut self, path: &[u8]) -> io::Result<std::fs::File> {
        let mut components: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
        let name = components.pop().unwrap_or_default();
        let shared = self
            .open
            .iter()
            .zip(&components)
            .take_while(|((have, _), want)| have.as_bytes() == **want)
            .count();
        self.open.truncate(shared);
        for component in &components[shared..] {
            let component = OsStr::from_bytes(component);
            let parent = self.open.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd());
            let next = fs::open_dir_at(parent, component)?;
            self.open.push((component.to_owned(), next));
        }
        let parent = self.open.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd());
        fs::open_file_at(parent, OsStr::from_bytes(name))
    }
}
