//! `cooper build`

mod inputs;
mod outputs;
mod secrets;
pub(super) mod times;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::{Args, ValueEnum};
use cooper_runtime::sys::process::processors;

use super::failure::{Source, general};
use super::{CliError, Global, Stop, findings, lint, print, push};
use crate::build::images::{Finder, PullPolicy};
use crate::build::{self, BuiltImage};
use crate::check::{self, Level, Report};
use crate::dockerfile::{self, IgnoreFile};
use crate::image::{ImageName, Platform, Reference};
use crate::layer::compress::Compression;
use crate::plan;
use crate::progress::{self, Event, Progress, color_on_stderr};
use crate::store::Store;
use crate::transport::oci::{self, OciName};

/// Build an image from a Containerfile
///
/// Steps run as an ordinary user, in namespaces of their own; nothing is left running. The image is put into
/// the store, with -t under a name, and with -o written somewhere else as well. Its digest is printed on standard
/// output.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The Containerfile: a path, a URL, or `-` for standard input [default: Containerfile, else Dockerfile, in
    /// CONTEXT]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Name the image; may be repeated
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    tags: Vec<String>,
    /// Stop at this stage
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Set an ARG; without a value, the variable of that name in the environment is taken; may be repeated
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    build_args: Vec<String>,
    /// Build for these platforms, such as linux/amd64,linux/arm64; several make an index [default: this machine's]
    #[arg(long = "platform", value_name = "OS/ARCH", value_delimiter = ',')]
    platforms: Vec<Platform>,
    /// Give a directory, archive, repository or image a name, for FROM and --from; may be repeated
    #[arg(long = "build-context", value_name = "NAME=SOURCE")]
    build_contexts: Vec<String>,
    /// Let RUN --mount=type=secret see a file or variable: id=ID[,src=FILE|,env=NAME]; may be repeated
    #[arg(long = "secret", value_name = "SPEC")]
    secrets: Vec<String>,
    /// Write the image as an OCI layout directory; may be repeated
    #[arg(short, long = "output", value_name = "oci:DIR[:TAG]")]
    outputs: Vec<String>,
    /// Push the image to the registries that its names say
    #[arg(long, requires = "tags")]
    push: bool,
    /// Run every step, whatever the cache has
    #[arg(long)]
    no_cache: bool,
    /// How many steps run at a time: one for each processor if not said, and 0 for no limit
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// When to ask registries for base images
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_value = "missing",
          default_missing_value = "always")]
    pull: PullPolicy,
    /// How new layers are compressed: gzip, zstd or none, and a level, as in zstd:9
    #[arg(long, value_name = "KIND[:LEVEL]", default_value = "gzip", value_parser = parse_compression)]
    compression: Compression,
    #[command(flatten)]
    times: times::TimeArguments,
    /// Write the image's ID, the digest of its configuration, to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Write digests and names as JSON to a file
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// Check the Containerfile, and build nothing
    #[arg(long, conflicts_with_all = ["tags", "outputs", "push"])]
    check: bool,
    /// Show what would be built, and build nothing
    #[arg(long, value_name = "WHAT", conflicts_with_all = ["check", "tags", "outputs", "push"])]
    print: Option<Print>,
    /// Where COPY and ADD take files from: a directory, `-` for an archive on standard input, the URL of an archive,
    /// or a Git repository as URL#REF:DIR
    #[arg(value_name = "CONTEXT")]
    context: PathBuf,
}

/// `--print`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Print {
    /// The arguments and secrets that the target takes
    Outline,
    /// The stages
    Targets,
    /// The steps, and what they depend on
    Plan,
}

fn parse_compression(text: &str) -> Result<Compression, String> {
    Compression::parse(text).map_err(|e| e.to_string())
}

/// Arguments that have been checked.
struct Request {
    inputs: inputs::Inputs,
    file: dockerfile::Containerfile,
    plan: plan::Options,
    build: build::Options,
    tags: Vec<Reference>,
    outputs: Vec<OciName>,
}

/// Runs the command.
pub fn run(global: &Global, arguments: Arguments) -> Result<(), Stop> {
    let began = Instant::now();
    let opened = OnceCell::new();
    let store = || -> Result<&Arc<Store>, CliError> {
        if opened.get().is_none() {
            let _ = opened.set(Arc::new(global.open_store()?));
        }
        opened.get().ok_or_else(|| CliError::failed("the store is not open"))
    };
    let progress = progress::start(global.progress);
    let done = (|| {
        let borrowed = || store().map(|store| &**store);
        let request = checked(global, &arguments, &borrowed, &*progress)?;
        if arguments.check {
            let source = &request.inputs.source;
            plan::target_of(&request.file, &request.plan).map_err(|e| source.plan_error(&e))?;
            return Ok(Done::Check(report(&request, &arguments)?, Box::new(request)));
        }
        if let Some(what) = arguments.print {
            return Ok(Done::Print(outline(what, &request, &arguments, store()?, &*progress)?));
        }
        let built = carry_out(&request, &arguments, store()?, &*progress)?;
        progress.event(Event::Note { text: summary(&request, &built, began) });
        Ok::<_, Stop>(Done::Built(Box::new(built)))
    })();
    progress.finish();
    match done? {
        Done::Built(built) => Ok(super::print_result(built.digest)?),
        Done::Print(text) => Ok(super::print_text(&text)?),
        Done::Check(report, request) => {
            lint::print(&request.inputs.source, &report, lint::Format::Text)?;
            lint::outcome(&report, Level::Warning)
        }
    }
}

/// What the command has come to.
enum Done {
    Built(Box<BuiltImage>),
    Check(Report, Box<Request>),
    Print(String),
}

/// Runs the build checks.
fn report(request: &Request, arguments: &Arguments) -> Result<Report, CliError> {
    let ignore = ignore_file(request)?;
    let options = check::Options {
        build_args: request.plan.build_args.clone(),
        target: arguments.target.clone(),
        ignore: ignore.as_ref(),
        has_ignore_file: request.inputs.has_ignore_file,
        named_contexts: request.inputs.named.keys().cloned().collect(),
        ..check::Options::default()
    };
    lint::check(&request.inputs.source, &request.file, &options)
}

fn ignore_file(request: &Request) -> Result<Option<IgnoreFile>, CliError> {
    let Some(dir) = request.build.contexts.get(&plan::ContextName::Main) else { return Ok(None) };
    let rules = crate::context::IgnoreRules::read(&dir.path, dir.containerfile.as_deref());
    Ok(Some(rules.map_err(|e| CliError::failed(e.to_string()))?.patterns().clone()))
}

/// What `--print` shows.
fn outline(
    what: Print,
    request: &Request,
    arguments: &Arguments,
    store: &Store,
    progress: &dyn Progress,
) -> Result<String, CliError> {
    let source = &request.inputs.source;
    match what {
        Print::Targets => Ok(print::targets(&request.file, &request.plan)),
        Print::Outline => print::outline(&request.file, &request.plan).map_err(|e| source.plan_error(&e)),
        Print::Plan => {
            let mut finder = Finder::new(store, arguments.pull, progress);
            let plan = plan::plan(&request.file, &request.plan, &mut finder);
            Ok(print::plan(&plan.map_err(|e| source.plan_error(&e))?))
        }
    }
}

fn carry_out(
    request: &Request,
    arguments: &Arguments,
    store: &Arc<Store>,
    progress: &dyn Progress,
) -> Result<BuiltImage, Stop> {
    let source = &request.inputs.source;
    let report = report(request, arguments)?;
    if report.fails {
        let message = "the build checks have found something, so nothing was built";
        let error = CliError::failed(message).with_detail(findings::text(source, &report, color_on_stderr()));
        return Err(error
            .with_hint("`# check=error=true` asks for that; `skip=CODE` leaves a check out")
            .into());
    }
    if let Some(syntax) = &request.file.directives.syntax {
        explain_syntax(&syntax.node, progress);
    }
    let mut finder = Finder::new(store, arguments.pull, progress);
    let plan = plan::plan(&request.file, &request.plan, &mut finder).map_err(|e| source.plan_error(&e))?;
    for text in plan.warnings.iter().cloned().chain(unused(request, &plan)) {
        progress.event(Event::Warning { text });
    }
    // Not only when all is built.
    for output in &request.outputs {
        oci::check_layout(&output.dir).map_err(|e| match general(&e, &output.dir) {
            error if error.hint.is_some() => error,
            error => error.with_hint("give -o a layout, an empty directory, or one that is not there yet"),
        })?;
    }
    let built = build::build(store, &plan, &mut finder, &request.build, progress)
        .map_err(|e| source.build_error(e, store.root()))?;
    for tag in &request.tags {
        store.set_name(&tag.to_string(), &built.root).map_err(|e| super::failure::store(&e))?;
    }
    for output in &request.outputs {
        oci::write_layout(store, &built.root, &output.dir, output.tag.as_deref())
            .map_err(|e| general(&e, &output.dir))?;
    }
    if arguments.push {
        for tag in &request.tags {
            push::push_one(
                finder.client().map_err(|e| general(&e, store.root()))?,
                store,
                &built.root,
                tag,
                progress,
            )?;
        }
    }
    write_documents(request, arguments, &built)?;
    tell_findings(source, &report, progress);
    Ok(built)
}

/// What was given and no step asks for: most likely a name is misspelt.
fn unused<I>(request: &Request, plan: &plan::Plan<I>) -> Vec<String> {
    let steps = || plan.stages.iter().flat_map(|stage| &stage.steps);
    let wants_secret = |wanted: &str| {
        steps().any(|step| match &step.action {
            plan::Action::Run(run) => run
                .mounts
                .iter()
                .any(|mount| matches!(&mount.kind, plan::MountKind::Secret { id, .. } if id == wanted)),
            _ => false,
        })
    };
    let secrets = request.build.secrets.keys().filter(|id| !wants_secret(id));
    secrets
        .map(|id| format!("--secret id={id} was not used: no RUN in a stage that is built mounts it"))
        .collect()
}

/// `# syntax=` names the program that is to read the file. Docker fetches it; here it is always cooper, which is
/// no difference as long as that program is Docker's own.
fn explain_syntax(syntax: &str, progress: &dyn Progress) {
    let name = ImageName::familiar(syntax.split_whitespace().next().unwrap_or_default());
    let repository = name.as_deref().unwrap_or_default().split([':', '@']).next().unwrap_or_default();
    if matches!(repository, "docker/dockerfile" | "docker/dockerfile-upstream") {
        tracing::info!("`# syntax={syntax}` is not fetched: cooper reads the language itself");
        return;
    }
    let text =
        format!("`# syntax={syntax}` has no effect: the file is read as a Dockerfile, by cooper itself");
    progress.event(Event::Warning { text });
}

/// What the build checks have found: a line for each of those that Docker tells of, and how many more.
fn tell_findings(source: &Source, report: &Report, progress: &dyn Progress) {
    let warnings = report.findings.iter().filter(|f| f.level >= Level::Warning);
    let (shared, own): (Vec<_>, Vec<_>) = warnings.partition(|f| f.code.is_shared());
    for finding in &shared {
        let line = dockerfile::line_col(&source.text, finding.span.start).0;
        let text = format!("{}: {} ({}:{line})", finding.code.name(), finding.message, source.name);
        progress.event(Event::Warning { text });
    }
    if !own.is_empty() {
        let more = if shared.is_empty() { "" } else { " more" };
        let text = format!("build checks have {}{more} to say; see `cooper build --check`", own.len());
        progress.event(Event::Note { text });
    }
}

/// `--iidfile` and `--metadata-file`
fn write_documents(request: &Request, arguments: &Arguments, built: &BuiltImage) -> Result<(), CliError> {
    let single = match built.images.as_slice() {
        [(_, only)] => Some(only),
        _ => None,
    };
    if let Some(path) = &arguments.iidfile {
        let id = single.map_or(built.digest, |only| only.config_digest);
        write_file(path, id.to_string().as_bytes())?;
    }
    if let Some(path) = &arguments.metadata_file {
        let names: Vec<String> = request.tags.iter().map(ToString::to_string).collect();
        let mut metadata = serde_json::json!({
            "containerimage.digest": built.digest,
            "containerimage.descriptor": built.root,
            "image.name": names.join(","),
        });
        if let Some(only) = single {
            metadata["containerimage.config.digest"] = serde_json::json!(only.config_digest);
        }
        write_file(path, format!("{metadata:#}\n").as_bytes())?;
    }
    Ok(())
}

fn write_file(path: &Path, content: &[u8]) -> Result<(), CliError> {
    std::fs::write(path, content).map_err(|e| CliError::io("cannot write", path, &e))
}

fn summary(request: &Request, built: &BuiltImage, began: Instant) -> String {
    let all = || built.images.iter().flat_map(|(_, image)| &image.layers);
    let bytes: u64 = all().map(|l| l.size).sum();
    let names: Vec<String> = request
        .tags
        .iter()
        .map(ToString::to_string)
        .chain(request.outputs.iter().map(|o| format!("oci:{}", o.dir.display())))
        .collect();
    let what = if names.is_empty() { "image".to_owned() } else { names.join(", ") };
    let layers = all().count();
    let platforms = match built.images.len() {
        1 => String::new(),
        several => format!("{several} platforms, "),
    };
    format!(
        "built {what}: {platforms}{layers} layer{}, {}, in {:.1} s",
        if layers == 1 { "" } else { "s" },
        size(bytes),
        began.elapsed().as_secs_f64()
    )
}

/// Bytes for people, in powers of ten as image tools have it.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

fn checked<'a>(
    global: &Global,
    arguments: &Arguments,
    store: &'a dyn Fn() -> Result<&'a Store, CliError>,
    progress: &'a dyn Progress,
) -> Result<Request, CliError> {
    // What costs nothing comes first: a mistake in an argument is told before anything is downloaded.
    let mut build_args = build_args(&arguments.build_args)?;
    let tags = arguments.tags.iter().map(|t| parse_tag(t)).collect::<Result<_, _>>()?;
    let outputs = arguments.outputs.iter().map(|o| outputs::parse(o)).collect::<Result<Vec<_>, _>>()?;
    let (outputs, rewriting): (_, Vec<_>) = outputs.into_iter().unzip();
    let times = times::settle(&arguments.times, &rewriting, &mut build_args)?;
    let secrets = secrets::parse(&arguments.secrets)?;
    let mut platforms: Vec<Platform> = Vec::new();
    for platform in &arguments.platforms {
        if !platforms.contains(platform) {
            platforms.push(platform.clone());
        }
    }
    if platforms.is_empty() {
        platforms.push(Platform::host());
    }
    let inputs = inputs::read(arguments, store, progress)?;
    let file = dockerfile::parse(&inputs.source.text).map_err(|e| inputs.source.parse_error(&e))?;
    Ok(Request {
        file,
        plan: plan::Options {
            build_args,
            target: arguments.target.clone(),
            platforms,
            build_platform: Platform::host(),
            contexts: inputs.named.clone(),
        },
        build: build::Options {
            contexts: inputs.dirs.clone(),
            secrets,
            no_cache: arguments.no_cache,
            jobs: jobs(arguments.jobs),
            storage: global.storage.backend(),
            compression: arguments.compression,
            times,
        },
        inputs,
        tags,
        outputs,
    })
}

/// How many steps may be carried out at a time.
fn jobs(asked: Option<usize>) -> usize {
    match asked {
        Some(0) => usize::MAX,
        Some(jobs) => jobs,
        None => processors(),
    }
}

pub(super) fn build_args(arguments: &[String]) -> Result<BTreeMap<String, String>, CliError> {
    let mut args = BTreeMap::new();
    for text in arguments {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), std::env::var(text).ok()),
        };
        if name.is_empty() {
            return Err(CliError::usage(format!("--build-arg `{text}` has no name"))
                .with_hint("write it as --build-arg NAME=VALUE"));
        }
        // A name that the environment does not have either is as if it was not given.
        if let Some(value) = value {
            args.insert(name.to_owned(), value);
        }
    }
    Ok(args)
}

/// A name for a new image.
pub(super) fn parse_tag(text: &str) -> Result<Reference, CliError> {
    let name: ImageName = text.parse().map_err(|e| CliError::usage(format!("{e}")))?;
    if name.digest.is_some() {
        return Err(CliError::usage(format!("`{text}` has a digest, which only a finished image has"))
            .with_hint("name the image without `@sha256:…`"));
    }
    Ok(name.normalised())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(
            [size(999), size(1_500), size(2_500_000), size(3_000_000_000)],
            ["999 B", "1.5 kB", "2.5 MB", "3.00 GB"]
        );
    }
}
