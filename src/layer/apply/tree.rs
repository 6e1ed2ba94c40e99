//! The directory a layer is unpacked into, and the way to a place in it.
//!
//! A place is reached name by name from the root's descriptor, never following a link: so whatever lies
//! in the tree, the walk cannot leave it. The directories on the way to the last place stay open, as the
//! next entry is most often beside it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use cooper_runtime::sys::fs;

/// How many of the innermost directories are kept open. Deeper trees are walked again from the root:
/// descriptors are few (1024 by default), and a layer may be as deep as it likes.
const OPEN: usize = 64;

/// A root and the directories on the way to the last place looked at.
pub(super) struct Tree<'a> {
    root: BorrowedFd<'a>,
    way: Vec<Level>,
}

struct Level {
    name: Vec<u8>,
    fd: Option<OwnedFd>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, way: Vec::new() }
    }

    /// Whether the directory `name` in the one at `depth` is on the way already.
    pub(super) fn is_next(&self, depth: usize, name: &[u8]) -> bool {
        self.way.get(depth).is_some_and(|level| level.name == name)
    }

    /// Sees to it that the directory at `depth` is open.
    pub(super) fn reopen(&mut self, depth: usize) -> io::Result<()> {
        if depth == 0 || self.way[depth - 1].fd.is_some() {
            return Ok(());
        }
        let mut fd: Option<OwnedFd> = None;
        for level in &self.way[..depth] {
            let parent = fd.as_ref().map_or(self.root, |fd| fd.as_fd());
            fd = Some(fs::open_dir_at(parent, OsStr::from_bytes(&level.name))?);
        }
        self.way[depth - 1].fd = fd;
        Ok(())
    }

    /// The directory at `depth`, which [`reopen`](Self::reopen) has seen to; 0 is the root.
    pub(super) fn dir(&self, depth: usize) -> BorrowedFd<'_> {
        match depth {
            0 => self.root,
            _ => self.way[depth - 1].fd.as_ref().expect("reopened before use").as_fd(),
        }
    }

    /// Steps from `depth` into the directory `name`, which must be one and no link.
    pub(super) fn enter(&mut self, depth: usize, name: &[u8]) -> io::Result<()> {
        if self.is_next(depth, name) {
            return Ok(());
        }
        self.reopen(depth)?;
        let fd = fs::open_dir_at(self.dir(depth), OsStr::from_bytes(name))?;
        self.way.truncate(depth);
        self.way.push(Level { name: name.to_vec(), fd: Some(fd) });
        if depth >= OPEN {
            self.way[depth - OPEN].fd = None;
        }
        Ok(())
    }

    /// Forgets the directory `name` at `depth`, which is about to go.
    pub(super) fn forget(&mut self, depth: usize, name: &[u8]) {
        if self.is_next(depth, name) {
            self.way.truncate(depth);
        }
    }

    /// The path of `name` in the directory at `depth`.
    pub(super) fn path(&self, depth: usize, name: &[u8]) -> Vec<u8> {
        let mut path = Vec::new();
        for level in &self.way[..depth] {
            path.extend_from_slice(&level.name);
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// Steps to a directory by its path, which has no links in it; gives its depth.
    pub(super) fn go(&mut self, path: &[u8]) -> io::Result<usize> {
        let mut depth = 0;
        for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            self.enter(depth, name)?;
            depth += 1;
        }
        Ok(depth)
    }
}
