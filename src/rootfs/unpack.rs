//! From an image's blobs to directories that can be mounted.
//!
//! Each layer is unpacked once, by itself, whatever images it is in, and several side by side. A layer
//! that leans on what is below it (a hard link to a lower layer's file, a directory that it does not
//! mention) is unpacked again, in order, with the layers below in view; what comes of that depends on
//! them, so it lies under its chain ID.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cooper_runtime::sys::fs;

use super::describe::describe;
use super::lower::MergedDir;
use super::pack;
use super::storage::discard;
use super::{LayerDir, Records};
use crate::image::{ChainId, DiffId, Digest, Hasher};
use crate::layer::apply::{Applied, ApplyError, ApplyOptions, Owners, ParentTree, apply};
use crate::layer::decompress::{Limited, decompressor};
use crate::layer::entry::Entry;
use crate::store::layers::MapTag;
use crate::store::{Store, StoreError, WorkDir};

/// Layers unpacked at once; more would only fight for the disk.
const AT_ONCE: usize = 2;
/// Says that a layer hides all that is below it.
const OPAQUE_ROOT: &str = "user.cooper.opaque-root";

/// What can go wrong while unpacking.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The layer's tar is not acceptable, or the file system refuses.
    #[error("cannot unpack layer {digest}: {source}")]
    Apply {
        /// The blob.
        digest: Digest,
        /// Why.
        source: ApplyError,
    },
    /// The tar is not the one that the configuration announced.
    #[error("layer {digest} unpacks to {found}, and the image's configuration says {expected}")]
    DiffId {
        /// The blob.
        digest: Digest,
        /// Announced.
        expected: DiffId,
        /// Computed.
        found: Digest,
    },
    /// A file operation around it failed.
    #[error("cannot unpack layer {digest}: {source}")]
    Io {
        /// The blob.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What unpacking needs to know of where it happens.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The store.
    pub store: &'a Store,
    /// This command's work directory.
    pub work: &'a WorkDir,
    /// Names the id map.
    pub tag: &'a MapTag,
    /// Whether the map has one id, so that owners are recorded instead of made.
    pub single: bool,
}

/// A layer of a stack.
#[derive(Debug, Clone)]
pub enum Stacked {
    /// It lies in the store as a blob.
    Stored(DiffId, Digest),
    /// This command has made it, and it lies here.
    Made(DiffId, LayerDir),
}

/// Makes sure that all `layers` (lowest first) are unpacked, and gives their directories, ready to be
/// stacked.
pub fn unpack(place: Place<'_>, layers: &[Stacked]) -> Result<Vec<LayerDir>, UnpackError> {
    let dir = place.store.layers_dir(place.tag);
    std::fs::create_dir_all(&dir).map_err(StoreError::io("cannot create", &dir))?;
    let next = AtomicUsize::new(0);
    let failure: Mutex<Option<UnpackError>> = Mutex::new(None);
    std::thread::scope(|scope| {
        let run = || {
            while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                let Stacked::Stored(diff_id, digest) = layer else { continue };
                let path = place.store.layer_path(place.tag, *diff_id);
                let there = match place.store.has_layer(place.work, &path) {
                    Ok(true) => Some(verify(place.store, *diff_id, *digest)),
                    Ok(false) => None,
                    Err(e) => Some(Err(e.into())),
                };
                if let Some(verified) = there {
                    if let Err(e) = verified {
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                    }
                    continue;
                }
                match unpack_stored(place, *diff_id, *digest, &path, None) {
                    // Done below, when its parents are there.
                    Ok(()) | Err(UnpackError::Apply { source: ApplyError::NeedsParents { .. }, .. }) => {}
                    Err(e) => {
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                        next.store(layers.len(), Ordering::Relaxed);
                    }
                }
            }
        };
        for _ in 1..layers.len().min(AT_ONCE) {
            scope.spawn(run);
        }
        run();
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    chain(place, layers)
}

/// Unpacks a layer from a blob that is still coming. That the tar has the announced digest says that it is
/// the layer, whatever becomes of the blob.
///
/// # Errors
/// When it ends too early, needs the layers below, or is not acceptable: nothing is left of it then, and
/// [`unpack`] tries again from the store.
pub fn unpack_arriving(
    place: Place<'_>,
    diff_id: DiffId,
    digest: Digest,
    size: u64,
    blob: impl Read,
) -> Result<(), UnpackError> {
    let dir = place.store.layers_dir(place.tag);
    std::fs::create_dir_all(&dir).map_err(StoreError::io("cannot create", &dir))?;
    let target = place.store.layer_path(place.tag, diff_id);
    if place.store.has_layer(place.work, &target)? {
        return Ok(());
    }
    let tar = bounded(blob, size).map_err(|source| UnpackError::Io { digest, source })?;
    unpack_one(place, diff_id, digest, &target, None, tar)
}

/// Makes sure that a blob is the layer that an image's configuration says it is, where the layer is there
/// already from another blob. What was found out once is remembered.
fn verify(store: &Store, diff_id: DiffId, digest: Digest) -> Result<(), UnpackError> {
    if pack::known_diff_id(store, &digest) == Some(diff_id) {
        return Ok(());
    }
    let io_error = |source| UnpackError::Io { digest, source };
    let mut tar = open_tar(store, digest)?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0u8; 128 * 1024];
    loop {
        match tar.read(&mut buffer).map_err(io_error)? {
            0 => break,
            got => hasher.update(&buffer[..got]),
        }
    }
    let found = hasher.finish();
    if found != diff_id.0 {
        return Err(UnpackError::DiffId { digest, expected: diff_id, found });
    }
    Ok(pack::remember_diff_id(store, &digest, diff_id)?)
}

/// A blob's tar.
fn open_tar(store: &Store, digest: Digest) -> Result<impl Read, UnpackError> {
    let size = store.blob_size(&digest).unwrap_or(0);
    bounded(store.open_blob(&digest)?, size).map_err(|source| UnpackError::Io { digest, source })
}

/// The tar of a blob of so many bytes. A small blob can stand for one that fills every disk, so there is a
/// bound: generous, since real layers hold sparse files that compress a thousandfold.
fn bounded<'a>(blob: impl Read + 'a, size: u64) -> io::Result<impl Read + 'a> {
    const ALWAYS: u64 = 16 << 30;
    const RATIO: u64 = 64;
    Ok(Limited::new(decompressor(blob)?, ALWAYS.saturating_add(size.saturating_mul(RATIO))))
}

/// The directories of layers that are all unpacked but for those that need their parents.
fn chain(place: Place<'_>, layers: &[Stacked]) -> Result<Vec<LayerDir>, UnpackError> {
    let mut chain: Option<ChainId> = None;
    let mut dirs: Vec<LayerDir> = Vec::new();
    for layer in layers {
        let (Stacked::Stored(diff_id, _) | Stacked::Made(diff_id, _)) = layer;
        let here = chain.map_or(ChainId(diff_id.0), |c| c.then(*diff_id));
        chain = Some(here);
        let digest = match layer {
            Stacked::Stored(_, digest) => digest,
            Stacked::Made(_, dir) => {
                dirs.push(dir.clone());
                continue;
            }
        };
        let mut path = place.store.layer_path(place.tag, *diff_id);
        if !place.store.has_layer(place.work, &path)? {
            path = place.store.chained_layer_path(place.tag, here);
            if !place.store.has_layer(place.work, &path)? {
                unpack_stored(place, *diff_id, *digest, &path, Some(&dirs))?;
            }
        }
        let io_error = |source| UnpackError::Io { digest: *digest, source };
        let layer = load(&path).map_err(io_error)?;
        let top = fs::open_dir(&path).map_err(io_error)?;
        if fs::xattr_at(top.as_fd(), OsStr::new("."), OsStr::new(OPAQUE_ROOT)).map_err(io_error)?.is_some() {
            dirs.clear();
        }
        dirs.push(layer);
    }
    Ok(dirs)
}

/// A layer's directory with what is on record of it beside it.
fn load(path: &Path) -> io::Result<LayerDir> {
    let records = match std::fs::read(records_path(path)) {
        Ok(text) => serde_json::from_slice::<Vec<_>>(&text)?.into_iter().collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Records::new(),
        Err(e) => return Err(e),
    };
    Ok(LayerDir { path: path.to_owned(), records: Arc::new(records) })
}

/// Puts a layer that a step has made where unpacked layers lie, under its diff ID.
pub fn keep(place: Place<'_>, layer: &LayerDir, diff_id: DiffId) -> Result<LayerDir, StoreError> {
    let dir = place.store.layers_dir(place.tag);
    std::fs::create_dir_all(&dir).map_err(StoreError::io("cannot create", &dir))?;
    let path = place.store.layer_path(place.tag, diff_id);
    // Asked here as well: what another boot has left there is not to be taken for this one.
    if place.store.has_layer(place.work, &path)? {
        return Ok(LayerDir { path, records: layer.records.clone() });
    }
    save_records(place.store, &path, &layer.records)?;
    place.store.settle_layer(&layer.path, &path).map_err(StoreError::io("cannot move a layer to", &path))?;
    Ok(LayerDir { path, records: layer.records.clone() })
}

fn records_path(layer: &Path) -> PathBuf {
    layer.with_extension("records")
}

/// Written before the layer appears under its name, so that no layer is ever seen without.
fn save_records(store: &Store, layer: &Path, records: &Records) -> Result<(), StoreError> {
    if records.is_empty() {
        return Ok(());
    }
    let path = records_path(layer);
    let list: Vec<_> = records.iter().collect();
    let text = serde_json::to_vec(&list)
        .map_err(|e| StoreError::Damaged { path: path.clone(), reason: e.to_string() })?;
    store.replace(&path, &text)
}

fn unpack_stored(
    place: Place<'_>,
    diff_id: DiffId,
    digest: Digest,
    target: &Path,
    parents: Option<&[LayerDir]>,
) -> Result<(), UnpackError> {
    unpack_one(place, diff_id, digest, target, parents, open_tar(place.store, digest)?)?;
    Ok(pack::remember_diff_id(place.store, &digest, diff_id)?)
}

fn unpack_one(
    place: Place<'_>,
    diff_id: DiffId,
    digest: Digest,
    target: &Path,
    parents: Option<&[LayerDir]>,
    tar: impl Read,
) -> Result<(), UnpackError> {
    let io_error = |source| UnpackError::Io { digest, source };
    let dir = place.work.fresh("unpack-");
    std::fs::create_dir(&dir).map_err(io_error)?;
    let result = unpack_into(place, diff_id, digest, &dir, target, parents, tar);
    if result.is_err() {
        discard(&dir);
    }
    result
}

fn unpack_into(
    place: Place<'_>,
    diff_id: DiffId,
    digest: Digest,
    dir: &Path,
    target: &Path,
    parents: Option<&[LayerDir]>,
    tar: impl Read,
) -> Result<(), UnpackError> {
    let io_error = |source| UnpackError::Io { digest, source };
    let view = parents.map(|layers| Below { root: layers });
    let dest = fs::open_dir(dir).map_err(io_error)?;
    let mut hashed = Hashed { inner: tar, hasher: Hasher::new() };
    let options = ApplyOptions {
        owners: if place.single { Owners::Record } else { Owners::Make },
        parents: view.as_ref().map(|v| v as &dyn ParentTree),
        ..ApplyOptions::default()
    };
    let applied: Applied =
        apply(&mut hashed, dest.as_fd(), &options).map_err(|source| UnpackError::Apply { digest, source })?;
    let found = hashed.hasher.finish();
    if found != diff_id.0 {
        return Err(UnpackError::DiffId { digest, expected: diff_id, found });
    }
    if applied.opaque_root {
        fs::set_xattr_at(dest.as_fd(), OsStr::new("."), OsStr::new(OPAQUE_ROOT), b"1").map_err(io_error)?;
    }
    save_records(place.store, target, &applied.records)?;
    place.store.settle_layer(dir, target).map_err(io_error)
}

/// Hashes what is read.
struct Hashed<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..got]);
        Ok(got)
    }
}

/// The layers below, as applying a layer asks for them.
struct Below<'a> {
    root: &'a [LayerDir],
}

impl Below<'_> {
    /// The merged directory that has `path`'s last name, and that name.
    fn parent<'p>(&self, path: &'p [u8]) -> io::Result<Option<(MergedDir, &'p OsStr)>> {
        let mut dir = MergedDir::root(self.root)?;
        let mut start = 0;
        while let Some(slash) = path[start..].iter().position(|b| *b == b'/') {
            let end = start + slash;
            let name = OsStr::from_bytes(&path[start..end]);
            let next = match dir.lookup(name, &path[..end])? {
                Some(found) if found.stat.kind == fs::FileKind::Directory => dir.open(name, &found)?,
                _ => return Ok(None),
            };
            dir = next;
            start = end + 1;
        }
        Ok(Some((dir, OsStr::from_bytes(&path[start..]))))
    }
}

impl ParentTree for Below<'_> {
    fn lookup(&self, path: &[u8]) -> io::Result<Option<Entry>> {
        if path.is_empty() {
            let (mode, uid, gid) = MergedDir::root(self.root)?.root_attributes()?;
            let kind = crate::layer::entry::EntryKind::Directory;
            return Ok(Some(Entry {
                path: Vec::new(),
                kind,
                mode,
                uid,
                gid,
                mtime: 0,
                xattrs: BTreeMap::new(),
            }));
        }
        let Some((dir, name)) = self.parent(path)? else { return Ok(None) };
        match dir.lookup(name, path)? {
            Some(found) if found.stat.kind != fs::FileKind::Socket => {
                Ok(Some(describe(found.dir, name, &found.stat, found.record, path.to_vec())?))
            }
            _ => Ok(None),
        }
    }

    fn open(&self, path: &[u8]) -> io::Result<File> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let (dir, name) = self.parent(path)?.ok_or_else(missing)?;
        let found = dir.lookup(name, path)?.ok_or_else(missing)?;
        fs::open_file_at(found.dir, name)
    }
}
