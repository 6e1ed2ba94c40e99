//! The kernel's overlay as storage.
//!
//! Mounted by the builder inside its own user and mount namespace with `userxattr` (Linux 5.11), so
//! that no privilege is needed, and `volatile`, since what a step writes needs to survive nothing
//! before it is packed. Layers, upper and work directory are named by descriptors: a mount's data is
//! one page, which paths would fill after a few dozen layers, and a step that reads its mount table
//! learns nothing of the builder's directories.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use cooper_runtime::sys::{fs, mount};
use nix::mount::MsFlags;

use super::freeze::freeze;
use super::lower::MergedDir;
use super::{Clamp, Frozen, LayerDir, RecordedOwners};
use crate::store::WorkDir;

/// What can go wrong with a root file system.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// The kernel refuses the overlay.
    #[error("the kernel refuses to mount an overlay on {}: {source}", path.display())]
    Mount {
        /// Where the store's files lie.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Something else failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

pub(crate) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> RootfsError {
    move |source| RootfsError::Io { what: what.into(), source }
}

/// A chain of layers mounted to work in. Dropped, it is unmounted and what was written is lost.
#[derive(Debug)]
pub struct Overlay {
    dir: PathBuf,
    root: Option<OwnedFd>,
    parents: Vec<LayerDir>,
    /// Owners that the id map cannot make, as the builder asks for them.
    pub owners: RecordedOwners,
    records: bool,
}

/// A chain of layers mounted to read from.
#[derive(Debug)]
pub struct ReadOnly {
    dir: PathBuf,
    root: Option<OwnedFd>,
}

impl Overlay {
    /// Mounts `parents` (lowest first) with a new upper directory. With `records`, owners are
    /// recorded instead of made.
    ///
    /// # Errors
    /// [`RootfsError::Mount`] where the kernel or the file system below cannot do it.
    pub fn mount(work: &WorkDir, parents: &[LayerDir], records: bool) -> Result<Overlay, RootfsError> {
        let dir = work.fresh("step-");
        let make = |path: &Path| {
            std::fs::create_dir(path).map_err(io_error(format!("cannot create {}", path.display())))
        };
        make(&dir)?;
        for name in ["upper", "work", "root"] {
            make(&dir.join(name))?;
        }
        let mut overlay =
            Overlay { dir, root: None, parents: parents.to_vec(), owners: RecordedOwners::new(), records };
        overlay.set_root_attributes().map_err(io_error("cannot prepare the root file system"))?;
        let upper = overlay.dir.join("upper");
        mount_layers(&overlay.dir, parents, Some((&upper, &overlay.dir.join("work"))))?;
        let root =
            fs::open_dir(&overlay.dir.join("root")).map_err(io_error("cannot open the root file system"))?;
        overlay.root = Some(root);
        Ok(overlay)
    }

    /// The merged root shows the attributes of the topmost directory, which is ours.
    fn set_root_attributes(&self) -> io::Result<()> {
        let upper = fs::open_dir(&self.dir.join("upper"))?;
        let (mode, uid, gid) = MergedDir::root(&self.parents)?.root_attributes()?;
        let here = OsStr::new(".");
        if !self.records && (uid, gid) != (0, 0) {
            fs::chown_at(upper.as_fd(), here, uid, gid)?;
        }
        fs::chmod_at(upper.as_fd(), here, mode)
    }

    /// The mounted root.
    pub fn root(&self) -> io::Result<BorrowedFd<'_>> {
        self.root.as_ref().map(AsFd::as_fd).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))
    }

    /// Where it is mounted, in the builder's mount namespace.
    pub fn path(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Unmounts it and turns what was written into a layer.
    pub fn freeze(mut self, clamp: Clamp) -> Result<Frozen, RootfsError> {
        self.unmount();
        let path = self.dir.join("upper");
        let upper = fs::open_dir(&path).map_err(io_error("cannot open the changes"))?;
        let mut owners = std::mem::take(&mut self.owners);
        let entries = freeze(upper.as_fd(), &self.parents, clamp, &mut owners, self.records)
            .map_err(io_error("cannot compare the changes with the layers below"))?;
        // Moved out of the directory that is removed when this is dropped.
        let settled = self.dir.with_extension("layer");
        std::fs::rename(&path, &settled).map_err(io_error("cannot keep the changes"))?;
        Ok(Frozen { layer: LayerDir { path: settled, owners: owners.into() }, entries })
    }

    fn unmount(&mut self) {
        if self.root.take().is_some() {
            let _ = mount::detach(&self.dir.join("root"));
        }
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        self.unmount();
        discard(&self.dir);
    }
}

impl ReadOnly {
    /// Mounts `layers`, lowest first, read-only.
    pub fn mount(work: &WorkDir, layers: &[LayerDir]) -> Result<ReadOnly, RootfsError> {
        let dir = work.fresh("source-");
        for name in ["", "root"] {
            let path = dir.join(name);
            std::fs::create_dir(&path).map_err(io_error(format!("cannot create {}", path.display())))?;
        }
        let mut mounted = ReadOnly { dir, root: None };
        mount_layers(&mounted.dir, layers, None)?;
        let root =
            fs::open_dir(&mounted.dir.join("root")).map_err(io_error("cannot open the root file system"))?;
        mounted.root = Some(root);
        Ok(mounted)
    }

    /// Where they are mounted, in the builder's mount namespace.
    pub fn path(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// The mounted root.
    pub fn root(&self) -> io::Result<BorrowedFd<'_>> {
        self.root.as_ref().map(AsFd::as_fd).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        if self.root.take().is_some() {
            let _ = mount::detach(&self.dir.join("root"));
        }
        discard(&self.dir);
    }
}

fn mount_layers(dir: &Path, layers: &[LayerDir], upper: Option<(&Path, &Path)>) -> Result<(), RootfsError> {
    let open = |path: &Path| {
        fs::open_dir(path).map_err(io_error(format!("cannot open the layer {}", path.display())))
    };
    let mut lowers = layers.iter().rev().map(|l| open(&l.path)).collect::<Result<Vec<_>, _>>()?;
    // An overlay wants one lower directory at least, and two where there is no upper one.
    while lowers.len() < if upper.is_some() { 1 } else { 2 } {
        let filler = dir.join(format!("empty-{}", lowers.len()));
        std::fs::create_dir(&filler).map_err(io_error(format!("cannot create {}", filler.display())))?;
        lowers.push(open(&filler)?);
    }
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let lower = lowers.iter().map(name).collect::<Vec<_>>().join(":");
    let refused = |source: io::Error| RootfsError::Mount { path: dir.to_owned(), source };
    let target = dir.join("root");
    match upper {
        Some((upper, work)) => {
            let (upper, work) = (open(upper)?, open(work)?);
            let options = format!(
                "userxattr,volatile,index=off,lowerdir={lower},upperdir={},workdir={}",
                name(&upper),
                name(&work)
            );
            mount::mount_path("overlay", &target, MsFlags::empty(), &options).map_err(refused)
        }
        None => {
            let options = format!("userxattr,lowerdir={lower}");
            mount::mount_path("overlay", &target, MsFlags::MS_RDONLY, &options).map_err(refused)
        }
    }
}

fn discard(dir: &Path) {
    if let (Some(parent), Some(name)) = (dir.parent(), dir.file_name())
        && let Ok(parent) = fs::open_dir(parent)
    {
        // What resists is swept with the rest of the work directory.
        let _ = fs::remove_tree_at(&parent, name);
    }
}
