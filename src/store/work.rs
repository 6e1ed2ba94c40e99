//! `work/`: what running commands are making.
//!
//! Each command that makes something has a directory `work/<pid>-<random>/` with a file `lock` that
//! it holds locked while it lives. A directory whose lock can be had belongs to a dead command;
//! whoever finds it sweeps it. Making a directory and sweeping both hold `work/.lock`, so that a
//! directory is never seen before its lock is held.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use cooper_runtime::sys::fs as sysfs;

use super::{Store, StoreError};

/// Names that are removed while somebody waits. It takes some ten milliseconds; on some file systems what is
/// made after a mass deletion takes long as well.
pub const AT_ONCE: u64 = 2000;

/// This command's directory below `work/`; removed when dropped, with all it holds unless that is much: then
/// the next command sweeps it.
#[derive(Debug)]
pub struct WorkDir {
    path: PathBuf,
    next: AtomicU64,
    _lock: File,
}

impl WorkDir {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A name in it that nobody has; nothing is created.
    pub fn fresh(&self, prefix: &str) -> PathBuf {
        self.path.join(format!("{prefix}{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        // What cannot be removed here (files of subordinate ids, seen from outside the namespace) the
        // next command sweeps.
        if let (Some(parent), Some(name)) = (self.path.parent(), self.path.file_name())
            && let Ok(dir) = sysfs::open_dir(parent)
        {
            let _ = sysfs::remove_some_at(&dir, name, AT_ONCE);
        }
    }
}

impl Store {
    /// Makes a work directory for this command.
    pub fn work_dir(&self) -> Result<WorkDir, StoreError> {
        let work = self.root.join("work");
        let _gate = gate(&work)?;
        let dir = tempfile::Builder::new()
            .prefix(&format!("{}-", std::process::id()))
            .tempdir_in(&work)
            .map_err(StoreError::io("cannot create a directory in", &work))?;
        let path = dir.path().join("lock");
        let lock = File::create_new(&path).map_err(StoreError::io("cannot create", &path))?;
        lock.lock().map_err(StoreError::io("cannot lock", &path))?;
        Ok(WorkDir { path: dir.keep(), next: AtomicU64::new(0), _lock: lock })
    }

    /// Removes what dead commands have left, or `most` names of each; says whether that was all. Files of
    /// subordinate ids go only when this runs inside the user namespace that maps them; what resists stays for
    /// the next sweep.
    pub fn sweep(&self, most: u64) -> Result<bool, StoreError> {
        let work = self.root.join("work");
        let dir = sysfs::open_dir(&work).map_err(StoreError::io("cannot open", &work))?;
        let mut dead = Vec::new();
        {
            let _gate = gate(&work)?;
            for entry in fs::read_dir(&work).map_err(StoreError::io("cannot read", &work))?.flatten() {
                let name = entry.file_name();
                if name == ".lock" {
                    continue;
                }
                if name.to_string_lossy().starts_with(super::TEMPORARY) {
                    // Written in an instant, without a lock to tell that its writer is dead.
                    let age = entry.metadata().ok().and_then(|m| m.modified().ok()?.elapsed().ok());
                    if age.is_some_and(|age| age.as_secs() > 3600) {
                        dead.push(name);
                    }
                    continue;
                }
                match File::open(entry.path().join("lock")).map(|f| f.try_lock()) {
                    Ok(Err(TryLockError::WouldBlock)) => continue,
                    _ => dead.push(name),
                }
            }
        }
        let mut all = true;
        for name in dead {
            all &= sysfs::remove_some_at(&dir, &name, most).unwrap_or(true);
        }
        Ok(all)
    }
}

fn gate(work: &Path) -> Result<File, StoreError> {
    let path = work.join(".lock");
    let gate = File::open(&path).map_err(StoreError::io("cannot open", &path))?;
    gate.lock().map_err(StoreError::io("cannot lock", &path))?;
    Ok(gate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_dead_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let alive = store.work_dir().unwrap();
        let dead = dir.path().join("work/1-dead/deep/er");
        fs::create_dir_all(&dead).unwrap();
        fs::write(dir.path().join("work/1-dead/lock"), "").unwrap();
        fs::write(dead.join("file"), "x").unwrap();
        assert!(store.sweep(AT_ONCE).unwrap());
        assert!(alive.path().join("lock").exists());
        assert!(!dir.path().join("work/1-dead").exists());
        let path = alive.path().to_owned();
        drop(alive);
        assert!(!path.exists());
    }

    #[test]
    fn nobody_waits_for_a_mass_deletion() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let work = store.work_dir().unwrap();
        let path = work.path().to_owned();
        for number in 0..AT_ONCE + 100 {
            fs::write(path.join(format!("{number}")), "").unwrap();
        }
        drop(work);
        assert!(path.exists());
        assert!(!store.sweep(50).unwrap());
        assert!(path.exists());
        assert!(store.sweep(u64::MAX).unwrap());
        assert!(!path.exists());
    }
}
