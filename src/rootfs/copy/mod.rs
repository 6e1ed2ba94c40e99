//! Plain directories as storage: what works where nothing can be mounted.
//!
//! A working tree is one directory that holds what a stack of layers shows. Its files are reflinks of the
//! layers' where the file system can do that, else copies; what a step has changed in it is found by
//! comparing what `stat` says before and after.
//!
//! | file | does |
//! |---|---|
//! | [`snapshot`] | what `stat` says of every name, before and after |
//! | [`stale`] | which names of a tree may not be what they are said to be |
//! | [`clone`] | makes a tree what a stack of layers says, all of it or what is stale |
//! | [`changes`] | moves what differs to an upper directory |
//! | [`trash`] | removes trees on a thread |
//!
//! A tree outlives the step: the next one gets it with that step's layer added, or, where it starts from
//! other layers, with those taken away that it does not have. So only the first step on a base pays for
//! the whole of it.
//!
//! **On disk**, in the command's work directory: `tree-<n>`, `source-<n>` (to read from), `layer-<n>` (what
//! a step has changed, handed to the caller), `trash-<n>`. Nobody but this command knows of them.

mod changes;
mod clone;
mod snapshot;
mod stale;
#[cfg(test)]
mod tests;
mod trash;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use cooper_runtime::record::ByInode;
use cooper_runtime::sys::fs;

use self::changes::{Known, Mover};
use self::clone::{Cloner, Files, undress};
use self::snapshot::Snapshot;
use self::stale::Stale;
use self::trash::Trash;
use super::lower::{self, MergedDir};
use super::place::Kept;
use super::storage::{Changes, Mounted, RootfsError, Workspace, io_error};
use super::{LayerDir, Records};
use crate::store::WorkDir;

/// Trees that are kept for later steps. Each may be a full copy of an image.
const IDLE_TREES: usize = 2;

/// The working trees of one command.
#[derive(Debug)]
pub(super) struct Trees {
    idle: Mutex<Vec<Tree>>,
    trash: Trash,
    work: Arc<WorkDir>,
}

/// A working tree.
#[derive(Debug)]
struct Tree {
    path: PathBuf,
    root: OwnedFd,
    /// What it holds, lowest first.
    layers: Vec<Layer>,
    /// But for these names.
    stale: Stale,
    /// What it was when the last step began.
    snapshot: Snapshot,
}

/// A layer's directory. It may be renamed meanwhile, and while it is open nothing else is that inode.
#[derive(Debug)]
struct Layer {
    dir: OwnedFd,
    inode: (u64, u64),
}

impl Layer {
    fn open(path: &Path) -> io::Result<Layer> {
        let dir = fs::open_dir(path)?;
        let stat = fs::stat(&dir)?;
        Ok(Layer { dir, inode: (stat.dev, stat.ino) })
    }
}

impl Trees {
    /// None yet.
    pub(super) fn new(work: Arc<WorkDir>) -> Trees {
        Trees { idle: Mutex::default(), trash: Trash::new(work.clone()), work }
    }

    /// Makes a tree of `parents` (lowest first) to work in.
    pub(super) fn mount(self: &Arc<Self>, parents: &[LayerDir]) -> Result<WorkingTree, RootfsError> {
        let began = Instant::now();
        let tree = self.tree(parents).map_err(io_error("cannot make a working tree of the layers"))?;
        let names = tree.snapshot.len();
        tracing::debug!("storage copy: a working tree of {names} names in {:?}", began.elapsed());
        Ok(WorkingTree { tree: Some(tree), trees: self.clone(), parents: parents.to_vec() })
    }

    fn tree(&self, parents: &[LayerDir]) -> io::Result<Tree> {
        let layers = parents.iter().map(|l| Layer::open(&l.path)).collect::<io::Result<Vec<_>>>()?;
        let mut tree = match self.take(&layers) {
            Some((mut tree, common)) => {
                for layer in tree.layers[common..].iter().chain(&layers[common..]) {
                    tree.stale.add_layer(layer.dir.as_fd(), 0)?;
                }
                tree
            }
            None => self.empty()?,
        };
        let result = self.bring_up_to(&mut tree, parents);
        tree.layers = layers;
        match result {
            Ok(()) => Ok(tree),
            Err(e) => {
                self.trash.discard(tree.path);
                Err(e)
            }
        }
    }

    fn bring_up_to(&self, tree: &mut Tree, parents: &[LayerDir]) -> io::Result<()> {
        let cloner = Cloner { files: Files::Copied, trash: &self.trash };
        let merged = MergedDir::root(&on_disk(parents))?;
        let root = tree.root.as_fd();
        if tree.stale.whole {
            cloner.populate(&merged, root, 0)?;
        } else {
            // An overlay's root has the attributes of its new upper directory.
            undress(root, OsStr::new("."))?;
            cloner.sync(&mut tree.stale, &merged, root, 0)?;
        }
        tree.snapshot.renew(root, &tree.stale)?;
        tree.stale = Stale::default();
        tree.snapshot.settle(&self.work)
    }

    /// The idle tree that has most of `layers`, and how many those are.
    fn take(&self, layers: &[Layer]) -> Option<(Tree, usize)> {
        let common = |tree: &Tree| {
            tree.layers.iter().zip(layers).take_while(|(have, want)| have.inode == want.inode).count()
        };
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, common) = idle.iter().map(common).enumerate().max_by_key(|(_, common)| *common)?;
        if common == 0 {
            return None;
        }
        Some((idle.swap_remove(at), common))
    }

    fn empty(&self) -> io::Result<Tree> {
        let path = self.work.fresh("tree-");
        std::fs::create_dir(&path)?;
        let stale = Stale { whole: true, ..Stale::default() };
        let root = fs::open_dir(&path)?;
        Ok(Tree { path, root, layers: Vec::new(), stale, snapshot: Snapshot::default() })
    }

    /// Keeps a tree for later steps; the smallest goes when there are too many.
    fn put(&self, tree: Tree) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(tree);
        if idle.len() > IDLE_TREES {
            let smallest = idle.iter().enumerate().min_by_key(|(_, tree)| tree.snapshot.len());
            if let Some((at, _)) = smallest {
                self.trash.discard(idle.swap_remove(at).path);
            }
        }
    }

    /// Makes a tree of `layers` (lowest first) to read from.
    pub(super) fn mount_read_only(self: &Arc<Self>, layers: &[LayerDir]) -> Result<SourceTree, RootfsError> {
        let path = self.work.fresh("source-");
        std::fs::create_dir(&path).map_err(io_error(format!("cannot create {}", path.display())))?;
        let fill = || {
            let root = fs::open_dir(&path)?;
            let cloner = Cloner { files: Files::Linked, trash: &self.trash };
            cloner.populate(&MergedDir::root(&on_disk(layers))?, root.as_fd(), 0)?;
            let (mode, uid, gid) = MergedDir::root(&on_disk(layers))?.root_attributes()?;
            let (stat, here) = (fs::stat(&root)?, OsStr::new("."));
            if (stat.uid, stat.gid) != (uid, gid) {
                fs::chown_at(&root, here, uid, gid)?;
            }
            fs::chmod_at(&root, here, mode)?;
            Ok(root)
        };
        let filled = fill().map_err(io_error("cannot make a tree of the layers"));
        match filled {
            Ok(root) => Ok(SourceTree { path, root, trees: self.clone() }),
            Err(e) => {
                self.trash.discard(path);
                Err(e)
            }
        }
    }
}

/// The layers as they lie on the disk, whatever is on record of them.
fn on_disk(layers: &[LayerDir]) -> Vec<LayerDir> {
    layers.iter().map(|l| LayerDir { path: l.path.clone(), records: Arc::default() }).collect()
}

/// A tree to read from.
#[derive(Debug)]
pub(super) struct SourceTree {
    path: PathBuf,
    root: OwnedFd,
    trees: Arc<Trees>,
}

impl Mounted for SourceTree {
    fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SourceTree {
    fn drop(&mut self) {
        self.trees.trash.discard(std::mem::take(&mut self.path));
    }
}

/// A tree to work in.
#[derive(Debug)]
pub(super) struct WorkingTree {
    /// Until the work has ended.
    tree: Option<Tree>,
    trees: Arc<Trees>,
    parents: Vec<LayerDir>,
}

impl WorkingTree {
    fn tree(&self) -> &Tree {
        match &self.tree {
            Some(tree) => tree,
            None => unreachable!("taken only by what consumes it"),
        }
    }

    fn collect(&self, tree: &mut Tree, inodes: Option<&ByInode>) -> io::Result<(PathBuf, Records)> {
        let began = Instant::now();
        let found = tree.snapshot.differences(tree.root.as_fd())?;
        tracing::debug!(
            "storage copy: compared {} names, of which {} differ, in {:?}",
            tree.snapshot.len(),
            found.len(),
            began.elapsed()
        );
        for (path, difference) in found {
            tree.stale.add(&path, difference);
        }
        let below = lower::records(&self.parents)?;
        let known = match inodes {
            Some(inodes) if !inodes.is_empty() || !below.is_empty() => Known::Inodes(inodes),
            _ => Known::Below(&below),
        };
        let path = self.trees.work.fresh("layer-");
        std::fs::create_dir(&path)?;
        let mut mover = Mover { known, records: Records::new() };
        let upper = Layer::open(&path)?;
        mover.root(&mut tree.stale, tree.root.as_fd(), upper.dir.as_fd())?;
        tree.layers.push(upper);
        Ok((path, mover.records))
    }
}

impl Mounted for WorkingTree {
    fn root(&self) -> BorrowedFd<'_> {
        self.tree().root.as_fd()
    }

    fn path(&self) -> &Path {
        &self.tree().path
    }
}

impl Workspace for WorkingTree {
    fn changes(mut self: Box<Self>, inodes: Option<&ByInode>) -> Result<Changes, RootfsError> {
        let Some(mut tree) = self.tree.take() else { unreachable!("taken only here, by value") };
        match self.collect(&mut tree, inodes) {
            Ok((upper, records)) => {
                self.trees.put(tree);
                Ok(Changes { upper: Kept::of(upper), records })
            }
            Err(e) => {
                self.trees.trash.discard(tree.path);
                Err(io_error("cannot find out what has changed")(e))
            }
        }
    }

    fn settled(&self) -> Option<(i64, u32)> {
        let after = self.tree.as_ref()?.snapshot.newest()? + 1;
        let second = 1_000_000_000;
        Some((after.div_euclid(second), u32::try_from(after.rem_euclid(second)).ok()?))
    }
}

impl Drop for WorkingTree {
    fn drop(&mut self) {
        if let Some(tree) = self.tree.take() {
            self.trees.trash.discard(tree.path);
        }
    }
}
