//! The symbols that lengths and distances become (RFC 1951, 3.2.5).

/// Symbols of literals, the end mark and lengths.
pub(crate) const LITERALS: usize = 286;
/// Symbols of distances.
pub(crate) const DISTANCES: usize = 30;
/// The symbol that ends a block.
pub(crate) const END_OF_BLOCK: usize = 256;
/// The first symbol of a length.
pub(crate) const FIRST_LENGTH: usize = 257;

/// The least length that a symbol stands for.
pub(crate) const LENGTH_BASE: [u16; 29] = [
    3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195,
    227, 258,
];
/// How many bits follow that say by how much a length is more.
pub(crate) const LENGTH_EXTRA: [u8; 29] =
    [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
/// The same for distances.
pub(crate) const DISTANCE_EXTRA: [u8; DISTANCES] =
    [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13];

/// For each length from 3 to 258, which of the symbols for lengths it has.
pub(crate) static LENGTH_SYMBOL: [u8; 259] = {
    let mut table = [0; 259];
    let mut length = 3;
    while length < table.len() {
        let mut symbol = LENGTH_BASE.len() - 1;
        while LENGTH_BASE[symbol] as usize > length {
            symbol -= 1;
        }
        table[length] = symbol as u8;
        length += 1;
    }
    table
};

/// The symbol of a distance, and what follows it: the distances between two powers of two have two
/// symbols, each for one half of them.
#[inline(always)]
pub(crate) fn distance(distance: u32) -> (u32, u32) {
    let distance = distance - 1;
    let extra_bits = 30 - (distance | 2).leading_zeros();
    (2 * extra_bits + (distance >> extra_bits), distance & ((1 << extra_bits) - 1))
}
