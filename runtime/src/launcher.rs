//! The process that starts steps.
//!
//! A builder has threads; a process with threads cannot be forked and go on running ordinary code.
//! So the launcher is forked off while there is only one, and starts everything from then on: it makes a
//! supervisor, which takes a step from the builder's socket, then the next one. So there is always one ready,
//! and no step waits for its making. It has a session of its own, which a signal to the builder's process
//! group does not reach, and ends when its socket is closed, that is, when the builder has ended in whatever
//! way.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

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
        {
            let socket = self.socket.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let socket = socket.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
            let fds = [theirs.as_raw_fd(), stdin.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd()];
            process::hand_over(socket, &fds)?;
        }
        // As long as one of ours is open, it is not told that nobody reads the other end any more.
        drop((theirs, stdin, stdout, stderr));
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
        match supervisor(socket) {
            Supervisor::Taken => reap(),
            // There is none to take the next step: it gets one when it comes. If that cannot be made either,
            // closing what came with the step tells the builder.
            Supervisor::Failed => match receive_request(socket) {
                Ok(Some((step_socket, stdio))) => {
                    drop(process::fork(|| supervisor::supervise(step_socket, stdio)));
                    reap();
                }
                _ => return end(),
            },
            Supervisor::Unwanted => return end(),
        }
    }
}

/// Waits for the supervisors, which see their own sockets closed, and end their steps.
fn end() -> i32 {
    while nix::sys::wait::wait().is_ok() {}
    0
}

/// What has become of a supervisor that was ready.
enum Supervisor {
    /// It has a step.
    Taken,
    /// The builder is gone.
    Unwanted,
    /// It could not be made, or has ended before its time.
    Failed,
}

/// Makes one, and waits until it has something to do.
fn supervisor(socket: &OwnedFd) -> Supervisor {
    const TAKEN: u8 = 1;
    const UNWANTED: u8 = 0;
    let Ok((mut hear, mut tell)) = io::pipe() else { return Supervisor::Failed };
    let started = process::fork(|| {
        if process::close_all_but(&[socket.as_raw_fd(), tell.as_raw_fd()]).is_err() {
            return 1;
        }
        match receive_request(socket) {
            Ok(Some((step_socket, stdio))) => {
                let _ = tell.write_all(&[TAKEN]);
                supervisor::supervise(step_socket, stdio)
            }
            Ok(None) => {
                let _ = tell.write_all(&[UNWANTED]);
                0
            }
            Err(_) => 1,
        }
    });
    drop(tell);
    let mut said = [0];
    match (started, hear.read_exact(&mut said)) {
        (Ok(_), Ok(())) if said == [TAKEN] => Supervisor::Taken,
        (Ok(_), Ok(())) => Supervisor::Unwanted,
        _ => Supervisor::Failed,
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

/// Waits for what a supervisor needs: the builder's socket for the step, and the step's streams.
fn receive_request(socket: &OwnedFd) -> io::Result<Option<(UnixStream, Stdio)>> {
    let received = process::take_over(socket)?;
    Ok(received
        .map(|[step, stdin, stdout, stderr]| (UnixStream::from(step), Stdio { stdin, stdout, stderr })))
}
