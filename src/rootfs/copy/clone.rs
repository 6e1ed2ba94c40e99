//! Makes a tree what a stack of layers says.
//!
//! Every name becomes an inode of its own, also where a layer has hard links: the kernel's overlay breaks
//! the links of a lower layer when one of the names is written to, and so must we, before that. Trees that
//! nobody writes to are the exception: their files are the layers' own, by hard links.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use cooper_runtime::sys::fs::{self, FileKind, Stat};

use super::stale::Stale;
use super::trash::Trash;
use crate::layer::entry::kept_xattr;
use crate::rootfs::lower::MergedDir;

/// What a directory gives to what is made in it.
const DEFAULT_ACL: &str = "system.posix_acl_default";

/// What becomes of a layer's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    /// A copy, which shares its blocks where the file system can do that.
    Copied,
    /// The same inode where that can be, for trees that nobody writes to.
    Linked,
}

/// Makes trees.
#[derive(Debug)]
pub(super) struct Cloner<'a> {
    pub(super) files: Files,
    pub(super) trash: &'a Trash,
}

impl Cloner<'_> {
    /// Fills the empty directory `to` with all that `from` shows. `from`'s layers must have no records:
    /// copied is what lies on the disk.
    pub(super) fn populate(&self, from: &MergedDir, to: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
        fs::check_depth(depth)?;
        for name in from.names()? {
            self.make(from, &name, to, depth)?;
        }
        Ok(())
    }

    /// Makes a name that is free in `to`, with all below it; says whether there is something to make.
    fn make(&self, from: &MergedDir, name: &OsStr, to: BorrowedFd<'_>, depth: usize) -> io::Result<bool> {
        let Some(found) = from.lookup(name, &[])? else { return Ok(false) };
        if found.stat.kind != FileKind::Directory {
            self.leaf(found.dir, name, &found.stat, to)?;
            return Ok(true);
        }
        fs::make_dir_at(to, name, 0o700)?;
        let inner = fs::open_dir_at(to, name)?;
        self.populate(&from.open(name, &found)?, inner.as_fd(), depth + 1)?;
        dress(found.dir, name, &found.stat, to, name)?;
        Ok(true)
    }

    /// Brings the names of the directory `to` that are stale up to what `from` shows. Directories that are
    /// made anew are marked as whole.
    pub(super) fn sync(
        &self,
        stale: &mut Stale,
        from: &MergedDir,
        to: BorrowedFd<'_>,
        depth: usize,
    ) -> io::Result<()> {
        fs::check_depth(depth)?;
        unlock(to)?;
        for (name, child) in &mut stale.children {
            let here = fs::try_stat_at(to, name)?;
            if let Some(found) = from.lookup(name, &[])?
                && found.stat.kind == FileKind::Directory
                && here.is_some_and(|here| here.kind == FileKind::Directory)
                && !child.whole
            {
                open_up(to, name)?;
                let inner = fs::open_dir_at(to, name)?;
                self.sync(child, &from.open(name, &found)?, inner.as_fd(), depth + 1)?;
                undress(to, name)?;
                dress(found.dir, name, &found.stat, to, name)?;
                continue;
            }
            if here.is_some() {
                self.trash.remove(to, name)?;
            }
            self.make(from, name, to, depth)?;
            child.whole = true;
        }
        Ok(())
    }

    fn leaf(&self, from: BorrowedFd<'_>, name: &OsStr, stat: &Stat, to: BorrowedFd<'_>) -> io::Result<()> {
        if self.files == Files::Linked && stat.kind != FileKind::Socket {
            // Too many links, another file system, or one that has none: copied, then.
            if fs::link_at(from, name, to, name).is_ok() {
                return Ok(());
            }
        }
        match stat.kind {
            FileKind::File => {
                let source = fs::open_file_at(from, name)?;
                fs::copy_contents(&source, &fs::create_file_at(to, name)?)?;
            }
            FileKind::Symlink => fs::make_symlink_at(to, name, &fs::read_link_at(from, name)?)?,
            FileKind::Directory | FileKind::Socket => return Err(io::ErrorKind::InvalidInput.into()),
            kind => fs::make_node_at(to, name, kind, stat.rdev)?,
        }
        dress(from, name, stat, to, name)
    }
}

/// Gives `to_name` in `to` the owner, attributes, mode and time of `name` in `from`, in this order: a new
/// owner clears capabilities and set-user-id bits.
pub(super) fn dress(
    from: BorrowedFd<'_>,
    name: &OsStr,
    stat: &Stat,
    to: BorrowedFd<'_>,
    to_name: &OsStr,
) -> io::Result<()> {
    let born = fs::stat_at(to, to_name)?;
    if (born.uid, born.gid) != (stat.uid, stat.gid) {
        fs::chown_at(to, to_name, stat.uid, stat.gid)?;
    }
    if stat.kind != FileKind::Symlink {
        for (attribute, value) in fs::xattrs_at(from, name)? {
            if kept_xattr(attribute.as_bytes()) {
                fs::set_xattr_at(to, to_name, &attribute, &value)?;
            }
        }
        fs::chmod_at(to, to_name, stat.mode)?;
    }
    fs::set_mtime_at(to, to_name, stat.mtime)
}

/// Takes away the extended attributes that layers speak of.
pub(super) fn undress(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    for attribute in fs::xattr_names_at(dir, name)? {
        if kept_xattr(attribute.as_bytes()) {
            fs::remove_xattr_at(dir, name, &attribute)?;
        }
    }
    Ok(())
}

/// Makes sure that a directory, which gets its attributes back later, can be worked in.
pub(super) fn open_up(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let mode = fs::stat_at(dir, name)?.mode;
    if mode & 0o700 != 0o700 { fs::chmod_at(dir, name, mode | 0o700) } else { Ok(()) }
}

/// Makes sure that what is made in a directory gets no access control list from it.
fn unlock(dir: BorrowedFd<'_>) -> io::Result<()> {
    let here = OsStr::new(".");
    match fs::xattr_at(dir, here, OsStr::new(DEFAULT_ACL))? {
        Some(_) => fs::remove_xattr_at(dir, here, OsStr::new(DEFAULT_ACL)),
        None => Ok(()),
    }
}
