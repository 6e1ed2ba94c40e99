//! Removes trees without anybody waiting for it.
//!
//! What goes is renamed to `work/<command>/trash-<n>` and removed from there on a thread. The command's
//! end waits for these threads; what a killed command leaves, the next one sweeps with its work directory.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use cooper_runtime::sys::fs::{self, FileKind};

use crate::rootfs::storage::discard;
use crate::store::WorkDir;

/// Where things go.
#[derive(Debug)]
pub(super) struct Trash {
    work: Arc<WorkDir>,
    removing: Mutex<Vec<JoinHandle<()>>>,
}

impl Trash {
    pub(super) fn new(work: Arc<WorkDir>) -> Trash {
        Trash { work, removing: Mutex::default() }
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
        let path = dir.clone();
        let thread = std::thread::Builder::new().name("trash".to_owned()).spawn(move || discard(&path));
        match thread {
            Ok(thread) => {
                let mut removing = self.removing.lock().unwrap_or_else(PoisonError::into_inner);
                removing.retain(|thread| !thread.is_finished());
                removing.push(thread);
            }
            Err(_) => discard(&dir),
        }
    }
}

impl Drop for Trash {
    fn drop(&mut self) {
        for thread in self.removing.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = thread.join();
        }
    }
}
