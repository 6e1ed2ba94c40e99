//! Extracts an archive that is ADDed.
//!
//! **Names.** Everything stays below the destination: a leading slash is dropped, a name that `..` leads
//! out is refused, and a link that is a parent is followed as if the destination were the root, whether
//! the archive or the image put it there. The last name is never followed.
//!
//! **What is there** is replaced, but for a directory where the archive has one too, which takes the
//! archive's attributes. The destination itself keeps its own. Directories that no entry names belong to
//! root, with mode 0755.
//!
//! **Attributes** are the archive's: owner (unless `--chown`), mode, time, `security.capability` and no
//! other extended attribute. `--chmod` does not reach them. A further name of a file shares what the file
//! has, whatever its own entry says.
//!
//! **Left out** are devices, which nobody in a user namespace can make. The report names them. Names that begin with `.wh.` are names like others.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use cooper_runtime::in_root::{self, Place, Walk};
use cooper_runtime::sys::fs::{self, FileKind, Time};

use super::{CopyReport, OwnerSink};
use crate::context::tree::{Cursor, join};
use crate::layer::apply::fill;
use crate::layer::decompress::{Limited, any_decompressor};
use crate::layer::entry::{EntryKind, normalise_xattr};
use crate::layer::read::{RawEntry, TarError, TarReader};

/// Why an archive could not be extracted.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The archive cannot be read.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A name leads out.
    #[error("its entry `{0}` would lie outside the destination; make the archive again without `..`")]
    Outside(String),
    /// Something on the way is no directory.
    #[error("its entry `{0}` lies below something that is not a directory")]
    NotADirectory(String),
    /// A hard link to what cannot have two names, or is not there.
    #[error("its entry `{path}` is a hard link to `{target}`, which is {found}")]
    Hardlink {
        /// The entry.
        path: String,
        /// Its target.
        target: String,
        /// What the target is.
        found: &'static str,
    },
    /// Something could not be made.
    #[error("cannot {what} {path} in the image: {source}")]
    Write {
        /// What was tried, as a verb.
        what: &'static str,
        /// Its path in the image.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// What an archive of `size` bytes holds, uncompressed. A small archive can stand for one that fills every
/// disk, so there is a bound, as generous as the one for layers.
fn open<'a>(archive: impl Read + 'a, size: u64) -> io::Result<impl Read + 'a> {
    const ALWAYS: u64 = 16 << 30;
    const RATIO: u64 = 64;
    Ok(Limited::new(any_decompressor(archive)?, ALWAYS.saturating_add(size.saturating_mul(RATIO))))
}

/// Whether `file` of `size` bytes is an archive that ADD extracts: a tar with something in it, plain or
/// compressed with gzip, bzip2, xz or zstd. Its content tells; what is compressed and no tar is no archive.
pub(super) fn is_archive(file: impl Read, size: u64) -> bool {
    let Ok(content) = open(file, size) else { return false };
    matches!(TarReader::new(content).next(), Ok(Some(_)) | Err(TarError::Type { .. }))
}

/// Where to extract to, and how.
pub(super) struct Destination<'a> {
    /// The directory.
    pub(super) dir: BorrowedFd<'a>,
    /// Its path from the root of the image.
    pub(super) path: &'a [u8],
    /// `--chown`
    pub(super) chown: Option<(u32, u32)>,
    pub(super) owners: &'a mut dyn OwnerSink,
    pub(super) report: &'a mut CopyReport,
}

/// Extracts the archive that `file`, of `size` bytes, is.
pub(super) fn extract(file: impl Read, size: u64, to: Destination<'_>) -> Result<(), ExtractError> {
    let mut tar = TarReader::new(open(file, size).map_err(TarError::Io)?);
    let mut extraction = Extraction { to, parent: None, directories: Vec::new(), buffer: vec![0; 128 << 10] };
    while let Some(entry) = tar.next()? {
        extraction.entry(&entry, &mut tar)?;
    }
    // Behind the end lie padding and the compressor's checksum.
    tar.drain().map_err(TarError::Io)?;
    extraction.times();
    extraction.to.report.extracted += 1;
    Ok(())
}

struct Extraction<'a> {
    to: Destination<'a>,
    /// The directory of the last entry: as the archive calls it, open, and its real path below the
    /// destination. Most entries lie beside the one before.
    parent: Option<(Vec<u8>, OwnedFd, Vec<u8>)>,
    /// Real paths below the destination, and the times they get when nothing more is put into them.
    directories: Vec<(Vec<u8>, Time)>,
    buffer: Vec<u8>,
}

impl Extraction<'_> {
    fn entry<R: Read>(&mut self, entry: &RawEntry, content: &mut TarReader<R>) -> Result<(), ExtractError> {
        let path = clean(&entry.path)?;
        if path.is_empty() {
            return Ok(());
        }
        if !matches!(
            entry.kind,
            EntryKind::Directory
                | EntryKind::File { .. }
                | EntryKind::Symlink { .. }
                | EntryKind::Hardlink { .. }
                | EntryKind::Fifo
        ) {
            self.to.report.skipped.push(shown(&path));
            return Ok(());
        }
        let place = self.place(&path, entry)?;
        if let EntryKind::Hardlink { target } = &entry.kind {
            return self.hardlink(&place, entry, target);
        }
        let merged = entry.kind == EntryKind::Directory
            && place.stat.is_some_and(|stat| stat.kind == FileKind::Directory);
        if !merged {
            self.clear(&place)?;
        }
        let (dir, name) = (place.dir.as_fd(), place.name.as_os_str());
        match &entry.kind {
            EntryKind::Directory => {
                if !merged {
                    fs::make_dir_at(dir, name, 0o700).map_err(self.failed("create", &place))?;
                }
                self.own(&place, entry)?;
                fs::chmod_at(dir, name, entry.mode).map_err(self.failed("set the mode of", &place))?;
                self.directories.push((place.path.clone(), bounded(entry.mtime)));
                self.to.report.directories += 1;
            }
            EntryKind::File { size } => {
                let file = fs::create_file_at(dir, name).map_err(self.failed("create", &place))?;
                let filled = fill(&file, content, entry.extents.as_deref(), *size, &mut self.buffer);
                filled.map_err(self.failed("write", &place))?;
                self.own(&place, entry)?;
                // chown clears setuid and capabilities, so it comes before them.
                let mode = Permissions::from_mode(entry.mode);
                file.set_permissions(mode).map_err(self.failed("set the mode of", &place))?;
                self.capability(&place, &entry.xattrs)?;
                drop(file);
                let time = bounded(entry.mtime);
                fs::set_mtime_at(dir, name, time).map_err(self.failed("set the time of", &place))?;
                self.to.report.files += 1;
                self.to.report.bytes += size;
            }
            EntryKind::Symlink { target } => {
                let made = fs::make_symlink_at(dir, name, OsStr::from_bytes(target));
                made.map_err(self.failed("create the symbolic link", &place))?;
                self.own(&place, entry)?;
                let time = bounded(entry.mtime);
                fs::set_mtime_at(dir, name, time).map_err(self.failed("set the time of", &place))?;
                self.to.report.files += 1;
            }
            EntryKind::Fifo => {
                let made = fs::make_node_at(dir, name, FileKind::Fifo, (0, 0));
                made.map_err(self.failed("create the named pipe", &place))?;
                self.own(&place, entry)?;
                fs::chmod_at(dir, name, entry.mode).map_err(self.failed("set the mode of", &place))?;
                let time = bounded(entry.mtime);
                fs::set_mtime_at(dir, name, time).map_err(self.failed("set the time of", &place))?;
                self.to.report.files += 1;
            }
            _ => {}
        }
        Ok(())
    }

    /// Finds the place of an entry, and makes the directories that are missing on the way.
    fn place(&mut self, path: &[u8], entry: &RawEntry) -> Result<Place, ExtractError> {
        let (parent, name) = crate::context::tree::split(path);
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotADirectory => ExtractError::NotADirectory(shown(&entry.path)),
            _ => ExtractError::Write { what: "reach", path: shown(&entry.path), source },
        };
        if let Some((known, dir, real)) = &self.parent
            && known == parent
        {
            let dir = dir.try_clone().map_err(failed)?;
            let stat = fs::try_stat_at(&dir, name).map_err(failed)?;
            return Ok(Place { dir, name: name.to_owned(), path: join(real, name.as_bytes()), stat });
        }
        let Destination { dir, path: base, owners, .. } = &mut self.to;
        let mut make = |dir: BorrowedFd<'_>, name: &OsStr, path: &[u8]| {
            fs::make_dir_at(dir, name, 0o755)?;
            owners.set_owner(dir, name, &join(base, path), 0, 0)
        };
        let walk = Walk { follow_last: false, make_dir: Some(&mut make) };
        let place = in_root::find(*dir, path, walk).map_err(failed)?;
        let real = place.path.strip_suffix(name.as_bytes()).unwrap_or_default();
        let real = real.strip_suffix(b"/").unwrap_or(real).to_owned();
        self.parent = Some((parent.to_owned(), place.dir.try_clone().map_err(failed)?, real));
        Ok(place)
    }

    fn hardlink(&mut self, place: &Place, entry: &RawEntry, target: &[u8]) -> Result<(), ExtractError> {
        let refused = |found| ExtractError::Hardlink {
            path: shown(&entry.path),
            target: String::from_utf8_lossy(target).into_owned(),
            found,
        };
        let target_path = clean(target)?;
        if target_path.is_empty() {
            return Err(refused("the destination itself"));
        }
        let walk = Walk { follow_last: false, make_dir: None };
        let from = match in_root::find(self.to.dir, &target_path, walk) {
            Ok(from) => from,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(refused("not there"));
            }
            Err(e) => return Err(self.failed("reach the target of", place)(e)),
        };
        match from.stat.map(|stat| stat.kind) {
            None => return Err(refused("not there")),
            Some(FileKind::Directory) => return Err(refused("a directory")),
            Some(_) if from.path == place.path => return Ok(()),
            Some(_) => {}
        }
        // What is in the way may hold the target.
        if place.stat.is_some_and(|stat| stat.kind == FileKind::Directory)
            && from.path.starts_with(&[&place.path[..], b"/"].concat())
        {
            return Err(refused("inside the directory that it would replace"));
        }
        self.clear(place)?;
        let linked = fs::link_at(&from.dir, &from.name, &place.dir, &place.name);
        linked.map_err(self.failed("link", place))?;
        let (from, to) = (join(self.to.path, &from.path), join(self.to.path, &place.path));
        self.to.owners.linked(&from, &to);
        self.to.report.files += 1;
        Ok(())
    }

    /// Takes away what is at a place.
    fn clear(&mut self, place: &Place) -> Result<(), ExtractError> {
        if place.stat.is_none() {
            return Ok(());
        }
        // The directory of the next entry may be gone with it, or a link to it.
        self.parent = None;
        fs::remove_tree_at(&place.dir, &place.name).map_err(self.failed("replace", place))
    }

    fn own(&mut self, place: &Place, entry: &RawEntry) -> Result<(), ExtractError> {
        let (uid, gid) = self.to.chown.unwrap_or((entry.uid, entry.gid));
        let path = join(self.to.path, &place.path);
        let owned = self.to.owners.set_owner(place.dir.as_fd(), &place.name, &path, uid, gid);
        owned.map_err(|source| ExtractError::Write {
            what: "set the owner of",
            path: format!("/{}", shown(&path)),
            source,
        })
    }

    fn capability(&self, place: &Place, xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<(), ExtractError> {
        const NAME: &str = "security.capability";
        let Some(value) = xattrs.get(NAME.as_bytes()) else { return Ok(()) };
        let value = normalise_xattr(NAME.as_bytes(), value.clone());
        fs::set_xattr_at(&place.dir, &place.name, OsStr::new(NAME), &value)
            .map_err(self.failed("set the capabilities of", place))
    }

    fn failed(&self, what: &'static str, place: &Place) -> impl FnOnce(io::Error) -> ExtractError + use<> {
        let path = format!("/{}", shown(&join(self.to.path, &place.path)));
        move |source| ExtractError::Write { what, path, source }
    }

    /// Gives directories their times; of two entries for one the later counts. What became of a
    /// directory after its entry is not known, and does not matter if it is none any more.
    fn times(&mut self) {
        let mut cursor = Cursor::new(self.to.dir);
        for (path, time) in &self.directories {
            if let Ok((dir, name)) = cursor.parent(path)
                && fs::stat_at(dir, name).is_ok_and(|stat| stat.kind == FileKind::Directory)
            {
                let _ = fs::set_mtime_at(dir, name, *time);
            }
        }
    }
}

/// A name in an archive, from the destination: no slash at either end, no `.`, no `..`.
fn clean(path: &[u8]) -> Result<Vec<u8>, ExtractError> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names
                    .pop()
                    .ok_or_else(|| ExtractError::Outside(String::from_utf8_lossy(path).into_owned()))?;
            }
            name => names.push(name),
        }
    }
    Ok(names.join(&b'/'))
}

/// Times before 1970 become its first second, as in BuildKit.
fn bounded(time: Time) -> Time {
    if time.sec < 0 { Time::default() } else { time }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
