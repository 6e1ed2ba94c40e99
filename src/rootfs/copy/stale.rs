//! Which names of a working tree may differ from what they are said to be.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use cooper_runtime::sys::fs::{self, FileKind};

use super::snapshot::Difference;
use crate::rootfs::lower::is_opaque;

/// A name, and those below it. Of a directory that is not `whole` only the names in `children`, and its
/// own attributes, may differ.
#[derive(Debug, Default)]
pub(super) struct Stale {
    /// Nothing below it is known to be right.
    pub(super) whole: bool,
    /// What was found there, when a step had ended.
    pub(super) difference: Option<Difference>,
    /// By name.
    pub(super) children: BTreeMap<OsString, Stale>,
}

impl Stale {
    /// Adds the path of a difference, from the root.
    pub(super) fn add(&mut self, path: &[u8], difference: Difference) {
        let mut node = self;
        for name in path.split(|b| *b == b'/') {
            node = node.child(OsStr::from_bytes(name));
        }
        node.difference = Some(difference);
    }

    /// Adds all names that a layer's directory speaks of.
    pub(super) fn add_layer(&mut self, dir: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
        fs::check_depth(depth)?;
        for entry in fs::list(dir)? {
            let node = self.child(&entry.name);
            let kind = match entry.kind {
                Some(kind) => kind,
                None => fs::stat_at(dir, &entry.name)?.kind,
            };
            if kind != FileKind::Directory || node.whole {
                continue;
            }
            if is_opaque(dir, &entry.name)? {
                node.whole = true;
            } else {
                node.add_layer(fs::open_dir_at(dir, &entry.name)?.as_fd(), depth + 1)?;
            }
        }
        Ok(())
    }

    fn child(&mut self, name: &OsStr) -> &mut Stale {
        self.children.entry(name.to_owned()).or_default()
    }
}
