//! A place in the work directory where a root file system is mounted.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use cooper_runtime::sys::{fs, mount};

use super::storage::{RootfsError, discard, io_error};
use crate::store::WorkDir;

/// A directory with a mount point `root` and what belongs to it. Dropped, what is mounted there is
/// unmounted, and all of it removed.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
    at: PathBuf,
    /// Whether something may be mounted.
    mounted: bool,
}

impl Place {
    /// Makes it, with more directories beside `root`.
    pub(super) fn make(work: &WorkDir, prefix: &str, beside: &[&str]) -> Result<Place, RootfsError> {
        let dir = work.fresh(prefix);
        let at = dir.join("root");
        let make = |path: &Path| {
            std::fs::create_dir(path).map_err(io_error(format!("cannot create {}", path.display())))
        };
        make(&dir)?;
        let place = Place { dir, at, mounted: true };
        make(&place.at)?;
        beside.iter().try_for_each(|name| make(&place.dir.join(name)))?;
        Ok(place)
    }

    /// The mount point.
    pub(super) fn at(&self) -> &Path {
        &self.at
    }

    /// All of it.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is beside the mount point.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Opens what is mounted.
    pub(super) fn open(&self) -> Result<OwnedFd, RootfsError> {
        fs::open_dir(&self.at).map_err(io_error("cannot open the root file system"))
    }

    /// Unmounts, and moves the directory `name` out of it to where it stays.
    pub(super) fn keep(mut self, name: &str) -> Result<PathBuf, RootfsError> {
        self.unmount();
        let kept = self.dir.with_extension("layer");
        std::fs::rename(self.dir.join(name), &kept).map_err(io_error("cannot keep the changes"))?;
        Ok(kept)
    }

    fn unmount(&mut self) {
        if std::mem::take(&mut self.mounted) {
            // Never mounted, if it fails: nothing to undo.
            let _ = mount::detach(&self.at);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.unmount();
        discard(&self.dir);
    }
}
