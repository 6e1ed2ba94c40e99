//! Huffman codes of limited length, and how a block says which it has.

use crate::symbols::{FIRST_LENGTH, LITERALS};

/// A code for up to `N` symbols.
pub(crate) struct Code<const N: usize> {
    /// Bits of each symbol's code; 0 for a symbol that does not occur.
    pub(crate) lengths: [u8; N],
    /// The codes, with the bit that comes first lowest.
    pub(crate) bits: [u16; N],
}

impl<const N: usize> Code<N> {
    /// The code for symbols that occur so often, with no more than `most` bits for any.
    ///
    /// One symbol alone gets a code of one bit: deflate allows that for distances, and for the others
    /// there are always two.
    pub(crate) fn new(frequencies: &[u32; N], most: usize) -> Self {
        let mut lengths = [0u8; N];
        // By frequency, then by symbol: a total order, so that sorting can give one result only.
        let mut sorted = [0u64; N];
        let mut used = 0;
        for (symbol, frequency) in frequencies.iter().enumerate().filter(|(_, f)| **f > 0) {
            sorted[used] = u64::from(*frequency) << 16 | symbol as u64;
            used += 1;
        }
        let sorted = &mut sorted[..used];
        sorted.sort_unstable();
        let symbol = |sorted: u64| (sorted & 0xffff) as usize;
        match sorted {
            [] => {}
            [only] => lengths[symbol(*only)] = 1,
            _ => {
                let counts = limited(optimal(sorted), most);
                let mut rarest_first = sorted.iter();
                for length in (1..=most).rev() {
                    for entry in rarest_first.by_ref().take(counts[length] as usize) {
                        lengths[symbol(*entry)] = length as u8;
                    }
                }
            }
        }
        Self { lengths, bits: canonical(&lengths) }
    }
}

/// More bits than any optimal code has here: with the counts of one block, for a code this deep there would
/// have to be more symbols than Fibonacci's 40th number.
const DEEPEST: usize = 40;

/// How many symbols have a code of each length in an optimal code. In: two or more frequencies, ascending,
/// in the upper bits.
///
/// Moffat and Katajainen, "In-place calculation of minimum-redundancy codes" (1995).
fn optimal(sorted: &[u64]) -> [u32; DEEPEST] {
    let symbols = sorted.len();
    // First a node's weight, then its parent, then its depth.
    let mut nodes = [0u32; LITERALS + 2];
    for (node, entry) in nodes.iter_mut().zip(sorted) {
        *node = (entry >> 16) as u32;
    }
    let (mut leaf, mut root) = (0, 0);
    for next in 0..symbols - 1 {
        let mut weight = 0;
        for _ in 0..2 {
            if leaf >= symbols || (root < next && nodes[root] < nodes[leaf]) {
                weight += nodes[root];
                nodes[root] = next as u32;
                root += 1;
            } else {
                weight += nodes[leaf];
                leaf += 1;
            }
        }
        nodes[next] = weight;
    }
    nodes[symbols - 2] = 0;
    for node in (0..symbols - 2).rev() {
        nodes[node] = nodes[nodes[node] as usize] + 1;
    }
    let mut counts = [0; DEEPEST];
    let mut inner = nodes[..symbols - 1].iter().rev().peekable();
    let (mut places, mut depth) = (1, 0);
    while places > 0 {
        let mut parents = 0;
        while inner.next_if(|d| **d == depth as u32).is_some() {
            parents += 1;
        }
        counts[depth] = places - parents;
        places = 2 * parents;
        depth += 1;
    }
    counts
}

/// The same with no code longer than `most`: what is longer is cut to it, and then shorter codes are made
/// longer until there is room for all.
fn limited(mut counts: [u32; DEEPEST], most: usize) -> [u32; DEEPEST] {
    counts[most] += counts[most + 1..].iter().sum::<u32>();
    counts[most + 1..].fill(0);
    let mut taken: u32 = (1..=most).map(|length| counts[length] << (most - length)).sum();
    while taken > 1 << most {
        // One of the longest moves under a shorter one, which becomes one bit longer.
        let shorter = (1..most).rev().find(|length| counts[*length] > 0).expect("a shorter code");
        counts[most] -= 1;
        counts[shorter] -= 1;
        counts[shorter + 1] += 2;
        taken -= 1;
    }
    counts
}

/// The codes that belong to lengths (RFC 1951, 3.2.2).
fn canonical<const N: usize>(lengths: &[u8; N]) -> [u16; N] {
    let mut next = [0u16; 17];
    for length in lengths.iter().filter(|l| **l > 0) {
        next[usize::from(*length) + 1] += 1;
    }
    for length in 1..next.len() {
        next[length] = (next[length] + next[length - 1]) << 1;
    }
    let mut codes = [0; N];
    for (code, length) in codes.iter_mut().zip(lengths).filter(|(_, l)| **l > 0) {
        *code = next[usize::from(*length)].reverse_bits() >> (16 - length);
        next[usize::from(*length)] += 1;
    }
    codes
}

/// What a block with dynamic codes begins with, behind its three bits: numbers, and how many bits each has.
pub(crate) struct Header {
    pub(crate) fields: Vec<(u16, u8)>,
}

impl Header {
    /// Says what codes there are (RFC 1951, 3.2.7).
    pub(crate) fn new(literals: &[u8], distances: &[u8]) -> Self {
        const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
        let used = |lengths: &[u8], least: usize| {
            lengths.iter().rposition(|l| *l > 0).map_or(least, |last| least.max(last + 1))
        };
        let (literals, distances) =
            (&literals[..used(literals, FIRST_LENGTH)], &distances[..used(distances, 1)]);
        let lengths: Vec<u8> = [literals, distances].concat();
        let items = run_lengths(&lengths);
        let mut frequencies = [0; 19];
        items.iter().for_each(|(symbol, _)| frequencies[usize::from(*symbol)] += 1);
        let code = Code::new(&frequencies, 7);
        let codes = ORDER.iter().rposition(|s| code.lengths[*s] > 0).map_or(4, |last| 4.max(last + 1));

        let mut fields = Vec::with_capacity(3 + codes + 2 * items.len());
        fields.push(((literals.len() - FIRST_LENGTH) as u16, 5));
        fields.push(((distances.len() - 1) as u16, 5));
        fields.push(((codes - 4) as u16, 4));
        fields.extend(ORDER[..codes].iter().map(|s| (code.lengths[*s].into(), 3)));
        for (symbol, repeats) in items {
            let at = usize::from(symbol);
            fields.push((code.bits[at], code.lengths[at]));
            match symbol {
                16 => fields.push((repeats.into(), 2)),
                17 => fields.push((repeats.into(), 3)),
                18 => fields.push((repeats.into(), 7)),
                _ => {}
            }
        }
        Self { fields }
    }

    /// How many bits it has.
    pub(crate) fn cost(&self) -> usize {
        self.fields.iter().map(|(_, bits)| usize::from(*bits)).sum()
    }
}

/// Code lengths as symbols: 16 repeats the one before 3 to 6 times, 17 and 18 are 3 to 10 and 11 to 138
/// zeros; with each the number that goes with it.
fn run_lengths(lengths: &[u8]) -> Vec<(u8, u8)> {
    let mut items = Vec::with_capacity(lengths.len());
    for run in lengths.chunk_by(|a, b| a == b) {
        let (length, mut left) = (run[0], run.len());
        if length > 0 {
            items.push((length, 0));
            left -= 1;
        }
        let (repeat, most): (u8, usize) = if length > 0 { (16, 6) } else { (18, 138) };
        let least = if length > 0 { 3 } else { 11 };
        while left >= least {
            let taken = left.min(most);
            items.push((repeat, (taken - least) as u8));
            left -= taken;
        }
        if length == 0 && left >= 3 {
            items.push((17, (left - 3) as u8));
            left = 0;
        }
        items.extend(std::iter::repeat_n((length, 0), left));
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum of 2^-length over all codes, in units of 2^-15.
    fn room_taken<const N: usize>(code: &Code<N>) -> u32 {
        code.lengths.iter().filter(|l| **l > 0).map(|l| 1 << (15 - l)).sum()
    }

    #[test]
    fn codes_are_complete_and_short_enough() {
        // Fibonacci's numbers ask for the deepest code.
        let mut fibonacci = [0u32; 30];
        (fibonacci[3], fibonacci[4]) = (1, 1);
        (5..30).for_each(|i| fibonacci[i] = fibonacci[i - 1] + fibonacci[i - 2]);
        for most in [5, 7, 13, 15] {
            let code = Code::new(&fibonacci, most);
            assert_eq!(room_taken(&code), 1 << 15);
            assert_eq!(code.lengths.iter().max(), Some(&(most as u8)));
            assert_eq!(code.lengths[..3], [0; 3]);
            assert!(code.lengths[3..].is_sorted_by(|a, b| a >= b), "{:?}", code.lengths);
        }
        let even = Code::new(&[7u32; 256], 13);
        assert_eq!(even.lengths, [8; 256]);
        let two = Code::new(&[0, 5, 0, 1_000_000], 13);
        assert_eq!(two.lengths, [0, 1, 0, 1]);
    }

    #[test]
    fn an_optimal_code_is_found() {
        // Worked out by hand: 2+3=5, 5+5=10, 7+10=17.
        assert_eq!(Code::new(&[7, 5, 3, 2], 15).lengths, [1, 2, 3, 3]);
        assert_eq!(Code::new(&[7, 5, 3, 2], 15).bits, [0b0, 0b01, 0b011, 0b111]);
        assert_eq!(Code::new(&[0, 0, 9, 0], 15).lengths, [0, 0, 1, 0]);
        assert_eq!(Code::new(&[0; 4], 15).lengths, [0; 4]);
    }

    #[test]
    fn runs_are_told_with_their_lengths() {
        let lengths = [vec![8; 10], vec![0; 2], vec![5; 3], vec![0; 150], vec![1]].concat();
        let items = run_lengths(&lengths);
        let expected =
            [(8, 0), (16, 3), (16, 0), (0, 0), (0, 0), (5, 0), (5, 0), (5, 0), (18, 127), (18, 1), (1, 0)];
        assert_eq!(items, expected);
    }
}
