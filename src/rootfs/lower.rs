//! A stack of unpacked layers, read as one tree.
//!
//! The rules are those of the kernel's overlay (Documentation/filesystems/overlayfs.rst): the topmost
//! layer that has a name wins; directories of that name further down are merged with it until a layer
//! has something else there or an opaque directory; a character device 0:0 hides the name.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use cooper_runtime::record::Attributes;
use cooper_runtime::sys::fs::{self, FileKind, Stat};

use super::{LayerDir, Records};
use crate::layer::apply::{OPAQUE_XATTR, ROOT_XATTR};

/// A directory as all layers together show it.
pub struct MergedDir {
    /// The directories merged, topmost first.
    parts: Vec<Part>,
}

struct Part {
    dir: OwnedFd,
    records: Arc<Records>,
}

/// What a merged directory has under one name.
pub struct Found<'a> {
    /// Its attributes as the image has them, recorded or real.
    pub stat: Stat,
    /// What of them is on record.
    pub record: Option<&'a Attributes>,
    /// The directory of the layer that has it.
    pub dir: BorrowedFd<'a>,
    part: usize,
}

impl MergedDir {
    /// The root of a stack of layers, lowest first.
    pub fn root(layers: &[LayerDir]) -> io::Result<MergedDir> {
        let open = |l: &LayerDir| Ok(Part { dir: fs::open_dir(&l.path)?, records: l.records.clone() });
        let parts = layers.iter().rev().map(open).collect::<io::Result<Vec<_>>>()?;
        Ok(MergedDir { parts })
    }

    /// Looks a name up; `path` is the name's path from the root, for recorded owners.
    pub fn lookup(&self, name: &OsStr, path: &[u8]) -> io::Result<Option<Found<'_>>> {
        for (at, part) in self.parts.iter().enumerate() {
            match fs::try_stat_at(&part.dir, name)? {
                None => continue,
                Some(stat) if stat.is_whiteout() => return Ok(None),
                Some(mut stat) => {
                    let record = part.records.get(path);
                    if let Some(record) = record {
                        dress(&mut stat, record);
                    }
                    return Ok(Some(Found { stat, record, dir: part.dir.as_fd(), part: at }));
                }
            }
        }
        Ok(None)
    }

    /// Opens a directory that [`lookup`](Self::lookup) has found under `name`.
    pub fn open(&self, name: &OsStr, found: &Found<'_>) -> io::Result<MergedDir> {
        let mut parts = Vec::new();
        for part in &self.parts[found.part..] {
            match fs::try_stat_at(&part.dir, name)? {
                None => continue,
                Some(s) if s.kind != FileKind::Directory => break,
                Some(_) => {}
            }
            let opaque = is_opaque(part.dir.as_fd(), name)?;
            parts.push(Part { dir: fs::open_dir_at(&part.dir, name)?, records: part.records.clone() });
            if opaque {
                break;
            }
        }
        Ok(MergedDir { parts })
    }

    /// All names, sorted.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names: BTreeMap<OsString, bool> = BTreeMap::new();
        for part in &self.parts {
            for entry in fs::list(&part.dir)? {
                if names.contains_key(&entry.name) {
                    continue;
                }
                let device = matches!(entry.kind, None | Some(FileKind::CharDevice));
                let hidden = device && fs::stat_at(&part.dir, &entry.name)?.is_whiteout();
                names.insert(entry.name, hidden);
            }
        }
        Ok(names.into_iter().filter(|(_, hidden)| !hidden).map(|(name, _)| name).collect())
    }

    /// Attributes of the root directory: those of the topmost layer that speaks of it, else 0755
    /// owned by root.
    pub fn root_attributes(&self) -> io::Result<(u32, u32, u32)> {
        for part in &self.parts {
            let marked = fs::xattr_at(&part.dir, OsStr::new("."), OsStr::new(ROOT_XATTR))?.is_some();
            if marked {
                let stat = fs::stat(&part.dir)?;
                let recorded = part.records.get(&b""[..]).and_then(|r| r.owner);
                let (uid, gid) = recorded.unwrap_or((stat.uid, stat.gid));
                return Ok((stat.mode, uid, gid));
            }
        }
        Ok((0o755, 0, 0))
    }
}

/// Makes `stat` say what is on record.
pub fn dress(stat: &mut Stat, record: &Attributes) {
    if let Some((uid, gid)) = record.owner {
        (stat.uid, stat.gid) = (uid, gid);
    }
    if let Some(node) = record.node {
        stat.kind = if node.block { FileKind::BlockDevice } else { FileKind::CharDevice };
        stat.rdev = (node.major, node.minor);
        stat.size = 0;
    }
}

/// What is on record of a stack of layers, lowest first, as far as it can be seen.
pub fn records(layers: &[LayerDir]) -> io::Result<Records> {
    let mut found = Records::new();
    let paths: BTreeSet<&[u8]> = layers.iter().flat_map(|l| l.records.keys().map(Vec::as_slice)).collect();
    if paths.is_empty() {
        return Ok(found);
    }
    let root = MergedDir::root(layers)?;
    // Paths come sorted and share most of their directories, which stay open.
    let mut open: Vec<(&[u8], MergedDir)> = Vec::new();
    'paths: for path in paths {
        if path.is_empty() {
            let (_, uid, gid) = root.root_attributes()?;
            if (uid, gid) != (0, 0) {
                found.insert(Vec::new(), Attributes { owner: Some((uid, gid)), ..Attributes::default() });
            }
            continue;
        }
        let below = |dir: &[u8]| path.strip_prefix(dir).is_some_and(|rest| rest.first() == Some(&b'/'));
        while open.last().is_some_and(|(dir, _)| !below(dir)) {
            open.pop();
        }
        let mut start = open.last().map_or(0, |(dir, _)| dir.len() + 1);
        while let Some(slash) = path[start..].iter().position(|b| *b == b'/') {
            let (name, at) = (OsStr::from_bytes(&path[start..start + slash]), &path[..start + slash]);
            let dir = open.last().map_or(&root, |(_, dir)| dir);
            let next = match dir.lookup(name, at)? {
                Some(found) if found.stat.kind == FileKind::Directory => dir.open(name, &found)?,
                // Hidden by a layer above the one that has the record.
                _ => continue 'paths,
            };
            open.push((at, next));
            start += slash + 1;
        }
        let dir = open.last().map_or(&root, |(_, dir)| dir);
        if let Some(record) = dir.lookup(OsStr::from_bytes(&path[start..]), path)?.and_then(|f| f.record) {
            found.insert(path.to_vec(), record.clone());
        }
    }
    Ok(found)
}

/// Whether a directory hides what lower layers have in it.
pub fn is_opaque(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<bool> {
    Ok(fs::xattr_at(dir, name, OsStr::new(OPAQUE_XATTR))?.as_deref() == Some(b"y"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn layer(path: &Path) -> LayerDir {
        std::fs::create_dir_all(path).unwrap();
        LayerDir { path: path.to_owned(), records: Arc::default() }
    }

    fn file(layer: &LayerDir, path: &str, text: &str) {
        let path = layer.path.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn whiteout(layer: &LayerDir, name: &str) {
        let dir = fs::open_dir(&layer.path).unwrap();
        fs::make_node_at(&dir, OsStr::new(name), FileKind::CharDevice, (0, 0)).unwrap();
    }

    fn names(dir: &MergedDir) -> Vec<String> {
        dir.names().unwrap().into_iter().map(|n| n.into_string().unwrap()).collect()
    }

    #[test]
    fn upper_layers_hide_what_they_should() {
        let temp = tempfile::tempdir().unwrap();
        let (low, mid, top) =
            (layer(&temp.path().join("1")), layer(&temp.path().join("2")), layer(&temp.path().join("3")));
        file(&low, "d/low", "");
        file(&low, "gone", "");
        file(&low, "was-file", "");
        file(&mid, "d/mid", "");
        file(&mid, "was-file/inner", "");
        whiteout(&mid, "gone");
        file(&top, "d/top", "");
        let root = MergedDir::root(&[low, mid.clone(), top]).unwrap();
        assert_eq!(names(&root), ["d", "was-file"]);
        assert!(root.lookup(OsStr::new("gone"), b"gone").unwrap().is_none());
        let open = |name: &str| {
            let found = root.lookup(OsStr::new(name), name.as_bytes()).unwrap().unwrap();
            root.open(OsStr::new(name), &found).unwrap()
        };
        assert_eq!(names(&open("d")), ["low", "mid", "top"]);
        assert_eq!(names(&open("was-file")), ["inner"]);
        let mid_dir = fs::open_dir(&mid.path).unwrap();
        fs::set_xattr_at(mid_dir.as_fd(), OsStr::new("d"), OsStr::new(OPAQUE_XATTR), b"y").unwrap();
        assert_eq!(names(&open("d")), ["mid", "top"]);
    }
}
