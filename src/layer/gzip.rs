//! One gzip member, compressed by several threads.
//!
//! The input is cut into [chunks](super::chunk). Each becomes deflate blocks that refer to nothing
//! before them and end on a byte boundary; one behind the other, and an empty last block behind all, they are
//! one deflate stream. So no chunk has to wait for another, and equal chunks of two layers are equal
//! bytes in both blobs. It is one member, as pigz makes it: RFC 1952 allows several, but Python's `tarfile`
//! reading from a stream stops after the first.
//!
//! Level 1, the default, is `cooper-deflate`; 0 (stored) and 2 to 9 are zlib's, by zlib-rs.
//!
//! Measured on 100 MB of Debian's programs and libraries, on a mix of machine code and what does not compress
//! (127 MB; Buildah 1.28 makes 62.1 MB of it) and on random bytes; seconds of one core for 100 MB, with
//! others busy beside it:
//!
//! | | programs | MB | mix | MB | random |
//! |---|---|---|---|---|---|
//! | `gzip:1` | 0.48 | 32.4 | 0.73 | 64.3 | 0.12 |
//! | libdeflate 1.26, level 1 | 0.68 | 30.9 | 1.07 | 62.4 | 1.22 |
//! | `gzip:2` | 1.03 | 31.6 | 1.76 | 63.1 | 2.67 |
//! | `gzip:3` | 1.31 | 30.3 | 2.12 | 61.6 | 2.90 |
//! | `gzip:6` | 2.65 | 29.2 | 3.39 | 60.7 | 3.44 |
//!
//! (libdeflate ends its stream with each buffer; its chunks would have to be members.)

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use cooper_deflate::{END, Encoder};
use crc32fast::Hasher;
use flate2::{Compress, FlushCompress};

use super::chunk::{self, Chunker};
use super::reuse::{self, KnownSegments, SegmentKey};

/// So many chunks are kept back, and compressed in the caller's thread if there are no more: starting
/// threads costs more.
const FEW: usize = 2;

/// Writes one gzip member to `W`.
pub(super) struct ParallelGzip<W: Write> {
    out: W,
    level: u32,
    workers: usize,
    known: Option<Arc<dyn KnownSegments>>,
    chunker: Chunker,
    /// The first chunks, until there are enough to make threads worth their while.
    few: Vec<Vec<u8>>,
    pool: Option<Pool>,
    tail: Tail,
}

/// What has gone out.
struct Tail {
    /// Bytes of the blob.
    written: u64,
    /// Of the input.
    crc: Hasher,
    length: u64,
}

/// A chunk compressed.
struct Segment {
    deflated: Vec<u8>,
    crc: Hasher,
    /// The chunk's buffer, to be used again.
    spent: Vec<u8>,
    /// The chunk's key and the digest of `deflated`, if it may be used again.
    reusable: Option<(SegmentKey, [u8; 32])>,
}

impl<W: Write> ParallelGzip<W> {
    pub(super) fn new(
        mut out: W,
        level: u32,
        workers: usize,
        known: Option<Arc<dyn KnownSegments>>,
    ) -> io::Result<Self> {
        // RFC 1952: magic, deflate, no flags, no time, no hints, and 255 for "unknown" as the system
        // it was made on, so that the header says nothing about when and where.
        const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
        out.write_all(&HEADER)?;
        Ok(Self {
            out,
            level,
            workers,
            known,
            chunker: Chunker::new(),
            few: Vec::new(),
            pool: None,
            tail: Tail { written: HEADER.len() as u64, crc: Hasher::new(), length: 0 },
        })
    }

    pub(super) fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            bytes = &bytes[self.chunker.fill(bytes)..];
            if self.chunker.is_full() {
                self.submit()?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        let last = Some(self.chunker.take(Vec::new())).filter(|chunk| !chunk.is_empty());
        match self.pool.take() {
            Some(mut pool) => {
                last.map_or(Ok(()), |chunk| pool.send(chunk))?;
                while let Some(segment) = pool.next()? {
                    self.tail.emit(&mut self.out, self.known.as_deref(), &segment)?;
                }
                pool.join()?;
            }
            None => {
                let mut compressor = Compressor::new(self.level, None);
                for chunk in self.few.drain(..).chain(last) {
                    self.tail.emit(&mut self.out, None, &compressor.segment(chunk)?)?;
                }
            }
        }
        let (crc, length) = (self.tail.crc.finalize(), self.tail.length);
        self.out.write_all(&END)?;
        self.out.write_all(&crc.to_le_bytes())?;
        self.out.write_all(&(length as u32).to_le_bytes())?;
        Ok(self.out)
    }

    fn submit(&mut self) -> io::Result<()> {
        let mut next = Vec::new();
        if let Some(pool) = &mut self.pool {
            // One chunk in work and one waiting for each worker is all the memory this takes.
            let room = 2 * self.workers;
            while let Some(segment) = pool.next_if(room)? {
                self.tail.emit(&mut self.out, self.known.as_deref(), &segment)?;
                next = segment.spent;
            }
        }
        let chunk = self.chunker.take(next);
        if let Some(pool) = &mut self.pool {
            return pool.send(chunk);
        }
        self.few.push(chunk);
        if self.few.len() > FEW {
            let mut pool = Pool::start(self.workers, self.level, self.known.as_ref())?;
            self.few.drain(..).try_for_each(|chunk| pool.send(chunk))?;
            self.pool = Some(pool);
        }
        Ok(())
    }
}

impl Tail {
    fn emit(
        &mut self,
        out: &mut impl Write,
        known: Option<&dyn KnownSegments>,
        segment: &Segment,
    ) -> io::Result<()> {
        out.write_all(&segment.deflated)?;
        if let (Some(known), Some((key, digest))) = (known, segment.reusable) {
            let (offset, length) = (self.written, segment.deflated.len() as u32);
            known.note(reuse::Segment { key, digest, offset, length });
        }
        self.crc.combine(&segment.crc);
        self.length += segment.spent.len() as u64;
        self.written += segment.deflated.len() as u64;
        Ok(())
    }
}

/// What a thread compresses with.
struct Compressor {
    level: u32,
    fast: Option<Encoder>,
    known: Option<Arc<dyn KnownSegments>>,
}

impl Compressor {
    fn new(level: u32, known: Option<Arc<dyn KnownSegments>>) -> Self {
        Self { level, fast: (level == 1).then(Encoder::new), known }
    }

    /// A hole of a sparse file is gigabytes of one chunk of zeros after another: what is the same is
    /// compressed once. (Little is kept, as zeros compress to less than a six-hundredth.)
    fn segment(&mut self, chunk: Vec<u8>) -> io::Result<Segment> {
        static ZEROS: [OnceLock<Segment>; 10] = [const { OnceLock::new() }; 10];
        let known = ZEROS.get(self.level as usize).filter(|_| is_inside_zeros(&chunk));
        if let Some(segment) = known.and_then(OnceLock::get) {
            let (deflated, crc) = (segment.deflated.clone(), segment.crc.clone());
            return Ok(Segment { deflated, crc, spent: chunk, reusable: None });
        }
        let Some(known) = known else { return self.found_or_compressed(chunk) };
        let segment = self.compressed(chunk)?;
        let (deflated, crc) = (segment.deflated.clone(), segment.crc.clone());
        let _ = known.set(Segment { deflated, crc, spent: Vec::new(), reusable: None });
        Ok(segment)
    }

    fn found_or_compressed(&mut self, chunk: Vec<u8>) -> io::Result<Segment> {
        let Some(known) = &self.known else { return self.compressed(chunk) };
        let key = reuse::gzip_key(self.level, &chunk);
        if let Some((deflated, digest)) = known.find(&key) {
            return Ok(Segment { deflated, crc: crc(&chunk), spent: chunk, reusable: Some((key, digest)) });
        }
        let segment = self.compressed(chunk)?;
        let digest = reuse::digest(&segment.deflated);
        Ok(Segment { reusable: Some((key, digest)), ..segment })
    }

    fn compressed(&mut self, chunk: Vec<u8>) -> io::Result<Segment> {
        let mut deflated = Vec::with_capacity(chunk.len() / 2 + 1024);
        match &mut self.fast {
            Some(encoder) => encoder.segment(&chunk, &mut deflated),
            None => zlib(&chunk, self.level, &mut deflated)?,
        }
        Ok(Segment { deflated, crc: crc(&chunk), spent: chunk, reusable: None })
    }
}

fn crc(bytes: &[u8]) -> Hasher {
    let mut crc = Hasher::new();
    crc.update(bytes);
    crc
}

/// Whether a chunk is full and of zeros.
fn is_inside_zeros(chunk: &[u8]) -> bool {
    // Each byte equals the one before it: a comparison that every build does fast.
    chunk.len() == chunk::MAX && chunk[0] == 0 && chunk[1..] == chunk[..chunk.len() - 1]
}

fn zlib(chunk: &[u8], level: u32, deflated: &mut Vec<u8>) -> io::Result<()> {
    // A fresh compressor for each chunk. zlib-rs 0.6.8 clears its window and hash chains when it is
    // made, not in `reset`, and what is left in them changes which matches it finds: the same chunk came
    // out a few bytes different depending on what its thread had compressed before.
    let mut deflate = Compress::new(flate2::Compression::new(level), false);
    loop {
        let taken = deflate.total_in() as usize;
        deflate.compress_vec(&chunk[taken..], deflated, FlushCompress::Sync).map_err(io::Error::other)?;
        // Room left over means that the compressor had no more to say.
        if deflated.len() < deflated.capacity() && deflate.total_in() as usize == chunk.len() {
            return Ok(());
        }
        deflated.reserve(deflated.capacity().max(1024));
    }
}

/// Threads that compress chunks, and the segments in the order in which the chunks came.
struct Pool {
    jobs: mpsc::Sender<Work>,
    results: VecDeque<Receiver<io::Result<Segment>>>,
    threads: Vec<JoinHandle<()>>,
}

type Work = (Vec<u8>, SyncSender<io::Result<Segment>>);

impl Pool {
    fn start(workers: usize, level: u32, known: Option<&Arc<dyn KnownSegments>>) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Work>();
        let queue = Arc::new(Mutex::new(queue));
        let threads = (0..workers)
            .map(|_| {
                let (queue, known) = (Arc::clone(&queue), known.cloned());
                thread::Builder::new()
                    .name("gzip".into())
                    .spawn(move || work(&queue, Compressor::new(level, known)))
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { jobs, results: VecDeque::new(), threads })
    }

    fn send(&mut self, chunk: Vec<u8>) -> io::Result<()> {
        let (reply, result) = mpsc::sync_channel(1);
        self.results.push_back(result);
        self.jobs.send((chunk, reply)).map_err(|_| worker_gone())
    }

    /// The next segment in order; `None` if none is under way.
    fn next(&mut self) -> io::Result<Option<Segment>> {
        match self.results.pop_front() {
            Some(result) => result.recv().map_err(|_| worker_gone())?.map(Some),
            None => Ok(None),
        }
    }

    /// The next segment in order if it is ready, or after waiting for it if `room` are under way.
    fn next_if(&mut self, room: usize) -> io::Result<Option<Segment>> {
        if self.results.len() >= room {
            return self.next();
        }
        match self.results.front().map(Receiver::try_recv) {
            None | Some(Err(TryRecvError::Empty)) => Ok(None),
            Some(Err(TryRecvError::Disconnected)) => Err(worker_gone()),
            Some(Ok(segment)) => {
                self.results.pop_front();
                segment.map(Some)
            }
        }
    }

    fn join(self) -> io::Result<()> {
        drop(self.jobs);
        self.threads.into_iter().try_for_each(|t| t.join().map_err(|_| worker_gone()))
    }
}

fn work(queue: &Mutex<Receiver<Work>>, mut compressor: Compressor) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((chunk, reply)) = next else { return };
        // No one listening means that the writer was dropped: nothing is lost.
        let _ = reply.send(compressor.segment(chunk));
    }
}

fn worker_gone() -> io::Error {
    io::Error::other("a compression thread ended before its work was done")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was compressed before must not show. Chunks here are short and many, as what a used
    /// compressor does otherwise it does at a chunk's ends.
    #[test]
    fn a_chunk_does_not_depend_on_those_before_it() {
        let text: Vec<u8> = (0..60_000u32)
            .flat_map(|i| format!("{:x} ", i.wrapping_mul(2_654_435_761) >> (i % 23)).into_bytes())
            .collect();
        for level in 0..=9 {
            let mut compressor = Compressor::new(level, None);
            let mut one = |i: usize| {
                let at = i * 137;
                compressor.segment(text[at..at + 500 + i % 97].to_vec()).unwrap().deflated
            };
            let up: Vec<_> = (0..1500).map(&mut one).collect();
            let mut down: Vec<_> = (0..1500).rev().map(&mut one).collect();
            down.reverse();
            let first = (0..1500).find(|i| up[*i] != down[*i]);
            assert_eq!(first, None, "level {level}");
        }
    }

    #[test]
    fn chunks_of_zeros_are_what_compressing_them_gives() {
        for level in 0..=9 {
            let zeros = || vec![0; chunk::MAX];
            assert!(is_inside_zeros(&zeros()));
            let mut compressor = Compressor::new(level, None);
            let expected = compressor.compressed(zeros()).unwrap();
            for _ in 0..2 {
                let segment = compressor.segment(zeros()).unwrap();
                assert!(segment.deflated == expected.deflated, "level {level}");
                assert_eq!(segment.crc.finalize(), expected.crc.clone().finalize());
                assert_eq!(segment.spent.len(), chunk::MAX, "the buffer is used again");
            }
        }
        // Their neighbours are not mistaken for them.
        let zeros = vec![0; chunk::MAX];
        for at in [0, 1, 4711, chunk::MAX - 1] {
            let mut other = zeros.clone();
            other[at] = 1;
            assert!(!is_inside_zeros(&other), "{at}");
        }
        assert!(!is_inside_zeros(&zeros[1..]) && !is_inside_zeros(&[]));
        assert!(!is_inside_zeros(&vec![1; chunk::MAX]));
    }
}
