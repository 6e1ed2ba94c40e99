//! Chunks that were compressed before are not compressed again.
//!
//! Here is only what compression asks for; where segments come from is the business of who implements it.
//! With or without them, the blob is the same bytes.

/// What a segment is found by: the BLAKE3 hash of how its chunk is compressed and of the chunk. All that goes
/// into a layer is hashed for it, once more than its digests ask for; so it is with a hash that takes a
/// fraction of SHA-256's time, and that nobody finds two contents for either.
pub type SegmentKey = [u8; 32];

/// Where a segment lies in the blob that is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Of the chunk that it was made from.
    pub key: SegmentKey,
    /// [`digest`] of the segment itself.
    pub digest: [u8; 32],
    /// Where it begins in the blob.
    pub offset: u64,
    /// Bytes it has.
    pub length: u32,
}

/// Segments of earlier blobs. Asked by several threads at once.
pub trait KnownSegments: Send + Sync {
    /// The segment with this key, and its [`digest`]. It goes into a blob as it is: whoever gives it has
    /// checked that it has the one that it had when it was [noted](Self::note).
    fn find(&self, key: &SegmentKey) -> Option<(Vec<u8>, [u8; 32])>;

    /// Takes notice of a segment of the blob that is being written.
    fn note(&self, segment: Segment);
}

/// The key of a chunk for a gzip level. Compressors change with this program's version.
pub(super) fn gzip_key(level: u32, chunk: &[u8]) -> SegmentKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("cooper {} gzip:{level}\n", env!("CARGO_PKG_VERSION")).as_bytes());
    hasher.update(chunk);
    hasher.finalize().into()
}

/// The BLAKE3 hash of a segment.
pub fn digest(segment: &[u8]) -> [u8; 32] {
    blake3::hash(segment).into()
}
