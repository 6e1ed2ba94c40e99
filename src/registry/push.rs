//! Pushing: first all blobs that the registry lacks, then what names them.

use super::client::{Client, Target};
use super::contents::Contents;
use super::error::RegistryError;
use super::workers::for_each;
use crate::image::{Descriptor, Digest, Reference};
use crate::store::Store;

/// Hears how a push goes on; called from several threads. `()` hears nothing.
pub trait PushObserver: Sync {
    /// The registry has this blob already.
    fn blob_present(&self, digest: &Digest, size: u64) {
        let _ = (digest, size);
    }
    /// A blob's upload begins.
    fn blob_started(&self, digest: &Digest, size: u64) {
        let _ = (digest, size);
    }
    /// So many more bytes of it were sent.
    fn blob_progress(&self, digest: &Digest, bytes: u64) {
        let _ = (digest, bytes);
    }
    /// The registry has it.
    fn blob_done(&self, digest: &Digest) {
        let _ = digest;
    }
    /// A manifest or index is stored there.
    fn manifest_done(&self, digest: &Digest) {
        let _ = digest;
    }
}

impl PushObserver for () {}

/// Pushes an image, or an index with all its images, from the store; gives the digest by which it can
/// be pulled. Layers that may not be passed on, and whose descriptors say where they are to be had, are
/// not uploaded.
///
/// # Errors
/// When the registry does not take something, or the store does not hold all of it.
pub fn push(
    client: &Client,
    store: &Store,
    manifest: &Descriptor,
    to: &Reference,
    observer: &dyn PushObserver,
) -> Result<Digest, RegistryError> {
    let endpoint = client.registries().push_endpoint(to)?;
    let contents = Contents::of(store, manifest)
        .map_err(|source| RegistryError::Incomplete { reference: Box::new(to.clone()), source })?;
    let root = contents.root;
    if to.digest.is_some_and(|d| d != root) {
        return Err(RegistryError::OtherDigest { reference: Box::new(to.clone()), found: root });
    }
    let blobs: Vec<_> = contents.blobs.iter().filter(|(d, _)| !contents.restricted.contains(d)).collect();
    for_each(&blobs, |(digest, size), _| {
        if client.has_blob(&endpoint, digest)? {
            observer.blob_present(digest, *size);
            return Ok::<(), RegistryError>(());
        }
        let file = store.open_blob(digest)?;
        observer.blob_started(digest, *size);
        client
            .upload_blob(&endpoint, digest, &file, *size, &|bytes| observer.blob_progress(digest, bytes))?;
        observer.blob_done(digest);
        Ok(())
    })?;
    for (digest, _, media_type) in &contents.manifests {
        let target = match &to.tag {
            Some(tag) if *digest == root => Target::Tag(tag.clone()),
            _ => Target::Digest(*digest),
        };
        client.put_manifest(&endpoint, &target, media_type, &store.read_document(digest)?)?;
        observer.manifest_done(digest);
    }
    Ok(root)
}
