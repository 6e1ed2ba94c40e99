//! The process above a step: starts it, passes signals on, reports how it ended, and ends it when the
//! builder is gone.
//!
//! It is a copy of the launcher, with one thread, and talks to the builder over one stream socket:
//! first a length and a [`Step`] as JSON; then, from the builder, one byte a signal; in the end a
//! length and an [`Outcome`] as JSON. A closed socket means that the builder has died.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout};

use crate::sandbox;
use crate::step::{Outcome, Part, SetupFailure, Step};
use crate::sys::process::{self, Ended};

/// A step's standard streams.
pub(crate) struct Stdio {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Serves one step; gives the supervisor's own exit code.
pub(crate) fn supervise(mut socket: UnixStream, stdio: Stdio) -> i32 {
    // Ctrl-C goes to a terminal's whole foreground group, but what it means here the builder decides.
    let _ = nix::unistd::setsid();
    let streams = [&stdio.stdin, &stdio.stdout, &stdio.stderr].map(|fd| fd.as_raw_fd());
    if process::close_all_but(&[&streams[..], &[socket.as_raw_fd()]].concat()).is_err() {
        return 1;
    }
    let Ok(step) = receive::<Step>(&mut socket) else { return 1 };
    let outcome = match run(&step, &socket, stdio) {
        Ok(outcome) => outcome,
        Err(e) => Outcome::NotStarted(SetupFailure {
            part: Part::Sandbox,
            what: "creating the step's namespaces".to_owned(),
            errno: e.raw_os_error().unwrap_or(libc::EIO),
        }),
    };
    i32::from(send(&mut socket, &outcome).is_err())
}

fn run(step: &Step, socket: &UnixStream, stdio: Stdio) -> io::Result<Outcome> {
    let (mut failed_read, mut failed_write) = io::pipe()?;
    let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    let (_, child) = process::clone(namespaces as u64, || {
        for (fd, number) in [(&stdio.stdin, 0), (&stdio.stdout, 1), (&stdio.stderr, 2)] {
            if process::install_stdio(fd, number).is_err() {
                return 1;
            }
        }
        if process::close_all_but(&[failed_write.as_raw_fd()]).is_err() {
            return 1;
        }
        let failure = sandbox::become_step(step);
        let _ = failed_write.write_all(&serde_json::to_vec(&failure).unwrap_or_default());
        1
    })?;
    // Our copies: as long as they are open, nobody reads an end of file.
    drop(failed_write);
    drop(stdio);

    watch(&child, socket)?;
    let ended = process::wait(&child)?;
    let mut failure = Vec::new();
    failed_read.read_to_end(&mut failure)?;
    if !failure.is_empty() {
        let failure = serde_json::from_slice(&failure).map_err(io::Error::other)?;
        return Ok(Outcome::NotStarted(failure));
    }
    Ok(match ended {
        Ended::Exited(code) => Outcome::Exited(code),
        Ended::Signaled(signal) => Outcome::Signaled(signal),
    })
}

/// Waits until the step's first process has ended, serving the builder's signals meanwhile. When it
/// ends, the kernel kills what is left in its PID namespace.
fn watch(child: &OwnedFd, mut socket: &UnixStream) -> io::Result<()> {
    loop {
        let mut fds =
            [PollFd::new(child.as_fd(), PollFlags::POLLIN), PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        match nix::poll::poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other?,
        };
        let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|r| !r.is_empty());
        let (ended, spoken) = (ready(&fds[0]), ready(&fds[1]));
        if ended {
            return Ok(());
        }
        if spoken {
            let mut signal = [0u8];
            match socket.read(&mut signal) {
                Ok(1) => process::send_signal(child, signal[0].into())?,
                // The builder is gone.
                _ => {
                    process::send_signal(child, libc::SIGKILL)?;
                    process::wait(child)?;
                    // Nobody is left to report to.
                    return Err(io::Error::from(io::ErrorKind::BrokenPipe));
                }
            }
        }
    }
}

/// Largest message taken: a step's environment and arguments have to pass `execve`, which takes no
/// more than a few megabytes.
const MESSAGE_LIMIT: u32 = 64 << 20;

pub(crate) fn send<T: serde::Serialize>(socket: &mut UnixStream, message: &T) -> io::Result<()> {
    let text = serde_json::to_vec(message).map_err(io::Error::other)?;
    let length = u32::try_from(text.len()).ok().filter(|l| *l <= MESSAGE_LIMIT);
    let length = length.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    socket.write_all(&length.to_le_bytes())?;
    socket.write_all(&text)
}

pub(crate) fn receive<T: serde::de::DeserializeOwned>(socket: &mut UnixStream) -> io::Result<T> {
    let mut length = [0u8; 4];
    socket.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > MESSAGE_LIMIT {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let mut text = vec![0u8; length as usize];
    socket.read_exact(&mut text)?;
    serde_json::from_slice(&text).map_err(io::Error::other)
}
