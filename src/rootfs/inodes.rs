//! From records by inode, as a running step has them, to records by path, as a layer has them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use cooper_runtime::record::{Attributes, ByInode, Inode};
use cooper_runtime::sys::fs::{self, FileKind};

use super::Records;
use super::describe::join;

/// What is on record of all that lies in an upper directory. `merged` is the mounted root, whose inode
/// numbers are those that the step saw: the upper file of a lower one that was copied up has another.
pub(super) fn by_path(
    upper: BorrowedFd<'_>,
    merged: BorrowedFd<'_>,
    inodes: &ByInode,
) -> io::Result<Records> {
    let mut records = Records::new();
    let stat = fs::stat(merged)?;
    if let Some(record) = inodes.get(&Inode { dev: stat.dev, ino: stat.ino }) {
        records.insert(Vec::new(), record.clone());
    }
    directory(upper, merged, &[], 0, inodes, &mut records)?;
    Ok(records)
}

fn directory(
    upper: BorrowedFd<'_>,
    merged: BorrowedFd<'_>,
    path: &[u8],
    depth: usize,
    inodes: &ByInode,
    records: &mut Records,
) -> io::Result<()> {
    fs::check_depth(depth)?;
    for entry in fs::list(upper)? {
        // A whiteout is not there.
        let Some(stat) = fs::try_stat_at(merged, &entry.name)? else { continue };
        let path = join(path, &entry.name);
        match inodes.get(&Inode { dev: stat.dev, ino: stat.ino }) {
            Some(record) => {
                records.insert(path.clone(), record.clone());
            }
            // Files and directories show whether they are what was below, and have its record then. Others do
            // not, but keep their numbers: this one is new, and nothing is on record of it.
            None if !matches!(stat.kind, FileKind::File | FileKind::Directory) => {
                records.insert(path.clone(), Attributes::default());
            }
            None => {}
        }
        if stat.kind == FileKind::Directory {
            let inner = fs::open_dir_at(upper, &entry.name)?;
            let merged = fs::open_dir_at(merged, &entry.name)?;
            directory(inner.as_fd(), merged.as_fd(), &path, depth + 1, inodes, records)?;
        }
    }
    Ok(())
}
