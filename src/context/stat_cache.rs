//! Hashes of files that did not change since they were last read, as Git's index keeps them.
//!
//! One file for each context directory, `cache/context/<SHA-256 of its path>`, read at once and replaced
//! at once; whoever writes last wins, which costs the other no more than hashing again. Little endian:
//!
//! ```text
//! magic | number of records: u32 | records, sorted by path | CRC-32 of all before
//! record: length of path: u16 | path | dev, ino, size: u64 | mtime, ctime: i64 and u32 each
//!         | SHA-256: 32 bytes | age: u8
//! ```
//!
//! **When a hash may be trusted.** A file written to after it was hashed has a newer change time, unless
//! both fell into one tick of the kernel's clock. So a file whose times were not older than the moment of
//! hashing, by a tick at least, is not remembered at all, and is hashed again next time.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use cooper_runtime::sys::fs::{Stat, Time};

use crate::image::Digest;
use crate::store::{Store, StoreError};

const MAGIC: &[u8] = b"cooper-stat-1\n";
/// What a record takes without its path.
const FIXED: usize = 2 + INODE + 32 + 1;
/// What of that says which file it was.
const INODE: usize = 3 * 8 + 2 * 12;
/// A record that nobody asked for in this many rewritings of the file is dropped.
const OLDEST: u8 = 32;

/// The SHA-256 of a file's content.
pub type ContentHash = [u8; 32];

/// The remembered hashes of one context directory.
#[derive(Debug, Default)]
pub struct StatCache {
    /// Where they are kept; `None` when they are not.
    path: Option<PathBuf>,
    /// The file as it was read, without its checksum.
    bytes: Vec<u8>,
    /// Where the records start, in the order of their paths.
    starts: Vec<u32>,
    /// Which of them were asked for.
    used: Vec<bool>,
    /// Paths are mostly asked for in order, so the next one is looked for here first.
    next: usize,
    /// What was hashed since, by path.
    fresh: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl StatCache {
    /// Reads what is remembered of the context directory at `context`. What is missing, damaged or of
    /// another version is as good as empty.
    pub fn load(store: &Store, context: &Path) -> StatCache {
        // However the directory is named, it is one; and `.` is another one elsewhere.
        let context = context.canonicalize().unwrap_or_else(|_| context.to_owned());
        let name = Digest::of(context.as_os_str().as_bytes()).hex();
        let path = store.cache_path("context").join(name);
        let mut cache = StatCache::default();
        if let Some((bytes, starts)) = std::fs::read(&path).ok().and_then(parse) {
            cache.used = vec![false; starts.len()];
            (cache.bytes, cache.starts) = (bytes, starts);
        }
        cache.path = Some(path);
        cache
    }

    /// A cache that remembers nothing beyond its own life.
    pub fn disabled() -> StatCache {
        StatCache::default()
    }

    /// The hash of the file at `path` in the context, if it is known and the file is still the same.
    pub fn get(&mut self, path: &[u8], stat: &Stat) -> Option<ContentHash> {
        if let Some(fields) = self.fresh.get(path) {
            return decode(fields, stat);
        }
        let at = self.position(path)?;
        self.next = at + 1;
        self.used[at] = true;
        decode(fields_at(&self.bytes, self.starts[at]), stat)
    }

    /// Remembers the hash of a file, unless it may yet be written to without its times showing it.
    /// `stat` was taken after reading, `when` is [`clock`] before.
    pub fn remember(&mut self, path: &[u8], stat: &Stat, hash: ContentHash, when: Time) {
        if path.len() <= usize::from(u16::MAX) && settled(stat, when) {
            self.fresh.insert(path.to_owned(), [&times_and_inode(stat)[..], &hash].concat());
        }
    }

    /// Writes what was learned, if anything was.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&mut self, store: &Store) -> Result<(), StoreError> {
        let Some(path) = self.path.clone().filter(|_| !self.fresh.is_empty()) else { return Ok(()) };
        let bytes = self.merged();
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(StoreError::io("cannot create", parent))?;
        }
        store.replace(&path, &bytes)?;
        let (bytes, starts) = parse(bytes).unwrap_or_default();
        *self = StatCache {
            path: Some(path),
            used: vec![true; starts.len()],
            bytes,
            starts,
            ..Default::default()
        };
        Ok(())
    }

    /// The file with all that is known now.
    fn merged(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len() + self.fresh.len() * (FIXED + 64));
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[0; 4]);
        let mut count = 0u32;
        let mut push = |path: &[u8], fields: &[u8], age: u8| {
            out.extend_from_slice(&(path.len() as u16).to_le_bytes());
            out.extend_from_slice(path);
            out.extend_from_slice(&fields[..FIXED - 3]);
            out.push(age);
            count += 1;
        };
        let mut fresh = self.fresh.iter().peekable();
        for (&start, used) in self.starts.iter().zip(&self.used) {
            let (path, fields) = (path_at(&self.bytes, start), fields_at(&self.bytes, start));
            while let Some((new, fields)) = fresh.next_if(|(new, _)| new.as_slice() < path) {
                push(new, fields, 0);
            }
            if fresh.peek().is_some_and(|(new, _)| new.as_slice() == path) {
                continue;
            }
            let age = if *used { 0 } else { fields[FIXED - 3] + 1 };
            if age < OLDEST {
                push(path, fields, age);
            }
        }
        fresh.for_each(|(new, fields)| push(new, fields, 0));
        out[MAGIC.len()..MAGIC.len() + 4].copy_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out
    }

    fn position(&self, path: &[u8]) -> Option<usize> {
        if self.starts.get(self.next).is_some_and(|&start| path_at(&self.bytes, start) == path) {
            return Some(self.next);
        }
        self.starts.binary_search_by(|&start| path_at(&self.bytes, start).cmp(path)).ok()
    }
}

/// The time of day.
pub fn clock() -> Time {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time { sec: now.as_secs() as i64, nsec: now.subsec_nanos() }
}

/// Whether a file that `stat` was true of while it was read, beginning `when`, can no longer be written to
/// without a change of its times.
///
/// The change time alone would do where the kernel keeps it; the modification time covers file systems that
/// keep no true change time.
pub fn settled(stat: &Stat, when: Time) -> bool {
    // Files get the time of the last tick, which lies up to 10 ms (HZ=100) behind the clock. File
    // systems that count in whole seconds, or in two (FAT), lose as much again.
    let coarse = stat.ctime.nsec == 0 || stat.mtime.nsec == 0;
    let tick: i128 = if coarse { 2_020_000_000 } else { 20_000_000 };
    let nanos = |time: Time| i128::from(time.sec) * 1_000_000_000 + i128::from(time.nsec);
    nanos(stat.ctime.max(stat.mtime)) + tick < nanos(when)
}

/// What a file must still be for its hash to hold, as the file has it.
fn times_and_inode(stat: &Stat) -> [u8; INODE] {
    let mut out = [0; INODE];
    for (place, number) in out.chunks_exact_mut(8).zip([stat.dev, stat.ino, stat.size]) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    for (place, time) in out[24..].chunks_exact_mut(12).zip([stat.mtime, stat.ctime]) {
        place[..8].copy_from_slice(&time.sec.to_le_bytes());
        place[8..].copy_from_slice(&time.nsec.to_le_bytes());
    }
    out
}

/// The hash in a record's fields, if they are those of `stat`.
fn decode(fields: &[u8], stat: &Stat) -> Option<ContentHash> {
    let hash = fields.strip_prefix(&times_and_inode(stat))?;
    hash.first_chunk().copied()
}

fn path_at(bytes: &[u8], start: u32) -> &[u8] {
    let start = start as usize;
    let length = usize::from(u16::from_le_bytes([bytes[start], bytes[start + 1]]));
    &bytes[start + 2..start + 2 + length]
}

fn fields_at(bytes: &[u8], start: u32) -> &[u8] {
    let end = start as usize + 2 + path_at(bytes, start).len();
    &bytes[end..end + FIXED - 2]
}

/// Checks a file; gives it without the checksum, and where its records start.
fn parse(mut bytes: Vec<u8>) -> Option<(Vec<u8>, Vec<u32>)> {
    let body = bytes.len().checked_sub(4)?;
    let sum = u32::from_le_bytes(bytes[body..].try_into().ok()?);
    bytes.truncate(body);
    if crc32fast::hash(&bytes) != sum || u32::try_from(body).is_err() {
        return None;
    }
    let count = bytes.strip_prefix(MAGIC)?.first_chunk::<4>().copied().map(u32::from_le_bytes)?;
    let mut at = MAGIC.len() + 4;
    let mut starts = Vec::with_capacity((count as usize).min(body / FIXED));
    for _ in 0..count {
        let length = usize::from(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        starts.push(at as u32);
        at += FIXED + length;
    }
    (at == body).then_some((bytes, starts))
}

#[cfg(test)]
mod tests;
