//! Carries a plan out: looks up the cache, runs what is not in it, and puts the image together.
//!
//! | file | does |
//! |---|---|
//! | [`images`] | finds base images in the store, in layouts, in registries |
//! | `arrivals` | unpacks base images while they are downloaded |
//! | [`execute`] | walks the plan's stages and steps |
//! | `stack` | the layers of stages under construction |
//! | [`workshop`] | the user namespace and the launcher, opened when there is work |
//! | [`run`](mod@run), [`copy`](mod@copy), [`workdir`] | carry out one step in a mounted root |
//! | `sources` | what steps copy from: contexts, stages, images, downloads |
//! | [`mounts`], `run_mounts` | caches, secrets and other mounts of a `RUN` |
//! | [`users`] | who `USER` and `--chown` mean in an image |
//! | [`times`] | which times the image and its new layers have |
//! | [`packer`] | packs layers beside the next step |
//! | [`assemble`] | configuration and manifest of the finished image |

mod arrivals;
pub mod assemble;
pub mod copy;
pub mod execute;
pub mod images;
pub mod mounts;
pub mod packer;
pub mod run;
mod run_mounts;
pub mod sources;
mod stack;
pub mod times;
pub mod users;
pub mod workdir;
pub mod workshop;

use std::collections::BTreeMap;

use crate::dockerfile::ast::Span;
use crate::layer::compress::Compression;
use crate::plan::ContextName;
use crate::rootfs::storage::Backend;

pub use assemble::{Built, BuiltImage};
pub use execute::build;
pub use mounts::SecretSource;
pub use sources::ContextDir;
pub use times::Times;

/// What a build is told besides its plan.
#[derive(Debug, Clone)]
pub struct Options {
    /// The build contexts that are trees of files.
    pub contexts: BTreeMap<ContextName, ContextDir>,
    /// `--secret`, by id.
    pub secrets: BTreeMap<String, SecretSource>,
    /// Run every step.
    pub no_cache: bool,
    /// How many steps may be carried out at a time; at least 1.
    pub jobs: usize,
    /// What stacks layers; `None` takes the best that works.
    pub storage: Option<Backend>,
    /// How layers are compressed.
    pub compression: Compression,
    /// The times of the image, and of what is in its new layers.
    pub times: Times,
}

/// A build that failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// One step failed.
    #[error("{label} {text}: {source}")]
    Step {
        /// `[stage 2/5]`
        label: String,
        /// The instruction.
        text: String,
        /// Where it stands.
        span: Span,
        /// Why.
        source: Box<StepError>,
    },
    /// An image could not be found or fetched.
    #[error(transparent)]
    Image(Box<images::FindError>),
    /// There is no place to work in.
    #[error(transparent)]
    Workshop(#[from] workshop::WorkshopError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// A layer could not be packed.
    #[error(transparent)]
    Pack(#[from] crate::rootfs::pack::PackError),
    /// The image's documents could not be made.
    #[error("cannot put the image together: {0}")]
    Assemble(String),
    /// The program itself is wrong; the panic's own message says where.
    #[error("an error in cooper itself ended the build")]
    Panic,
    /// A signal asked to stop.
    #[error("interrupted")]
    Interrupted {
        /// The signal's number.
        signal: i32,
    },
}

impl From<images::FindError> for BuildError {
    fn from(e: images::FindError) -> Self {
        BuildError::Image(Box::new(e))
    }
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The `RUN` itself.
    #[error(transparent)]
    Run(#[from] run::RunError),
    /// What a `COPY` asks for is not there.
    #[error(transparent)]
    Select(#[from] crate::context::SelectError),
    /// The build context cannot be used.
    #[error(transparent)]
    Context(#[from] crate::context::ContextError),
    /// Files are not what they were when the step was looked up.
    #[error("files of the build context changed while they were copied; build again when they are complete")]
    ContextChanged,
    /// A `COPY` could not be written.
    #[error(transparent)]
    Copy(#[from] copy::CopyError),
    /// What the step has made is nothing that a layer can hold.
    #[error("{0}")]
    Layer(std::io::Error),
    /// A build context that was not given.
    #[error("{}", no_context(.name))]
    NoContext {
        /// Which.
        name: ContextName,
    },
    /// A file or repository from elsewhere could not be had.
    #[error("{message}")]
    Remote {
        /// What is wrong.
        message: String,
        /// What may help.
        hint: Option<String>,
        /// Whether this machine lacks something.
        environment: bool,
    },
    /// A mount of a `RUN` could not be made ready.
    #[error(transparent)]
    Mount(#[from] mounts::MountError),
    /// A secret that is to be a variable is no text.
    #[error("the secret `{id}` is not UTF-8 text, and cannot be a variable")]
    SecretText {
        /// Its id.
        id: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(crate::store::StoreError),
    /// `--chown` names nobody.
    #[error(transparent)]
    User(#[from] users::UserError),
    /// `--chmod` is not understood.
    #[error("{0}")]
    Chmod(String),
    /// The working directory could not be made.
    #[error("cannot make the working directory {path}: {source}")]
    Workdir {
        /// The directory.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A base layer could not be unpacked.
    #[error(transparent)]
    Unpack(#[from] crate::rootfs::unpack::UnpackError),
    /// The root file system failed.
    #[error(transparent)]
    Rootfs(#[from] crate::rootfs::storage::RootfsError),
    /// A file operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

fn no_context(name: &ContextName) -> String {
    match name {
        ContextName::Main => "this build has no context: the Containerfile came without one".to_owned(),
        ContextName::Named(name) => format!("there is no build context `{name}`"),
    }
}
