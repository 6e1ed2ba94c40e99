//! The content store: an OCI image layout on disk, and beside it what makes the next build fast.
//!
//! ```text
//! oci-layout, index.json, blobs/sha256/…   an OCI image layout; any reader of layouts can open it
//! layers/<id map>/<diff ID>/               unpacked layers, in the form the kernel's overlay stacks
//! cache/steps/…, cache/context/…           step key → layer; remembered file hashes
//! cache/diff-ids/…, cache/images/…         what a blob unpacks to; when an image was first made
//! cache/segments                           compressed chunks of blobs (`rootfs::segments`)
//! cache/mounts/<id map>/<key>/<n>/         what RUN --mount=type=cache keeps, and locks beside it
//! cache/http/…                             files of web servers (`context::http`)
//! work/<name>/                             what a running command is making
//! lock                                     shared by every command, alone for a collector
//! version                                  the format's number
//! ```
//!
//! Everything arrives under `work/` and is renamed into place when it is whole, so a command killed at
//! any instant leaves only its own directory there; [`work`] says who sweeps it. `index.json` is
//! replaced by rename while `index.lock` is held. [`barrier`] says what is synced to the disk, and when: after
//! a loss of power the last builds may have to be made again, but nothing is named that is not there.

pub mod barrier;
pub mod blobs;
pub mod cache;
pub mod layers;
pub mod refs;
pub mod work;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub use blobs::{BlobFile, ReceiveError};
pub use work::WorkDir;

/// The on-disk format that this program reads and writes.
pub const FORMAT: u32 = 1;

/// What can be wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: `cannot write`.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another program's, or another version's, directory.
    #[error("the store {} has format {found:?}, and this cooper reads format {FORMAT} only", path.display())]
    Format {
        /// The store.
        path: PathBuf,
        /// What its `version` file says.
        found: String,
    },
    /// A directory that is not empty and no store.
    #[error("{} is not empty and is not a cooper store", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
    },
    /// A document in the store does not parse.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The document.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
}

impl StoreError {
    /// Wraps an I/O error with what was tried, on what.
    pub fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
        move |source| StoreError::Io { what, path: path.to_owned(), source }
    }

    /// The I/O error below, if that is what it was.
    pub fn io_source(&self) -> Option<&io::Error> {
        match self {
            StoreError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// An open store. Holds the shared lock for as long as it lives.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    unsynced: barrier::Unsynced,
    /// Which start of the kernel this is, once somebody has asked.
    boot: OnceLock<String>,
    _lock: File,
}

impl Store {
    /// Opens the store at `root`, making it where there is none.
    ///
    /// # Errors
    /// When the directory is something else, has another format, or cannot be written.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        use std::os::unix::fs::DirBuilderExt;
        if !root.is_dir() {
            let made = match root.parent().map_or(Ok(()), fs::create_dir_all) {
                Ok(()) => fs::DirBuilder::new().mode(0o700).create(root),
                failed => failed,
            };
            match made {
                // Somebody else's first command was faster.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && root.is_dir() => {}
                other => other.map_err(StoreError::io("cannot create", root))?,
            }
        }
        let root = root.canonicalize().map_err(StoreError::io("cannot open", root))?;
        let version = root.join("version");
        match fs::read_to_string(&version) {
            Ok(text) if text.trim() == FORMAT.to_string() => {}
            Ok(text) => return Err(StoreError::Format { path: root, found: text.trim().to_owned() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => create(&root)?,
            Err(e) => return Err(StoreError::io("cannot read", &version)(e)),
        }
        close_off(&root)?;
        let path = root.join("lock");
        let lock = File::open(&path).map_err(StoreError::io("cannot open", &path))?;
        lock.lock_shared().map_err(StoreError::io("cannot lock", &path))?;
        Ok(Store { root, unsynced: barrier::Unsynced::default(), boot: OnceLock::new(), _lock: lock })
    }

    /// The directory, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Directories in which images' files lie as they are, with owners and modes.
const UNPACKED: [&str; 3] = ["layers", "cache", "work"];

/// Nobody else may walk to what is unpacked: what is root in an image is this user outside of it, and so
/// a set-user-ID program of an image would make anybody who can reach it this user (CVE-2021-41091). Steps
/// do not walk there, as what they see is opened by the builder and mounted.
///
/// A store that is somebody else's is theirs to close.
fn close_off(root: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::PermissionsExt;
    for name in UNPACKED {
        let path = root.join(name);
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if !meta.is_dir() || meta.permissions().mode() & 0o077 == 0 {
            continue;
        }
        match fs::set_permissions(&path, fs::Permissions::from_mode(0o700)) {
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                ) => {}
            other => other.map_err(StoreError::io("cannot close off", &path))?,
        }
    }
    Ok(())
}

/// How files begin that are being written. One that was left behind is swept after an hour.
const TEMPORARY: &str = ".tmp-";

impl Store {
    /// Replaces a file of the store.
    pub fn replace(&self, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        replace_file(&self.root.join("work"), path, content)
    }
}

/// Lays out an empty store; `version` comes last, so that one half made is made again.
fn create(root: &Path) -> Result<(), StoreError> {
    let known = ["oci-layout", "index.json", "index.lock", "blobs", "layers", "cache", "work", "lock"];
    for entry in fs::read_dir(root).map_err(StoreError::io("cannot read", root))? {
        let name = entry.map_err(StoreError::io("cannot read", root))?.file_name();
        if !known.iter().any(|k| name == *k) && !name.to_string_lossy().starts_with('.') {
            return Err(StoreError::NotAStore { path: root.to_owned() });
        }
    }
    for dir in ["blobs/sha256", "layers", "cache/steps", "cache/context", "work"] {
        let path = root.join(dir);
        fs::create_dir_all(&path).map_err(StoreError::io("cannot create", &path))?;
    }
    for file in ["lock", "index.lock", "work/.lock"] {
        let path = root.join(file);
        File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(StoreError::io("cannot create", &path))?;
    }
    let empty = serde_json::json!({
        "schemaVersion": 2, "mediaType": crate::image::media::INDEX, "manifests": []
    });
    let index = root.join("index.json");
    // Two first commands may meet here: whoever comes second must not undo what the first has done.
    match File::create_new(&index) {
        Ok(mut file) => {
            use io::Write;
            let written = writeln!(file, "{empty}").and_then(|()| file.sync_data());
            written.map_err(StoreError::io("cannot write", &index))?;
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(StoreError::io("cannot create", &index)(e)),
    }
    let work = root.join("work");
    replace_synced(&work, &root.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    replace_synced(&work, &root.join("version"), format!("{FORMAT}\n").as_bytes())
}

/// Writes a file so that readers see the old or the new content and nothing between. Until it is
/// whole it lies in `temporary`, a directory on the same file system.
pub fn replace_file(temporary: &Path, path: &Path, content: &[u8]) -> Result<(), StoreError> {
    replace(temporary, path, content, false)
}

/// The same, so that a loss of power leaves the old or the new content as well. Without it the rename may reach
/// the disk before the content does, and the file is empty.
pub fn replace_synced(temporary: &Path, path: &Path, content: &[u8]) -> Result<(), StoreError> {
    replace(temporary, path, content, true)
}

fn replace(temporary: &Path, path: &Path, content: &[u8], sync: bool) -> Result<(), StoreError> {
    use io::Write;
    let dir = temporary;
    let mut temporary = tempfile::Builder::new()
        .prefix(TEMPORARY)
        .tempfile_in(dir)
        .map_err(StoreError::io("cannot write in", dir))?;
    temporary.write_all(content).map_err(StoreError::io("cannot write", path))?;
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    temporary.as_file().set_permissions(open).map_err(StoreError::io("cannot write", path))?;
    if sync {
        temporary.as_file().sync_data().map_err(StoreError::io("cannot bring to the disk", path))?;
    }
    temporary.persist(path).map_err(|e| StoreError::io("cannot write", path)(e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_directory_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::NotAStore { .. }));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn only_its_owner_reaches_what_is_unpacked() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let made = dir.path().join("a/store");
        Store::open(&made).unwrap();
        assert_eq!(mode(&made), 0o700);
        // A directory that was there keeps its mode, and so does the layout in it.
        let given = dir.path().join("given");
        fs::create_dir(&given).unwrap();
        fs::set_permissions(&given, fs::Permissions::from_mode(0o755)).unwrap();
        for _ in 0..2 {
            Store::open(&given).unwrap();
            assert_eq!((mode(&given), mode(&given.join("blobs")) & 0o700), (0o755, 0o700));
            for name in UNPACKED {
                assert_eq!(mode(&given.join(name)), 0o700, "{name}");
                fs::set_permissions(given.join(name), fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
    }

    #[test]
    fn an_unknown_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Store::open(dir.path()).unwrap();
        fs::write(dir.path().join("version"), "2\n").unwrap();
        assert!(matches!(Store::open(dir.path()), Err(StoreError::Format { found, .. }) if found == "2"));
    }
}
