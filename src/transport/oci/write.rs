//! Writing an image from the store into a layout.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::{LayoutError, version_is_known};
use crate::image::{Descriptor, media};
use crate::registry::Contents;
use crate::store::Store;
use crate::store::refs::put_in_index;

/// Under this name, in the layout, a blob waits until it is whole.
const UNFINISHED: &str = ".cooper-unfinished";

/// Adds an image of the store to the layout at `dir`, under `tag` if there is one; makes the layout
/// where there is none. Other images in it stay. The image can be an index with all it names.
///
/// Blobs are linked where the file system allows it, so that a layout costs no space while the store
/// lives, and copied elsewhere.
///
/// # Errors
/// When the directory is something else or cannot be written; it is then as it was before.
pub fn write_layout(
    store: &Store,
    manifest: &Descriptor,
    dir: &Path,
    tag: Option<&str>,
) -> Result<(), LayoutError> {
    let contents = Contents::of(store, manifest).map_err(LayoutError::Incomplete)?;
    let mut writing = Writing { added: Vec::new(), lock: None };
    writing.lock(dir)?;
    let unfinished = dir.join(UNFINISHED);
    // Of a command that was killed: it held the lock that we hold now.
    if unfinished.symlink_metadata().is_ok() {
        fs::remove_file(&unfinished).map_err(LayoutError::io("cannot remove", &unfinished))?;
    }
    writing.prepare(dir)?;
    let blobs = dir.join("blobs/sha256");
    writing.make_dirs(&blobs)?;
    let documents = contents.manifests.iter().map(|(digest, size, _)| (digest, *size));
    for (digest, size) in contents.blobs.iter().map(|(digest, size)| (digest, *size)).chain(documents) {
        let target = blobs.join(digest.hex());
        let there = target.symlink_metadata().is_ok_and(|m| m.is_file() && m.len() == size);
        if !there {
            writing.place(&store.blob_path(digest), &unfinished, &target, size)?;
        }
    }
    // What was linked is the store's to bring to the disk, what was copied is there.
    store.barrier()?;
    put_in_index(dir, dir, tag, manifest.clone())?;
    writing.added.clear();
    Ok(())
}

/// Whether a layout could be written at `dir`, as far as that can be told by looking.
///
/// # Errors
/// Why not: something else is there, or it may not be made.
pub fn check_layout(dir: &Path) -> Result<(), LayoutError> {
    // With `.` for what is above a plain name.
    let named = |path: &Path| if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_owned() };
    for path in dir.ancestors().map(named) {
        match fs::metadata(&path) {
            Ok(found) if !found.is_dir() => {
                return Err(LayoutError::io("cannot write to", &path)(io::ErrorKind::NotADirectory.into()));
            }
            Ok(_) => {
                if path == dir {
                    is_layout(dir)?;
                }
                let how = AccessFlags::W_OK | AccessFlags::X_OK;
                return access(&path, how).map_err(|e| LayoutError::io("cannot write to", &path)(e.into()));
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(e) => return Err(LayoutError::io("cannot write to", &path)(e)),
        }
    }
    Ok(())
}

/// Whether a directory is a layout; an empty one is not yet.
fn is_layout(dir: &Path) -> Result<bool, LayoutError> {
    let marker = dir.join("oci-layout");
    match fs::read(&marker) {
        Ok(text) if version_is_known(&text) => Ok(true),
        Ok(_) => {
            let reason = "its `oci-layout` does not say version 1".to_owned();
            Err(LayoutError::NotALayout { dir: dir.to_owned(), reason })
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let mut entries = fs::read_dir(dir).map_err(LayoutError::io("cannot read", dir))?;
            match entries.next() {
                Some(_) => Err(LayoutError::Occupied { dir: dir.to_owned() }),
                None => Ok(false),
            }
        }
        Err(e) => Err(LayoutError::io("cannot read", &marker)(e)),
    }
}

/// What this command has put there so far; taken away again unless it is cleared in the end.
struct Writing {
    added: Vec<(PathBuf, Kind)>,
    /// Held until all is done or undone, and so dropped after `drop` has run.
    lock: Option<File>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Dir,
}

impl Drop for Writing {
    fn drop(&mut self) {
        // Newest first, and directories only if nobody has put something else into them.
        for (path, kind) in self.added.iter().rev() {
            let _ = match kind {
                Kind::File => fs::remove_file(path),
                Kind::Dir => fs::remove_dir(path),
            };
        }
    }
}

impl Writing {
    /// Makes the directory where there is none, and locks it: two that write to one layout take turns.
    /// Locking the directory itself leaves nothing behind.
    fn lock(&mut self, dir: &Path) -> Result<(), LayoutError> {
        let identity = |m: &Metadata| (m.dev(), m.ino());
        loop {
            self.make_dirs(dir)?;
            let lock = File::open(dir).map_err(LayoutError::io("cannot open", dir))?;
            lock.lock().map_err(LayoutError::io("cannot lock", dir))?;
            let locked = lock.metadata().map_err(LayoutError::io("cannot read", dir))?;
            // One that failed may have taken its new directory away while we waited for it.
            if fs::metadata(dir).is_ok_and(|now| identity(&now) == identity(&locked)) {
                self.lock = Some(lock);
                return Ok(());
            }
        }
    }

    /// Makes a directory and those above it that are missing.
    fn make_dirs(&mut self, dir: &Path) -> Result<(), LayoutError> {
        if dir.as_os_str().is_empty() || dir.is_dir() {
            return Ok(());
        }
        if let Some(parent) = dir.parent() {
            self.make_dirs(parent)?;
        }
        match fs::create_dir(dir) {
            Ok(()) => self.added.push((dir.to_owned(), Kind::Dir)),
            Err(_) if dir.is_dir() => {}
            Err(e) => return Err(LayoutError::io("cannot create", dir)(e)),
        }
        Ok(())
    }

    /// Makes an empty layout of an empty directory; accepts one that is a layout already.
    fn prepare(&mut self, dir: &Path) -> Result<(), LayoutError> {
        if !is_layout(dir)? {
            self.write(&dir.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        let index = dir.join("index.json");
        if index.symlink_metadata().is_err() {
            let empty = serde_json::json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": [] });
            self.write(&index, empty.to_string().as_bytes())?;
        }
        Ok(())
    }

    fn write(&mut self, path: &Path, content: &[u8]) -> Result<(), LayoutError> {
        // Before it exists, so that a write that fails half-way is taken away too.
        self.added.push((path.to_owned(), Kind::File));
        fs::write(path, content).map_err(LayoutError::io("cannot write", path))
    }

    /// Puts a blob in its place: a link to the store's where that can be, else a copy; whole or not at
    /// all.
    fn place(&mut self, from: &Path, unfinished: &Path, target: &Path, size: u64) -> Result<(), LayoutError> {
        let new = target.symlink_metadata().is_err();
        if fs::hard_link(from, unfinished).is_err() {
            let copied = fs::copy(from, unfinished);
            let copied = copied.and_then(|n| File::open(unfinished)?.sync_data().map(|()| n));
            let copied = copied.map_err(LayoutError::io("cannot write", unfinished)).and_then(|n| match n {
                n if n == size => Ok(()),
                _ => Err(LayoutError::io("cannot write", target)(io::ErrorKind::UnexpectedEof.into())),
            });
            if let Err(error) = copied {
                let _ = fs::remove_file(unfinished);
                return Err(error);
            }
        }
        let moved = fs::rename(unfinished, target).map_err(LayoutError::io("cannot write", target));
        if moved.is_err() || unfinished.exists() {
            // rename(2) does nothing when both names are one file already.
            let _ = fs::remove_file(unfinished);
        }
        moved?;
        if new {
            self.added.push((target.to_owned(), Kind::File));
        }
        Ok(())
    }
}
