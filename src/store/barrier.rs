//! The barrier: what a name or a record leads to is on the disk before the name or record is.
//!
//! Nothing is synced when it is written. [`Store::barrier`] syncs the blobs and documents that this command has
//! committed so far, once each, and [`Store::set_name`] passes it by itself; whoever records a step under its key
//! calls it before. A command that has written nothing passes it without a system call.
//!
//! Why like this:
//!
//! - *Each blob, and not the file system.* `syncfs(2)` is one call, but waits for whatever anybody has written,
//!   first of all the tens of thousands of files of unpacked layers, which can be made again from their blobs.
//! - *Late, and begun early.* The kernel is asked to begin writing while a blob grows and when it is committed
//!   ([`start_writing_out`](cooper_runtime::sys::fs::start_writing_out)). So at the barrier most data are on the
//!   disk, and the first `fdatasync(2)` commits to the file system's journal what all of them have there; for the
//!   others it finds that done.
//! - *The directory last*: the names of the blobs are in it.
//!
//! What of this a loss of power undoes:
//!
//! | what | after a loss of power |
//! |---|---|
//! | `index.json` | the old or the new one: the new one is synced before it is renamed |
//! | blobs and documents that are named | there |
//! | others | whole, shorter or gone; shorter ones count as missing |
//! | records below `cache/` | there, or they do not parse and count as missing |
//! | unpacked layers | see [`layers`](super::layers) |

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{Store, StoreError};

/// As many files are held open until they are synced.
const OPEN_LIMIT: usize = 64;

/// The blobs that this command has put in place and not yet synced.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    files: Mutex<Vec<(PathBuf, File)>>,
    /// Held by whoever syncs: another who finds nothing left to do has to wait for it all the same.
    syncing: Mutex<()>,
}

impl Unsynced {
    /// Notes that the file which is now at `path` was written.
    pub(super) fn add(&self, store: &Store, path: PathBuf, file: File) -> Result<(), StoreError> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.push((path, file));
        let many = files.len() >= OPEN_LIMIT;
        drop(files);
        if many { store.barrier() } else { Ok(()) }
    }
}

impl Store {
    /// Waits until all blobs and documents that this command has written so far are on the disk, whichever of
    /// its threads has written them. After it they may be named. Does nothing where nothing was written since.
    ///
    /// # Errors
    /// When the disk does not take one; the blob is gone then, as nobody knows what of it is there.
    pub fn barrier(&self) -> Result<(), StoreError> {
        let _syncing = self.unsynced.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let files = std::mem::take(&mut *self.unsynced.files.lock().unwrap_or_else(PoisonError::into_inner));
        if files.is_empty() {
            return Ok(());
        }
        let mut result = Ok(());
        for (path, file) in files {
            if let Err(error) = file.sync_data() {
                // The kernel tells of such a failure once, and then forgets what it could not write.
                let _ = fs::remove_file(&path);
                result = result.and(Err(StoreError::io("cannot bring to the disk", &path)(error)));
            }
        }
        result.and_then(|()| sync_dir(&self.root.join("blobs/sha256")))
    }
}

/// Brings the names in a directory to the disk.
fn sync_dir(path: &Path) -> Result<(), StoreError> {
    match File::open(path).and_then(|dir| dir.sync_all()) {
        // Some file systems that are not in the kernel, or on another machine, cannot do this to a directory.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other.map_err(StoreError::io("cannot bring to the disk", path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(store: &Store) -> usize {
        store.unsynced.files.lock().unwrap().len()
    }

    #[test]
    fn what_was_written_waits_for_the_barrier_and_no_descriptors_pile_up() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let digest = store.write_document(b"one").unwrap();
        store.write_document(b"one").unwrap();
        assert_eq!(waiting(&store), 1, "what is there is not written again");
        store.barrier().unwrap();
        assert_eq!(waiting(&store), 0);
        assert_eq!(store.read_document(&digest).unwrap(), b"one");
        let work = store.work_dir().unwrap();
        for n in 0..200u32 {
            let content = n.to_le_bytes();
            store.receive_blob(&work, &crate::image::Digest::of(&content), 4, &mut &content[..]).unwrap();
            assert!((1..OPEN_LIMIT).contains(&waiting(&store)) || n as usize % OPEN_LIMIT == OPEN_LIMIT - 1);
        }
    }

    #[test]
    fn a_blob_that_was_cut_short_counts_as_missing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let work = store.work_dir().unwrap();
        let digest = store.write_document(b"{\"a\":1}").unwrap();
        for _ in 0..2 {
            fs::remove_file(store.blob_path(&digest)).unwrap();
            fs::write(store.blob_path(&digest), b"").unwrap();
            assert!(store.read_document(&digest).is_err());
            store.write_document(b"{\"a\":1}").unwrap();
            assert_eq!(store.read_document(&digest).unwrap(), b"{\"a\":1}");
        }
        fs::remove_file(store.blob_path(&digest)).unwrap();
        fs::write(store.blob_path(&digest), b"{").unwrap();
        store.receive_blob(&work, &digest, 7, &mut &b"{\"a\":1}"[..]).unwrap();
        assert_eq!(store.read_document(&digest).unwrap(), b"{\"a\":1}");
    }
}
