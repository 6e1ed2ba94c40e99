//! Takes the calls that a filter stopped, one after the other, and answers them.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::OFlags;

use super::copy_up::Upper;
use super::credentials::{Credentials, Ids};
use super::filter;
use super::table::Table;
use super::target::{Target, View};
use super::{Recording, Scope};
use crate::record::ByInode;
use crate::sys::seccomp::Listener;

/// Timer slack, in nanoseconds, of a task whose credentials are the first. 50,000 is what a process has.
const FIRST_SLACK: u64 = 50_000;

/// Different credentials in one step: more than there are tasks.
const CREDENTIALS_LIMIT: usize = 1 << 16;

/// Supplementary groups in all different credentials of one step: each list may have 65,536, and is kept.
const GROUPS_IN_ALL: usize = 1 << 20;

/// The supervisor's records of one step, and the descriptor on which its tasks ask.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(super) listener: Listener,
    pub(super) view: View,
    pub(super) table: Table,
    pub(super) scope: Scope,
    pub(super) upper: Option<Upper>,
    pub(super) settled: Option<(i64, u32)>,
    /// Capabilities of root in the step.
    pub(super) bounding: u64,
    /// All credentials that a task has had, and where each is. Their place in it is their number.
    credentials: Vec<Credentials>,
    /// Supplementary groups of all of them together.
    groups: usize,
    numbers: HashMap<Credentials, usize>,
}

/// What becomes of a call.
#[derive(Debug)]
pub(super) enum Answer {
    /// The kernel does it.
    Pass,
    /// It returns this.
    Value(i64),
    /// It fails.
    Error(i32),
    /// It returns a descriptor for this, closed by `execve` or not.
    Descriptor(OwnedFd, bool),
}

/// An error means that the supervisor cannot tell what the call is about: the kernel does it.
pub(super) type Answered = io::Result<Answer>;

/// What the kernel has said of an operation made in the task's place, as the task's result.
pub(super) fn done(result: io::Result<()>) -> Answer {
    match result {
        Ok(()) => Answer::Value(0),
        Err(e) => Answer::Error(e.raw_os_error().unwrap_or(libc::EIO)),
    }
}

impl Recorder {
    /// Starts to serve a step whose first process is `first`, in `root`, and which is to be this user.
    ///
    /// # Errors
    /// Where the kernel does not let the supervisor see or mark the task.
    pub(crate) fn new(
        listener: OwnedFd,
        recording: Recording,
        (first, root): (u32, &Path),
        user: (u32, u32, &[u32]),
        bounding: u64,
    ) -> io::Result<Recorder> {
        let upper = recording.upper.map(|upper| Upper::open(&upper, root)).transpose()?;
        let start = Credentials::new(user.0, user.1, user.2, bounding);
        let recorder = Recorder {
            listener: Listener::new(listener)?,
            view: View::new(recording.scope == Scope::Everything)?,
            table: Table::new(recording.known),
            scope: recording.scope,
            upper,
            settled: recording.settled,
            bounding,
            groups: start.groups.len(),
            numbers: HashMap::from([(start.clone(), 0)]),
            credentials: vec![start],
        };
        if recorder.scope == Scope::Everything {
            recorder.mark(first, 0)?;
        }
        Ok(recorder)
    }

    /// What is on record in the end.
    pub(crate) fn into_records(self) -> ByInode {
        self.table.into_records()
    }

    /// Serves one call, when the descriptor is readable.
    ///
    /// # Errors
    /// When the descriptor is of no use any more: all tasks are gone.
    pub(crate) fn serve(&mut self) -> io::Result<()> {
        let Some(notification) = self.listener.receive()? else { return Ok(()) };
        let answer = Target::new(&notification).and_then(|target| self.decide(&target));
        let id = notification.id;
        // A task that was killed meanwhile hears nothing, and needs to hear nothing.
        let _ = match answer {
            Ok(Answer::Pass) | Err(_) => self.listener.pass(id),
            Ok(Answer::Value(value)) => self.listener.answer(id, Ok(value)),
            Ok(Answer::Error(errno)) => self.listener.answer(id, Err(errno)),
            Ok(Answer::Descriptor(fd, close)) => self
                .listener
                .answer_with(id, fd.as_fd(), close)
                .or_else(|e| self.listener.answer(id, Err(e.raw_os_error().unwrap_or(libc::EMFILE)))),
        };
        Ok(())
    }

    /// Whether the task still waits: what was read of it was its own, and what is done now is wanted.
    pub(super) fn check(&self, target: &Target) -> io::Result<()> {
        if self.listener.is_valid(target.id) {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
    }

    /// The recorded credentials of a task.
    pub(super) fn credentials_of(&self, tid: u32) -> io::Result<Credentials> {
        match self.scope {
            Scope::Everything => Ok(self.credentials[self.number_of(tid)?].clone()),
            Scope::Beyond { .. } => self.real_credentials(tid),
        }
    }

    fn number_of(&self, tid: u32) -> io::Result<usize> {
        if self.credentials.len() == 1 {
            return Ok(0);
        }
        let text = self.view.read_proc(tid, "timerslack_ns")?;
        let slack: u64 = text.trim().parse().map_err(io::Error::other)?;
        let number = slack.checked_sub(FIRST_SLACK).and_then(|n| usize::try_from(n).ok());
        // A task that was given another slack from outside is as the step was in the beginning.
        Ok(number.filter(|n| *n < self.credentials.len()).unwrap_or(0))
    }

    /// Gives a task other credentials.
    pub(super) fn set_credentials(&mut self, tid: u32, new: Credentials) -> io::Result<()> {
        let next = self.credentials.len();
        if !self.numbers.contains_key(&new) {
            let groups = self.groups + new.groups.len();
            if next == CREDENTIALS_LIMIT || groups > GROUPS_IN_ALL {
                return Err(io::Error::from_raw_os_error(libc::EAGAIN));
            }
            self.groups = groups;
        }
        let number = *self.numbers.entry(new.clone()).or_insert(next);
        if number == next {
            self.credentials.push(new);
        }
        self.mark(tid, number)
    }

    fn mark(&self, tid: u32, number: usize) -> io::Result<()> {
        let file = self.view.open_proc(tid, "timerslack_ns", OFlags::WRONLY)?;
        std::fs::File::from(file).write_all((FIRST_SLACK + number as u64).to_string().as_bytes())
    }

    /// What the kernel says that a task is.
    fn real_credentials(&self, tid: u32) -> io::Result<Credentials> {
        let ids = |field: &str| -> io::Result<Vec<u32>> {
            let text = self.view.status(tid, field)?;
            Ok(text.split_whitespace().filter_map(|n| n.parse().ok()).collect())
        };
        let four = |field: &str| match ids(field)?[..] {
            [real, effective, saved, fs] => Ok(Ids { real, effective, saved, fs }),
            _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
        };
        let capabilities =
            |field: &str| u64::from_str_radix(&self.view.status(tid, field)?, 16).map_err(io::Error::other);
        Ok(Credentials {
            user: four("Uid")?,
            group: four("Gid")?,
            groups: ids("Groups")?,
            permitted: capabilities("CapPrm")?,
            effective: capabilities("CapEff")?,
            keep_capabilities: false,
        })
    }

    /// `clone3`: its flags lie in memory.
    fn clone3(&mut self, t: &Target) -> Answered {
        if t.read_u32s(t.args[0], 1)?[0] & libc::CLONE_NEWNS as u32 != 0 {
            self.view.roots_differ();
        }
        Ok(Answer::Pass)
    }

    fn decide(&mut self, target: &Target) -> Answered {
        let t = target;
        const HERE: i32 = libc::AT_FDCWD;
        match t.number {
            libc::SYS_newfstatat => self.stat(t, t.fd(0), 1, t.fd(3), 2),
            libc::SYS_fstat => self.fstat(t),
            libc::SYS_statx => self.statx(t),
            libc::SYS_fchownat => self.chown(t, t.fd(0), 1, (t.arg32(2), t.arg32(3)), t.fd(4)),
            libc::SYS_fchown => self.fchown(t),
            libc::SYS_openat => self.open(t, t.fd(0), 1, t.fd(2), t.arg32(3), 0),
            libc::SYS_openat2 => self.open2(t),
            libc::SYS_mkdirat => self.mkdir(t, t.fd(0), 1, t.arg32(2)),
            libc::SYS_mknodat => self.mknod(t, t.fd(0), 1, t.arg32(2), t.arg32(3)),
            libc::SYS_symlinkat => self.symlink(t, 0, t.fd(1), 2),
            libc::SYS_unlinkat => self.unlink(t, t.fd(0), 1, t.fd(2)),
            libc::SYS_renameat => self.rename(t, (t.fd(0), 1), (t.fd(2), 3), 0),
            libc::SYS_renameat2 => self.rename(t, (t.fd(0), 1), (t.fd(2), 3), t.arg32(4)),
            libc::SYS_linkat => self.link(t, (t.fd(0), 1), (t.fd(2), 3), t.fd(4)),
            libc::SYS_execve => self.execute(t, HERE, 0, 0),
            libc::SYS_execveat => self.execute(t, t.fd(0), 1, t.fd(4)),
            filter::SYS_SETXATTRAT
            | filter::SYS_GETXATTRAT
            | filter::SYS_REMOVEXATTRAT
            | libc::SYS_setxattr
            | libc::SYS_lsetxattr
            | libc::SYS_fsetxattr
            | libc::SYS_getxattr
            | libc::SYS_lgetxattr
            | libc::SYS_fgetxattr
            | libc::SYS_removexattr
            | libc::SYS_lremovexattr
            | libc::SYS_fremovexattr => self.xattr(t),
            libc::SYS_getsockopt => self.peer(t),
            libc::SYS_fchmod => self.change_open(t),
            libc::SYS_fchmodat => self.change(t, t.fd(0), t.args[1], 0),
            filter::SYS_FCHMODAT2 | libc::SYS_utimensat => self.change(t, t.fd(0), t.args[1], t.fd(3)),
            libc::SYS_truncate => self.change(t, HERE, t.args[0], 0),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_chmod | libc::SYS_utime | libc::SYS_utimes => self.change(t, HERE, t.args[0], 0),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_futimesat => self.change(t, t.fd(0), t.args[1], 0),
            libc::SYS_clone3 => self.clone3(t),
            libc::SYS_chroot
            | libc::SYS_pivot_root
            | libc::SYS_setns
            | libc::SYS_unshare
            | libc::SYS_clone => {
                self.view.roots_differ();
                Ok(Answer::Pass)
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_stat => self.stat(t, HERE, 0, 0, 1),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_lstat => self.stat(t, HERE, 0, libc::AT_SYMLINK_NOFOLLOW, 1),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_chown => self.chown(t, HERE, 0, (t.arg32(1), t.arg32(2)), 0),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_lchown => self.chown(t, HERE, 0, (t.arg32(1), t.arg32(2)), libc::AT_SYMLINK_NOFOLLOW),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open => self.open(t, HERE, 0, t.fd(1), t.arg32(2), 0),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_creat => {
                self.open(t, HERE, 0, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, t.arg32(1), 0)
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_mkdir => self.mkdir(t, HERE, 0, t.arg32(1)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_mknod => self.mknod(t, HERE, 0, t.arg32(1), t.arg32(2)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_symlink => self.symlink(t, 0, HERE, 1),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_unlink => self.unlink(t, HERE, 0, 0),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_rmdir => self.unlink(t, HERE, 0, libc::AT_REMOVEDIR),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_rename => self.rename(t, (HERE, 0), (HERE, 1), 0),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_link => self.link(t, (HERE, 0), (HERE, 1), 0),
            _ => self.identity(t),
        }
    }
}

impl AsFd for Recorder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
