//! Unpacks the layers of a base image while they are being downloaded.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::Scope;

use super::images::Arrivals;
use crate::registry::Layer;
use crate::rootfs::pack::remember_diff_id;
use crate::rootfs::unpack::{Place, unpack_arriving};
use crate::store::StoreError;

/// Pieces of a layer that may wait to be unpacked: at 64 KiB each, a download runs a megabyte ahead.
const AHEAD: usize = 16;

/// A thread for each layer that comes. What cannot be unpacked on the way is left to whoever wants the
/// layer, who unpacks it from the store, or finds out why that cannot be done.
pub(super) struct Unpacking<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    place: Place<'env>,
    done: &'env Mutex<Vec<Layer>>,
}

impl<'scope, 'env> Unpacking<'scope, 'env> {
    /// Threads live in `scope`; `done` are the layers that were unpacked.
    pub(super) fn new(
        scope: &'scope Scope<'scope, 'env>,
        place: Place<'env>,
        done: &'env Mutex<Vec<Layer>>,
    ) -> Unpacking<'scope, 'env> {
        Unpacking { scope, place, done }
    }
}

/// Remembers what the blobs of these layers are, now that they have come and their digests were right.
pub(super) fn confirm(place: Place<'_>, layers: &Mutex<Vec<Layer>>) -> Result<(), StoreError> {
    let layers = layers.lock().unwrap_or_else(PoisonError::into_inner);
    layers.iter().try_for_each(|layer| remember_diff_id(place.store, &layer.digest, layer.diff_id))
}

impl Arrivals for Unpacking<'_, '_> {
    fn begin(&self, layer: &Layer) -> Option<Box<dyn Write + Send>> {
        let (pieces, waiting) = sync_channel(AHEAD);
        let (place, layer, done) = (self.place, layer.clone(), self.done);
        let unpack = move || {
            let blob = Pieces { waiting, piece: Vec::new(), at: 0 };
            match unpack_arriving(place, layer.diff_id, layer.digest, layer.size, blob) {
                Ok(()) => done.lock().unwrap_or_else(PoisonError::into_inner).push(layer),
                Err(e) => tracing::debug!("not unpacked on the way: {e}"),
            }
        };
        std::thread::Builder::new().name("arrival".to_owned()).spawn_scoped(self.scope, unpack).ok()?;
        Some(Box::new(Sink(pieces)))
    }
}

struct Sink(SyncSender<Vec<u8>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.send(bytes.to_vec()) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Pieces {
    waiting: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            // The end, or a download that broke off: the tar's digest tells.
            let Ok(next) = self.waiting.recv() else { return Ok(0) };
            (self.piece, self.at) = (next, 0);
        }
        let got = buffer.len().min(self.piece.len() - self.at);
        buffer[..got].copy_from_slice(&self.piece[self.at..self.at + got]);
        self.at += got;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::image::{DiffId, Digest, media};
    use crate::layer::compress::{Compression, LayerWriter};
    use crate::rootfs::pack::known_diff_id;
    use crate::store::Store;
    use crate::store::layers::MapTag;

    #[test]
    fn a_layer_is_unpacked_as_it_comes_and_only_if_it_comes_whole() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (work, tag) = (store.work_dir().unwrap(), MapTag::of("a map"));
        let place = Place { store: &store, work: &work, tag: &tag, single: true };
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(300_000);
        header.set_mode(0o644);
        tar.append_data(&mut header, "file", &vec![7u8; 300_000][..]).unwrap();
        let mut writer = LayerWriter::new(Vec::new(), Compression::default(), 1).unwrap();
        writer.write_all(&tar.into_inner().unwrap()).unwrap();
        let (blob, digests) = writer.finish().unwrap();
        let diff_id = DiffId(Digest::from_bytes(digests.diff_id));
        let digest = Digest::from_bytes(digests.digest);
        let layer = Layer {
            diff_id,
            digest,
            size: blob.len() as u64,
            media_type: media::LAYER_GZIP,
            urls: Vec::new(),
        };

        let arrive = |bytes: &[u8]| {
            let done = Mutex::default();
            std::thread::scope(|scope| {
                let mut sink = Unpacking::new(scope, place, &done).begin(&layer).unwrap();
                bytes.chunks(100).for_each(|piece| sink.write_all(piece).unwrap());
            });
            confirm(place, &done).unwrap();
            done.into_inner().unwrap().len()
        };
        let file = store.layer_path(&tag, diff_id).join("file");
        assert_eq!(arrive(&blob[..blob.len() - 20]), 0);
        assert!(!file.exists() && known_diff_id(&store, &digest).is_none());
        assert_eq!(arrive(&blob), 1);
        assert_eq!(std::fs::metadata(&file).unwrap().len(), 300_000);
        assert_eq!(known_diff_id(&store, &digest), Some(diff_id));
        let left = std::fs::read_dir(work.path()).unwrap().count();
        assert_eq!(left, 1, "only the lock is left");
    }
}
