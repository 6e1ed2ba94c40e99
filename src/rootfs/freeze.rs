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

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cooper_runtime::record::Attributes;
use cooper_runtime::sys::fs::{self, FileKind, Stat, Time};

use super::describe::{describe, describe_with, is_bookkeeping, join};
use super::lower::{self, MergedDir};
use super::parallel::{self, First};
use super::{Clamp, LayerDir, Records};
use crate::layer::apply::{OPAQUE_XATTR, ROOT_XATTR, make_whiteout};
use crate::layer::entry::{Entry, EntryKind};

/// As many names as one thread takes at a time.
const SLICE: usize = 256;

/// Freezes `upper` over `parents` (lowest first) and gives the layer's entries, sorted by path.
/// `records` holds what was recorded while working in it, and afterwards what is on record of the whole
/// layer. With `single`, owners were recorded and not made.
///
/// # Errors
/// Of those that the walk meets, the one whose path comes first.
pub fn freeze(
    upper: BorrowedFd<'_>,
    parents: &[LayerDir],
    clamp: Clamp,
    records: &mut Records,
    single: bool,
) -> io::Result<Vec<Entry>> {
    let root = MergedDir::root(parents)?;
    let freezer = Freezer { clamp, records, single, failure: First::default() };
    let entry = freezer.root(upper, &root)?;
    let top = Dir {
        fd: fs::open_dir_at(upper, OsStr::new("."))?,
        path: Vec::new(),
        below: Some(root),
        opaque: false,
        left: false.into(),
        touched: false.into(),
        failed: false.into(),
        end: None,
    };
    let made = parallel::run(Job::Content(Arc::new(top)), |job, more, made| {
        freezer.work(job, more, made);
        Ok(())
    })?;
    freezer.failure.told()?;
    let mut frozen = Made::default();
    frozen.entries.extend(entry);
    for made in made {
        frozen.entries.extend(made.entries);
        frozen.links.extend(made.links);
        frozen.records.extend(made.records);
    }
    let Made { mut entries, links, records: found } = frozen;
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    link(&mut entries, links);
    records.extend(found);
    keep_records(records, &entries);
    Ok(entries)
}

/// Takes from the records what is on record of nothing in the layer, or what is so without one.
pub(crate) fn keep_records(records: &mut Records, entries: &[Entry]) {
    records.retain(|path, record| {
        // What is not on record belongs to root where owners cannot be made, else to whom it belongs.
        if record.owner == Some((0, 0)) {
            record.owner = None;
        }
        let entry = entries.binary_search_by(|e| e.path.cmp(path));
        !record.is_empty() && entry.is_ok_and(|at| entries[at].kind != EntryKind::Whiteout)
    });
}

struct Freezer<'a> {
    clamp: Clamp,
    records: &'a Records,
    single: bool,
    failure: First<io::Error>,
}

/// What a thread has found.
#[derive(Default)]
struct Made {
    entries: Vec<Entry>,
    /// Files with several names: device and inode, path.
    links: Vec<((u64, u64), Vec<u8>)>,
    records: Vec<(Vec<u8>, Attributes)>,
}

/// A directory of the upper directory that is being frozen. Each job in it holds it, and each directory
/// in it: who lets go of it last ends it.
struct Dir {
    fd: OwnedFd,
    path: Vec<u8>,
    /// What the parents have there; without, all in it is new.
    below: Option<MergedDir>,
    /// Whether it hides what the parents have there. The kernel marks only the topmost such directory, and
    /// those in it are opaque without a mark.
    opaque: bool,
    /// Whether the layer has something of what is in it.
    left: AtomicBool,
    /// Whether names were taken away or put in, which changes its time.
    touched: AtomicBool,
    failed: AtomicBool,
    /// What is to be done when all in it is done. The root's is done before.
    end: Option<End>,
}

struct End {
    parent: Arc<Dir>,
    name: OsString,
    entry: Entry,
    /// Whether the parents have the same, but for what is in it.
    same: bool,
    mtime: Time,
    final_time: Time,
    bookkeeping: Vec<OsString>,
}

enum Job {
    /// All that is in a directory.
    Content(Arc<Dir>),
    /// A directory in one.
    Directory(Arc<Dir>, OsString),
    /// Other names in one.
    Names(Arc<Dir>, Vec<OsString>),
}

/// What the upper directory has under one name.
struct Upper {
    entry: Entry,
    /// As it ought to be.
    stat: Stat,
    bookkeeping: Vec<OsString>,
}

impl Freezer<'_> {
    /// The root directory is in the layer only when its mode or owner has changed: its time changes
    /// with everything below it, and Docker's layers do not speak of it at all.
    fn root(&self, upper: BorrowedFd<'_>, parent: &MergedDir) -> io::Result<Option<Entry>> {
        let here = OsStr::new(".");
        let stat = fs::stat(upper)?;
        let names = fs::xattr_names_at(upper, here)?;
        let record = self.records.get(&b""[..]);
        let Upper { mut entry, bookkeeping, .. } =
            self.upper(upper, here, stat, record, Vec::new(), names)?;
        strip(upper, here, &bookkeeping)?;
        if (entry.mode, entry.uid, entry.gid) == parent.root_attributes()? {
            return Ok(None);
        }
        fs::set_xattr_at(upper, here, OsStr::new(ROOT_XATTR), b"1")?;
        entry.mtime = self.clamp.apply(entry.mtime);
        Ok(Some(entry))
    }

    fn work(&self, job: Job, more: &mut Vec<Job>, made: &mut Made) {
        let dir = match job {
            Job::Content(dir) => {
                if let Err(e) = self.content(&dir, more, made) {
                    self.fail(&dir, dir.path.clone(), e);
                }
                dir
            }
            Job::Directory(dir, name) => {
                if let Err(e) = self.directory(&dir, &name, more, made) {
                    self.fail(&dir, join(&dir.path, &name), e);
                }
                dir
            }
            Job::Names(dir, names) => {
                for name in names {
                    match self.name(&dir, &name, more, made) {
                        Ok(false) => {}
                        Ok(true) => dir.left.store(true, Ordering::Relaxed),
                        Err(e) => self.fail(&dir, join(&dir.path, &name), e),
                    }
                }
                dir
            }
        };
        self.release(dir, made);
    }

    fn fail(&self, dir: &Dir, path: Vec<u8>, error: io::Error) {
        dir.failed.store(true, Ordering::Relaxed);
        self.failure.met(path, error);
    }

    /// Lets go of a directory, and ends it and those that it is in as far as nothing else is left to do.
    fn release(&self, dir: Arc<Dir>, made: &mut Made) {
        let mut last = Arc::into_inner(dir);
        while let Some(Dir { fd, left, touched, failed, end: Some(end), .. }) = last {
            let parent = end.parent.clone();
            if failed.into_inner() {
                parent.failed.store(true, Ordering::Relaxed);
            } else {
                let path = end.entry.path.clone();
                if let Err(e) = end.carry_out(fd, left.into_inner(), touched.into_inner(), made) {
                    self.fail(&parent, path, e);
                }
            }
            last = Arc::into_inner(parent);
        }
    }

    /// Finds what is in a directory.
    fn content(&self, dir: &Arc<Dir>, more: &mut Vec<Job>, made: &mut Made) -> io::Result<()> {
        // Docker's own tar writer ends at paths of 4096 bytes.
        let depth = if dir.path.is_empty() { 0 } else { dir.path.iter().filter(|b| **b == b'/').count() + 1 };
        fs::check_depth(depth)?;
        let mut names = fs::list(&dir.fd)?;
        if dir.opaque
            && let Some(below) = &dir.below
        {
            // All names of the parent are gone; say it of each.
            let present: HashSet<&OsStr> = names.iter().map(|e| e.name.as_os_str()).collect();
            for name in below.names()? {
                if !present.contains(name.as_os_str()) {
                    make_whiteout(dir.fd.as_fd(), &name)?;
                    dir.touched.store(true, Ordering::Relaxed);
                    dir.left.store(true, Ordering::Relaxed);
                    made.entries.push(whiteout(join(&dir.path, &name)));
                }
            }
        }
        // Nearly sorted in the end, which is what sorting likes.
        names.sort_unstable_by(|a, b| b.name.cmp(&a.name));
        let mut slice = Vec::new();
        for entry in names {
            if entry.kind == Some(FileKind::Directory) {
                more.push(Job::Directory(dir.clone(), entry.name));
                continue;
            }
            slice.push(entry.name);
            if slice.len() == SLICE {
                slice.reverse();
                more.push(Job::Names(dir.clone(), std::mem::take(&mut slice)));
            }
        }
        if !slice.is_empty() {
            slice.reverse();
            more.push(Job::Names(dir.clone(), slice));
        }
        Ok(())
    }

    /// Freezes a directory.
    fn directory(
        &self,
        dir: &Arc<Dir>,
        name: &OsStr,
        more: &mut Vec<Job>,
        made: &mut Made,
    ) -> io::Result<()> {
        let path = join(&dir.path, name);
        let stat = fs::stat_at(&dir.fd, name)?;
        let found = dir.lookup(name, &path)?;
        let names = fs::xattr_names_at(&dir.fd, name)?;
        let record = self.record(dir, name, &stat, found.as_ref(), &path, made)?;
        let record = record.as_deref();
        let opaque = dir.opaque || is_opaque(dir.fd.as_fd(), name, &names)?;
        let Upper { mut entry, stat, bookkeeping } =
            self.upper(dir.fd.as_fd(), name, stat, record, path, names)?;
        let (same, final_time) = self.compare(&mut entry, &stat, found.as_ref(), name)?;
        let below = match (&found, &dir.below) {
            (Some(found), Some(below)) if found.stat.kind == FileKind::Directory => {
                Some(below.open(name, found)?)
            }
            _ => None,
        };
        let inner = Dir {
            fd: fs::open_dir_at(&dir.fd, name)?,
            path: entry.path.clone(),
            below,
            opaque,
            left: false.into(),
            touched: false.into(),
            failed: false.into(),
            end: Some(End {
                parent: dir.clone(),
                name: name.to_owned(),
                entry,
                same,
                mtime: stat.mtime,
                final_time,
                bookkeeping,
            }),
        };
        more.push(Job::Content(Arc::new(inner)));
        Ok(())
    }

    /// Freezes anything else; says whether it is in the layer.
    fn name(&self, dir: &Arc<Dir>, name: &OsStr, more: &mut Vec<Job>, made: &mut Made) -> io::Result<bool> {
        let stat = fs::stat_at(&dir.fd, name)?;
        if stat.kind == FileKind::Directory {
            // Of which the file system did not tell.
            more.push(Job::Directory(dir.clone(), name.to_owned()));
            return Ok(false);
        }
        let path = join(&dir.path, name);
        let found = dir.lookup(name, &path)?;
        if stat.is_whiteout() || stat.kind == FileKind::Socket {
            // No layer can hold a socket. What it replaced is gone all the same.
            if stat.kind == FileKind::Socket || found.is_none() {
                dir.take_away(name)?;
            }
            if found.is_none() {
                return Ok(false);
            }
            if stat.kind == FileKind::Socket {
                make_whiteout(dir.fd.as_fd(), name)?;
            }
            made.entries.push(whiteout(path));
            return Ok(true);
        }
        let names = fs::xattr_names_at(&dir.fd, name)?;
        let record = self.record(dir, name, &stat, found.as_ref(), &path, made)?;
        let record = record.as_deref();
        let Upper { mut entry, stat, bookkeeping } =
            self.upper(dir.fd.as_fd(), name, stat, record, path, names)?;
        let (same, time) = self.compare(&mut entry, &stat, found.as_ref(), name)?;
        // A file with several names here has become part of a group of links, which the parent did
        // not know: that is a difference.
        if same
            && stat.nlink == 1
            && let Some(found) = found
            && (stat.kind != FileKind::File || same_content(dir.fd.as_fd(), found.dir, name)?)
        {
            dir.take_away(name)?;
            return Ok(false);
        }
        strip(dir.fd.as_fd(), name, &bookkeeping)?;
        if time != stat.mtime {
            fs::set_mtime_at(&dir.fd, name, time)?;
        }
        if stat.nlink > 1 {
            made.links.push(((stat.dev, stat.ino), entry.path.clone()));
        }
        made.entries.push(entry);
        Ok(true)
    }

    /// What is on record of a name.
    fn record(
        &self,
        dir: &Dir,
        name: &OsStr,
        stat: &Stat,
        found: Option<&lower::Found<'_>>,
        path: &[u8],
        made: &mut Made,
    ) -> io::Result<Option<Cow<'_, Attributes>>> {
        let mut record = self.records.get(path).map(Cow::Borrowed);
        if record.is_none()
            && !dir.opaque
            && let Some(found) = found
            && let Some(below) = found.record
            && is_copy_of_lower(dir.fd.as_fd(), name, stat.kind, found)?
        {
            record = Some(Cow::Owned(below.clone()));
        }
        // Files on record belong to root; one that does not was given away since, by the kernel.
        if !self.single
            && (stat.uid, stat.gid) != (0, 0)
            && let Some(record) = &mut record
            && record.owner.is_some()
        {
            record.to_mut().owner = None;
        }
        if let Some(Cow::Owned(record)) = &record {
            made.records.push((path.to_vec(), record.clone()));
        }
        Ok(record)
    }

    /// What a layer says of a name in the upper directory, with its attributes as they ought to be; the
    /// time is not clamped yet. `names` are its extended attributes.
    fn upper(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        mut stat: Stat,
        record: Option<&Attributes>,
        path: Vec<u8>,
        names: Vec<OsString>,
    ) -> io::Result<Upper> {
        if self.single {
            (stat.uid, stat.gid) = (0, 0);
        }
        if let Some(record) = record {
            lower::dress(&mut stat, record);
        }
        let entry = describe_with(dir, name, &stat, record, path, &names)?;
        let bookkeeping = match names.is_empty() {
            true => names,
            false => names.into_iter().filter(|name| is_bookkeeping(name)).collect(),
        };
        Ok(Upper { entry, stat, bookkeeping })
    }

    /// Clamps the time of an entry. Gives whether the parents have the same, as far as the entry says, and
    /// the time that the name gets.
    fn compare(
        &self,
        entry: &mut Entry,
        stat: &Stat,
        found: Option<&lower::Found<'_>>,
        name: &OsStr,
    ) -> io::Result<(bool, Time)> {
        let before = match found {
            // No layer says anything of a socket.
            Some(found) if found.stat.kind != FileKind::Socket => {
                Some(describe(found.dir, name, &found.stat, found.record, entry.path.clone())?)
            }
            _ => None,
        };
        // Compared before and after the time is clamped: what nobody touched is the same even where
        // its time is newer than the clamp, and what was touched may be the same once it is clamped.
        let same = before.as_ref() == Some(&*entry);
        let time = self.clamp.time(stat.mtime);
        entry.mtime = time.sec;
        Ok((same || before.as_ref() == Some(&*entry), time))
    }
}

impl Dir {
    fn lookup(&self, name: &OsStr, path: &[u8]) -> io::Result<Option<lower::Found<'_>>> {
        self.below.as_ref().map_or(Ok(None), |below| below.lookup(name, path))
    }

    fn take_away(&self, name: &OsStr) -> io::Result<()> {
        self.touched.store(true, Ordering::Relaxed);
        fs::unlink_at(&self.fd, name)
    }
}

impl End {
    fn carry_out(self, dir: OwnedFd, left: bool, touched: bool, made: &mut Made) -> io::Result<()> {
        if self.same && !left {
            drop(dir);
            self.parent.touched.store(true, Ordering::Relaxed);
            return fs::remove_dir_at(&self.parent.fd, &self.name);
        }
        strip(self.parent.fd.as_fd(), &self.name, &self.bookkeeping)?;
        if touched || self.final_time != self.mtime {
            fs::set_mtime(&dir, self.final_time)?;
        }
        self.parent.left.store(true, Ordering::Relaxed);
        made.entries.push(self.entry);
        Ok(())
    }
}

fn strip(dir: BorrowedFd<'_>, name: &OsStr, bookkeeping: &[OsString]) -> io::Result<()> {
    bookkeeping.iter().try_for_each(|attr| fs::remove_xattr_at(dir, name, attr))
}

fn is_opaque(dir: BorrowedFd<'_>, name: &OsStr, names: &[OsString]) -> io::Result<bool> {
    Ok(names.iter().any(|attr| attr == OPAQUE_XATTR) && lower::is_opaque(dir, name)?)
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
    same_bytes(&mut fs::open_file_at(a, name)?, &mut fs::open_file_at(b, name)?)
}

/// Whether two files have the same content.
pub(crate) fn same_bytes(a: &mut impl Read, b: &mut impl Read) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; 128 * 1024], vec![0; 128 * 1024]);
    loop {
        let n = read_full(a, &mut left)?;
        let m = read_full(b, &mut right)?;
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

/// `links` are files with several names, each by something that tells them apart and its path. Of a file's names in the layer the first by path is the file, and the others link to it.
pub(crate) fn link(entries: &mut [Entry], mut links: Vec<((u64, u64), Vec<u8>)>) {
    links.sort_unstable();
    let mut first: Option<((u64, u64), Vec<u8>)> = None;
    for (inode, path) in links {
        match &first {
            Some((file, target)) if *file == inode => {
                if let Ok(at) = entries.binary_search_by(|e| e.path.cmp(&path)) {
                    entries[at].kind = EntryKind::Hardlink { target: target.clone() };
                }
            }
            _ => first = Some((inode, path)),
        }
    }
}

fn whiteout(path: Vec<u8>) -> Entry {
    Entry { path, kind: EntryKind::Whiteout, mode: 0, uid: 0, gid: 0, mtime: 0, xattrs: BTreeMap::new() }
}
