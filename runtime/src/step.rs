//! What a step is, and how it can end.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::recording::Recording;

/// One process to run in a root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The root file system: a mounted directory, named by a path in the builder's mount namespace.
    pub root: PathBuf,
    /// The program and its arguments; never empty. A program without a slash is looked for in the
    /// step's own `PATH`, inside the root.
    pub argv: Vec<String>,
    /// The whole environment, `NAME=value`; nothing is added to it.
    pub env: Vec<String>,
    /// The directory to start in, from the root.
    pub cwd: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
    /// Host name in the step's UTS namespace.
    pub hostname: String,
    /// Content of `/etc/hosts` in the step.
    pub hosts: Vec<u8>,
    /// Content of `/etc/resolv.conf` in the step.
    pub resolv_conf: Vec<u8>,
    /// What is mounted besides, one after the other: a later mount on the same or a shallower target
    /// covers an earlier one.
    pub mounts: Vec<Mount>,
    /// What is recorded instead of made; `None` leaves everything to the kernel, with no filter.
    pub recording: Option<Recording>,
}

/// Something to mount in a step besides what every step has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where: an absolute path without `.` and `..`. Links of the image are followed inside its root. Not
    /// the root itself, and nothing below `/proc`.
    pub target: String,
    /// What.
    pub source: MountSource,
    /// Whether it, and all that is mounted inside the source, is read-only.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A directory or a single file that is there.
    Bind {
        /// A trusted directory in the builder's mount namespace.
        root: PathBuf,
        /// A path below it, which links never lead out of; empty or `/` for `root` itself.
        path: String,
    },
    /// A new tmpfs. It has the mode of the directory that it covers, and 1777 where there was none, which
    /// is what runc makes of a mount without a mode.
    Tmpfs {
        /// Its limit in bytes; `None` leaves it to the kernel, which takes half of the memory.
        size: Option<u64>,
    },
    /// A file that lies in no file system but in the mount: a secret, or a script. It can be executed only if
    /// its mode says so.
    File {
        /// What it holds.
        content: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

impl fmt::Debug for MountSource {
    /// Without the content of a file, which may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MountSource::Bind { root, path } => {
                f.debug_struct("Bind").field("root", root).field("path", path).finish()
            }
            MountSource::Tmpfs { size } => f.debug_struct("Tmpfs").field("size", size).finish(),
            MountSource::File { content, mode, uid, gid } => f
                .debug_struct("File")
                .field("bytes", &content.len())
                .field("mode", mode)
                .field("uid", uid)
                .field("gid", gid)
                .finish(),
        }
    }
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Its process returned this code.
    Exited(i32),
    /// A signal with this number killed its process.
    Signaled(i32),
    /// It never ran.
    NotStarted(SetupFailure),
}

/// What stood in the way of starting a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}: {}", std::io::Error::from_raw_os_error(*errno))]
pub struct SetupFailure {
    /// In which part of the preparation.
    pub part: Part,
    /// What was tried.
    pub what: String,
    /// The kernel's error number.
    pub errno: i32,
}

/// The parts of a step's preparation, as far as their failures mean different things to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// Namespaces and mounts: the environment.
    Sandbox,
    /// One of [`Step::mounts`].
    Mount,
    /// Its user, groups or capabilities.
    Identity,
    /// Recording: the kernel does not let a supervisor answer system calls.
    Recording,
    /// Its working directory.
    WorkingDirectory,
    /// Finding and executing its program.
    Program,
}
