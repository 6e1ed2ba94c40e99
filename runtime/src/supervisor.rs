//! The process above a step: starts it, passes signals on, reports how it ended, and ends it when the
//! builder is gone.
//!
//! It is a copy of the launcher, with one thread, and talks to the builder over one stream socket:
//! first a length and a [`Step`] as JSON; then, from the builder, one byte a signal; in the end a
//! length and a [`Report`] as JSON. A closed socket means that the builder has died.
//!
//! Of a step that is recorded it also answers the system calls that the filter stops
//! ([`crate::recording`]). That changes its root directory; it executes nothing, and opens nothing of the
//! step's but to make it.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use serde::{Deserialize, Serialize};

use crate::record::{Attributes, ByInode, Inode};
use crate::recording::{Recorder, Recording};
use crate::sandbox;
use crate::step::{Outcome, Part, SetupFailure, Step};
use crate::sys::process::{self, Ended};

/// A step's standard streams.
pub(crate) struct Stdio {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// What the supervisor says in the end.
#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) outcome: Outcome,
    #[serde(with = "crate::record::entries")]
    pub(crate) records: Vec<(Inode, Attributes)>,
}

impl Report {
    fn of(outcome: Outcome) -> Report {
        Report { outcome, records: Vec::new() }
    }
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
    let report = run(step, &socket, stdio).unwrap_or_else(|e| {
        Report::of(Outcome::NotStarted(failure(Part::Sandbox, "creating the step's namespaces", &e)))
    });
    i32::from(send(&mut socket, &report).is_err())
}

fn failure(part: Part, what: &str, e: &io::Error) -> SetupFailure {
    SetupFailure { part, what: what.to_owned(), errno: e.raw_os_error().unwrap_or(libc::EIO) }
}

fn run(mut step: Step, socket: &UnixStream, stdio: Stdio) -> io::Result<Report> {
    let (mut failed_read, mut failed_write) = io::pipe()?;
    let (mut ours, mut theirs) = (None, None);
    if step.recording.is_some() {
        let (a, b) = UnixStream::pair()?;
        (ours, theirs) = (Some(a), Some(b));
    }
    let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    let child_end = &mut theirs;
    let (pid, child) = process::clone(namespaces as u64, || {
        for (fd, number) in [(&stdio.stdin, 0), (&stdio.stdout, 1), (&stdio.stderr, 2)] {
            if process::install_stdio(fd, number).is_err() {
                return 1;
            }
        }
        let mut keep = vec![failed_write.as_raw_fd()];
        keep.extend(child_end.as_ref().map(AsRawFd::as_raw_fd));
        if process::close_all_but(&keep).is_err() {
            return 1;
        }
        let failure = sandbox::become_step(&step, child_end.take());
        let _ = failed_write.write_all(&serde_json::to_vec(&failure).unwrap_or_default());
        1
    })?;
    // Our copies: as long as they are open, nobody reads an end of file.
    drop(failed_write);
    drop(theirs);
    drop(stdio);

    let mut server = match step.recording.take() {
        Some(recording) => Server::Expected(ours, recording),
        None => Server::None,
    };
    let first = First { pid: pid.as_raw() as u32, process: &child, step: &step };
    let failed = watch(&first, socket, &mut server)?;
    let ended = process::wait(&child)?;
    if let Some(failed) = failed {
        return Ok(Report::of(Outcome::NotStarted(failed)));
    }
    let mut failure = Vec::new();
    failed_read.read_to_end(&mut failure)?;
    if !failure.is_empty() {
        let failure = serde_json::from_slice(&failure).map_err(io::Error::other)?;
        return Ok(Report::of(Outcome::NotStarted(failure)));
    }
    let outcome = match ended {
        Ended::Exited(code) => Outcome::Exited(code),
        Ended::Signaled(signal) => Outcome::Signaled(signal),
    };
    let records = match server {
        Server::Recorder(recorder) | Server::Done(recorder) => recorder.into_records(),
        _ => ByInode::new(),
    };
    Ok(Report { outcome, records: records.into_iter().collect() })
}

/// A step's first process.
struct First<'a> {
    pid: u32,
    process: &'a OwnedFd,
    step: &'a Step,
}

/// What answers the step's system calls.
enum Server {
    /// Nothing: the step is not recorded.
    None,
    /// The step has not come as far as its filter; the descriptor will come through this socket.
    Expected(Option<UnixStream>, Recording),
    Recorder(Box<Recorder>),
    /// All tasks are gone.
    Done(Box<Recorder>),
}

impl Server {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Server::Expected(handoff, _) => handoff.as_ref().map(AsFd::as_fd),
            Server::Recorder(recorder) => Some(recorder.as_fd()),
            Server::None | Server::Done(_) => None,
        }
    }

    /// Does what the descriptor is readable for; `unused` says that no task is left that could ask.
    fn serve(self, first: &First<'_>, unused: bool) -> io::Result<Server> {
        match self {
            // It stays like this while the kernel takes the step's namespaces down: to go on looking would
            // take a processor for as long.
            Server::Recorder(recorder) if unused => Ok(Server::Done(recorder)),
            Server::Expected(Some(handoff), recording) => {
                let Some([listener]) = process::take_over(&handoff)? else {
                    // It ends before it comes to that, and says why itself.
                    return Ok(Server::Expected(None, recording));
                };
                let Step { root, uid, gid, groups, .. } = first.step;
                let bounding = sandbox::capability_mask();
                let user = (*uid, *gid, &groups[..]);
                Ok(Server::Recorder(Box::new(Recorder::new(
                    listener,
                    recording,
                    (first.pid, root),
                    user,
                    bounding,
                )?)))
            }
            Server::Recorder(mut recorder) => match recorder.serve() {
                Ok(()) => Ok(Server::Recorder(recorder)),
                Err(_) => Ok(Server::Done(recorder)),
            },
            other => Ok(other),
        }
    }
}

/// Waits until the step's first process has ended, serving the builder's signals and the step's calls
/// meanwhile. When it ends, the kernel kills what is left in its PID namespace. Gives what stood in the way of
/// serving its calls.
fn watch(
    first: &First<'_>,
    mut socket: &UnixStream,
    server: &mut Server,
) -> io::Result<Option<SetupFailure>> {
    loop {
        let mut fds = vec![
            PollFd::new(first.process.as_fd(), PollFlags::POLLIN),
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(server.fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match nix::poll::poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other?,
        };
        let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|r| !r.is_empty());
        let unused = fds.get(2).and_then(PollFd::revents) == Some(PollFlags::POLLHUP);
        let (ended, spoken, asked) = (ready(&fds[0]), ready(&fds[1]), fds.get(2).is_some_and(ready));
        if ended {
            return Ok(None);
        }
        if asked {
            match std::mem::replace(server, Server::None).serve(first, unused) {
                Ok(next) => *server = next,
                Err(e) => {
                    process::send_signal(first.process, libc::SIGKILL)?;
                    return Ok(Some(failure(Part::Recording, "answering the step's system calls", &e)));
                }
            }
        }
        if spoken {
            let mut signal = [0u8];
            match socket.read(&mut signal) {
                Ok(1) => process::send_signal(first.process, signal[0].into())?,
                // The builder is gone.
                _ => {
                    process::send_signal(first.process, libc::SIGKILL)?;
                    process::wait(first.process)?;
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
