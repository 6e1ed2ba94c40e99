//! Which compressed chunks lie where in the store's blobs: `cache/segments`.
//!
//! One file, read when a layer of more than a few chunks is packed, and replaced when its blob is in place.
//! Behind [`MAGIC`] it has up to [`MOST`] records of [`RECORD`] bytes, the oldest first:
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 32 | the chunk's key ([`reuse`]) |
//! | 32 | 32 | digest of the blob |
//! | 64 | 32 | BLAKE3 hash of the compressed chunk |
//! | 96 | 8 | where it begins in the blob |
//! | 104 | 4 | its bytes |
//! | 108 | 4 | CRC-32 of the 108 bytes before |
//!
//! Numbers have their lowest byte first. Nothing here is relied on: a record that is damaged, a blob that is
//! gone, bytes that do not have their hash are as good as no record. Of two builds that replace the file
//! at the same time one loses its records, and compresses those chunks once more.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::image::Digest;
use crate::layer::compress::{Compression, LayerWriter};
use crate::layer::reuse::{self, KnownSegments, Segment, SegmentKey};
use crate::store::{Store, StoreError, WorkDir};

/// What the file begins with.
const MAGIC: &[u8; 8] = b"segment2";
const RECORD: usize = 112;
/// Records kept: as much as 16 GiB of archives have.
const MOST: usize = 1 << 15;
/// No compressed chunk is larger.
const LONGEST: u32 = 2 << 20;

/// A segment, and the blob that has it.
type Record = (Segment, [u8; 32]);

/// Segments of layers that are still to be packed, in files of the work directory.
#[derive(Default)]
pub struct Ahead(Mutex<Vec<Arc<AheadFile>>>);

struct AheadFile {
    file: File,
    stored: StoredSegments,
    known: Mutex<HashMap<SegmentKey, Segment>>,
}

impl Ahead {
    /// Starts an archive that resembles that of a layer to come. What it is compressed to is found by those who
    /// [write with](StoredSegments::with) these.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn start(
        &self,
        store: &Store,
        work: &WorkDir,
        compression: Compression,
    ) -> io::Result<LayerWriter<File>> {
        let path = work.fresh("ahead-");
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        // Gone with the last who has it open.
        fs::remove_file(&path)?;
        let (out, stored) = (file.try_clone()?, StoredSegments::new(store));
        let ahead = Arc::new(AheadFile { file, stored, known: Mutex::default() });
        lock(&self.0).push(ahead.clone());
        LayerWriter::reusing(out, compression, 1, ahead)
    }

    fn find(&self, key: &SegmentKey) -> Option<(Vec<u8>, [u8; 32])> {
        let files = lock(&self.0).clone();
        files.iter().find_map(|ahead| {
            let segment = lock(&ahead.known).get(key).copied()?;
            checked(&ahead.file, &segment)
        })
    }
}

impl KnownSegments for AheadFile {
    fn find(&self, key: &SegmentKey) -> Option<(Vec<u8>, [u8; 32])> {
        self.stored.find(key)
    }

    fn note(&self, segment: Segment) {
        lock(&self.known).insert(segment.key, segment);
    }
}

/// A segment as it lies in a file, if it has its digest.
fn checked(file: &File, segment: &Segment) -> Option<(Vec<u8>, [u8; 32])> {
    let mut bytes = vec![0; segment.length as usize];
    file.read_exact_at(&mut bytes, segment.offset).ok()?;
    (reuse::digest(&bytes) == segment.digest).then_some((bytes, segment.digest))
}

/// The segments that a store has, while a layer is written.
pub struct StoredSegments {
    ahead: Arc<Ahead>,
    file: PathBuf,
    blobs: PathBuf,
    known: OnceLock<HashMap<SegmentKey, Record>>,
    open: Mutex<HashMap<[u8; 32], Option<Arc<File>>>>,
    noted: Mutex<Vec<Segment>>,
}

impl StoredSegments {
    /// Those of this store; nothing is read before the first is asked for.
    pub fn new(store: &Store) -> Self {
        Self {
            ahead: Arc::default(),
            file: store.cache_path("segments"),
            blobs: store.root().join("blobs/sha256"),
            known: OnceLock::new(),
            open: Mutex::default(),
            noted: Mutex::default(),
        }
    }

    /// And those that were made ahead.
    pub fn with(self, ahead: &Arc<Ahead>) -> Self {
        Self { ahead: ahead.clone(), ..self }
    }

    /// Records the segments noted, now that they lie in the blob `digest`.
    ///
    /// # Errors
    /// When the file cannot be replaced.
    pub fn keep(&self, store: &Store, digest: [u8; 32]) -> Result<(), StoreError> {
        let noted = std::mem::take(&mut *lock(&self.noted));
        let mut fresh = HashSet::new();
        // Of equal chunks in one layer one is enough.
        let new: Vec<Record> =
            noted.into_iter().filter(|s| fresh.insert(s.key)).map(|s| (s, digest)).collect();
        if new.is_empty() {
            return Ok(());
        }
        // Another build may have replaced it since.
        let mut records = parse(&fs::read(&self.file).unwrap_or_default());
        records.retain(|(segment, _)| !fresh.contains(&segment.key));
        records.extend(new);
        let surplus = records.len().saturating_sub(MOST);
        let mut content = MAGIC.to_vec();
        records[surplus..].iter().for_each(|record| content.extend_from_slice(&written(record)));
        store.replace(&self.file, &content)
    }

    fn blob(&self, digest: &[u8; 32]) -> Option<Arc<File>> {
        let path = || self.blobs.join(Digest::from_bytes(*digest).hex());
        lock(&self.open).entry(*digest).or_insert_with(|| File::open(path()).ok().map(Arc::new)).clone()
    }
}

impl KnownSegments for StoredSegments {
    fn find(&self, key: &SegmentKey) -> Option<(Vec<u8>, [u8; 32])> {
        if let Some(found) = self.ahead.find(key) {
            return Some(found);
        }
        let known = self.known.get_or_init(|| {
            let records = parse(&fs::read(&self.file).unwrap_or_default());
            records.into_iter().map(|record| (record.0.key, record)).collect()
        });
        let (segment, blob) = known.get(key)?;
        checked(&*self.blob(blob)?, segment)
    }

    fn note(&self, segment: Segment) {
        lock(&self.noted).push(segment);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn parse(content: &[u8]) -> Vec<Record> {
    let Some(records) = content.strip_prefix(MAGIC) else { return Vec::new() };
    records.as_chunks::<RECORD>().0.iter().filter_map(read).collect()
}

fn read(record: &[u8; RECORD]) -> Option<Record> {
    let (said, crc) = record.split_last_chunk::<4>()?;
    if crc32fast::hash(said) != u32::from_le_bytes(*crc) {
        return None;
    }
    let hash = |at: usize| said[at..at + 32].try_into().ok();
    let offset = u64::from_le_bytes(said[96..104].try_into().ok()?);
    let length = u32::from_le_bytes(said[104..108].try_into().ok()?);
    let segment = Segment { key: hash(0)?, digest: hash(64)?, offset, length };
    (length <= LONGEST).then_some((segment, hash(32)?))
}

fn written((segment, blob): &Record) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..32].copy_from_slice(&segment.key);
    record[32..64].copy_from_slice(blob);
    record[64..96].copy_from_slice(&segment.digest);
    record[96..104].copy_from_slice(&segment.offset.to_le_bytes());
    record[104..108].copy_from_slice(&segment.length.to_le_bytes());
    let crc = crc32fast::hash(&record[..108]);
    record[108..].copy_from_slice(&crc.to_le_bytes());
    record
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::layer::compress::Compression;
    use crate::rootfs::pack::{PackedLayer, finish, start};
    use crate::store::WorkDir;

    struct Ground {
        _dir: tempfile::TempDir,
        store: Store,
        work: WorkDir,
    }

    impl Ground {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path()).unwrap();
            let work = store.work_dir().unwrap();
            Self { _dir: dir, store, work }
        }

        fn pack(&self, tar: &[u8], compression: &str) -> PackedLayer {
            let compression = Compression::parse(compression).unwrap();
            let mut writer = start(&self.store, &self.work, compression, 2).unwrap();
            writer.write_all(tar).unwrap();
            finish(&self.store, writer, compression).unwrap()
        }

        fn records(&self) -> Vec<Record> {
            parse(&fs::read(self.store.cache_path("segments")).unwrap_or_default())
        }

        /// How many of these segments are found.
        fn found(&self, records: &[Record]) -> usize {
            let known = StoredSegments::new(&self.store);
            records.iter().filter(|(segment, _)| known.find(&segment.key).is_some()).count()
        }

        fn change_blob(&self, layer: &PackedLayer, change: impl FnOnce(&mut Vec<u8>)) {
            let path = self.store.blob_path(&layer.digest);
            let mut bytes = fs::read(&path).unwrap();
            change(&mut bytes);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            fs::write(&path, bytes).unwrap();
        }
    }

    fn tar(len: usize) -> Vec<u8> {
        let word = |i: u32| (i.wrapping_mul(2_654_435_761) >> 3 & 0x0f0f_0f0f).to_le_bytes();
        (0..len as u32 / 4).flat_map(word).collect()
    }

    #[test]
    fn segments_are_found_where_they_are_said_to_be() {
        let ground = Ground::new();
        let layer = ground.pack(&tar(6 << 20), "gzip");
        let records = ground.records();
        assert!(records.len() >= 6, "{}", records.len());
        let blob = fs::read(ground.store.blob_path(&layer.digest)).unwrap();
        let known = StoredSegments::new(&ground.store);
        for (segment, digest) in &records {
            assert_eq!(Digest::from_bytes(*digest), layer.digest);
            let there = &blob[segment.offset as usize..][..segment.length as usize];
            assert!(known.find(&segment.key).unwrap().0 == there);
        }
        assert!(known.find(&[7; 32]).is_none());
        // Another level's chunks are others, and none of them replaces one of these.
        ground.pack(&tar(6 << 20), "gzip:2");
        assert_eq!(ground.records().len(), 2 * records.len());
        assert_eq!(ground.found(&records), records.len());
        // Small layers, and what is no gzip, leave no trace.
        ground.pack(&tar(200_000), "gzip");
        ground.pack(&tar(6 << 20), "zstd");
        assert_eq!(ground.records().len(), 2 * records.len());
    }

    #[test]
    fn what_is_found_is_used_and_what_is_damaged_is_not() {
        let old = tar(6 << 20);
        let mut new = old.clone();
        new.splice(3 << 20..3 << 20, [7; 1024]);
        let clean = Ground::new();
        let expected = clean.pack(&new, "gzip");

        type Damage = fn(&Ground, &PackedLayer);
        let damages: [(Damage, bool); 6] = [
            (|_, _| {}, true),
            // A byte in the middle of each segment.
            (
                |ground, layer| {
                    let records = ground.records();
                    ground.change_blob(layer, |blob| {
                        records.iter().for_each(|(s, _)| blob[s.offset as usize + s.length as usize / 2] ^= 1)
                    })
                },
                false,
            ),
            (|ground, layer| ground.change_blob(layer, |blob| blob.truncate(100)), false),
            (|ground, layer| fs::remove_file(ground.store.blob_path(&layer.digest)).unwrap(), false),
            (
                |ground, _| {
                    let path = ground.store.cache_path("segments");
                    let mut index = fs::read(&path).unwrap();
                    index[MAGIC.len()..].chunks_mut(RECORD).for_each(|record| record[100] ^= 1);
                    fs::write(path, index).unwrap();
                },
                false,
            ),
            // Sums right, and another segment's bytes.
            (
                |ground, _| {
                    let mut records = ground.records();
                    let (first, rest) = records.split_first_mut().unwrap();
                    for (segment, _) in rest {
                        (segment.offset, segment.length) = (first.0.offset, first.0.length);
                    }
                    first.0.offset += 1;
                    let index: Vec<u8> = records.iter().flat_map(written).collect();
                    fs::write(ground.store.cache_path("segments"), [MAGIC.as_slice(), &index].concat())
                        .unwrap();
                },
                false,
            ),
        ];
        for (number, (damage, usable)) in damages.into_iter().enumerate() {
            let ground = Ground::new();
            let layer = ground.pack(&old, "gzip");
            let records = ground.records();
            damage(&ground, &layer);
            let found = if usable { records.len() } else { 0 };
            assert_eq!(ground.found(&records), found, "{number}");
            assert_eq!(ground.pack(&new, "gzip"), expected, "{number}");
            let made = fs::read(ground.store.blob_path(&expected.digest)).unwrap();
            assert_eq!(Digest::of(&made), expected.digest, "{number}");
            // Now they can be had from the new blob.
            assert!(ground.found(&records) >= records.len() - 3, "{number}");
        }
    }

    #[test]
    fn what_was_compressed_ahead_is_found_and_changes_nothing() {
        let (ground, clean) = (Ground::new(), Ground::new());
        let layer = tar(6 << 20);
        let expected = clean.pack(&layer, "gzip");
        let compression = Compression::default();
        let ahead = Arc::<Ahead>::default();
        // A guess that is wrong at its beginning, and was left off before its end.
        let mut guess = ahead.start(&ground.store, &ground.work, compression).unwrap();
        guess.write_all(&[7; 512]).unwrap();
        guess.write_all(&layer[..5 << 20]).unwrap();
        drop(guess);
        let known = StoredSegments::new(&ground.store).with(&ahead);
        let found = clean.records().iter().filter(|(segment, _)| known.find(&segment.key).is_some()).count();
        assert!(found >= 2, "{found} of {}", clean.records().len());
        let mut writer =
            crate::rootfs::pack::writer(&ground.store, &ground.work, compression, 2, known).unwrap();
        writer.write_all(&layer).unwrap();
        assert_eq!(finish(&ground.store, writer, compression).unwrap(), expected);
        // All of it is to be had from the blob from now on.
        assert_eq!(ground.found(&clean.records()), clean.records().len());
        assert_eq!(fs::read_dir(ground.work.path()).unwrap().count(), 1, "only the lock is left");
    }

    #[test]
    fn the_oldest_records_are_dropped() {
        let ground = Ground::new();
        let segment = |n: usize| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_le_bytes());
            Segment { key, digest: [1; 32], offset: n as u64, length: 5 }
        };
        let keep = |range: std::ops::Range<usize>, blob: u8| {
            let segments = StoredSegments::new(&ground.store);
            range.for_each(|n| segments.note(segment(n)));
            segments.keep(&ground.store, [blob; 32]).unwrap();
        };
        keep(0..MOST, 1);
        // Told again it is new again.
        keep(0..10, 2);
        keep(MOST..MOST + 20, 3);
        let records = ground.records();
        assert_eq!(records.len(), MOST);
        let first = records[0];
        assert_eq!(first, (segment(30), [1; 32]));
        assert_eq!(records[MOST - 30], (segment(0), [2; 32]));
        assert_eq!(records[MOST - 1], (segment(MOST + 19), [3; 32]));
        // What is no index is none, and is replaced.
        fs::write(ground.store.cache_path("segments"), b"segment2 and so on").unwrap();
        assert_eq!(ground.records(), []);
        keep(0..1, 4);
        assert_eq!(ground.records(), [(segment(0), [4; 32])]);
    }
}
