//! What `stat` says of every name in a tree, and what it says differently later.
//!
//! No file is read. The kernel sets an inode's change time whenever it changes anything of it (content,
//! attributes, extended attributes, names), and gives nobody a way to set it; so a file whose change time,
//! inode, size, mode, owner, number of links, device and modification time are what they were is what it
//! was, also when it was rewritten with the same size and got its old modification time back.
//!
//! Change times come from a clock that moves in ticks of some milliseconds. A change in the very tick in
//! which the snapshot was taken would not show: [`Snapshot::settle`] waits until that tick is over. Where
//! times lie in the future (a clock that was set back), those names count as changed.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use cooper_runtime::sys::fs::{self, FileKind, Stat, Time};

use super::stale::Stale;
use crate::rootfs::describe::join;
use crate::rootfs::parallel;
use crate::store::WorkDir;

/// How long [`Snapshot::settle`] waits: ticks last 1 to 10 ms.
const PATIENCE: Duration = Duration::from_millis(50);

/// What is compared of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    ino: u64,
    ctime: i64,
    mtime: i64,
    /// Bytes; of a device its numbers.
    size: u64,
    /// The type above the permission bits.
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u32,
}

impl Seen {
    fn of(stat: &Stat) -> Seen {
        let device = matches!(stat.kind, FileKind::CharDevice | FileKind::BlockDevice);
        let rdev = u64::from(stat.rdev.0) << 32 | u64::from(stat.rdev.1);
        Seen {
            ino: stat.ino,
            ctime: nanoseconds(stat.ctime),
            mtime: nanoseconds(stat.mtime),
            size: if device { rdev } else { stat.size },
            mode: (stat.kind as u32) << 16 | stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            nlink: stat.nlink.min(u32::MAX.into()) as u32,
        }
    }

    fn is_dir(&self) -> bool {
        self.mode >> 16 == FileKind::Directory as u32
    }

    fn brief(&self) -> Brief {
        let whiteout = self.mode >> 16 == FileKind::CharDevice as u32 && self.size == 0;
        Brief { ino: self.ino, dir: self.is_dir(), whiteout }
    }
}

/// Different for times that differ, as long as they are less than 584 years apart.
fn nanoseconds(time: Time) -> i64 {
    time.sec.wrapping_mul(1_000_000_000).wrapping_add(time.nsec.into())
}

/// What a difference says of one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Brief {
    pub(super) ino: u64,
    pub(super) dir: bool,
    /// A character device 0:0.
    pub(super) whiteout: bool,
}

/// A name that is not what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Difference {
    /// `None` when it is new. What a new directory holds is not told.
    pub(super) before: Option<Brief>,
    /// `None` when it is gone. What it held is not told.
    pub(super) after: Option<Brief>,
}

/// The names of one directory, in the order in which the file system gives them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Directory {
    /// One after the other.
    names: Box<[u8]>,
    entries: Box<[Entry]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    seen: Seen,
    /// Where its name ends.
    end: u32,
}

impl Directory {
    fn name(&self, at: usize) -> &[u8] {
        let start = if at == 0 { 0 } else { self.entries[at - 1].end as usize };
        &self.names[start..self.entries[at].end as usize]
    }
}

/// A tree as it was.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// The root's inode.
    root: u64,
    /// By inode. Those that are no longer in the tree may be left over.
    dirs: HashMap<u64, Directory>,
    /// The latest change time.
    newest: i64,
    /// Names that changed then or later cannot be told from what they were.
    uncertain_from: Option<i64>,
}

/// A directory to look at.
struct Job<'a> {
    parent: Arc<OwnedFd>,
    name: OsString,
    path: Vec<u8>,
    depth: usize,
    /// Its inode in the snapshot to compare with.
    before: u64,
    /// Whether it is known to have the names that it had.
    same_names: bool,
    /// For a new look at parts of a tree; `None` for all of it.
    stale: Option<&'a Stale>,
}

impl<'a> Job<'a> {
    fn root(root: BorrowedFd<'_>, before: u64, stale: Option<&'a Stale>) -> io::Result<Job<'a>> {
        let parent = Arc::new(fs::reopen_dir(root)?);
        let (name, path) = (OsString::from("."), Vec::new());
        Ok(Job { parent, name, path, depth: 0, before, same_names: false, stale })
    }

    fn open(&self) -> io::Result<Arc<OwnedFd>> {
        fs::check_depth(self.depth)?;
        Ok(Arc::new(fs::open_dir_at(&*self.parent, &self.name)?))
    }

    fn below(
        &self,
        dir: &Arc<OwnedFd>,
        name: &OsStr,
        path: Vec<u8>,
        before: u64,
        stale: Option<&'a Stale>,
    ) -> Job<'a> {
        let (parent, name, depth) = (dir.clone(), name.to_owned(), self.depth + 1);
        Job { parent, name, path, depth, before, same_names: false, stale }
    }
}

impl Snapshot {
    /// Looks again at the directories that `stale` has, the root among them; at all of them if it is whole.
    pub(super) fn renew(&mut self, root: BorrowedFd<'_>, stale: &Stale) -> io::Result<()> {
        self.root = fs::stat(root)?.ino;
        let first = Job::root(root, self.root, Some(stale).filter(|s| !s.whole))?;
        let found = parallel::run(first, look)?;
        for Looked { dirs, newest } in found {
            self.dirs.extend(dirs);
            self.newest = self.newest.max(newest);
        }
        Ok(())
    }

    /// How many names it has.
    pub(super) fn len(&self) -> usize {
        self.dirs.values().map(|dir| dir.entries.len()).sum()
    }

    /// Waits until what is written from now on gets later change times than all that is in here. `work` is
    /// on the same file system.
    pub(super) fn settle(&mut self, work: &WorkDir) -> io::Result<()> {
        let path = work.fresh("clock-");
        let probe = std::fs::File::create_new(&path)?;
        std::fs::remove_file(&path)?;
        let began = Instant::now();
        self.uncertain_from = loop {
            // Any change will do; the kernel sets the change time to its own.
            probe.set_modified(SystemTime::UNIX_EPOCH)?;
            let now = nanoseconds(fs::stat(&probe)?.ctime);
            if now > self.newest {
                break None;
            }
            if began.elapsed() > PATIENCE {
                break Some(now);
            }
            std::thread::sleep(Duration::from_micros(200));
        };
        Ok(())
    }

    /// Everything in here was made up to this time, and what is made once it has settled comes after it:
    /// nanoseconds since 1970. `None` where the clock does not say.
    pub(super) fn newest(&self) -> Option<i64> {
        self.uncertain_from.is_none().then_some(self.newest)
    }

    #[cfg(test)]
    pub(super) fn pretend_newest(&mut self, newest: i64) {
        self.newest = newest;
    }

    /// Compares the tree with what it was; gives paths from the root, in no order. The root itself is not
    /// among them.
    pub(super) fn differences(&self, root: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, Difference)>> {
        let found = parallel::run(Job::root(root, self.root, None)?, |job, more, found| {
            self.compare(&job, more, found)
        })?;
        Ok(found.into_iter().flatten().collect())
    }

    fn compare<'a>(
        &self,
        job: &Job<'a>,
        more: &mut Vec<Job<'a>>,
        found: &mut Vec<(Vec<u8>, Difference)>,
    ) -> io::Result<()> {
        let dir = job.open()?;
        let nothing = Directory::default();
        let before = self.dirs.get(&job.before).unwrap_or(&nothing);
        let mut finder = Finder::new(before);
        let mut met = vec![false; before.entries.len()];
        let mut one = |name: &OsStr, _| {
            let Some(stat) = fs::try_stat_at(&*dir, name)? else { return Ok(()) };
            let now = Seen::of(&stat);
            let was = finder.find(name.as_bytes()).map(|at| {
                met[at] = true;
                before.entries[at].seen
            });
            let same = was == Some(now) && self.uncertain_from.is_none_or(|from| now.ctime < from);
            if let Some(was) = was.filter(|was| was.is_dir() && now.is_dir()) {
                let mut inner = job.below(&dir, name, join(&job.path, name), was.ino, None);
                inner.same_names = same;
                more.push(inner);
            }
            if !same {
                let (before, after) = (was.map(|s| s.brief()), Some(now.brief()));
                found.push((join(&job.path, name), Difference { before, after }));
            }
            Ok(())
        };
        if job.same_names {
            // Adding, removing and renaming change a directory's own times: it need not be read.
            let mut names = (0..before.entries.len()).map(|at| OsStr::from_bytes(before.name(at)));
            names.try_for_each(|name| one(name, None))?;
        } else {
            fs::visit(&*dir, one)?;
        }
        for (at, entry) in before.entries.iter().enumerate().filter(|(at, _)| !met[*at]) {
            let difference = Difference { before: Some(entry.seen.brief()), after: None };
            found.push((join(&job.path, OsStr::from_bytes(before.name(at))), difference));
        }
        Ok(())
    }
}

/// Finds names in the order in which they come: mostly that of the time before.
struct Finder<'d> {
    dir: &'d Directory,
    next: usize,
    index: Option<HashMap<&'d [u8], usize>>,
}

impl<'d> Finder<'d> {
    fn new(dir: &'d Directory) -> Finder<'d> {
        Finder { dir, next: 0, index: None }
    }

    fn find(&mut self, name: &[u8]) -> Option<usize> {
        if self.next < self.dir.entries.len() && self.dir.name(self.next) == name {
            self.next += 1;
            return Some(self.next - 1);
        }
        let dir = self.dir;
        let index =
            self.index.get_or_insert_with(|| (0..dir.entries.len()).map(|at| (dir.name(at), at)).collect());
        let at = *index.get(name)?;
        self.next = at + 1;
        Some(at)
    }
}

/// What one thread has seen.
#[derive(Default)]
struct Looked {
    dirs: Vec<(u64, Directory)>,
    newest: i64,
}

fn look<'a>(job: Job<'a>, more: &mut Vec<Job<'a>>, looked: &mut Looked) -> io::Result<()> {
    let dir = job.open()?;
    let (mut names, mut entries) = (Vec::new(), Vec::new());
    fs::visit(&*dir, |name, _| {
        let seen = Seen::of(&fs::stat_at(&*dir, name)?);
        looked.newest = looked.newest.max(seen.ctime);
        names.extend_from_slice(name.as_bytes());
        let end = u32::try_from(names.len())
            .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "a directory has too many names"))?;
        entries.push(Entry { seen, end });
        if seen.is_dir() {
            // In a new look, directories of which nothing is stale are left as they were.
            match job.stale.map(|stale| stale.children.get(name)) {
                Some(None) => {}
                Some(Some(child)) if !child.whole => {
                    more.push(job.below(&dir, name, Vec::new(), seen.ino, Some(child)));
                }
                _ => more.push(job.below(&dir, name, Vec::new(), seen.ino, None)),
            }
        }
        Ok(())
    })?;
    looked.dirs.push((job.before, Directory { names: names.into(), entries: entries.into() }));
    Ok(())
}
