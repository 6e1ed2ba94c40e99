//! What a `RUN --mount` mounts: from a planned mount to what the runtime mounts, and what has to live as
//! long as the step does.
//!
//! | file | does |
//! |---|---|
//! | [`cache`] | cache mounts, kept in the store between builds |
//! | [`throwaway`](mod@throwaway) | bind mounts that may be written, and what was written is lost |
//! | [`secret`](mod@secret) | secrets from files and variables |
//! | [`prune`](mod@prune) | removes the cache mounts that nobody uses |
//! | `duplicate` | copies a tree as it is |
//!
//! A read-only bind mount needs nothing from here: its source is a directory that is there. None of a
//! step's mounts hides where its source lies: the kernel's mount table, which a step may read, names the
//! path of a bound directory in its file system.

pub mod cache;
mod duplicate;
pub mod prune;
pub mod secret;
pub mod throwaway;

use std::io;
use std::path::PathBuf;

use cooper_runtime::step::Mount;

use crate::rootfs::storage::RootfsError;
use crate::store::StoreError;

pub use cache::{CacheMount, Caches, Initial};
pub use prune::{PruneError, Pruned, prune};
pub use secret::{SecretSource, secret};
pub use throwaway::{Throwaway, throwaway};

/// Why a mount could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The source is not what it must be.
    #[error("the mount's source {path} {problem}")]
    Source {
        /// As it was named.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A cache mount cannot have its owner.
    #[error("the cache mount `{id}` cannot belong to {uid}:{gid}: {source}")]
    Owner {
        /// The cache's id.
        id: String,
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// Why.
        source: io::Error,
    },
    /// A required secret was not given.
    #[error("the secret `{id}` is required and was not given")]
    NoSecret {
        /// Its id.
        id: String,
    },
    /// A secret cannot be read.
    #[error("cannot read the secret `{id}` from {}: {source}", path.display())]
    SecretFile {
        /// Its id.
        id: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A secret is too large.
    #[error("the secret `{id}` is larger than {} bytes", secret::MAX_SECRET)]
    LargeSecret {
        /// Its id.
        id: String,
    },
    /// A signal came while waiting for a cache mount.
    #[error("interrupted")]
    Interrupted,
    /// The file system for what is thrown away cannot be mounted.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something else failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl MountError {
    /// What would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            MountError::NoSecret { id } => {
                Some(format!("pass --secret id={id},src=FILE or --secret id={id},env=VARIABLE"))
            }
            MountError::Owner { .. } => {
                Some("it is outside the range that /etc/subuid and /etc/subgid grant".to_owned())
            }
            _ => None,
        }
    }
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> MountError {
    move |source| MountError::Io { what, source }
}

/// The order in which a step's mounts are made: BuildKit sorts them by target, so that a mount inside
/// another one is seen wherever it stands in the instruction; of two on the same target the later one wins.
pub fn in_order(mounts: &mut [Mount]) {
    mounts.sort_by(|a, b| a.target.cmp(&b.target));
}

#[cfg(test)]
mod tests;
