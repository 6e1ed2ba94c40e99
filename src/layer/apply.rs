//! A tar → a directory that the kernel's overlay takes as a lower layer.
//!
//! What is written is the layer alone, in the form that overlay mounted with `userxattr` reads:
//! a whiteout is a character device 0:0, an opaque directory has `user.overlay.opaque` = `y`. A root
//! entry in the tar sets the attributes of the destination and marks it with `user.cooper.root` = `1`,
//! as a layer without one says nothing of the root. The destination should be empty and nobody else's
//! while this works.
//!
//! **Names.** A leading `/` and `.` are dropped, `..` is refused. Where a parent is a symbolic link, it
//! is followed as it would be in a container: inside the root. The last name is never followed. All of
//! this goes by descriptors, one name at a time (the `tree` module), so no link reaches outside.
//!
//! **Order.** Of two entries with one name the later wins, except that a directory keeps what is in it.
//! A whiteout takes away what lower layers have and never what this layer adds, in whichever order they
//! come: beside a whiteout a file stays, and a directory becomes opaque.
//!
//! **What only lower layers know.** An entry whose parent is in no entry before it, or a hardlink whose
//! target is not: the caller hands in what lies below as a [`ParentTree`], or gets
//! [`ApplyError::NeedsParents`] and may start again with one. Without anything below the parent is made:
//! mode 0755, owner 0:0, time 0.
//!
//! **Left out**: extended attributes that layers do not keep ([`kept_xattr`]), all those of symbolic links
//! and the `user.*` ones of devices and FIFOs (Linux has no place for them), AUFS's own names
//! (`.wh..wh.*`), and what a hardlink entry says beside its target.

mod content;
mod place;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use cooper_runtime::record::Attributes;
use cooper_runtime::sys::fs::{self, FileKind, Time};

use super::entry::{AUFS_PREFIX, Entry, EntryKind, OPAQUE_MARKER, WHITEOUT_PREFIX, kept_xattr};
use super::read::{RawEntry, TarError, TarReader};
pub(crate) use content::fill;
use tree::Tree;

/// The extended attribute that makes a directory hide what lies below it.
pub const OPAQUE_XATTR: &str = "user.overlay.opaque";
/// The extended attribute of a layer whose tar has an entry for the root.
pub const ROOT_XATTR: &str = "user.cooper.root";

/// More directories in one another than any program can use (a path is at most 4096 bytes).
const MAX_DEPTH: usize = 2048;
/// As many as Linux follows.
const MAX_LINKS: usize = 40;

/// How a layer is applied.
#[derive(Clone, Copy)]
pub struct ApplyOptions<'a> {
    /// What is done about owners and devices.
    pub owners: Owners,
    /// What lies below, if that is known.
    pub parents: Option<&'a dyn ParentTree>,
    /// The most entries the tar may have.
    pub max_entries: Option<u64>,
    /// The most bytes of file contents it may have.
    pub max_bytes: Option<u64>,
}

impl Default for ApplyOptions<'_> {
    /// Makes owners, knows nothing of what lies below, and sets no bounds.
    fn default() -> Self {
        Self { owners: Owners::Make, parents: None, max_entries: None, max_bytes: None }
    }
}

/// What is done about owners and devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Files get those that the id map has: for root, or root over a range of ids.
    Make,
    /// Files keep ours, and [`Applied`] says what they ought to be: for a single id.
    Record,
}

/// The file system that a layer is put upon, links in it not followed: a path is always one of real
/// directories and a last name.
pub trait ParentTree {
    /// What `path` (in the form of [`Entry::path`]) is, or `None`.
    fn lookup(&self, path: &[u8]) -> io::Result<Option<Entry>>;

    /// Opens the regular file at `path`.
    fn open(&self, path: &[u8]) -> io::Result<File>;
}

/// Below the lowest layer there is nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoParents;

impl ParentTree for NoParents {
    fn lookup(&self, _: &[u8]) -> io::Result<Option<Entry>> {
        Ok(None)
    }

    fn open(&self, _: &[u8]) -> io::Result<File> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// What came of it. Paths are in the form of [`Entry::path`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// What could not be made, and is to be remembered: with [`Owners::Record`] all owners but 0:0, all
    /// devices, and extended attributes that the kernel did not let us set; else what the kernel refuses,
    /// which are devices, ids outside the map, and attributes that name such ids.
    pub records: BTreeMap<Vec<u8>, Attributes>,
    /// The latest modification time of any entry.
    pub newest_mtime: Option<i64>,
    /// Entries in the tar.
    pub entries: u64,
    /// Bytes of file contents, holes of sparse files not counted.
    pub bytes: u64,
    /// Whether the root hides all that lies below. Overlay does not look for that at a root, so the
    /// caller leaves out the layers below.
    pub opaque_root: bool,
    /// Whether the tar ended as a tar should. If not, only a digest can tell that it is whole.
    pub end_marker: bool,
}

/// Why a layer cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The tar cannot be read.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// The file system refused.
    #[error("cannot {action} {}: {source}", show(path))]
    Io {
        /// What.
        path: Vec<u8>,
        /// Which operation.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The name has a `..` in it.
    #[error("layer entry {} has a `..` in its name or link target, which could lead outside the image", show(.0))]
    DotDot(Vec<u8>),
    /// Too many directories in one another.
    #[error("layer entry {} is more than {MAX_DEPTH} directories deep", show(.0))]
    TooDeep(Vec<u8>),
    /// An entry that would put something else in place of the root.
    #[error("layer entry {} names the image's root and is no directory", show(.0))]
    Root(Vec<u8>),
    /// Something on the way is no directory.
    #[error("layer entry {} lies below {}, which is no directory", show(path), show(parent))]
    NotADirectory {
        /// The entry.
        path: Vec<u8>,
        /// What is no directory.
        parent: Vec<u8>,
    },
    /// Links that lead to one another.
    #[error("layer entry {} lies behind more than {MAX_LINKS} symbolic links", show(.0))]
    Links(Vec<u8>),
    /// A whiteout that names nothing a directory can hold.
    #[error("layer entry {} is a whiteout of no name", show(.0))]
    Whiteout(Vec<u8>),
    /// A hardlink to what cannot have two names, or is not there.
    #[error("layer entry {} is a hardlink to {}, which is {found}", show(path), show(target))]
    Hardlink {
        /// The entry.
        path: Vec<u8>,
        /// Its target.
        target: Vec<u8>,
        /// What the target is.
        found: &'static str,
    },
    /// An extended attribute that cannot be set.
    #[error("cannot set the extended attribute {} of {}: {source}", name.escape_ascii(), show(path))]
    Xattr {
        /// The entry.
        path: Vec<u8>,
        /// The attribute.
        name: Vec<u8>,
        /// Why.
        source: io::Error,
    },
    /// The layer relies on a lower one: apply it again with [`ApplyOptions::parents`].
    #[error("this layer cannot be applied by itself: {} is in a layer below", show(path))]
    NeedsParents {
        /// What this layer has not.
        path: Vec<u8>,
    },
    /// The layers below could not be looked at.
    #[error("cannot look up {} in the layers below: {source}", show(path))]
    Parents {
        /// What was asked for.
        path: Vec<u8>,
        /// Why.
        source: io::Error,
    },
    /// More entries than allowed.
    #[error("the layer has more than {0} entries, which is the limit")]
    TooManyEntries(u64),
    /// More bytes than allowed.
    #[error("the files of the layer have more than {0} bytes, which is the limit")]
    TooLarge(u64),
}

/// Says of a name that it is gone, the way the kernel's overlay does: anybody may make such a device node
/// (Linux 5.8).
///
/// # Errors
/// As of `mknod(2)`. An overlay refuses it, since it would be gone there itself.
pub(crate) fn make_whiteout(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    fs::make_node_at(dir, name, FileKind::CharDevice, (0, 0)).map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => io::Error::new(
            e.kind(),
            "the store lies on an overlay, which cannot hold what layers that delete something need; --root DIR \
             puts the store elsewhere, for example on a volume or a tmpfs",
        ),
        _ => e,
    })
}

fn show(path: &[u8]) -> String {
    format!("`/{}`", path.strip_prefix(b"/").unwrap_or(path).escape_ascii())
}

/// Unpacks the layer that `tar` yields, uncompressed, into `dest`, and reads `tar` to its end.
///
/// After an error `dest` holds a part of the layer and is to be thrown away.
pub fn apply<R: Read>(
    tar: R,
    dest: BorrowedFd<'_>,
    options: &ApplyOptions<'_>,
) -> Result<Applied, ApplyError> {
    let mut reader = TarReader::new(tar);
    let mut applier = Applier {
        options: *options,
        tree: Tree::new(dest),
        dirs: BTreeMap::new(),
        whiteouts: BTreeSet::new(),
        birth_owner: None,
        buffer: vec![0; 128 * 1024],
        out: Applied::default(),
    };
    while let Some(entry) = reader.next()? {
        applier.count(&entry)?;
        applier.entry(entry, &mut reader)?;
    }
    applier.out.end_marker = reader.end_marker() == Some(true);
    // Behind the end lie padding and the compressor's checksum.
    reader.drain().map_err(TarError::Io)?;
    applier.finish()?;
    Ok(applier.out)
}

/// Attributes of a directory, which it gets at the end: filling it would change its time, and its mode
/// may forbid us to.
#[derive(Debug, Clone)]
struct Dir {
    mode: u32,
    owner: (u32, u32),
    mtime: Time,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    opaque: bool,
}

impl Dir {
    const IMPLIED: Self = Self {
        mode: 0o755,
        owner: (0, 0),
        mtime: Time { sec: 0, nsec: 0 },
        xattrs: BTreeMap::new(),
        opaque: false,
    };
}

struct Applier<'a> {
    options: ApplyOptions<'a>,
    tree: Tree<'a>,
    /// Every directory there is, by its path; the root if it has an entry.
    dirs: BTreeMap<Vec<u8>, Dir>,
    whiteouts: BTreeSet<Vec<u8>>,
    /// Whom files belong to that we make. All directories keep that owner until the end, so that it is
    /// the same for all, setgid directories and `grpid` mounts included.
    birth_owner: Option<(u32, u32)>,
    buffer: Vec<u8>,
    out: Applied,
}

impl Applier<'_> {
    fn count(&mut self, entry: &RawEntry) -> Result<(), ApplyError> {
        self.out.entries += 1;
        if let Some(max) = self.options.max_entries.filter(|max| self.out.entries > *max) {
            return Err(ApplyError::TooManyEntries(max));
        }
        if let EntryKind::File { size } = entry.kind {
            let stored = match &entry.extents {
                Some(extents) => extents.iter().map(|e| e.length).sum(),
                None => size,
            };
            self.out.bytes = self.out.bytes.saturating_add(stored);
            if let Some(max) = self.options.max_bytes.filter(|max| self.out.bytes > *max) {
                return Err(ApplyError::TooLarge(max));
            }
        }
        Ok(())
    }

    fn entry<R: Read>(&mut self, entry: RawEntry, content: &mut TarReader<R>) -> Result<(), ApplyError> {
        let names = names(&entry.path, &entry.path)?;
        let Some((name, parents)) = names.split_last() else {
            return self.root(&entry);
        };
        if let Some(hidden) = parents.iter().find(|name| name.starts_with(WHITEOUT_PREFIX)) {
            return match hidden.starts_with(AUFS_PREFIX) {
                true => Ok(()),
                false => Err(ApplyError::Whiteout(entry.path.clone())),
            };
        }
        if *name == OPAQUE_MARKER {
            let depth = self.parent(parents, &entry.path)?;
            self.make_opaque(depth);
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) {
            if name.starts_with(AUFS_PREFIX) {
                return Ok(());
            }
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(ApplyError::Whiteout(entry.path.clone()));
            }
            let depth = self.parent(parents, &entry.path)?;
            return self.whiteout(depth, hidden);
        }
        if let EntryKind::CharDevice { major: 0, minor: 0 } = entry.kind {
            // What overlay itself writes; in a layer it would be one anyway.
            let depth = self.parent(parents, &entry.path)?;
            return self.whiteout(depth, name);
        }
        self.out.newest_mtime = self.out.newest_mtime.max(Some(entry.mtime.sec));
        if let EntryKind::Hardlink { target } = &entry.kind {
            return self.hardlink(&entry.path, parents, name, target);
        }
        let depth = self.parent(parents, &entry.path)?;
        match &entry.kind {
            EntryKind::Directory => self.directory(depth, name, &entry),
            EntryKind::File { size } => self.file(depth, name, &entry, *size, content),
            EntryKind::Symlink { target } => self.symlink(depth, name, &entry, target),
            _ => self.node(depth, name, &entry),
        }
    }

    fn root(&mut self, entry: &RawEntry) -> Result<(), ApplyError> {
        if entry.kind != EntryKind::Directory {
            return Err(ApplyError::Root(entry.path.clone()));
        }
        self.out.newest_mtime = self.out.newest_mtime.max(Some(entry.mtime.sec));
        self.dirs.insert(Vec::new(), dir_of(entry));
        Ok(())
    }

    /// Steps to the directory that an entry lies in, following links inside the root and making what is
    /// missing; gives its depth.
    fn parent(&mut self, names: &[&[u8]], entry: &[u8]) -> Result<usize, ApplyError> {
        let mut depth = 0;
        while depth < names.len() && self.tree.is_next(depth, names[depth]) {
            depth += 1;
        }
        // What is still to be walked, the next name last; links put theirs on top.
        let mut ahead: Vec<Vec<u8>> = names[depth..].iter().rev().map(|name| name.to_vec()).collect();
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            if name == b".." {
                depth = depth.saturating_sub(1);
                continue;
            }
            if depth >= MAX_DEPTH {
                return Err(ApplyError::TooDeep(entry.to_vec()));
            }
            match self.step(depth, &name, entry)? {
                Step::Into => depth += 1,
                Step::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(ApplyError::Links(entry.to_vec()));
                    }
                    if target.starts_with(b"/") {
                        depth = 0;
                    }
                    ahead.extend(components(&target).rev().map(<[u8]>::to_vec));
                }
            }
        }
        Ok(depth)
    }

    /// Whether this layer itself hides what lower layers have in the directory at `depth`.
    fn covered(&self, depth: usize) -> bool {
        if self.out.opaque_root {
            return true;
        }
        (1..=depth).any(|d| {
            let mut path = self.tree.path(d, b"");
            path.pop();
            self.dirs.get(&path).is_some_and(|dir| dir.opaque)
        })
    }

    /// What lower layers have under `name` in the directory at `depth`.
    fn below(&self, depth: usize, name: &[u8]) -> Result<Option<Entry>, ApplyError> {
        if self.covered(depth) {
            return Ok(None);
        }
        let path = self.tree.path(depth, name);
        match self.options.parents {
            Some(parents) => parents.lookup(&path).map_err(|source| ApplyError::Parents { path, source }),
            None => Err(ApplyError::NeedsParents { path }),
        }
    }
}

enum Step {
    Into,
    Link(Vec<u8>),
}

fn dir_of(entry: &RawEntry) -> Dir {
    Dir {
        mode: entry.mode,
        owner: (entry.uid, entry.gid),
        mtime: entry.mtime,
        xattrs: entry.xattrs.clone(),
        opaque: false,
    }
}

/// The names that a path is made of, without the empty ones and `.`.
fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|name| !matches!(*name, b"" | b"."))
}

/// The same for a path that must not go upwards.
fn names<'p>(path: &'p [u8], entry: &[u8]) -> Result<Vec<&'p [u8]>, ApplyError> {
    let mut names = Vec::new();
    for name in components(path) {
        if name == b".." {
            return Err(ApplyError::DotDot(entry.to_vec()));
        }
        names.push(name);
    }
    if names.len() > MAX_DEPTH {
        return Err(ApplyError::TooDeep(entry.to_vec()));
    }
    Ok(names)
}
