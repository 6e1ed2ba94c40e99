//! Files of lower layers that are copied up: the two numbers that an overlay has for them.
//!
//! overlayfs shows a file that it has copied up under the number of the lower one, as long as it remembers: an
//! ordinary user's mount keeps no origin (`ovl_can_decode_fh` asks for `CAP_DAC_READ_SEARCH` outside), and when
//! memory is short the file comes back under the upper one's number. So both are known here: the other one is
//! looked up in the directory that the overlay writes to. Directories keep their number.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, OFlags};

use super::notify::{Answer, Answered, Recorder};
use super::table::{inode, links};
use super::target::{Target, View, c_string, stat_handle};
use crate::record::Inode;
use crate::sys::fs;
use crate::sys::memory::{self, KernelStat};

/// What an overlay writes to.
#[derive(Debug)]
pub(super) struct Upper {
    dir: OwnedFd,
    /// The overlay's own device number.
    dev: u64,
}

impl Upper {
    /// `root` is the mounted overlay.
    pub(super) fn open(upper: &Path, root: &Path) -> io::Result<Upper> {
        let dev = fs::stat(fs::open_dir(root)?)?.dev;
        Ok(Upper { dir: fs::open_dir(upper)?, dev })
    }

    /// The number that the upper file of a handle has, where there is one.
    fn inode(&self, view: &mut View, handle: &OwnedFd, stat: &KernelStat) -> Option<Inode> {
        if stat.st_dev != self.dev || is_dir(stat) {
            return None;
        }
        let path = relative(view.path_of(handle).ok()?)?;
        let upper = memory::stat(self.dir.as_fd(), &path, libc::AT_SYMLINK_NOFOLLOW).ok()?;
        let same = upper.st_mode & libc::S_IFMT == stat.st_mode & libc::S_IFMT;
        same.then_some(Inode { dev: stat.st_dev, ino: upper.st_ino })
    }
}

fn is_dir(stat: &KernelStat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFDIR
}

/// Below the root; `None` for what has no path there.
fn relative(path: CString) -> Option<CString> {
    let inside = path.to_bytes().strip_prefix(b"/")?;
    (!inside.is_empty()).then(|| c_string(inside.to_vec()).ok()).flatten()
}

impl Recorder {
    /// After something that copies a file up: it may be shown under either number from now on.
    pub(super) fn copied(&mut self, handle: &OwnedFd) -> io::Result<()> {
        let Some(upper) = &self.upper else { return Ok(()) };
        let stat = stat_handle(handle)?;
        let shown = inode(&stat);
        if self.table.get(shown, links(&stat)).is_some()
            && let Some(other) = upper.inode(&mut self.view, handle, &stat)
        {
            self.table.shown_as(shown, other);
        }
        Ok(())
    }

    /// Before something that will copy a file up: it is done now, so that both numbers are known.
    pub(super) fn before_copy(&mut self, t: &Target, handle: &OwnedFd) -> io::Result<()> {
        let Some(upper) = &self.upper else { return Ok(()) };
        let stat = stat_handle(handle)?;
        let known = self.table.get(inode(&stat), links(&stat)).is_some();
        if !known || stat.st_dev != upper.dev || is_dir(&stat) {
            return Ok(());
        }
        if upper.inode(&mut self.view, handle, &stat).is_none() {
            self.check(t)?;
            if stat.st_mode & libc::S_IFMT == libc::S_IFREG {
                // Leaves no trace but the copy.
                drop(self.view.reopen(handle, OFlags::WRONLY)?);
            } else {
                rustix::fs::chownat(handle, c"", None, None, AtFlags::EMPTY_PATH)?;
            }
            // One of several names of a lower file shows its own number at once.
            let after = stat_handle(handle)?;
            self.table.copied_up((inode(&stat), links(&stat)), (inode(&after), links(&after)));
        }
        self.copied(handle)
    }

    /// A call that changes a file, named by a path, and that the kernel does. What goes wrong here is the
    /// kernel's to say.
    pub(super) fn change(&mut self, t: &Target, fd: i32, path: u64, flags: i32) -> Answered {
        if self.upper.is_some() && !self.table.is_empty() {
            // utimensat names the descriptor itself by no path at all.
            let path = if path == 0 { Vec::new() } else { t.text(path)? };
            if !path.is_empty() || flags & libc::AT_EMPTY_PATH != 0 || fd >= 0 {
                let handle = self.view.handle(t, fd, &path, flags & libc::AT_SYMLINK_NOFOLLOW == 0)?;
                self.before_copy(t, &handle)?;
            }
        }
        Ok(Answer::Pass)
    }

    /// The same of an open file.
    pub(super) fn change_open(&mut self, t: &Target) -> Answered {
        if self.upper.is_some() && !self.table.is_empty() && t.fd(0) >= 0 {
            let handle = self.view.handle(t, t.fd(0), b"", true)?;
            self.before_copy(t, &handle)?;
        }
        Ok(Answer::Pass)
    }
}

/// What a link in `/proc` says of a file that is reachable and not deleted.
pub(super) fn as_path(text: CString) -> io::Result<CString> {
    let gone = text.to_bytes().ends_with(b" (deleted)");
    let inside = Path::new(OsStr::from_bytes(text.to_bytes())).is_absolute();
    if inside && !gone { Ok(text) } else { Err(io::Error::from(io::ErrorKind::NotFound)) }
}
