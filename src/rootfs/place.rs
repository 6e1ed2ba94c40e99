//! A place in the work directory where a root file system is mounted.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cooper_runtime::sys::{fs, mount};

use super::storage::{RootfsError, discard, io_error};
use crate::store::WorkDir;

/// A directory with a mount point `root` and what belongs to it. Dropped, what is mounted there is
/// unmounted, and all of it removed.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
    at: PathBuf,
    made: Instant,
}

/// A directory that stays, out of a place that goes.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) path: PathBuf,
    /// What still unmounts the place.
    unmounting: Option<JoinHandle<()>>,
}

impl Kept {
    /// One where nothing was mounted.
    pub(super) fn of(path: PathBuf) -> Kept {
        Kept { path, unmounting: None }
    }

    /// Waits until nothing is mounted any more.
    pub(super) fn end(mut self) -> PathBuf {
        self.wait();
        std::mem::take(&mut self.path)
    }

    fn wait(&mut self) {
        if let Some(thread) = self.unmounting.take() {
            let _ = thread.join();
        }
    }
}

/// After so long there may be much that the kernel has to forget of what was mounted, and somebody who waits
/// for it to be unmounted has time to start a thread.
const LONG: Duration = Duration::from_millis(50);

impl Place {
    /// Makes it, with more directories beside `root`.
    pub(super) fn make(work: &WorkDir, prefix: &str, beside: &[&str]) -> Result<Place, RootfsError> {
        let dir = work.fresh(prefix);
        let at = dir.join("root");
        let make = |path: &Path| {
            std::fs::create_dir(path).map_err(io_error(format!("cannot create {}", path.display())))
        };
        make(&dir)?;
        let place = Place { dir, at, made: Instant::now() };
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

    /// Moves the directory `name` out of it to where it stays, and unmounts: what was mounted there must not
    /// write any more.
    pub(super) fn keep(self, name: &str) -> Result<Kept, RootfsError> {
        let path = self.dir.with_extension("layer");
        std::fs::rename(self.dir.join(name), &path).map_err(io_error("cannot keep the changes"))?;
        let mut unmounting = None;
        if self.made.elapsed() >= LONG {
            // Without a thread it is dropped here.
            unmounting =
                std::thread::Builder::new().name("unmount".to_owned()).spawn(move || drop(self)).ok();
        }
        Ok(Kept { path, unmounting })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.wait();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Not mounted any more, or never: nothing to undo.
        let _ = mount::detach(&self.at);
        discard(&self.dir);
    }
}
