//! From instructions and options to what there is to do.
//!
//! Planning reads no file and opens no connection. What it needs to know from outside, the
//! configuration of a base image, comes through [`Images`]. It expands every variable, keeps the
//! image configuration of each stage up to date instruction by instruction, and leaves behind, for
//! each stage that the target needs, the list of [`Step`]s that make layers and the configuration
//! that the stage's image will have.
//!
//! | file | does |
//! |---|---|
//! | [`stage`](mod@stage) | walks one stage's instructions |
//! | [`instructions`] | what each instruction does to the configuration |
//! | [`variables`] | `ARG` and `ENV`: scopes, predefined arguments, expansion |
//! | [`run`], [`copy`](mod@copy) | `RUN`, `COPY` and `ADD` as they will be carried out |
//! | [`mount`], [`size`] | the values of `RUN`'s flags |
//! | [`key`] | cache keys |

pub mod copy;
pub mod instructions;
pub mod key;
pub mod mount;
pub mod run;
pub mod size;
pub mod stage;
pub mod variables;

use std::collections::BTreeMap;

use crate::dockerfile::ast::{Containerfile, Span};
use crate::dockerfile::{self, ParseError};
use crate::image::{ImageConfig, ImageName, Platform};

pub use copy::{CopyFrom, CopyStep};
pub use run::RunStep;

/// What the user asked for, as far as planning minds.
#[derive(Debug, Clone)]
pub struct Options {
    /// `--build-arg`; `None` takes the builder's own environment, which the caller has looked up.
    pub build_args: BTreeMap<String, String>,
    /// `--target`: a stage's name or number.
    pub target: Option<String>,
    /// What the image is for.
    pub platform: Platform,
}

/// Where a stage or a `COPY --from` gets an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ImageSource {
    /// A name, to be found in the store or a registry.
    Name(ImageName),
    /// `oci:DIR[:TAG]`, the part behind the colon.
    OciLayout(String),
}

/// What planning must know of an image.
pub trait Images {
    /// An image as it was found.
    type Image: Clone;

    /// Finds an image and its configuration.
    ///
    /// # Errors
    /// The caller's own; planning stops and passes it on.
    fn image(&mut self, source: &ImageSource) -> Result<(Self::Image, ImageConfig), ImageError>;
}

/// An image could not be had: what the user is told.
pub type ImageError = Box<dyn std::error::Error + Send + Sync>;

/// A plan: the stages that the target needs, in an order in which each comes after what it uses.
#[derive(Debug, Clone)]
pub struct Plan<I> {
    /// The stages.
    pub stages: Vec<Stage<I>>,
    /// Position of the target in `stages`: always the last.
    pub target: usize,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// One stage to build.
#[derive(Debug, Clone)]
pub struct Stage<I> {
    /// Its number in the Containerfile, from 0.
    pub number: usize,
    /// Its name, or its number.
    pub label: String,
    /// What it starts from.
    pub base: Base<I>,
    /// The steps that make layers, in order.
    pub steps: Vec<Step<I>>,
    /// The image's configuration; `rootfs` and the times are filled in when the layers are known.
    pub config: ImageConfig,
    /// The history of this stage's own instructions, times left out.
    pub history: Vec<crate::image::History>,
}

/// What a stage starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base<I> {
    /// Nothing.
    Scratch,
    /// Another stage: its position in [`Plan::stages`].
    Stage(usize),
    /// An image.
    Image(I),
}

/// One instruction that makes a layer.
#[derive(Debug, Clone)]
pub struct Step<I> {
    /// The instruction as the user wrote it, on one line.
    pub text: String,
    /// Where it stands.
    pub span: Span,
    /// What is to be done.
    pub action: Action<I>,
}

/// What a step does.
#[derive(Debug, Clone)]
pub enum Action<I> {
    /// `RUN`
    Run(RunStep),
    /// `COPY`, `ADD`
    Copy(CopyStep<I>),
    /// `WORKDIR`: makes the directory, owned by this user.
    Workdir {
        /// Absolute path.
        path: String,
        /// `USER` at that point; empty for root.
        user: String,
    },
}

/// A Containerfile that cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file itself says something wrong; points into it.
    #[error(transparent)]
    Source(#[from] ParseError),
    /// `--target` names no stage.
    #[error("there is no stage `{target}` to build{}", suggest(.known))]
    Target {
        /// What was asked for.
        target: String,
        /// The stages there are.
        known: Vec<String>,
    },
    /// An image could not be had.
    #[error("{source}")]
    Image {
        /// The `FROM` or `--from` that asked for it.
        span: Span,
        /// Why.
        source: ImageError,
    },
}

fn suggest(known: &[String]) -> String {
    match known {
        [] => String::new(),
        names => format!("; the Containerfile has {}", names.join(", ")),
    }
}

/// Plans a build.
///
/// # Errors
/// [`PlanError`], with the place in the Containerfile wherever there is one.
pub fn plan<M: Images>(
    file: &Containerfile,
    options: &Options,
    images: &mut M,
) -> Result<Plan<M::Image>, PlanError> {
    let target = match &options.target {
        None => file.stages.len() - 1,
        Some(name) => find_target(file, name)?,
    };
    let mut planner = stage::Planner::new(file, options, images)?;
    let target = planner.stage(target)?;
    Ok(planner.finish(target))
}

fn find_target(file: &Containerfile, target: &str) -> Result<usize, PlanError> {
    let names = |s: &dockerfile::ast::Stage| s.from.name.as_ref().map(|n| n.node.clone());
    // As BuildKit has it: by name without regard to case, the last of equal names; else by number.
    let by_name = file.stages.iter().rposition(|s| names(s).is_some_and(|n| n.eq_ignore_ascii_case(target)));
    let by_number = || target.parse::<usize>().ok().filter(|n| *n < file.stages.len());
    by_name.or_else(by_number).ok_or_else(|| PlanError::Target {
        target: target.to_owned(),
        known: file.stages.iter().filter_map(names).collect(),
    })
}

/// An error that points at `span`.
pub(crate) fn fail(span: Span, message: impl Into<String>, help: impl Into<String>) -> PlanError {
    let help = help.into();
    PlanError::Source(ParseError {
        message: message.into(),
        span,
        label: None,
        help: (!help.is_empty()).then_some(help),
    })
}
