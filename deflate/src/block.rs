//! A block: what it is made of is collected, counted, and written in the cheaper of two ways.

use crate::huffman::{Code, Header};
use crate::symbols::{
    DISTANCE_EXTRA, DISTANCES, END_OF_BLOCK, FIRST_LENGTH, LENGTH_BASE, LENGTH_EXTRA, LENGTH_SYMBOL,
    LITERALS, distance,
};

/// Literals and matches of a block.
pub(crate) const MAX_TOKENS: usize = 1 << 15;

/// The longest code for a literal or length: with it, a match never has more than 48 bits, and short
/// tables cost next to nothing.
const LITERAL_BITS: usize = 13;
const DISTANCE_BITS: usize = 15;

/// What a token's lowest bits are: a byte, or 256 and a length.
const CONTENT: usize = 1 << 10;
/// The distance symbol of a literal, which has a code of no bits. So the loop that writes tokens need not
/// tell them apart.
const NO_DISTANCE: u32 = 31;

/// A block in the making, and the last bits of the one before.
pub(crate) struct Block {
    /// From the lowest bit: 10 of content, 5 of a distance's symbol, 13 that follow that.
    tokens: Box<[u32; MAX_TOKENS]>,
    used: usize,
    contents: Box<[u32; CONTENT]>,
    distances: [u32; 32],
    /// Bits not written yet, the first lowest.
    bits: u64,
    pending: u32,
}

impl Block {
    pub(crate) fn new() -> Self {
        Self {
            tokens: Box::new([0; MAX_TOKENS]),
            used: 0,
            contents: Box::new([0; CONTENT]),
            distances: [0; 32],
            bits: 0,
            pending: 0,
        }
    }

    /// Begins a new block.
    pub(crate) fn clear(&mut self) {
        self.used = 0;
        self.contents.fill(0);
        self.distances.fill(0);
    }

    pub(crate) fn tokens(&self) -> usize {
        self.used
    }

    #[inline(always)]
    pub(crate) fn literal(&mut self, byte: u8) {
        self.contents[usize::from(byte)] += 1;
        self.push(u32::from(byte) | NO_DISTANCE << 10);
    }

    #[inline(always)]
    pub(crate) fn pair(&mut self, length: usize, back: usize) {
        let (symbol, extra) = distance(back as u32);
        self.contents[(256 + length) % CONTENT] += 1;
        self.distances[(symbol % 32) as usize] += 1;
        self.push((256 + length) as u32 | symbol << 10 | extra << 15);
    }

    #[inline(always)]
    fn push(&mut self, token: u32) {
        self.tokens[self.used % MAX_TOKENS] = token;
        self.used += 1;
    }

    /// Undoes the last tokens, which were these literals.
    pub(crate) fn take_back(&mut self, literals: &[u8]) {
        self.used -= literals.len();
        literals.iter().for_each(|byte| self.contents[usize::from(*byte)] -= 1);
    }

    /// Writes the block; `plain` is what its tokens stand for.
    pub(crate) fn emit(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        if plain.is_empty() {
            return;
        }
        match Codes::new(&self.contents, &self.distances).cheaper_than(plain.len()) {
            Some(codes) => self.coded(&codes, out),
            None => self.stored(plain, out),
        }
    }

    /// Writes a block without matches.
    pub(crate) fn emit_literals(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        if plain.is_empty() {
            return;
        }
        self.clear();
        count(plain, &mut self.contents);
        match Codes::new(&self.contents, &self.distances).cheaper_than(plain.len()) {
            Some(codes) => {
                for (token, byte) in self.tokens.iter_mut().zip(plain) {
                    *token = u32::from(*byte) | NO_DISTANCE << 10;
                }
                self.used = plain.len();
                self.coded(&codes, out);
            }
            None => self.stored(plain, out),
        }
    }

    /// Ends on a byte boundary, with an empty stored block.
    pub(crate) fn sync(&mut self, out: &mut Vec<u8>) {
        self.stored(&[], out);
    }

    fn stored(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        self.put(0b000, 3, out);
        self.put(0, self.pending.next_multiple_of(8) - self.pending, out);
        let length = plain.len() as u16;
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(plain);
    }

    fn coded(&mut self, codes: &Codes, out: &mut Vec<u8>) {
        self.put(0b100, 3, out);
        for (value, bits) in &codes.header.fields {
            self.put((*value).into(), (*bits).into(), out);
        }
        let contents = codes.contents();
        let distances = codes.distances();
        let (mut bits, mut pending) = (self.bits, self.pending);
        let mut at = out.len();
        out.resize(at + codes.cost() / 8 + 16, 0);
        for token in &self.tokens[..self.used] {
            let content = contents[*token as usize % CONTENT];
            bits |= u64::from(content.bits) << pending;
            pending += content.length;
            let distance = distances[(token >> 10) as usize % 32];
            let value = u64::from(distance.bits) | u64::from(token >> 15) << distance.shift;
            bits |= value << pending;
            pending += distance.length;
            out[at..at + 8].copy_from_slice(&bits.to_le_bytes());
            at += (pending / 8) as usize;
            bits >>= pending & 56;
            pending &= 7;
        }
        out.truncate(at);
        (self.bits, self.pending) = (bits, pending);
        self.put(codes.literals.bits[END_OF_BLOCK].into(), codes.literals.lengths[END_OF_BLOCK].into(), out);
    }

    fn put(&mut self, value: u64, bits: u32, out: &mut Vec<u8>) {
        self.bits |= value << self.pending;
        self.pending += bits;
        let whole = self.pending / 8;
        out.extend_from_slice(&self.bits.to_le_bytes()[..whole as usize]);
        self.bits >>= 8 * whole;
        self.pending %= 8;
    }
}

/// The codes that fit a block best, and what the block costs with them.
struct Codes {
    literals: Code<{ LITERALS }>,
    distances: Code<{ DISTANCES }>,
    header: Header,
    /// Bits of all tokens and the end.
    body: usize,
}

/// What is written for the content of a token.
#[derive(Clone, Copy, Default)]
struct Content {
    bits: u32,
    length: u32,
}

/// What is written for its distance: the code, and from bit `shift` on what follows it.
#[derive(Clone, Copy, Default)]
struct Distance {
    bits: u32,
    shift: u32,
    length: u32,
}

impl Codes {
    fn new(contents: &[u32; CONTENT], distances: &[u32; 32]) -> Self {
        let mut frequencies = [0; LITERALS];
        frequencies[..256].copy_from_slice(&contents[..256]);
        frequencies[END_OF_BLOCK] = 1;
        for (length, symbol) in LENGTH_SYMBOL.iter().enumerate().skip(3) {
            frequencies[FIRST_LENGTH + usize::from(*symbol)] += contents[256 + length];
        }
        let back: [u32; DISTANCES] = std::array::from_fn(|symbol| distances[symbol]);
        let literals = Code::new(&frequencies, LITERAL_BITS);
        let distances = Code::new(&back, DISTANCE_BITS);
        let bits = |frequency: &u32, length: u8| *frequency as usize * usize::from(length);
        let body = frequencies.iter().zip(literals.lengths).map(|(f, l)| bits(f, l)).sum::<usize>()
            + frequencies[FIRST_LENGTH..].iter().zip(LENGTH_EXTRA).map(|(f, l)| bits(f, l)).sum::<usize>()
            + back.iter().zip(distances.lengths).map(|(f, l)| bits(f, l)).sum::<usize>()
            + back.iter().zip(DISTANCE_EXTRA).map(|(f, l)| bits(f, l)).sum::<usize>();
        let header = Header::new(&literals.lengths, &distances.lengths);
        Self { literals, distances, header, body }
    }

    /// Bits of the whole block, at most.
    fn cost(&self) -> usize {
        3 + self.header.cost() + self.body
    }

    /// Itself, if a stored block of `plain` bytes would not be smaller.
    fn cheaper_than(self, plain: usize) -> Option<Self> {
        (self.cost() / 8 < plain + 4).then_some(self)
    }

    fn contents(&self) -> [Content; CONTENT] {
        let mut table = [Content::default(); CONTENT];
        for (byte, entry) in table.iter_mut().enumerate().take(256) {
            let length = u32::from(self.literals.lengths[byte]);
            *entry = Content { bits: self.literals.bits[byte].into(), length };
        }
        for (length, symbol) in LENGTH_SYMBOL.iter().enumerate().skip(3) {
            let symbol = usize::from(*symbol);
            let code = FIRST_LENGTH + symbol;
            let more = length as u32 - u32::from(LENGTH_BASE[symbol]);
            let code_length = u32::from(self.literals.lengths[code]);
            table[256 + length] = Content {
                bits: u32::from(self.literals.bits[code]) | more << code_length,
                length: code_length + u32::from(LENGTH_EXTRA[symbol]),
            };
        }
        table
    }

    fn distances(&self) -> [Distance; 32] {
        let mut table = [Distance::default(); 32];
        for (symbol, entry) in table.iter_mut().enumerate().take(DISTANCES) {
            let shift = u32::from(self.distances.lengths[symbol]);
            let length = shift + u32::from(DISTANCE_EXTRA[symbol]);
            *entry = Distance { bits: self.distances.bits[symbol].into(), shift, length };
        }
        table
    }
}

/// How often each byte occurs. In four tables, as a counter that was just written is slow to read.
fn count(bytes: &[u8], counts: &mut [u32; CONTENT]) {
    let mut tables = [[0u32; 256]; 4];
    let (fours, rest) = bytes.as_chunks::<4>();
    for four in fours {
        for (table, byte) in tables.iter_mut().zip(four) {
            table[usize::from(*byte)] += 1;
        }
    }
    for (byte, sum) in counts[..256].iter_mut().enumerate() {
        *sum = tables.iter().map(|table| table[byte]).sum();
    }
    rest.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
}
