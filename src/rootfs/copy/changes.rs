//! From what differs in a working tree to an upper directory.
//!
//! Files that a step has made or changed are moved, not copied: the tree gets them back from the layer that
//! becomes of them, and only if another step works in it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use cooper_runtime::record::{Attributes, ByInode, Inode};
use cooper_runtime::sys::fs::{self, FileKind, Stat};

use super::clone::{dress, open_up};
use super::stale::Stale;
use crate::layer::apply::make_whiteout;
use crate::rootfs::Records;
use crate::rootfs::describe::join;

/// Marks a file as a lower one that was written to; the name and its meaning are the kernel overlay's.
const ORIGIN: &str = "user.overlay.origin";

/// What is on record.
#[derive(Debug)]
pub(super) enum Known<'a> {
    /// Nobody kept records: files that are still what they were have those of the layers below.
    Below(&'a Records),
    /// Of all files that are there.
    Inodes(&'a ByInode),
}

/// Makes upper directories.
#[derive(Debug)]
pub(super) struct Mover<'a> {
    pub(super) known: Known<'a>,
    /// What is on record of what was moved, by path.
    pub(super) records: Records,
}

impl Mover<'_> {
    /// Moves all differences of `tree` to the empty directory `upper`. Directories that were moved are
    /// marked as whole: nothing of them is left in the tree.
    pub(super) fn root(
        &mut self,
        stale: &mut Stale,
        tree: BorrowedFd<'_>,
        upper: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let (here, stat) = (OsStr::new("."), fs::stat(tree)?);
        if let Known::Inodes(inodes) = self.known
            && let Some(record) = inodes.get(&inode(&stat))
        {
            self.records.insert(Vec::new(), record.clone());
        }
        self.directory(stale, tree, upper, &[])?;
        dress(tree, here, &stat, upper, here)
    }

    fn directory(
        &mut self,
        stale: &mut Stale,
        tree: BorrowedFd<'_>,
        upper: BorrowedFd<'_>,
        path: &[u8],
    ) -> io::Result<()> {
        for (name, node) in &mut stale.children {
            let path = join(path, name);
            let (before, after) = node.difference.map_or((None, None), |d| (d.before, d.after));
            if node.difference.is_some() && after.is_none_or(|after| after.whiteout) {
                // A whiteout that a step makes is not there for anybody: the kernel's overlay does not
                // let it be made.
                if after.is_some() {
                    fs::unlink_at(tree, name)?;
                }
                if before.is_some() {
                    make_whiteout(upper, name)?;
                }
                continue;
            }
            let stat = fs::stat_at(tree, name)?;
            let merged = stat.kind == FileKind::Directory && before.is_none_or(|before| before.dir);
            if merged && (node.difference.is_none() || before.is_some()) {
                let replaced = before.is_some_and(|before| before.ino != stat.ino);
                self.record_directory(&path, &stat, replaced);
                fs::make_dir_at(upper, name, 0o700)?;
                open_up(tree, name)?;
                let (inner, made) = (fs::open_dir_at(tree, name)?, fs::open_dir_at(upper, name)?);
                self.directory(node, inner.as_fd(), made.as_fd(), &path)?;
                dress(tree, name, &stat, upper, name)?;
                continue;
            }
            let kept = before.is_some_and(|before| before.ino == stat.ino);
            move_to(tree, name, &stat, upper)?;
            node.whole = true;
            self.record(upper, name, &stat, &path, kept)?;
        }
        Ok(())
    }

    /// Notes what is on record of a directory that was made again in the upper directory.
    fn record_directory(&mut self, path: &[u8], stat: &Stat, replaced: bool) {
        match self.known {
            Known::Inodes(inodes) => {
                let record = inodes.get(&inode(stat)).cloned().unwrap_or_default();
                self.records.insert(path.to_vec(), record);
            }
            // Another directory under the same name is not what the layers below have on record.
            Known::Below(below) if replaced && below.contains_key(path) => {
                self.records.insert(path.to_vec(), Attributes::default());
            }
            Known::Below(_) => {}
        }
    }

    /// Notes what is on record of what was moved, and of all below it.
    fn record(
        &mut self,
        upper: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Stat,
        path: &[u8],
        kept: bool,
    ) -> io::Result<()> {
        match self.known {
            Known::Inodes(inodes) => {
                let record = inodes.get(&inode(stat)).cloned().unwrap_or_default();
                self.records.insert(path.to_vec(), record);
                if stat.kind == FileKind::Directory {
                    fs::check_depth(path.iter().filter(|b| **b == b'/').count() + 1)?;
                    let inner = fs::open_dir_at(upper, name)?;
                    for entry in fs::list(&inner)? {
                        let stat = fs::stat_at(&inner, &entry.name)?;
                        self.record(inner.as_fd(), &entry.name, &stat, &join(path, &entry.name), false)?;
                    }
                }
            }
            Known::Below(below) => {
                if kept && stat.kind == FileKind::File && below.contains_key(path) {
                    fs::set_xattr_at(upper, name, OsStr::new(ORIGIN), b"")?;
                }
            }
        }
        Ok(())
    }
}

fn inode(stat: &Stat) -> Inode {
    Inode { dev: stat.dev, ino: stat.ino }
}

/// Renames, also a directory that its owner may not write to: to a directory that is moved, the kernel
/// writes the new `..`.
fn move_to(tree: BorrowedFd<'_>, name: &OsStr, stat: &Stat, upper: BorrowedFd<'_>) -> io::Result<()> {
    match fs::rename_at(tree, name, upper, name) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied && stat.kind == FileKind::Directory => {
            open_up(tree, name)?;
            fs::rename_at(tree, name, upper, name)?;
            fs::chmod_at(upper, name, stat.mode)
        }
        other => other,
    }
}
