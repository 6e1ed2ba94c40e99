//! From a chain of layers to a file system to work in, and back to a layer.
//!
//! | file | does |
//! |---|---|
//! | [`lower`] | reads a stack of unpacked layers as one tree, the way the kernel's overlay shows it |
//! | [`overlay`] | the storage backend: mounts a stack with an upper directory to work in |
//! | [`freeze`] | turns the upper directory into exactly what a layer says: what changed, nothing else |
//! | [`pack`] | writes a frozen layer as canonical tar, compressed, into the store |
//! | [`unpack`] | brings the layers of an image from blobs to directories |
//!
//! A [`LayerDir`] never changes once it exists, so any number of commands may have it mounted.

pub mod freeze;
pub mod lower;
pub mod overlay;
pub mod pack;
pub mod unpack;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::layer::entry::Entry;

/// Owners that could not be made because the id map has a single id: path → user and group.
pub type RecordedOwners = BTreeMap<Vec<u8>, (u32, u32)>;

/// One unpacked layer.
#[derive(Debug, Clone)]
pub struct LayerDir {
    /// The directory, in the form of an overlay's lower layer.
    pub path: PathBuf,
    /// Owners it should have and could not be given.
    pub owners: Arc<RecordedOwners>,
}

/// What a step has changed, frozen: its directory holds exactly what its entries say.
#[derive(Debug)]
pub struct Frozen {
    /// The directory, in the form of an overlay's lower layer, in this command's work directory.
    pub layer: LayerDir,
    /// The layer's entries, sorted by path bytes.
    pub entries: Vec<Entry>,
}

/// Which modification times a step's files get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clamp {
    /// What was modified while the step ran gets the time `to`; other times, past and future, are left
    /// as they are. So files that a step makes do not tell when it ran.
    Between {
        /// Start of the step, seconds since 1970.
        from: i64,
        /// Its end.
        until: i64,
        /// What such files get.
        to: i64,
    },
    /// What is newer than this is set to it: `SOURCE_DATE_EPOCH`.
    Newest(i64),
}

impl Clamp {
    /// The time that a file modified at `mtime` gets.
    pub fn apply(self, mtime: i64) -> i64 {
        match self {
            Clamp::Between { from, until, to } if (from..=until).contains(&mtime) => to,
            Clamp::Newest(limit) => mtime.min(limit),
            Clamp::Between { .. } => mtime,
        }
    }
}
