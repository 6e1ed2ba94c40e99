//! `blobs/sha256/`: content under its digest, read-only once it is there.
//!
//! A blob is there when a file of its name has its size. After a loss of power that matters: a file that was not
//! written out by then is shorter (file systems let a file's size grow once its data are on the disk), and so as
//! good as missing. What is named by anything has been through [`Store::barrier`] before.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cooper_runtime::sys::fs as sysfs;

use super::{Store, StoreError, WorkDir};
use crate::image::{Digest, Hasher};

/// A manifest, index or configuration larger than this is refused: registries cap them at 4 MiB.
pub const DOCUMENT_LIMIT: u64 = 4 << 20;

/// A blob that is not what was announced.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The stream broke.
    #[error("reading the content of {digest}: {source}")]
    Read {
        /// What was being read.
        digest: Digest,
        /// How it broke.
        source: io::Error,
    },
    /// Shorter or longer than its descriptor says.
    #[error("{digest} has {found} bytes where its descriptor says {expected}")]
    Size {
        /// What was being read.
        digest: Digest,
        /// Bytes announced.
        expected: u64,
        /// Bytes that came; when more came than announced, one more than announced.
        found: u64,
    },
    /// Another content.
    #[error("the content of {expected} has the digest {found}")]
    Digest {
        /// Announced.
        expected: Digest,
        /// Computed.
        found: Digest,
    },
    /// Our side failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// So many bytes are written before the kernel is asked to bring them to the disk.
const WRITTEN_OUT_AT_ONCE: u64 = 16 << 20;

/// A blob being written: a file in the work directory.
#[derive(Debug)]
pub struct BlobFile {
    path: PathBuf,
    file: File,
    written: u64,
    /// Up to here the kernel was asked to bring it to the disk.
    on_its_way: u64,
}

impl Write for BlobFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buf)?;
        self.written += written as u64;
        let waiting = self.written - self.on_its_way;
        if waiting >= WRITTEN_OUT_AT_ONCE {
            // The kernel would keep a blob in memory for half a minute, and the barrier wait for all of it.
            // Where it cannot be asked, that is what happens.
            let _ = sysfs::start_writing_out(&self.file, self.on_its_way, waiting);
            self.on_its_way = self.written;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for BlobFile {
    fn drop(&mut self) {
        // Gone already when it was committed.
        let _ = fs::remove_file(&self.path);
    }
}

impl Store {
    /// Where a blob lies, or would.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// The size of a blob; `None` where it is not there.
    pub fn blob_size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.blob_path(digest)).ok().map(|m| m.len())
    }

    /// Whether there is a blob of that name. Its size may be wrong: see the header.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_size(digest).is_some()
    }

    /// Opens a blob for reading.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(StoreError::io("cannot open", &path))
    }

    /// Reads a document (manifest, index, configuration) and checks that it still has its digest.
    pub fn read_document(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(digest);
        // Most documents fit, and are read at once.
        let mut bytes = Vec::with_capacity(16 << 10);
        let file = self.open_blob(digest)?;
        file.take(DOCUMENT_LIMIT + 1)
            .read_to_end(&mut bytes)
            .map_err(StoreError::io("cannot read", &path))?;
        let found = Digest::of(&bytes);
        if found != *digest {
            let reason = format!("its content has the digest {found}; remove it and pull the image again");
            return Err(StoreError::Damaged { path, reason });
        }
        Ok(bytes)
    }

    /// The same for one that can be had again: `None` where it is missing or unreadable. A damaged one is removed,
    /// so that what comes instead of it is kept.
    pub fn find_document(&self, digest: &Digest) -> Option<Vec<u8>> {
        match self.read_document(digest) {
            Ok(bytes) => Some(bytes),
            Err(StoreError::Damaged { path, reason }) => {
                tracing::warn!("{}: {reason}", path.display());
                let _ = fs::remove_file(path);
                None
            }
            Err(_) => None,
        }
    }

    /// Stores a document and says what its digest is.
    pub fn write_document(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        if self.blob_size(&digest) != Some(bytes.len() as u64) {
            let path = self.blob_path(&digest);
            // In `work/` and not beside the target: readers of the layout may list `blobs/`.
            let work = self.root.join("work");
            let mut file = tempfile::Builder::new()
                .prefix(super::TEMPORARY)
                .tempfile_in(&work)
                .map_err(StoreError::io("cannot write in", &work))?;
            file.write_all(bytes).map_err(StoreError::io("cannot write", &path))?;
            seal(file.as_file(), &path)?;
            let file = file.persist(&path).map_err(|e| StoreError::io("cannot write", &path)(e.error))?;
            self.unsynced.add(self, path, file)?;
        }
        Ok(digest)
    }

    /// Starts a blob whose digest is not known yet.
    pub fn new_blob(&self, work: &WorkDir) -> Result<BlobFile, StoreError> {
        let path = work.fresh("blob-");
        let file = File::create_new(&path).map_err(StoreError::io("cannot create", &path))?;
        Ok(BlobFile { path, file, written: 0, on_its_way: 0 })
    }

    /// Puts a finished blob in its place. The caller has hashed what it wrote.
    pub fn commit_blob(&self, blob: BlobFile, digest: &Digest) -> Result<(), StoreError> {
        let path = self.blob_path(digest);
        seal(&blob.file, &path)?;
        let file = blob.file.try_clone().map_err(StoreError::io("cannot write", &path))?;
        fs::rename(&blob.path, &path).map_err(StoreError::io("cannot write", &path))?;
        let _ = sysfs::start_writing_out(&file, blob.on_its_way, 0);
        self.unsynced.add(self, path, file)
    }

    /// Takes a blob from somewhere else, and keeps it only if it has the size and digest announced.
    /// Never reads more than one byte beyond the announced size.
    pub fn receive_blob(
        &self,
        work: &WorkDir,
        expected: &Digest,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<(), ReceiveError> {
        if self.blob_size(expected) == Some(size) {
            return Ok(());
        }
        let mut blob = self.new_blob(work)?;
        let mut hasher = Hasher::new();
        let mut buffer = vec![0u8; 64 * 1024];
        let mut found = 0u64;
        loop {
            let got = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(ReceiveError::Read { digest: *expected, source }),
            };
            found += got as u64;
            if found > size {
                return Err(ReceiveError::Size { digest: *expected, expected: size, found: size + 1 });
            }
            hasher.update(&buffer[..got]);
            blob.write_all(&buffer[..got]).map_err(StoreError::io("cannot write", &blob.path))?;
        }
        if found != size {
            return Err(ReceiveError::Size { digest: *expected, expected: size, found });
        }
        let digest = hasher.finish();
        if digest != *expected {
            return Err(ReceiveError::Digest { expected: *expected, found: digest });
        }
        Ok(self.commit_blob(blob, expected)?)
    }
}

/// Read-only: blobs are linked into layouts that others may write to.
fn seal(file: &File, path: &Path) -> Result<(), StoreError> {
    file.set_permissions(fs::Permissions::from_mode(0o444)).map_err(StoreError::io("cannot write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs(root: &Path) -> usize {
        fs::read_dir(root.join("blobs/sha256")).unwrap().count()
    }

    #[test]
    fn only_what_was_announced_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let work = store.work_dir().unwrap();
        let digest = Digest::of(b"hello");
        let receive = |size, mut content: &[u8]| store.receive_blob(&work, &digest, size, &mut content);
        assert!(matches!(receive(5, b"hellO"), Err(ReceiveError::Digest { .. })));
        assert!(matches!(receive(5, b"hell"), Err(ReceiveError::Size { found: 4, .. })));
        assert!(matches!(receive(5, b"hello, and more"), Err(ReceiveError::Size { found: 6, .. })));
        assert_eq!(blobs(dir.path()), 0);
        receive(5, b"hello").unwrap();
        assert_eq!(store.read_document(&digest).unwrap(), b"hello");
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), 1, "only the lock is left");
    }

    #[test]
    fn a_damaged_document_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let digest = store.write_document(b"{}").unwrap();
        fs::remove_file(store.blob_path(&digest)).unwrap();
        fs::write(store.blob_path(&digest), b"[]").unwrap();
        assert!(matches!(store.read_document(&digest), Err(StoreError::Damaged { .. })));
        assert_eq!(store.find_document(&digest), None);
        store.write_document(b"{}").unwrap();
        assert_eq!(store.find_document(&digest).unwrap(), b"{}");
    }
}
