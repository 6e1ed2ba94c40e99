//! The slow and obvious reference: reads two whole trees, and says what a layer must say.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use cooper_runtime::sys::fs::{self, FileKind};

use crate::layer::entry::{Entry, EntryKind, kept_xattr, normalise_xattr};
use crate::rootfs::describe::join;

/// All that a layer could say of a name, and which names are one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) kind: FileKind,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) mtime: i64,
    pub(super) content: Vec<u8>,
    pub(super) rdev: (u32, u32),
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The file, if it has several names.
    pub(super) file: Option<u64>,
}

/// By path; the root's is empty.
pub(super) type Tree = BTreeMap<Vec<u8>, Node>;

pub(super) fn read(root: BorrowedFd<'_>) -> Tree {
    let mut tree = Tree::new();
    tree.insert(Vec::new(), node(root, OsStr::new(".")));
    directory(root, &[], &mut tree);
    tree
}

fn directory(dir: BorrowedFd<'_>, path: &[u8], tree: &mut Tree) {
    for entry in fs::list(dir).unwrap() {
        let node = node(dir, &entry.name);
        let path = join(path, &entry.name);
        if node.kind == FileKind::Directory {
            directory(fs::open_dir_at(dir, &entry.name).unwrap().as_fd(), &path, tree);
        }
        tree.insert(path, node);
    }
}

fn node(dir: BorrowedFd<'_>, name: &OsStr) -> Node {
    let stat = fs::stat_at(dir, name).unwrap();
    let mut content = Vec::new();
    match stat.kind {
        FileKind::File => {
            fs::open_file_at(dir, name).unwrap().read_to_end(&mut content).unwrap();
        }
        FileKind::Symlink => content = fs::read_link_at(dir, name).unwrap().as_bytes().to_vec(),
        _ => {}
    }
    let xattrs = fs::xattrs_at(dir, name).unwrap().into_iter();
    let xattrs = xattrs.map(|(name, value)| (name.as_bytes().to_vec(), value));
    Node {
        kind: stat.kind,
        mode: if stat.kind == FileKind::Symlink { 0o777 } else { stat.mode },
        owner: (stat.uid, stat.gid),
        mtime: stat.mtime.sec,
        content,
        rdev: stat.rdev,
        xattrs: xattrs.filter(|(name, _)| kept_xattr(name)).collect(),
        file: (stat.nlink > 1 && stat.kind != FileKind::Directory).then_some(stat.ino),
    }
}

/// A tree as the next step must find it: without what no layer holds, and each name a file of its own.
pub(super) fn next(tree: &Tree) -> Tree {
    let kept = tree.iter().filter(|(_, node)| visible(node));
    kept.map(|(path, node)| (path.clone(), Node { file: None, ..node.clone() })).collect()
}

fn visible(node: &Node) -> bool {
    node.kind != FileKind::Socket && !(node.kind == FileKind::CharDevice && node.rdev == (0, 0))
}

/// The entries of the layer that makes `after` of `before`.
pub(super) fn layer(before: &Tree, after: &Tree) -> Vec<Entry> {
    let mut entries: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
    let mut first: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for (path, node) in after.iter().filter(|(_, node)| visible(node)) {
        let mut described = entry(path, node);
        if let Some(file) = node.file {
            let target = first.entry(file).or_insert_with(|| path.clone()).clone();
            if target != *path {
                described.kind = EntryKind::Hardlink { target };
            }
        }
        let was = before.get(path);
        let differs = if path.is_empty() {
            was.is_none_or(|was| (was.mode, was.owner) != (node.mode, node.owner))
        } else {
            was != Some(node)
        };
        if differs {
            entries.insert(path.clone(), described);
        }
    }
    for path in before.keys() {
        let (parent, _) = split(path);
        let directory = after.get(parent).is_some_and(|parent| parent.kind == FileKind::Directory);
        if directory && !after.get(path).is_some_and(visible) {
            let gone = EntryKind::Whiteout;
            let (mode, uid, gid, mtime, xattrs) = (0, 0, 0, 0, BTreeMap::new());
            entries.insert(
                path.clone(),
                Entry { path: path.clone(), kind: gone, mode, uid, gid, mtime, xattrs },
            );
        }
    }
    // Directories on the way.
    for path in entries.keys().cloned().collect::<Vec<_>>() {
        let mut way = split(&path).0;
        while !way.is_empty() {
            entries.entry(way.to_vec()).or_insert_with(|| entry(way, &after[way]));
            way = split(way).0;
        }
    }
    entries.into_values().collect()
}

fn entry(path: &[u8], node: &Node) -> Entry {
    let (major, minor) = node.rdev;
    let kind = match node.kind {
        FileKind::File => EntryKind::File { size: node.content.len() as u64 },
        FileKind::Directory => EntryKind::Directory,
        FileKind::Symlink => EntryKind::Symlink { target: node.content.clone() },
        FileKind::CharDevice => EntryKind::CharDevice { major, minor },
        FileKind::BlockDevice => EntryKind::BlockDevice { major, minor },
        FileKind::Fifo => EntryKind::Fifo,
        FileKind::Socket => unreachable!("no layer has one"),
    };
    let xattrs = node.xattrs.iter();
    let xattrs = xattrs.map(|(k, v)| (k.clone(), normalise_xattr(k, v.clone()))).collect();
    let (uid, gid) = node.owner;
    Entry { path: path.to_vec(), kind, mode: node.mode, uid, gid, mtime: node.mtime, xattrs }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}
