//! Configuration and manifest of the finished image.

use oci_spec::image::{DescriptorBuilder, ImageIndexBuilder, ImageManifestBuilder, PlatformBuilder};
use serde::{Deserialize, Serialize};

use super::BuildError;
use crate::image::{Descriptor, DiffId, Digest, ImageConfig, MediaType, Platform, media};
use crate::plan;
use crate::store::Store;

/// A layer of the finished image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLayer {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// Digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Its OCI media type.
    pub media_type: String,
    /// Where it is to be had, if registries do not pass it on.
    pub urls: Vec<String>,
}

/// A finished image, in the store.
#[derive(Debug, Clone)]
pub struct Built {
    /// Its manifest.
    pub manifest: Descriptor,
    /// The manifest's digest.
    pub digest: Digest,
    /// The configuration's digest, which Docker calls the image ID.
    pub config_digest: Digest,
    /// Its layers, lowest first.
    pub layers: Vec<ImageLayer>,
}

/// What a build has made: one image, or an index of several, in the store.
#[derive(Debug, Clone)]
pub struct BuiltImage {
    /// The manifest of the only image, or the index.
    pub root: Descriptor,
    /// The digest of that.
    pub digest: Digest,
    /// The images with their platforms; one where there is no index.
    pub images: Vec<(Platform, Built)>,
}

/// When an image with this content was made first.
#[derive(Debug, Serialize, Deserialize)]
struct FirstMade {
    created: String,
}

/// Writes configuration and manifest into the store.
///
/// Without a fixed time, an image whose content was made before keeps the time of then: building the
/// same again gives the same image.
pub fn assemble<I>(
    store: &Store,
    stage: &plan::Stage<I>,
    layers: Vec<ImageLayer>,
    date: Option<i64>,
    fresh: bool,
) -> Result<Built, BuildError> {
    let mut config = stage.config.clone();
    config.rootfs.diff_ids = layers.iter().map(|l| l.diff_id).collect();
    config.created = None;
    let inherited = config.history.len();
    config.history.extend(stage.history.iter().cloned());
    let created = match date {
        Some(date) => rfc3339(date)?,
        None => first_made(store, &config, fresh)?,
    };
    config.created = Some(created.clone());
    for entry in &mut config.history[inherited..] {
        entry.created = Some(created.clone());
    }
    let config_bytes = config.to_json();
    let config_digest = store.write_document(&config_bytes)?;
    let layer_descriptor = |layer: &ImageLayer| {
        let mut descriptor = descriptor(&layer.media_type, &layer.digest, layer.size)?;
        if !layer.urls.is_empty() {
            descriptor.set_urls(Some(layer.urls.clone()));
        }
        Ok::<_, BuildError>(descriptor)
    };
    let layer_descriptors = layers.iter().map(layer_descriptor).collect::<Result<Vec<_>, _>>()?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(descriptor(media::CONFIG, &config_digest, config_bytes.len() as u64)?)
        .layers(layer_descriptors)
        .build()
        .map_err(|e| BuildError::Assemble(e.to_string()))?;
    let manifest_bytes = serde_json::to_vec(&manifest).map_err(|e| BuildError::Assemble(e.to_string()))?;
    let digest = store.write_document(&manifest_bytes)?;
    let manifest = descriptor(media::MANIFEST, &digest, manifest_bytes.len() as u64)?;
    Ok(Built { manifest, digest, config_digest, layers })
}

/// Joins the images for several platforms in an index; a single one stays as it is.
///
/// The index lists them in the order in which their platforms were asked for.
pub fn join(store: &Store, images: Vec<(Platform, Built)>) -> Result<BuiltImage, BuildError> {
    if let [(_, only)] = images.as_slice() {
        return Ok(BuiltImage { root: only.manifest.clone(), digest: only.digest, images });
    }
    let mut entries = Vec::new();
    for (platform, built) in &images {
        let mut named =
            PlatformBuilder::default().os(platform.os.as_str()).architecture(platform.architecture.as_str());
        if let Some(variant) = &platform.variant {
            named = named.variant(variant.clone());
        }
        let mut entry = built.manifest.clone();
        entry.set_platform(Some(named.build().map_err(|e| BuildError::Assemble(e.to_string()))?));
        entries.push(entry);
    }
    let index = ImageIndexBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageIndex)
        .manifests(entries)
        .build()
        .map_err(|e| BuildError::Assemble(e.to_string()))?;
    let bytes = serde_json::to_vec(&index).map_err(|e| BuildError::Assemble(e.to_string()))?;
    let digest = store.write_document(&bytes)?;
    let root = descriptor(media::INDEX, &digest, bytes.len() as u64)?;
    Ok(BuiltImage { root, digest, images })
}

fn descriptor(media_type: &str, digest: &Digest, size: u64) -> Result<Descriptor, BuildError> {
    let digest: oci_spec::image::Digest =
        digest.to_string().parse().map_err(|e| BuildError::Assemble(format!("{e}")))?;
    DescriptorBuilder::default()
        .media_type(MediaType::from(media_type))
        .digest(digest)
        .size(size)
        .build()
        .map_err(|e| BuildError::Assemble(e.to_string()))
}

fn first_made(store: &Store, config: &ImageConfig, fresh: bool) -> Result<String, BuildError> {
    let record = format!("images/{}", Digest::of(&config.to_json()).hex());
    if !fresh && let Some(FirstMade { created }) = store.cached(&record) {
        return Ok(created);
    }
    let created = rfc3339(jiff::Timestamp::now().as_second())?;
    store.remember(&record, &FirstMade { created: created.clone() })?;
    Ok(created)
}

/// Seconds since 1970 as RFC 3339, in UTC.
///
/// # Errors
/// Before the year 1 and after 9999, for which there is no such form.
pub fn rfc3339(seconds: i64) -> Result<String, BuildError> {
    const YEAR_1: i64 = -62_135_596_800;
    let time = jiff::Timestamp::from_second(seconds).ok().filter(|_| seconds >= YEAR_1);
    let outside = || BuildError::Assemble(format!("{seconds} is not a time between the years 1 and 9999"));
    time.map(|t| t.to_string()).ok_or_else(outside)
}
