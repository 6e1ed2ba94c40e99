//! All that belongs to an image in the store, for those who send it elsewhere.

use std::collections::BTreeSet;

use super::document::{Document, DocumentError, NESTING, digest_of};
use crate::image::{Descriptor, Digest, DigestError, media};
use crate::store::{Store, StoreError};

/// The blobs and documents of an image or index, each once.
#[derive(Debug, Clone)]
pub struct Contents {
    /// The image itself.
    pub root: Digest,
    /// Configurations and layers, with their sizes.
    pub blobs: Vec<(Digest, u64)>,
    /// Which of them are not to be passed on, since whoever wants them gets them from elsewhere.
    pub restricted: BTreeSet<Digest>,
    /// Manifests and indexes with their media types; what is named by another comes before it, so the
    /// image itself is last.
    pub manifests: Vec<(Digest, u64, String)>,
}

/// An image that is not whole.
#[derive(Debug, thiserror::Error)]
pub enum ContentsError {
    /// Something is not in the store.
    #[error("the store lacks {what} {digest}")]
    Missing {
        /// Manifest, configuration or layer.
        what: &'static str,
        /// Which.
        digest: Digest,
    },
    /// Something has a digest that cannot be checked.
    #[error(transparent)]
    Digest(DigestError),
    /// A document makes no sense.
    #[error("{digest} in the store cannot be used: {source}")]
    Document {
        /// Which.
        digest: Digest,
        /// Why.
        source: DocumentError,
    },
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Contents {
    /// Lists what `root` leads to, and checks that it is all there.
    ///
    /// # Errors
    /// When something is missing or makes no sense.
    pub fn of(store: &Store, root: &Descriptor) -> Result<Contents, ContentsError> {
        let mut contents = Contents {
            root: checked_digest(root)?,
            blobs: Vec::new(),
            restricted: BTreeSet::new(),
            manifests: Vec::new(),
        };
        let mut seen = BTreeSet::new();
        contents.add(store, root, &mut seen, 0)?;
        Ok(contents)
    }

    fn add(
        &mut self,
        store: &Store,
        descriptor: &Descriptor,
        seen: &mut BTreeSet<Digest>,
        depth: usize,
    ) -> Result<(), ContentsError> {
        let digest = checked_digest(descriptor)?;
        let failed = |source| ContentsError::Document { digest, source };
        if depth > NESTING {
            return Err(failed(DocumentError::Nesting));
        }
        if !seen.insert(digest) {
            return Ok(());
        }
        require(store, "manifest", &digest, descriptor.size())?;
        let bytes = store.read_document(&digest)?;
        let media_type = descriptor.media_type().to_string();
        match Document::parse(&bytes, Some(&media_type)).map_err(failed)? {
            Document::Index(index) => {
                for entry in index.manifests() {
                    self.add(store, entry, seen, depth + 1)?;
                }
            }
            Document::Manifest(manifest) => {
                let config = std::iter::once(("configuration", manifest.config()));
                for (what, blob) in config.chain(manifest.layers().iter().map(|l| ("layer", l))) {
                    let digest = checked_digest(blob)?;
                    let elsewhere = blob.urls().as_ref().is_some_and(|urls| !urls.is_empty());
                    if elsewhere && media::is_restricted(blob.media_type().as_ref()) {
                        self.restricted.insert(digest);
                    }
                    if seen.insert(digest) {
                        require(store, what, &digest, blob.size())?;
                        self.blobs.push((digest, blob.size()));
                    }
                }
            }
        }
        self.manifests.push((digest, bytes.len() as u64, media_type));
        Ok(())
    }
}

fn checked_digest(descriptor: &Descriptor) -> Result<Digest, ContentsError> {
    digest_of(descriptor).map_err(ContentsError::Digest)
}

fn require(store: &Store, what: &'static str, digest: &Digest, expected: u64) -> Result<(), ContentsError> {
    match store.blob_size(digest) {
        None => Err(ContentsError::Missing { what, digest: *digest }),
        Some(found) if found != expected => {
            let source = DocumentError::Size { digest: *digest, expected, found };
            Err(ContentsError::Document { digest: *digest, source })
        }
        Some(_) => Ok(()),
    }
}
