//! Makes the files and directories of a COPY.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use cooper_runtime::in_root::Place;
use cooper_runtime::sys::fs::{self, FileKind};

use super::{Chmod, CopyError, CopyOptions, CopyReport, OwnerSink, described, extract, shown, write_error};
use crate::context::hash::unchanged;
use crate::context::select::{Item, ItemKind, Origin, Source};
use crate::context::tree::{Cursor, SourceTree, join};

/// Up to this size a read and a write cost less than all that it takes to have the kernel copy.
pub(super) const SMALL: usize = 64 << 10;

/// Writes items into a root file system.
pub(super) struct Writer<'a> {
    /// Where in the root items are written.
    to: Cursor<'a>,
    /// The same for the other name of a hard link.
    peers: Cursor<'a>,
    maker: Maker<'a>,
}

/// Makes one name at a time, in a directory that the writer holds open.
struct Maker<'a> {
    /// Where the source that is being written lies, unless it is text.
    from: Option<Opened<'a>>,
    options: &'a CopyOptions,
    owners: &'a mut dyn OwnerSink,
    buffer: Vec<u8>,
    report: CopyReport,
}

struct Opened<'a> {
    tree: &'a SourceTree,
    cursor: Cursor<'a>,
}

/// A place to make something at: a name in an open directory, and its path from the root.
#[derive(Clone, Copy)]
struct Spot<'s> {
    dir: BorrowedFd<'s>,
    name: &'s OsStr,
    path: &'s [u8],
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        root: BorrowedFd<'a>,
        options: &'a CopyOptions,
        owners: &'a mut dyn OwnerSink,
    ) -> Writer<'a> {
        let maker =
            Maker { from: None, options, owners, buffer: vec![0; SMALL], report: CopyReport::default() };
        Writer { to: Cursor::new(root), peers: Cursor::new(root), maker }
    }

    /// Says which source the next calls are about.
    pub(super) fn begin(&mut self, source: &'a Source) {
        let Origin::Tree(tree) = &source.origin else {
            self.maker.from = None;
            return;
        };
        if self.maker.from.as_ref().is_none_or(|from| !from.tree.is(tree)) {
            self.maker.from = Some(Opened { tree, cursor: Cursor::new(tree.root()) });
        }
    }

    pub(super) fn report(self) -> CopyReport {
        self.maker.report
    }

    /// Whether a source that is no directory is an archive.
    pub(super) fn is_archive(&mut self, source: &Source, item: &Item) -> Result<bool, CopyError> {
        if item.kind != ItemKind::File || item.stat.size == 0 {
            return Ok(false);
        }
        let opened = self.maker.open(source, item)?;
        Ok(opened.is_some_and(|file| extract::is_archive(file, item.stat.size)))
    }

    /// Extracts a source into the open directory at `path`.
    pub(super) fn archive(
        &mut self,
        source: &Source,
        item: &Item,
        dir: &OwnedFd,
        path: &[u8],
    ) -> Result<(), CopyError> {
        let Some(file) = self.maker.open(source, item)? else { return Ok(()) };
        let to = extract::Destination {
            dir: dir.as_fd(),
            path,
            chown: self.maker.options.chown,
            owners: &mut *self.maker.owners,
            report: &mut self.maker.report,
        };
        let from = shown(&source.location_of(item));
        let extracted = extract::extract(&file, item.stat.size, to);
        self.maker.still(source, item, &file)?;
        extracted.map_err(|source| CopyError::Extract { from, source })
    }

    /// Writes a source that is no directory.
    pub(super) fn single(&mut self, source: &Source, item: &Item, place: &Place) -> Result<(), CopyError> {
        let spot = Spot { dir: place.dir.as_fd(), name: &place.name, path: &place.path };
        self.maker.make(spot, source, item)
    }

    /// Writes the content of the directory `source` into the one at `base`.
    pub(super) fn directory(&mut self, source: &Source, base: &[u8]) -> Result<(), CopyError> {
        let Some((top, below)) = source.items.split_first() else { return Ok(()) };
        // Directories on the way that were there before.
        let mut kept = Vec::new();
        for (at, item) in below.iter().enumerate() {
            let path = join(base, &item.path);
            let (dir, name) = self.to.parent(&path).map_err(write_error("open the directory of", &path))?;
            let spot = Spot { dir, name, path: &path };
            match item.kind {
                ItemKind::Directory => {
                    let made = self.maker.directory(spot, source, item)?;
                    if item.on_the_way && !made {
                        kept.push(at);
                    }
                }
                ItemKind::Hardlink(first) => {
                    let peer = join(base, &source.items[first].path);
                    let (peer_dir, peer_name) =
                        self.peers.parent(&peer).map_err(write_error("open the directory of", &peer))?;
                    let link = || fs::link_at(peer_dir, peer_name, dir, name);
                    self.maker.replacing(spot, source, item, "link", link)?;
                    self.maker.owners.linked(&peer, &path);
                    self.maker.report.files += 1;
                }
                _ => self.maker.make(spot, source, item)?,
            }
        }
        // Only now: a mode may keep us out, and what is made in a directory moves its time. What a
        // directory holds comes after it, so backwards it comes first.
        for (at, item) in below.iter().enumerate().rev() {
            if item.kind != ItemKind::Directory {
                continue;
            }
            let path = join(base, &item.path);
            let (dir, name) = self.to.parent(&path).map_err(write_error("open the directory of", &path))?;
            let spot = Spot { dir, name, path: &path };
            if kept.last() == Some(&at) {
                // It takes the mode as it is in the source, and keeps owner and time.
                kept.pop();
                fs::chmod_at(dir, name, item.stat.mode).map_err(write_error("set the mode of", &path))?;
                continue;
            }
            self.maker.own(spot)?;
            let mode = self.maker.mode(item);
            fs::chmod_at(dir, name, mode).map_err(write_error("set the mode of", &path))?;
            self.maker.set_mtime(spot, item)?;
        }
        let (dir, name) = self.to.parent(base).map_err(write_error("open the directory of", base))?;
        self.maker.report.directories += 1;
        self.maker.set_mtime(Spot { dir, name, path: base }, top)
    }

    /// Gives a directory that had to be made for the destination what the options ask for.
    pub(super) fn dress_made(&mut self, path: &[u8], chmod: bool) -> Result<(), CopyError> {
        let (dir, name) = self.to.parent(path).map_err(write_error("open the directory of", path))?;
        self.maker.own(Spot { dir, name, path })?;
        match self.maker.options.chmod.as_ref().and_then(Chmod::made_directory) {
            Some(mode) if chmod => {
                fs::chmod_at(dir, name, mode).map_err(write_error("set the mode of", path))
            }
            _ => Ok(()),
        }
    }
}

impl Maker<'_> {
    /// Makes a directory, or finds it there; gives whether it was made.
    fn directory(&mut self, spot: Spot<'_>, source: &Source, item: &Item) -> Result<bool, CopyError> {
        self.report.directories += 1;
        match fs::make_dir_at(spot.dir, spot.name, 0o700) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|()| true).map_err(write_error("create the directory", spot.path)),
        }
        let found = fs::stat_at(spot.dir, spot.name).map_err(write_error("look at", spot.path))?;
        if found.kind == FileKind::Directory {
            return Ok(false);
        }
        Err(CopyError::DirectoryOverOther {
            from: shown(&source.location_of(item)),
            to: format!("/{}", String::from_utf8_lossy(spot.path)),
            found: described(found.kind),
        })
    }

    /// Makes what is neither directory nor hard link, with all its attributes.
    fn make(&mut self, spot: Spot<'_>, source: &Source, item: &Item) -> Result<(), CopyError> {
        self.report.files += 1;
        let Spot { dir, name, path } = spot;
        match &item.kind {
            ItemKind::File => match &source.origin {
                Origin::Tree(_) => return self.file(spot, source, item),
                Origin::Text(text) => return self.text(spot, source, item, text),
            },
            ItemKind::Symlink(target) => {
                let make = || fs::make_symlink_at(dir, name, OsStr::from_bytes(target));
                self.replacing(spot, source, item, "create the symbolic link", make)?;
                self.own(spot)?;
                return self.set_mtime(spot, item);
            }
            ItemKind::Socket => {
                let make = || fs::create_file_at(dir, name).map(drop);
                self.replacing(spot, source, item, "create", make)?;
            }
            ItemKind::CharDevice(major, minor) | ItemKind::BlockDevice(major, minor) => {
                let make = || fs::make_node_at(dir, name, item.stat.kind, (*major, *minor));
                self.replacing(spot, source, item, "create the device", make)?;
            }
            ItemKind::Fifo => {
                let make = || fs::make_node_at(dir, name, FileKind::Fifo, (0, 0));
                self.replacing(spot, source, item, "create the named pipe", make)?;
            }
            ItemKind::Directory | ItemKind::Hardlink(_) => unreachable!("written by Writer::directory"),
        }
        self.own(spot)?;
        let mode = self.mode(item);
        fs::chmod_at(dir, name, mode).map_err(write_error("set the mode of", path))?;
        self.set_mtime(spot, item)
    }

    fn file(&mut self, spot: Spot<'_>, source: &Source, item: &Item) -> Result<(), CopyError> {
        let Some(mut from) = self.open(source, item)? else { return Ok(()) };
        let create = || fs::create_file_at(spot.dir, spot.name);
        let to = self.replacing(spot, source, item, "create", create)?;
        let size = item.stat.size;
        if size <= SMALL as u64 {
            let read = from.read_exact(&mut self.buffer[..size as usize]);
            read.map_err(|e| self.read_error(source, item, e))?;
            (&to).write_all(&self.buffer[..size as usize]).map_err(write_error("write", spot.path))?;
        } else {
            fs::copy_contents(&from, &to).map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => self.read_error(source, item, e),
                _ => write_error("write", spot.path)(e),
            })?;
        }
        // Also finds what was appended, and what was read half old and half new.
        self.still(source, item, &from)?;
        self.report.bytes += size;
        self.own(spot)?;
        // chown clears setuid and capabilities, so it comes before them.
        let mode = Permissions::from_mode(self.mode(item));
        to.set_permissions(mode).map_err(write_error("set the mode of", spot.path))?;
        if let Some(value) = &item.capability {
            fs::set_xattr_at(spot.dir, spot.name, OsStr::new("security.capability"), value)
                .map_err(write_error("set the capabilities of", spot.path))?;
        }
        // A file system may write, and move the time, as late as at the close.
        drop(to);
        self.set_mtime(spot, item)
    }

    /// Opens a file to read it; `None` for a text, which nobody opens.
    fn open(&mut self, source: &Source, item: &Item) -> Result<Option<File>, CopyError> {
        let location = source.location_of(item);
        let Some(from) = &mut self.from else { return Ok(None) };
        let opened = from.cursor.parent(&location).and_then(|(dir, name)| fs::open_file_at(dir, name));
        opened.map(Some).map_err(|e| self.read_error(source, item, e))
    }

    /// Makes sure that an open file is what was selected.
    fn still(&self, source: &Source, item: &Item, file: &File) -> Result<(), CopyError> {
        let now = fs::stat(file).map_err(|e| self.read_error(source, item, e))?;
        match unchanged(&item.stat, &now) {
            true => Ok(()),
            false => Err(self.read_error(source, item, io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn read_error(&self, source: &Source, item: &Item, error: io::Error) -> CopyError {
        let path = shown(&source.location_of(item));
        let tree = self.from.as_ref().map_or_else(String::new, |from| from.tree.name().to_owned());
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound => CopyError::Changed { path, tree },
            _ => CopyError::Read { path, tree, source: error },
        }
    }

    /// Writes a here-document. It has no time of its own, and keeps that of being written.
    fn text(&mut self, spot: Spot<'_>, source: &Source, item: &Item, text: &[u8]) -> Result<(), CopyError> {
        let create = || fs::create_file_at(spot.dir, spot.name);
        let to = self.replacing(spot, source, item, "create", create)?;
        (&to).write_all(text).map_err(write_error("write", spot.path))?;
        self.report.bytes += text.len() as u64;
        self.own(spot)?;
        let mode = Permissions::from_mode(self.mode(item));
        to.set_permissions(mode).map_err(write_error("set the mode of", spot.path))
    }

    /// Makes a name; one that is there and no directory is removed first. So a file of a lower layer, or
    /// one with more names, keeps its content, and a link is not followed.
    fn replacing<T>(
        &self,
        spot: Spot<'_>,
        source: &Source,
        item: &Item,
        what: &'static str,
        make: impl Fn() -> io::Result<T>,
    ) -> Result<T, CopyError> {
        match make() {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map_err(write_error(what, spot.path)),
        }
        let found = fs::stat_at(spot.dir, spot.name).map_err(write_error("look at", spot.path))?;
        if found.kind == FileKind::Directory {
            return Err(CopyError::OtherOverDirectory {
                from: shown(&source.location_of(item)),
                to: format!("/{}", String::from_utf8_lossy(spot.path)),
            });
        }
        fs::unlink_at(spot.dir, spot.name).map_err(write_error("replace", spot.path))?;
        make().map_err(write_error(what, spot.path))
    }

    fn own(&mut self, spot: Spot<'_>) -> Result<(), CopyError> {
        let (uid, gid) = self.options.chown.unwrap_or((0, 0));
        self.owners
            .set_owner(spot.dir, spot.name, spot.path, uid, gid)
            .map_err(write_error("set the owner of", spot.path))
    }

    fn mode(&self, item: &Item) -> u32 {
        let mode = item.stat.mode;
        let is_directory = item.kind == ItemKind::Directory;
        self.options.chmod.as_ref().map_or(mode, |chmod| chmod.apply(mode, is_directory))
    }

    fn set_mtime(&self, spot: Spot<'_>, item: &Item) -> Result<(), CopyError> {
        fs::set_mtime_at(spot.dir, spot.name, item.stat.mtime)
            .map_err(write_error("set the time of", spot.path))
    }
}
