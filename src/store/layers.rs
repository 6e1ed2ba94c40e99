//! `layers/<id map>/<diff ID>/`: unpacked layers.
//!
//! Each is one lower directory as the kernel's overlay (mounted with `userxattr`) stacks them:
//! whiteouts are character devices 0:0, and `user.overlay.opaque` marks an opaque directory. Owners
//! are those of the user namespace that unpacked it, which is why another map of ids has another set.
//! What could not be made there (owners where there is one id, devices) stands in `<diff ID>.records`.
//! A directory appears by rename when it is whole and is never changed after.

use std::path::{Path, PathBuf};

use cooper_runtime::sys::fs as sysfs;

use super::Store;
use crate::image::{ChainId, DiffId, Digest};

/// The form of the records beside unpacked layers. With another number there is another set of them.
const RECORDS: u32 = 2;

/// Names a set of unpacked layers: a short hash of the id map they were unpacked under.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MapTag(String);

impl MapTag {
    /// The tag of an id map, described by any text that is equal for equal maps only.
    pub fn of(map: &str) -> MapTag {
        MapTag(Digest::of(format!("{RECORDS}\n{map}").as_bytes()).hex()[..8].to_owned())
    }
}

impl Store {
    /// Where the cache mounts of all id maps lie.
    pub fn cache_mounts_dir(&self) -> PathBuf {
        self.root.join("cache/mounts")
    }

    /// Where the cache mounts of one id map lie: files in them have owners, like those of layers.
    pub fn cache_mounts(&self, tag: &MapTag) -> PathBuf {
        self.cache_mounts_dir().join(&tag.0)
    }

    /// Where the unpacked layers of one id map lie.
    pub fn layers_dir(&self, tag: &MapTag) -> PathBuf {
        self.root.join("layers").join(&tag.0)
    }

    /// Where an unpacked layer lies, or would.
    pub fn layer_path(&self, tag: &MapTag, layer: DiffId) -> PathBuf {
        self.layers_dir(tag).join(layer.0.hex())
    }

    /// Where a layer lies that could only be unpacked knowing what is below it (a hard link to a file
    /// of a lower layer): under its chain ID, since with other layers below it is another tree.
    pub fn chained_layer_path(&self, tag: &MapTag, chain: ChainId) -> PathBuf {
        self.layers_dir(tag).join(format!("chain-{}", chain.0.hex()))
    }
}

/// Moves a finished directory to its place; when another command was faster, its copy is as good.
///
/// # Errors
/// What `rename(2)` says, other than that the place is taken.
pub fn settle(from: &Path, to: &Path) -> std::io::Result<()> {
    let (Some(from_dir), Some(from_name)) = (from.parent(), from.file_name()) else { return Ok(()) };
    let (Some(to_dir), Some(to_name)) = (to.parent(), to.file_name()) else { return Ok(()) };
    let (from_dir, to_dir) = (sysfs::open_dir(from_dir)?, sysfs::open_dir(to_dir)?);
    // Never onto what is there: a plain rename would replace an empty directory, which the layer
    // without any change is.
    match sysfs::rename_new_at(&from_dir, from_name, &to_dir, to_name) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
