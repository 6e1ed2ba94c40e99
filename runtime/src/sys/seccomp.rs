//! Filters on system calls, and the descriptor on which the kernel asks what to do with one.
//!
//! seccomp(2) and `seccomp_unotify(2)`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One instruction of a classic BPF program: the fields of `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What it does.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Its operand.
    pub k: u32,
}

/// A system call that waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification {
    /// Names it while the task waits.
    pub id: u64,
    /// The calling thread, in the PID namespace of whoever listens; 0 where it has no number there.
    pub tid: u32,
    /// The system call's number.
    pub number: i64,
    /// Its arguments, as the registers hold them.
    pub args: [u64; 6],
}

/// Where notifications arrive. Closed, the calls under the filter fail with `ENOSYS`.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    /// `struct seccomp_notif` and `struct seccomp_notif_resp`, which a later kernel may know larger.
    sizes: (usize, usize),
    buffer: Vec<u64>,
}

/// Puts the calling thread, and all that it starts, under a filter, and gives the descriptor for its
/// notifications.
///
/// Asks for `CAP_SYS_ADMIN` in the user namespace, or `no_new_privs`. A call that somebody works on waits
/// through all signals but fatal ones, where the kernel can do that (Linux 5.19): else one that is
/// interrupted starts again.
///
/// # Errors
/// `EBUSY` when a filter with a listener is in force already; `EINVAL` and `ENOSYS` on kernels without
/// notifications.
pub fn listen(program: &[Instruction]) -> io::Result<OwnedFd> {
    let filter: Vec<libc::sock_filter> =
        program.iter().map(|i| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect();
    let length = u16::try_from(filter.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len: length, filter: filter.as_ptr().cast_mut() };
    let patient = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let mut error = io::Error::from(io::ErrorKind::Unsupported);
    for flags in [patient, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER] {
        // SAFETY: the program points to `filter`, which is alive, as long as it says; the kernel copies
        // it and writes nothing.
        let fd = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
        };
        if fd >= 0 {
            // SAFETY: with NEW_LISTENER the call returns a new descriptor, ours alone.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        }
        error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINVAL) {
            break;
        }
    }
    Err(error)
}

/// Gives up gaining privilege by `execve`, for good.
pub fn no_new_privs() -> io::Result<()> {
    Ok(nix::sys::prctl::set_no_new_privs()?)
}

impl Listener {
    /// Takes charge of a descriptor that [`listen`] gave, in this process or another.
    pub fn new(fd: OwnedFd) -> io::Result<Listener> {
        let mut sizes =
            libc::seccomp_notif_sizes { seccomp_notif: 0, seccomp_notif_resp: 0, seccomp_data: 0 };
        // SAFETY: the structure is alive, and of the type that this operation fills.
        let done =
            unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_NOTIF_SIZES, 0, &raw mut sizes) };
        if done == -1 {
            return Err(io::Error::last_os_error());
        }
        let asked = usize::from(sizes.seccomp_notif).max(size_of::<libc::seccomp_notif>());
        let answer = usize::from(sizes.seccomp_notif_resp).max(size_of::<libc::seccomp_notif_resp>());
        let buffer = vec![0; asked.max(answer).div_ceil(8)];
        let listener = Listener { fd, sizes: (asked, answer), buffer };
        // Linux 6.6: whoever asks and whoever answers take turns on one processor, which halves the
        // price. Without it all works as well.
        // SAFETY: the argument is a plain number.
        unsafe { libc::ioctl(listener.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS as _, 1u64) };
        Ok(listener)
    }

    /// The next call that waits; `None` when it is gone already. To be asked when the descriptor is readable.
    pub fn receive(&mut self) -> io::Result<Option<Notification>> {
        self.buffer[..self.sizes.0.div_ceil(8)].fill(0);
        // SAFETY: the buffer is zeroed, as the kernel demands, aligned for 64-bit fields, and at least as
        // large as the kernel says that it fills.
        let done = unsafe {
            libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV as _, self.buffer.as_mut_ptr())
        };
        if done == -1 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ENOENT | libc::EINTR) => Ok(None),
                _ => Err(error),
            };
        }
        // SAFETY: the buffer holds a whole seccomp_notif (checked when it was made), which is plain
        // integers, and is aligned for it.
        let got = unsafe { &*self.buffer.as_ptr().cast::<libc::seccomp_notif>() };
        Ok(Some(Notification { id: got.id, tid: got.pid, number: got.data.nr.into(), args: got.data.args }))
    }

    /// Whether the task still waits. If it does, what was read before under its number was its own.
    pub fn is_valid(&self, id: u64) -> bool {
        // SAFETY: the kernel reads one number, which is alive.
        let done = unsafe {
            libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID as _, &raw const id)
        };
        done == 0
    }

    /// Has the kernel do the call.
    pub fn pass(&mut self, id: u64) -> io::Result<()> {
        self.send(id, 0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32)
    }

    /// Answers in the kernel's place: with what the call returns, or with an error number.
    pub fn answer(&mut self, id: u64, result: Result<i64, i32>) -> io::Result<()> {
        match result {
            Ok(value) => self.send(id, value, 0, 0),
            Err(errno) => self.send(id, 0, -errno, 0),
        }
    }

    /// Gives the task a copy of a descriptor, and the copy's number as what the call returns.
    pub fn answer_with(&mut self, id: u64, fd: BorrowedFd<'_>, close_on_exec: bool) -> io::Result<()> {
        let request = libc::seccomp_notif_addfd {
            id,
            flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
            srcfd: fd.as_raw_fd() as u32,
            newfd: 0,
            newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
        };
        // SAFETY: the structure is alive, and of the type that this operation reads.
        let done = unsafe {
            libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD as _, &raw const request)
        };
        if done >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Whether answers can carry a descriptor (Linux 5.14), found out by giving one to nobody.
    ///
    /// # Errors
    /// `EINVAL` where they cannot.
    pub fn check(&mut self) -> io::Result<()> {
        let fd = self.fd.try_clone()?;
        match self.answer_with(u64::MAX, fd.as_fd(), true) {
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => Err(e),
            _ => Ok(()),
        }
    }

    fn send(&mut self, id: u64, value: i64, error: i32, flags: u32) -> io::Result<()> {
        self.buffer[..self.sizes.1.div_ceil(8)].fill(0);
        // SAFETY: the buffer is large enough for a seccomp_notif_resp, aligned for it, and any bits make
        // one; nothing else refers to it.
        let response = unsafe { &mut *self.buffer.as_mut_ptr().cast::<libc::seccomp_notif_resp>() };
        *response = libc::seccomp_notif_resp { id, val: value, error, flags };
        // SAFETY: the buffer holds what this operation reads.
        let done = unsafe {
            libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND as _, self.buffer.as_mut_ptr())
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
