//! Where a tar is cut for compression: at places that its content chooses.
//!
//! A tar is made of blocks of 512 bytes, and whatever is changed in it moves what follows by whole blocks.
//! So a place to cut is told by the block before it alone: a mix of a few of its words hits one value in
//! [`CHANCE`]. When a file is changed, the cuts far from it stay where they were in their content, and the
//! chunks between them are the same bytes as before. The first [`MIN`] bytes of a chunk are not looked at,
//! and at [`MAX`] it ends in any case. A block of zeros never ends one, so that the inside of a hole is
//! chunks of MAX zeros.
//!
//! Without any structure in the bytes the mean is 512 KiB. That no chunk can refer to the one before makes a blob of Debian's
//! files 0.3 % larger.

/// What a tar is made of.
const BLOCK: usize = 512;
/// The least that a chunk has, but for the last.
const MIN: usize = 256 << 10;
/// The most.
pub(super) const MAX: usize = 1 << 20;
/// One block in 2 to the power of this ends a chunk.
const CHANCE: u32 = 9;
/// Bytes taken at a time: what lies behind a cut is copied twice.
const STEP: usize = 32 << 10;

/// Takes the bytes of a tar and gives chunks.
pub(super) struct Chunker {
    chunk: Vec<u8>,
    /// Up to here it has been looked at: a multiple of [`BLOCK`].
    seen: usize,
    full: bool,
}

impl Chunker {
    pub(super) fn new() -> Self {
        Self { chunk: Vec::new(), seen: MIN - BLOCK, full: false }
    }

    /// Takes one or more of `bytes`, unless there are none, and says how many. A chunk that is full then
    /// must be [taken](Self::take) before more is given.
    pub(super) fn fill(&mut self, bytes: &[u8]) -> usize {
        let had = self.chunk.len();
        let taken = bytes.len().min(MAX - had).min(STEP);
        self.chunk.extend_from_slice(&bytes[..taken]);
        while let Some(block) = self.chunk.get(self.seen..self.seen + BLOCK) {
            self.seen += BLOCK;
            if ends_chunk(block) {
                self.chunk.truncate(self.seen);
                self.full = true;
                break;
            }
        }
        self.full |= self.chunk.len() == MAX;
        self.chunk.len() - had
    }

    /// Whether the chunk has reached its end.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// Gives the chunk as it is; the next is collected in `buffer`.
    pub(super) fn take(&mut self, mut buffer: Vec<u8>) -> Vec<u8> {
        buffer.clear();
        let chunk = std::mem::replace(&mut self.chunk, buffer);
        *self = Self { chunk: std::mem::take(&mut self.chunk), ..Self::new() };
        chunk
    }
}

/// Whether a chunk ends behind this block.
fn ends_chunk(block: &[u8]) -> bool {
    // In a header these are the name, the last digits of the time with the checksum, and the target.
    const WORDS: [usize; 8] = [0, 64, 144, 208, 272, 336, 400, 464];
    let mut mix = 0u64;
    for at in WORDS {
        let word = u64::from_le_bytes(block[at..at + 8].try_into().expect("eight bytes"));
        mix = (mix.rotate_left(23) ^ word).wrapping_mul(0x9E37_79B1_85EB_CA87);
    }
    // From 1 on: zeros give 0, and so do most blocks that are as good as empty.
    mix >> (64 - CHANCE) == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(bytes: &[u8], write: usize) -> Vec<Vec<u8>> {
        let mut chunker = Chunker::new();
        let mut chunks = Vec::new();
        for mut bytes in bytes.chunks(write) {
            while !bytes.is_empty() {
                bytes = &bytes[chunker.fill(bytes)..];
                if chunker.is_full() {
                    chunks.push(chunker.take(Vec::new()));
                }
            }
        }
        chunks.push(chunker.take(Vec::new()));
        chunks
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut step = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state ^ state >> 32).to_le_bytes()
        };
        (0..len / 8).flat_map(|_| step()).chain(vec![7; len % 8]).collect()
    }

    #[test]
    fn chunks_are_the_whole_and_have_the_sizes_promised() {
        let data = noise(24 << 20);
        let chunks = cut(&data, 1 << 20);
        assert!(chunks.concat() == data);
        let (last, others) = chunks.split_last().unwrap();
        assert!(last.len() <= MAX && others.iter().all(|c| (MIN..=MAX).contains(&c.len())));
        assert!(others.iter().all(|c| c.len().is_multiple_of(BLOCK)));
        let mean = others.iter().map(Vec::len).sum::<usize>() / others.len();
        assert!((420 << 10..600 << 10).contains(&mean), "{mean}");
        for write in [1, 511, 513, 10_000, 3 << 20] {
            let some = &data[..if write == 1 { 1 << 20 } else { 5 << 20 }];
            assert!(cut(some, write) == cut(some, 512), "writes of {write}");
        }
    }

    #[test]
    fn a_change_moves_no_cut_far_from_it() {
        let data = noise(12 << 20);
        let before = cut(&data, 1 << 16);
        let mut changes = Vec::new();
        for (at, block) in [(0, 3), (5000, 1), (12_000, 7)] {
            let mut longer = data.clone();
            longer.splice(at * BLOCK..at * BLOCK, noise(block * BLOCK));
            changes.push(longer);
            let mut shorter = data.clone();
            shorter.drain(at * BLOCK..(at + block) * BLOCK);
            changes.push(shorter);
            let mut other = data.clone();
            other[at * BLOCK] ^= 1;
            changes.push(other);
        }
        for changed in changes {
            let after = cut(&changed, 1 << 16);
            let new = after.iter().filter(|c| !before.contains(c)).count();
            assert!(new <= 4, "{new} of {} chunks are new", after.len());
        }
    }

    #[test]
    fn nothing_is_cut_inside_zeros() {
        let chunks = cut(&[noise(700_000), vec![0; 9 << 20]].concat(), 4096);
        let inside = chunks.iter().filter(|c| c.iter().all(|b| *b == 0));
        assert!(inside.clone().count() >= 8);
        assert!(inside.take(7).all(|c| c.len() == MAX));
    }
}
