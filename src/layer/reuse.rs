//! Chunks that were compressed before are not compressed again.
//!
//! Here is only what compression asks for; where segments come from is the business of who implements it.
//! With or without them, the blob is the same bytes.

use sha2::{Digest, Sha256};

/// What a segment is found by: the SHA-256 of how its chunk is compressed and of the chunk.
pub type SegmentKey = [u8; 32];

/// Where a segment lies in the blob that is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Of the chunk that it was made from.
    pub key: SegmentKey,
    /// SHA-256 of the segment itself.
    pub digest: [u8; 32],
    /// Where it begins in the blob.
    pub offset: u64,
    /// Bytes it has.
    pub length: u32,
}

/// Segments of earlier blobs. Asked by several threads at once.
pub trait KnownSegments: Send + Sync {
    /// The segment with this key, and its SHA-256. It goes into a blob as it is: whoever gives it has
    /// checked that it has the SHA-256 that it had when it was [noted](Self::note).
    fn find(&self, key: &SegmentKey) -> Option<(Vec<u8>, [u8; 32])>;

    /// Takes notice of a segment of the blob that is being written.
    fn note(&self, segment: Segment);
}

/// The key of a chunk for a gzip level. Compressors change with this program's version.
pub(super) fn gzip_key(level: u32, chunk: &[u8]) -> SegmentKey {
    let mut sha = Sha256::new();
    sha.update(format!("cooper {} gzip:{level}\n", env!("CARGO_PKG_VERSION")));
    sha.update(chunk);
    sha.finalize().into()
}
