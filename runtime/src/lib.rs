//! Runs one process in a root file system, unprivileged.
pub mod sys;
