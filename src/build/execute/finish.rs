//! Keeps what was made, and puts the image together.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use cooper_runtime::sys::process::processors;

use super::{Executor, base_image};
use crate::build::BuildError;
use crate::build::assemble::{Built, BuiltImage, ImageLayer, assemble, join};
use crate::build::stack::{Fresh, Record, StageEnd, StepRecord};
use crate::image::ChainId;
use crate::progress::{Event, TaskId};
use crate::rootfs::pack::{PackedLayer, recompress};

/// So long layers are waited for without a word.
const UNSAID: Duration = Duration::from_millis(300);

impl Executor<'_, '_> {
    /// Waits for all layers, moves them to where unpacked layers lie, and writes what is to be remembered.
    pub(super) fn settle(&self) -> Result<(), BuildError> {
        // Nothing may have them mounted by a path that is about to change.
        self.sources.unmount();
        self.sources.save()?;
        let Some(opened) = self.opened.get() else { return Ok(()) };
        let place = opened.workshop.place(self.store);
        let ends = self.board.ends();
        let compressing = self.tell_if_compressing(&ends);
        let mut records = BTreeMap::new();
        let mut keep_all = || {
            for end in &ends {
                let mut diff_ids = Vec::new();
                for layer in &end.layers {
                    let packed = layer.packed.wait()?;
                    if let Some(fresh) = &layer.fresh {
                        Fresh::keep(fresh, place, packed.diff_id)?;
                    }
                    if let Some(Record { key, time, alone }) = layer.record {
                        let below = if alone { None } else { ChainId::of(&diff_ids) };
                        records.insert(key.on(below).record(), StepRecord { layer: packed.clone(), time });
                    }
                    diff_ids.push(packed.diff_id);
                }
            }
            Ok::<_, BuildError>(())
        };
        let kept = keep_all();
        if let Some((task, began)) = compressing {
            self.progress.event(Event::Finished { task, elapsed: began.elapsed() });
        }
        // The only time that anybody waits for the disk.
        self.store.barrier()?;
        for (name, record) in records {
            self.store.remember(&name, &record)?;
        }
        self.finder().name_fetched()?;
        kept?;
        let memos = std::mem::take(&mut *self.memos.lock().unwrap_or_else(PoisonError::into_inner));
        memos.into_iter().try_for_each(|memo| memo.keep(self, &ends))
    }

    /// Shows that layers are still being compressed, if that takes long enough to wonder.
    fn tell_if_compressing(&self, ends: &[StageEnd]) -> Option<(TaskId, Instant)> {
        let began = Instant::now();
        let layers = || ends.iter().flat_map(|end| &end.layers);
        if layers().all(|layer| layer.packed.is_settled_by(began + UNSAID)) {
            return None;
        }
        let task = self.task();
        let text = "compress layers".to_owned();
        self.progress.event(Event::Started { task, label: String::new(), text });
        Some((task, began))
    }

    /// Puts the images together.
    pub(super) fn finish(&self) -> Result<BuiltImage, BuildError> {
        let ends = self.board.ends();
        let mut images = Vec::new();
        for target in &self.plan.targets {
            let layers = &ends[target.stage].layers;
            let layers: Vec<_> =
                layers.iter().map(|l| Ok((l.packed.wait()?, l.base))).collect::<Result<_, BuildError>>()?;
            images.push((target.platform.clone(), self.image(target.stage, layers)?));
        }
        self.finder().name_fetched()?;
        join(self.store, images)
    }

    /// `layers` are those of the image, each with whether it came with a base image.
    fn image(&self, position: usize, layers: Vec<(PackedLayer, bool)>) -> Result<Built, BuildError> {
        let stage = &self.plan.stages[position];
        if let Some(found) = base_image(self.plan, position) {
            self.finder().fetch(found, None)?;
        }
        let mut made = Vec::new();
        for (mut packed, base) in layers {
            if !base && packed.compression != self.options.compression.to_string() {
                packed = self.converted(&packed)?;
            }
            made.push(ImageLayer {
                diff_id: packed.diff_id,
                digest: packed.digest,
                size: packed.size,
                media_type: packed.media_type,
                urls: packed.urls,
            });
        }
        assemble(self.store, stage, made, self.options.times.created(), self.options.no_cache)
    }

    /// A cached layer in the compression asked for.
    fn converted(&self, packed: &PackedLayer) -> Result<PackedLayer, BuildError> {
        let compression = self.options.compression;
        let record = format!("layers/{}/{compression}", packed.diff_id.0.hex());
        if let Some(known) = self.store.cached::<PackedLayer>(&record)
            && self.store.blob_size(&known.digest) == Some(known.size)
        {
            return Ok(known);
        }
        let (task, began) = (self.task(), Instant::now());
        let text = format!("compress {} with {compression}", packed.diff_id.0.short());
        self.progress.event(Event::Started { task, label: String::new(), text });
        let work = self.store.work_dir()?;
        let workers = processors();
        let converted = recompress(self.store, &work, packed, compression, workers)?;
        self.store.barrier()?;
        self.store.remember(&record, &converted)?;
        self.progress.event(Event::Finished { task, elapsed: began.elapsed() });
        Ok(converted)
    }
}
