//! Zeros in a tar, holes on disk.

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::layer::apply::fill;
use crate::layer::read::Extent;

const BLOCK: usize = 4096;

/// What a file of this content takes on disk, after it was seen to be right.
fn blocks(content: &[u8]) -> u64 {
    let tar = canonical(&[(file("f", content.len()), content)]);
    let mut reader = TarReader::new(&*tar);
    reader.next().unwrap();
    let made = tempfile::NamedTempFile::new().unwrap();
    let size = content.len() as u64;
    fill(made.as_file(), &mut reader, None, size, &mut [0; 4 * BLOCK]).unwrap();
    assert!(std::fs::read(made.path()).unwrap() == content);
    made.as_file().metadata().unwrap().blocks() / 8
}

#[test]
fn blocks_of_zeros_are_holes_wherever_they_lie() {
    let data = vec![7u8; BLOCK];
    let hole = vec![0u8; BLOCK];
    assert_eq!(blocks(&[&data[..], &hole, &data, &hole, &hole].concat()), 2);
    assert_eq!(blocks(&[&hole[..], &data, &data[..5]].concat()), 2);
    assert_eq!(blocks(&[&hole[..], &hole[..5]].concat()), 0);
    assert_eq!(blocks(&vec![0; 9 * BLOCK]), 0);
    assert_eq!(blocks(&[vec![0; 100], vec![1], vec![0; 8 * BLOCK], vec![1]].concat()), 2);
    assert_eq!(blocks(b""), 0);
}

#[test]
fn the_content_does_not_depend_on_how_it_comes() {
    let content: Vec<u8> = (0..70_000u32).map(|i| if i % 9000 < 8500 { 0 } else { i as u8 }).collect();
    let tar = canonical(&[(file("f", content.len()), &content)]);
    for (first, buffer) in [(1, BLOCK), (4095, 2 * BLOCK), (4096, 4 * BLOCK), (9001, BLOCK)] {
        let mut reader = TarReader::new(&*tar);
        reader.next().unwrap();
        let extents = [
            Extent { offset: 0, length: first },
            Extent { offset: first, length: content.len() as u64 - first },
        ];
        let made = tempfile::NamedTempFile::new().unwrap();
        let size = content.len() as u64;
        fill(made.as_file(), &mut reader, Some(&extents), size, &mut vec![0; buffer]).unwrap();
        assert!(std::fs::read(made.path()).unwrap() == content, "{first} {buffer}");
    }
}
