//! What fuse-overlayfs leaves in an upper directory → the form of the kernel's overlay.
//!
//! | | fuse-overlayfs 1.10 | the kernel |
//! |---|---|---|
//! | a name is gone | a character device 0:0; `.wh.NAME` where it cannot make one | a character device 0:0 |
//! | a directory is opaque | `user.fuseoverlayfs.opaque`, a file `.wh..wh..opq`; every new directory is | `user.overlay.opaque` |
//! | a file is a lower one copied | `user.fuseoverlayfs.origin` | `user.overlay.origin` |

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use cooper_runtime::sys::fs::{self, FileKind, Stat};

use crate::layer::apply::{OPAQUE_XATTR, make_whiteout};

pub(super) const OPAQUE_FILE: &[u8] = b".wh..wh..opq";
pub(super) const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// All attributes of the program's own begin so; steps cannot set them.
const OWN_XATTRS: &[u8] = b"user.fuseoverlayfs.";
const KERNEL_XATTRS: &[u8] = b"user.overlay.";
/// What the program sets on copies of lower files, and on directories that hide lower ones.
pub(super) const COPIED: &str = "user.fuseoverlayfs.origin";
pub(super) const OPAQUE: &str = "user.fuseoverlayfs.opaque";
const ORIGIN_XATTR: &str = "user.overlay.origin";

/// Brings an upper directory that nobody uses any more into the kernel's form.
pub(super) fn upper(upper: BorrowedFd<'_>) -> io::Result<()> {
    directory(upper, 0)?;
    attributes(upper, OsStr::new("."))?;
    Ok(())
}

/// Gives whether the directory has the program's mark of an opaque one in it.
fn directory(dir: BorrowedFd<'_>, depth: usize) -> io::Result<bool> {
    fs::check_depth(depth)?;
    let mut opaque = false;
    for entry in fs::list(dir)? {
        let name = entry.name.as_os_str();
        let stat = fs::stat_at(dir, name)?;
        match stat.kind {
            FileKind::Directory => {
                let inner = fs::open_dir_at(dir, name)?;
                let marked = directory(inner.as_fd(), depth + 1)?;
                if attributes(dir, name)?.opaque || marked {
                    fs::set_xattr_at(dir, name, OsStr::new(OPAQUE_XATTR), b"y")?;
                }
                if fs::stat_at(dir, name)?.mtime != stat.mtime {
                    fs::set_mtime_at(dir, name, stat.mtime)?;
                }
            }
            FileKind::File if is_mark(name, &stat) => {
                fs::unlink_at(dir, name)?;
                let bytes = name.as_bytes();
                if bytes == OPAQUE_FILE {
                    opaque = true;
                } else {
                    let gone = OsStr::from_bytes(&bytes[WHITEOUT_PREFIX.len()..]);
                    if fs::try_stat_at(dir, gone)?.is_none() {
                        make_whiteout(dir, gone)?;
                    }
                }
            }
            FileKind::File if attributes(dir, name)?.copied => {
                fs::set_xattr_at(dir, name, OsStr::new(ORIGIN_XATTR), b"y")?;
            }
            // What else there is cannot have attributes of users, and so none of the program's.
            _ => {}
        }
    }
    Ok(opaque)
}

/// Whether a regular file is one of the program's marks. A step cannot make a file of such a name; one that
/// it gives such a name the program itself takes for a mark from then on.
fn is_mark(name: &OsStr, stat: &Stat) -> bool {
    let name = name.as_bytes();
    name.len() > WHITEOUT_PREFIX.len() && name.starts_with(WHITEOUT_PREFIX) && stat.size == 0
}

/// What the program's attributes say.
struct Marks {
    opaque: bool,
    copied: bool,
}

/// Takes away the program's attributes, and those that a step has set in the kernel's name, which the
/// program lets through.
fn attributes(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Marks> {
    let mut marks = Marks { opaque: false, copied: false };
    for attr in fs::xattr_names_at(dir, name)? {
        let bytes = attr.as_bytes();
        match bytes.strip_prefix(OWN_XATTRS) {
            Some(b"opaque") => marks.opaque = true,
            Some(b"origin") => marks.copied = true,
            Some(_) => {}
            None if bytes.starts_with(KERNEL_XATTRS) => {}
            None => continue,
        }
        fs::remove_xattr_at(dir, name, &attr)?;
    }
    Ok(marks)
}
