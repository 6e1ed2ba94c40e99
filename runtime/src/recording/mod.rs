//! Ownership, device nodes and ids of a step, kept on record where the kernel cannot make them.
//!
//! In a user namespace with a single id everything belongs to root, and no process can be anybody else. A
//! seccomp filter ([`filter`]) stops the system calls that this concerns, and the step's supervisor answers
//! them ([`notify`]): it does what can be done, and writes down the rest ([`table`], [`credentials`]).
//! Whenever nothing is on record, or the supervisor cannot tell what a call is about, the kernel does the call
//! itself: everything belongs to 0:0 then, which is what an image without records says too.
//!
//! - **Files** are told by device and inode number, so that links, renames and mounts need no bookkeeping; the
//!   number of a file that goes is struck off before it can be used again ([`names`]), and both numbers of one that
//!   is copied up are known ([`copy_up`]).
//! - **Tasks** carry the number of their recorded credentials in their timer slack (prctl(2),
//!   `PR_SET_TIMERSLACK`), which the kernel hands down over `fork` and `execve` and which nothing that a build
//!   does depends on. Processes need no bookkeeping either.
//!
//! Nothing here protects anything: a step's processes all have the rights of the step. What they may do to
//! each other's files is not checked, and a step that tampers with its records harms its own image.

mod copy_up;
mod create;
mod credentials;
mod execute;
mod files;
mod filter;
mod identity;
mod names;
mod notify;
mod peer;
mod table;
mod target;
mod xattrs;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::record::{Attributes, Inode};
use crate::sys::{process, seccomp};

pub(crate) use notify::Recorder;

/// What a step's supervisor keeps on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// Which calls.
    pub scope: Scope,
    /// What is on record about the files that are there when the step starts.
    #[serde(with = "crate::record::entries")]
    pub known: Vec<(Inode, Attributes)>,
    /// Whether what comes on record is read back within the step, though nothing is yet. With a single id it
    /// always is.
    pub watch: bool,
    /// Where the root is a kernel overlay, the directory that it writes to, by a path in the builder's mount
    /// namespace: files that are copied up have a second number there.
    pub upper: Option<PathBuf>,
    /// Directories that were made before this time, in seconds and nanoseconds since 1970, cannot be renamed
    /// (`EXDEV`): what a kernel overlay does with those of lower layers, where the root is something else.
    pub settled: Option<(i64, u32)>,
}

/// Which calls are recorded instead of made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// All that set or show owners, ids and device nodes: for a map with a single id.
    Everything,
    /// What no user namespace can do: device nodes, and ids outside the map. With nothing known from earlier
    /// steps and without [`Recording::watch`], attributes are not read back within the step.
    Beyond {
        /// User ids from 0 on that the map has.
        uids: u32,
        /// Group ids from 0 on that the map has.
        gids: u32,
    },
}

/// Finds out whether steps can be recorded here, by trying.
///
/// Called while the process has one thread: a copy of it is made.
///
/// # Errors
/// What the kernel said: `EINVAL` or `ENOSYS` before Linux 5.14, `EBUSY` where somebody else's filter with
/// a listener is in force.
pub fn available() -> io::Result<()> {
    let (_, child) = process::fork(|| {
        let allow = filter::program(Scope::Beyond { uids: 0, gids: 0 }, false, false);
        let listener = seccomp::no_new_privs().and_then(|()| seccomp::listen(&allow));
        match listener.and_then(seccomp::Listener::new).and_then(|mut l| l.check()) {
            Ok(()) => 0,
            Err(e) => e.raw_os_error().unwrap_or(libc::EIO),
        }
    })?;
    match process::wait(&child)? {
        process::Ended::Exited(0) => Ok(()),
        process::Ended::Exited(errno) => Err(io::Error::from_raw_os_error(errno)),
        process::Ended::Signaled(_) => Err(io::Error::from_raw_os_error(libc::EPERM)),
    }
}

/// Puts the calling process under the filter, for the supervisor to serve.
pub(crate) fn submit(recording: &Recording) -> io::Result<OwnedFd> {
    let (known, settled) = (recording.watch || !recording.known.is_empty(), recording.settled.is_some());
    seccomp::listen(&filter::program(recording.scope, known, settled))
}
