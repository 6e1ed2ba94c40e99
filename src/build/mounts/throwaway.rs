//! Bind mounts that a step may write to, though nothing of it is kept.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cooper_runtime::in_root::{self, Walk};
use cooper_runtime::step::MountSource;
use cooper_runtime::sys::fs::{self, FileKind};

use super::duplicate::duplicate;
use super::{MountError, io_error};
use crate::rootfs::LayerDir;
use crate::rootfs::storage::{RootFs, RootfsError, Storage};

/// A source with what is written to it kept apart. Dropped, that is gone; the source never changes.
#[derive(Debug)]
pub struct Throwaway {
    /// What is to be mounted.
    pub source: MountSource,
    _kept: Kept,
}

#[derive(Debug)]
enum Kept {
    /// A directory in place of a layer.
    RootFs { _rootfs: RootFs },
    /// A copy, where that cannot be had, or for a single file.
    Copy { _dir: Copied },
}

#[derive(Debug)]
struct Copied(PathBuf);

impl Drop for Copied {
    fn drop(&mut self) {
        if let (Some(parent), Some(name)) = (self.0.parent(), self.0.file_name())
            && let Ok(parent) = fs::open_dir(parent)
        {
            // What resists is swept with the rest of the work directory.
            let _ = fs::remove_tree_at(&parent, name);
        }
    }
}

/// Prepares `path` below the trusted directory `root` (links never lead out of it) for a step that may
/// write to it.
///
/// # Errors
/// When it does not exist, or can be neither stacked on nor copied.
pub fn throwaway(storage: &Storage, root: &Path, path: &str) -> Result<Throwaway, MountError> {
    let single = storage.single_id();
    let wrong = |problem: String| MountError::Source { path: path.to_owned(), problem };
    let top = fs::open_dir(root).map_err(io_error("cannot open the source of a mount"))?;
    let walk = Walk { follow_last: true, make_dir: None };
    let found =
        in_root::find(&top, path.as_bytes(), walk).map_err(|e| wrong(format!("cannot be found: {e}")))?;
    let Some(stat) = found.stat else { return Err(wrong("does not exist".to_owned())) };
    if stat.kind == FileKind::Directory {
        let dir =
            fs::open_dir_at(&found.dir, &found.name).map_err(|e| wrong(format!("cannot be opened: {e}")))?;
        // Named by its descriptor: a path could lead somewhere else by the time the kernel follows it.
        let layer = LayerDir { path: fs::proc_path(dir.as_fd()), records: Arc::default() };
        match storage.mount(&[layer]) {
            Ok(rootfs) => {
                // A root shows the attributes that a layer speaks of, and this is a directory like others.
                let (root, here) = (rootfs.root(), OsStr::new("."));
                let owned = single || (stat.uid, stat.gid) == (0, 0);
                let dressed = if owned { Ok(()) } else { fs::chown_at(root, here, stat.uid, stat.gid) };
                dressed
                    .and_then(|()| fs::chmod_at(root, here, stat.mode))
                    .map_err(io_error("cannot give a mount its source's attributes"))?;
                let source = MountSource::Bind { root: rootfs.path().to_owned(), path: String::new() };
                return Ok(Throwaway { source, _kept: Kept::RootFs { _rootfs: rootfs } });
            }
            // Not every file system can lie below an overlay.
            Err(RootfsError::Mount { .. } | RootfsError::Unavailable { .. }) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let copied = Copied(storage.work().fresh("mount-"));
    std::fs::create_dir(&copied.0).map_err(io_error("cannot create a directory for a mount"))?;
    let to = fs::open_dir(&copied.0).map_err(io_error("cannot open the directory of a mount"))?;
    duplicate(found.dir.as_fd(), &found.name, to.as_fd(), OsStr::new("copy"), single)
        .map_err(|e| wrong(format!("cannot be copied: {e}")))?;
    let source = MountSource::Bind { root: copied.0.clone(), path: "copy".to_owned() };
    Ok(Throwaway { source, _kept: Kept::Copy { _dir: copied } })
}
