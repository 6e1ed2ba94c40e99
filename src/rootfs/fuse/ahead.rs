//! What fuse-overlayfs 1.10 cannot copy up as it is, copied before the program starts.
//!
//! | in a lower layer | what the program makes of it | what is done about it |
//! |---|---|---|
//! | a file with several names | a write through one name may copy up another | each name but the first gets a copy, in a layer of its own just above |
//! | a set-user-id or set-group-id directory | loses the bits | it lies in the upper directory from the start |
//! | such a file of somebody but root | loses the bits | the same |
//! | a named pipe | becomes an empty file | the same |
//!
//! What nobody then changes in the upper directory freezing takes away again. Layers never change, so
//! each is looked through once, and its copies are made once, however many steps are run on it.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use cooper_runtime::sys::fs::{self, FileKind, Stat};

use super::normalise::COPIED;
use crate::rootfs::LayerDir;
use crate::rootfs::describe::join;
use crate::rootfs::lower::MergedDir;
use crate::store::WorkDir;

const SET_ID: u32 = 0o6000;

/// The layers that were looked through so far.
#[derive(Debug, Default)]
pub(in crate::rootfs) struct Ahead {
    known: Mutex<HashMap<(u64, u64), Arc<Known>>>,
}

/// One layer.
#[derive(Debug)]
pub(super) struct Known {
    /// Open, so that its inode number names no other directory meanwhile.
    _layer: OwnedFd,
    /// Files with several names in it, each with all of them.
    pub(super) linked: Vec<Vec<Vec<u8>>>,
    /// What has to lie in the upper directory.
    upper: Vec<Vec<u8>>,
    /// A directory with the copies of linked files, to be stacked just above the layer.
    pub(super) apart: Option<PathBuf>,
}

impl Ahead {
    /// What there is about a layer. With `apart`, linked files are copied where they are not yet.
    pub(super) fn know(&self, layer: &LayerDir, work: &WorkDir, apart: bool) -> io::Result<Arc<Known>> {
        let dir = fs::open_dir(&layer.path)?;
        let stat = fs::stat(&dir)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.get(&(stat.dev, stat.ino)).cloned();
        if let Some(found) = &found
            && (!apart || found.linked.is_empty() || found.apart.is_some())
        {
            return Ok(found.clone());
        }
        let mut search = Search::default();
        search.directory(dir.as_fd(), &[], 0)?;
        let mut linked: Vec<_> = search.linked.into_values().filter(|names| names.len() > 1).collect();
        linked.iter_mut().for_each(|names| names.sort());
        let copies = if apart && !linked.is_empty() {
            let copies = work.fresh("apart-");
            std::fs::create_dir(&copies)?;
            let names = linked.iter().flat_map(|names| &names[1..]).map(Vec::as_slice).collect();
            copy(std::slice::from_ref(layer), names, |_| true, fs::open_dir(&copies)?.as_fd())?;
            Some(copies)
        } else {
            None
        };
        let found = Arc::new(Known { _layer: dir, linked, upper: search.upper, apart: copies });
        known.insert((stat.dev, stat.ino), found.clone());
        Ok(found)
    }
}

/// Puts into an empty upper directory what has to lie there. Gives the inode numbers of all of it.
pub(super) fn fill(
    upper: BorrowedFd<'_>,
    layers: &[LayerDir],
    known: &[Arc<Known>],
) -> io::Result<HashSet<u64>> {
    let paths = known.iter().flat_map(|k| &k.upper).map(Vec::as_slice).collect();
    copy(layers, paths, is_special, upper)?;
    mark(upper, &[])?;
    let mut filled = HashSet::new();
    inodes(upper, &mut filled)?;
    Ok(filled)
}

/// Marks files as the program marks its own copies: so it gives them the inode numbers of those below.
fn mark(dir: BorrowedFd<'_>, path: &[u8]) -> io::Result<()> {
    for entry in fs::list(dir)? {
        let mut path = join(path, &entry.name);
        match fs::stat_at(dir, &entry.name)?.kind {
            FileKind::Directory => mark(fs::open_dir_at(dir, &entry.name)?.as_fd(), &path)?,
            FileKind::File => {
                path.push(0);
                fs::set_xattr_at(dir, &entry.name, OsStr::new(COPIED), &path)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn inodes(dir: BorrowedFd<'_>, found: &mut HashSet<u64>) -> io::Result<()> {
    for entry in fs::list(dir)? {
        let stat = fs::stat_at(dir, &entry.name)?;
        found.insert(stat.ino);
        if stat.kind == FileKind::Directory {
            inodes(fs::open_dir_at(dir, &entry.name)?.as_fd(), found)?;
        }
    }
    Ok(())
}

/// Whether the program cannot copy it up as it is.
fn is_special(stat: &Stat) -> bool {
    match stat.kind {
        FileKind::Directory => stat.mode & SET_ID != 0,
        // Making somebody the owner of a file takes the bits away.
        FileKind::File => stat.mode & SET_ID != 0 && (stat.uid, stat.gid) != (0, 0),
        FileKind::Fifo => true,
        _ => false,
    }
}

#[derive(Default)]
struct Search {
    linked: HashMap<u64, Vec<Vec<u8>>>,
    upper: Vec<Vec<u8>>,
}

impl Search {
    fn directory(&mut self, dir: BorrowedFd<'_>, path: &[u8], depth: usize) -> io::Result<()> {
        fs::check_depth(depth)?;
        for entry in fs::list(dir)? {
            if matches!(entry.kind, Some(FileKind::Symlink | FileKind::CharDevice | FileKind::BlockDevice)) {
                continue;
            }
            let stat = fs::stat_at(dir, &entry.name)?;
            let path = join(path, &entry.name);
            if stat.kind == FileKind::Directory {
                match fs::open_dir_at(dir, &entry.name) {
                    Ok(inner) => self.directory(inner.as_fd(), &path, depth + 1)?,
                    // What is stacked on may be a directory of the user's, and nobody can write there.
                    Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
                    Err(e) => return Err(e),
                }
            } else if stat.kind == FileKind::File && stat.nlink > 1 {
                self.linked.entry(stat.ino).or_default().push(path.clone());
            }
            if is_special(&stat) {
                self.upper.push(path);
            }
        }
        Ok(())
    }
}

/// Copies what `layers`, lowest first, show at these paths, if it is such as is `wanted`, with the
/// directories on the way to it.
fn copy(
    layers: &[LayerDir],
    mut paths: Vec<&[u8]>,
    wanted: impl Fn(&Stat) -> bool,
    to: BorrowedFd<'_>,
) -> io::Result<()> {
    if paths.is_empty() {
        return Ok(());
    }
    paths.sort_unstable();
    paths.dedup();
    let root = MergedDir::root(layers)?;
    for path in paths {
        copy_one(&root, path, &wanted, to)?;
    }
    // What was made in a directory has touched it.
    times(&root, to, &[])
}

fn copy_one(
    root: &MergedDir,
    path: &[u8],
    wanted: &impl Fn(&Stat) -> bool,
    to: BorrowedFd<'_>,
) -> io::Result<()> {
    // First whether it can be seen at all: directories that lead nowhere would be in the way of nothing, but
    // cost time.
    let components: Vec<&OsStr> = path.split(|b| *b == b'/').map(OsStr::from_bytes).collect();
    let mut way: Vec<MergedDir> = Vec::new();
    let (last, parents) = match components.split_last() {
        Some(split) => split,
        None => return Ok(()),
    };
    let mut at = Vec::new();
    for name in parents {
        let dir = way.last().unwrap_or(root);
        at = join(&at, name);
        match dir.lookup(name, &at)? {
            Some(found) if found.stat.kind == FileKind::Directory => {
                let next = dir.open(name, &found)?;
                way.push(next);
            }
            _ => return Ok(()),
        }
    }
    let dir = way.last().unwrap_or(root);
    let Some(found) = dir.lookup(last, path)? else { return Ok(()) };
    if !wanted(&fs::stat_at(found.dir, last)?) {
        return Ok(());
    }
    let mut made: Option<OwnedFd> = None;
    let mut at = Vec::new();
    for (level, name) in parents.iter().enumerate() {
        let dir = if level == 0 { root } else { &way[level - 1] };
        at = join(&at, name);
        let Some(found) = dir.lookup(name, &at)? else { return Ok(()) };
        let here = made.as_ref().map_or(to, AsFd::as_fd);
        make(found.dir, name, here)?;
        made = Some(fs::open_dir_at(here, name)?);
    }
    make(found.dir, last, made.as_ref().map_or(to, AsFd::as_fd))
}

/// Makes in `to` what `from` has under `name`, if it is not there yet; of directories nothing that is in
/// them.
fn make(from: BorrowedFd<'_>, name: &OsStr, to: BorrowedFd<'_>) -> io::Result<()> {
    if fs::try_stat_at(to, name)?.is_some() {
        return Ok(());
    }
    let stat = fs::stat_at(from, name)?;
    match stat.kind {
        FileKind::Directory => fs::make_dir_at(to, name, 0o700)?,
        FileKind::File => {
            fs::copy_contents(&fs::open_file_at(from, name)?, &fs::create_file_at(to, name)?)?;
        }
        _ => fs::make_node_at(to, name, stat.kind, stat.rdev)?,
    }
    let now = fs::stat_at(to, name)?;
    if (now.uid, now.gid) != (stat.uid, stat.gid) {
        fs::chown_at(to, name, stat.uid, stat.gid)?;
    }
    for (attr, value) in fs::xattrs_at(from, name)? {
        // What is noted about a layer's directory is true of that layer only.
        if !attr.as_bytes().starts_with(b"user.overlay.") && !attr.as_bytes().starts_with(b"user.cooper.") {
            fs::set_xattr_at(to, name, &attr, &value)?;
        }
    }
    fs::chmod_at(to, name, stat.mode)?;
    fs::set_mtime_at(to, name, stat.mtime)
}

/// Gives all directories below `to` the times that they have in `merged`.
fn times(merged: &MergedDir, to: BorrowedFd<'_>, path: &[u8]) -> io::Result<()> {
    for entry in fs::list(to)? {
        let path = join(path, &entry.name);
        let Some(found) = merged.lookup(&entry.name, &path)? else { continue };
        if fs::stat_at(to, &entry.name)?.kind == FileKind::Directory {
            let inner = fs::open_dir_at(to, &entry.name)?;
            times(&merged.open(&entry.name, &found)?, inner.as_fd(), &path)?;
            fs::set_mtime_at(to, &entry.name, found.stat.mtime)?;
        }
    }
    Ok(())
}
