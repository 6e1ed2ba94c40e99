//! What a layer says of a name, as it lies on the disk.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use cooper_runtime::record::Attributes;
use cooper_runtime::sys::fs::{self, FileKind, Stat};

use crate::layer::entry::{Entry, EntryKind, kept_xattr, normalise_xattr};

/// The layer entry of one name, as it stands; `stat` says already what is on record.
pub(crate) fn describe(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    stat: &Stat,
    record: Option<&Attributes>,
    path: Vec<u8>,
) -> io::Result<Entry> {
    describe_with(dir, name, stat, record, path, &fs::xattr_names_at(dir, name)?)
}

/// The same of a name whose extended attributes are called `names`.
pub(super) fn describe_with(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    stat: &Stat,
    record: Option<&Attributes>,
    path: Vec<u8>,
    names: &[OsString],
) -> io::Result<Entry> {
    let kind = match stat.kind {
        FileKind::Directory => EntryKind::Directory,
        FileKind::File => EntryKind::File { size: stat.size },
        FileKind::Symlink => EntryKind::Symlink { target: fs::read_link_at(dir, name)?.as_bytes().to_vec() },
        FileKind::CharDevice => EntryKind::CharDevice { major: stat.rdev.0, minor: stat.rdev.1 },
        FileKind::BlockDevice => EntryKind::BlockDevice { major: stat.rdev.0, minor: stat.rdev.1 },
        FileKind::Fifo => EntryKind::Fifo,
        FileKind::Socket => return Err(io::Error::from(io::ErrorKind::InvalidInput)),
    };
    let mut xattrs = BTreeMap::new();
    for attr in names.iter().filter(|attr| kept_xattr(attr.as_bytes())) {
        // A value that is gone between the two calls is not an attribute we can speak of.
        if let Some(value) = fs::xattr_at(dir, name, attr)? {
            xattrs.insert(attr.as_bytes().to_vec(), normalise_xattr(attr.as_bytes(), value));
        }
    }
    xattrs.extend(record.iter().flat_map(|r| r.xattrs.clone()));
    let mode = if stat.kind == FileKind::Symlink { 0o777 } else { stat.mode };
    Ok(Entry { path, kind, mode, uid: stat.uid, gid: stat.gid, mtime: stat.mtime.sec, xattrs })
}

/// Whether an attribute is bookkeeping: the kernel's, which would mean something else in another stack, or
/// one named like ours, which a step may have set. No layer speaks of either, so two layers with one diff
/// ID could differ in them.
pub(super) fn is_bookkeeping(attr: &OsStr) -> bool {
    let attr = attr.as_bytes();
    attr.starts_with(b"user.overlay.") || attr.starts_with(b"user.cooper.")
}

/// A path from the root, one name longer.
pub(crate) fn join(path: &[u8], name: &OsStr) -> Vec<u8> {
    let mut joined = path.to_vec();
    if !joined.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name.as_bytes());
    joined
}
