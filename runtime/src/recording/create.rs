//! New files, and whose they are.
//!
//! A file belongs to the recorded file-system ids of the task that makes it, and to the group of a directory
//! with the set-group-ID bit. Where that is 0:0 the kernel makes it; else the supervisor does, so that nobody
//! sees the file before it is on record.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::Scope;
use super::credentials::{CAP_MKNOD, Credentials};
use super::filter::CREATES;
use super::notify::{Answer, Answered, Recorder, done};
use super::target::{Target, c_string, stat_handle};
use crate::record::Node;
use crate::sys::memory;

const NO_FOLLOW: i32 = libc::AT_SYMLINK_NOFOLLOW;

/// Links that are followed until there is nothing: what the kernel does.
const LINK_LIMIT: usize = 40;

/// A place for a new file: a handle on its directory, its name, its owner to be.
type NewPlace = (OwnedFd, CString, (u32, u32));

impl Recorder {
    /// `open` with flags that may create. `path` is the number of an argument.
    pub(super) fn open(
        &mut self,
        t: &Target,
        fd: i32,
        path: usize,
        flags: i32,
        mode: u32,
        resolve: u64,
    ) -> Answered {
        let writes = flags & (libc::O_ACCMODE | libc::O_TRUNC) != 0;
        if writes && flags & libc::O_PATH == 0 && resolve == 0 {
            // A file that is not there is not copied up.
            let _ =
                self.change(t, fd, t.args[path], if flags & libc::O_NOFOLLOW == 0 { 0 } else { NO_FOLLOW });
        }
        let creates = flags as u32 & CREATES != 0 && flags & libc::O_PATH == 0;
        // A restricted way of looking up is not followed here: the kernel opens, and root owns. With a range of
        // ids whoever makes a file owns it.
        if !creates || resolve != 0 || self.scope != Scope::Everything {
            return Ok(Answer::Pass);
        }
        let close = flags & libc::O_CLOEXEC != 0;
        let credentials = self.credentials_of(t.tid)?;
        let mut path = t.text(t.args[path])?;
        if flags & libc::O_TMPFILE == libc::O_TMPFILE {
            let dir = self.view.handle(t, fd, &path, true)?;
            let Some(owner) = self.owner_in(&credentials, &dir)? else { return Ok(Answer::Pass) };
            return self.make(t, &dir, c".".to_owned(), owner, flags, mode, close);
        }
        if self.is_plain(t, fd, &path, &credentials) {
            return Ok(Answer::Pass);
        }
        let mut from: Option<OwnedFd> = None;
        for _ in 0..LINK_LIMIT {
            if path.last() == Some(&b'/') {
                return Ok(Answer::Pass);
            }
            let (dir, name) = match &from {
                // Relative to the directory that holds the link.
                Some(dir) if path.first() != Some(&b'/') => self.parent_below(dir, &path)?,
                _ => self.view.parent(t, fd, &path)?,
            };
            let Ok(there) = memory::stat(std::os::fd::AsFd::as_fd(&dir), &name, libc::AT_SYMLINK_NOFOLLOW)
            else {
                let Some(owner) = self.owner_in(&credentials, &dir)? else { return Ok(Answer::Pass) };
                return self.make(t, &dir, name, owner, flags | libc::O_EXCL | libc::O_NOFOLLOW, mode, close);
            };
            let is_link = there.st_mode & libc::S_IFMT == libc::S_IFLNK;
            if !is_link || flags & (libc::O_EXCL | libc::O_NOFOLLOW) != 0 {
                return Ok(Answer::Pass);
            }
            // What such a link says is not where it leads: "pipe:[1]" behind /dev/stdout.
            if rustix::fs::fstatfs(&dir)?.f_type == rustix::fs::PROC_SUPER_MAGIC {
                return Ok(Answer::Pass);
            }
            path = rustix::fs::readlinkat(&dir, &name, Vec::new())?.into_bytes();
            from = Some(dir);
        }
        Ok(Answer::Pass)
    }

    /// `openat2`: the structure lies in memory.
    pub(super) fn open2(&mut self, t: &Target) -> Answered {
        let mut how = [0u8; 24];
        t.read(t.args[2], &mut how)?;
        let number = |at: usize| u64::from_le_bytes(how[at..at + 8].try_into().unwrap_or_default());
        let flags = i32::try_from(number(0)).map_err(io::Error::other)?;
        self.open(t, t.fd(0), 1, flags, number(8) as u32, number(16))
    }

    /// Directory and name of a path that is relative to a handle.
    fn parent_below(&mut self, dir: &OwnedFd, path: &[u8]) -> io::Result<(OwnedFd, CString)> {
        let at = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
        let inside = if at == 0 { b"." } else { &path[..at] };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::openat(dir, c_string(inside.to_vec())?, flags, Mode::empty())?;
        Ok((parent, c_string(path[at..].to_vec())?))
    }

    /// Whether what root makes there is root's: nearly always, and found out with one call.
    fn is_plain(&mut self, t: &Target, fd: i32, path: &[u8], c: &Credentials) -> bool {
        if (c.user.fs, c.group.fs) != (0, 0) {
            return false;
        }
        if self.table.is_empty() {
            return true;
        }
        let end = path.iter().rposition(|b| *b != b'/').map_or(0, |at| at + 1);
        let dir = match path[..end].iter().rposition(|b| *b == b'/') {
            Some(at) => &path[..=at],
            None => b".",
        };
        let stat = self.view.place(t, fd, dir).and_then(|place| place.stat(0));
        stat.is_ok_and(|s| s.st_mode & libc::S_ISGID == 0 || self.table.owner(&s).1 == 0)
    }

    /// Whose a file made in a directory is; `None` where the kernel's own answer is right.
    fn owner_in(&self, c: &Credentials, dir: &OwnedFd) -> io::Result<Option<(u32, u32)>> {
        let stat = stat_handle(dir)?;
        let inherits = stat.st_mode & libc::S_ISGID != 0;
        let group = if inherits { self.table.owner(&stat).1 } else { c.group.fs };
        Ok(Some((c.user.fs, group)).filter(|owner| *owner != (0, 0)))
    }

    /// Makes and opens a file that is not there, and puts it on record.
    #[expect(clippy::too_many_arguments, reason = "what open takes, and what was found out")]
    fn make(
        &mut self,
        t: &Target,
        dir: &OwnedFd,
        name: CString,
        owner: (u32, u32),
        flags: i32,
        mode: u32,
        close: bool,
    ) -> Answered {
        self.take_umask(t)?;
        self.check(t)?;
        let flags = OFlags::from_bits_retain(flags as u32) | OFlags::CLOEXEC | OFlags::NOCTTY;
        match rustix::fs::openat(dir, name, flags, Mode::from_bits_retain(mode & 0o7777)) {
            Ok(file) => {
                self.record_new(&stat_handle(&file)?, owner, None);
                Ok(Answer::Descriptor(file, close))
            }
            // Somebody else was faster, and the kernel opens that, or refuses.
            Err(rustix::io::Errno::EXIST) => Ok(Answer::Pass),
            Err(e) => Ok(Answer::Error(e.raw_os_error())),
        }
    }

    /// The task's `umask` becomes the supervisor's: a default access control list takes its place, and that
    /// only the kernel knows.
    fn take_umask(&self, t: &Target) -> io::Result<()> {
        rustix::process::umask(Mode::from_bits_truncate(self.view.umask(t.tid)?));
        Ok(())
    }

    /// Where a new file is to be, if it needs a record.
    fn new_place(&mut self, t: &Target, fd: i32, path: usize) -> io::Result<Option<NewPlace>> {
        let credentials = self.credentials_of(t.tid)?;
        let path = t.text(t.args[path])?;
        if self.is_plain(t, fd, &path, &credentials) {
            return Ok(None);
        }
        let (dir, name) = self.view.parent(t, fd, &path)?;
        let Some(owner) = self.owner_in(&credentials, &dir)? else { return Ok(None) };
        self.take_umask(t)?;
        self.check(t)?;
        Ok(Some((dir, name, owner)))
    }

    fn record_made(&mut self, made: io::Result<()>, place: &NewPlace) -> Answered {
        if made.is_ok() {
            let dir = std::os::fd::AsFd::as_fd(&place.0);
            let stat = memory::stat(dir, &place.1, libc::AT_SYMLINK_NOFOLLOW)?;
            self.record_new(&stat, place.2, None);
        }
        Ok(done(made))
    }

    pub(super) fn mkdir(&mut self, t: &Target, fd: i32, path: usize, mode: u32) -> Answered {
        let Some(place) = self.new_place(t, fd, path)? else { return Ok(Answer::Pass) };
        let mode = Mode::from_bits_retain(mode & 0o7777);
        let made = rustix::fs::mkdirat(&place.0, &place.1, mode).map_err(Into::into);
        self.record_made(made, &place)
    }

    pub(super) fn symlink(&mut self, t: &Target, text: usize, fd: i32, path: usize) -> Answered {
        let Some(place) = self.new_place(t, fd, path)? else { return Ok(Answer::Pass) };
        let text = c_string(t.text(t.args[text])?)?;
        let made = rustix::fs::symlinkat(text, &place.0, &place.1).map_err(Into::into);
        self.record_made(made, &place)
    }

    pub(super) fn mknod(&mut self, t: &Target, fd: i32, path: usize, mode: u32, device: u32) -> Answered {
        let kind = mode & libc::S_IFMT;
        if matches!(kind, libc::S_IFCHR | libc::S_IFBLK) {
            return self.device(t, fd, path, mode, device);
        }
        let Some(place) = self.new_place(t, fd, path)? else { return Ok(Answer::Pass) };
        // A file without a type is a regular one.
        let kind = if kind == 0 { libc::S_IFREG } else { kind };
        let kind = rustix::fs::FileType::from_raw_mode(kind);
        let mode = Mode::from_bits_retain(mode & 0o7777);
        let made = rustix::fs::mknodat(&place.0, &place.1, kind, mode, 0).map_err(Into::into);
        self.record_made(made, &place)
    }

    /// A device node: an empty file stands for it.
    fn device(&mut self, t: &Target, fd: i32, path: usize, mode: u32, device: u32) -> Answered {
        let block = mode & libc::S_IFMT == libc::S_IFBLK;
        // `new_decode_dev` of linux/kdev_t.h.
        let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00));
        let credentials = self.credentials_of(t.tid)?;
        // Character device 0:0 is how overlayfs says that a file is gone; the kernel refuses to make it there.
        if !credentials.can(CAP_MKNOD) || (!block && (major, minor) == (0, 0)) {
            return Ok(Answer::Pass);
        }
        let (dir, name) = self.view.parent(t, fd, &t.text(t.args[path])?)?;
        let owner = self.owner_in(&credentials, &dir)?.unwrap_or((0, 0));
        self.take_umask(t)?;
        self.check(t)?;
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&dir, &name, flags, Mode::from_bits_retain(mode & 0o7777)) {
            Ok(file) => file,
            Err(e) => return Ok(Answer::Error(e.raw_os_error())),
        };
        let mut recorded = owner;
        if self.scope != Scope::Everything {
            // The kernel can make this owner: a task runs as what it is.
            let (user, group) = (rustix::fs::Uid::from_raw(owner.0), rustix::fs::Gid::from_raw(owner.1));
            rustix::fs::chownat(&file, c"", Some(user), Some(group), AtFlags::EMPTY_PATH)?;
            recorded = (0, 0);
        }
        let stat = stat_handle(&file)?;
        self.record_new(&stat, recorded, Some(Node { block, major, minor }));
        Ok(Answer::Value(0))
    }
}
