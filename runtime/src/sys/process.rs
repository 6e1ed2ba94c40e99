//! Processes: fork, clone into namespaces, signals, descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus};
use nix::unistd::Pid;

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It returned this code.
    Exited(i32),
    /// A signal with this number killed it.
    Signaled(i32),
}

/// Runs `child` in a copy of this process and gives its process id and a descriptor for it. The copy
/// ends with the code that `child` returns; it never runs the caller's code.
///
/// # Errors
/// Refuses when this process has more than one thread: the copy would hold locks that nobody is left
/// to release.
pub fn fork(child: impl FnOnce() -> i32) -> io::Result<(Pid, OwnedFd)> {
    clone(0, child)
}

/// Like [`fork`], with the copy in new namespaces (`CLONE_NEW…` flags).
pub fn clone(namespaces: u64, child: impl FnOnce() -> i32) -> io::Result<(Pid, OwnedFd)> {
    if thread_count()? != 1 {
        return Err(io::Error::other("a process with several threads cannot be copied safely"));
    }
    let mut pidfd: libc::c_int = -1;
    let mut args = libc_clone_args(namespaces, &mut pidfd);
    // SAFETY: `args` is a live, properly sized structure; without CLONE_VM the child gets a copy of
    // this address space like after fork(2), and with one thread (checked above) no lock can be held
    // by a thread that the copy lacks. The child runs a Rust closure and leaves by _exit, so it never
    // returns into frames whose destructors belong to the parent.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(101);
            // SAFETY: _exit takes any value and does not return.
            unsafe { libc::_exit(code) }
        }
        pid => {
            // SAFETY: with CLONE_PIDFD the kernel has stored a new descriptor, ours alone, in `pidfd`.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok((Pid::from_raw(pid as i32), pidfd))
        }
    }
}

/// Has a program that is not started yet end (`SIGTERM`) when the thread that starts it does, in whatever
/// way, and take signals as usual: nothing goes on for a command that was killed.
pub fn end_with_us(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let us = nix::unistd::getpid();
    let arrange = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
        // The builder blocks signals, for a thread of its own to take them, and a program inherits that.
        nix::sys::signal::SigSet::empty().thread_set_mask()?;
        // Too late to be told.
        if nix::unistd::getppid() != us {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: between fork and exec only functions that are safe in a signal handler may be called; all
    // of these are bare system calls, and making an error of a number allocates nothing.
    unsafe { command.pre_exec(arrange) };
}

/// Has a program that is not started yet find these descriptors open, under the numbers that they have
/// here; no other program does. They stay open as long as `command` does.
pub fn inherit(command: &mut std::process::Command, fds: Vec<OwnedFd>) {
    use std::os::unix::process::CommandExt;
    let arrange = move || {
        for fd in &fds {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only functions that are safe in a signal handler may be called; this
    // is a bare system call for each descriptor, and making an error of a number allocates nothing.
    unsafe { command.pre_exec(arrange) };
}

fn libc_clone_args(namespaces: u64, pidfd: &mut libc::c_int) -> libc::clone_args {
    // SAFETY: clone_args is plain integers, for which zero is the documented "not used".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces | libc::CLONE_PIDFD as u64;
    args.pidfd = std::ptr::from_mut(pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args
}

/// Processors that this process may use, 1 at least: what its affinity and its control group allow. Asked
/// once: control groups tell it by way of half a dozen files.
pub fn processors() -> usize {
    static FOUND: OnceLock<usize> = OnceLock::new();
    *FOUND.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Threads of this process.
pub fn thread_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Waits until this process has one thread. A thread that was joined can stay in the kernel's thread
/// group for another moment, in which `unshare(CLONE_NEWUSER)` fails.
///
/// # Errors
/// `EBUSY` when there is another thread after a second: it was not joined.
pub fn settle_to_one_thread() -> io::Result<()> {
    for _ in 0..1000 {
        if thread_count()? == 1 {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Err(io::Error::from_raw_os_error(libc::EBUSY))
}

/// Waits for a child and takes its exit status.
pub fn wait(child: impl AsFd) -> io::Result<Ended> {
    loop {
        match nix::sys::wait::waitid(Id::PIDFd(child.as_fd()), WaitPidFlag::WEXITED) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(Ended::Exited(code)),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(Ended::Signaled(signal as i32)),
            Ok(_) | Err(nix::errno::Errno::EINTR) => continue,
            Err(e) => return Err(e.into()),
        }
    }
}

/// Lets everybody else go first: the calling thread, and those that it starts from now on, have the processor
/// when nobody else wants it much (`setpriority(2)`, which on Linux is about threads).
pub fn step_back() {
    // It is a favour, and no harm is done where it cannot be done.
    let _ = rustix::process::setpriority_process(None, 19);
}

/// Sends a signal to the process behind a pidfd; one that is gone is success.
pub fn send_signal(child: impl AsFd, signal: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open for the call's time, and a null siginfo asks for the default.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            child.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<u8>(),
            0,
        )
    };
    match done {
        -1 => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            e => Err(e),
        },
        _ => Ok(()),
    }
}

/// Gives every signal its default action and unblocks all: what a fresh program expects, and what
/// Rust's runtime (which ignores SIGPIPE) and our own signal thread have changed.
pub fn reset_signals() -> io::Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, sigaction};
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator() {
        if signal != Signal::SIGKILL && signal != Signal::SIGSTOP {
            // SAFETY: the default action installs no handler, so no code of ours can run on a signal.
            unsafe { sigaction(signal, &default) }?;
        }
    }
    SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// Closes every descriptor but the standard streams and those in `keep`.
///
/// For copies of this process only, and before they run anything else: what the copied code still owns
/// is closed under it.
pub fn close_all_but(keep: &[std::os::fd::RawFd]) -> io::Result<()> {
    let mut keep: Vec<u32> =
        keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if fd > first {
            // SAFETY: close_range takes plain numbers. Descriptors that Rust values own are closed
            // under them, which is what the caller asks for in a copy that uses none of them again.
            let done = unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) };
            if done == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

/// Leaves the session keyring of whoever started the builder: keys that a login put there are none of a
/// step's business. Where the system call is forbidden, steps cannot reach keys either.
pub fn leave_session_keyring() {
    // SAFETY: with a null name the call makes an anonymous keyring and reads no memory of ours.
    unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<u8>()) };
}

/// Makes `fd` descriptor number `number` (0, 1 or 2), inherited by programs executed later.
pub fn install_stdio(fd: impl AsFd, number: i32) -> io::Result<()> {
    // SAFETY: dup2 onto a standard descriptor; nothing in this process owns 0 to 2 as an OwnedFd.
    let done = unsafe { libc::dup2(fd.as_fd().as_raw_fd(), number) };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes charge of a descriptor that the kernel has just passed to this process.
fn own(received: std::os::fd::RawFd) -> OwnedFd {
    // SAFETY: called only on the numbers that recvmsg(2) put into an SCM_RIGHTS message: fresh
    // descriptors of this process that nothing else knows.
    unsafe { OwnedFd::from_raw_fd(received) }
}

/// Sends descriptors through a local socket, in one message.
pub fn hand_over(socket: impl AsFd, fds: &[RawFd]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(fds)];
    let socket = socket.as_fd().as_raw_fd();
    sendmsg::<()>(socket, &[IoSlice::new(&[0])], &rights, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Takes the `N` descriptors, four at most, that one [`hand_over`] has sent; `None` when the other end was
/// closed instead.
///
/// # Errors
/// `InvalidData` when it has sent another number of them.
pub fn take_over<const N: usize>(socket: impl AsFd) -> io::Result<Option<[OwnedFd; N]>> {
    let mut byte = [0u8];
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let mut slices = [IoSliceMut::new(&mut byte)];
    let (socket, flags) = (socket.as_fd().as_raw_fd(), MsgFlags::MSG_CMSG_CLOEXEC);
    let message = loop {
        match recvmsg::<()>(socket, &mut slices, Some(&mut space), flags) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other?,
        }
    };
    if message.bytes == 0 {
        return Ok(None);
    }
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            fds.extend(received.into_iter().map(own));
        }
    }
    fds.try_into().map(Some).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}
