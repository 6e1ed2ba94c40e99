//! Writes the files of a copy into the directory of a layer, and says what they are.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cooper_runtime::sys::fs::{self, FileKind, Stat, Time};

use super::ground::{inherit, not_plain, own};
use super::{Made, Rules};
use crate::build::copy::write::SMALL;
use crate::context::hash::unchanged;
use crate::context::select::{Item, ItemKind, Origin, Source};
use crate::context::tree::{Cursor, join, split};
use crate::layer::entry::{Entry, EntryKind, normalise_xattr};
use crate::rootfs::describe::describe;
use crate::rootfs::freeze::same_bytes;
use crate::rootfs::lower::MergedDir;
use crate::rootfs::parallel;

/// As much as one thread takes at a time.
const SLICE_NAMES: usize = 64;
const SLICE_BYTES: u64 = 4 << 20;
/// In as many directories hard links may lie, each of which stays open until the last is made.
const LINKED_DIRS: usize = 128;
const CAPABILITY: &str = "security.capability";

/// A directory that is being written. Each job in it holds it, and each directory in it: who lets go of it
/// last ends it.
pub(super) struct Place {
    fd: OwnedFd,
    path: Vec<u8>,
    /// What the layers below have there; without, all in it is new.
    below: Option<MergedDir>,
    /// Whether something in it is in the layer.
    left: AtomicBool,
    /// What is to be done when all in it is done; not with the topmost.
    end: Option<End>,
}

struct End {
    parent: Arc<Place>,
    entry: Entry,
    /// Whether the layers below have the same, but for what is in it.
    same: bool,
    time: Time,
}

/// A name that is no directory, and where it goes.
pub(super) struct Leaf<'l> {
    pub(super) dir: BorrowedFd<'l>,
    pub(super) below: Option<&'l MergedDir>,
    pub(super) name: &'l OsStr,
    /// From the root.
    pub(super) path: Vec<u8>,
}

/// What a thread works with, and what it has made.
#[derive(Default)]
pub(super) struct Writer<'a> {
    /// Where it reads.
    from: Option<Cursor<'a>>,
    buffer: Vec<u8>,
    made: Made,
    /// Hard links yet to be made: where, and their items.
    pending: Vec<(Arc<Place>, usize)>,
}

enum Job {
    /// What is in the directory that is the item of this index.
    Content(Arc<Place>, usize),
    /// The directory that is the item of this index.
    Directory(Arc<Place>, usize),
    /// Other items.
    Leaves(Arc<Place>, Vec<usize>),
}

struct Tree<'a> {
    source: &'a Source,
    /// Tells this source's files with several names from others'.
    number: u64,
    rules: &'a Rules<'a>,
    /// For each directory the index behind all that is in it.
    ends: Vec<usize>,
    /// Items of which others are hard links.
    linked: HashSet<usize>,
}

/// Writes the content of the directory that `source` is into `place`, in the layer whose directory is
/// `root`.
pub(super) fn write(
    place: Place,
    root: BorrowedFd<'_>,
    source: &Source,
    number: u64,
    rules: &Rules<'_>,
    made: &mut Made,
) -> io::Result<Place> {
    let tree = Tree::of(source, number, rules)?;
    let place = Arc::new(place);
    let first = Job::Content(place.clone(), 0);
    let written = parallel::run(first, |job, more, writer: &mut Writer<'_>| tree.work(job, more, writer))?;
    let mut last = Writer::default();
    let mut pending = Vec::new();
    for mut writer in written {
        pending.append(&mut writer.pending);
        writer.give(made);
    }
    if !pending.is_empty() {
        made.entries.sort_by(|a, b| a.path.cmp(&b.path));
        made.records.sort_by(|a, b| a.0.cmp(&b.0));
        let mut cursor = Cursor::new(root);
        for (dir, at) in pending {
            tree.link(&dir, at, &place.path, &mut cursor, made, &mut last.made)?;
            tree.release(dir, &mut last)?;
        }
    }
    last.give(made);
    Arc::into_inner(place).ok_or_else(|| io::Error::other("a thread has ended before its work"))
}

/// Writes directories of a source, which has no hard links, on this thread: the items of these indices.
///
/// # Errors
/// Also when `over` becomes true.
pub(super) fn write_some(
    place: Place,
    source: &Source,
    tops: &HashSet<usize>,
    rules: &Rules<'_>,
    over: &AtomicBool,
    made: &mut Made,
) -> io::Result<()> {
    let tree = Tree::of(source, 0, rules)?;
    let place = Arc::new(place);
    let mut writer = Writer::default();
    let mut jobs: Vec<Job> = tops.iter().map(|at| Job::Directory(place.clone(), *at)).collect();
    while let Some(job) = jobs.pop() {
        if over.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        tree.work(job, &mut jobs, &mut writer)?;
    }
    writer.give(made);
    Ok(())
}

impl<'a> Tree<'a> {
    fn of(source: &'a Source, number: u64, rules: &'a Rules<'a>) -> io::Result<Tree<'a>> {
        let items = &source.items;
        let mut ends = vec![0; items.len()];
        let mut open: Vec<usize> = Vec::new();
        let (mut linked, mut dirs) = (HashSet::new(), HashSet::new());
        for (at, item) in items.iter().enumerate() {
            while let Some(dir) = open.pop_if(|dir| !lies_in(&item.path, &items[*dir].path)) {
                ends[dir] = at;
            }
            match item.kind {
                ItemKind::Directory => open.push(at),
                ItemKind::Hardlink(first) => {
                    linked.insert(first);
                    dirs.insert(split(&item.path).0);
                }
                _ => {}
            }
        }
        open.into_iter().for_each(|dir| ends[dir] = items.len());
        if dirs.len() > LINKED_DIRS {
            return Err(not_plain("hard links in many directories"));
        }
        Ok(Tree { source, number, rules, ends, linked })
    }

    fn work(&self, job: Job, more: &mut Vec<Job>, writer: &mut Writer<'a>) -> io::Result<()> {
        let place = match job {
            Job::Content(place, at) => {
                self.content(&place, at, more);
                place
            }
            Job::Directory(place, at) => {
                self.directory(&place, at, more, writer)?;
                place
            }
            Job::Leaves(place, items) => {
                for at in items {
                    let item = &self.source.items[at];
                    if let ItemKind::Hardlink(_) = item.kind {
                        writer.pending.push((place.clone(), at));
                        continue;
                    }
                    let (_, name) = split(&item.path);
                    let path = join(&place.path, name.as_bytes());
                    let leaf = Leaf { dir: place.fd.as_fd(), below: place.below.as_ref(), name, path };
                    let linked = self.linked.contains(&at).then_some((self.number, at as u64));
                    if writer.leaf(leaf, self.source, item, linked, self.rules)? {
                        place.left.store(true, Ordering::Relaxed);
                    }
                }
                place
            }
        };
        self.release(place, writer)
    }

    /// Finds what there is to write in a directory.
    fn content(&self, place: &Arc<Place>, dir: usize, more: &mut Vec<Job>) {
        let items = &self.source.items;
        let (mut leaves, mut bytes) = (Vec::new(), 0);
        let mut at = dir + 1;
        while at < self.ends[dir] {
            if items[at].kind == ItemKind::Directory {
                more.push(Job::Directory(place.clone(), at));
                at = self.ends[at];
                continue;
            }
            leaves.push(at);
            bytes += items[at].stat.size;
            if leaves.len() == SLICE_NAMES || bytes >= SLICE_BYTES {
                more.push(Job::Leaves(place.clone(), std::mem::take(&mut leaves)));
                bytes = 0;
            }
            at += 1;
        }
        if !leaves.is_empty() {
            more.push(Job::Leaves(place.clone(), leaves));
        }
    }

    /// Makes a directory, or one like that which the layers below have there.
    fn directory(
        &self,
        place: &Arc<Place>,
        at: usize,
        more: &mut Vec<Job>,
        writer: &mut Writer<'a>,
    ) -> io::Result<()> {
        let (item, rules) = (&self.source.items[at], self.rules);
        let (_, name) = split(&item.path);
        let path = join(&place.path, name.as_bytes());
        fs::check_depth(path.iter().filter(|b| **b == b'/').count() + 1)?;
        let mut entry = Entry {
            path: path.clone(),
            kind: EntryKind::Directory,
            mode: rules.mode(item),
            uid: rules.chown.0,
            gid: rules.chown.1,
            mtime: item.stat.mtime.sec,
            xattrs: Default::default(),
        };
        let found = place.below.as_ref().map(|below| below.lookup(name, &path)).transpose()?.flatten();
        // A file with another name by now is a link in the layer, and was not when it was written ahead: a
        // directory that is renamed into the context changes nothing of the files in it.
        let linked = || (at..self.ends[at]).any(|item| self.linked.contains(&item));
        if place.end.is_none() && found.is_none() && !rules.staged.is_empty() && !linked() {
            let items = &self.source.items[at..self.ends[at]];
            for staged in rules.staged {
                if let Some(entries) = staged.take(items, place.fd.as_fd(), &place.path, rules)? {
                    place.left.store(true, Ordering::Relaxed);
                    writer.made.entries.extend(entries);
                    return Ok(());
                }
            }
        }
        let (mut before, mut below) = (None, None);
        let fd = match (&found, &place.below) {
            (Some(found), Some(merged)) => {
                // Its owner would be changed, and that is more than one case where it is on record.
                if found.stat.kind != FileKind::Directory || found.record.is_some() || item.on_the_way {
                    return Err(not_plain("something else"));
                }
                let was = describe(found.dir, name, &found.stat, None, path.clone())?;
                // Root's, until `own` says otherwise.
                let stat = Stat { uid: 0, gid: 0, ..found.stat };
                let fd = inherit(found.dir, name, &stat, place.fd.as_fd(), rules.single)?;
                entry.xattrs = was.xattrs.clone();
                before = Some(was);
                below = Some(merged.open(name, found)?);
                fd.ok_or_else(|| not_plain("an access control list"))?
            }
            _ => {
                fs::make_private_dir_at(&place.fd, name)?;
                fs::open_dir_at(&place.fd, name)?
            }
        };
        own(place.fd.as_fd(), name, &path, rules, &mut writer.made.records)?;
        let (same, time) = clamped(&mut entry, item.stat.mtime, before.as_ref(), rules);
        let end = Some(End { parent: place.clone(), entry, same, time });
        let inner = Place { fd, path, below, left: false.into(), end };
        more.push(Job::Content(Arc::new(inner), at));
        Ok(())
    }

    /// Lets go of a directory, and ends it and those that it is in as far as nothing else is left to do.
    fn release(&self, place: Arc<Place>, writer: &mut Writer<'_>) -> io::Result<()> {
        let mut last = Arc::into_inner(place);
        while let Some(Place { fd, left, end: Some(end), .. }) = last {
            let End { parent, entry, same, time } = end;
            if same && !left.into_inner() {
                drop(fd);
                fs::remove_dir_at(&parent.fd, split(&entry.path).1)?;
            } else {
                // Only now: what is made in a directory moves its time, and a mode may keep us out.
                fs::chmod(&fd, entry.mode)?;
                fs::set_mtime(&fd, time)?;
                parent.left.store(true, Ordering::Relaxed);
                writer.made.entries.push(entry);
            }
            last = Arc::into_inner(parent);
        }
        Ok(())
    }

    /// Makes another name of a file, whose entry is in `made`, which is sorted.
    fn link(
        &self,
        place: &Place,
        at: usize,
        base: &[u8],
        cursor: &mut Cursor<'_>,
        made: &mut Made,
        more: &mut Made,
    ) -> io::Result<()> {
        let item = &self.source.items[at];
        let ItemKind::Hardlink(first) = item.kind else { return Ok(()) };
        let (_, name) = split(&item.path);
        let path = join(&place.path, name.as_bytes());
        if let Some(found) = place.below.as_ref().map(|b| b.lookup(name, &path)).transpose()?.flatten()
            && found.stat.kind == FileKind::Directory
        {
            return Err(not_plain("a directory"));
        }
        let peer = join(base, &self.source.items[first].path);
        let (dir, peer_name) = cursor.parent(&peer)?;
        fs::link_at(dir, peer_name, &place.fd, name)?;
        let file = made.entries.binary_search_by(|e| e.path.cmp(&peer));
        let file = file.map_err(|_| not_plain("a link to nothing"))?;
        if let Ok(record) = made.records.binary_search_by(|r| r.0.cmp(&peer)) {
            more.records.push((path.clone(), made.records[record].1.clone()));
        }
        more.entries.push(Entry { path: path.clone(), ..made.entries[file].clone() });
        more.links.push(((self.number, first as u64), path));
        place.left.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Place {
    /// The directory that a tree is written into.
    pub(super) fn top(fd: OwnedFd, path: Vec<u8>, below: Option<MergedDir>) -> Place {
        Place { fd, path, below, left: false.into(), end: None }
    }

    /// Gives it back, and whether something in it is in the layer.
    pub(super) fn into_parts(self) -> (OwnedFd, Option<MergedDir>, bool) {
        (self.fd, self.below, self.left.into_inner())
    }
}

impl<'a> Writer<'a> {
    /// Hands over what was made.
    pub(super) fn give(self, made: &mut Made) {
        made.entries.extend(self.made.entries);
        made.links.extend(self.made.links);
        made.records.extend(self.made.records);
    }

    /// Writes what is no directory; says whether it is in the layer. `linked` tells what will have more names.
    pub(super) fn leaf(
        &mut self,
        leaf: Leaf<'_>,
        source: &'a Source,
        item: &Item,
        linked: Option<(u64, u64)>,
        rules: &Rules<'_>,
    ) -> io::Result<bool> {
        let Leaf { dir, below, name, path } = leaf;
        let (kind, mode) = match &item.kind {
            ItemKind::File => (EntryKind::File { size: item.stat.size }, rules.mode(item)),
            ItemKind::Socket => (EntryKind::File { size: 0 }, rules.mode(item)),
            ItemKind::Fifo => (EntryKind::Fifo, rules.mode(item)),
            ItemKind::Symlink(target) => (EntryKind::Symlink { target: target.clone() }, 0o777),
            _ => return Err(not_plain("a device")),
        };
        let (uid, gid) = rules.chown;
        let mtime = rules.time(source, item);
        let mut entry = Entry { path, kind, mode, uid, gid, mtime: mtime.sec, xattrs: Default::default() };
        if let Some(value) = &item.capability {
            let name = CAPABILITY.as_bytes();
            entry.xattrs.insert(name.to_vec(), normalise_xattr(name, value.clone()));
        }
        let found = below.map(|below| below.lookup(name, &entry.path)).transpose()?.flatten();
        let before = match &found {
            Some(found) if found.stat.kind == FileKind::Directory => return Err(not_plain("a directory")),
            Some(found) if found.stat.kind != FileKind::Socket => {
                Some(describe(found.dir, name, &found.stat, found.record, entry.path.clone())?)
            }
            _ => None,
        };
        let (same, time) = clamped(&mut entry, mtime, before.as_ref(), rules);
        let mut from = match (&source.origin, &item.kind) {
            (Origin::Tree(tree), ItemKind::File) => {
                let cursor = self.from.get_or_insert_with(|| Cursor::new(tree.root()));
                let location = source.location_of(item);
                let (dir, name) = cursor.parent(&location)?;
                Some(fs::open_file_at(dir, name)?)
            }
            _ => None,
        };
        // One of several names is never what a single one was.
        if same
            && linked.is_none()
            && let Some(found) = &found
            && fs::try_stat_at(dir, name)?.is_none()
            && match (&source.origin, &mut from) {
                (Origin::Text(text), _) if item.kind == ItemKind::File => {
                    same_bytes(&mut &text[..], &mut fs::open_file_at(found.dir, name)?)?
                }
                (_, Some(from)) => {
                    let same = same_bytes(from, &mut fs::open_file_at(found.dir, name)?)?;
                    from.rewind()?;
                    still(item, from)?;
                    same
                }
                _ => true,
            }
        {
            return Ok(false);
        }
        match &item.kind {
            ItemKind::Symlink(target) => {
                fs::make_symlink_at(dir, name, OsStr::from_bytes(target))?;
                own(dir, name, &entry.path, rules, &mut self.made.records)?;
                fs::set_mtime_at(dir, name, time)?;
            }
            ItemKind::Fifo => {
                fs::make_node_at(dir, name, FileKind::Fifo, (0, 0))?;
                own(dir, name, &entry.path, rules, &mut self.made.records)?;
                fs::chmod_at(dir, name, mode)?;
                fs::set_mtime_at(dir, name, time)?;
            }
            _ => {
                let to = fs::create_file_with_mode_at(dir, name, mode & 0o777)?;
                match (from, &source.origin) {
                    (Some(from), _) => self.content(from, &to, item)?,
                    (None, Origin::Text(text)) => (&to).write_all(text)?,
                    (None, Origin::Tree(_)) => {}
                }
                own(dir, name, &entry.path, rules, &mut self.made.records)?;
                // A new owner and what is written clear some bits.
                if mode & (0o7000 | rules.umask) != 0 {
                    to.set_permissions(Permissions::from_mode(mode))?;
                }
                if let Some(value) = &item.capability {
                    fs::set_xattr_at(dir, name, OsStr::new(CAPABILITY), value)?;
                }
                fs::set_mtime(&to, time)?;
            }
        }
        if let Some(file) = linked {
            self.made.links.push((file, entry.path.clone()));
        }
        self.made.entries.push(entry);
        Ok(true)
    }

    fn content(&mut self, mut from: File, to: &File, item: &Item) -> io::Result<()> {
        let size = item.stat.size as usize;
        if size <= SMALL {
            self.buffer.resize(SMALL, 0);
            from.read_exact(&mut self.buffer[..size])?;
            (&*to).write_all(&self.buffer[..size])?;
        } else {
            fs::copy_contents(&from, to)?;
        }
        still(item, &from)
    }
}

/// Makes sure that an open file is what was selected, also after it was read.
fn still(item: &Item, file: &File) -> io::Result<()> {
    match unchanged(&item.stat, &fs::stat(file)?) {
        true => Ok(()),
        false => Err(not_plain("a source that has changed")),
    }
}

/// Clamps the time of an entry. Gives whether the layers below have the same, as far as the entry says, and
/// the time on the disk.
fn clamped(entry: &mut Entry, mtime: Time, before: Option<&Entry>, rules: &Rules<'_>) -> (bool, Time) {
    let same = before == Some(&*entry);
    let time = rules.clamp.time(mtime);
    entry.mtime = time.sec;
    (same || before == Some(&*entry), time)
}

/// Whether `path` lies somewhere below `dir`.
pub(super) fn lies_in(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.first() == Some(&b'/'))
}
