//! Walks one stage's instructions.

mod order;

use std::collections::{BTreeMap, BTreeSet};

use super::copy::{self, CopyStep};
use super::instructions::{self, State};
use super::origin::{Origin, Start};
use super::run::{self, MountKind, RunMount, RunStep};
use super::variables::{PROXY_ARGS, Variables, predefined, proxies};
use super::{Action, Base, Images, Options, PlanError, Stage, Step, fail};
use crate::dockerfile::ast::{self, ArgDecl, Containerfile, Instruction, Kind, Span};
use crate::dockerfile::parse_trigger;
use crate::image::{History, ImageConfig, Platform, RuntimeConfig};

/// `PATH` where the image sets none; Docker's.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Plans stages for one target platform on demand, each once.
pub(super) struct Planner<'a, M: Images> {
    pub(super) file: &'a Containerfile,
    pub(super) options: &'a Options,
    /// What the image is for.
    pub(super) platform: Platform,
    pub(super) images: &'a mut M,
    globals: Variables,
    /// Number in the file → position in `stages`.
    planned: BTreeMap<usize, usize>,
    /// Also those of other platforms.
    stages: Vec<Stage<M::Image>>,
    /// The variables at the end of each stage that was planned for this platform, and the names of those that
    /// are arguments, by position.
    ends: BTreeMap<usize, (Variables, Vec<String>)>,
    used_args: BTreeSet<String>,
    warnings: Vec<String>,
}

/// What a stage has become so far.
struct Progress<I> {
    state: State,
    steps: Vec<Step<I>>,
    history: Vec<History>,
}

/// A stage before its own instructions.
type Begun<I> = (Base<I>, Progress<I>);

/// Where an instruction stands.
#[derive(Clone, Copy)]
struct Scene<'s> {
    /// The stage's number in the file.
    number: usize,
    /// The escape character.
    escape: char,
    /// The place that its steps are said to have, if not their own: a trigger has none in this file.
    span: Option<Span>,
    platform: &'s Platform,
}

impl<'a, M: Images> Planner<'a, M> {
    /// A planner that goes on from the stages that others have planned.
    pub(super) fn new(
        file: &'a Containerfile,
        options: &'a Options,
        platform: &Platform,
        images: &'a mut M,
        stages: Vec<Stage<M::Image>>,
    ) -> Result<Self, PlanError> {
        let last = file.stages.last().and_then(|stage| stage.from.name.as_ref());
        let target_stage = match (&options.target, last) {
            (Some(target), _) => target.clone(),
            (None, Some(name)) => name.node.to_lowercase(),
            (None, None) => "default".to_owned(),
        };
        let mut planner = Planner {
            file,
            options,
            platform: platform.clone(),
            images,
            globals: predefined(&options.build_platform, platform, &target_stage),
            planned: BTreeMap::new(),
            stages,
            ends: BTreeMap::new(),
            used_args: BTreeSet::new(),
            warnings: Vec::new(),
        };
        // What is predefined can be given as well, also where no ARG asks for it.
        for name in planner.globals.names() {
            if let Some(value) = options.build_args.get(&name) {
                planner.globals.set(&name, value);
                planner.used_args.insert(name);
            }
        }
        for instruction in &file.global_args {
            let Kind::Arg(args) = &instruction.kind else { continue };
            for arg in args {
                let globals = planner.globals.clone();
                if let Some(value) = planner.argument(arg, &globals)? {
                    planner.globals.set(&arg.name.node, &value);
                }
            }
        }
        planner.check_names()?;
        Ok(planner)
    }

    /// Looks at what all stages start from, also those that are not built: a mistake there is told at once.
    fn check_names(&self) -> Result<(), PlanError> {
        for (number, stage) in self.file.stages.iter().enumerate() {
            self.stage_platform(&stage.from)?;
            let name = self.base_name(&stage.from)?;
            self.check_base(number, &stage.from, &name)?;
        }
        Ok(())
    }

    /// What a `FROM` names, its variables expanded.
    fn base_name(&self, from: &ast::From) -> Result<String, PlanError> {
        let name = self.globals.expand(self.file.directives.escape, &from.image)?;
        if !name.is_empty() {
            return Ok(name);
        }
        let message = "the base image's name is empty once its variables are expanded";
        Err(fail(
            from.image.span,
            message,
            "give the ARG a default before the first FROM, or pass --build-arg",
        ))
    }

    /// The stages, and what the user should know.
    pub(super) fn finish(mut self) -> (Vec<Stage<M::Image>>, Vec<String>) {
        const NOT_DECLARED: [&str; 2] = ["SOURCE_DATE_EPOCH", "BUILDKIT_DOCKERFILE_CHECK"];
        let known = |name: &str| {
            let proxy = PROXY_ARGS.iter().any(|proxy| proxy.eq_ignore_ascii_case(name));
            self.used_args.contains(name) || proxy || NOT_DECLARED.contains(&name)
        };
        for name in self.options.build_args.keys().filter(|n| !known(n)) {
            self.warnings
                .push(format!("--build-arg {name} was not used: no ARG {name} in a stage that is built"));
        }
        (self.stages, self.warnings)
    }

    /// Plans a stage, after all that it uses, and gives its position.
    pub(super) fn stage(&mut self, number: usize) -> Result<usize, PlanError> {
        if let Some(position) = self.planned.get(&number) {
            return Ok(*position);
        }
        let source = &self.file.stages[number];
        let platform = self.stage_platform(&source.from)?;
        let (base, mut progress) = self.base(number, &source.from, &platform)?;
        // A stage is for what the stage is for that it starts from.
        let platform = match &base {
            Base::Stage(of) => self.stages[*of].platform.clone(),
            _ => platform,
        };
        let instructions: &[Instruction] =
            if self.replaced(&source.from) { &[] } else { &source.instructions };
        let mut triggers = std::mem::take(&mut progress.state.config.config.on_build);
        if self.replaced(&source.from) {
            // What takes the place of a stage is taken as it is.
            progress.state.config.config.on_build = std::mem::take(&mut triggers);
        }
        for trigger in &triggers {
            self.trigger(number, &source.from, trigger, &platform, &mut progress)?;
        }
        let escape = self.file.directives.escape;
        let scene = Scene { number, escape, span: None, platform: &platform };
        for instruction in instructions {
            self.instruction(scene, instruction, &mut progress)?;
        }
        let Progress { state, steps, history } = progress;
        let name = source.from.name.as_ref().map(|n| n.node.to_lowercase());
        let name = name.unwrap_or_else(|| format!("stage-{number}"));
        let several = self.options.platforms.len() > 1;
        // What is built here for another platform says so, as BuildKit has it.
        let label = match (several, platform == self.platform) {
            (false, _) => name.clone(),
            (true, true) => format!("{platform} {name}"),
            (true, false) => format!("{platform}->{} {name}", self.platform.architecture),
        };
        let mut stage = Stage { number, label, platform, base, steps, config: state.config, history };
        let mut position = self.stages.len();
        for (at, known) in self.stages.iter_mut().enumerate().filter(|(_, known)| known.number == number) {
            // For another platform the very same may have come out; then it is for both.
            let own = std::mem::replace(&mut stage.label, known.label.clone());
            if *known == stage {
                known.label = format!("{} {name}", known.platform);
                position = at;
                break;
            }
            stage.label = own;
        }
        if position == self.stages.len() {
            self.stages.push(stage);
        }
        self.ends.insert(position, (state.variables, state.args));
        self.planned.insert(number, position);
        Ok(position)
    }

    /// What a stage is for: what its `FROM` says, else the target's platform.
    fn stage_platform(&self, from: &ast::From) -> Result<Platform, PlanError> {
        // `--platform=` is as good as none.
        let Some(word) = from.platform.as_ref().filter(|word| !word.node.is_empty()) else {
            return Ok(self.platform.clone());
        };
        let text = self.globals.expand(self.file.directives.escape, word)?;
        if text.is_empty() {
            return Err(fail(word.span, "the platform is empty once its variables are expanded", ""));
        }
        text.parse().map_err(|e| fail(word.span, format!("{e}"), ""))
    }

    /// Where a stage starts: its base, and the state and history that it brings along.
    fn base(
        &mut self,
        number: usize,
        from: &ast::From,
        platform: &Platform,
    ) -> Result<Begun<M::Image>, PlanError> {
        let name = self.base_name(from)?;
        let (base, found) = match self.start(number, from, &name, platform)? {
            Start::Base(base, config) => (base, config),
            Start::Files(context) => {
                let mut progress = Progress::starting(scratch(platform));
                progress.steps.push(Step {
                    text: from.text.clone(),
                    span: from.span,
                    action: Action::Copy(CopyStep::everything(Origin::Context(context))),
                });
                progress.history.push(History {
                    created_by: Some(format!("FROM the build context {name}")),
                    ..History::default()
                });
                return Ok((Base::Scratch, progress));
            }
        };
        let progress = match (&base, found) {
            (Base::Stage(position), _) => {
                let stage = &self.stages[*position];
                let (mut variables, args) = self.ends.get(position).cloned().unwrap_or_default();
                // An ARG behind an ENV of the same name does not outlive its stage.
                for (name, value) in stage.config.config.env.iter().filter_map(|line| line.split_once('=')) {
                    variables.set(name, value);
                }
                let mut state = State::new(stage.config.clone(), variables);
                state.args = args;
                Progress { state, steps: Vec::new(), history: stage.history.clone() }
            }
            (_, None) => Progress::starting(scratch(platform)),
            (_, Some(config)) => {
                let mut config = *config;
                let variables = Variables::from_env(&config.config.env);
                if variables.get("PATH").is_none() {
                    config.config.env.push(format!("PATH={DEFAULT_PATH}"));
                }
                Progress::starting(config)
            }
        };
        Ok((base, progress))
    }

    /// Carries out an `ONBUILD` trigger that a base has brought along.
    fn trigger(
        &mut self,
        number: usize,
        from: &ast::From,
        text: &str,
        platform: &Platform,
        progress: &mut Progress<M::Image>,
    ) -> Result<(), PlanError> {
        let span = from.image.span;
        let here = |e: PlanError| match e {
            PlanError::Source(e) => {
                let line = text.lines().next().unwrap_or_default();
                let message =
                    format!("in the ONBUILD trigger `{line}` of {}: {}", from.image.node, e.message);
                fail(span, message, e.help.unwrap_or_default())
            }
            PlanError::Image { source, .. } => PlanError::Image { span, source },
            other => other,
        };
        let instruction = parse_trigger(text).map_err(|e| here(e.into()))?;
        // Its text was split at backslashes, but its words expand as those of the file do.
        let escape = self.file.directives.escape;
        let scene = Scene { number, escape, span: Some(from.span), platform };
        self.instruction(scene, &instruction, progress).map_err(here)
    }

    /// The value that an `ARG` gets: from the command line, from its default, or in a stage from an
    /// argument of the same name before the first `FROM`.
    fn argument(&mut self, arg: &ArgDecl, variables: &Variables) -> Result<Option<String>, PlanError> {
        // Unlike an ENV's, the name stays as it is written, quotes and all.
        let name = &arg.name.node;
        if let Some(value) = self.options.build_args.get(name) {
            self.used_args.insert(name.clone());
            return Ok(Some(value.clone()));
        }
        match &arg.default {
            Some(word) => Ok(Some(variables.expand(self.file.directives.escape, word)?)),
            None => Ok(self.globals.get(name).map(str::to_owned)),
        }
    }

    fn instruction(
        &mut self,
        scene: Scene<'_>,
        instruction: &Instruction,
        progress: &mut Progress<M::Image>,
    ) -> Result<(), PlanError> {
        let Scene { number, escape, .. } = scene;
        let state = &mut progress.state;
        let (action, said) = match &instruction.kind {
            Kind::Run(run) => {
                let mounts = self.run_flags(run, &state.variables, escape, &state.cwd(), number)?;
                let step = self.run(scene, instruction, run, mounts, state)?;
                let said = format!("RUN {}{}", state.args_in_history(), step.argv.join(" "));
                (Action::Run(step), said)
            }
            Kind::Copy(copy) | Kind::Add(copy) => {
                let add = matches!(instruction.kind, Kind::Add(_));
                let words = copy::words(copy, add, &state.variables, escape, &state.cwd())?;
                let said = words.step.said();
                let from = match &words.from {
                    None => Origin::Context(super::ContextName::Main),
                    Some((name, span)) => self.origin(name, *span, number)?,
                };
                (Action::Copy(words.step.with_origin(from)), said)
            }
            Kind::Workdir(word) => {
                let path = state.set_workdir(&state.variables.expand(escape, word)?);
                let said = format!("WORKDIR {path}");
                let clean = copy::clean(&path);
                if clean == "/" {
                    progress.history.push(said_only(said));
                    return Ok(());
                }
                (Action::Workdir { path: clean, user: state.config.config.user.clone() }, said)
            }
            Kind::Arg(args) => {
                let mut said = "ARG".to_owned();
                for arg in args {
                    let name = &arg.name.node;
                    let value = self.argument(arg, &state.variables)?;
                    let shown = value.as_ref().map(|v| format!("={v}")).unwrap_or_default();
                    said.push_str(&format!(" {name}{shown}"));
                    state.set_arg(name, value.as_deref());
                }
                progress.history.push(said_only(said));
                return Ok(());
            }
            _ => {
                let said = instructions::apply(instruction, escape, state)?;
                progress.history.extend(said.map(said_only));
                return Ok(());
            }
        };
        let span = scene.span.unwrap_or(instruction.span);
        progress.steps.push(Step { text: instruction.text.clone(), span, action });
        progress.history.push(History { created_by: Some(said), ..History::default() });
        Ok(())
    }

    fn run(
        &self,
        scene: Scene<'_>,
        instruction: &Instruction,
        run: &ast::Run,
        mut mounts: Vec<RunMount<M::Image>>,
        state: &State,
    ) -> Result<RunStep<M::Image>, PlanError> {
        let line = run::command_line(instruction, run, &state.shell())?;
        if line.argv.is_empty() {
            return Err(fail(
                instruction.span,
                "RUN has nothing to run",
                "name a program: RUN [\"program\"]",
            ));
        }
        if state.variables.get("").is_some() {
            let help = "find the ENV whose name is a variable without a value";
            return Err(fail(instruction.span, "a variable of the environment has no name", help));
        }
        if let Some((target, content)) = line.script {
            let span = scene.span.unwrap_or(instruction.span);
            mounts.push(RunMount { target, kind: MountKind::Script { content }, span });
        }
        Ok(RunStep {
            argv: line.argv,
            env: state.variables.to_env(),
            proxies: proxies(&self.options.build_args),
            user: state.config.config.user.clone(),
            cwd: state.cwd(),
            mounts,
            platform: scene.platform.clone(),
        })
    }
}

impl<I> Progress<I> {
    /// A stage that starts from an image with this configuration.
    fn starting(config: ImageConfig) -> Progress<I> {
        let variables = Variables::from_env(&config.config.env);
        Progress { state: State::new(config, variables), steps: Vec::new(), history: Vec::new() }
    }
}

/// The configuration of an image that starts from nothing.
fn scratch(platform: &Platform) -> ImageConfig {
    ImageConfig {
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os: platform.os.clone(),
        config: RuntimeConfig {
            env: vec![format!("PATH={DEFAULT_PATH}")],
            working_dir: "/".to_owned(),
            ..RuntimeConfig::default()
        },
        ..ImageConfig::default()
    }
}

/// A history entry of an instruction that makes no layer.
fn said_only(said: String) -> History {
    History { created_by: Some(said), empty_layer: true, ..History::default() }
}
