//! Removes cache mounts.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use cooper_runtime::enter::{EnterError, enter};
use cooper_runtime::sys::fs::{self, FileKind};

use super::cache::lock;
use crate::store::{Store, StoreError, WorkDir};

/// Why nothing could be removed.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// No user namespace to be had, in which the files could be removed.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Cache mounts removed.
    pub removed: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Cache mounts that running steps have.
    pub in_use: u64,
    /// Cache mounts of another id map, whose files cannot be removed under this one.
    pub foreign: u64,
}

/// Removes all cache mounts that no step has mounted, and what dead commands have left under `work/`.
///
/// What is there belongs to subordinate ids, so this enters a user namespace if there is anything:
/// the process must have one thread.
///
/// # Errors
/// [`PruneError::Enter`] where the environment has no user namespaces.
pub fn prune(store: &Store) -> Result<Pruned, PruneError> {
    if is_empty(&store.cache_mounts_dir()) && is_empty(&store.root().join("work")) {
        return Ok(Pruned::default());
    }
    enter()?;
    store.sweep(u64::MAX)?;
    let work = store.work_dir()?;
    Ok(remove_all(store, &work)?)
}

/// Whether there is nothing in a directory but hidden files.
fn is_empty(dir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else { return true };
    entries.flatten().all(|entry| entry.file_name().as_encoded_bytes().starts_with(b"."))
}

/// Removes what there is, without entering a namespace.
pub(super) fn remove_all(store: &Store, work: &WorkDir) -> Result<Pruned, StoreError> {
    let mut pruned = Pruned::default();
    for tag in subdirectories(&store.cache_mounts_dir())? {
        for key in subdirectories(&tag)? {
            for number in numbers(&key)? {
                remove_one(&key, number, work, &mut pruned)?;
            }
            // Not empty where one is in use.
            let _ = std::fs::remove_dir(&key);
        }
        let _ = std::fs::remove_dir(&tag);
    }
    Ok(pruned)
}

fn remove_one(key: &Path, number: usize, work: &WorkDir, pruned: &mut Pruned) -> Result<(), StoreError> {
    let path = key.join(number.to_string());
    let Some(_held) = lock(key, number, File::try_lock)? else {
        pruned.in_use += 1;
        return Ok(());
    };
    if path.is_dir() {
        let doomed = work.fresh("pruned-");
        let bytes = fs::open_dir(&path).and_then(|dir| size(dir.as_fd(), &mut HashSet::new()));
        // Moved first, so that a command killed here leaves no half of a cache to the next build.
        let removed = bytes.and_then(|bytes| {
            std::fs::rename(&path, &doomed)?;
            fs::remove_tree_at(fs::open_dir(work.path())?, doomed.file_name().unwrap_or_default())?;
            Ok(bytes)
        });
        match removed {
            Ok(bytes) => {
                pruned.removed += 1;
                pruned.bytes += bytes;
            }
            // What was moved and resists is swept by a command that may.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                pruned.foreign += 1;
                return Ok(());
            }
            Err(e) => return Err(StoreError::io("cannot remove the cache mount", &path)(e)),
        }
    }
    let path = key.join(format!("{number}.lock"));
    std::fs::remove_file(&path).map_err(StoreError::io("cannot remove", &path))
}

/// The bytes of all files below a directory; one with several names counts once.
fn size(dir: BorrowedFd<'_>, seen: &mut HashSet<(u64, u64)>) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::list(dir)? {
        let stat = fs::stat_at(dir, &entry.name)?;
        match stat.kind {
            FileKind::Directory => sum += size(fs::open_dir_at(dir, &entry.name)?.as_fd(), seen)?,
            FileKind::File if stat.nlink == 1 || seen.insert((stat.dev, stat.ino)) => sum += stat.size,
            _ => {}
        }
    }
    Ok(sum)
}

fn subdirectories(dir: &Path) -> Result<Vec<std::path::PathBuf>, StoreError> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(StoreError::io("cannot read", dir))?,
    };
    let is_dir = |e: &std::fs::DirEntry| e.file_type().is_ok_and(|t| t.is_dir());
    Ok(entries.flatten().filter(is_dir).map(|e| e.path()).collect())
}

/// The copies of a cache, by their directories and locks.
fn numbers(key: &Path) -> Result<Vec<usize>, StoreError> {
    let entries = match std::fs::read_dir(key) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(StoreError::io("cannot read", key))?,
    };
    let number = |name: &str| name.strip_suffix(".lock").unwrap_or(name).parse().ok();
    let mut found: Vec<usize> =
        entries.flatten().filter_map(|e| number(&e.file_name().to_string_lossy())).collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}
