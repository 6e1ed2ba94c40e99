//! Takes out of a checkout what does not come from the commit.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use cooper_runtime::sys::fs::{self as sysfs, FileKind, Time};

/// Gives all files below `dir`, and `dir` itself, modes and times that depend on the commit only, and
/// removes `.git` unless it stays; submodules have one too.
pub(super) fn settle(dir: &Path, keep_git_dir: bool, time: Time) -> io::Result<()> {
    let root = sysfs::open_dir(dir)?;
    settle_below(&root, keep_git_dir, false, time, 0)?;
    sysfs::chmod_at(&root, OsStr::new("."), 0o755)?;
    sysfs::set_mtime_at(&root, OsStr::new("."), time)
}

fn settle_below(
    dir: impl AsFd,
    keep_git_dir: bool,
    in_git_dir: bool,
    time: Time,
    depth: usize,
) -> io::Result<()> {
    sysfs::check_depth(depth)?;
    let dir = dir.as_fd();
    for entry in sysfs::list(dir)? {
        let name = entry.name.as_os_str();
        let git_dir = name == ".git";
        if git_dir && !keep_git_dir {
            sysfs::remove_tree_at(dir, name)?;
            continue;
        }
        let stat = sysfs::stat_at(dir, name)?;
        match stat.kind {
            FileKind::Directory => {
                settle_below(
                    sysfs::open_dir_at(dir, name)?,
                    keep_git_dir,
                    in_git_dir || git_dir,
                    time,
                    depth + 1,
                )?;
                sysfs::chmod_at(dir, name, 0o755)?;
            }
            // Objects are read-only in there.
            FileKind::File if !in_git_dir => {
                sysfs::chmod_at(dir, name, if stat.mode & 0o100 != 0 { 0o755 } else { 0o644 })?;
            }
            FileKind::File => sysfs::chmod_at(dir, name, (stat.mode & 0o755) | 0o444)?,
            _ => {}
        }
        sysfs::set_mtime_at(dir, name, time)?;
    }
    Ok(())
}
