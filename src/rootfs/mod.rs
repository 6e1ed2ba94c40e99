//! From a chain of layers to a file system to work in, and back to a layer.
//!
//! | file | does |
//! |---|---|
//! | [`storage`] | the backends behind one contract: which there are, which one is taken |
//! | [`overlay`] | the backend that mounts a stack with the kernel's overlay |
//! | [`fuse`] | the backend that mounts one with the program fuse-overlayfs |
//! | [`copy`] | the backend that needs nothing but a directory: a tree of its own, compared with what it was |
//! | [`lower`] | reads a stack of unpacked layers as one tree, the way the kernel's overlay shows it |
//! | [`inodes`] | records that a step left by inode → records by path |
//! | [`describe`] | what a layer says of a name, as it lies on the disk |
//! | [`opener`] | opens the files of a layer, one after the other |
//! | [`freeze`] | turns what a backend says has changed into exactly what a layer says |
//! | [`parallel`] | work that brings more work, on all processors |
//! | [`place`] | a mount point in the work directory |
//! | [`way`] | finds paths in a stack of layers that is not mounted |
//! | [`pack`] | writes a frozen layer as canonical tar, compressed, into the store |
//! | [`unpack`] | brings the layers of an image from blobs to directories |
//!
//! A [`LayerDir`] never changes once it exists, so any number of commands may have it mounted.

mod copy;
pub(crate) mod describe;
pub mod freeze;
mod fuse;
mod inodes;
pub mod lower;
pub(crate) mod opener;
mod overlay;
pub mod pack;
pub(crate) mod parallel;
mod place;
pub mod segments;
pub mod storage;
pub mod unpack;
pub(crate) mod way;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use cooper_runtime::record::Attributes;
use cooper_runtime::sys::fs::Time;

use crate::layer::entry::Entry;

/// What files of one layer ought to be and could not be made, by path from the root.
pub type Records = BTreeMap<Vec<u8>, Attributes>;

/// One unpacked layer.
#[derive(Debug, Clone)]
pub struct LayerDir {
    /// The directory, in the form of an overlay's lower layer.
    pub path: PathBuf,
    /// What could not be made of it. A path that is not here is what the directory says.
    pub records: Arc<Records>,
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
    /// The same, and what else is newer than `to` is set to it, too.
    Newest {
        /// Start of the step, seconds since 1970.
        from: i64,
        /// Its end.
        until: i64,
        /// What such files get.
        to: i64,
    },
    /// Everything gets this time, seconds since 1970.
    Exactly(i64),
}

impl Clamp {
    /// The time that a file modified at `mtime` gets.
    pub fn apply(self, mtime: i64) -> i64 {
        match self {
            Clamp::Between { from, until, to } | Clamp::Newest { from, until, to }
                if (from..=until).contains(&mtime) =>
            {
                to
            }
            Clamp::Between { .. } => mtime,
            Clamp::Newest { to, .. } => mtime.min(to),
            Clamp::Exactly(time) => time,
        }
    }

    /// The same of a time on the disk: what it does not change keeps its fraction of a second.
    pub(crate) fn time(self, mtime: Time) -> Time {
        let sec = self.apply(mtime.sec);
        if sec == mtime.sec { mtime } else { Time { sec, nsec: 0 } }
    }
}
