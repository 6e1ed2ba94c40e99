//! A tar → a directory, as the plain user, before there are any namespaces.
//!
//! For contexts that come as an archive. Unlike a layer ([`crate::layer::apply`]) a context has no owners,
//! no whiteouts and nothing below it. What is left of an entry: its name, type, content, mode, time, and
//! which names are one file.
//!
//! **Names.** A leading `/` and `.` are dropped, and `..` is refused. Parents that are symbolic links are
//! followed inside the directory, wherever they point; the last name is never followed. Hard links lead
//! to what is in the archive, by the same rules. All goes by descriptors, so nothing reaches outside.
//!
//! **Order.** A later entry replaces an earlier one of the same name, whatever the two are; only a directory
//! stays when a directory comes.
//!
//! **Differences to the archive**, each with a note: devices are left out, as nobody but root can make
//! them; and what its owner may not read can be read afterwards, as this user has to.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use cooper_runtime::in_root::{self, Place, Walk};
use cooper_runtime::sys::fs::{self, FileKind, Time};

use crate::layer::decompress::any_decompressor;
use crate::layer::entry::EntryKind;
use crate::layer::read::{RawEntry, TarError, TarReader};

/// More files than any honest context has.
const MAX_ENTRIES: u64 = 10_000_000;
/// From here on the archive is asked how large it was when it was compressed.
const BOMB_SIZE: u64 = if cfg!(test) { 16 << 20 } else { 1 << 30 };
/// Deflate makes at most 1032 bytes of one.
const BOMB_RATIO: u64 = 2000;
/// The bytes that [`is_archive`] wants to see.
pub const HEAD: usize = 512;

/// An archive that cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// No tar.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A name that leads out.
    #[error("the archive has an entry `{0}`, which is outside of it")]
    Outside(String),
    /// A hard link to nothing, or to a directory.
    #[error("the archive has a hard link `{path}` to `{target}`, {reason}")]
    Link {
        /// The entry.
        path: String,
        /// What it shall be.
        target: String,
        /// Why it cannot.
        reason: &'static str,
    },
    /// More entries than anybody needs.
    #[error("the archive has more than {MAX_ENTRIES} entries")]
    Entries,
    /// A file operation failed.
    #[error("cannot unpack `{path}`: {source}")]
    Entry {
        /// The entry.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// Whether something that begins so is an archive: compressed, or a tar. [`HEAD`] bytes are enough.
pub fn is_archive(head: &[u8]) -> bool {
    match head {
        [0x1f, 0x8b, 8, ..] | [b'B', b'Z', b'h', b'1'..=b'9', ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => true,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => true,
        _ => head.get(..HEAD).is_some_and(is_tar_header),
    }
}

/// A header whose checksum is right, or the end of a tar.
fn is_tar_header(block: &[u8]) -> bool {
    if block.iter().all(|byte| *byte == 0) {
        return true;
    }
    let digits = block[148..156].trim_ascii_start();
    let digits = digits.split(|b| !b.is_ascii_digit()).next().unwrap_or_default();
    let said = std::str::from_utf8(digits).ok().and_then(|text| u32::from_str_radix(text, 8).ok());
    let sum = |range: &[u8]| range.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    said == Some(sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..]))
}

/// Unpacks an archive, however it is compressed, into the directory `into`, which should be empty and
/// nobody else's. Gives notes for the user on what is not as in the archive.
///
/// # Errors
/// When it is damaged, wants to write outside, or cannot be written. What is there by then stays.
pub fn unpack(archive: impl Read, into: &Path) -> Result<Vec<String>, UnpackError> {
    let root = fs::open_dir(into)
        .map_err(|source| UnpackError::Entry { path: into.display().to_string(), source })?;
    let read = Rc::new(Cell::new(0));
    let archive = Counted { input: archive, read: read.clone() };
    let unpacked = any_decompressor(archive).map_err(TarError::Io)?;
    let mut tar = TarReader::new(Guarded { input: unpacked, read, passed: 0 });
    let mut target = Target { root, directories: BTreeMap::new(), devices: Vec::new(), opened_up: 0 };
    let mut entries = 0;
    while let Some(entry) = tar.next()? {
        entries += 1;
        if entries > MAX_ENTRIES {
            return Err(UnpackError::Entries);
        }
        target.entry(&entry, &mut tar)?;
    }
    if entries == 0 && tar.end_marker() != Some(true) {
        return Err(TarError::Truncated("nothing").into());
    }
    tar.drain().map_err(TarError::Io)?;
    target.finish()
}

struct Target {
    root: OwnedFd,
    /// Mode and time that directories get when nothing is written into them any more.
    directories: BTreeMap<Vec<u8>, (u32, Time)>,
    devices: Vec<String>,
    opened_up: usize,
}

impl Target {
    fn entry(&mut self, entry: &RawEntry, tar: &mut TarReader<impl Read>) -> Result<(), UnpackError> {
        let path = self.clean(&entry.path)?;
        if path.is_empty() {
            // Only a directory can be the root; its mode is that of every context's root.
            self.directories.insert(path, (0o755, entry.mtime));
            return Ok(());
        }
        self.place(&path, entry, tar).map_err(|e| match e {
            PlaceError::Io(source) => UnpackError::Entry { path: shown(&entry.path), source },
            PlaceError::Unpack(e) => e,
        })
    }

    fn place(
        &mut self,
        path: &[u8],
        entry: &RawEntry,
        tar: &mut TarReader<impl Read>,
    ) -> Result<(), PlaceError> {
        if let EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. } = entry.kind {
            self.devices.push(shown(path));
            return Ok(());
        }
        let place = self.find(path, true)?;
        if place.path.is_empty() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory).into());
        }
        if let EntryKind::Hardlink { target } = &entry.kind {
            return self.hard_link(place, entry, target);
        }
        let directory = entry.kind == EntryKind::Directory;
        match place.stat {
            Some(stat) if directory && stat.kind == FileKind::Directory => {}
            Some(_) => {
                self.remove(&place)?;
                if directory {
                    fs::make_dir_at(&place.dir, &place.name, 0o700)?;
                }
            }
            None if directory => fs::make_dir_at(&place.dir, &place.name, 0o700)?,
            None => {}
        }
        let Place { dir, name, path, .. } = place;
        match &entry.kind {
            EntryKind::Directory => {
                let mode = self.readable(entry.mode, 0o500);
                self.directories.insert(path, (mode, entry.mtime));
                return Ok(());
            }
            EntryKind::File { size } => {
                let mut file = fs::create_file_at(&dir, &name)?;
                copy(tar, entry, *size, &mut file)?;
                fs::chmod(&file, self.readable(entry.mode, 0o400))?;
            }
            EntryKind::Symlink { target } => {
                fs::make_symlink_at(&dir, &name, OsStr::from_bytes(target))?;
            }
            EntryKind::Fifo => {
                fs::make_node_at(&dir, &name, FileKind::Fifo, (0, 0))?;
                fs::chmod_at(&dir, &name, entry.mode)?;
            }
            other => return Err(io::Error::other(format!("{other:?} is nothing that a context has")).into()),
        }
        Ok(fs::set_mtime_at(&dir, &name, entry.mtime)?)
    }

    fn hard_link(&mut self, place: Place, entry: &RawEntry, target: &[u8]) -> Result<(), PlaceError> {
        let wrong = |reason| {
            let (path, target) = (shown(&entry.path), shown(target));
            PlaceError::Unpack(UnpackError::Link { path, target, reason })
        };
        let path = self.clean(target).map_err(|_| wrong("which is outside of it"))?;
        let found = match self.find(&path, false) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(wrong("which is not in it"));
            }
            other => other?,
        };
        match found.stat {
            None => return Err(wrong("which is not in it")),
            Some(stat) if stat.kind == FileKind::Directory => return Err(wrong("which is a directory")),
            Some(stat) => {
                // Another name of the same file already, perhaps its own.
                if place.stat.is_some_and(|s| (s.dev, s.ino) == (stat.dev, stat.ino)) {
                    return Ok(());
                }
            }
        }
        if place.stat.is_some() {
            if found.path.starts_with(&[&place.path[..], b"/"].concat()) {
                return Err(wrong("which it replaces"));
            }
            self.remove(&place)?;
        }
        Ok(fs::link_at(&found.dir, &found.name, &place.dir, &place.name)?)
    }

    /// Where a name is; missing directories on the way are made.
    fn find(&mut self, path: &[u8], make: bool) -> io::Result<Place> {
        let mut made = Vec::new();
        let mut make_dir = |dir: std::os::fd::BorrowedFd<'_>, name: &OsStr, path: &[u8]| {
            made.push(path.to_owned());
            fs::make_dir_at(dir, name, 0o700)
        };
        let make_dir: Option<in_root::MakeDir<'_>> = if make { Some(&mut make_dir) } else { None };
        let place = in_root::find(&self.root, path, Walk { follow_last: false, make_dir });
        // An archive that says nothing of them gets the same on every day.
        self.directories.extend(made.into_iter().map(|path| (path, (0o755, Time { sec: 0, nsec: 0 }))));
        place
    }

    fn remove(&mut self, place: &Place) -> io::Result<()> {
        let below = [&place.path[..], b"/"].concat();
        self.directories.retain(|path, _| *path != place.path && !path.starts_with(&below));
        fs::remove_tree_at(&place.dir, &place.name)
    }

    fn readable(&mut self, mode: u32, needed: u32) -> u32 {
        if mode & needed != needed {
            self.opened_up += 1;
        }
        mode | needed
    }

    fn clean(&self, name: &[u8]) -> Result<Vec<u8>, UnpackError> {
        let parts: Vec<&[u8]> =
            name.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
        if parts.contains(&&b".."[..]) {
            return Err(UnpackError::Outside(shown(name)));
        }
        Ok(parts.join(&b'/'))
    }

    fn finish(mut self) -> Result<Vec<String>, UnpackError> {
        // Deepest first: a parent that may not be entered any more comes after what is in it.
        for (path, (mode, mtime)) in std::mem::take(&mut self.directories).into_iter().rev() {
            let mut settle = || {
                let place = self.find(&path, false)?;
                fs::chmod_at(&place.dir, &place.name, mode)?;
                fs::set_mtime_at(&place.dir, &place.name, mtime)
            };
            settle().map_err(|source| UnpackError::Entry { path: shown(&path), source })?;
        }
        let mut notes = Vec::new();
        if let Some(first) = self.devices.first() {
            let count = self.devices.len();
            notes.push(match count {
                1 => format!("the device `{first}` is left out of the context"),
                _ => format!("{count} devices are left out of the context, such as `{first}`"),
            });
        }
        if self.opened_up > 0 {
            let files = if self.opened_up == 1 { "file or directory" } else { "files and directories" };
            notes.push(format!(
                "{} {files} of the archive could not be read by their owner; in the context they can",
                self.opened_up
            ));
        }
        Ok(notes)
    }
}

enum PlaceError {
    Io(io::Error),
    Unpack(UnpackError),
}

impl From<io::Error> for PlaceError {
    fn from(e: io::Error) -> PlaceError {
        PlaceError::Io(e)
    }
}

/// Writes an entry's content; holes stay holes.
fn copy(tar: &mut TarReader<impl Read>, entry: &RawEntry, size: u64, file: &mut File) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut stored = |tar: &mut TarReader<_>, file: &mut File, mut left: u64| {
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let got = tar.read_stored(&mut buffer[..most])?;
            if got == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            file.write_all(&buffer[..got])?;
            left -= got as u64;
        }
        Ok(())
    };
    match &entry.extents {
        None => stored(tar, file, size),
        Some(extents) => {
            for extent in extents {
                file.seek(SeekFrom::Start(extent.offset))?;
                stored(tar, file, extent.length)?;
            }
            file.set_len(size)
        }
    }
}

fn shown(path: &[u8]) -> String {
    // Names in archives need not be text.
    String::from_utf8_lossy(path).into_owned()
}

/// Counts what is read of the archive as it came.
struct Counted<R> {
    input: R,
    read: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buffer)?;
        self.read.set(self.read.get() + got as u64);
        Ok(got)
    }
}

/// Ends when too much comes of too little.
struct Guarded<R> {
    input: R,
    read: Rc<Cell<u64>>,
    passed: u64,
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buffer)?;
        self.passed += got as u64;
        if self.passed > BOMB_SIZE && self.passed / BOMB_RATIO > self.read.get() {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!(
                    "more than {BOMB_RATIO} bytes come of each of the archive's: it is meant to fill the disk"
                ),
            ));
        }
        Ok(got)
    }
}

#[cfg(test)]
mod tests;
