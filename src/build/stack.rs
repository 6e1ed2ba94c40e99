//! The layers of stages under construction: packed or still being packed, here or in the store.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::images::FoundImage;
use super::packer::Promise;
use crate::image::{ChainId, DiffId, Digest};
use crate::plan::key::InstructionKey;
use crate::rootfs::LayerDir;
use crate::rootfs::pack::{PackError, PackedLayer};
use crate::rootfs::unpack::{Place, keep};
use crate::store::StoreError;

/// What the cache keeps of a step.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StepRecord {
    pub(super) layer: PackedLayer,
    /// The newest time that went into the stage so far, seconds since 1970.
    pub(super) time: i64,
}

/// One layer of a stage under construction.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// What it is packed as, or will be.
    pub(super) packed: Promise,
    /// Where it lies unpacked, if it was made by this command. Stages that start from one another share
    /// it: whoever moves it to the store moves it for all.
    pub(super) fresh: Option<Arc<Mutex<Fresh>>>,
    /// Whether it came with a base image: such layers are passed on as they are.
    pub(super) base: bool,
    /// The record to write once it is packed.
    pub(super) record: Option<Record>,
}

/// Under which key a layer is remembered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    pub(super) key: InstructionKey,
    /// The newest time that went into it, seconds since 1970.
    pub(super) time: i64,
    /// Whether it depends on nothing below it.
    pub(super) alone: bool,
}

/// A layer that this command has made.
#[derive(Debug)]
pub(super) struct Fresh {
    dir: LayerDir,
    /// Whether it lies in the store by now.
    kept: bool,
}

impl Fresh {
    pub(super) fn new(dir: LayerDir) -> Arc<Mutex<Fresh>> {
        Arc::new(Mutex::new(Fresh { dir, kept: false }))
    }

    /// Where it lies now.
    pub(super) fn dir(fresh: &Mutex<Fresh>) -> LayerDir {
        fresh.lock().unwrap_or_else(PoisonError::into_inner).dir.clone()
    }

    /// Moves it to the store, once. Nobody may have it mounted by its path.
    pub(super) fn keep(fresh: &Mutex<Fresh>, place: Place<'_>, diff_id: DiffId) -> Result<(), StoreError> {
        let mut fresh = fresh.lock().unwrap_or_else(PoisonError::into_inner);
        if !fresh.kept {
            fresh.dir = keep(place, &fresh.dir, diff_id)?;
            fresh.kept = true;
        }
        Ok(())
    }
}

/// What a finished stage hands on to those that start from it or copy from it.
#[derive(Debug, Clone, Default)]
pub(super) struct StageEnd {
    /// Lowest first.
    pub(super) layers: Vec<Layer>,
    /// The newest time that went into it, seconds since 1970.
    pub(super) time: i64,
    /// What stands for all the steps that made it, on what it starts from; nothing for nothing.
    pub(super) lineage: Option<Digest>,
}

impl StageEnd {
    /// Whether the diff IDs of all layers are known.
    pub(super) fn is_hashed(&self) -> bool {
        self.layers.iter().all(|layer| layer.packed.is_hashed())
    }

    /// The chain ID of its layers; waits for those whose diff IDs are not known yet.
    pub(super) fn chain(&self) -> Result<Option<ChainId>, PackError> {
        let diff_ids = self.layers.iter().map(|layer| layer.packed.diff_id());
        Ok(ChainId::of(&diff_ids.collect::<Result<Vec<_>, PackError>>()?))
    }
}

/// How an image's layers look to a stage that starts from it.
pub(super) fn image_end(found: &FoundImage) -> StageEnd {
    let created = found.image.config.created.as_deref();
    let time = created.and_then(|c| c.parse::<jiff::Timestamp>().ok()).map_or(0, |t| t.as_second());
    let layers = found.image.layers.iter().map(|l| Layer {
        packed: Promise::kept(PackedLayer {
            diff_id: l.diff_id,
            digest: l.digest,
            size: l.size,
            media_type: l.media_type.to_owned(),
            compression: String::new(),
            urls: l.urls.clone(),
        }),
        fresh: None,
        base: true,
        record: None,
    });
    let lineage = ChainId::of(&found.image.config.rootfs.diff_ids).map(|chain| chain.0);
    StageEnd { layers: layers.collect(), time, lineage }
}
