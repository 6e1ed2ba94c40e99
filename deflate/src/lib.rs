//! A deflate encoder (RFC 1951) made for the layers of container images.
//!
//! It does one thing: a chunk of bytes in memory becomes a *segment*, a row of deflate blocks of which
//! none is the last, that ends on a byte boundary and refers to nothing outside of itself. Segments put
//! one after another, and [`END`] behind them, are one deflate stream. So chunks can be compressed by any
//! number of threads, and a segment that was made once can be used again.
//!
//! The bytes depend on the chunk and on this source alone, not on the processor and on nothing that the
//! encoder has seen before.
//!
//! What it trades: a match is taken where one is found, without a look whether the next byte would start
//! a longer one, and of all earlier places with the same four bytes only the last is known. That and
//! dynamic Huffman codes give what `gzip -2` gives, several times as fast. Where nothing is found for
//! [`DULL_RUN`] bytes, only every [`DULL_STRIDE`]th place is tried until something is found again: bytes
//! that are compressed already pass at the speed of a copy.
#![forbid(unsafe_code)]

mod block;
mod huffman;
mod symbols;

use block::{Block, MAX_TOKENS};

/// What ends a stream of segments: an empty block that is the last.
pub const END: [u8; 2] = [3, 0];

const HASH_BITS: u32 = 14;
/// How far back a match may lie. (The format would allow one more.)
const MAX_DISTANCE: usize = 32767;
/// The longest match.
const MAX_LENGTH: usize = 258;
/// The loops read this far past where they are.
const MARGIN: usize = 16;
/// Bytes of a block before its last match. A stored block cannot have more than 65535 bytes.
const MAX_BLOCK: usize = 65535 - MAX_LENGTH;
/// So many bytes without a match are a stretch of their own.
const DULL_RUN: usize = 512;
/// Which places in such a stretch are tried.
const DULL_STRIDE: usize = 16;

/// Compresses chunks, one after another.
pub struct Encoder {
    /// The last place where four bytes with this hash were seen, modulo 65536. What it says is
    /// compared before it is believed, so an old place does no harm.
    places: Box<[u16; 1 << HASH_BITS]>,
    block: Block,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// Takes about 170 KiB.
    pub fn new() -> Self {
        Self { places: Box::new([0; 1 << HASH_BITS]), block: Block::new() }
    }

    /// Appends the segment for `chunk` to `out`. It is at most 5 bytes larger than the chunk for
    /// each 512 bytes of it, and 6 more; zeros shrink to less than a six-hundredth.
    pub fn segment(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        self.places.fill(0);
        let mut at = 0;
        while at < chunk.len() {
            let (end, mut dull) = self.matched(chunk, at);
            self.block.emit(&chunk[at..end], out);
            at = end;
            while dull {
                let end;
                (end, dull) = self.dull(chunk, at);
                self.block.emit_literals(&chunk[at..end], out);
                at = end;
            }
        }
        self.block.sync(out);
    }

    /// Collects a block from `start` on. Returns where it ends, and whether a dull stretch begins there.
    fn matched(&mut self, chunk: &[u8], start: usize) -> (usize, bool) {
        let places = &mut *self.places;
        let block = &mut self.block;
        block.clear();
        let limit = chunk.len().saturating_sub(MARGIN).min(start + MAX_BLOCK);
        let mut at = start;
        let mut after_match = start;
        while at < limit && block.tokens() < MAX_TOKENS - MARGIN {
            let word = load(chunk, at);
            let Some(distance) = earlier(places, chunk, at, word) else {
                block.literal(word as u8);
                at += 1;
                if at - after_match == DULL_RUN {
                    block.take_back(&chunk[after_match..at]);
                    return (after_match, true);
                }
                continue;
            };
            let length = 4 + match load(chunk, at - distance + 4) ^ load(chunk, at + 4) {
                0 => 8 + common(chunk, at - distance + 12, at + 12),
                differs => (differs.trailing_zeros() / 8) as usize,
            };
            block.pair(length, distance);
            let next = at + length;
            // Of the places inside of the match, the first and the last: all would take longer than
            // what they find is worth.
            places[hash(load(chunk, at + 1))] = (at + 1) as u16;
            if next + 7 <= chunk.len() {
                places[hash(load(chunk, next - 1))] = (next - 1) as u16;
            }
            at = next;
            after_match = next;
        }
        if at >= limit && chunk.len() - at <= MARGIN {
            chunk[at..].iter().for_each(|byte| block.literal(*byte));
            at = chunk.len();
        }
        (at, false)
    }

    /// Looks for the end of a dull stretch. Returns it, and whether it goes on there.
    fn dull(&mut self, chunk: &[u8], start: usize) -> (usize, bool) {
        let limit = chunk.len().saturating_sub(MARGIN).min(start + MAX_TOKENS);
        let mut at = start;
        while at < limit {
            if earlier(&mut self.places, chunk, at, load(chunk, at)).is_some() {
                return (at, false);
            }
            at += DULL_STRIDE;
        }
        match start + MAX_TOKENS < chunk.len() {
            true => (start + MAX_TOKENS, true),
            false => (chunk.len(), false),
        }
    }
}

/// How far back from `at` the four bytes there, the lower half of `word`, were seen last; and notes that
/// they were seen here.
#[inline(always)]
fn earlier(places: &mut [u16; 1 << HASH_BITS], chunk: &[u8], at: usize, word: u64) -> Option<usize> {
    let place = &mut places[hash(word)];
    let distance = usize::from((at as u16).wrapping_sub(*place));
    *place = at as u16;
    // Without a branch for each condition: none of them can be foretold.
    let near = (distance.wrapping_sub(1) < MAX_DISTANCE) & (distance <= at);
    let same = load(chunk, at.saturating_sub(distance)) as u32 == word as u32;
    (near & same).then_some(distance)
}

#[inline(always)]
fn hash(word: u64) -> usize {
    ((word << 32).wrapping_mul(0x9E37_79B1_85EB_CA87) >> (64 - HASH_BITS)) as usize
}

#[inline(always)]
fn load(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// How many bytes from `one` and from `other` on are the same, as far as a match that has 12 may go on.
fn common(bytes: &[u8], one: usize, other: usize) -> usize {
    let most = (MAX_LENGTH - 12).min(bytes.len() - other);
    let mut same = 0;
    while same + 8 <= most {
        let differs = load(bytes, one + same) ^ load(bytes, other + same);
        if differs != 0 {
            return same + (differs.trailing_zeros() / 8) as usize;
        }
        same += 8;
    }
    while same < most && bytes[one + same] == bytes[other + same] {
        same += 1;
    }
    same
}
