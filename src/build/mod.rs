//! Carries a plan out: looks up the cache, runs what is not in it, and puts the image together.
//!
//! | file | does |
//! |---|---|
//! | [`images`] | finds base images in the store, in layouts, in registries |
//! | [`execute`] | walks the plan's stages and steps |
//! | `stack` | the layers of stages under construction |
//! | [`workshop`] | the user namespace and the launcher, opened when there is work |
//! | [`run`](mod@run), [`copy`](mod@copy), [`workdir`] | carry out one step in a mounted root |
//! | [`mounts`] | what a `RUN --mount` mounts: caches, secrets, what is written and thrown away |
//! | [`archive`] | which sources of an `ADD` are archives |
//! | [`users`] | who `USER` and `--chown` mean in an image |
//! | [`packer`] | packs layers beside the next step |
//! | [`assemble`] | configuration and manifest of the finished image |

pub mod archive;
pub mod assemble;
pub mod copy;
pub mod execute;
pub mod images;
pub mod mounts;
pub mod packer;
pub mod run;
mod stack;
pub mod users;
pub mod workdir;
pub mod workshop;

use std::path::PathBuf;

use crate::dockerfile::ast::Span;
use crate::layer::compress::Compression;

pub use assemble::Built;
pub use execute::build;

/// What a build is told besides its plan.
#[derive(Debug, Clone)]
pub struct Options {
    /// The build context.
    pub context: PathBuf,
    /// The Containerfile, for its own ignore file; `None` when it came from elsewhere.
    pub containerfile: Option<PathBuf>,
    /// Run every step.
    pub no_cache: bool,
    /// How layers are compressed.
    pub compression: Compression,
    /// `SOURCE_DATE_EPOCH`: no time in the image is newer, and creation times are this.
    pub epoch: Option<i64>,
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
    /// A `COPY` could not be written.
    #[error(transparent)]
    Copy(#[from] copy::CopyError),
    /// `ADD` of an archive.
    #[error(
        "`{source_path}` is an archive, which ADD would extract; that is not there yet in this version of cooper"
    )]
    Archive {
        /// The source.
        source_path: String,
    },
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
    Rootfs(#[from] crate::rootfs::overlay::RootfsError),
    /// A file operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}
