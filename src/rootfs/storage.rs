//! The storage backends, behind one contract.
//!
//! Each makes a root file system of a stack of layers, lets somebody work in it, and says afterwards
//! what may have changed: a directory in the form of an overlay's upper layer, which holds at least all
//! that differs. [`freeze`](super::freeze) compares that with the layers below, so what ends up in a
//! layer does not depend on the backend.
//!
//! | backend | needs | how it learns what changed |
//! |---|---|---|
//! | `overlay` | the kernel's overlay in a user namespace, Linux 5.11 | the kernel copies up what is written |
//! | `fuse` | the program fuse-overlayfs, `/dev/fuse`, Linux 4.18 | the program does |
//! | `copy` | a directory | what `stat` says before and after |

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use cooper_runtime::record::{Attributes, ByInode, Inode};
use cooper_runtime::sys::fs::{self, FileKind};

use super::freeze::freeze;
use super::lower::{self, MergedDir};
use super::place::Kept;
use super::{Clamp, Frozen, LayerDir, Records, copy, fuse, overlay};
use crate::store::WorkDir;
use crate::store::work::AT_ONCE;

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
    /// A backend does not work here.
    #[error("storage {backend} does not work here: {reason}")]
    Unavailable {
        /// Which.
        backend: Backend,
        /// Why, and what would help.
        reason: String,
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

impl RootfsError {
    /// Why a backend is not taken, and what would help, after its name.
    fn refusal(&self) -> String {
        match self {
            RootfsError::Mount { source, .. } => format!(
                "the kernel refuses to mount it: {source}; it needs Linux 5.11, and the store on a file system that \
                 is no overlay itself"
            ),
            RootfsError::Unavailable { reason, .. } => reason.clone(),
            RootfsError::Io { .. } => self.to_string(),
        }
    }
}

pub(crate) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> RootfsError {
    move |source| RootfsError::Io { what: what.into(), source }
}

/// A way to stack layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The kernel's overlay.
    Overlay,
    /// The program fuse-overlayfs.
    Fuse,
    /// A plain directory that is compared with what it was.
    Copy,
}

/// From the best to the one that works anywhere.
const LADDER: [Backend; 3] = [Backend::Overlay, Backend::Fuse, Backend::Copy];

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Overlay => "overlay",
            Backend::Fuse => "fuse",
            Backend::Copy => "copy",
        })
    }
}

/// A stack of layers as one directory. Dropped, it is gone.
pub(super) trait Mounted: fmt::Debug + Send + Sync {
    /// The directory.
    fn root(&self) -> BorrowedFd<'_>;

    /// Where it is, in the builder's mount namespace.
    fn path(&self) -> &Path;
}

/// One that can be worked in. Dropped, what was written is lost.
pub(super) trait Workspace: Mounted {
    /// Ends the work and gives what may have changed. `inodes` is what is on record of files that are
    /// in it now; `None` says that nobody kept records.
    fn changes(self: Box<Self>, inodes: Option<&ByInode>) -> Result<Changes, RootfsError>;

    /// The directory in which files that are copied up have another inode number.
    fn renumbering(&self) -> Option<PathBuf> {
        None
    }

    /// A time that all directories of the layers are older than, and none that is made from now on: seconds
    /// and nanoseconds since 1970. `None` where nothing has to keep a step from renaming the former.
    fn settled(&self) -> Option<(i64, u32)> {
        None
    }
}

/// What may have changed.
#[derive(Debug)]
pub(super) struct Changes {
    /// An upper directory: whiteouts are character devices 0:0, opaque directories have
    /// `user.overlay.opaque`, and files that are lower ones copied `user.overlay.origin`. It lies in the
    /// work directory, and belongs to the caller.
    pub(super) upper: Kept,
    /// What is on record of what lies in it, by path. Nothing here is told apart from a record that says
    /// what the file system says.
    pub(super) records: Records,
}

/// The backend of one command.
#[derive(Debug)]
pub struct Storage {
    backend: Backend,
    work: Arc<WorkDir>,
    /// Of the backend `copy`.
    trees: Arc<copy::Trees>,
    single: bool,
    ahead: fuse::Ahead,
}

impl Storage {
    /// Takes `wish`, or the best that works here. `single` says that the id map has one id, so that no
    /// owners can be made.
    ///
    /// # Errors
    /// When it does not work here.
    pub fn open(wish: Option<Backend>, work: Arc<WorkDir>, single: bool) -> Result<Storage, RootfsError> {
        let trees = Arc::new(copy::Trees::new(work.clone()));
        let storage = |backend| Storage {
            backend,
            work: work.clone(),
            trees: trees.clone(),
            single,
            ahead: fuse::Ahead::default(),
        };
        if let Some(backend) = wish {
            if backend == Backend::Fuse {
                fuse::check()?;
            }
            return Ok(storage(backend));
        }
        for backend in LADDER {
            let found = storage(backend);
            match found.probe() {
                Ok(()) => {
                    tracing::info!("storage: {backend}, the best that works here");
                    return Ok(found);
                }
                Err(e) => tracing::info!("storage: not {backend}: {}", e.refusal()),
            }
        }
        Err(RootfsError::Unavailable { backend: Backend::Copy, reason: "nothing works here".to_owned() })
    }

    /// Tries the backend with an empty stack.
    fn probe(&self) -> Result<(), RootfsError> {
        self.mount(&[]).map(drop)
    }

    /// Where this command makes things.
    pub fn work(&self) -> &WorkDir {
        &self.work
    }

    /// Whether there is one id, so that no owners can be made.
    pub fn single_id(&self) -> bool {
        self.single
    }

    /// Makes a root file system of `parents`, lowest first, to work in.
    ///
    /// # Errors
    /// When the backend cannot do it.
    pub fn mount(&self, parents: &[LayerDir]) -> Result<RootFs, RootfsError> {
        let workspace: Box<dyn Workspace> = match self.backend {
            Backend::Overlay => Box::new(overlay::Overlay::mount(&self.work, parents)?),
            Backend::Fuse => Box::new(fuse::Fuse::mount(&self.work, parents, &self.ahead)?),
            Backend::Copy => Box::new(self.trees.mount(parents)?),
        };
        let mut rootfs = RootFs {
            workspace,
            parents: parents.to_vec(),
            records: Records::new(),
            inodes: None,
            single: self.single,
        };
        rootfs.dress_root().map_err(io_error("cannot prepare the root file system"))?;
        Ok(rootfs)
    }

    /// Makes an empty directory for a layer that is written without a mount. Nothing made in it gets a group
    /// or an access control list from the directories that the store lies in.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn empty_layer(&self) -> io::Result<(PathBuf, OwnedFd)> {
        let path = self.work.fresh("layer-");
        std::fs::create_dir(&path)?;
        let (root, here) = (fs::open_dir(&path)?, OsStr::new("."));
        fs::chmod(&root, 0o700)?;
        for attr in fs::xattr_names_at(&root, here)? {
            if attr.as_bytes().starts_with(b"system.posix_acl") {
                fs::remove_xattr_at(&root, here, &attr)?;
            }
        }
        Ok((path, root))
    }

    /// Makes one to read from.
    ///
    /// # Errors
    /// When the backend cannot do it.
    pub fn mount_read_only(&self, layers: &[LayerDir]) -> Result<ReadOnly, RootfsError> {
        Ok(ReadOnly(match self.backend {
            Backend::Overlay => Box::new(overlay::Overlay::mount_read_only(&self.work, layers)?),
            Backend::Fuse => Box::new(fuse::Fuse::mount_read_only(&self.work, layers, &self.ahead)?),
            Backend::Copy => Box::new(self.trees.mount_read_only(layers)?),
        }))
    }
}

/// A chain of layers mounted to read from.
#[derive(Debug)]
pub struct ReadOnly(Box<dyn Mounted>);

impl ReadOnly {
    /// Where they are mounted, in the builder's mount namespace.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The mounted root.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.0.root()
    }
}

/// A chain of layers mounted to work in. Dropped, what was written is lost.
#[derive(Debug)]
pub struct RootFs {
    workspace: Box<dyn Workspace>,
    parents: Vec<LayerDir>,
    /// What the builder itself could not make in it.
    pub records: Records,
    inodes: Option<ByInode>,
    single: bool,
}

impl RootFs {
    /// The mounted root.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.workspace.root()
    }

    /// Where it is mounted, in the builder's mount namespace.
    pub fn path(&self) -> &Path {
        self.workspace.path()
    }

    /// The root gets the attributes that the layers below say.
    fn dress_root(&mut self) -> io::Result<()> {
        let (mode, uid, gid) = MergedDir::root(&self.parents)?.root_attributes()?;
        let (root, here) = (self.workspace.root(), OsStr::new("."));
        let now = fs::stat(root)?;
        let made = match (now.uid, now.gid) == (uid, gid) {
            true => true,
            false if self.single => false,
            false => made_owner(fs::chown_at(root, here, uid, gid))?,
        };
        if now.mode != mode {
            fs::chmod_at(root, here, mode)?;
        }
        if !made {
            let record = Attributes { owner: Some((uid, gid)), ..Attributes::default() };
            self.records.insert(Vec::new(), record);
        }
        Ok(())
    }

    /// What is on record of files that can be seen in it.
    ///
    /// # Errors
    /// When the layers cannot be read.
    pub fn known(&self) -> io::Result<Vec<(Inode, Attributes)>> {
        let mut records = lower::records(&self.parents)?;
        records.extend(self.records.iter().map(|(path, record)| (path.clone(), record.clone())));
        let mut known = Vec::with_capacity(records.len());
        for (path, record) in records {
            // Many images have device nodes there; to ask about every step's calls because of them would be slow.
            if is_covered(&path) {
                continue;
            }
            // Parents on record are directories, so there is no link on the way.
            let open = || fs::open_in_root(self.root(), path_text(&path), false);
            let file = match open() {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            let mut stat = fs::stat(&file)?;
            if stat.kind == FileKind::File && stat.nlink > 1 {
                // Overlay gives one of several lower names another inode number when it is written to, and
                // nothing would tell then that it is the same file. So it is copied up before, by the mode that
                // it has: a change of owner would take its set-user-ID bit.
                let mode = std::fs::Permissions::from_mode(stat.mode);
                std::fs::set_permissions(fs::proc_path(file.as_fd()), mode)?;
                stat = fs::stat(open()?)?;
            }
            known.push((Inode { dev: stat.dev, ino: stat.ino }, record));
        }
        Ok(known)
    }

    /// For [`Recording::upper`](cooper_runtime::recording::Recording::upper).
    pub fn renumbering(&self) -> Option<PathBuf> {
        self.workspace.renumbering()
    }

    /// For [`Recording::settled`](cooper_runtime::recording::Recording::settled).
    pub fn settled(&self) -> Option<(i64, u32)> {
        self.workspace.settled()
    }

    /// Takes what is on record after a step that ran in it.
    pub fn set_inodes(&mut self, inodes: ByInode) {
        self.inodes = Some(inodes);
    }

    /// Ends the work and turns what was written into a layer.
    ///
    /// # Errors
    /// When the changes cannot be read or compared.
    pub fn freeze(self, clamp: Clamp) -> Result<Frozen, RootfsError> {
        let began = Instant::now();
        let inodes = self.inodes.as_ref().filter(|inodes| !inodes.is_empty() || self.shows_records());
        let Changes { upper: kept, records: found } = self.workspace.changes(inodes)?;
        let upper = fs::open_dir(&kept.path).map_err(io_error("cannot open the changes"))?;
        let mut records = self.records;
        records.extend(found);
        let entries = freeze(upper.as_fd(), &self.parents, clamp, &mut records, self.single)
            .map_err(io_error("cannot compare the changes with the layers below"))?;
        tracing::debug!("storage: {} entries differ, found in {:?}", entries.len(), began.elapsed());
        Ok(Frozen { layer: LayerDir { path: kept.end(), records: records.into() }, entries })
    }

    /// Whether anything is on record of what a step can see; what it has made had none before.
    fn shows_records(&self) -> bool {
        let below = self.parents.iter().flat_map(|layer| layer.records.keys());
        below.chain(self.records.keys()).any(|path| !is_covered(path))
    }
}

/// Whether a step has a mount of its own over a path, and so sees and changes nothing of what lies there.
fn is_covered(path: &[u8]) -> bool {
    [&b"dev/"[..], b"proc/", b"sys/"].iter().any(|covered| path.starts_with(covered))
}

/// Whether an owner could be made. Of ids that the map does not have the kernel says that they are invalid.
pub fn made_owner(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(false),
        Err(e) => Err(e),
    }
}

/// A path from the root, as text that names the root too.
fn path_text(path: &[u8]) -> &OsStr {
    if path.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(path) }
}

/// Removes a directory of the work directory, unless that would take long; what is left, or resists, is
/// swept with the rest.
pub(crate) fn discard(dir: &Path) {
    if let (Some(parent), Some(name)) = (dir.parent(), dir.file_name())
        && let Ok(parent) = fs::open_dir(parent)
    {
        let _ = fs::remove_some_at(&parent, name, AT_ONCE);
    }
}
