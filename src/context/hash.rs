//! A selection → a digest: what a COPY step's cache key says of its sources.
//!
//! The digest covers what a COPY can make visible in an image and nothing else. So modification times are
//! out (as in BuildKit: a fresh clone of a repository must hit), and so are owners, which COPY resets, the
//! mode and name of a directory whose content is copied, and what `user.*` attributes say.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use cooper_runtime::sys::fs::{self, FileKind, Stat};

use super::select::{ItemKind, Origin, SelectError, Selection};
use super::stat_cache::{ContentHash, StatCache, clock};
use super::threads;
use super::tree::{Cursor, SourceTree};
use sha2::{Digest as _, Sha256};

use crate::image::Digest;

/// Changes with every change of what is hashed.
const FORMAT: &[u8] = b"cooper copy 1";
/// Below this much work starting a thread costs more than it saves.
const PARALLEL_FILES: usize = 64;
const PARALLEL_BYTES: u64 = 4 << 20;
/// As many files as a thread takes at once: neighbours share the directories that it has open.
const BATCH: usize = 32;

impl Selection {
    /// The digest of all that a COPY of this selection can make visible. Contents of files in a build
    /// context that `cache` remembers are not read.
    ///
    /// Threads that are started for it are gone when it returns.
    ///
    /// # Errors
    /// When a file cannot be read, or is being written to.
    pub fn digest(&self, cache: &mut StatCache) -> Result<Digest, SelectError> {
        let contents = self.contents(cache)?;
        let mut contents = contents.iter();
        let mut hash = Canonical(Sha256::new(), Vec::with_capacity(BUFFER));
        hash.bytes(FORMAT);
        hash.number(self.sources.len() as u64);
        for source in &self.sources {
            let directory = source.is_directory();
            hash.bytes(if directory { b"" } else { &source.name });
            hash.number(source.items.len() as u64);
            for (at, item) in source.items.iter().enumerate() {
                hash.bytes(&item.path);
                let mode = u64::from(item.stat.mode);
                match &item.kind {
                    ItemKind::Directory if item.on_the_way => hash.tagged(b'w', mode),
                    ItemKind::Directory => hash.tagged(b'd', if at == 0 { 0 } else { mode }),
                    ItemKind::File => {
                        hash.tagged(b'f', mode);
                        if let Some(content) = contents.next() {
                            hash.bytes(content);
                        }
                        hash.bytes(item.capability.as_deref().unwrap_or_default());
                    }
                    ItemKind::Hardlink(first) => hash.tagged(b'h', *first as u64),
                    ItemKind::Symlink(target) => {
                        hash.tagged(b'l', 0);
                        hash.bytes(target);
                    }
                    ItemKind::Socket => hash.tagged(b's', mode),
                    ItemKind::Fifo => hash.tagged(b'p', mode),
                    ItemKind::CharDevice(major, minor) => {
                        hash.tagged(b'c', mode);
                        hash.tagged(b' ', u64::from(*major));
                        hash.tagged(b' ', u64::from(*minor));
                    }
                    ItemKind::BlockDevice(major, minor) => {
                        hash.tagged(b'b', mode);
                        hash.tagged(b' ', u64::from(*major));
                        hash.tagged(b' ', u64::from(*minor));
                    }
                }
            }
        }
        Ok(hash.finish())
    }

    /// The digests of the regular files, in order.
    fn contents(&self, cache: &mut StatCache) -> Result<Vec<ContentHash>, SelectError> {
        let empty = Sha256::digest(b"").into();
        let mut digests = Vec::new();
        let mut unknown: Vec<Unknown<'_>> = Vec::new();
        let mut location = Vec::new();
        for source in &self.sources {
            for item in source.items.iter().filter(|item| item.kind == ItemKind::File) {
                let tree = match &source.origin {
                    Origin::Tree(tree) => tree,
                    Origin::Text(text) => {
                        digests.push(Sha256::digest(text).into());
                        continue;
                    }
                };
                source.locate(item, &mut location);
                let known = match item.stat.size {
                    0 => Some(empty),
                    _ if tree.is_context() => cache.get(&location, &item.stat),
                    _ => None,
                };
                match known {
                    Some(digest) => digests.push(digest),
                    None => {
                        let location = location.clone();
                        unknown.push(Unknown { at: digests.len(), tree, location, stat: item.stat });
                        digests.push(empty);
                    }
                }
            }
        }
        for files in unknown.chunk_by(|a, b| a.tree.is(b.tree)) {
            let tree = files[0].tree;
            for (at, hashed) in hash_all(tree, files)? {
                let file = &files[at];
                digests[file.at] = hashed.content;
                if tree.is_context() {
                    cache.remember(&file.location, &hashed.stat, hashed.content, hashed.when);
                }
            }
        }
        Ok(digests)
    }
}

/// A file whose content has to be read.
struct Unknown<'t> {
    /// Where its digest belongs.
    at: usize,
    tree: &'t SourceTree,
    location: Vec<u8>,
    stat: Stat,
}

/// What came out.
struct Hashed {
    content: ContentHash,
    /// What the open file said of itself.
    stat: Stat,
    /// When reading began.
    when: fs::Time,
}

/// Hashes all `files`; the results name them by index, in any order.
fn hash_all(tree: &SourceTree, files: &[Unknown<'_>]) -> Result<Vec<(usize, Hashed)>, SelectError> {
    let bytes: u64 = files.iter().map(|file| file.stat.size).sum();
    let threads = match files.len() {
        0 => return Ok(Vec::new()),
        1 => 1,
        few if few < PARALLEL_FILES && bytes < PARALLEL_BYTES => 1,
        many => threads::of(many),
    };
    let batch = BATCH.min(files.len().div_ceil(threads));
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(files.len()));
    let failed = Mutex::new(None::<(usize, SelectError)>);
    let work = || {
        let mut cursor = Cursor::new(tree.root());
        let mut own = Vec::new();
        let mut buffer = vec![0u8; 128 << 10];
        loop {
            let start = next.fetch_add(batch, Ordering::Relaxed);
            if start >= files.len() {
                break;
            }
            for (at, file) in (start..).zip(&files[start..files.len().min(start + batch)]) {
                match hash_file(tree, &mut cursor, file, &mut buffer) {
                    Ok(hashed) => own.push((at, hashed)),
                    Err(error) => {
                        // The first in order is told, whichever thread fails first: a message must
                        // not change from run to run. Earlier batches are all under way by now.
                        next.store(files.len(), Ordering::Relaxed);
                        let mut failed = failed.lock().unwrap_or_else(|e| e.into_inner());
                        if failed.as_ref().is_none_or(|(known, _)| at < *known) {
                            *failed = Some((at, error));
                        }
                        break;
                    }
                }
            }
        }
        results.lock().unwrap_or_else(|e| e.into_inner()).append(&mut own);
    };
    threads::scoped(threads, work);
    match failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some((_, error)) => Err(error),
        None => Ok(results.into_inner().unwrap_or_else(|e| e.into_inner())),
    }
}

fn hash_file(
    tree: &SourceTree,
    cursor: &mut Cursor<'_>,
    file: &Unknown<'_>,
    buffer: &mut [u8],
) -> Result<Hashed, SelectError> {
    let io = |e| SelectError::io(tree, &file.location, e);
    let when = clock();
    let mut open =
        cursor.parent(&file.location).and_then(|(dir, name)| fs::open_file_at(dir, name)).map_err(io)?;
    let mut hasher = Sha256::new();
    loop {
        match open.read(buffer) {
            Ok(0) => break,
            Ok(got) => hasher.update(&buffer[..got]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(io(e)),
        }
    }
    let stat = fs::stat(open.as_fd()).map_err(io)?;
    if !unchanged(&file.stat, &stat) {
        let path = String::from_utf8_lossy(&file.location).into_owned();
        return Err(SelectError::Changed { path, tree: tree.name().to_owned() });
    }
    Ok(Hashed { content: hasher.finalize().into(), stat, when })
}

/// Whether a file is still what it was when it was selected. Not by its change time, which a new hard
/// link moves as well, nor by its inode number, which is not stable on every overlay.
pub fn unchanged(before: &Stat, now: &Stat) -> bool {
    now.kind == FileKind::File && (before.size, before.mtime) == (now.size, now.mtime)
}

const BUFFER: usize = 16 << 10;

/// Hashes fields so that no two lists of fields give the same bytes.
struct Canonical(Sha256, Vec<u8>);

impl Canonical {
    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.1.extend_from_slice(bytes);
        if self.1.len() >= BUFFER {
            self.0.update(&self.1);
            self.1.clear();
        }
    }

    fn tagged(&mut self, tag: u8, number: u64) {
        self.1.push(tag);
        self.number(number);
    }

    fn number(&mut self, number: u64) {
        self.1.extend_from_slice(&number.to_le_bytes());
    }

    fn finish(mut self) -> Digest {
        self.0.update(&self.1);
        Digest::from_bytes(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests;
