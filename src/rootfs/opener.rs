//! Opens the files of a layer, one after the other.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use cooper_runtime::sys::fs;

/// Opens the regular file at `path` below `dir`, component by component.
pub(crate) struct FileOpener {
    /// Directories from the layer's root to the last file opened, with their names.
    open: Vec<(OsString, OwnedFd)>,
    root: OwnedFd,
}

impl FileOpener {
    pub(crate) fn new(root: BorrowedFd<'_>) -> io::Result<FileOpener> {
        Ok(FileOpener { open: Vec::new(), root: fs::open_dir_at(root, OsStr::new("."))? })
    }

    /// Paths that come sorted share most of their directories, which stay open.
    pub(crate) fn open(&mut self, path: &[u8]) -> io::Result<std::fs::File> {
        let mut components: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
        let name = components.pop().unwrap_or_default();
        let shared = self
            .open
            .iter()
            .zip(&components)
            .take_while(|((have, _), want)| have.as_bytes() == **want)
            .count();
        self.open.truncate(shared);
        for component in &components[shared..] {
            let component = OsStr::from_bytes(component);
            let parent = self.open.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd());
            let next = fs::open_dir_at(parent, component)?;
            self.open.push((component.to_owned(), next));
        }
        let parent = self.open.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd());
        fs::open_file_at(parent, OsStr::from_bytes(name))
    }
}
