//! Build checks: what in a Containerfile is likely a mistake or bad practice, though it builds.
//!
//! Nothing here does I/O or fails for what it finds. Where a check would need to know something that it was not
//! told (the environment of a base image, the files of the context), it stays silent: a false alarm costs more
//! than a missed one. Checks that BuildKit has too follow its rules and bear its names.
//!
//! | file | does |
//! |---|---|
//! | [`rules`] | the list: codes, levels, summaries |
//! | [`mod@settings`] | `# check=…` |
//! | `names` | stage names, upper and lower case |
//! | `bases` | `FROM` |
//! | `variables` | what is set where; `UndefinedVar` |
//! | `stages` | all other instructions, and what a stage ends up with |
//! | `commands`, `shell` | what `RUN` does; the commands in its text |

mod bases;
mod commands;
mod names;
pub mod rules;
pub mod settings;
mod shell;
mod stages;
#[cfg(test)]
mod tests;
mod variables;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::dockerfile::ast::{Containerfile, Span};
use crate::dockerfile::{IgnoreFile, ParseError};
use crate::image::ImageConfig;
pub use rules::{Code, Level};
use settings::{Settings, Unknown};

/// The build argument that overrides `# check=`.
pub const ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// The configuration of a base image by its name, where it is at hand.
pub type Bases<'a> = dyn Fn(&str) -> Option<ImageConfig> + 'a;

/// What is known besides the file. The default is nothing.
#[derive(Default, Clone)]
pub struct Options<'a> {
    /// `--build-arg`; [`ARGUMENT`] among them overrides the file's own directive.
    pub build_args: BTreeMap<String, String>,
    /// `--target`: a stage's name or number; the last stage where it is `None` or names none.
    pub target: Option<String>,
    /// The rules of the context's ignore file, empty ones where it has none; `None` if no context is known.
    pub ignore: Option<&'a IgnoreFile>,
    /// Whether the context has an ignore file; `None` if no context is known.
    pub has_ignore_file: Option<bool>,
    /// Names that `--build-context` gives: they are not images.
    pub named_contexts: BTreeSet<String>,
    /// The configuration of a base image by its name as `FROM` has it after expansion, where it is at hand.
    pub bases: Option<&'a Bases<'a>>,
    /// Checks that are left out, whatever the file says.
    pub skip: BTreeSet<Code>,
}

impl fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("build_args", &self.build_args)
            .field("target", &self.target)
            .field("skip", &self.skip)
            .finish_non_exhaustive()
    }
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// By which check.
    pub code: Code,
    /// How bad it is: that of the check, but a warning is an error where the file says `error=true`.
    pub level: Level,
    /// What it is, as a sentence without a full stop.
    pub message: String,
    /// Where.
    pub span: Span,
    /// What to do about it.
    pub help: Option<String>,
}

/// All that was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// In the order of their places.
    pub findings: Vec<Finding>,
    /// Whether a build should fail: the directive says `error=true`, and there is more than advice.
    pub fails: bool,
}

impl Report {
    /// The worst level among the findings.
    pub fn worst(&self) -> Option<Level> {
        self.findings.iter().map(|finding| finding.level).max()
    }
}

/// Why nothing was checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// The directive `# check=` is not understood.
    #[error(transparent)]
    Directive(#[from] ParseError),
    /// The build argument in its place is not.
    #[error("the build argument {ARGUMENT}: {0}")]
    Argument(String),
}

/// Checks a Containerfile. `text` is what `file` was parsed from.
///
/// # Errors
/// When the options in the directive or the build argument are not understood.
pub fn check(text: &str, file: &Containerfile, options: &Options<'_>) -> Result<Report, CheckError> {
    let (settings, unknown) = settings(file, options)?;
    let mut checker = Checker { text, file, options, findings: Vec::new() };
    for (span, name) in unknown {
        let finding = checker.report(Code::UnknownCheck, span, format!("there is no check `{}`", name.name));
        finding.help = name.near.map(|near| format!("did you mean `{near}`?"));
    }
    names::check(&mut checker);
    let bases = bases::check(&mut checker);
    stages::check(&mut checker, &bases);
    let mut findings = checker.findings;
    findings.retain(|finding| settings.runs(finding.code) && !options.skip.contains(&finding.code));
    if settings.error {
        for finding in findings.iter_mut().filter(|finding| finding.level == Level::Warning) {
            finding.level = Level::Error;
        }
    }
    findings.sort_by_key(|finding| (finding.span.start, finding.code, finding.span.end));
    // Several blank lines in a row have one cause.
    findings.dedup();
    let fails = settings.error && findings.iter().any(|finding| finding.level > Level::Info);
    Ok(Report { findings, fails })
}

type Unknowns = Vec<(Span, Unknown)>;

/// The settings, and the names in them that are none.
fn settings(file: &Containerfile, options: &Options<'_>) -> Result<(Settings, Unknowns), CheckError> {
    let help = "write `# check=skip=A,B`, with `;error=true` or `;experimental=C` behind it";
    if let Some(text) = options.build_args.get(ARGUMENT) {
        let settings = Settings::parse(text).map_err(|e| CheckError::Argument(e.message))?;
        // There is no place in the file for what the command line says: its first byte stands for it.
        let unknown = settings.unknown().map(|name| (Span::new(0, 0), name)).collect();
        return Ok((settings, unknown));
    }
    let Some(word) = &file.directives.check else { return Ok((Settings::default(), Vec::new())) };
    let place =
        |range: std::ops::Range<usize>| Span::new(word.span.start + range.start, word.span.start + range.end);
    let settings = Settings::parse(&word.node)
        .map_err(|e| ParseError::new(e.message, place(e.range)).with_help(help))?;
    let unknown = settings.unknown().map(|name| (place(name.range.clone()), name)).collect();
    Ok((settings, unknown))
}

/// What the checks share.
struct Checker<'a> {
    text: &'a str,
    file: &'a Containerfile,
    options: &'a Options<'a>,
    findings: Vec<Finding>,
}

impl Checker<'_> {
    /// Adds a finding; the caller may add help to it.
    fn report(&mut self, code: Code, span: Span, message: impl Into<String>) -> &mut Finding {
        let finding = Finding { code, level: code.level(), message: message.into(), span, help: None };
        self.findings.push(finding);
        let last = self.findings.len() - 1;
        &mut self.findings[last]
    }

    /// As [`report`](Checker::report), with help.
    fn advise(&mut self, code: Code, span: Span, message: impl Into<String>, help: impl Into<String>) {
        self.report(code, span, message).help = Some(help.into());
    }

    /// The text of a place.
    fn source(&self, span: Span) -> &str {
        self.text.get(span.range()).unwrap_or_default()
    }

    /// The number of the stage that becomes the image.
    fn target(&self) -> usize {
        let stages = &self.file.stages;
        let last = stages.len().saturating_sub(1);
        let Some(target) = &self.options.target else { return last };
        let by_name = stages
            .iter()
            .rposition(|s| s.from.name.as_ref().is_some_and(|name| name.node.eq_ignore_ascii_case(target)));
        let by_number = || target.parse::<usize>().ok().filter(|number| *number < stages.len());
        by_name.or_else(by_number).unwrap_or(last)
    }
}
