//! A file's content, on its way from a tar to the disk.
//!
//! The canonical tar has no sparse encoding, and most other writers use none either: a file of holes
//! comes as zeros. Written out as they come they would fill the disk, so zeros become holes again.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::super::read::TarReader;
use super::super::sparse::Extent;

/// What file systems allocate: a hole is made of such blocks, aligned in the file.
const BLOCK: usize = 4096;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Writes a file's content, leaving holes where it has none and where a block of it is zeros.
pub(crate) fn fill<R: Read>(
    file: &File,
    content: &mut TarReader<R>,
    extents: Option<&[Extent]>,
    size: u64,
    buffer: &mut [u8],
) -> io::Result<()> {
    let whole = [Extent { offset: 0, length: size }];
    let mut end = 0;
    for extent in extents.unwrap_or(&whole) {
        let (mut at, mut left) = (extent.offset, extent.length);
        while left > 0 {
            // What ends at a block's end in the file has all but its first block whole.
            let room = buffer.len() - (at % BLOCK as u64) as usize;
            let want = left.min(room as u64) as usize;
            read_full(content, &mut buffer[..want])?;
            end = write_data(file, &buffer[..want], at)?.unwrap_or(end);
            at += want as u64;
            left -= want as u64;
        }
    }
    if end < size { file.set_len(size) } else { Ok(()) }
}

fn read_full<R: Read>(content: &mut TarReader<R>, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        match content.read_stored(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(got) => buffer = &mut buffer[got..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Writes what belongs at `at`, but for its blocks of zeros; gives the end of what was written.
fn write_data(file: &File, data: &[u8], at: u64) -> io::Result<Option<u64>> {
    let mut end = None;
    // Where the blocks that are still to be written begin.
    let mut pending = None;
    let mut start = 0;
    while start < data.len() {
        let aligned = BLOCK - ((at + start as u64) % BLOCK as u64) as usize;
        let stop = data.len().min(start + aligned);
        // A comparison with zeros, unlike a loop over the bytes, is fast in every build.
        if data[start..stop] != ZEROS[..stop - start] {
            pending.get_or_insert(start);
        } else if let Some(from) = pending.take() {
            file.write_all_at(&data[from..start], at + from as u64)?;
            end = Some(at + start as u64);
        }
        start = stop;
    }
    if let Some(from) = pending {
        file.write_all_at(&data[from..], at + from as u64)?;
        end = Some(at + data.len() as u64);
    }
    Ok(end)
}
