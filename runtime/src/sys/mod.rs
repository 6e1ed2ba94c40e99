//! System calls, behind safe functions.
//!
//! The only place in the project where `unsafe` may appear, and the only one that knows which of the
//! system-call crates offers what. Everything here is thin: one call, its arguments typed, its error
//! passed on as [`std::io::Error`].

pub mod fs;
pub mod memory;
pub mod mount;
pub mod process;
pub mod seccomp;
