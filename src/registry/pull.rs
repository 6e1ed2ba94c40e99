//! Pulling: first what an image is, then its layers.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use super::client::{Client, Fetched, Target};
use super::config::Endpoint;
use super::document::{Layer, Pulled, SelectError, select};
use super::error::RegistryError;
use super::web::Web;
use super::workers::for_each;
use crate::image::{Descriptor, Digest, Platform, Reference, media};
use crate::store::{ReceiveError, Store, WorkDir};

/// Hears how a pull goes on; called from several threads. `()` hears nothing.
pub trait PullObserver: Sync {
    /// The name leads to this image, as `host` says (a registry, or "the store").
    fn resolved(&self, reference: &Reference, image: &Pulled, host: &str) {
        let _ = (reference, image, host);
    }
    /// A layer is in the store already.
    fn layer_present(&self, digest: &Digest, size: u64) {
        let _ = (digest, size);
    }
    /// A layer's download begins, or begins again at another place.
    fn layer_started(&self, digest: &Digest, size: u64) {
        let _ = (digest, size);
    }
    /// So many more bytes of it have come.
    fn layer_progress(&self, digest: &Digest, bytes: u64) {
        let _ = (digest, bytes);
    }
    /// Who wants the bytes of a layer while they come; asked each time that its download begins. Nothing is
    /// known of them yet: they may turn out wrong, or end too early. After an error no more are given, and
    /// the download goes on.
    fn layer_bytes(&self, layer: &Layer) -> Option<Box<dyn Write + Send>> {
        let _ = layer;
        None
    }
    /// It is in the store.
    fn layer_done(&self, digest: &Digest) {
        let _ = digest;
    }
}

impl PullObserver for () {}

/// An image whose manifest and configuration are known and in the store, and where its layers are to
/// be had.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The name asked for.
    pub reference: Reference,
    /// The image.
    pub image: Pulled,
    /// Where to ask for layers, in order.
    endpoints: Vec<Endpoint>,
}

/// Pulls an image into the store.
///
/// # Errors
/// When no endpoint has all of it, or it cannot be stored.
pub fn pull(
    client: &Client,
    store: &Store,
    work: &WorkDir,
    reference: &Reference,
    platform: &Platform,
    observer: &dyn PullObserver,
) -> Result<Pulled, RegistryError> {
    let resolved = resolve(client, store, reference, platform, observer)?;
    fetch_layers(client, store, work, &resolved, observer)?;
    Ok(resolved.image)
}

/// Finds out what a name leads to and stores manifest and configuration, but no layers. A name with a
/// digest whose documents are all in the store needs no network; one with a tag costs one question
/// when nothing has changed.
///
/// # Errors
/// When no endpoint knows the name, or the image is not for us.
pub fn resolve(
    client: &Client,
    store: &Store,
    reference: &Reference,
    platform: &Platform,
    observer: &dyn PullObserver,
) -> Result<Resolved, RegistryError> {
    let endpoints = client.registries().endpoints(reference)?;
    if let Some(digest) = &reference.digest
        && let Some(image) = in_store(store, digest, platform)
    {
        observer.resolved(reference, &image, "the store");
        return Ok(Resolved { reference: reference.clone(), image, endpoints });
    }
    let (at, image) = first_good(reference, &endpoints, |endpoint| {
        resolve_at(client, store, endpoint, reference, platform)
    })?;
    let ours = (platform.os.as_str(), platform.architecture.as_str());
    if (image.config.os.as_str(), image.config.architecture.as_str()) != ours {
        let (os, architecture) = (&image.config.os, &image.config.architecture);
        tracing::warn!("{reference} is for {os}/{architecture}, and {platform} was wanted");
    }
    observer.resolved(reference, &image, &endpoints[at].host);
    // Those before have failed already.
    Ok(Resolved { reference: reference.clone(), image, endpoints: endpoints[at..].to_vec() })
}

/// Downloads the layers that the store lacks, at most four at once.
///
/// # Errors
/// When a layer is not to be had, is not what the manifest says, or cannot be stored.
pub fn fetch_layers(
    client: &Client,
    store: &Store,
    work: &WorkDir,
    resolved: &Resolved,
    observer: &dyn PullObserver,
) -> Result<(), RegistryError> {
    let mut seen = BTreeSet::new();
    let mut missing: Vec<Layer> = Vec::new();
    for layer in resolved.image.layers.iter().filter(|l| seen.insert(l.digest)) {
        if store.blob_size(&layer.digest) == Some(layer.size) {
            observer.layer_present(&layer.digest, layer.size);
        } else {
            missing.push(layer.clone());
        }
    }
    // Large ones first, so that the last one to come is not the longest.
    missing.sort_by_key(|layer| std::cmp::Reverse(layer.size));
    for_each(&missing, |layer, stop| {
        let mut elsewhere = Vec::new();
        if fetch_elsewhere(store, work, layer, stop, observer, &mut elsewhere)? {
            observer.layer_done(&layer.digest);
            return Ok(());
        }
        let fetch = |endpoint: &Endpoint| fetch_layer(client, store, work, endpoint, layer, stop, observer);
        let fetched = first_good(&resolved.reference, &resolved.endpoints, fetch);
        fetched.map_err(|error| match elsewhere.is_empty() {
            true => error,
            false => RegistryError::Elsewhere { digest: layer.digest, tried: elsewhere },
        })?;
        observer.layer_done(&layer.digest);
        Ok::<(), RegistryError>(())
    })
}

fn fetch_layer(
    client: &Client,
    store: &Store,
    work: &WorkDir,
    endpoint: &Endpoint,
    layer: &Layer,
    stop: &AtomicBool,
    observer: &dyn PullObserver,
) -> Result<(), RegistryError> {
    let content = client.blob(endpoint, &layer.digest)?;
    observer.layer_started(&layer.digest, layer.size);
    let progress = |bytes| observer.layer_progress(&layer.digest, bytes);
    let also = observer.layer_bytes(layer);
    let mut content = Watched { content, stop, progress, also };
    store
        .receive_blob(work, &layer.digest, layer.size, &mut content)
        .map_err(|source| blob_error(endpoint, source))
}

/// Gets a layer that registries do not pass on from where its descriptor says; `false`, and why, if it is not
/// to be had there. These are other people's addresses: they are sent no credentials, and what they give is
/// held against the digest like everything else.
fn fetch_elsewhere(
    store: &Store,
    work: &WorkDir,
    layer: &Layer,
    stop: &AtomicBool,
    observer: &dyn PullObserver,
    tried: &mut Vec<(String, String)>,
) -> Result<bool, RegistryError> {
    for url in &layer.urls {
        if !url.starts_with("https://") && !url.starts_with("http://") {
            tried.push((url.clone(), "it is no address of a web server".to_owned()));
            continue;
        }
        let answer = match Web::from_environment().get(url, &[]) {
            Ok(answer) if answer.status() == 200 => answer,
            Ok(answer) => {
                tried.push((url.clone(), format!("the server answered {}", answer.status())));
                continue;
            }
            Err(error) => {
                tried.push((url.clone(), error.to_string()));
                continue;
            }
        };
        observer.layer_started(&layer.digest, layer.size);
        let progress = |bytes| observer.layer_progress(&layer.digest, bytes);
        let also = observer.layer_bytes(layer);
        let mut content = Watched { content: answer.into_reader(), stop, progress, also };
        match store.receive_blob(work, &layer.digest, layer.size, &mut content) {
            Ok(_) => return Ok(true),
            Err(ReceiveError::Store(error)) => return Err(RegistryError::Store(error)),
            Err(error) => tried.push((url.clone(), error.to_string())),
        }
    }
    Ok(false)
}

fn blob_error(endpoint: &Endpoint, source: ReceiveError) -> RegistryError {
    match source {
        ReceiveError::Store(error) => RegistryError::Store(error),
        source => RegistryError::Blob { host: endpoint.host.clone(), source },
    }
}

/// Asks one endpoint after another until one does it; says which it was.
fn first_good<T>(
    reference: &Reference,
    endpoints: &[Endpoint],
    ask: impl Fn(&Endpoint) -> Result<T, RegistryError>,
) -> Result<(usize, T), RegistryError> {
    let mut tried = Vec::new();
    for (at, endpoint) in endpoints.iter().enumerate() {
        match ask(endpoint) {
            Ok(value) => return Ok((at, value)),
            Err(error) if !error.try_elsewhere() => return Err(error),
            Err(error) => {
                tracing::debug!("{}/{}: {error}", endpoint.host, endpoint.repository);
                let kind = if endpoint.mirror { "mirror " } else { "" };
                tried.push((format!("{kind}{}/{}", endpoint.host, endpoint.repository), error));
            }
        }
    }
    match tried.pop() {
        Some((_, only)) if tried.is_empty() => Err(only),
        last => {
            tried.extend(last);
            Err(RegistryError::Everywhere { reference: Box::new(reference.clone()), tried })
        }
    }
}

/// The image that a manifest or index in the store is, if all its documents are there.
pub fn in_store(store: &Store, digest: &Digest, platform: &Platform) -> Option<Pulled> {
    let read = |digest: &Digest| store.find_document(digest);
    let bytes = read(digest)?;
    select(digest, bytes, None, platform, &mut |digest, _| read(digest).ok_or(())).ok()
}

fn resolve_at(
    client: &Client,
    store: &Store,
    endpoint: &Endpoint,
    reference: &Reference,
    platform: &Platform,
) -> Result<Pulled, RegistryError> {
    let root = fetch_root(client, store, endpoint)?;
    let mut fetch = |digest: &Digest, descriptor: &Descriptor| -> Result<Vec<u8>, RegistryError> {
        if let Some(bytes) = store.find_document(digest) {
            return Ok(bytes);
        }
        let kind = descriptor.media_type().to_string();
        let bytes = if media::is_index(&kind) || media::is_manifest(&kind) {
            client.manifest(endpoint, &Target::Digest(*digest))?.bytes
        } else {
            client.document(endpoint, digest)?
        };
        store.write_document(&bytes)?;
        Ok(bytes)
    };
    select(&root.digest, root.bytes, root.media_type.as_deref(), platform, &mut fetch).map_err(|e| match e {
        SelectError::Fetch(error) => error,
        SelectError::Document { digest, source } => {
            RegistryError::Document { what: format!("{reference} ({digest} from {})", endpoint.host), source }
        }
        SelectError::NoPlatform(platforms) => RegistryError::NoPlatform {
            name: reference.to_string(),
            platform: Box::new(platform.clone()),
            platforms,
        },
    })
}

/// What the name leads to. A tag is asked about first: the answer may be in the store already, and
/// registries that limit pulls do not count the question.
fn fetch_root(client: &Client, store: &Store, endpoint: &Endpoint) -> Result<Fetched, RegistryError> {
    let mut target = endpoint.target();
    if let Target::Tag(_) = target
        && let Some(digest) = client.manifest_digest(endpoint, &target)?
    {
        target = Target::Digest(digest);
    }
    if let Target::Digest(digest) = target
        && let Some(bytes) = store.find_document(&digest)
    {
        return Ok(Fetched { bytes, digest, media_type: None });
    }
    let fetched = client.manifest(endpoint, &target)?;
    store.write_document(&fetched.bytes)?;
    Ok(fetched)
}

/// Tells what was read, and ends when the others have failed.
struct Watched<'a, R, F> {
    content: R,
    stop: &'a AtomicBool,
    progress: F,
    also: Option<Box<dyn Write + Send>>,
}

impl<R: Read, F: Fn(u64)> Read for Watched<'_, R, F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("stopped, since another layer failed"));
        }
        let got = self.content.read(buf)?;
        (self.progress)(got as u64);
        if let Some(also) = &mut self.also
            && also.write_all(&buf[..got]).is_err()
        {
            self.also = None;
        }
        Ok(got)
    }
}
