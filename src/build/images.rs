//! Finds images: in the store, in a layout, or in a registry.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::image::{Descriptor, Digest, ImageConfig, ImageName, Platform, Reference};
use crate::plan::{ImageError, ImageSource, Images};
use crate::progress::{Event, Progress, TaskId};
use crate::registry::{self, Client, ConfigError, PullObserver, Pulled, Registries, RegistryError, Resolved};
use crate::store::{Store, StoreError, WorkDir};
use crate::transport::oci::{self, LayoutError};

/// When a registry is asked about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PullPolicy {
    /// Ask every time
    Always,
    /// Ask for names that the store does not have
    Missing,
    /// Never ask
    Never,
}

/// An image that was found: what it is, and how its layers come into the store.
#[derive(Debug, Clone)]
pub struct FoundImage {
    /// The image.
    pub image: Pulled,
    /// The registry to get layers from; `None` when all of it is in the store already.
    remote: Option<Resolved>,
}

impl FoundImage {
    /// Whether all of it is in the store.
    pub fn is_here(&self) -> bool {
        self.remote.is_none()
    }
}

/// Images are the same when their manifests are, wherever their layers come from.
impl PartialEq for FoundImage {
    fn eq(&self, other: &FoundImage) -> bool {
        self.image.manifest.digest() == other.image.manifest.digest()
    }
}

/// Why an image was not found.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// `--pull=never`, and the store does not have it.
    #[error("{name} is not in the store, and --pull=never forbids asking a registry")]
    NotInStore {
        /// The image.
        name: String,
    },
    /// The store has the name, but not all of the image.
    #[error(
        "{name} is in the store, but the image {digest} is not for {platform} or parts of it are missing; import or \
         build it again, or take a registry's with --pull"
    )]
    Unusable {
        /// The image.
        name: String,
        /// What the name leads to.
        digest: String,
        /// What was wanted.
        platform: Platform,
    },
    /// All candidates of a short name failed.
    #[error("{name} was not found: {}", reasons.join("; "))]
    NotFound {
        /// As typed.
        name: String,
        /// One for each registry asked.
        reasons: Vec<String>,
    },
    /// The registry client failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// `registries.conf` is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The layout is wrong.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Finds images for one build.
pub struct Finder<'a> {
    store: &'a Store,
    policy: PullPolicy,
    progress: &'a dyn Progress,
    /// Made when it is first needed: a cached build asks nobody.
    client: Option<Client>,
    work: Option<WorkDir>,
    found: HashMap<(ImageSource, Platform), FoundImage>,
    /// Names and manifests of images whose layers are all here.
    fetched: HashSet<(String, String)>,
    /// Names that are to lead to what was fetched.
    names: Vec<(String, Descriptor)>,
    next_task: usize,
}

impl<'a> Finder<'a> {
    /// A finder that has found nothing yet. Its tasks are numbered from 1,000,000 on, away from steps.
    pub fn new(store: &'a Store, policy: PullPolicy, progress: &'a dyn Progress) -> Self {
        let found = HashMap::new();
        let (fetched, names) = (HashSet::new(), Vec::new());
        Finder {
            store,
            policy,
            progress,
            client: None,
            work: None,
            found,
            fetched,
            names,
            next_task: 1_000_000,
        }
    }

    /// The registry client, made on first use.
    pub fn client(&mut self) -> Result<&Client, FindError> {
        if self.client.is_none() {
            self.client = Some(Client::new(Registries::from_environment()?));
        }
        // Just set; the match keeps the borrow checker content without a panic.
        match &self.client {
            Some(client) => Ok(client),
            None => Err(FindError::NotFound { name: String::new(), reasons: Vec::new() }),
        }
    }

    /// Finds an image; nothing but its manifest and configuration is downloaded.
    pub fn find(&mut self, source: &ImageSource, platform: &Platform) -> Result<FoundImage, FindError> {
        let key = (source.clone(), platform.clone());
        if let Some(found) = self.found.get(&key) {
            return Ok(found.clone());
        }
        let found = match source {
            ImageSource::OciLayout(place) => {
                let name = oci::parse_oci(&format!("oci:{place}"))?;
                let store = self.store;
                let work = self.work()?;
                let image = oci::read_layout(&name.dir, name.tag.as_deref(), platform, store, work)?;
                FoundImage { image, remote: None }
            }
            ImageSource::Name(name) => self.find_name(name, platform)?,
        };
        self.found.insert(key, found.clone());
        Ok(found)
    }

    fn work(&mut self) -> Result<&WorkDir, StoreError> {
        if self.work.is_none() {
            self.work = Some(self.store.work_dir()?);
        }
        match &self.work {
            Some(work) => Ok(work),
            None => Err(StoreError::NotAStore { path: self.store.root().to_owned() }),
        }
    }

    fn find_name(&mut self, name: &ImageName, platform: &Platform) -> Result<FoundImage, FindError> {
        // What this machine has built or imported under the name comes first, as everywhere.
        if self.policy != PullPolicy::Always
            && let Some(found) = self.in_store(name, &name.normalised(), platform)?
            && (self.policy == PullPolicy::Never || is_for(&found, platform))
        {
            return Ok(found);
        }
        if self.policy == PullPolicy::Never {
            return Err(FindError::NotInStore { name: name.to_string() });
        }
        let candidates = self.client()?.registries().candidates(name);
        let mut failures = Vec::new();
        for reference in &candidates {
            if self.policy == PullPolicy::Missing
                && let Some(found) = self.in_store(name, reference, platform)?
                && is_for(&found, platform)
            {
                return Ok(found);
            }
            match self.resolve(reference, platform) {
                Ok(found) => return Ok(found),
                Err(e) => failures.push(e),
            }
        }
        // A local image is better than none when nobody could be asked.
        if self.policy == PullPolicy::Missing
            && let Some(found) = self.in_store(name, &name.normalised(), platform)?
        {
            let why = failures.last().map_or_else(String::new, |e| format!(" ({e})"));
            let text = format!("no registry gave {name}{why}; the image in the store is used");
            self.progress.event(Event::Warning { text });
            return Ok(found);
        }
        if failures.len() == 1
            && let Some(only) = failures.pop()
        {
            return Err(only);
        }
        let reasons = failures.iter().map(ToString::to_string).collect();
        Err(FindError::NotFound { name: name.to_string(), reasons })
    }

    fn in_store(
        &self,
        name: &ImageName,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Option<FoundImage>, FindError> {
        let digest = match &reference.digest {
            Some(digest) => *digest,
            None => match self.store.find(&reference.to_string())? {
                Some(descriptor) => match descriptor.digest().to_string().parse::<Digest>() {
                    Ok(digest) => digest,
                    Err(_) => return Ok(None),
                },
                None => return Ok(None),
            },
        };
        match registry::in_store(self.store, &digest, platform) {
            Some(image) if image.layers.iter().all(|l| self.store.blob_size(&l.digest) == Some(l.size)) => {
                Ok(Some(FoundImage { image, remote: None }))
            }
            // A digest means the same everywhere; what is missing can be had from the registry. A name
            // does not: whatever a registry has under it may be another image.
            _ if reference.digest.is_some() => Ok(None),
            _ => Err(FindError::Unusable {
                name: name.to_string(),
                digest: digest.to_string(),
                platform: platform.clone(),
            }),
        }
    }

    fn resolve(&mut self, reference: &Reference, platform: &Platform) -> Result<FoundImage, FindError> {
        let task = TaskId(self.next_task);
        self.next_task += 1;
        let began = Instant::now();
        let text = format!("resolve {reference}");
        self.progress.event(Event::Started { task, label: String::new(), text });
        let store = self.store;
        let resolved = registry::resolve(self.client()?, store, reference, platform, &());
        let elapsed = began.elapsed();
        match resolved {
            Ok(resolved) => {
                self.progress.event(Event::Finished { task, elapsed });
                Ok(FoundImage { image: resolved.image.clone(), remote: Some(resolved) })
            }
            Err(e) => {
                self.progress.event(Event::Failed { task, elapsed });
                Err(e.into())
            }
        }
    }

    /// Brings all layers of an image into the store. What comes is given to `arrivals` at once. No thread is left
    /// running. An image whose layers are all there is nothing to ask anybody about.
    pub fn fetch(&mut self, found: &FoundImage, arrivals: Option<&dyn Arrivals>) -> Result<(), FindError> {
        let Some(resolved) = &found.remote else { return Ok(()) };
        let name = resolved.reference.to_string();
        let key = (name.clone(), found.image.manifest.digest().to_string());
        if self.fetched.contains(&key) {
            return Ok(());
        }
        if !found.image.layers.iter().all(|l| self.store.blob_size(&l.digest) == Some(l.size)) {
            self.client()?;
            self.work()?;
            let (Some(client), Some(work)) = (&self.client, &self.work) else { return Ok(()) };
            let observer = Transfers { arrivals, ..Transfers::new(self.progress, self.next_task) };
            registry::fetch_layers(client, self.store, work, resolved, &observer)?;
            self.next_task += found.image.layers.len();
        }
        if resolved.reference.digest.is_none() {
            self.names.push((name, found.image.manifest.clone()));
        }
        self.fetched.insert(key);
        Ok(())
    }

    /// Lets the names of all images that were fetched lead to them. Not done at once: a name waits until its image
    /// is on the disk, and a step that only needs its files does not.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn name_fetched(&mut self) -> Result<(), FindError> {
        for (name, manifest) in self.names.drain(..) {
            self.store.set_name(&name, &manifest)?;
        }
        Ok(())
    }
}

/// What an image says that it is for.
fn platform_of(found: &FoundImage) -> Platform {
    let config = &found.image.config;
    Platform {
        os: config.os.clone(),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
    }
}

/// Whether an image is for a platform. One that does not say is for any.
fn is_for(found: &FoundImage, platform: &Platform) -> bool {
    let theirs = platform_of(found);
    theirs.architecture.is_empty()
        || (theirs.os == platform.os && theirs.architecture == platform.architecture)
}

impl Images for Finder<'_> {
    type Image = FoundImage;

    fn image(
        &mut self,
        source: &ImageSource,
        platform: &Platform,
    ) -> Result<(FoundImage, ImageConfig), ImageError> {
        let found = self.find(source, platform)?;
        if !is_for(&found, platform) {
            let theirs = platform_of(&found);
            let name = match source {
                ImageSource::Name(name) => name.to_string(),
                ImageSource::OciLayout(place) => format!("oci:{place}"),
            };
            let text = format!(
                "{name} is for {theirs} only: what is taken from it for {platform} holds programs for {theirs}"
            );
            self.progress.event(Event::Warning { text });
        }
        let config = found.image.config.clone();
        Ok((found, config))
    }
}

/// Takes layers while they are downloaded.
pub trait Arrivals: Sync {
    /// A layer begins to come, or begins again. What is written is its blob, of which nothing is known yet.
    fn begin(&self, layer: &registry::Layer) -> Option<Box<dyn Write + Send>>;
}

/// Shows layer transfers as tasks.
pub struct Transfers<'a> {
    arrivals: Option<&'a dyn Arrivals>,
    progress: &'a dyn Progress,
    tasks: Mutex<HashMap<Digest, Transfer>>,
    first: usize,
}

struct Transfer {
    task: TaskId,
    began: Instant,
    done: u64,
    total: u64,
}

impl<'a> Transfers<'a> {
    /// Tasks are numbered from `first`.
    pub fn new(progress: &'a dyn Progress, first: usize) -> Self {
        Transfers { arrivals: None, progress, tasks: Mutex::default(), first }
    }

    fn start(&self, verb: &str, digest: &Digest, size: u64) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let task = TaskId(self.first + tasks.len());
        tasks.insert(*digest, Transfer { task, began: Instant::now(), done: 0, total: size });
        let text = format!("{verb} {}", digest.short());
        self.progress.event(Event::Started { task, label: String::new(), text });
    }

    fn advance(&self, digest: &Digest, bytes: u64) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(t) = tasks.get_mut(digest) {
            t.done += bytes;
            self.progress.event(Event::Progress { task: t.task, done: t.done, total: Some(t.total) });
        }
    }

    fn end(&self, digest: &Digest) {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(t) = tasks.get(digest) {
            self.progress.event(Event::Finished { task: t.task, elapsed: t.began.elapsed() });
        }
    }
}

impl PullObserver for Transfers<'_> {
    fn layer_started(&self, digest: &Digest, size: u64) {
        self.start("pull layer", digest, size);
    }

    fn layer_progress(&self, digest: &Digest, bytes: u64) {
        self.advance(digest, bytes);
    }

    fn layer_bytes(&self, layer: &registry::Layer) -> Option<Box<dyn Write + Send>> {
        self.arrivals?.begin(layer)
    }

    fn layer_done(&self, digest: &Digest) {
        self.end(digest);
    }
}

impl registry::PushObserver for Transfers<'_> {
    fn blob_started(&self, digest: &Digest, size: u64) {
        self.start("push", digest, size);
    }

    fn blob_progress(&self, digest: &Digest, bytes: u64) {
        self.advance(digest, bytes);
    }

    fn blob_done(&self, digest: &Digest) {
        self.end(digest);
    }
}
