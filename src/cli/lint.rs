//! `cooper lint`

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::build::build_args;
use super::failure::{Source, general};
use super::{CliError, Stop, findings};
use crate::check::{self, CheckError, Code, Level, Report, settings};
use crate::context::directory::{GENERAL, IgnoreRules};
use crate::dockerfile::{self, Containerfile};

/// Check a Containerfile for likely mistakes and bad practice
///
/// Every finding has a code, with a page in the book and under --explain. The directive check=skip=CODE,CODE in the
/// first lines of a Containerfile turns checks off, and check=error=true has warnings stop a build. Exits with 1 when
/// there is a finding of the level or a worse one, and with 2 when the file does not parse.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A Containerfile, `-` for standard input, or a build context with one in it
    #[arg(value_name = "FILE|CONTEXT", default_value = ".")]
    path: PathBuf,
    /// How findings are printed
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// The least level of which a finding makes the command fail
    #[arg(long, value_name = "LEVEL", default_value = "warning")]
    level: Threshold,
    /// Leave a check out; may be repeated, or be a list with commas
    #[arg(long, value_name = "CODE", value_delimiter = ',')]
    skip: Vec<String>,
    /// The stage that becomes the image
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Set an ARG; without a value, the variable of that name in the environment is taken; may be repeated
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    build_args: Vec<String>,
    /// Print what a check is about, and nothing else
    #[arg(long, value_name = "CODE")]
    explain: Option<String>,
}

/// `--format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people, with the place in the file
    Text,
    /// One JSON object
    Json,
    /// SARIF 2.1.0, for code hosts and editors
    Sarif,
}

/// `--level`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Threshold {
    /// Errors only
    Error,
    /// And warnings
    Warning,
    /// And advice
    Info,
}

impl From<Threshold> for Level {
    fn from(threshold: Threshold) -> Level {
        match threshold {
            Threshold::Error => Level::Error,
            Threshold::Warning => Level::Warning,
            Threshold::Info => Level::Info,
        }
    }
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<(), Stop> {
    if let Some(name) = &arguments.explain {
        return Ok(write_out(code(name)?.page().as_bytes())?);
    }
    let (source, context) = read(&arguments.path)?;
    let file = dockerfile::parse(&source.text).map_err(|e| source.parse_error(&e))?;
    let rules = match &context {
        Some((context, containerfile)) => {
            Some(IgnoreRules::read(context, Some(containerfile)).map_err(|e| general(&e, context))?)
        }
        None => None,
    };
    let options = check::Options {
        build_args: build_args(&arguments.build_args)?,
        target: arguments.target.clone(),
        has_ignore_file: context
            .as_ref()
            .map(|(context, containerfile)| has_ignore_file(context, Some(containerfile))),
        ignore: rules.as_ref().map(IgnoreRules::patterns),
        skip: codes(&arguments.skip)?,
        ..check::Options::default()
    };
    if let Some(target) = &arguments.target {
        let plan = crate::plan::Options {
            build_args: BTreeMap::new(),
            target: Some(target.clone()),
            platforms: Vec::new(),
            build_platform: crate::image::Platform::host(),
            contexts: BTreeMap::new(),
        };
        crate::plan::target_of(&file, &plan).map_err(|e| source.plan_error(&e))?;
    }
    let report = check(&source, &file, &options)?;
    print(&source, &report, arguments.format)?;
    outcome(&report, arguments.level.into())
}

/// Checks a Containerfile that was parsed from `source`.
///
/// # Errors
/// When the file's directive, or the build argument in its place, is not understood.
pub(super) fn check(
    source: &Source,
    file: &Containerfile,
    options: &check::Options<'_>,
) -> Result<Report, CliError> {
    check::check(&source.text, file, options).map_err(|e| match e {
        CheckError::Directive(e) => source.parse_error(&e),
        CheckError::Argument(_) => CliError::usage(e.to_string())
            .with_hint(format!("write --build-arg {}='skip=A,B;error=true'", check::ARGUMENT)),
    })
}

/// Prints what was found on standard output; in the text form, how much it was on standard error.
pub(super) fn print(source: &Source, report: &Report, format: Format) -> Result<(), CliError> {
    let text = match format {
        Format::Text => findings::text(source, report, findings::color_on_stdout()),
        Format::Json => findings::json(source, report),
        Format::Sarif => findings::sarif(source, report),
    };
    write_out(text.as_bytes())?;
    if format == Format::Text {
        eprintln!("{}", findings::summary(source, report));
    }
    Ok(())
}

/// Whether the findings are reason to fail.
///
/// # Errors
/// [`Stop::Findings`] if one of them has this level or a worse one.
pub(super) fn outcome(report: &Report, threshold: Level) -> Result<(), Stop> {
    match report.worst().is_some_and(|worst| worst >= threshold) {
        true => Err(Stop::Findings),
        false => Ok(()),
    }
}

fn write_out(bytes: &[u8]) -> Result<(), CliError> {
    match std::io::stdout().write_all(bytes) {
        // Whoever reads it has had enough.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(e) => Err(CliError::io("cannot write to", Path::new("standard output"), &e)),
        Ok(()) => Ok(()),
    }
}

fn codes(names: &[String]) -> Result<BTreeSet<Code>, CliError> {
    names.iter().map(|name| code(name.trim())).collect()
}

fn code(name: &str) -> Result<Code, CliError> {
    let known = Code::ALL.iter().copied().find(|code| code.name().eq_ignore_ascii_case(name));
    known.ok_or_else(|| {
        let error = CliError::usage(format!("there is no check `{name}`"));
        match settings::near(name) {
            Some(near) => error.with_hint(format!("did you mean `{near}`?")),
            None => {
                let all: Vec<&str> = Code::ALL.iter().map(|code| code.name()).collect();
                error.with_hint(format!("there are {}", all.join(", ")))
            }
        }
    })
}

/// A context, and the Containerfile in it.
type Context = (PathBuf, PathBuf);

/// No honest Containerfile is larger.
const LIMIT: u64 = 8 << 20;

/// Reads the Containerfile that `path` is, or has. A file given by itself says nothing of a context.
fn read(path: &Path) -> Result<(Source, Option<Context>), CliError> {
    if path == Path::new("-") {
        let text = text("standard input", std::io::stdin().lock())?;
        return Ok((Source { name: "standard input".to_owned(), text }, None));
    }
    let is_directory = std::fs::metadata(path).map_err(|e| CliError::io("cannot open", path, &e))?.is_dir();
    if !is_directory {
        return Ok((open(path)?, None));
    }
    for name in ["Containerfile", "Dockerfile"] {
        let file = if path == Path::new(".") { PathBuf::from(name) } else { path.join(name) };
        if file.exists() {
            if !file.is_file() {
                let message = format!("{} is not a regular file", file.display());
                return Err(CliError::usage(message).with_hint("name the file: `cooper lint FILE`"));
            }
            return Ok((open(&file)?, Some((path.to_owned(), file))));
        }
    }
    let message = format!("{} has neither Containerfile nor Dockerfile", path.display());
    Err(CliError::usage(message).with_hint("name the file: `cooper lint FILE`"))
}

fn open(path: &Path) -> Result<Source, CliError> {
    let file = std::fs::File::open(path).map_err(|e| CliError::io("cannot read", path, &e))?;
    let name = path.display().to_string();
    let text = text(&name, file)?;
    Ok(Source { name, text })
}

fn text(name: &str, from: impl Read) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    from.take(LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| CliError::io("cannot read", Path::new(name), &e))?;
    if bytes.len() as u64 > LIMIT {
        return Err(CliError::usage(format!("{name} is larger than 8 MiB")));
    }
    String::from_utf8(bytes).map_err(|e| {
        let valid = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        CliError::usage(format!("{name} is not UTF-8 text: line {line}"))
    })
}

/// Whether a context, or the Containerfile if it lies in a directory, has an ignore file.
pub(super) fn has_ignore_file(context: &Path, containerfile: Option<&Path>) -> bool {
    let own = containerfile.map(|path| {
        let mut own = path.as_os_str().to_owned();
        own.push(".dockerignore");
        PathBuf::from(own)
    });
    own.is_some_and(|own| own.exists()) || GENERAL.iter().any(|name| context.join(name).exists())
}
