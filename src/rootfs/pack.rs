//! From a frozen layer to a blob in the store.

use std::io;
use std::path::Path;
use std::sync::Arc;

use cooper_runtime::sys::fs;
use serde::{Deserialize, Serialize};

use super::opener::FileOpener;
use super::segments::{Ahead, StoredSegments};
use crate::image::{DiffId, Digest};
use crate::layer::compress::{Compression, LayerWriter};
use crate::layer::content::FileContent;
use crate::layer::decompress::decompressor;
use crate::layer::entry::{Entry, EntryKind};
use crate::layer::write::TarWriter;
use crate::store::{BlobFile, Store, StoreError, WorkDir};

/// A layer as a manifest and a configuration speak of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedLayer {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// Digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// The blob's media type.
    pub media_type: String,
    /// How the blob was compressed, as the option says it.
    pub compression: String,
    /// Where it is to be had, if registries do not pass it on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
}

/// What can go wrong while packing.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Reading the layer's files or writing the blob failed.
    #[error("cannot write the layer: {0}")]
    Io(#[from] io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Writes the layer in `dir` as a blob: the tar is made once, and the diff ID, the compression and the
/// blob's digest come from the same stream. `hashed` is told the diff ID as soon
/// as the tar is made, which is before all of it is compressed.
pub fn pack(
    store: &Store,
    work: &WorkDir,
    dir: &Path,
    entries: &[Entry],
    how: &How,
    hashed: &dyn Fn(DiffId),
) -> Result<PackedLayer, PackError> {
    let How { compression, workers, ahead } = how;
    let root = fs::open_dir(dir)?;
    let mut files = FileOpener::new(std::os::fd::AsFd::as_fd(&root))?;
    let segments = StoredSegments::new(store).with(ahead);
    let layer = writer(store, work, *compression, *workers, segments)?;
    // The tar writer hands on headers and file contents in whatever pieces they come; hashing wants
    // larger ones.
    let mut tar = TarWriter::new(io::BufWriter::with_capacity(256 * 1024, layer));
    for entry in entries {
        match entry.kind {
            EntryKind::File { size } => {
                tar.append(entry, &mut FileContent::new(files.open(&entry.path)?, size))?
            }
            _ => tar.append(entry, &mut io::empty())?,
        }
    }
    let layer = tar.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    hashed(DiffId(Digest::from_bytes(layer.layer.tar_digest())));
    finish(store, layer, *compression)
}

/// How layers are packed.
#[derive(Clone)]
pub struct How {
    /// How blobs are compressed.
    pub compression: Compression,
    /// Threads that compress, beside the one that makes the archive.
    pub workers: usize,
    /// What was compressed before its layer was there.
    pub ahead: Arc<Ahead>,
}

/// A layer on its way into the store.
pub struct StoreWriter {
    layer: LayerWriter<io::BufWriter<BlobFile>>,
    segments: Arc<StoredSegments>,
}

impl io::Write for StoreWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.layer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.layer.flush()
    }
}

/// Starts a layer whose tar is to be written into it. `workers` threads compress what no earlier layer of
/// the store has.
pub fn start(
    store: &Store,
    work: &WorkDir,
    compression: Compression,
    workers: usize,
) -> Result<StoreWriter, PackError> {
    writer(store, work, compression, workers, StoredSegments::new(store))
}

pub(super) fn writer(
    store: &Store,
    work: &WorkDir,
    compression: Compression,
    workers: usize,
    segments: StoredSegments,
) -> Result<StoreWriter, PackError> {
    let blob = io::BufWriter::with_capacity(128 * 1024, store.new_blob(work)?);
    let segments = Arc::new(segments);
    let known = Arc::clone(&segments);
    Ok(StoreWriter { layer: LayerWriter::reusing(blob, compression, workers, known)?, segments })
}

/// Ends a layer and puts its blob in place.
pub fn finish(
    store: &Store,
    writer: StoreWriter,
    compression: Compression,
) -> Result<PackedLayer, PackError> {
    let (buffered, digests) = writer.layer.finish()?;
    let blob = buffered.into_inner().map_err(io::IntoInnerError::into_error)?;
    let digest = Digest::from_bytes(digests.digest);
    store.commit_blob(blob, &digest)?;
    if let Err(e) = writer.segments.keep(store, digests.digest) {
        // The next build compresses again; that is all.
        tracing::info!("what was compressed is not remembered: {e}");
    }
    let diff_id = DiffId(Digest::from_bytes(digests.diff_id));
    remember_diff_id(store, &digest, diff_id)?;
    Ok(PackedLayer {
        diff_id,
        digest,
        size: digests.size,
        media_type: compression.media_type().to_owned(),
        compression: compression.to_string(),
        urls: Vec::new(),
    })
}

/// What a blob of the store was found to unpack to.
pub fn known_diff_id(store: &Store, digest: &Digest) -> Option<DiffId> {
    store.cached(&format!("diff-ids/{}", digest.hex()))
}

/// Remembers it.
pub fn remember_diff_id(store: &Store, digest: &Digest, diff_id: DiffId) -> Result<(), StoreError> {
    store.remember(&format!("diff-ids/{}", digest.hex()), &diff_id)
}

/// Makes a blob of another compression from one that is in the store.
pub fn recompress(
    store: &Store,
    work: &WorkDir,
    layer: &PackedLayer,
    compression: Compression,
    workers: usize,
) -> Result<PackedLayer, PackError> {
    let mut tar = decompressor(store.open_blob(&layer.digest)?)?;
    let mut writer = start(store, work, compression, workers)?;
    io::copy(&mut tar, &mut writer)?;
    let made = finish(store, writer, compression)?;
    if made.diff_id != layer.diff_id {
        let reason = format!("it unpacks to {} and not to {}", made.diff_id, layer.diff_id);
        return Err(StoreError::Damaged { path: store.blob_path(&layer.digest), reason }.into());
    }
    Ok(made)
}
