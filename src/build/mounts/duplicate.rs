//! Copies a tree as it is: owners, modes, times, hard links, holes.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::Permissions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use cooper_runtime::sys::fs::{self, FileKind, Stat};

/// Copies `name` in `from`, with all below it, to the free name `new` in `to`. Links are copied and never
/// followed; sockets, which mean nothing without their process, are left out. With `records` owners stay
/// those of the one user that there is.
///
/// # Errors
/// What the file system says, also when it has no device nodes for us to make.
pub(super) fn duplicate(
    from: BorrowedFd<'_>,
    name: &OsStr,
    to: BorrowedFd<'_>,
    new: &OsStr,
    records: bool,
) -> io::Result<()> {
    let mut copier = Copier { top: to, seen: HashMap::new(), records };
    copier.copy(from, name, to, new, new)
}

struct Copier<'a> {
    /// What the paths in `seen` start from.
    top: BorrowedFd<'a>,
    /// Files with more than one name that were met, and where the first was copied to. A path through
    /// directories that were made here, and that nobody else knows.
    seen: HashMap<(u64, u64), OsString>,
    records: bool,
}

impl Copier<'_> {
    fn copy(
        &mut self,
        from: BorrowedFd<'_>,
        name: &OsStr,
        to: BorrowedFd<'_>,
        new: &OsStr,
        path: &OsStr,
    ) -> io::Result<()> {
        let stat = fs::stat_at(from, name)?;
        if stat.nlink > 1 && stat.kind != FileKind::Directory {
            match self.seen.get(&(stat.dev, stat.ino)) {
                Some(first) => return fs::link_at(self.top, first, to, new),
                None => drop(self.seen.insert((stat.dev, stat.ino), path.to_owned())),
            }
        }
        match stat.kind {
            FileKind::Socket => return Ok(()),
            FileKind::Symlink => {
                fs::make_symlink_at(to, new, &fs::read_link_at(from, name)?)?;
                self.own(to, new, &stat)?;
                return fs::set_mtime_at(to, new, stat.mtime);
            }
            FileKind::File => {
                let source = fs::open_file_at(from, name)?;
                let copy = fs::create_file_at(to, new)?;
                fs::copy_contents(&source, &copy)?;
                self.own(to, new, &stat)?;
                copy.set_permissions(Permissions::from_mode(stat.mode))?;
            }
            FileKind::Directory => {
                fs::check_depth(path.as_bytes().iter().filter(|b| **b == b'/').count())?;
                let source = fs::open_dir_at(from, name)?;
                fs::make_dir_at(to, new, 0o700)?;
                let copy = fs::open_dir_at(to, new)?;
                for entry in fs::list(&source)? {
                    let mut below = path.to_owned();
                    below.push("/");
                    below.push(&entry.name);
                    self.copy(source.as_fd(), &entry.name, copy.as_fd(), &entry.name, &below)?;
                }
                self.own(to, new, &stat)?;
                fs::chmod_at(to, new, stat.mode)?;
            }
            FileKind::CharDevice | FileKind::BlockDevice | FileKind::Fifo => {
                fs::make_node_at(to, new, stat.kind, stat.rdev)?;
                self.own(to, new, &stat)?;
                fs::chmod_at(to, new, stat.mode)?;
            }
        }
        // After the owner, whose change clears capabilities.
        for (attribute, value) in fs::xattrs_at(from, name)? {
            let bytes = attribute.as_bytes();
            let own = bytes.starts_with(b"user.") && !bytes.starts_with(b"user.overlay.");
            if own || bytes == b"security.capability" {
                fs::set_xattr_at(to, new, &attribute, &value)?;
            }
        }
        fs::set_mtime_at(to, new, stat.mtime)
    }

    fn own(&self, to: BorrowedFd<'_>, new: &OsStr, stat: &Stat) -> io::Result<()> {
        if self.records || (stat.uid, stat.gid) == (0, 0) {
            return Ok(());
        }
        fs::chown_at(to, new, stat.uid, stat.gid)
    }
}
