//! A root file system in a tar becomes an image with one layer.
//!
//! The tar is passed on as it is, recompressed: its digest is the diff ID. It is read on its way, so
//! that what is no tar is noticed before an image points to it.

use std::io::{self, Read};

use crate::layer::compress::Compression;
use crate::layer::decompress::decompressor;
use crate::layer::read::{TarError, TarReader};
use crate::rootfs::pack::{self, PackError, PackedLayer};
use crate::store::{Store, WorkDir};

/// Why a tar cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It is no tar, or a damaged one.
    #[error("it is not a tar archive that can be read: {0}")]
    Tar(#[from] TarError),
    /// It has no entry at all.
    #[error("it is an empty archive")]
    Empty,
    /// It ended too early.
    #[error("the archive is cut off")]
    CutOff,
    /// Reading or writing failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The layer could not be stored.
    #[error(transparent)]
    Pack(#[from] PackError),
}

/// An imported layer.
#[derive(Debug)]
pub struct Imported {
    /// The layer, in the store.
    pub layer: PackedLayer,
    /// The newest modification time in it, seconds since 1970.
    pub newest: i64,
}

/// Reads a tar, plain or compressed with gzip or zstd, and stores it as a layer.
pub fn import(
    store: &Store,
    work: &WorkDir,
    input: impl Read,
    compression: Compression,
    workers: usize,
) -> Result<Imported, ImportError> {
    let writer = pack::start(store, work, compression, workers)?;
    let tee = Tee { input: decompressor(input)?, writer };
    let mut tar = TarReader::new(tee);
    let mut newest = None;
    while let Some(entry) = tar.next()? {
        newest = newest.max(Some(entry.mtime.sec));
    }
    let Some(newest) = newest else { return Err(ImportError::Empty) };
    if tar.end_marker() != Some(true) {
        return Err(ImportError::CutOff);
    }
    tar.drain()?;
    let layer = pack::finish(store, tar.into_inner().writer, compression)?;
    Ok(Imported { layer, newest })
}

/// Writes what is read.
struct Tee<R, W> {
    input: R,
    writer: W,
}

impl<R: Read, W: io::Write> Read for Tee<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buffer)?;
        self.writer.write_all(&buffer[..got])?;
        Ok(got)
    }
}
