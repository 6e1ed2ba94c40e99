//! A blob → the tar's bytes, whatever compressed them.
//!
//! What a blob is is told by its first bytes, not by its media type: registries and other builders have
//! been known to be wrong about it.

use std::io::{self, BufReader, Cursor, Read};

/// The largest window that a zstd frame may ask for: 128 MiB, what `zstd -d` accepts by itself.
const ZSTD_WINDOW_LOG: u32 = 27;
/// The most memory that an xz block may ask for, in KiB: four times the dictionary of `xz -9`.
const XZ_MEMORY: u32 = 256 << 10;
const BUFFER: usize = 128 * 1024;

/// Reads `input` uncompressed: gzip (also of many members), zstd (also of many frames, and skippable
/// ones), or as it is. A stream that was cut off is an error, and so are bytes behind a gzip stream.
pub fn decompressor<'a, R: Read + 'a>(input: R) -> io::Result<Box<dyn Read + 'a>> {
    match recognised(input)? {
        (Format::Xz, _) => Err(unknown("xz")),
        (Format::Bzip2, _) => Err(unknown("bzip2")),
        (format, input) => opened(format, input),
    }
}

/// The same, and bzip2 and xz as well (also of many streams): no layer may be compressed with them, but
/// archives are that people ADD.
pub fn any_decompressor<'a, R: Read + 'a>(input: R) -> io::Result<Box<dyn Read + 'a>> {
    let (format, input) = recognised(input)?;
    opened(format, input)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Gzip,
    Zstd,
    Bzip2,
    Xz,
    Plain,
}

/// What was looked at, and then the rest.
type Rewound<R> = BufReader<std::io::Chain<Cursor<Vec<u8>>, R>>;

fn recognised<R: Read>(mut input: R) -> io::Result<(Format, Rewound<R>)> {
    let mut head = Vec::new();
    input.by_ref().take(6).read_to_end(&mut head)?;
    let format = match head.as_slice() {
        [0x1f, 0x8b, 8, ..] => Format::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Format::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Format::Xz,
        // The magic of a block, or of the end of an empty stream.
        [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A'] | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72] => {
            Format::Bzip2
        }
        _ => Format::Plain,
    };
    Ok((format, BufReader::with_capacity(BUFFER, Cursor::new(head).chain(input))))
}

fn opened<'a, R: Read + 'a>(format: Format, input: Rewound<R>) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match format {
        Format::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Format::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        Format::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        Format::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(input, true, XZ_MEMORY)),
        Format::Plain => Box::new(input),
    })
}

fn unknown(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!("this is compressed with {what}; expected gzip, zstd or an uncompressed tar"),
    )
}

/// Passes on at most so many bytes: one more is an error. A small blob can stand for a tar that fills
/// every disk.
#[derive(Debug)]
pub struct Limited<R> {
    input: R,
    max: u64,
    left: u64,
}

impl<R: Read> Limited<R> {
    /// Passes on at most `max` bytes of `input`.
    pub fn new(input: R, max: u64) -> Self {
        Self { input, max, left: max }
    }

    /// How many bytes went through.
    pub fn passed(&self) -> u64 {
        self.max - self.left
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            return match self.input.read(&mut [0])? {
                0 => Ok(0),
                _ => Err(io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    format!("the data uncompressed is larger than {} bytes, which is the limit", self.max),
                )),
            };
        }
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let got = self.input.read(&mut buffer[..want])?;
        self.left -= got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(blob: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decompressor(blob)?.read_to_end(&mut out)?;
        Ok(out)
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 24) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn every_form_is_recognised() {
        let data = noise(300_000);
        let (a, b) = data.split_at(100_000);
        assert_eq!(read(&data).unwrap(), data);
        assert_eq!(read(&[gzip(a), gzip(b), gzip(b"")].concat()).unwrap(), data);
        let zstd = |data: &[u8]| zstd::encode_all(data, 1).unwrap();
        let skippable = [0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3].to_vec();
        let frames = [skippable.clone(), zstd(a), skippable, zstd(b)].concat();
        assert_eq!(read(&frames).unwrap(), data);
        assert_eq!(read(b"").unwrap(), b"");
        assert_eq!(read(b"\x1f\x8b").unwrap(), b"\x1f\x8b");
    }

    /// What `program` makes of `data`.
    fn compressed(program: &str, args: &[&str], data: &[u8]) -> Vec<u8> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(data).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let run = std::process::Command::new(program).args(args).stdin(file).output();
        let out = run.unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"));
        assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    }

    fn read_any(blob: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        any_decompressor(blob)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn bzip2_and_xz_are_read_to_the_end_where_they_may_be() {
        let data = noise(400_000);
        let (a, b) = data.split_at(300_000);
        let bzip2 = |data: &[u8]| compressed("bzip2", &["-1c"], data);
        let xz = |data: &[u8]| compressed("xz", &["-1c", "--block-size=70000"], data);
        // Several blocks each, and two streams; between those of xz there may be padding.
        assert_eq!(read_any(&[bzip2(a), bzip2(b)].concat()).unwrap(), data);
        assert_eq!(read_any(&[xz(a), vec![0; 8], xz(b)].concat()).unwrap(), data);
        let checked = |check: &str| compressed("xz", &["-0c", &format!("--check={check}")], a);
        for check in ["none", "crc32", "crc64", "sha256"] {
            assert_eq!(read_any(&checked(check)).unwrap(), a, "{check}");
        }
        assert_eq!(read_any(&compressed("xz", &["-c", "--x86", "--lzma2=preset=1"], a)).unwrap(), a);
        assert_eq!(read_any(&bzip2(b"")).unwrap(), b"");
        assert_eq!(read_any(&xz(b"")).unwrap(), b"");
        assert_eq!(read_any(&gzip(a)).unwrap(), a);
        for whole in [bzip2(b), xz(b)] {
            for keep in [20, whole.len() / 2, whole.len() - 1] {
                assert!(read_any(&whole[..keep]).is_err(), "{keep} of {}", whole.len());
            }
            let mut flipped = whole.clone();
            flipped[whole.len() / 2] ^= 4;
            assert!(read_any(&flipped).is_err());
        }
    }

    #[test]
    fn a_dictionary_larger_than_sensible_is_refused_before_it_is_allocated() {
        let huge = compressed("xz", &["-c", "--lzma2=preset=0,dict=1GiB"], b"small");
        assert!(read_any(&huge).is_err());
        let largest_preset = compressed("xz", &["-9c"], b"small");
        assert_eq!(read_any(&largest_preset).unwrap(), b"small");
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        let data = noise(70_000);
        for whole in [gzip(&data), [gzip(&data), gzip(&data)].concat(), zstd::encode_all(&*data, 1).unwrap()]
        {
            for keep in [7, 11, 17, whole.len() / 3, whole.len() / 2 + 5, whole.len() - 9, whole.len() - 1] {
                assert!(read(&whole[..keep]).is_err(), "{keep} of {} bytes", whole.len());
            }
        }
        let mut flipped = gzip(&data);
        let crc = flipped.len() - 6;
        flipped[crc] ^= 1;
        assert!(read(&flipped).is_err());
        assert!(read(&[gzip(&data), b"junk".to_vec()].concat()).is_err());
    }

    #[test]
    fn windows_are_capped() {
        // A frame header that asks for 2^31 bytes: exponent 21 in the window descriptor.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 0x01, 0x00, 0x00];
        assert!(read(&frame).is_err());
        let fits = [0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3, 0x01, 0x00, 0x00];
        assert_eq!(read(&fits).unwrap(), b"");
    }

    #[test]
    fn other_compressors_are_named() {
        let message = |blob: &[u8]| read(blob).unwrap_err().to_string();
        assert!(message(b"\xfd7zXZ\0....").contains("xz"));
        assert!(message(b"BZh91AY&SY").contains("bzip2"));
    }

    #[test]
    fn bombs_stop_at_the_limit() {
        let bomb = gzip(&vec![0; 1 << 20]);
        let mut out = Vec::new();
        let mut exact = Limited::new(decompressor(&*bomb).unwrap(), 1 << 20);
        exact.read_to_end(&mut out).unwrap();
        assert_eq!((out.len(), exact.passed()), (1 << 20, 1 << 20));
        let error =
            Limited::new(decompressor(&*bomb).unwrap(), (1 << 20) - 1).read_to_end(&mut out).unwrap_err();
        assert!(error.to_string().contains("1048575"), "{error}");
    }
}
