//! Times that fuse-overlayfs has not kept → what the kernel's overlay says.
//!
//! To copy a file up, the program moves the copy into the upper directory, which touches that; and the copy
//! of a symbolic link has the time at which it was made. The kernel's overlay keeps both.
//!
//! The kernel does not know of such a copy, and goes on saying what it was told when it last asked: it asks
//! anew only after something that changes a directory has been done to it. So where the mount says another
//! time than the upper directory has, the mount is right. Where somebody has asked meanwhile (`chown -R`
//! does, after the files in it), it is told by what is in the directory: one that holds copies only, and was
//! touched while one of them was made, was touched by that.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use cooper_runtime::sys::fs::{self, FileKind, Stat, Time};

use super::normalise::{COPIED, OPAQUE, OPAQUE_FILE, WHITEOUT_PREFIX};
use crate::rootfs::LayerDir;
use crate::rootfs::describe::join;
use crate::rootfs::lower::MergedDir;

/// Sets the times in `upper` right while the program still answers for `merged`, the mounted root of
/// `parents` (lowest first) with it. `filled` are the inode numbers of what it had from the start.
pub(super) fn settle(
    upper: BorrowedFd<'_>,
    merged: BorrowedFd<'_>,
    parents: &[LayerDir],
    filled: &HashSet<u64>,
) -> io::Result<()> {
    let below = MergedDir::root(parents)?;
    Settler { filled }.directory(upper, merged, Some(&below), &[], Time::default(), 0)?;
    Ok(())
}

struct Settler<'a> {
    filled: &'a HashSet<u64>,
}

/// What a directory of the upper one holds.
#[derive(Default)]
struct Holds {
    /// Something was made or taken away in it.
    changes: bool,
    /// A copy that was begun before the directory was touched last, and changed no earlier.
    late_copy: bool,
}

impl Settler<'_> {
    fn directory(
        &self,
        upper: BorrowedFd<'_>,
        merged: BorrowedFd<'_>,
        below: Option<&MergedDir>,
        path: &[u8],
        touched: Time,
        depth: usize,
    ) -> io::Result<Holds> {
        fs::check_depth(depth)?;
        let mut holds = Holds::default();
        for entry in fs::list(upper)? {
            let (name, path) = (entry.name.as_os_str(), join(path, &entry.name));
            if name.as_bytes() == OPAQUE_FILE {
                continue;
            }
            // The lower file's own attributes: which inode it is, not what is on record of it.
            let found = match below {
                Some(below) => below.lookup(name, &path)?,
                None => None,
            };
            let lower = found.as_ref().map(|f| fs::stat_at(f.dir, name)).transpose()?;
            let real = fs::stat_at(upper, name)?;
            let Some(remembered) = remembered(merged, name)? else {
                holds.changes = true;
                continue;
            };
            // In this order: to read a directory makes the kernel forget when it was read last, and so
            // ask for everything as soon as it is asked for that.
            let seen = fs::mtime_at(merged, name, false)?;
            let copied = is_copy(upper, merged, name, &real, lower.as_ref())?;
            if !self.filled.contains(&real.ino) {
                holds.changes |= !copied || name.as_bytes().starts_with(WHITEOUT_PREFIX);
                holds.late_copy |= copied
                    && real.ctime >= touched
                    && fs::birth_at(upper, name)?.is_some_and(|born| born <= touched);
            }
            let right = match (real.kind, lower) {
                (FileKind::Directory, lower) => {
                    let next = match (&found, below) {
                        (Some(found), Some(below)) if copied => Some(below.open(name, found)?),
                        _ => None,
                    };
                    let (inner, inner_merged) =
                        (fs::open_dir_at(upper, name)?, fs::open_dir_at(merged, name)?);
                    let held = self.directory(
                        inner.as_fd(),
                        inner_merged.as_fd(),
                        next.as_ref(),
                        &path,
                        real.mtime,
                        depth + 1,
                    )?;
                    match lower {
                        _ if seen != real.mtime => seen,
                        Some(lower) if copied && remembered == seen && !held.changes && held.late_copy => {
                            lower.mtime
                        }
                        _ => real.mtime,
                    }
                }
                (FileKind::Symlink, Some(lower))
                    if copied && fs::birth_at(upper, name)? == Some(real.mtime) =>
                {
                    lower.mtime
                }
                _ => real.mtime,
            };
            if right != real.mtime {
                fs::set_mtime_at(upper, name, right)?;
            }
        }
        Ok(holds)
    }
}

/// What the kernel remembers of a name's time; `None` where nothing is to be seen under that name.
fn remembered(merged: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Time>> {
    match fs::mtime_at(merged, name, true) {
        Ok(time) => Ok(Some(time)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether what the upper directory has is the copy of a lower file.
fn is_copy(
    upper: BorrowedFd<'_>,
    merged: BorrowedFd<'_>,
    name: &OsStr,
    real: &Stat,
    lower: Option<&Stat>,
) -> io::Result<bool> {
    let Some(lower) = lower.filter(|lower| lower.kind == real.kind) else { return Ok(false) };
    match real.kind {
        FileKind::File => Ok(fs::xattr_at(upper, name, OsStr::new(COPIED))?.is_some()),
        // Every directory that is made anew is marked.
        FileKind::Directory => Ok(fs::xattr_at(upper, name, OsStr::new(OPAQUE))?.is_none()),
        // A copy goes on with the number of what it is a copy of.
        FileKind::Symlink => Ok(fs::stat_at(merged, name)?.ino == lower.ino),
        _ => Ok(false),
    }
}
