//! Places for a step's mounts, and no trace of them afterwards.
//!
//! A mount needs something to be mounted on. Where the image has no `/proc` or `/etc/resolv.conf`,
//! an empty one is made for the time of the step. Afterwards it is removed again, if it still is what
//! was made, and the directories on the way get their old modification times back unless the step
//! itself has changed them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::in_root::{self, Walk};
use crate::sys::fs::{self, FileKind, Stat, Time};

/// Directories that every step has mounted over.
pub const DIRECTORIES: [&str; 3] = ["proc", "sys", "dev"];
/// Files that every step has mounted over.
pub const FILES: [&str; 2] = ["etc/resolv.conf", "etc/hosts"];

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
}

impl MountPoints {
    /// Makes what is missing of [`DIRECTORIES`] and [`FILES`] below `root`.
    ///
    /// # Errors
    /// `NotADirectory` where the image has a link or a file in place of a directory to mount on: a
    /// mount through it could end up somewhere else.
    pub fn prepare(root: BorrowedFd<'_>) -> io::Result<MountPoints> {
        let mut points = MountPoints::default();
        let result = points.prepare_all(root);
        if let Err(e) = result {
            let _ = points.remove();
            return Err(e);
        }
        Ok(points)
    }

    fn prepare_all(&mut self, root: BorrowedFd<'_>) -> io::Result<()> {
        for name in DIRECTORIES {
            let name = OsStr::new(name);
            match fs::try_stat_at(root, name)? {
                Some(s) if s.kind == FileKind::Directory => {}
                Some(_) => {
                    let what = format!("/{} of the image is not a directory", name.display());
                    return Err(io::Error::new(io::ErrorKind::NotADirectory, what));
                }
                None => self.make(root, name, |dir| fs::make_dir_at(dir, name, 0o755))?,
            }
        }
        for path in FILES {
            let mut make_dir = |dir: BorrowedFd<'_>, name: &OsStr, _: &[u8]| {
                self.make(dir, name, |dir| fs::make_dir_at(dir, name, 0o755))
            };
            let walk = Walk { follow_last: true, make_dir: Some(&mut make_dir) };
            let place = in_root::find(root, path.as_bytes(), walk)?;
            match place.stat {
                None => self.make(place.dir.as_fd(), &place.name, |dir| {
                    fs::create_file_at(dir, &place.name).map(drop)
                })?,
                Some(s) if s.kind == FileKind::Directory => {
                    let what = format!("/{path} of the image is a directory");
                    return Err(io::Error::new(io::ErrorKind::IsADirectory, what));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn make(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
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
                self.dirs.push(Touched { dir: fs::reopen_dir(dir)?, inode, before: before.mtime, after });
                self.dirs.len() - 1
            }
        };
        self.dirs[at].after = after;
        let is_dir = made.kind == FileKind::Directory;
        self.made.push(Made { dir: at, name: name.to_owned(), ino: made.ino, is_dir });
        Ok(())
    }

    /// Removes what was made, the last first. What the step has filled or replaced stays: it is the
    /// step's own by then.
    pub fn remove(&mut self) -> io::Result<()> {
        // Taken before anything is removed: removing changes the very times that tell whether the
        // step has touched a directory.
        let seen: Vec<Option<Time>> =
            self.dirs.iter().map(|d| fs::stat(&d.dir).ok().map(|s| s.mtime)).collect();
        let mut first_error = None;
        for made in self.made.drain(..).rev() {
            if let Err(e) = made.remove(self.dirs[made.dir].dir.as_fd()) {
                first_error.get_or_insert(e);
            }
        }
        for (touched, seen) in self.dirs.drain(..).zip(seen) {
            let mtime = match seen {
                Some(seen) if seen != touched.after => seen,
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
        let mut points = MountPoints::prepare(root.as_fd()).unwrap();
        for made in ["proc", "sys", "dev", "run/x/resolv.conf", "etc/hosts"] {
            assert!(dir.path().join(made).exists(), "{made}");
        }
        points.remove().unwrap();
        let left: Vec<_> = fs::list(&root).unwrap().into_iter().map(|e| e.name).collect();
        assert_eq!(left, ["etc"]);
        assert_eq!((times(&dir, "etc"), times(&dir, ".")), ((1000, 7), (1000, 7)));
    }

    #[test]
    fn what_the_step_did_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::open_dir(dir.path()).unwrap();
        let mut points = MountPoints::prepare(root.as_fd()).unwrap();
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
        let error = MountPoints::prepare(root.as_fd()).unwrap_err();
        assert_eq!(error.to_string(), "/dev of the image is not a directory");
        assert_eq!(fs::list(&root).unwrap().len(), 1);
    }
}
