//! Sparse files in a tar: GNU's old format and the three it has for pax (0.0, 0.1 and 1.0).

use std::io;

use super::pax::decimal;

/// The most extents a sparse file may have. A map is memory, and costs the one who sends it nothing.
pub(super) const MAX_EXTENTS: usize = 1 << 18;

/// A piece of a sparse file that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it belongs in the file.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// What pax records say of an entry that is sparse.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    major: Option<u64>,
    minor: Option<u64>,
    /// Offsets and lengths in turn, from `GNU.sparse.map` or from pairs of records.
    numbers: Vec<u64>,
    found: bool,
    broken: bool,
}

impl Records {
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) {
        let Some(key) = key.strip_prefix(b"GNU.sparse.") else { return };
        let number = decimal(value);
        self.found = true;
        let mut known = |n: Option<u64>| {
            self.broken |= n.is_none();
            n
        };
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = known(number),
            b"major" => self.major = known(number),
            b"minor" => self.minor = known(number),
            b"offset" | b"numbytes" => self.numbers.extend(known(number)),
            b"map" => {
                let all = value.split(|b| *b == b',').map(decimal).collect::<Option<Vec<_>>>();
                self.broken |= all.is_none() && !value.is_empty();
                self.numbers = all.unwrap_or_default();
            }
            _ => {}
        }
    }

    pub(super) fn is_sparse(&self) -> bool {
        self.found
    }

    /// Format 1.0: the map is in the content.
    pub(super) fn in_content(&self) -> bool {
        self.major == Some(1) && self.minor == Some(0)
    }

    pub(super) fn map(&self) -> Option<Vec<Extent>> {
        let version_known = self.in_content() || matches!(self.major, None | Some(0));
        if self.broken || !version_known || self.numbers.len() > 2 * MAX_EXTENTS {
            return None;
        }
        pairs(&self.numbers)
    }
}

fn pairs(numbers: &[u64]) -> Option<Vec<Extent>> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    rest.is_empty()
        .then(|| pairs.iter().map(|[offset, length]| Extent { offset: *offset, length: *length }).collect())
}

/// The map of format 1.0 as its blocks come in.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
    count: Option<u64>,
    numbers: Vec<u64>,
}

impl Lines {
    /// Whether the last block has been seen; there is at least one.
    pub(super) fn complete(&self) -> bool {
        self.count.is_some_and(|count| self.numbers.len() as u64 == 2 * count)
    }

    pub(super) fn push(&mut self, block: &[u8]) -> Option<()> {
        for byte in block {
            if self.complete() {
                break;
            }
            match byte {
                b'\n' => {
                    let number = decimal(&self.partial)?;
                    self.partial.clear();
                    match self.count {
                        None if number > MAX_EXTENTS as u64 => return None,
                        None => self.count = Some(number),
                        Some(_) => self.numbers.push(number),
                    }
                }
                digit if self.partial.len() < 20 => self.partial.push(*digit),
                _ => return None,
            }
        }
        Some(())
    }

    pub(super) fn map(&self) -> Option<Vec<Extent>> {
        pairs(&self.numbers)
    }
}

/// Turns stored bytes into the file's: holes between them read as NULs.
#[derive(Debug)]
pub(super) struct Expansion {
    extents: std::vec::IntoIter<Extent>,
    current: Option<Extent>,
    position: u64,
    size: u64,
}

impl Expansion {
    /// `None` if the map is not ascending, leaves the file, or does not use exactly what is stored.
    pub(super) fn new(map: &[Extent], size: u64, stored: u64) -> Option<Self> {
        let (mut end, mut sum) = (0u64, 0u64);
        for extent in map {
            if extent.offset < end {
                return None;
            }
            end = extent.offset.checked_add(extent.length)?;
            sum = sum.checked_add(extent.length)?;
        }
        if end > size || sum != stored || size > i64::MAX as u64 {
            return None;
        }
        let mut extents = Vec::from(map).into_iter();
        let current = extents.next();
        Some(Self { extents, current, position: 0, size })
    }

    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        mut stored: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        while self.current.is_some_and(|e| self.position >= e.offset + e.length) {
            self.current = self.extents.next();
        }
        let up_to = |end: u64| buffer.len().min(usize::try_from(end).unwrap_or(usize::MAX));
        let got = match self.current {
            Some(extent) if self.position >= extent.offset => {
                let want = up_to(extent.offset + extent.length - self.position);
                stored(&mut buffer[..want])?
            }
            next => {
                let hole = up_to(next.map_or(self.size, |e| e.offset) - self.position);
                buffer[..hole].fill(0);
                hole
            }
        };
        self.position += got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_lie_are_refused() {
        let map = |parts: &[(u64, u64)]| -> Vec<Extent> {
            parts.iter().map(|(offset, length)| Extent { offset: *offset, length: *length }).collect()
        };
        assert!(Expansion::new(&map(&[(0, 5), (10, 5), (20, 0)]), 20, 10).is_some());
        assert!(Expansion::new(&map(&[(10, 5), (0, 5)]), 20, 10).is_none());
        assert!(Expansion::new(&map(&[(0, 5), (4, 5)]), 20, 10).is_none());
        assert!(Expansion::new(&map(&[(0, 5)]), 4, 5).is_none());
        assert!(Expansion::new(&map(&[(0, 5)]), 20, 6).is_none());
        assert!(Expansion::new(&map(&[(u64::MAX, 5)]), 20, 5).is_none());
        assert!(Expansion::new(&[], u64::MAX, 0).is_none());
    }
}
