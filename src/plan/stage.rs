//! Walks one stage's instructions.

use std::collections::{BTreeMap, BTreeSet};

use super::copy::{self, CopyFrom, CopyStep};
use super::instructions::{self, State};
use super::run::{self, RunStep};
use super::variables::{PROXY_ARGS, Variables, predefined, proxies};
use super::{Action, Base, Images, Options, Plan, PlanError, Stage, Step, fail};
use crate::dockerfile::ast::{self, ArgDecl, Containerfile, Instruction, Kind, Span};
use crate::dockerfile::error::closest;
use crate::image::{History, ImageConfig, RuntimeConfig};

/// `PATH` where the image sets none; Docker's.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Plans stages on demand, each once.
pub(super) struct Planner<'a, M: Images> {
    file: &'a Containerfile,
    options: &'a Options,
    images: &'a mut M,
    globals: Variables,
    /// Number in the file → position in `stages`.
    planned: BTreeMap<usize, usize>,
    stages: Vec<Stage<M::Image>>,
    /// The variables at the end of each planned stage, and how it ends.
    ends: Vec<Variables>,
    used_args: BTreeSet<String>,
    warnings: Vec<String>,
}

impl<'a, M: Images> Planner<'a, M> {
    pub(super) fn new(
        file: &'a Containerfile,
        options: &'a Options,
        images: &'a mut M,
    ) -> Result<Self, PlanError> {
        let target_stage = options.target.as_deref().unwrap_or("default");
        let mut planner = Planner {
            file,
            options,
            images,
            globals: predefined(&options.platform, target_stage),
            planned: BTreeMap::new(),
            stages: Vec::new(),
            ends: Vec::new(),
            used_args: BTreeSet::new(),
            warnings: Vec::new(),
        };
        if file.directives.check.is_some() {
            planner
                .warnings
                .push("`# check=` has no effect: this version of cooper has no build checks".to_owned());
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
        Ok(planner)
    }

    pub(super) fn finish(mut self, target: usize) -> Plan<M::Image> {
        let known = |name: &String| self.used_args.contains(name) || PROXY_ARGS.contains(&name.as_str());
        for name in self.options.build_args.keys().filter(|n| !known(n) && *n != "SOURCE_DATE_EPOCH") {
            self.warnings
                .push(format!("--build-arg {name} was not used: no ARG {name} in a stage that is built"));
        }
        Plan { stages: self.stages, target, warnings: self.warnings }
    }

    /// Plans a stage, after all that it uses, and gives its position.
    pub(super) fn stage(&mut self, number: usize) -> Result<usize, PlanError> {
        if let Some(position) = self.planned.get(&number) {
            return Ok(*position);
        }
        let source = &self.file.stages[number];
        let escape = self.file.directives.escape;
        let (base, mut state, mut history) = self.base(number, &source.from)?;
        let mut steps = Vec::new();
        for instruction in &source.instructions {
            self.instruction(number, instruction, escape, &mut state, &mut steps, &mut history)?;
        }
        let position = self.stages.len();
        let name = source.from.name.as_ref().map(|n| n.node.to_lowercase());
        self.stages.push(Stage {
            number,
            label: name.unwrap_or_else(|| format!("stage-{number}")),
            base,
            steps,
            config: state.config,
            history,
        });
        self.ends.push(state.variables);
        self.planned.insert(number, position);
        Ok(position)
    }

    /// Where a stage starts: its base, and the state and history that it brings along.
    #[expect(clippy::type_complexity, reason = "three things that only `stage` takes apart again")]
    fn base(
        &mut self,
        number: usize,
        from: &ast::From,
    ) -> Result<(Base<M::Image>, State, Vec<History>), PlanError> {
        let escape = self.file.directives.escape;
        if let Some(word) = &from.platform {
            let platform = self.globals.expand(escape, word)?;
            let host = self.options.platform.to_string();
            if platform.is_empty() {
                return Err(fail(word.span, "the platform is empty once its variables are expanded", ""));
            }
            if platform != host && platform != self.options.platform.architecture {
                let message = format!("building for {platform} is not there yet in this version of cooper");
                return Err(fail(
                    word.span,
                    message,
                    format!("this machine builds for {host}; remove the flag"),
                ));
            }
        }
        let name = self.globals.expand(escape, &from.image)?;
        if name.is_empty() {
            let help = "give the ARG a default before the first FROM, or pass --build-arg";
            return Err(fail(
                from.image.span,
                "the base image's name is empty once its variables are expanded",
                help,
            ));
        }
        if let Some(earlier) = self.stage_named(&name, number) {
            let position = self.stage(earlier)?;
            let stage = &self.stages[position];
            let state = State::new(stage.config.clone(), self.ends[position].clone());
            return Ok((Base::Stage(position), state, stage.history.clone()));
        }
        if name == "scratch" {
            let config = ImageConfig {
                architecture: self.options.platform.architecture.clone(),
                variant: self.options.platform.variant.clone(),
                os: self.options.platform.os.clone(),
                config: RuntimeConfig {
                    env: vec![format!("PATH={DEFAULT_PATH}")],
                    working_dir: "/".to_owned(),
                    ..RuntimeConfig::default()
                },
                ..ImageConfig::default()
            };
            let variables = Variables::from_env(&config.config.env);
            return Ok((Base::Scratch, State::new(config, variables), Vec::new()));
        }
        let source = copy::image_source(&name, from.image.span)?;
        let (image, mut config) = self
            .images
            .image(&source)
            .map_err(|source| PlanError::Image { span: from.image.span, source })?;
        if !config.config.on_build.is_empty() {
            let message = format!(
                "the image {name} has ONBUILD triggers, which are not there yet in this version of cooper"
            );
            return Err(fail(from.image.span, message, "use a base image without ONBUILD"));
        }
        if config.config.working_dir.is_empty() {
            config.config.working_dir = "/".to_owned();
        }
        let mut variables = Variables::from_env(&config.config.env);
        if variables.get("PATH").is_none() {
            variables.set("PATH", DEFAULT_PATH);
            config.config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        Ok((Base::Image(image), State::new(config, variables), Vec::new()))
    }

    /// An earlier stage by name, the last of equal names. Stage names are lower case; whether `name`
    /// may be written otherwise is the caller's business.
    fn stage_named(&self, name: &str, before: usize) -> Option<usize> {
        self.file.stages[..before]
            .iter()
            .rposition(|s| s.from.name.as_ref().is_some_and(|n| n.node.to_lowercase() == name))
    }

    /// The value that an `ARG` gets: from the command line, from its default, or in a stage from an
    /// argument of the same name before the first `FROM`.
    fn argument(&mut self, arg: &ArgDecl, variables: &Variables) -> Result<Option<String>, PlanError> {
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
        number: usize,
        instruction: &Instruction,
        escape: char,
        state: &mut State,
        steps: &mut Vec<Step<M::Image>>,
        history: &mut Vec<History>,
    ) -> Result<(), PlanError> {
        let mut layer = |action: Action<M::Image>, created_by: String| {
            steps.push(Step { text: instruction.text.clone(), span: instruction.span, action });
            history.push(History { created_by: Some(created_by), ..History::default() });
        };
        match &instruction.kind {
            Kind::Run(run) => {
                let argv = run::argv(instruction, run, &state.shell())?;
                let said = format!("RUN {}{}", state.args_in_history(), argv.join(" "));
                let step = RunStep {
                    argv,
                    env: state.variables.to_env(),
                    proxies: proxies(&self.options.build_args),
                    user: state.config.config.user.clone(),
                    cwd: state.cwd(),
                };
                layer(Action::Run(step), said);
                return Ok(());
            }
            Kind::Copy(copy) | Kind::Add(copy) => {
                let add = matches!(instruction.kind, Kind::Add(_));
                let words = copy::words(copy, add, &state.variables, escape, &state.cwd())?;
                let said = format!(
                    "{} {}{}{} {}",
                    if add { "ADD" } else { "COPY" },
                    words.chown.as_ref().map(|(v, _)| format!("--chown={v} ")).unwrap_or_default(),
                    words.chmod.as_ref().map(|(v, _)| format!("--chmod={v} ")).unwrap_or_default(),
                    words.sources.iter().map(|(s, _)| s.as_str()).collect::<Vec<_>>().join(" "),
                    words.dest,
                );
                let from = match &words.from {
                    None => CopyFrom::Context,
                    Some((name, span)) => self.copy_from(name, *span, number)?,
                };
                let step = CopyStep {
                    from,
                    sources: words.sources,
                    dest: words.dest,
                    chown: words.chown,
                    chmod: words.chmod,
                    add,
                };
                layer(Action::Copy(step), said);
                return Ok(());
            }
            Kind::Workdir(word) => {
                let path = state.set_workdir(&state.variables.expand(escape, word)?, word.span)?;
                let said = format!("WORKDIR {path}");
                let clean = copy::clean(&path);
                if clean != "/" {
                    let user = state.config.config.user.clone();
                    layer(Action::Workdir { path: clean, user }, said);
                    return Ok(());
                }
                history.push(said_only(said));
                return Ok(());
            }
            Kind::Arg(args) => {
                for arg in args {
                    let value = self.argument(arg, &state.variables)?;
                    let shown = value.as_ref().map(|v| format!("={v}")).unwrap_or_default();
                    history.push(said_only(format!("ARG {}{shown}", arg.name.node)));
                    state.set_arg(&arg.name.node, value.as_deref());
                }
                return Ok(());
            }
            _ => {}
        }
        let said = instructions::apply(instruction, escape, state)?;
        history.push(said_only(said));
        Ok(())
    }

    fn copy_from(&mut self, name: &str, span: Span, number: usize) -> Result<CopyFrom<M::Image>, PlanError> {
        if name.contains('$') {
            let help = "--from takes no variables; add a stage `FROM $NAME AS name` and copy from that";
            return Err(fail(span, "a variable in --from", help));
        }
        let lower = name.to_lowercase();
        if let Some(earlier) = self.stage_named(&lower, number) {
            return Ok(CopyFrom::Stage(self.stage(earlier)?));
        }
        if let Ok(index) = name.parse::<usize>() {
            if index < number {
                return Ok(CopyFrom::Stage(self.stage(index)?));
            }
            let message = format!("there is no stage {index} before this one");
            return Err(fail(span, message, "stages count from 0; better give the stage a name with AS"));
        }
        let later = self.file.stages[number..].iter();
        if later.filter_map(|s| s.from.name.as_ref()).any(|n| n.node.to_lowercase() == lower) {
            let message = format!("stage `{name}` does not come before this one");
            return Err(fail(span, message, "move the stage up: a stage can copy from earlier ones only"));
        }
        let source = copy::image_source(name, span)?;
        let (image, _) = self.images.image(&source).map_err(|source| {
            let names: Vec<String> = self.file.stages[..number]
                .iter()
                .filter_map(|s| s.from.name.as_ref().map(|n| n.node.to_lowercase()))
                .collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            match closest(&lower, &names) {
                Some(near) => fail(
                    span,
                    format!("there is no stage `{name}`, and as an image it was not found: {source}"),
                    format!("did you mean the stage `{near}`?"),
                ),
                None => PlanError::Image { span, source },
            }
        })?;
        Ok(CopyFrom::Image(image))
    }
}

/// A history entry of an instruction that makes no layer.
fn said_only(said: String) -> History {
    History { created_by: Some(said), empty_layer: true, ..History::default() }
}
