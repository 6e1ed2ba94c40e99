//! A file's bytes, without reading its holes.
//!
//! The canonical tar has a hole as zeros. Read from the file they would cost a page of the cache each,
//! and gigabytes of holes would push out all that is useful there.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use cooper_runtime::sys::fs;

/// Asking about holes costs two calls, which smaller files are read in.
const ASK_FROM: u64 = 1 << 20;

/// Reads a regular file from its start; holes read as zeros, as they do everywhere.
#[derive(Debug)]
pub struct FileContent {
    file: File,
    position: u64,
    /// The data that the position is in or before.
    data: Range<u64>,
    /// Up to where `data` is known to be all there is; behind it the file is asked.
    size: u64,
}

impl FileContent {
    /// Reads `file`, which is expected to have `size` bytes. Should it have fewer or more, that is what is
    /// read, so that whoever counts them notices.
    pub fn new(file: File, size: u64) -> Self {
        let data = match size {
            0..ASK_FROM => 0..size,
            _ => fs::next_data(&file, 0, size).unwrap_or(size..size),
        };
        Self { file, position: 0, data, size }
    }
}

impl Read for FileContent {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.data.end && self.position < self.size {
            self.data = fs::next_data(&self.file, self.position, self.size).unwrap_or(self.size..self.size);
        }
        let limit = |end: u64| buffer.len().min(usize::try_from(end - self.position).unwrap_or(usize::MAX));
        let got = if self.position < self.data.start {
            // A file cut short meanwhile has no hole here but an end.
            let hole = limit(self.data.start);
            let there = self.file.metadata()?.len().saturating_sub(self.position);
            let hole = hole.min(usize::try_from(there).unwrap_or(usize::MAX));
            buffer[..hole].fill(0);
            hole
        } else {
            let want = if self.position < self.data.end { limit(self.data.end) } else { buffer.len() };
            self.file.read_at(&mut buffer[..want], self.position)?
        };
        self.position += got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn sparse(size: u64, data: &[(u64, &[u8])]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        for (at, bytes) in data {
            file.as_file().write_all_at(bytes, *at).unwrap();
        }
        file
    }

    fn read(file: &tempfile::NamedTempFile, size: u64, buffer: usize) -> Vec<u8> {
        let mut content = FileContent::new(file.reopen().unwrap(), size);
        let (mut all, mut buffer) = (Vec::new(), vec![0xee; buffer]);
        loop {
            match content.read(&mut buffer).unwrap() {
                0 => return all,
                got => all.extend_from_slice(&buffer[..got]),
            }
        }
    }

    #[test]
    fn holes_read_as_zeros_wherever_they_lie() {
        for (size, data) in [
            (0, vec![]),
            (5, vec![(0, &b"small"[..])]),
            (3 * MIB, vec![]),
            (3 * MIB, vec![(0, &b"first"[..]), (MIB + 5, b"middle"), (3 * MIB - 4, b"last")]),
            (3 * MIB + 7, vec![(2 * MIB, &b"inside"[..])]),
        ] {
            let file = sparse(size, &data);
            let expected = std::fs::read(file.path()).unwrap();
            for buffer in [4095, 128 * 1024, 5 << 20] {
                assert!(read(&file, size, buffer) == expected, "{size} {data:?} {buffer}");
            }
        }
    }

    #[test]
    fn a_file_that_has_changed_reads_as_what_it_is_now() {
        for (size, announced) in [(MIB, 3 * MIB), (3 * MIB, MIB), (3 * MIB, 2), (2, 3 * MIB), (0, 5)] {
            let read = read(&sparse(size, &[]), announced, 100_000);
            assert_eq!(read.len() as u64, size, "{announced} announced");
        }
    }

    #[test]
    fn a_terabyte_of_nothing_is_not_read() {
        let file = sparse(1 << 40, &[((1 << 40) - 1, b"x")]);
        let mut content = FileContent::new(file.reopen().unwrap(), 1 << 40);
        let mut buffer = vec![0; 8 << 20];
        // Bytes that this thread's calls of read have given (proc_pid_io(5)).
        let given = || -> u64 {
            let io = std::fs::read_to_string("/proc/thread-self/io").unwrap();
            let line = io.lines().find_map(|l| l.strip_prefix("rchar: ")).unwrap();
            line.parse().unwrap()
        };
        let before = given();
        for _ in 0..64 {
            assert_eq!(content.read(&mut buffer).unwrap(), buffer.len());
        }
        let read = given() - before;
        assert!(read < MIB, "{read} bytes were read");
    }
}
