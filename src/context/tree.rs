//! A directory that may be copied from.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use cooper_runtime::sys::fs::{self, DirEntry, FileKind};

use super::directory::IgnoreRules;

/// A directory that may be copied from: a build context, less what its ignore file leaves out, or the
/// root of a stage or an image. Cheap to clone; clones share the descriptor.
#[derive(Debug, Clone)]
pub struct SourceTree(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: OwnedFd,
    name: String,
    /// `None` for stages and images.
    ignore: Option<IgnoreRules>,
}

impl SourceTree {
    /// A build context. `name` is how messages call it: `the build context /src`.
    pub fn context(root: OwnedFd, name: impl Into<String>, ignore: IgnoreRules) -> SourceTree {
        SourceTree(Arc::new(Inner { root, name: name.into(), ignore: Some(ignore) }))
    }

    /// The root file system of a stage or an image. `name` is how messages call it.
    pub fn image(root: OwnedFd, name: impl Into<String>) -> SourceTree {
        SourceTree(Arc::new(Inner { root, name: name.into(), ignore: None }))
    }

    /// The root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.0.root.as_fd()
    }

    /// How messages call the tree.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether this is a build context, and not the root of a stage or image.
    pub fn is_context(&self) -> bool {
        self.0.ignore.is_some()
    }

    /// Whether both are the same open directory.
    pub fn is(&self, other: &SourceTree) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What is left out, where anything is.
    pub fn ignore(&self) -> Option<&IgnoreRules> {
        self.0.ignore.as_ref().filter(|rules| !rules.patterns().is_empty())
    }

    /// Whether what lies at `path` does not belong to the tree. A directory that is left out belongs to
    /// it all the same when something below may have been brought back.
    pub(super) fn hides(&self, path: &[u8], kind: FileKind) -> bool {
        self.ignore().is_some_and(|rules| match kind {
            FileKind::Directory => !rules.patterns().may_descend(path),
            _ => rules.patterns().matches(path),
        })
    }
}

/// `a` and `b` with a slash between, if both are there.
pub fn join(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(a.len() + 1 + b.len());
    path.extend_from_slice(a);
    if !a.is_empty() && !b.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(b);
    path
}

/// The directory part and the name of a path; the root is `.` in itself.
pub fn split(path: &[u8]) -> (&[u8], &OsStr) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], OsStr::from_bytes(&path[slash + 1..])),
        None if path.is_empty() => (path, OsStr::new(".")),
        None => (&[], OsStr::from_bytes(path)),
    }
}

/// As many directories as a cursor holds open.
const OPEN_LIMIT: usize = 64;

/// Opens directories below a root, name by name and through no link.
///
/// Directories on the way to the last one stay open, so that a walk in order of the tree opens each
/// once. They are counted, though: a tree may be deeper than a process may have descriptors.
#[derive(Debug)]
pub struct Cursor<'a> {
    root: BorrowedFd<'a>,
    /// Names from the root to the current directory, each with its descriptor unless that was given up.
    chain: Vec<(Box<[u8]>, Option<OwnedFd>)>,
}

impl<'a> Cursor<'a> {
    /// A cursor that stands at `root`.
    pub fn new(root: BorrowedFd<'a>) -> Cursor<'a> {
        Cursor { root, chain: Vec::new() }
    }

    /// The directory at `path`: names with slashes between, no `.` or `..`; empty for the root.
    ///
    /// # Errors
    /// When one of the names is missing, a link, or otherwise no directory.
    pub fn dir(&mut self, path: &[u8]) -> io::Result<BorrowedFd<'_>> {
        let names = || path.split(|b| *b == b'/').filter(|name| !name.is_empty());
        let same = names().zip(&self.chain).take_while(|(name, (own, _))| **name == **own).count();
        self.chain.truncate(same);
        if self.chain.last().is_some_and(|(_, fd)| fd.is_none()) {
            self.chain.clear();
        }
        for name in names().skip(self.chain.len()) {
            let next = fs::open_dir_at(self.here(), OsStr::from_bytes(name))?;
            if let Some(old) = self.chain.len().checked_sub(OPEN_LIMIT) {
                self.chain[old].1 = None;
            }
            self.chain.push((name.into(), Some(next)));
        }
        Ok(self.here())
    }

    /// The directory that `path` lies in, and its name there.
    ///
    /// # Errors
    /// As for [`dir`](Cursor::dir).
    pub fn parent<'p>(&mut self, path: &'p [u8]) -> io::Result<(BorrowedFd<'_>, &'p OsStr)> {
        let (dir, name) = split(path);
        Ok((self.dir(dir)?, name))
    }

    /// The names in the directory at `path`, in the file system's order.
    ///
    /// # Errors
    /// As for [`dir`](Cursor::dir), and what reading it says.
    pub fn list(&mut self, path: &[u8]) -> io::Result<Vec<DirEntry>> {
        self.dir(path)?;
        match self.chain.last() {
            // Nobody else reads with a descriptor that the cursor has opened.
            Some((_, Some(own))) => fs::list_own(own),
            _ => fs::list(self.root),
        }
    }

    fn here(&self) -> BorrowedFd<'_> {
        match self.chain.last() {
            Some((_, Some(fd))) => fd.as_fd(),
            _ => self.root,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_finds_its_way_in_a_tree_deeper_than_it_holds_open() {
        let dir = tempfile::tempdir().unwrap();
        let deep = vec!["d"; 200].join("/");
        std::fs::create_dir_all(dir.path().join(&deep)).unwrap();
        std::fs::create_dir(dir.path().join("d/d/e")).unwrap();
        let root = fs::open_dir(dir.path()).unwrap();
        let inode = |path: &str| {
            use std::os::unix::fs::MetadataExt;
            std::fs::metadata(dir.path().join(path)).unwrap().ino()
        };
        let mut cursor = Cursor::new(root.as_fd());
        let middle = vec!["d"; 100].join("/");
        for path in [&deep, "d/d/e", "", "d/d", &deep, &middle, &deep] {
            let fd = cursor.dir(path.as_bytes()).unwrap();
            assert_eq!(fs::stat(fd).unwrap().ino, inode(path));
            assert!(cursor.chain.iter().filter(|(_, fd)| fd.is_some()).count() <= OPEN_LIMIT);
        }
    }

    #[test]
    fn a_cursor_goes_through_no_link() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("out")).unwrap();
        let root = fs::open_dir(dir.path()).unwrap();
        assert!(Cursor::new(root.as_fd()).dir(b"out/etc").is_err());
    }
}
