//! Carries out a `RUN`.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use cooper_runtime::mountpoint::MountPoints;
use cooper_runtime::record::ByInode;
use cooper_runtime::step::{Mount, MountSource, Outcome, Part, SetupFailure, Step};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::images::FoundImage;
use super::run_mounts::Prepared;
use super::users::{Identity, UserError};
use super::workdir::Ownership;
use super::workshop::Workshop;
use crate::image::Platform;
use crate::plan::RunStep;
use crate::progress::{Event, Progress, Stream, Tail, TaskId};
use crate::rootfs::storage::RootFs;

/// The host name that steps see: the same everywhere, since it may end up in files.
const HOSTNAME: &str = "cooper";
const HOSTS: &[u8] = b"127.0.0.1\tlocalhost cooper\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// Lines and bytes of output that an error shows.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: usize = 8 << 10;

/// A `RUN` that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The command returned something other than 0.
    #[error("the command returned {code}{}", meaning(*code))]
    Exit {
        /// What it returned.
        code: i32,
        /// The last lines of its output.
        tail: Vec<String>,
    },
    /// A signal ended it.
    #[error("the command was ended by signal {signal}{}", signal_name(*signal))]
    Signal {
        /// The signal's number.
        signal: i32,
        /// The last lines of its output.
        tail: Vec<String>,
    },
    /// Its program cannot be executed.
    #[error("cannot execute `{program}` in the image: {reason}")]
    Program {
        /// The program.
        program: String,
        /// Why.
        reason: String,
        /// What may be the matter.
        hint: &'static str,
    },
    /// Its programs are for another processor.
    #[error("`{program}` is for {platform}, and this machine, {}, cannot execute it", Platform::host())]
    Foreign {
        /// The program.
        program: String,
        /// What the stage is for.
        platform: Platform,
    },
    /// Its user is outside the ids that there are.
    #[error("user {uid} (group {gid}) cannot be used here: {reason}")]
    Id {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// Why.
        reason: String,
    },
    /// Its user is not in the image.
    #[error(transparent)]
    User(#[from] UserError),
    /// Its working directory is no directory.
    #[error("the working directory {cwd} {problem}")]
    WorkingDirectory {
        /// The directory.
        cwd: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The sandbox could not be made.
    #[error("cannot make the sandbox of the step: {0}")]
    Sandbox(SetupFailure),
    /// One of its `--mount`s could not be made.
    #[error("cannot make a mount of the step: {0}")]
    Mount(SetupFailure),
    /// Something else failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::Io { what, source }
}

fn meaning(code: i32) -> &'static str {
    match code {
        126 => " (which a shell returns when a file cannot be executed)",
        127 => " (which a shell returns when it does not find a command)",
        137 => " (killed; perhaps out of memory)",
        _ => "",
    }
}

fn signal_name(signal: i32) -> String {
    match nix::sys::signal::Signal::try_from(signal) {
        Ok(nix::sys::signal::Signal::SIGKILL) => " (SIGKILL; perhaps out of memory)".to_owned(),
        Ok(signal) => format!(" ({})", signal.as_str()),
        Err(_) => String::new(),
    }
}

/// Runs a step as `who` in a mounted root file system, and shows its output as it comes. Gives what is on
/// record of the file system's files afterwards, if that was recorded.
pub(super) fn run(
    workshop: &Workshop,
    rootfs: &RootFs,
    step: &RunStep<FoundImage>,
    who: Identity,
    mounts: &Prepared<'_>,
    task: TaskId,
    progress: &dyn Progress,
) -> Result<Option<ByInode>, RunError> {
    let root = rootfs.root();
    if !workshop.covers(who.uid, who.gid) {
        let reason = match &workshop.map.extent {
            cooper_runtime::identity::Extent::Single { reason } => reason.clone(),
            _ => "it is outside the range that /etc/subuid and /etc/subgid grant".to_owned(),
        };
        return Err(RunError::Id { uid: who.uid, gid: who.gid, reason });
    }
    let mut env = step.env.clone();
    env.retain(|line| !has_name(&mounts.env, line));
    env.extend(mounts.env.iter().cloned());
    env.extend(step.proxies.iter().filter(|p| !has_name(&step.env, p)).cloned());
    if !has_name(&env, "HOME=") {
        env.push(format!("HOME={}", who.home));
    }
    let reads_back = makes_records(&step.argv, &mounts.mounts, workshop.map.counts());
    let spec = Step {
        root: rootfs.path().to_owned(),
        argv: step.argv.clone(),
        env,
        cwd: step.cwd.clone(),
        uid: who.uid,
        gid: who.gid,
        groups: if workshop.has_groups() { who.groups } else { Vec::new() },
        hostname: HOSTNAME.to_owned(),
        hosts: HOSTS.to_vec(),
        resolv_conf: workshop.resolv_conf.clone(),
        mounts: mounts.mounts.clone(),
        recording: workshop
            .recording(rootfs, &mounts.known, reads_back)
            .map_err(io_error("cannot read what is on record"))?,
    };
    let mut points =
        MountPoints::prepare(root, &spec.mounts).map_err(io_error("cannot make the step's mount points"))?;
    let mut tail = Tail::new(TAIL_LINES, TAIL_BYTES);
    let outcome = watch(workshop, &spec, task, progress, &mut tail);
    let removed = points.remove();
    let (outcome, records) = outcome.map_err(io_error("cannot run the step"))?;
    removed.map_err(io_error("cannot remove the step's mount points"))?;
    let tail = tail.lines();
    match outcome {
        Outcome::Exited(0) => Ok(spec.recording.map(|_| records)),
        Outcome::Exited(code) => Err(RunError::Exit { code, tail }),
        Outcome::Signaled(signal) => Err(RunError::Signal { signal, tail }),
        Outcome::NotStarted(failure) => Err(not_started(failure, &spec, &step.platform)),
    }
}

/// Whether a command says that it will make what only a record can hold. With a range of ids that is rare,
/// and reading it back within the step makes all looking at files slow; so it is done for those that do.
/// `map` is how many user and group ids there are.
fn makes_records(argv: &[String], mounts: &[Mount], map: (u32, u32)) -> bool {
    let scripts = mounts.iter().filter_map(|m| match &m.source {
        MountSource::File { content, .. } => Some(String::from_utf8_lossy(content)),
        _ => None,
    });
    argv.iter().map(|text| text.as_str().into()).chain(scripts).any(|text| {
        let beyond = |digits: &str| digits.parse::<u32>().is_ok_and(|id| id >= map.0.min(map.1));
        ["mknod", "setfacl", "posix_acl"].iter().any(|word| text.contains(word))
            || text.split(|c: char| !c.is_ascii_digit()).any(beyond)
    })
}

/// Starts the step and passes its output on until it has ended.
fn watch(
    workshop: &Workshop,
    spec: &Step,
    task: TaskId,
    progress: &dyn Progress,
    tail: &mut Tail,
) -> io::Result<(Outcome, ByInode)> {
    let null = OwnedFd::from(std::fs::File::open("/dev/null")?);
    let (out_read, out_write) = io::pipe()?;
    let (err_read, err_write) = io::pipe()?;
    let running = workshop.launcher.spawn(spec, null, out_write.into(), err_write.into())?;
    let _listening = workshop.listen(running.signaller()?);
    let mut pipes = vec![(out_read, Stream::Stdout), (err_read, Stream::Stderr)];
    let mut buffer = vec![0u8; 32 * 1024];
    // No process of the step is left when it has ended, so that both pipes come to their ends.
    while !pipes.is_empty() {
        let mut fds: Vec<_> =
            pipes.iter().map(|(pipe, _)| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)).collect();
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let mut ready = fds.into_iter().map(|fd| fd.any().unwrap_or(true)).collect::<Vec<_>>().into_iter();
        pipes.retain_mut(|(pipe, stream)| {
            if !ready.next().unwrap_or(false) {
                return true;
            }
            match pipe.read(&mut buffer) {
                Ok(got @ 1..) => {
                    let bytes = buffer[..got].to_vec();
                    tail.push(&bytes);
                    progress.event(Event::Output { task, stream: *stream, bytes });
                    true
                }
                Ok(0) => false,
                Err(e) => e.kind() == io::ErrorKind::Interrupted,
            }
        });
    }
    running.wait()
}

fn has_name(env: &[String], line: &str) -> bool {
    let name = line.split('=').next().unwrap_or(line);
    env.iter().any(|e| e.split('=').next() == Some(name))
}

/// `WORKDIR` has made its directory; one that a base image names may be missing, or a step may have removed
/// it. It is made then, for the user of the step, and stays.
pub(super) fn prepare_cwd(
    root: std::os::fd::BorrowedFd<'_>,
    cwd: &str,
    who: &Identity,
    ownership: &mut Ownership<'_>,
) -> Result<(), RunError> {
    let wrong = |problem: String| RunError::WorkingDirectory { cwd: cwd.to_owned(), problem };
    // Below /proc nothing is there before the step runs; the kernel answers then, inside the sandbox.
    if cwd == "/proc" || cwd.starts_with("/proc/") {
        return Ok(());
    }
    super::workdir::make(root, cwd, (who.uid, who.gid), ownership).map_err(|e| match e.kind() {
        io::ErrorKind::NotADirectory => wrong("is not a directory in the image".to_owned()),
        _ => wrong(format!("cannot be made: {e}")),
    })
}

fn not_started(failure: SetupFailure, spec: &Step, platform: &Platform) -> RunError {
    let reason = io::Error::from_raw_os_error(failure.errno);
    match failure.part {
        Part::Program => {
            let program = spec.argv.first().cloned().unwrap_or_default();
            if failure.errno == libc_errno::ENOEXEC && *platform != Platform::host() {
                return RunError::Foreign { program, platform: platform.clone() };
            }
            let (reason, hint) = match failure.errno {
                libc_errno::ENOENT => (
                    "no such file".to_owned(),
                    "is it in the image? A shell form RUN needs a shell at the path that SHELL names; a program \
                     may also need a dynamic loader that the image does not have",
                ),
                libc_errno::ENOEXEC => (
                    "it is no program for this machine".to_owned(),
                    "a script needs a first line such as #!/bin/sh; a program must be built for this processor",
                ),
                libc_errno::EACCES => ("permission denied".to_owned(), "RUN chmod +x on it first"),
                _ => (reason.to_string(), ""),
            };
            RunError::Program { program, reason, hint }
        }
        Part::WorkingDirectory => RunError::WorkingDirectory {
            cwd: spec.cwd.clone(),
            problem: format!("cannot be entered: {reason}"),
        },
        Part::Identity => RunError::Id { uid: spec.uid, gid: spec.gid, reason: failure.to_string() },
        Part::Sandbox | Part::Recording => RunError::Sandbox(failure),
        Part::Mount => RunError::Mount(failure),
    }
}

/// The error numbers that mean something to the user here.
mod libc_errno {
    pub(super) const ENOENT: i32 = nix::errno::Errno::ENOENT as i32;
    pub(super) const ENOEXEC: i32 = nix::errno::Errno::ENOEXEC as i32;
    pub(super) const EACCES: i32 = nix::errno::Errno::EACCES as i32;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_says_tells_whether_records_are_read_back() {
        let says = |text: &str| makes_records(&["sh".to_owned(), text.to_owned()], &[], (65_537, 65_537));
        for text in ["mknod /n c 1 3", "chown 65537 f", "chown x:3000000 f", "setfacl -m u:1:r f"] {
            assert!(says(text), "{text}");
        }
        for text in ["make all", "chown 65536:1000 f", "echo 99999999999"] {
            assert!(!says(text), "{text}");
        }
        let (content, mode, uid, gid) = (b"mknod n p".to_vec(), 0o755, 0, 0);
        let source = MountSource::File { content, mode, uid, gid };
        let script = Mount { target: "/s".to_owned(), source, read_only: true };
        assert!(makes_records(&[], &[script], (1, 1)));
    }
}
