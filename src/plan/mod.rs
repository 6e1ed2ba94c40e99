//! From instructions and options to what there is to do.
//!
//! Planning reads no file and opens no connection. What it needs to know from outside, the
//! configuration of a base image, comes through [`Images`]. It expands every variable, keeps the
//! image configuration of each stage up to date instruction by instruction, and leaves behind, for
//! each stage that a target needs, the list of [`Step`]s that make layers and the configuration
//! that the stage's image will have.
//!
//! A build for several platforms is one plan: each platform has a target of its own, and stages that come
//! out equal for two of them (those that are said to be for `$BUILDPLATFORM`, mostly) are there once.
//!
//! | file | does |
//! |---|---|
//! | [`stage`](mod@stage) | walks one stage's instructions |
//! | [`origin`](mod@origin) | what `FROM` and `--from` name: stages, images, contexts |
//! | [`instructions`] | what each instruction does to the configuration |
//! | [`variables`] | `ARG` and `ENV`: scopes, predefined arguments, expansion |
//! | [`run`], [`copy`](mod@copy) | `RUN`, `COPY` and `ADD` as they will be carried out |
//! | [`mount`], [`size`] | the values of `RUN`'s flags |
//! | [`key`] | cache keys |

pub mod copy;
pub mod instructions;
pub mod key;
pub mod mount;
pub mod origin;
pub mod run;
pub mod size;
pub mod stage;
pub mod variables;

use std::collections::BTreeMap;

use crate::dockerfile::ast::{Containerfile, Span};
use crate::dockerfile::error::closest;
use crate::dockerfile::{self, ParseError};
use crate::image::{ImageConfig, ImageName, Platform};

pub use copy::{CopySource, CopyStep};
pub use mount::Sharing;
pub use origin::{ContextName, Origin};
pub use run::{MountKind, RunMount, RunStep};

/// What the user asked for, as far as planning minds.
#[derive(Debug, Clone)]
pub struct Options {
    /// `--build-arg`; the values of those that were given without one come from the environment, where the
    /// caller has looked them up.
    pub build_args: BTreeMap<String, String>,
    /// `--target`: a stage's name or number.
    pub target: Option<String>,
    /// What the images are for; at least one.
    pub platforms: Vec<Platform>,
    /// What this machine is.
    pub build_platform: Platform,
    /// `--build-context`, by name in lower case.
    pub contexts: BTreeMap<String, NamedContext>,
}

/// What a `--build-context` is, as far as planning minds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// An image.
    Image(ImageSource),
    /// A tree of files: a directory, an archive, a repository.
    Files,
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
    type Image: Clone + PartialEq;

    /// Finds an image for a platform, and its configuration.
    ///
    /// # Errors
    /// The caller's own; planning stops and passes it on.
    fn image(
        &mut self,
        source: &ImageSource,
        platform: &Platform,
    ) -> Result<(Self::Image, ImageConfig), ImageError>;
}

/// An image could not be had: what the user is told.
pub type ImageError = Box<dyn std::error::Error + Send + Sync>;

/// A plan: the stages that the targets need, in an order in which each comes after what it uses.
#[derive(Debug, Clone)]
pub struct Plan<I> {
    /// The stages.
    pub stages: Vec<Stage<I>>,
    /// What is to be built, one for each platform, in the order in which they were asked for.
    pub targets: Vec<Target>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// An image to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// What it is for.
    pub platform: Platform,
    /// Position of its stage in [`Plan::stages`].
    pub stage: usize,
}

/// One stage to build.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage<I> {
    /// Its number in the Containerfile, from 0.
    pub number: usize,
    /// Its name, or its number.
    pub label: String,
    /// What it is for: what its `FROM` says, else the target's platform.
    pub platform: Platform,
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
#[derive(Debug, Clone, PartialEq)]
pub struct Step<I> {
    /// The instruction as the user wrote it, on one line.
    pub text: String,
    /// Where it stands; of a trigger that a base image brought along, the `FROM` that named the image.
    pub span: Span,
    /// What is to be done.
    pub action: Action<I>,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq)]
pub enum Action<I> {
    /// `RUN`
    Run(RunStep<I>),
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

impl<I> Step<I> {
    /// Where it copies and mounts from.
    pub fn origins(&self) -> Vec<&Origin<I>> {
        match &self.action {
            Action::Copy(copy) => vec![&copy.from],
            Action::Run(run) => run.mounts.iter().filter_map(RunMount::origin).collect(),
            Action::Workdir { .. } => Vec::new(),
        }
    }
}

/// A Containerfile that cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file itself says something wrong; points into it.
    #[error(transparent)]
    Source(#[from] ParseError),
    /// `--target` names no stage.
    #[error("there is no stage `{target}` to build{}", suggest(.target, .known))]
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

fn suggest(target: &str, known: &[String]) -> String {
    let names: Vec<&str> = known.iter().map(String::as_str).collect();
    match closest(&target.to_lowercase(), &names) {
        Some(near) => format!("; did you mean `{near}`?"),
        None if known.is_empty() => String::new(),
        None => format!("; the Containerfile has {}", known.join(", ")),
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
    let target = target_of(file, options)?;
    let mut plan = Plan { stages: Vec::new(), targets: Vec::new(), warnings: Vec::new() };
    for platform in &options.platforms {
        let mut planner = stage::Planner::new(file, options, platform, images, plan.stages)?;
        for number in planner.needed(target) {
            planner.stage(number)?;
        }
        let stage = planner.stage(target)?;
        let (stages, warnings) = planner.finish();
        plan.stages = stages;
        plan.targets.push(Target { platform: platform.clone(), stage });
        for warning in warnings {
            if !plan.warnings.contains(&warning) {
                plan.warnings.push(warning);
            }
        }
    }
    Ok(plan)
}

/// The number of the stage that is to be built.
///
/// # Errors
/// [`PlanError::Target`] when there is none of that name.
pub fn target_of(file: &Containerfile, options: &Options) -> Result<usize, PlanError> {
    match &options.target {
        None => Ok(file.stages.len() - 1),
        Some(name) => find_target(file, name),
    }
}

fn find_target(file: &Containerfile, target: &str) -> Result<usize, PlanError> {
    let names = |s: &dockerfile::ast::Stage| s.from.name.as_ref().map(|n| n.node.to_lowercase());
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
    PlanError::Source(wrong(span, message, help))
}

/// The same, where it has not become a [`PlanError`] yet.
pub(crate) fn wrong(span: Span, message: impl Into<String>, help: impl Into<String>) -> ParseError {
    let help = help.into();
    ParseError { message: message.into(), span, label: None, help: (!help.is_empty()).then_some(help) }
}
