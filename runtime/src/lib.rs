//! Runs one process in a root file system, without privilege and without a daemon.
//!
//! This crate knows nothing of images. In the order in which a builder uses it:
//!
//! - [`enter`] moves the calling process into a user and a mount namespace in which it is root, with
//!   the ids that [`identity`] found it may use. Done once, while there is one thread.
//! - [`launcher`] forks, still with one thread, a small process that starts steps from then on: the
//!   builder may have as many threads as it likes.
//! - [`step`] describes one process to run and what is mounted for it; [`mountpoint`] makes the places
//!   that the mounts need in the root file system and removes them again; [`sandbox`] is what
//!   happens between `clone` and `execve`.
//! - [`recording`] answers, in the step's supervisor, what the kernel cannot do in a user namespace; [`record`]
//!   is what it writes down.
//! - [`in_root`] finds paths inside a root file system that may hold any links.
//! - [`sys`] has the system calls, and all of the `unsafe`.

pub mod enter;
pub mod identity;
pub mod in_root;
pub mod launcher;
pub mod mountpoint;
pub mod record;
pub mod recording;
mod sandbox;
pub mod step;
mod supervisor;
pub mod sys;
