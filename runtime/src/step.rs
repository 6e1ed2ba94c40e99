//! What a step is, and how it can end.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
    /// Its user, groups or capabilities.
    Identity,
    /// Its working directory.
    WorkingDirectory,
    /// Finding and executing its program.
    Program,
}
