//! The process that starts steps.
//!
//! A builder has threads; a process with threads cannot be forked and go on running ordinary code.
//! So the launcher is forked off while there is only one, and starts everything from then on: asked
//! over a socket, it makes a supervisor for each step. It has a session of its
//! own, which a signal to the builder's process group does not reach, and ends when its socket is
//! closed, that is, when the builder has ended in whatever way.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};

use crate::record::ByInode;
use crate::step::{Outcome, Step};
use crate::supervisor::{self, Report, Stdio};
use crate::sys::process;

/// A running launcher, as the builder holds it.
#[derive(Debug)]
pub struct Launcher {
    /// `None` only while it is being dropped.
    socket: Mutex<Option<OwnedFd>>,
    process: OwnedFd,
}

/// A running step. Dropping it before it has ended kills it.
#[derive(Debug)]
pub struct Running {
    socket: UnixStream,
}

/// Sends signals to a running step from other threads.
#[derive(Debug)]
pub struct Signaller {
    socket: UnixStream,
}

impl Launcher {
    /// Starts the launcher. Must be called in the namespaces in which steps are to run, while this
    /// process has one thread.
    ///
    /// # Errors
    /// When the process has more threads, or cannot be forked.
    pub fn start() -> io::Result<Launcher> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let (_, process) = process::fork(|| {
            // Not the builder's end, or the copy would never see it closed; and nothing else that the
            // builder has open: a step could come upon it in /proc/self/fd (CVE-2024-21626).
            if process::close_all_but(&[theirs.as_raw_fd()]).is_err() {
                return 1;
            }
            serve(&theirs)
        })?;
        Ok(Launcher { socket: Mutex::new(Some(ours)), process })
    }

    /// Starts a step with these standard streams.
    ///
    /// # Errors
    /// When the launcher is gone.
    pub fn spawn(
        &self,
        step: &Step,
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    ) -> io::Result<Running> {
        let (mut ours, theirs) = UnixStream::pair()?;
        let fds: [RawFd; 4] = [theirs.as_raw_fd(), stdin.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd()];
        {
            let socket = self.socket.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let socket = socket.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
            let rights = [ControlMessage::ScmRights(&fds)];
            sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&[0])], &rights, MsgFlags::MSG_NOSIGNAL, None)?;
        }
        supervisor::send(&mut ours, step)?;
        Ok(Running { socket: ours })
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // Closing the socket ends it; waiting leaves no zombie to a parent that may not care for it.
        drop(self.socket.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).take());
        let _ = process::wait(&self.process);
    }
}

impl Running {
    /// A handle to send signals with while another thread waits.
    pub fn signaller(&self) -> io::Result<Signaller> {
        Ok(Signaller { socket: self.socket.try_clone()? })
    }

    /// Waits for the end. When it returns, no process of the step is left. Gives how it ended, and what is
    /// on record about the files that are there: nothing, where the step was not recorded.
    ///
    /// # Errors
    /// When the supervisor died before it could tell.
    pub fn wait(mut self) -> io::Result<(Outcome, ByInode)> {
        let report: Report = supervisor::receive(&mut self.socket)?;
        Ok((report.outcome, report.records.into_iter().collect()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Closing alone would not do while a signaller holds a copy.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

impl Signaller {
    /// Sends a signal to the step's first process. A step that has ended takes none.
    pub fn send(&self, signal: i32) -> io::Result<()> {
        let byte = u8::try_from(signal).map_err(io::Error::other)?;
        match (&self.socket).write_all(&[byte]) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }
}

/// The launcher's life.
fn serve(socket: &OwnedFd) -> i32 {
    let _ = nix::unistd::setsid();
    // The builder's streams: whoever reads its output must not wait for us to close them.
    if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
        for number in 0..3 {
            let _ = process::install_stdio(&null, number);
        }
    }
    loop {
        match receive_request(socket) {
            Ok(Some((step_socket, stdio))) => {
                let started = process::fork(|| supervisor::supervise(step_socket, stdio));
                // A failed fork closes the step's socket here, and the builder sees that.
                drop(started);
                reap();
            }
            // Supervisors see their own sockets closed, and end their steps.
            Ok(None) => {
                while nix::sys::wait::wait().is_ok() {}
                return 0;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return 1,
        }
    }
}

/// Takes the exit statuses of supervisors that have ended, so that they do not pile up.
fn reap() {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

fn receive_request(socket: &OwnedFd) -> io::Result<Option<(UnixStream, Stdio)>> {
    let mut byte = [0u8];
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let mut slices = [IoSliceMut::new(&mut byte)];
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    if message.bytes == 0 {
        return Ok(None);
    }
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            fds.extend(received.into_iter().map(process::own));
        }
    }
    let mut fds = fds.into_iter();
    match (fds.next(), fds.next(), fds.next(), fds.next()) {
        (Some(step), Some(stdin), Some(stdout), Some(stderr)) => {
            Ok(Some((UnixStream::from(step), Stdio { stdin, stdout, stderr })))
        }
        _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}
