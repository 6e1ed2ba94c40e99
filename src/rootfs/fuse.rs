//! fuse-overlayfs as storage: an overlay made by a program, where the kernel's cannot be had.
//!
//! | file | does |
//! |---|---|
//! | [`server`] | runs the program |
//! | [`ahead`] | what the program cannot copy up as it is, copied before it starts |
//! | [`times`] | times that the program has not kept → what the kernel's overlay says |
//! | [`normalise`] | what the program leaves in the upper directory → the form of the kernel's overlay |
//!
//! The builder opens `/dev/fuse` and mounts it (Linux 4.18 allows that inside a user namespace), and the
//! program is given the open device and answers. So each refusal is known for what it is, the first
//! access waits until the program is ready and fails when it ends, and the mount has the options that are
//! given here: set-user-id programs work, and all users of the namespace may enter.
//!
//! The program and the kernel's overlay agree about the form of lower layers. They differ in what
//! is left in the upper directory; [`normalise`] says where.

mod ahead;
mod normalise;
mod server;
mod times;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cooper_runtime::record::ByInode;
use cooper_runtime::sys::{fs, mount};
use nix::mount::MsFlags;

use super::place::Place;
use super::storage::{Backend, Changes, Mounted, RootfsError, Workspace, io_error};
use super::{LayerDir, Records, inodes};
use crate::store::WorkDir;
pub(super) use ahead::Ahead;
use ahead::Known;
use server::Server;

/// What is run.
const PROGRAM: &str = "fuse-overlayfs";
const DEVICE: &str = "/dev/fuse";
/// Files that are held open at most, so that others can be opened.
const HELD: usize = 256;

/// A mount that the program answers for. Without an upper directory it is read-only.
#[derive(Debug)]
pub(super) struct Fuse {
    // In the order in which they have to go: what is open in it, who answers, and the mount point.
    _held: Vec<OwnedFd>,
    root: OwnedFd,
    server: Server,
    place: Place,
    parents: Vec<LayerDir>,
    /// What was in the upper directory from the start.
    filled: HashSet<u64>,
}

/// Whether the program and the device are there.
///
/// # Errors
/// [`RootfsError::Unavailable`], with what would help.
pub(super) fn check() -> Result<(), RootfsError> {
    program()?;
    device().map(drop)
}

impl Fuse {
    /// Mounts `parents` (lowest first) with a new upper directory.
    ///
    /// # Errors
    /// [`RootfsError::Unavailable`] where there is no program or no device, or the kernel refuses.
    pub(super) fn mount(work: &WorkDir, parents: &[LayerDir], ahead: &Ahead) -> Result<Fuse, RootfsError> {
        let known = know(ahead, work, parents, true)?;
        let place = Place::make(work, "step-", &["upper", "work"])?;
        let upper = fs::open_dir(&place.beside("upper")).map_err(io_error("cannot open the changes"))?;
        let filled = ahead::fill(upper.as_fd(), parents, &known);
        let filled = filled.map_err(io_error("cannot prepare the changes"))?;
        let (root, server, place) = start(place, parents, &known, true)?;
        Ok(Fuse { _held: Vec::new(), root, server, place, parents: parents.to_vec(), filled })
    }

    /// Mounts `layers` (lowest first) to read from.
    ///
    /// # Errors
    /// As of [`mount`](Self::mount).
    pub(super) fn mount_read_only(
        work: &WorkDir,
        layers: &[LayerDir],
        ahead: &Ahead,
    ) -> Result<Fuse, RootfsError> {
        let known = know(ahead, work, layers, false)?;
        let (root, server, place) = start(Place::make(work, "source-", &[])?, layers, &known, false)?;
        // The program counts the names of a file that it has come upon so far, and the kernel keeps the
        // number: whoever looks for links is to see all of them. It forgets none while the file is open.
        let mut held = Vec::new();
        for names in known.iter().flat_map(|k| &k.linked) {
            let files = names.iter().map(|name| fs::open_in_root(&root, OsStr::from_bytes(name), false));
            let first = files.fold(None, |first, file| first.or(file.ok()));
            held.extend(first.filter(|_| held.len() < HELD));
        }
        Ok(Fuse { _held: held, root, server, place, parents: Vec::new(), filled: HashSet::new() })
    }
}

/// Mounts layers, lowest first, and starts the program.
fn start(
    place: Place,
    layers: &[LayerDir],
    known: &[Arc<Known>],
    writable: bool,
) -> Result<(OwnedFd, Server, Place), RootfsError> {
    let (program, device) = (program()?, device()?);
    let open = |path: &Path| {
        fs::open_dir(path).map_err(io_error(format!("cannot open the layer {}", path.display())))
    };
    let mut lowers = Vec::new();
    for (layer, known) in layers.iter().zip(known).rev() {
        if let (true, Some(apart)) = (writable, &known.apart) {
            lowers.push(open(apart)?);
        }
        lowers.push(open(&layer.path)?);
    }
    if lowers.is_empty() {
        let filler = place.beside("empty");
        std::fs::create_dir(&filler).map_err(io_error(format!("cannot create {}", filler.display())))?;
        lowers.push(open(&filler)?);
    }
    let flags = if writable { MsFlags::empty() } else { MsFlags::MS_RDONLY };
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
        device.as_raw_fd()
    );
    mount::mount_path("fuse.fuse-overlayfs", place.at(), flags, &options).map_err(|e| {
        unavailable(format!("the kernel refuses to mount {DEVICE} in a user namespace: {e}; Linux 4.18 can"))
    })?;
    let server = Server::start(&program, device, lowers, place.dir(), writable)
        .map_err(|e| unavailable(format!("{} cannot be started: {e}", program.display())))?;
    match place.open() {
        Ok(root) => Ok((root, server, place)),
        Err(e) => Err(unavailable(match server.last_words() {
            words if words.is_empty() => format!("{PROGRAM} does not answer: {e}"),
            words => format!("{PROGRAM} ended: {words}"),
        })),
    }
}

impl Mounted for Fuse {
    fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    fn path(&self) -> &Path {
        self.place.at()
    }
}

impl Workspace for Fuse {
    fn changes(self: Box<Self>, inodes: Option<&ByInode>) -> Result<Changes, RootfsError> {
        let Fuse { root, server, place, parents, filled, .. } = *self;
        // What steps wrote may still be in the kernel's memory: it does not hand on every write at once.
        fs::sync(&root).map_err(io_error("cannot write out the changes"))?;
        let upper = fs::open_dir(&place.beside("upper")).map_err(io_error("cannot open the changes"))?;
        // First: it matters what the kernel has not asked for yet.
        times::settle(upper.as_fd(), root.as_fd(), &parents, &filled)
            .map_err(io_error("cannot set the times of the changes"))?;
        let records = match inodes {
            None => Records::new(),
            Some(inodes) => inodes::by_path(upper.as_fd(), root.as_fd(), inodes)
                .map_err(io_error("cannot find out who owns the changes"))?,
        };
        drop(root);
        // From here on nobody changes the directory any more.
        drop(server);
        normalise::upper(upper.as_fd())
            .map_err(io_error("cannot bring the changes into an overlay's form"))?;
        Ok(Changes { upper: place.keep("upper")?, records })
    }
}

fn know(
    ahead: &Ahead,
    work: &WorkDir,
    layers: &[LayerDir],
    apart: bool,
) -> Result<Vec<Arc<Known>>, RootfsError> {
    let known = layers.iter().map(|layer| ahead.know(layer, work, apart)).collect::<io::Result<_>>();
    known.map_err(io_error("cannot look through the layers"))
}

/// Where the program is.
fn program() -> Result<PathBuf, RootfsError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(PROGRAM))
        .find(|file| nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok())
        .ok_or_else(|| {
            unavailable(format!("the program {PROGRAM} is not installed (on Debian: apt install {PROGRAM})"))
        })
}

fn device() -> Result<OwnedFd, RootfsError> {
    match File::options().read(true).write(true).open(DEVICE) {
        Ok(device) => Ok(device.into()),
        Err(e) => Err(unavailable(match e.kind() {
            io::ErrorKind::NotFound => format!(
                "there is no {DEVICE}; load the kernel's module (as root: modprobe fuse), or give the container the \
                 device (--device {DEVICE})"
            ),
            io::ErrorKind::PermissionDenied => format!(
                "this user may not open {DEVICE}; as root: chmod 666 {DEVICE}; in a container, its device list \
                 has to allow it too"
            ),
            _ => format!("{DEVICE} cannot be opened: {e}"),
        })),
    }
}

fn unavailable(reason: String) -> RootfsError {
    RootfsError::Unavailable { backend: Backend::Fuse, reason }
}
