//! Manifests, indexes and configurations from places we do not trust: what they may look like, and how
//! one image is picked from an index.
//!
//! A document's kind is what its announced media type says, and the content must agree: a text that is
//! a manifest to one program and an index to another lets an attacker show each of them another image
//! (CVE-2021-41190).

use serde_json::Value;

use crate::image::{
    Descriptor, DiffId, Digest, DigestError, ImageConfig, ImageIndex, ImageManifest, MediaType, Platform,
    media,
};
use crate::store::blobs::DOCUMENT_LIMIT;

/// How many indexes may lie in one another.
pub(super) const NESTING: usize = 4;

/// A document that makes no sense, or not to us.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON, or not of the right form.
    #[error("it is not a valid {kind}: {reason}")]
    Malformed {
        /// What it should be.
        kind: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// Docker's first format.
    #[error("it has Docker's obsolete manifest format (schema 1); push the image again with a current tool")]
    Schema1,
    /// A kind of document that is no image.
    #[error("its media type is `{0}`, which is not a container image")]
    NotAnImage(String),
    /// Announced as one thing, and looking like another.
    #[error("it is announced as `{announced}` but is {found}")]
    Contradiction {
        /// The media type announced.
        announced: String,
        /// What the content looks like.
        found: String,
    },
    /// A digest that cannot be checked.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// Not as long as its descriptor says.
    #[error("{digest} has {found} bytes where its descriptor says {expected}")]
    Size {
        /// Which.
        digest: Digest,
        /// Announced.
        expected: u64,
        /// Found.
        found: u64,
    },
    /// A descriptor announces a document of absurd size.
    #[error(
        "{digest} is announced with {size} bytes, where no honest document has more than {DOCUMENT_LIMIT}"
    )]
    TooLarge {
        /// Which.
        digest: Digest,
        /// Announced.
        size: u64,
    },
    /// A layer that cannot be unpacked.
    #[error("layer {digest} has the media type `{media_type}`, {why}")]
    Layer {
        /// Which.
        digest: Digest,
        /// Its type.
        media_type: String,
        /// Why that is no good.
        why: &'static str,
    },
    /// Manifest and configuration disagree.
    #[error("the manifest has {layers} layers, and the configuration {diff_ids} diff IDs")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// Indexes in indexes in indexes.
    #[error("more than {NESTING} indexes lie in one another")]
    Nesting,
}

/// A manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Several images, by platform.
    Index(Box<ImageIndex>),
    /// One image.
    Manifest(Box<ImageManifest>),
}

/// One layer of an image, with types instead of strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The blob's digest.
    pub digest: Digest,
    /// The blob's size.
    pub size: u64,
    /// The OCI media type, also where the manifest has Docker's name for it.
    pub media_type: &'static str,
    /// Of a layer that registries do not pass on ([`media::is_restricted`]): where it is to be had.
    pub urls: Vec<String>,
    /// The digest of the uncompressed tar, as the configuration says.
    pub diff_id: DiffId,
}

/// One image: manifest and configuration, checked against each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Pulled {
    /// The manifest's descriptor, with the platform where an index said it.
    pub manifest: Descriptor,
    /// The digest of what the name leads to: the manifest's, or that of the index it was picked from.
    /// This is what pins a name.
    pub pinned: Digest,
    /// The manifest.
    pub manifest_document: ImageManifest,
    /// The configuration.
    pub config: ImageConfig,
    /// The layers, lowest first, as many as the configuration has diff IDs.
    pub layers: Vec<Layer>,
}

/// Why no image could be picked.
#[derive(Debug)]
pub(crate) enum SelectError<E> {
    /// A document could not be had.
    Fetch(E),
    /// A document makes no sense.
    Document {
        /// Which.
        digest: Digest,
        /// Why.
        source: DocumentError,
    },
    /// No image for the platform; these are there.
    NoPlatform(Vec<String>),
}

impl Document {
    /// Reads a manifest or index. `announced` is the media type that came with it.
    ///
    /// # Errors
    /// When the bytes are neither, or not what was announced.
    pub fn parse(bytes: &[u8], announced: Option<&str>) -> Result<Document, DocumentError> {
        let malformed = |kind: &'static str| {
            move |e: serde_json::Error| DocumentError::Malformed { kind, reason: e.to_string() }
        };
        let mut value: Value = serde_json::from_slice(bytes).map_err(malformed("manifest"))?;
        let Some(object) = value.as_object_mut() else {
            return Err(DocumentError::Malformed {
                kind: "manifest",
                reason: "it is not an object".to_owned(),
            });
        };
        let announced = announced.filter(|a| media::is_index(a) || media::is_manifest(a) || is_foreign(a));
        let own =
            object.get("mediaType").and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_owned);
        if object.get("schemaVersion").and_then(Value::as_u64) == Some(1)
            || announced.is_some_and(|a| a.starts_with("application/vnd.docker.distribution.manifest.v1+"))
        {
            return Err(DocumentError::Schema1);
        }
        if let (Some(announced), Some(own)) = (announced, &own)
            && announced != own
        {
            return Err(DocumentError::Contradiction {
                announced: announced.to_owned(),
                found: format!("`{own}`"),
            });
        }
        let has = |key: &str| object.get(key).is_some_and(|v| !v.is_null());
        let (as_index, as_manifest) = (has("manifests"), has("layers") || has("config"));
        let kind = announced.map(str::to_owned).or(own);
        let is_index = match &kind {
            Some(kind) if media::is_index(kind) => true,
            Some(kind) if media::is_manifest(kind) => false,
            Some(kind) => return Err(DocumentError::NotAnImage(kind.clone())),
            // The media type was optional for long.
            None => as_index,
        };
        if if is_index { as_manifest } else { as_index } {
            let found = match (as_index, as_manifest) {
                (true, true) => "a manifest and an index at once",
                (true, false) => "an index",
                _ => "a manifest",
            };
            let announced = kind.unwrap_or_else(|| "nothing".to_owned());
            return Err(DocumentError::Contradiction { announced, found: found.to_owned() });
        }
        // Go programs write `null` for an empty list.
        let list = if is_index { "manifests" } else { "layers" };
        if let Some(entry) = object.get_mut(list).filter(|v| v.is_null()) {
            *entry = Value::Array(Vec::new());
        }
        if is_index {
            serde_json::from_value(value)
                .map(|i| Document::Index(Box::new(i)))
                .map_err(malformed("image index"))
        } else {
            serde_json::from_value(value)
                .map(|m| Document::Manifest(Box::new(m)))
                .map_err(malformed("image manifest"))
        }
    }
}

fn is_foreign(media_type: &str) -> bool {
    // What servers say about any file, and what thus announces nothing.
    !matches!(
        media_type,
        "" | "application/json" | "application/octet-stream" | "text/plain" | "binary/octet-stream"
    )
}

/// The digest in a descriptor, as one that we can check.
///
/// # Errors
/// When it has another algorithm.
pub fn digest_of(descriptor: &Descriptor) -> Result<Digest, DigestError> {
    descriptor.digest().as_ref().parse()
}

/// A descriptor with nothing but the three fields it must have.
pub fn descriptor(media_type: &str, size: u64, digest: &Digest) -> Descriptor {
    // Our digests are always 64 hexadecimal digits, the only thing that this parser looks at.
    let digest: oci_spec::image::Digest = digest.to_string().parse().expect("a SHA-256 digest");
    Descriptor::new(MediaType::from(media_type), size, digest)
}

/// Gets the document that a descriptor names, and checks its digest.
pub(crate) type Fetch<'a, E> = &'a mut dyn FnMut(&Digest, &Descriptor) -> Result<Vec<u8>, E>;

/// Picks the image for `platform` from a document, which may be an index, and reads its configuration.
pub(crate) fn select<E>(
    root: &Digest,
    bytes: Vec<u8>,
    announced: Option<&str>,
    platform: &Platform,
    fetch: Fetch<'_, E>,
) -> Result<Pulled, SelectError<E>> {
    let mut digest = *root;
    let mut bytes = bytes;
    let mut announced = announced.map(str::to_owned);
    let mut chosen: Option<Descriptor> = None;
    for _ in 0..=NESTING {
        let failed = |source| SelectError::Document { digest, source };
        let manifest = match Document::parse(&bytes, announced.as_deref()).map_err(failed)? {
            Document::Manifest(manifest) => manifest,
            Document::Index(index) => {
                let Some(entry) = platform.choose(index.manifests()) else {
                    return Err(SelectError::NoPlatform(platforms(&index)));
                };
                let kind = entry.media_type().to_string();
                if !media::is_index(&kind) && !media::is_manifest(&kind) {
                    return Err(failed(DocumentError::NotAnImage(kind)));
                }
                let next = checked(entry).map_err(failed)?;
                bytes = get(&next, entry, fetch)?;
                digest = next;
                announced = Some(kind);
                chosen = Some(entry.clone());
                continue;
            }
        };
        let media_type = match announced.as_deref().filter(|a| media::is_manifest(a)) {
            Some(announced) => announced.to_owned(),
            None => manifest.media_type().as_ref().map_or(media::MANIFEST.to_owned(), ToString::to_string),
        };
        let mut own = descriptor(&media_type, bytes.len() as u64, &digest);
        own.set_platform(chosen.and_then(|d| d.platform().clone()));
        check_config_type(&manifest).map_err(failed)?;
        let layers = check_layers(&manifest).map_err(failed)?;
        let config_digest = checked(manifest.config()).map_err(failed)?;
        let config = get(&config_digest, manifest.config(), fetch)?;
        let failed = |source| SelectError::Document { digest: config_digest, source };
        let config = ImageConfig::from_json(&config)
            .map_err(|e| DocumentError::Malformed { kind: "image configuration", reason: e.to_string() })
            .map_err(failed)?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != layers.len() {
            return Err(failed(DocumentError::LayerCount { layers: layers.len(), diff_ids: diff_ids.len() }));
        }
        let layers = layers
            .into_iter()
            .zip(diff_ids)
            .map(|(layer, diff_id)| Layer { diff_id: *diff_id, ..layer })
            .collect();
        return Ok(Pulled { manifest: own, pinned: *root, manifest_document: *manifest, config, layers });
    }
    Err(SelectError::Document { digest: *root, source: DocumentError::Nesting })
}

/// The digest of a document that is about to be fetched, if its size is one we would read.
fn checked(descriptor: &Descriptor) -> Result<Digest, DocumentError> {
    let digest = digest_of(descriptor)?;
    match descriptor.size() {
        size if size > DOCUMENT_LIMIT => Err(DocumentError::TooLarge { digest, size }),
        _ => Ok(digest),
    }
}

fn get<E>(digest: &Digest, descriptor: &Descriptor, fetch: Fetch<'_, E>) -> Result<Vec<u8>, SelectError<E>> {
    let bytes = fetch(digest, descriptor).map_err(SelectError::Fetch)?;
    let (expected, found) = (descriptor.size(), bytes.len() as u64);
    if expected != found {
        let source = DocumentError::Size { digest: *digest, expected, found };
        return Err(SelectError::Document { digest: *digest, source });
    }
    Ok(bytes)
}

fn check_config_type(manifest: &ImageManifest) -> Result<(), DocumentError> {
    match manifest.config().media_type().to_string().as_str() {
        // The last is what Docker's first programs with schema 2 have pushed.
        media::CONFIG | "application/vnd.docker.container.image.v1+json" | "application/octet-stream" => {
            Ok(())
        }
        other => Err(DocumentError::NotAnImage(other.to_owned())),
    }
}

/// The layers, their diff IDs still to be filled in.
fn check_layers(manifest: &ImageManifest) -> Result<Vec<Layer>, DocumentError> {
    let mut layers = Vec::new();
    for layer in manifest.layers() {
        let digest = digest_of(layer)?;
        let media_type = layer.media_type().to_string();
        let Some(known) = media::oci_layer(&media_type) else {
            let why = if media_type.ends_with("+encrypted") {
                "and cooper cannot decrypt"
            } else {
                "which cooper cannot unpack"
            };
            return Err(DocumentError::Layer { digest, media_type, why });
        };
        let urls = match media::is_restricted(known) {
            true => layer.urls().clone().unwrap_or_default(),
            false => Vec::new(),
        };
        layers.push(Layer { digest, size: layer.size(), media_type: known, urls, diff_id: DiffId(digest) });
    }
    Ok(layers)
}

/// The platforms that an index has, for people; attestations and the like are left out.
fn platforms(index: &ImageIndex) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for platform in index.manifests().iter().filter_map(|d| d.platform().as_ref()) {
        let variant = platform.variant().as_ref().map(|v| format!("/{v}")).unwrap_or_default();
        let name = format!("{}/{}{variant}", platform.os(), platform.architecture());
        if !name.starts_with("unknown/") && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}
