//! Blobs: read by the programs everybody has, and the same from any number of threads.

use std::io::Write;
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use super::*;
use crate::layer::compress::{Compression, LayerDigests, LayerWriter};
use crate::layer::decompress::decompressor;

/// Text-like and noise-like stretches, so that matches reach over block borders and some blocks do not
/// compress.
fn sample(len: usize) -> Vec<u8> {
    let mut data = Vec::with_capacity(len + 64);
    let mut state = 7u64;
    while data.len() < len {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        match (data.len() >> 18) % 4 {
            0 => data.extend_from_slice(&state.to_be_bytes()),
            1 => data.push(0),
            _ => data.extend_from_slice(format!("line {} of {}\n", state >> 52, state >> 60).as_bytes()),
        }
    }
    data.truncate(len);
    data
}

fn blob(data: &[u8], compression: &str, workers: usize, write: usize) -> (Vec<u8>, LayerDigests) {
    let compression = Compression::parse(compression).unwrap();
    let mut writer = LayerWriter::new(Vec::new(), compression, workers).unwrap();
    for chunk in data.chunks(write) {
        writer.write_all(chunk).unwrap();
    }
    writer.finish().unwrap()
}

const MIB: usize = 1 << 20;
const SIZES: [usize; 9] = [0, 1, 100, MIB - 1, MIB, MIB + 1, 2 * MIB, 2 * MIB + 77, 11 * MIB + 5];

#[test]
fn bytes_depend_on_the_content_alone() {
    for compression in
        ["gzip", "gzip:0", "gzip:1", "gzip:2", "gzip:4", "gzip:6", "gzip:9", "zstd", "zstd:1", "none"]
    {
        for size in SIZES {
            let data = sample(size);
            let (first, digests) = blob(&data, compression, 1, 1 << 16);
            for (workers, write) in [(2, 512), (5, 3 * MIB + 1), (5, 1 << 16), (0, size.max(1))] {
                let (again, same) = blob(&data, compression, workers, write);
                assert!(first == again, "{compression}, {size} bytes, {workers} workers, writes of {write}");
                assert_eq!(digests, same);
            }
            assert_eq!(digests.diff_id, <[u8; 32]>::from(Sha256::digest(&data)));
            assert_eq!(digests.digest, <[u8; 32]>::from(Sha256::digest(&first)));
            assert_eq!((digests.size, digests.uncompressed_size), (first.len() as u64, size as u64));
            let mut back = Vec::new();
            decompressor(&*first).unwrap().read_to_end(&mut back).unwrap();
            assert!(back == data, "{compression}, {size} bytes");
        }
    }
}

#[test]
fn the_usual_programs_read_it() {
    for (compression, program, args) in
        [("gzip", "gzip", ["-d", "-c"]), ("gzip:0", "gzip", ["-d", "-c"]), ("zstd", "zstd", ["-d", "-c"])]
    {
        for size in SIZES {
            let data = sample(size);
            let (blob, _) = blob(&data, compression, 3, 10_000);
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&blob).unwrap();
            let out = Command::new(program)
                .args(args)
                .stdin(std::fs::File::open(file.path()).unwrap())
                .stderr(Stdio::piped())
                .output()
                .unwrap();
            assert!(out.status.success() && out.stderr.is_empty(), "{program}: {out:?}");
            assert!(out.stdout == data, "{program}, {size} bytes");
        }
    }
}

#[test]
fn gzip_is_one_member_that_says_nothing_of_where_it_was_made() {
    let (blob, _) = blob(&sample(3 * MIB), "gzip", 2, 4096);
    assert_eq!(blob[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
    let mut single = flate2::read::GzDecoder::new(&*blob);
    let mut out = Vec::new();
    single.read_to_end(&mut out).unwrap();
    assert_eq!(out.len(), 3 * MIB);
    assert!(single.into_inner().is_empty());
}

/// One file of many is another: nearly all of the blob is as it was.
#[test]
fn a_small_change_leaves_the_rest_of_a_blob() {
    let tar = |changed: usize| {
        let file = |i: usize| {
            let seed = if i == 200 { i + changed } else { i };
            let lines = (0..700)
                .map(|n| format!("{seed} {:x}\n", ((n * seed) as u32).wrapping_mul(2_654_435_761) >> 7));
            (file(format!("{i:04}"), 0), lines.collect::<String>().into_bytes())
        };
        let files: Vec<_> = (0..1500).map(file).collect();
        let mut writer = TarWriter::new(Vec::new());
        for (entry, content) in &files {
            let entry = Entry { kind: EntryKind::File { size: content.len() as u64 }, ..entry.clone() };
            writer.append(&entry, &mut &content[..]).unwrap();
        }
        writer.finish().unwrap()
    };
    for compression in ["gzip", "gzip:6"] {
        let ((a, _), (b, _)) =
            (blob(&tar(0), compression, 2, 1 << 16), blob(&tar(9), compression, 2, 1 << 16));
        let trailer = 8;
        let before = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
        let ends = a[..a.len() - trailer].iter().rev().zip(b[..b.len() - trailer].iter().rev());
        let after = ends.take_while(|(a, b)| a == b).count();
        assert!(
            before + after < a.len() && before + after > a.len() * 3 / 4,
            "{before} + {after} of {}",
            a.len()
        );
    }
}

/// Python's `tarfile`, reading what it cannot seek in, takes the first gzip member for all of it.
#[test]
fn python_reads_it_from_a_stream() {
    let content = sample(5 * MIB);
    let tar = canonical(&[(file("sample", content.len()), &content), (file("z", 3), b"end")]);
    let mut blob_file = tempfile::tempfile().unwrap();
    blob_file.write_all(&blob(&tar, "gzip", 2, 1 << 16).0).unwrap();
    std::io::Seek::rewind(&mut blob_file).unwrap();
    let script = "import sys, tarfile
archive = tarfile.open(fileobj=sys.stdin.buffer, mode='r|gz')
print([(m.name, len(archive.extractfile(m).read())) for m in archive])";
    let out = Command::new("python3").args(["-c", script]).stdin(blob_file).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert_eq!(said, "[('sample', 5242880), ('z', 3)]\n", "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_dropped_writer_leaves_quietly() {
    for compression in ["gzip", "zstd"] {
        let mut writer =
            LayerWriter::new(std::io::sink(), Compression::parse(compression).unwrap(), 3).unwrap();
        writer.write_all(&sample(9 * MIB)).unwrap();
        drop(writer);
    }
}

#[test]
fn a_full_disk_is_an_error() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            match self.0.checked_sub(bytes.len()) {
                Some(left) => self.0 = left,
                None => return Err(std::io::ErrorKind::StorageFull.into()),
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    for compression in ["gzip", "zstd", "none"] {
        let compression = Compression::parse(compression).unwrap();
        let mut writer = LayerWriter::new(Full(100_000), compression, 2).unwrap();
        let written = writer.write_all(&sample(9 * MIB));
        let error = written.and_then(|()| writer.finish().map(|_| ())).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{compression}");
    }
}
