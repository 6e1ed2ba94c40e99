//! Chunks used again: never another blob than without.

use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use crate::layer::compress::{Compression, LayerWriter};
use crate::layer::reuse::{self, KnownSegments, Segment, SegmentKey};

/// Blobs in memory, and what is known of them.
#[derive(Default)]
struct Earlier {
    known: Mutex<HashMap<SegmentKey, Vec<u8>>>,
    noted: Mutex<Vec<Segment>>,
    asked: AtomicUsize,
    found: AtomicUsize,
}

impl KnownSegments for Earlier {
    fn find(&self, key: &SegmentKey) -> Option<(Vec<u8>, [u8; 32])> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let bytes = self.known.lock().unwrap().get(key)?.clone();
        self.found.fetch_add(1, Ordering::Relaxed);
        let digest = reuse::digest(&bytes);
        Some((bytes, digest))
    }

    fn note(&self, segment: Segment) {
        self.noted.lock().unwrap().push(segment);
    }
}

impl Earlier {
    /// Writes a layer; returns the blob, and how many chunks were asked for and found.
    fn write(
        self: &Arc<Self>,
        tar: &[u8],
        level: u32,
        workers: usize,
        write: usize,
    ) -> (Vec<u8>, usize, usize) {
        self.asked.store(0, Ordering::Relaxed);
        self.found.store(0, Ordering::Relaxed);
        let known = Arc::clone(self);
        let mut writer =
            LayerWriter::reusing(Vec::new(), Compression::Gzip { level }, workers, known).unwrap();
        tar.chunks(write).for_each(|piece| writer.write_all(piece).unwrap());
        let (blob, _) = writer.finish().unwrap();
        for segment in self.noted.lock().unwrap().drain(..) {
            let bytes = &blob[segment.offset as usize..][..segment.length as usize];
            assert_eq!(reuse::digest(bytes), segment.digest);
            self.known.lock().unwrap().insert(segment.key, bytes.to_vec());
        }
        (blob, self.asked.load(Ordering::Relaxed), self.found.load(Ordering::Relaxed))
    }
}

fn plain(tar: &[u8], level: u32) -> Vec<u8> {
    let mut writer = LayerWriter::new(Vec::new(), Compression::Gzip { level }, 1).unwrap();
    writer.write_all(tar).unwrap();
    writer.finish().unwrap().0
}

/// What compresses to a half.
fn nibbles(len: usize, seed: u32) -> Vec<u8> {
    let mut state = u64::from(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        bytes.extend_from_slice(&((state ^ state >> 32) & 0x0f0f_0f0f_0f0f_0f0f).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

#[test]
fn one_changed_file_costs_a_chunk_or_two() {
    let earlier = Arc::new(Earlier::default());
    let mut tar = nibbles(8 << 20, 0);
    let (first, asked, found) = earlier.write(&tar, 1, 2, 1 << 16);
    assert!(first == plain(&tar, 1) && asked >= 8 && found == 0, "{asked}, {found}");
    tar[4 << 20..(4 << 20) + 5000].fill(b'x');
    let (second, asked, found) = earlier.write(&tar, 1, 2, 1 << 16);
    assert!(second == plain(&tar, 1) && second != first);
    assert!(found < asked && found + 3 >= asked, "{found} of {asked}");
    // Another level has nothing of it.
    assert_eq!(earlier.write(&tar, 3, 2, 1 << 16).2, 0);
}

/// What happens to a tar: blocks come, go, or are others.
#[derive(Debug, Clone)]
struct Edit {
    at: usize,
    gone: usize,
    new: usize,
    seed: u32,
}

fn edit() -> impl Strategy<Value = Edit> {
    (0usize..10_000, 0usize..700, 0usize..700, any::<u32>()).prop_map(|(at, gone, new, seed)| Edit {
        at,
        gone,
        new,
        seed,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn a_blob_is_the_same_with_chunks_and_without(
        edits in prop::collection::vec(prop::collection::vec(edit(), 0..4), 1..4),
        workers in prop::sample::select(vec![1usize, 2, 5]),
        write in prop::sample::select(vec![777usize, 4096, 100_001, 3 << 20]),
    ) {
        let earlier = Arc::new(Earlier::default());
        let mut tar = [nibbles(2 << 20, 1), vec![0; 2 << 20], nibbles(1 << 20, 2)].concat();
        earlier.write(&tar, 1, 2, 1 << 16);
        for edits in edits {
            for Edit { at, gone, new, seed } in edits {
                let at = (at * 512).min(tar.len());
                let end = (at + gone * 512).min(tar.len());
                tar.splice(at..end, nibbles(new * 512, seed));
            }
            let (blob, asked, found) = earlier.write(&tar, 1, workers, write);
            prop_assert!(blob == plain(&tar, 1));
            prop_assert!(asked > 2 && found > 0, "{} of {}", found, asked);
        }
    }
}
