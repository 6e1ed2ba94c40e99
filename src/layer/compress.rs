//! The tar's bytes → diff ID, compressed blob, digest, in one pass.
//!
//! The blob is a function of the bytes and the [`Compression`] alone. The number of worker threads and
//! how the bytes are cut into writes change how long it takes, not what comes out, so that one machine
//! can check another's digest. (But for the default, it is also a function of the compressor's version, which
//! Cargo.lock pins. zlib-rs gives the same bytes whatever SIMD the processor has.)

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use zstd::zstd_safe::CParameter;

use super::gzip::ParallelGzip;
use super::reuse::KnownSegments;

/// How a layer's blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// One gzip member.
    Gzip {
        /// 0 (stored) to 9.
        level: u32,
    },
    /// One zstd frame.
    Zstd {
        /// 1 to 22.
        level: i32,
    },
    /// The tar as it is.
    None,
}

/// A `--compression` that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// The part before the colon is no algorithm.
    #[error(
        "unknown compression `{0}`; expected gzip, zstd or none, optionally with a level as in `zstd:19`"
    )]
    Algorithm(String),
    /// The part after the colon is no level of that algorithm.
    #[error("`{level}` is not a compression level of {algorithm}; expected a number from {least} to {most}")]
    Level {
        /// The algorithm.
        algorithm: &'static str,
        /// What was given.
        level: String,
        /// The least level.
        least: u32,
        /// The greatest level.
        most: u32,
    },
    /// There is nothing a level could say.
    #[error("compression `none` takes no level, found `{0}`")]
    NoLevel(String),
}

impl Compression {
    /// The default gzip level, our own compressor's: three times as fast as zlib's levels that give blobs
    /// of about this size. See the table in `gzip.rs`.
    pub const GZIP_DEFAULT: u32 = 1;
    /// The default zstd level, zstd's own.
    pub const ZSTD_DEFAULT: i32 = 3;

    /// Reads `gzip`, `gzip:LEVEL`, `zstd`, `zstd:LEVEL` or `none`.
    pub fn parse(text: &str) -> Result<Self, CompressionError> {
        let (algorithm, level) = match text.split_once(':') {
            Some((algorithm, level)) => (algorithm, Some(level)),
            None => (text, None),
        };
        match (algorithm, level) {
            ("gzip", None) => Ok(Self::Gzip { level: Self::GZIP_DEFAULT }),
            ("gzip", Some(level)) => Ok(Self::Gzip { level: parse_level("gzip", level, 0, 9)? }),
            ("zstd", None) => Ok(Self::Zstd { level: Self::ZSTD_DEFAULT }),
            ("zstd", Some(level)) => Ok(Self::Zstd { level: parse_level("zstd", level, 1, 22)? as i32 }),
            ("none", None) => Ok(Self::None),
            ("none", Some(level)) => Err(CompressionError::NoLevel(level.into())),
            _ => Err(CompressionError::Algorithm(algorithm.into())),
        }
    }

    /// The OCI media type of a layer compressed like this.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Gzip { .. } => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd { .. } => "application/vnd.oci.image.layer.v1.tar+zstd",
            Self::None => "application/vnd.oci.image.layer.v1.tar",
        }
    }
}

fn parse_level(algorithm: &'static str, level: &str, least: u32, most: u32) -> Result<u32, CompressionError> {
    let digits = !level.is_empty() && level.bytes().all(|b| b.is_ascii_digit());
    match level.parse() {
        Ok(n) if digits && (least..=most).contains(&n) => Ok(n),
        _ => Err(CompressionError::Level { algorithm, level: level.into(), least, most }),
    }
}

impl Default for Compression {
    fn default() -> Self {
        Self::Gzip { level: Self::GZIP_DEFAULT }
    }
}

impl FromStr for Compression {
    type Err = CompressionError;

    fn from_str(text: &str) -> Result<Self, CompressionError> {
        Self::parse(text)
    }
}

/// In the form that [`Compression::parse`] reads, always with the level.
impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gzip { level } => write!(f, "gzip:{level}"),
            Self::Zstd { level } => write!(f, "zstd:{level}"),
            Self::None => f.write_str("none"),
        }
    }
}

/// What a layer is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerDigests {
    /// SHA-256 of the tar.
    pub diff_id: [u8; 32],
    /// SHA-256 of the blob.
    pub digest: [u8; 32],
    /// Bytes of the blob.
    pub size: u64,
    /// Bytes of the tar.
    pub uncompressed_size: u64,
}

/// Each has megabytes in hand, and the caller's thread, which digests the tar, keeps no more of them busy.
const MAX_WORKERS: usize = 8;

/// Takes the bytes of a tar, writes the blob to `W` and digests both.
///
/// Dropped without [`finish`](Self::finish), what is in `W` is no blob.
pub struct LayerWriter<W: Write> {
    tar: Sha256,
    uncompressed_size: u64,
    blob: Blob<W>,
}

enum Blob<W: Write> {
    Gzip(ParallelGzip<Digesting<W>>),
    Zstd(ZstdBlob<W>),
    None(Digesting<W>),
}

impl<W: Write> LayerWriter<W> {
    /// Starts a blob on `out`. At most `workers` threads compress beside the caller's (0 is taken for
    /// 1, and more than 8 for 8), started only when there is something for a second one to do: most layers
    /// are small.
    pub fn new(out: W, compression: Compression, workers: usize) -> io::Result<Self> {
        Self::start(out, compression, workers, None)
    }

    /// The same, but what is among `known` is not compressed again. The blob is the same bytes. Only gzip
    /// asks, and only for layers of more than a few chunks.
    pub fn reusing(
        out: W,
        compression: Compression,
        workers: usize,
        known: Arc<dyn KnownSegments>,
    ) -> io::Result<Self> {
        Self::start(out, compression, workers, Some(known))
    }

    fn start(
        out: W,
        compression: Compression,
        workers: usize,
        known: Option<Arc<dyn KnownSegments>>,
    ) -> io::Result<Self> {
        let out = Digesting { out, sha: Sha256::new(), size: 0 };
        let workers = workers.clamp(1, MAX_WORKERS);
        let blob = match compression {
            Compression::Gzip { level } => Blob::Gzip(ParallelGzip::new(out, level, workers, known)?),
            Compression::Zstd { level } => {
                Blob::Zstd(ZstdBlob::Small { out, head: Vec::new(), level, workers })
            }
            Compression::None => Blob::None(out),
        };
        Ok(Self { tar: Sha256::new(), uncompressed_size: 0, blob })
    }

    /// SHA-256 of what was written so far: the diff ID, once that is all. Compressing may take longer.
    pub fn tar_digest(&self) -> [u8; 32] {
        self.tar.clone().finalize().into()
    }

    /// Ends the blob and gives the output back (not flushed) with the digests.
    pub fn finish(self) -> io::Result<(W, LayerDigests)> {
        let out = match self.blob {
            Blob::Gzip(gzip) => gzip.finish()?,
            Blob::Zstd(zstd) => zstd.finish()?,
            Blob::None(out) => out,
        };
        let digests = LayerDigests {
            diff_id: self.tar.finalize().into(),
            digest: out.sha.finalize().into(),
            size: out.size,
            uncompressed_size: self.uncompressed_size,
        };
        Ok((out.out, digests))
    }
}

impl<W: Write> Write for LayerWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tar.update(bytes);
        self.uncompressed_size += bytes.len() as u64;
        match &mut self.blob {
            Blob::Gzip(gzip) => gzip.write_all(bytes),
            Blob::Zstd(zstd) => zstd.write_all(bytes),
            Blob::None(out) => out.write_all(bytes),
        }
    }

    /// Does nothing: a compressor made to let go of what it holds would give other bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Up to here the tar is kept back and, if it ends, compressed in the caller's thread: starting a
/// thread costs more than compressing this does.
const ZSTD_SMALL: usize = 1 << 20;
/// What one thread takes at a time. zstd would choose by the level, but does not promise to choose the
/// same tomorrow, and the bytes depend on it.
const ZSTD_JOB: u32 = 4 << 20;

/// One zstd frame. Which of the two forms it has depends on how many bytes there are, on nothing else:
/// zstd's multi-threaded mode gives the same bytes for any number of workers from one up, but others
/// than its single-threaded mode.
enum ZstdBlob<W: Write> {
    Small {
        out: Digesting<W>,
        head: Vec<u8>,
        level: i32,
        workers: usize,
    },
    Large(Box<zstd::Encoder<'static, Digesting<W>>>),
    /// A write failed.
    Broken,
}

impl<W: Write> ZstdBlob<W> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Small { head, .. } if head.len() + bytes.len() <= ZSTD_SMALL => {
                head.extend_from_slice(bytes);
                Ok(())
            }
            Self::Small { .. } => {
                self.grow()?;
                self.write_all(bytes)
            }
            Self::Large(encoder) => encoder.write_all(bytes),
            Self::Broken => Err(broken()),
        }
    }

    fn grow(&mut self) -> io::Result<()> {
        if let Self::Small { out, head, level, workers } = std::mem::replace(self, Self::Broken) {
            let mut encoder = zstd::Encoder::new(out, level)?;
            encoder.set_parameter(CParameter::NbWorkers(workers as u32))?;
            encoder.set_parameter(CParameter::JobSize(ZSTD_JOB))?;
            encoder.write_all(&head)?;
            *self = Self::Large(Box::new(encoder));
        }
        Ok(())
    }

    fn finish(self) -> io::Result<Digesting<W>> {
        match self {
            Self::Small { out, head, level, .. } => {
                let mut encoder = zstd::Encoder::new(out, level)?;
                encoder.set_pledged_src_size(Some(head.len() as u64))?;
                encoder.write_all(&head)?;
                encoder.finish()
            }
            Self::Large(encoder) => encoder.finish(),
            Self::Broken => Err(broken()),
        }
    }
}

fn broken() -> io::Error {
    io::Error::other("the layer is incomplete because an earlier write to it failed")
}

/// Digests and counts what passes.
struct Digesting<W: Write> {
    out: W,
    sha: Sha256,
    size: u64,
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.sha.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_and_display_are_inverse() {
        for text in ["gzip:9", "gzip:0", "zstd:19", "zstd:1", "none"] {
            assert_eq!(Compression::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Compression::parse("gzip").unwrap(), Compression::default());
        assert_eq!(Compression::parse("zstd").unwrap(), Compression::Zstd { level: 3 });
    }

    #[test]
    fn nonsense_is_named() {
        let message = |text: &str| Compression::parse(text).unwrap_err().to_string();
        assert!(message("lz4:3").contains("unknown compression `lz4`"), "{}", message("lz4:3"));
        assert!(message("gzip:10").contains("from 0 to 9"), "{}", message("gzip:10"));
        assert!(message("zstd:0").contains("from 1 to 22"));
        for bad in ["", "gzip:", "gzip:+3", "gzip:-1", "zstd:x", "none:1", "GZIP", "gzip:3:4"] {
            assert!(Compression::parse(bad).is_err(), "{bad}");
        }
    }
}
