//! `cooper build --print`: what would be built, for people.

use std::fmt::Write;

use crate::dockerfile::Containerfile;
use crate::dockerfile::ast::{Instruction, Kind, Stage};
use crate::plan::mount::{self, MountType};
use crate::plan::{
    self, Action, Base, ContextName, CopySource, MountKind, Origin, Plan, PlanError, RunMount, Step,
};

/// The stages of a file, with what is said of them in the comments above.
pub(super) fn targets(file: &Containerfile, options: &plan::Options) -> String {
    let mut out = String::new();
    let rows: Vec<(String, String, String)> = file
        .stages
        .iter()
        .enumerate()
        .map(|(number, stage)| {
            let name = stage_name(number, stage);
            let last = number + 1 == file.stages.len();
            let default = if last && options.target.is_none() { " (default)" } else { "" };
            (
                format!("{name}{default}"),
                stage.from.image.node.clone(),
                stage.from.description().unwrap_or_default().to_owned(),
            )
        })
        .collect();
    table(&mut out, ["TARGET", "FROM", "DESCRIPTION"], &rows);
    out
}

/// What can be given from outside for a target: its arguments and secrets.
///
/// # Errors
/// When the target is not there.
pub(super) fn outline(file: &Containerfile, options: &plan::Options) -> Result<String, PlanError> {
    let target = plan::target_of(file, options)?;
    let used = used_stages(file, target);
    let stage = &file.stages[target];
    let name = stage_name(target, stage);
    let mut out = format!("TARGET: {name}\n");
    let description = stage.from.description().unwrap_or_default();
    if !description.is_empty() {
        let _ = writeln!(out, "DESCRIPTION: {description}");
    }
    let globals = file.global_args.iter();
    let own = used.iter().flat_map(|number| &file.stages[*number].instructions);
    let all: Vec<&Instruction> = globals.chain(own).collect();
    let mut rows: Vec<(String, String, String)> = Vec::new();
    for instruction in &all {
        let Kind::Arg(args) = &instruction.kind else { continue };
        for arg in args {
            let given = options.build_args.get(&arg.name.node).cloned();
            let value = given.or_else(|| arg.default.as_ref().map(|word| word.node.clone()));
            let row = (
                arg.name.node.clone(),
                value.unwrap_or_default(),
                instruction.description(&arg.name.node).unwrap_or_default().to_owned(),
            );
            match rows.iter_mut().find(|(name, _, _)| *name == row.0) {
                // A stage that asks for an argument from above says nothing new.
                Some(known) => {
                    if known.1.is_empty() {
                        known.1 = row.1;
                    }
                    if known.2.is_empty() {
                        known.2 = row.2;
                    }
                }
                None => rows.push(row),
            }
        }
    }
    if !rows.is_empty() {
        out.push('\n');
        table(&mut out, ["BUILD ARG", "VALUE", "DESCRIPTION"], &rows);
    }
    let mut secrets: Vec<(String, String, String)> = Vec::new();
    for instruction in &all {
        let Kind::Run(run) = &instruction.kind else { continue };
        for flag in run.flags.iter().filter(|f| f.name.node == "mount") {
            let Some(value) = &flag.value else { continue };
            // Variables stay as they are written: their values may depend on the stage.
            let parsed = mount::parse(value, &|word| Ok(word.node.clone()));
            let Some(secret) = parsed.ok().filter(|m| m.kind == MountType::Secret) else { continue };
            let id = secret.id.or(secret.source).or(secret.target).unwrap_or_default();
            let required = if secret.required { "required" } else { "" };
            let row = (id, required.to_owned(), String::new());
            if !secrets.contains(&row) {
                secrets.push(row);
            }
        }
    }
    if !secrets.is_empty() {
        out.push('\n');
        table(&mut out, ["SECRET", "REQUIRED", ""], &secrets);
    }
    Ok(out)
}

/// The stages that the target needs, in the order of the file, as far as names without variables tell.
fn used_stages(file: &Containerfile, target: usize) -> Vec<usize> {
    let find = |name: &str, before: usize| {
        let named = file.stages[..before]
            .iter()
            .rposition(|s| s.from.name.as_ref().is_some_and(|n| n.node.eq_ignore_ascii_case(name)));
        named.or_else(|| name.parse::<usize>().ok().filter(|n| *n < before))
    };
    let mut used = vec![target];
    let mut at = 0;
    while at < used.len() {
        let number = used[at];
        let stage = &file.stages[number];
        let mut names = vec![stage.from.image.node.clone()];
        for instruction in &stage.instructions {
            names.extend(from_names(&instruction.kind));
        }
        for earlier in names.iter().filter_map(|name| find(name, number)) {
            if !used.contains(&earlier) {
                used.push(earlier);
            }
        }
        at += 1;
    }
    used.sort_unstable();
    used
}

fn from_names(kind: &Kind) -> Vec<String> {
    match kind {
        Kind::Copy(copy) | Kind::Add(copy) => copy
            .flags
            .iter()
            .filter(|f| f.name.node == "from")
            .filter_map(|f| f.value.as_ref().map(|v| v.node.clone()))
            .collect(),
        Kind::Run(run) => run
            .flags
            .iter()
            .filter_map(|f| f.value.as_ref())
            .flat_map(|v| v.node.split(',').filter_map(|field| field.strip_prefix("from=")))
            .map(str::to_owned)
            .collect(),
        _ => Vec::new(),
    }
}

/// The steps of a plan, stage by stage, with what each depends on.
pub(super) fn plan<I>(plan: &Plan<I>) -> String {
    let mut out = String::new();
    for (position, stage) in plan.stages.iter().enumerate() {
        if position > 0 {
            out.push('\n');
        }
        let base = match &stage.base {
            Base::Scratch => "scratch".to_owned(),
            Base::Stage(of) => format!("stage {}", plan.stages[*of].label),
            Base::Image(_) => "an image".to_owned(),
        };
        let target = plan.targets.iter().any(|t| t.stage == position);
        let mark = if target { ", a target" } else { "" };
        let _ = writeln!(out, "stage {} for {}, from {base}{mark}", stage.label, stage.platform);
        for (number, step) in stage.steps.iter().enumerate() {
            let text = step.text.lines().next().unwrap_or_default();
            let _ = writeln!(out, "  {}. {}", number + 1, shortened(text));
            for needed in needs(plan, step) {
                let _ = writeln!(out, "       needs {needed}");
            }
        }
    }
    out
}

/// What a step takes from elsewhere.
fn needs<I>(plan: &Plan<I>, step: &Step<I>) -> Vec<String> {
    let origin = |from: &Origin<I>| match from {
        Origin::Context(ContextName::Main) => "the build context".to_owned(),
        Origin::Context(ContextName::Named(name)) => format!("the build context {name}"),
        Origin::Stage(position) => format!("stage {}", plan.stages[*position].label),
        Origin::Image(_) => "an image".to_owned(),
        Origin::Scratch => "nothing".to_owned(),
    };
    match &step.action {
        Action::Workdir { .. } => Vec::new(),
        Action::Copy(copy) => {
            let mut needs = Vec::new();
            for source in &copy.sources {
                let need = match source {
                    CopySource::Path(_) => origin(&copy.from),
                    CopySource::Http(url) | CopySource::Git(url) => url.clone(),
                    CopySource::Inline { .. } => continue,
                };
                if !needs.contains(&need) {
                    needs.push(need);
                }
            }
            needs
        }
        Action::Run(run) => {
            let need = |mount: &RunMount<I>| match &mount.kind {
                MountKind::Bind { from, .. } => Some(origin(from)),
                MountKind::Cache { id, .. } => Some(format!("the cache mount {id}")),
                MountKind::Secret { id, .. } => Some(format!("the secret {id}")),
                MountKind::Tmpfs { .. } | MountKind::Script { .. } => None,
            };
            run.mounts.iter().filter_map(need).collect()
        }
    }
}

fn stage_name(number: usize, stage: &Stage) -> String {
    stage.from.name.as_ref().map_or_else(|| number.to_string(), |n| n.node.to_lowercase())
}

fn shortened(text: &str) -> String {
    const WIDTH: usize = 72;
    match text.char_indices().nth(WIDTH) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

fn table(out: &mut String, head: [&str; 3], rows: &[(String, String, String)]) {
    let width = |cells: &dyn Fn(&(String, String, String)) -> usize, head: &str| {
        rows.iter().map(cells).max().unwrap_or(0).max(head.len())
    };
    let first = width(&|r| r.0.chars().count(), head[0]);
    let second = width(&|r| r.1.chars().count(), head[1]);
    let head = (head[0].to_owned(), head[1].to_owned(), head[2].to_owned());
    for (a, b, c) in std::iter::once(&head).chain(rows) {
        let line = format!("{a:first$}   {b:second$}   {c}");
        let _ = writeln!(out, "{}", line.trim_end());
    }
}
