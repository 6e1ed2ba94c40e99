//! The kernel's overlay as storage.
//!
//! Mounted by the builder inside its own user and mount namespace with `userxattr` (Linux 5.11), so
//! that no privilege is needed, and `volatile`, since what a step writes needs to survive nothing
//! before it is packed. Layers, upper and work directory are named by descriptors: a mount's data is
//! one page, which paths would fill after a few dozen layers, and a step that reads its mount table
//! learns nothing of the builder's directories.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use cooper_runtime::record::ByInode;
use cooper_runtime::sys::fs::{self, Stat};
use cooper_runtime::sys::mount;
use nix::mount::MsFlags;

use super::place::Place;
use super::storage::{Changes, Mounted, RootfsError, Workspace, io_error};
use super::{LayerDir, Records, inodes};
use crate::store::WorkDir;

/// An overlay. Without an upper directory it is read-only.
#[derive(Debug)]
pub(super) struct Overlay {
    // Before the place: closed, when that is unmounted.
    root: OwnedFd,
    place: Place,
}

impl Overlay {
    /// Mounts `parents` (lowest first) with a new upper directory.
    ///
    /// # Errors
    /// [`RootfsError::Mount`] where the kernel or the file system below cannot do it.
    pub(super) fn mount(work: &WorkDir, parents: &[LayerDir]) -> Result<Overlay, RootfsError> {
        let place = Place::make(work, "step-", &["upper", "work"])?;
        let upper = (place.beside("upper"), place.beside("work"));
        mount_layers(&place, parents, Some((&upper.0, &upper.1)))?;
        Ok(Overlay { root: place.open()?, place })
    }

    /// Mounts `layers` (lowest first) to read from.
    ///
    /// # Errors
    /// As of [`mount`](Self::mount).
    pub(super) fn mount_read_only(work: &WorkDir, layers: &[LayerDir]) -> Result<Overlay, RootfsError> {
        let place = Place::make(work, "source-", &[])?;
        mount_layers(&place, layers, None)?;
        Ok(Overlay { root: place.open()?, place })
    }
}

impl Mounted for Overlay {
    fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    fn path(&self) -> &Path {
        self.place.at()
    }
}

impl Workspace for Overlay {
    fn changes(self: Box<Self>, inodes: Option<&ByInode>) -> Result<Changes, RootfsError> {
        let Overlay { root, place } = *self;
        let records = match inodes {
            None => Records::new(),
            Some(inodes) => {
                let upper =
                    fs::open_dir(&place.beside("upper")).map_err(io_error("cannot open the changes"))?;
                inodes::by_path(upper.as_fd(), root.as_fd(), inodes)
                    .map_err(io_error("cannot find out who owns the changes"))?
            }
        };
        drop(root);
        Ok(Changes { upper: place.keep("upper")?, records })
    }

    fn renumbering(&self) -> Option<PathBuf> {
        Some(self.place.beside("upper"))
    }
}

fn mount_layers(
    place: &Place,
    layers: &[LayerDir],
    upper: Option<(&Path, &Path)>,
) -> Result<(), RootfsError> {
    let open = |path: &Path| {
        fs::open_dir(path).map_err(io_error(format!("cannot open the layer {}", path.display())))
    };
    let mut lowers: Vec<OwnedFd> = Vec::new();
    let mut seen = HashSet::new();
    for layer in layers.iter().rev() {
        let dir = open(&layer.path)?;
        let Stat { dev, ino, .. } = fs::stat(dir.as_fd())
            .map_err(io_error(format!("cannot look at the layer {}", layer.path.display())))?;
        // Steps that change nothing all have the same layer, and an overlay that is given a directory twice
        // fails with ELOOP. The lower of two equal layers shows nothing that the upper does not.
        if seen.insert((dev, ino)) {
            lowers.push(dir);
        }
    }
    // An overlay wants one lower directory at least, and two where there is no upper one.
    while lowers.len() < if upper.is_some() { 1 } else { 2 } {
        let filler = place.beside(&format!("empty-{}", lowers.len()));
        std::fs::create_dir(&filler).map_err(io_error(format!("cannot create {}", filler.display())))?;
        lowers.push(open(&filler)?);
    }
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let lower = lowers.iter().map(name).collect::<Vec<_>>().join(":");
    let refused = |source: io::Error| RootfsError::Mount { path: place.dir().to_owned(), source };
    let target = place.at();
    match upper {
        Some((upper, work)) => {
            let (upper, work) = (open(upper)?, open(work)?);
            let options = format!(
                "userxattr,volatile,index=off,lowerdir={lower},upperdir={},workdir={}",
                name(&upper),
                name(&work)
            );
            mount::mount_path("overlay", target, MsFlags::empty(), &options).map_err(refused)
        }
        None => {
            let options = format!("userxattr,lowerdir={lower}");
            mount::mount_path("overlay", target, MsFlags::MS_RDONLY, &options).map_err(refused)
        }
    }
}
