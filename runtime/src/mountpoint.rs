//! Places for a step's mounts, and no trace of them afterwards.
//!
//! A mount needs something to be mounted on. Where the image has no `/etc/resolv.conf` or no directory
//! that a `RUN --mount` names, an empty one is made for the time of the step. Afterwards it is removed
//! again with the directories that were made for it, if they still are what was made, and the
//! directories on the way get their old modification times back unless the step itself has changed them.
//! `/proc` and `/sys` stay, as they do with BuildKit: an image made from nothing has them once something
//! was run in it.
//!
//! All of it works on descriptors held since before the step, so that a parent which the step has
//! swapped for a link leads nowhere (CVE-2024-23652). A mount inside another one finds or makes its place
//! there when it is mounted, in the sandbox.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::in_root::{self, Walk};
use crate::step::{Mount, MountSource};
use crate::sys::fs::{self, FileKind, Stat, Time};

/// Directories that every step has mounted over.
pub const DIRECTORIES: [&str; 3] = ["proc", "sys", "dev"];
/// Those of them that stay when they had to be made.
const KEPT: [&str; 2] = ["proc", "sys"];
/// Files that every step has mounted over.
pub const FILES: [&str; 2] = ["etc/resolv.conf", "etc/hosts"];

/// The mode of a directory made for a mount, which a tmpfs takes over from it.
pub(crate) const NEW_TMPFS_MODE: u32 = 0o1777;

/// The places that are mounted on already.
#[derive(Debug)]
pub(crate) struct Mounted(Vec<Vec<u8>>);

impl Mounted {
    /// Those of every step.
    pub(crate) fn with_every_steps() -> Mounted {
        Mounted(DIRECTORIES.iter().map(|name| name.as_bytes().to_vec()).collect())
    }

    /// Adds a mount: its target as it was named, and the path that it led to. A later target with the same
    /// beginning goes the same way.
    pub(crate) fn add(&mut self, target: &[u8], path: Vec<u8>) {
        self.0.push(target.strip_prefix(b"/").unwrap_or(target).to_vec());
        self.0.push(path);
    }

    /// Whether a path (from the root) is one of them, or below one.
    pub(crate) fn covers(&self, path: &[u8]) -> bool {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        let below =
            |m: &Vec<u8>| path.strip_prefix(m.as_slice()).is_some_and(|r| r.is_empty() || r[0] == b'/');
        self.0.iter().any(below)
    }
}

/// Refuses what nothing may be mounted on: the root itself, and `/proc`, which the builder still believes
/// after the mounts are made.
pub(crate) fn check_target(path: &[u8]) -> io::Result<()> {
    if path.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "nothing can be mounted on the root itself",
        ));
    }
    if path == b"proc" || path.starts_with(b"proc/") {
        let what = "nothing can be mounted on /proc or below it";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    }
    Ok(())
}

/// A handle on what is to be bound: `path` inside `root`, links followed and never out of it.
pub(crate) fn open_source(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let place = in_root::find(root, path.as_bytes(), Walk { follow_last: true, make_dir: None })?;
    fs::open_path_at(&place.dir, &place.name)
}

/// Whether a source is mounted on a directory.
fn is_directory(source: &MountSource) -> io::Result<bool> {
    match source {
        MountSource::Tmpfs { .. } => Ok(true),
        MountSource::File { .. } => Ok(false),
        MountSource::Bind { root, path } => {
            let found = fs::open_dir(root).and_then(|root| fs::stat(open_source(root, path)?));
            let found = found.map_err(|e| match e.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                    io::Error::new(e.kind(), format!("its source {path} does not exist"))
                }
                kind => io::Error::new(kind, format!("its source {path}: {e}")),
            })?;
            Ok(found.kind == FileKind::Directory)
        }
    }
}

/// The places made for one step.
#[derive(Debug, Default)]
pub struct MountPoints {
    /// In the order they were made.
    made: Vec<Made>,
    /// The directories they were made in.
    dirs: Vec<Touched>,
}

/// Something made.
#[derive(Debug)]
struct Made {
    /// Position in [`MountPoints::dirs`].
    dir: usize,
    name: OsString,
    ino: u64,
    is_dir: bool,
    /// Whether it stays after the step.
    kept: bool,
}

/// A directory in which something was made.
#[derive(Debug)]
struct Touched {
    dir: OwnedFd,
    inode: (u64, u64),
    /// Its modification time before the first thing was made in it.
    before: Time,
    /// And after the last.
    after: Time,
    /// Whether something made in it stays, so that its new time is true.
    changed: bool,
}

impl MountPoints {
    /// Makes what is missing of [`DIRECTORIES`], [`FILES`] and the targets of `mounts` below `root`.
    ///
    /// # Errors
    /// `NotADirectory` where the image has a link or a file in place of a directory to mount on: a
    /// mount through it could end up somewhere else. Where a target is a file and its source a directory or
    /// the reverse, or the source does not exist.
    pub fn prepare(root: BorrowedFd<'_>, mounts: &[Mount]) -> io::Result<MountPoints> {
        let mut points = MountPoints::default();
        let result = points.prepare_all(root, mounts);
        if let Err(e) = result {
            points.made.iter_mut().for_each(|made| made.kept = false);
            points.dirs.iter_mut().for_each(|dir| dir.changed = false);
            let _ = points.remove();
            return Err(e);
        }
        Ok(points)
    }

    fn prepare_all(&mut self, root: BorrowedFd<'_>, mounts: &[Mount]) -> io::Result<()> {
        for name in DIRECTORIES {
            let kept = KEPT.contains(&name);
            let name = OsStr::new(name);
            match fs::try_stat_at(root, name)? {
                Some(s) if s.kind == FileKind::Directory => {}
                Some(_) => {
                    let what = format!("/{} of the image is not a directory", name.display());
                    return Err(io::Error::new(io::ErrorKind::NotADirectory, what));
                }
                None => self.make(root, name, kept, |dir| fs::make_dir_at(dir, name, 0o755))?,
            }
        }
        for path in FILES {
            let mut make_dir = |dir: BorrowedFd<'_>, name: &OsStr, _: &[u8]| {
                self.make(dir, name, false, |dir| fs::make_dir_at(dir, name, 0o755))
            };
            let walk = Walk { follow_last: true, make_dir: Some(&mut make_dir) };
            let place = in_root::find(root, path.as_bytes(), walk)?;
            match place.stat {
                None => self.make(place.dir.as_fd(), &place.name, false, |dir| {
                    fs::create_file_at(dir, &place.name).map(drop)
                })?,
                Some(s) if s.kind == FileKind::Directory => {
                    let what = format!("/{path} of the image is a directory");
                    return Err(io::Error::new(io::ErrorKind::IsADirectory, what));
                }
                Some(_) => {}
            }
        }
        let mut mounted = Mounted::with_every_steps();
        for mount in mounts {
            let path = self
                .prepare_target(root, mount, &mounted)
                .map_err(|e| io::Error::new(e.kind(), format!("mount on {}: {e}", mount.target)))?;
            mounted.add(mount.target.as_bytes(), path);
        }
        Ok(())
    }

    /// Makes what is missing of one target; gives the path that it leads to.
    fn prepare_target(
        &mut self,
        root: BorrowedFd<'_>,
        mount: &Mount,
        mounted: &Mounted,
    ) -> io::Result<Vec<u8>> {
        let target = mount.target.as_bytes();
        let as_named = || target.strip_prefix(b"/").unwrap_or(target).to_vec();
        let is_dir = is_directory(&mount.source)?;
        if mounted.covers(target) {
            check_target(&as_named())?;
            return Ok(as_named());
        }
        let mut inside_another = false;
        let mut make_dir = |dir: BorrowedFd<'_>, name: &OsStr, path: &[u8]| {
            if mounted.covers(path) {
                inside_another = true;
                return Err(io::Error::from(io::ErrorKind::NotFound));
            }
            self.make(dir, name, false, |dir| fs::make_dir_at(dir, name, 0o755))
        };
        let walk = Walk { follow_last: true, make_dir: Some(&mut make_dir) };
        let place = match in_root::find(root, target, walk) {
            Err(_) if inside_another => return Ok(as_named()),
            other => other?,
        };
        check_target(&place.path)?;
        if mounted.covers(&place.path) {
            return Ok(place.path);
        }
        match place.stat {
            Some(s) if is_dir && s.kind != FileKind::Directory => {
                let what = "it is a file in the image, and a directory is to be mounted there";
                return Err(io::Error::new(io::ErrorKind::NotADirectory, what));
            }
            Some(s) if !is_dir && s.kind == FileKind::Directory => {
                let what = "it is a directory in the image, and a file is to be mounted there";
                return Err(io::Error::new(io::ErrorKind::IsADirectory, what));
            }
            Some(_) => {}
            None => self.make(place.dir.as_fd(), &place.name, false, |dir| match is_dir {
                true => fs::make_dir_at(dir, &place.name, NEW_TMPFS_MODE),
                false => fs::create_file_at(dir, &place.name).map(drop),
            })?,
        }
        Ok(place.path)
    }

    fn make(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        kept: bool,
        make: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let before = fs::stat(dir)?;
        make(dir)?;
        let made = fs::stat_at(dir, name)?;
        let after = fs::stat(dir)?.mtime;
        let inode = (before.dev, before.ino);
        let at = match self.dirs.iter().position(|d| d.inode == inode) {
            Some(at) => at,
            None => {
                let dir = fs::reopen_dir(dir)?;
                self.dirs.push(Touched { dir, inode, before: before.mtime, after, changed: false });
                self.dirs.len() - 1
            }
        };
        self.dirs[at].after = after;
        self.dirs[at].changed |= kept;
        let is_dir = made.kind == FileKind::Directory;
        self.made.push(Made { dir: at, name: name.to_owned(), ino: made.ino, is_dir, kept });
        Ok(())
    }

    /// Removes what was made, the last first. What the step has filled or replaced stays: it is the
    /// step's own by then. So do `/proc` and `/sys`.
    pub fn remove(&mut self) -> io::Result<()> {
        // Taken before anything is removed: removing changes the very times that tell whether the
        // step has touched a directory.
        let seen: Vec<Option<Time>> =
            self.dirs.iter().map(|d| fs::stat(&d.dir).ok().map(|s| s.mtime)).collect();
        let mut first_error = None;
        for made in self.made.drain(..).rev().filter(|made| !made.kept) {
            if let Err(e) = made.remove(self.dirs[made.dir].dir.as_fd()) {
                first_error.get_or_insert(e);
            }
        }
        for (touched, seen) in self.dirs.drain(..).zip(seen) {
            let mtime = match seen {
                Some(seen) if seen != touched.after || touched.changed => seen,
                _ => touched.before,
            };
            match fs::set_mtime_at(touched.dir.as_fd(), OsStr::new("."), mtime) {
                // Made by us, and removed again.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    first_error.get_or_insert(e);
                }
                Ok(()) => {}
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}

impl Made {
    fn remove(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        let Some(found) = fs::try_stat_at(dir, &self.name)? else { return Ok(()) };
        if !self.is_ours(&found) {
            return Ok(());
        }
        if self.is_dir {
            match fs::remove_dir_at(dir, &self.name) {
                Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                other => other,
            }
        } else {
            fs::unlink_at(dir, &self.name)
        }
    }

    fn is_ours(&self, found: &Stat) -> bool {
        let kind = if self.is_dir { FileKind::Directory } else { FileKind::File };
        found.ino == self.ino && found.kind == kind && (self.is_dir || found.size == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn times(dir: &tempfile::TempDir, name: &str) -> (i64, i64) {
        let m = std::fs::metadata(dir.path().join(name)).unwrap();
        (m.mtime(), m.mtime_nsec())
    }

    fn set_old(root: &OwnedFd, name: &str) {
        fs::set_mtime_at(root.as_fd(), OsStr::new(name), Time { sec: 1000, nsec: 7 }).unwrap();
    }

    #[test]
    fn nothing_is_left_of_them() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        symlink("../run/x/resolv.conf", dir.path().join("etc/resolv.conf")).unwrap();
        let root = fs::open_dir(dir.path()).unwrap();
        set_old(&root, "etc");
        set_old(&root, ".");
        let mut points = MountPoints::prepare(root.as_fd(), &[]).unwrap();
        for made in ["proc", "sys", "dev", "run/x/resolv.conf", "etc/hosts"] {
            assert!(dir.path().join(made).exists(), "{made}");
        }
        points.remove().unwrap();
        let mut left: Vec<_> = fs::list(&root).unwrap().into_iter().map(|e| e.name).collect();
        left.sort();
        assert_eq!(left, ["etc", "proc", "sys"]);
        assert_eq!(std::fs::metadata(dir.path().join("proc")).unwrap().mode() & 0o7777, 0o755);
        assert_eq!(times(&dir, "etc"), (1000, 7));
        assert_ne!(times(&dir, "."), (1000, 7), "something was made there and stays");
        // The next step finds them, and really leaves no trace.
        set_old(&root, ".");
        let mut points = MountPoints::prepare(root.as_fd(), &[]).unwrap();
        assert!(dir.path().join("run/x/resolv.conf").exists());
        points.remove().unwrap();
        assert_eq!(fs::list(&root).unwrap().len(), 3);
        assert_eq!(times(&dir, "."), (1000, 7));
    }

    fn tmpfs(target: &str) -> Mount {
        Mount { target: target.to_owned(), source: MountSource::Tmpfs { size: None }, read_only: false }
    }

    fn secret(target: &str) -> Mount {
        let source = MountSource::File { content: b"x".to_vec(), mode: 0o400, uid: 0, gid: 0 };
        Mount { target: target.to_owned(), source, read_only: true }
    }

    fn bind(target: &str, root: &tempfile::TempDir, path: &str) -> Mount {
        let source = MountSource::Bind { root: root.path().to_owned(), path: path.to_owned() };
        Mount { target: target.to_owned(), source, read_only: true }
    }

    /// A root in which every step's own places are there already.
    fn complete() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["proc", "sys", "dev", "etc"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        for name in ["etc/resolv.conf", "etc/hosts"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let root = fs::open_dir(dir.path()).unwrap();
        (dir, root)
    }

    fn tree(dir: &tempfile::TempDir) -> Vec<String> {
        fn walk(dir: &std::path::Path, top: &std::path::Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(dir).unwrap().flatten() {
                found.push(entry.path().strip_prefix(top).unwrap().to_str().unwrap().to_owned());
                if entry.file_type().unwrap().is_dir() {
                    walk(&entry.path(), top, found);
                }
            }
        }
        let mut found = Vec::new();
        walk(dir.path(), dir.path(), &mut found);
        found.sort();
        found
    }

    #[test]
    fn places_for_mounts_come_and_go_with_their_parents() {
        let (dir, root) = complete();
        let source = tempfile::tempdir().unwrap();
        std::fs::create_dir(source.path().join("d")).unwrap();
        std::fs::write(source.path().join("d/f"), "").unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        symlink("/real/deep", dir.path().join("link")).unwrap();
        set_old(&root, "real");
        set_old(&root, ".");
        let before = tree(&dir);
        let mounts = [
            tmpfs("/a/b/c"),
            secret("/run/secrets/key"),
            bind("/link/one", &source, "d"),
            bind("/link/two", &source, "/d/f"),
            // Inside others, or in /dev: not here.
            bind("/a/b/c/inner/x", &source, ""),
            tmpfs("/real/deep/one/inner"),
            tmpfs("/dev/extra/x"),
        ];
        let mut points = MountPoints::prepare(root.as_fd(), &mounts).unwrap();
        let made: Vec<String> = tree(&dir).into_iter().filter(|p| !before.contains(p)).collect();
        let expected = [
            "a",
            "a/b",
            "a/b/c",
            "real/deep",
            "real/deep/one",
            "real/deep/two",
            "run",
            "run/secrets",
            "run/secrets/key",
        ];
        assert_eq!(made, expected);
        assert!(dir.path().join("real/deep/two").is_file() && dir.path().join("run/secrets/key").is_file());
        // The step leaves something beside one of them.
        std::fs::write(dir.path().join("run/pid"), "7").unwrap();
        points.remove().unwrap();
        let left: Vec<String> = tree(&dir).into_iter().filter(|p| !before.contains(p)).collect();
        assert_eq!(left, ["run", "run/pid"]);
        assert_eq!((times(&dir, "real"), times(&dir, ".")), ((1000, 7), (1000, 7)));
    }

    #[test]
    fn a_parent_swapped_for_a_link_leads_the_removal_nowhere() {
        let (dir, root) = complete();
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(outside.path().join("b/c")).unwrap();
        std::fs::write(outside.path().join("b/key"), "").unwrap();
        let mut points = MountPoints::prepare(root.as_fd(), &[tmpfs("/a/b/c"), secret("/a/b/key")]).unwrap();
        std::fs::rename(dir.path().join("a"), dir.path().join("moved")).unwrap();
        symlink(outside.path(), dir.path().join("a")).unwrap();
        points.remove().unwrap();
        assert!(outside.path().join("b/c").is_dir() && outside.path().join("b/key").is_file());
        assert!(dir.path().join("a").is_symlink(), "the step's own link stays");
        assert!(!dir.path().join("moved/b").exists(), "what was made is gone, wherever it is by now");
    }

    #[test]
    fn targets_that_do_not_fit_are_refused_by_name() {
        let (dir, root) = complete();
        let source = tempfile::tempdir().unwrap();
        symlink("/", source.path().join("up")).unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        symlink("/proc/sys", dir.path().join("sneaky")).unwrap();
        symlink(".", dir.path().join("here")).unwrap();
        let before = tree(&dir);
        let refused = |mount: Mount| {
            let first = tmpfs("/made/before");
            let error = MountPoints::prepare(root.as_fd(), &[first, mount]).unwrap_err();
            assert_eq!(tree(&dir), before, "{error}");
            error.to_string()
        };
        assert!(refused(tmpfs("/file")).contains("mount on /file: it is a file in the image"));
        assert!(refused(secret("/etc")).contains("mount on /etc: it is a directory in the image"));
        assert!(refused(tmpfs("/file/below")).starts_with("mount on /file/below: "));
        assert!(refused(tmpfs("/loop")).starts_with("mount on /loop: "));
        assert!(refused(bind("/x", &source, "no/such")).contains("its source no/such does not exist"));
        for target in ["/proc", "/proc/sys/kernel", "/sneaky", "/here"] {
            assert!(refused(tmpfs(target)).contains("nothing can be mounted on"), "{target}");
        }
        // A link to `/` in the source is the source, not the builder's root.
        let inside = open_source(fs::open_dir(source.path()).unwrap(), "up").unwrap();
        let (inside, top) = (fs::stat(&inside).unwrap(), std::fs::metadata(source.path()).unwrap());
        assert_eq!(inside.ino, top.ino());
    }

    #[test]
    fn what_the_step_did_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::open_dir(dir.path()).unwrap();
        let mut points = MountPoints::prepare(root.as_fd(), &[]).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), "x").unwrap();
        fs::set_mtime_at(root.as_fd(), OsStr::new("etc"), Time { sec: 2000, nsec: 0 }).unwrap();
        points.remove().unwrap();
        assert!(dir.path().join("etc/passwd").exists() && !dir.path().join("etc/hosts").exists());
        assert_eq!(times(&dir, "etc"), (2000, 0));
    }

    #[test]
    fn a_link_in_place_of_a_directory_is_refused_and_cleaned_up() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/tmp", dir.path().join("dev")).unwrap();
        let root = fs::open_dir(dir.path()).unwrap();
        let error = MountPoints::prepare(root.as_fd(), &[]).unwrap_err();
        assert_eq!(error.to_string(), "/dev of the image is not a directory");
        assert_eq!(fs::list(&root).unwrap().len(), 1);
    }
}
