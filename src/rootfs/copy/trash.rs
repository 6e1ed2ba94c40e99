//! Removes trees without anybody waiting for it.
//!
//! What goes is renamed to `work/<command>/trash-<n>` and removed from there on a thread, which the end of
//! the command does not wait for: what is left, the next one sweeps with the work directory.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;

use cooper_runtime::sys::fs::{self, FileKind};
use cooper_runtime::sys::process::step_back;

use crate::store::WorkDir;

/// Names for which a thread is not worth its while.
const SMALL: u64 = 64;

/// Where things go.
#[derive(Debug)]
pub(super) struct Trash {
    work: Arc<WorkDir>,
}

impl Trash {
    pub(super) fn new(work: Arc<WorkDir>) -> Trash {
        Trash { work }
    }

    /// Removes a name, with all below it.
    pub(super) fn remove(&self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        if fs::stat_at(dir, name)?.kind != FileKind::Directory {
            return fs::unlink_at(dir, name);
        }
        let aside = self.work.fresh("trash-");
        let moved = match (aside.parent(), aside.file_name()) {
            (Some(parent), Some(new)) => {
                fs::open_dir(parent).and_then(|to| fs::rename_new_at(dir, name, to, new))
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        match moved {
            Ok(()) => self.discard(aside),
            // A directory that its owner may not write to cannot be moved either.
            Err(_) => fs::remove_tree_at(dir, name)?,
        }
        Ok(())
    }

    /// Removes a directory of the work directory.
    pub(super) fn discard(&self, dir: PathBuf) {
        let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else { return };
        let Ok(parent) = fs::open_dir(parent) else { return };
        if let Ok(true) = fs::remove_some_at(&parent, name, SMALL) {
            return;
        }
        let name = name.to_owned();
        let remove = move || {
            step_back();
            let _ = fs::remove_tree_at(&parent, &name);
        };
        // Without a thread it waits for the sweep.
        let _ = std::thread::Builder::new().name("trash".to_owned()).spawn(remove);
    }
}
