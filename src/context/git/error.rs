//! Why a repository cannot be had, and what would help.

use std::io;
use std::path::{Path, PathBuf};

/// A repository that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// No `git` on this machine.
    #[error("cannot fetch {repository}: there is no program `git` in PATH")]
    Missing {
        /// Its address.
        repository: String,
    },
    /// Fetching by SSH what a Containerfile names.
    #[error("{repository} is reached by SSH, which would need keys of yours")]
    Ssh {
        /// Its address.
        repository: String,
    },
    /// `git` says no.
    #[error("git cannot {what} {repository}: {reason}")]
    Failed {
        /// What was tried, as a verb.
        what: &'static str,
        /// Its address.
        repository: String,
        /// The last lines that it printed.
        reason: String,
    },
    /// No such branch, tag or commit.
    #[error("{repository} has no branch, tag or commit `{reference}`")]
    NoReference {
        /// Its address.
        repository: String,
        /// What was asked for.
        reference: String,
    },
    /// A repository without a single commit.
    #[error("{repository} has no commits on its default branch")]
    Empty {
        /// Its address.
        repository: String,
    },
    /// Another commit than was announced.
    #[error("{repository} has the commit {found} where {expected} was expected")]
    Checksum {
        /// Its address.
        repository: String,
        /// What the commit had to begin with.
        expected: String,
        /// The commit.
        found: String,
    },
    /// The directory in the repository is missing or no directory, or leads out.
    #[error("{repository} has no usable directory `{subdir}`: {reason}")]
    Subdirectory {
        /// Its address.
        repository: String,
        /// The directory.
        subdir: String,
        /// Why.
        reason: &'static str,
    },
    /// A file operation failed.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl GitError {
    pub(super) fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> GitError + 'a {
        move |source| GitError::Io { what, path: path.to_owned(), source }
    }

    /// Whether it is this machine that lacks something.
    pub fn is_environment(&self) -> bool {
        matches!(self, GitError::Missing { .. })
    }

    /// What would help.
    pub fn hint(&self) -> Option<&'static str> {
        let says = |reason: &str, texts: &[&str]| texts.iter().any(|text| reason.contains(text));
        match self {
            GitError::Missing { .. } => {
                Some("install git, for example with `apt install git` or `dnf install git`")
            }
            GitError::Ssh { .. } => Some(
                "hand it in with --build-context NAME=ADDRESS and use COPY --from=NAME, or use its https address",
            ),
            GitError::Failed { reason, .. } if says(reason, &["dubious ownership"]) => {
                Some("`git config --global --add safe.directory DIR` says that the repository may be trusted")
            }
            GitError::Failed { reason, .. } if says(reason, &["Host key verification"]) => {
                Some("connect once with ssh, to see whether the host is the right one")
            }
            GitError::Failed { reason, .. }
                if says(
                    reason,
                    &["could not read Username", "Authentication failed", "Permission denied (publickey"],
                ) =>
            {
                Some(
                    "either there is no such repository, or it is private: on the command line, an SSH agent and \
                     ~/.netrc are used, and credential helpers are not",
                )
            }
            GitError::Failed { reason, .. } if says(reason, &["transport 'file' not allowed"]) => {
                Some("a submodule of this machine is not fetched; `?submodules=false` leaves submodules out")
            }
            _ => None,
        }
    }
}
