//! Writes what a COPY or ADD selected into the root file system of a stage.
//!
//! The rules are BuildKit's: sources are written one after the other, and each sees what those before it
//! have made. A directory's content goes into the destination; a single file becomes the destination, or
//! goes into it if it is, or is written as, a directory. Links in the destination path are followed inside
//! the root; a name inside a directory that is copied is replaced, never written through.

mod direct;
mod extract;
mod write;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use cooper_runtime::in_root::{self, Place};
use cooper_runtime::sys::fs::{self, FileKind};

use crate::context::select::{Item, ItemKind, Selection, Source, names_directory};
use crate::context::tree::join;
pub use crate::dockerfile::mode::{Chmod, ChmodError};
pub use direct::{Staged, Target, copy_directly};
pub use extract::ExtractError;
use write::Writer;

/// Who is told of each owner that a file shall have.
pub trait OwnerSink {
    /// Sets the owner of `name` in `dir`, links not followed, or keeps a record that it has it. `path` is
    /// the same place from the root, without links and slashes at the ends; empty for the root, whose
    /// name is `.`.
    ///
    /// Comes before mode, capabilities and times are set, because a real `chown` clears some of them; once
    /// for each inode that is written, not again for its further names.
    ///
    /// # Errors
    /// When it can do neither.
    fn set_owner(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &[u8],
        uid: u32,
        gid: u32,
    ) -> io::Result<()>;

    /// Says that the file at `from` has another name now, `to`; both as `path` above. Names of one inode
    /// have one owner, so only who keeps records has something to do.
    fn linked(&mut self, _from: &[u8], _to: &[u8]) {}
}

/// How copied files differ from their sources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// `--chown`: user and group of all that is copied or made. 0:0 without.
    pub chown: Option<(u32, u32)>,
    /// `--chmod`
    pub chmod: Option<Chmod>,
    /// Whether a source that is an archive, as its content tells, is extracted into the destination
    /// instead of copied: that is what ADD does with files of the context.
    pub unpack: bool,
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyReport {
    /// Names that are not directories.
    pub files: u64,
    /// Directories, made or met.
    pub directories: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Archives that were extracted. `--chmod` did not reach what was in them.
    pub extracted: u64,
    /// Devices of those archives, which were left out.
    pub skipped: Vec<String>,
}

/// Why a COPY or ADD could not be written.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Something in the image could not be made or changed.
    #[error("cannot {what} {path} in the image: {source}")]
    Write {
        /// What was tried, as a verb: `write`.
        what: &'static str,
        /// Its path in the image.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A source could not be read.
    #[error("cannot read \"{path}\" in {tree}: {source}")]
    Read {
        /// Its path in its tree.
        path: String,
        /// How the tree is called.
        tree: String,
        /// Why.
        source: io::Error,
    },
    /// A source is no longer what it was when it was selected, so its digest may be wrong as well. To
    /// select, hash and copy once more would help.
    #[error("\"{path}\" in {tree} changed during the build; build again when it is complete")]
    Changed {
        /// Its path in its tree.
        path: String,
        /// How the tree is called.
        tree: String,
    },
    /// A directory would have to replace something else.
    #[error(
        "cannot copy the directory \"{from}\" to {to}: {found} is there; remove it first or choose another destination"
    )]
    DirectoryOverOther {
        /// The directory's path in its tree.
        from: String,
        /// Where it should go.
        to: String,
        /// What is there, with its article.
        found: &'static str,
    },
    /// Something else would have to replace a directory.
    #[error(
        "cannot copy \"{from}\" to {to}: a directory is there; remove it first or choose another destination"
    )]
    OtherOverDirectory {
        /// The source's path in its tree.
        from: String,
        /// Where it should go.
        to: String,
    },
    /// An archive could not be extracted.
    #[error("cannot extract \"{from}\": {source}")]
    Extract {
        /// The archive's path in its tree.
        from: String,
        /// Why.
        source: ExtractError,
    },
    /// The destination lies below something that is no directory.
    #[error("cannot copy to {dest}: a part of this path is not a directory")]
    NotADirectory {
        /// The destination.
        dest: String,
    },
}

/// Writes `selection` to `dest`, an absolute path below `root`; a slash at its end means that it is a
/// directory.
///
/// Who calls is root over all ids that files are given, in the stage's file system. Nothing that is there
/// is written into: files are made anew, so that other names of an inode keep their content.
///
/// # Errors
/// When something is in the way, cannot be read or cannot be written. What was written until then stays.
pub fn copy_into(
    root: BorrowedFd<'_>,
    dest: &[u8],
    selection: &Selection,
    options: &CopyOptions,
    owners: &mut dyn OwnerSink,
) -> Result<CopyReport, CopyError> {
    let mut copy = Copy {
        root,
        dest,
        into_directory: selection.dest_is_directory || names_directory(dest),
        writer: Writer::new(root, options, owners),
        made: Vec::new(),
        made_for_archives: Vec::new(),
    };
    for source in &selection.sources {
        copy.writer.begin(source);
        match source.items.first() {
            Some(item) if item.kind == ItemKind::Directory => copy.directory(source)?,
            Some(item) if options.unpack && copy.writer.is_archive(source, item)? => {
                copy.archive(source, item)?;
            }
            Some(item) => copy.single(source, item)?,
            None => {}
        }
    }
    copy.finish()
}

struct Copy<'a> {
    root: BorrowedFd<'a>,
    dest: &'a [u8],
    into_directory: bool,
    writer: Writer<'a>,
    /// Directories that were made on the way to the destination: path from the root.
    made: Vec<Vec<u8>>,
    /// Those of them that an archive is extracted into, which `--chmod` does not reach.
    made_for_archives: Vec<Vec<u8>>,
}

impl Copy<'_> {
    /// Copies the content of a directory.
    fn directory(&mut self, source: &Source) -> Result<(), CopyError> {
        let place = self.find_dest()?;
        if let Some(found) = place.stat.map(|s| s.kind).filter(|kind| *kind != FileKind::Directory) {
            return Err(CopyError::DirectoryOverOther {
                from: shown(&source.location),
                to: self.dest_shown(),
                found: described(found),
            });
        }
        self.open_or_make(&place)?;
        self.writer.directory(source, &place.path)
    }

    /// Extracts an archive into the destination, which is a directory whatever it is called.
    fn archive(&mut self, source: &Source, item: &Item) -> Result<(), CopyError> {
        let known = self.made.len();
        let place = self.find_dest()?;
        if place.stat.is_some_and(|s| s.kind != FileKind::Directory) {
            return Err(CopyError::NotADirectory { dest: self.dest_shown() });
        }
        let dir = self.open_or_make(&place)?;
        self.made_for_archives.extend(self.made.drain(known..));
        self.writer.archive(source, item, &dir, &place.path)
    }

    /// Copies anything else.
    fn single(&mut self, source: &Source, item: &Item) -> Result<(), CopyError> {
        let mut place = self.find_dest()?;
        let is_directory = place.stat.is_some_and(|s| s.kind == FileKind::Directory);
        if is_directory || self.into_directory {
            if place.stat.is_some() && !is_directory {
                return Err(CopyError::NotADirectory { dest: self.dest_shown() });
            }
            let dir = self.open_or_make(&place)?;
            let name = OsStr::from_bytes(&source.name).to_owned();
            let path = join(&place.path, &source.name);
            place = Place { dir, name, path, stat: None };
        }
        self.writer.single(source, item, &place)
    }

    /// Where the destination is, links followed, with its missing parents made.
    fn find_dest(&mut self) -> Result<Place, CopyError> {
        let made = &mut self.made;
        let mut make = |dir: BorrowedFd<'_>, name: &OsStr, path: &[u8]| {
            fs::make_dir_at(dir, name, 0o755)?;
            made.push(path.to_owned());
            Ok(())
        };
        let walk = in_root::Walk { follow_last: true, make_dir: Some(&mut make) };
        let found = in_root::find(self.root, self.dest, walk);
        found.map_err(|source| match source.kind() {
            io::ErrorKind::NotADirectory => CopyError::NotADirectory { dest: self.dest_shown() },
            _ => CopyError::Write { what: "reach", path: self.dest_shown(), source },
        })
    }

    /// Opens the directory at a place that holds one or nothing.
    fn open_or_make(&mut self, place: &Place) -> Result<OwnedFd, CopyError> {
        if place.stat.is_none() {
            fs::make_dir_at(&place.dir, &place.name, 0o755).map_err(write_error("create", &place.path))?;
            self.made.push(place.path.clone());
        }
        fs::open_dir_at(&place.dir, &place.name).map_err(write_error("open", &place.path))
    }

    fn dest_shown(&self) -> String {
        String::from_utf8_lossy(self.dest).into_owned()
    }

    /// Gives the directories that were made their owners and modes. At the end, because a mode may keep
    /// us out, and with the deepest first, for the same reason.
    fn finish(mut self) -> Result<CopyReport, CopyError> {
        for path in self.made_for_archives.iter().rev() {
            self.writer.dress_made(path, false)?;
        }
        for path in self.made.iter().rev() {
            self.writer.dress_made(path, true)?;
        }
        Ok(self.writer.report())
    }
}

fn shown(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { String::from_utf8_lossy(path).into_owned() }
}

/// An error about a path in the image.
fn write_error<'p>(what: &'static str, path: &'p [u8]) -> impl FnOnce(io::Error) -> CopyError + 'p {
    move |source| CopyError::Write { what, path: format!("/{}", String::from_utf8_lossy(path)), source }
}

fn described(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "a file",
        FileKind::Directory => "a directory",
        FileKind::Symlink => "a symbolic link",
        FileKind::CharDevice | FileKind::BlockDevice => "a device",
        FileKind::Fifo => "a named pipe",
        FileKind::Socket => "a socket",
    }
}

#[cfg(test)]
mod archives;
#[cfg(test)]
mod tests;
