//! `FROM`: what a stage starts from.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::Checker;
use super::rules::Code;
use crate::dockerfile::Expander;
use crate::dockerfile::ast::{ArgDecl, Kind, Span, Word};
use crate::dockerfile::error::closest;
use crate::image::{ImageConfig, ImageName, Platform};
use crate::plan::variables::predefined;

/// What a stage starts from, as far as it is known.
#[derive(Debug, Clone)]
pub(super) enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image, by its name after expansion; with its configuration, where it is at hand.
    Image(String, Option<Box<ImageConfig>>),
    /// It depends on what is not known.
    Unknown,
}

/// The arguments above the first `FROM`.
pub(super) struct Globals {
    /// Their values; `None` for those that are declared without one.
    pub(super) values: BTreeMap<String, Option<String>>,
}

/// An expanded word, and what went into it.
struct Expanded {
    text: String,
    /// Names that had a value.
    used: BTreeSet<String>,
    /// Names that had none, nor an alternative in the word.
    unset: Vec<String>,
}

fn expand(escape: char, word: &Word, values: &BTreeMap<String, Option<String>>) -> Option<Expanded> {
    let used = RefCell::new(BTreeSet::new());
    let lookup = |name: &str| {
        let value = values.get(name).cloned().flatten();
        if value.is_some() {
            used.borrow_mut().insert(name.to_owned());
        }
        value
    };
    let expander = Expander { escape, lookup: &lookup };
    let text = expander.expand(word).ok()?;
    let unset = expander.unset_variables(word);
    Some(Expanded { text, used: used.into_inner(), unset })
}

impl Globals {
    /// With the values that the build arguments give, or with the defaults alone.
    pub(super) fn new(checker: &Checker<'_>, with_build_args: bool) -> Globals {
        let target = checker.options.target.as_deref().unwrap_or("default");
        let mut values = BTreeMap::new();
        for line in predefined(&Platform::host(), &Platform::host(), target).to_env() {
            if let Some((name, value)) = line.split_once('=') {
                values.insert(name.to_owned(), Some(value.to_owned()));
            }
        }
        for instruction in &checker.file.global_args {
            let Kind::Arg(args) = &instruction.kind else { continue };
            for ArgDecl { name, default } in args {
                let given = checker.options.build_args.get(&name.node).filter(|_| with_build_args);
                let default = || {
                    let word = default.as_ref()?;
                    expand(checker.file.directives.escape, word, &values).map(|expanded| expanded.text)
                };
                let value = given.cloned().or_else(default);
                // Declaring a predefined one again takes nothing from it.
                if value.is_some() || !values.contains_key(&name.node) {
                    values.insert(name.node.clone(), value);
                }
            }
        }
        Globals { values }
    }
}

/// Checks every `FROM`, and says what each stage starts from.
pub(super) fn check(checker: &mut Checker<'_>) -> Vec<Base> {
    let file = checker.file;
    let escape = file.directives.escape;
    let (globals, defaults) = (Globals::new(checker, true), Globals::new(checker, false));
    let mut bases = Vec::new();
    for (number, stage) in file.stages.iter().enumerate() {
        let from = &stage.from;
        if let Some(word) = &from.platform {
            undeclared(checker, word, &globals);
            let name = from.name.as_ref().map(|name| name.node.to_lowercase()).unwrap_or_default();
            platform(checker, word, &name, &globals);
        }
        undeclared(checker, &from.image, &globals);
        default_name(checker, &from.image, &defaults);
        let expanded = expand(escape, &from.image, &globals.values);
        let base = match expanded {
            Some(expanded) if expanded.unset.is_empty() && !expanded.text.is_empty() => {
                base(checker, &expanded.text, number)
            }
            _ => Base::Unknown,
        };
        if let Base::Image(name, _) = &base {
            image_name(checker, name, from.image.span);
        }
        bases.push(base);
    }
    bases
}

fn base(checker: &Checker<'_>, name: &str, number: usize) -> Base {
    let earlier = checker.file.stages[..number]
        .iter()
        .rposition(|s| s.from.name.as_ref().is_some_and(|stage| stage.node.to_lowercase() == name));
    if let Some(earlier) = earlier {
        return Base::Stage(earlier);
    }
    if checker.options.named_contexts.contains(name) {
        return Base::Unknown;
    }
    if name == "scratch" {
        return Base::Scratch;
    }
    let config = checker.options.bases.and_then(|bases| bases(name)).map(Box::new);
    Base::Image(name.to_owned(), config)
}

/// A variable that no `ARG` above the first `FROM` declares.
fn undeclared(checker: &mut Checker<'_>, word: &Word, globals: &Globals) {
    let Some(expanded) = expand(checker.file.directives.escape, word, &globals.values) else { return };
    for name in expanded.unset.iter().filter(|name| !globals.values.contains_key(*name)) {
        let known: Vec<&str> = globals.values.keys().map(String::as_str).collect();
        let help = match closest(name, &known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("put `ARG {name}=DEFAULT` above the first FROM"),
        };
        let span = checker.variable(word, name);
        let message = format!("the argument `{name}` is not declared above the first FROM");
        checker.advise(Code::UndefinedArgInFrom, span, message, help);
    }
}

/// A name that is none unless build arguments are given.
fn default_name(checker: &mut Checker<'_>, word: &Word, defaults: &Globals) {
    let Some(expanded) = expand(checker.file.directives.escape, word, &defaults.values) else { return };
    let from_variables = !expanded.used.is_empty() || !expanded.unset.is_empty();
    // What is not declared at all is another finding.
    if !from_variables || expanded.unset.iter().any(|name| !defaults.values.contains_key(name)) {
        return;
    }
    let is_other = ["oci:", "docker-archive:"].iter().any(|prefix| expanded.text.starts_with(prefix));
    if is_other || expanded.text.parse::<ImageName>().is_ok() {
        return;
    }
    let message = match expanded.text.as_str() {
        "" => "without build arguments the base image has no name".to_owned(),
        name => format!("without build arguments the base image is `{name}`, which is no name"),
    };
    let help = "give the ARG above the first FROM a default";
    checker.advise(Code::InvalidDefaultArgInFrom, word.span, message, help);
}

fn platform(checker: &mut Checker<'_>, word: &Word, stage: &str, globals: &Globals) {
    let Some(expanded) = expand(checker.file.directives.escape, word, &globals.values) else { return };
    if !expanded.unset.is_empty() {
        return;
    }
    let target = globals.values.get("TARGETPLATFORM").cloned().flatten();
    if expanded.used.len() == 1
        && expanded.used.contains("TARGETPLATFORM")
        && Some(&expanded.text) == target.as_ref()
    {
        let message = format!("`{}` is the platform that the stage has anyway", word.node);
        checker.advise(Code::RedundantTargetPlatform, word.span, message, "remove the flag");
    }
    if !expanded.used.is_empty() {
        return;
    }
    let Some((os, architecture)) = os_and_architecture(&expanded.text) else { return };
    if stage.contains(&os) || stage.contains(&architecture) {
        return;
    }
    let message = format!("the platform is always `{}`, whatever is built for", expanded.text);
    let help = "remove the flag and use `cooper build --platform`; where the stage is meant for one platform only, \
                have its name say which";
    checker.advise(Code::FromPlatformFlagConstDisallowed, word.span, message, help);
}

/// `linux/arm64/v8`, or either of the first two alone.
fn os_and_architecture(text: &str) -> Option<(String, String)> {
    let lower = text.to_lowercase();
    let valid =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    let parts: Vec<&str> = lower.split('/').collect();
    if parts.len() > 3 || !parts.iter().all(|part| valid(part)) {
        return None;
    }
    let host = Platform::host();
    let name = |architecture: &str| match architecture {
        "x86_64" | "x86-64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        other => other.to_owned(),
    };
    match parts[..] {
        [os @ ("linux" | "windows" | "darwin" | "freebsd" | "wasi")] => {
            Some((os.to_owned(), host.architecture))
        }
        [architecture] => Some((host.os, name(architecture))),
        [os, architecture, ..] => Some((os.to_owned(), name(architecture))),
        [] => None,
    }
}

/// Without tag, or with one that moves.
fn image_name(checker: &mut Checker<'_>, name: &str, span: Span) {
    if ["oci:", "docker-archive:"].iter().any(|prefix| name.starts_with(prefix)) {
        return;
    }
    let Ok(image) = name.parse::<ImageName>() else { return };
    // What is on this machine only was built here, and is what it was built as.
    if image.digest.is_some() || image.registry.as_deref() == Some("localhost") {
        return;
    }
    match image.tag.as_deref() {
        None => {
            let message = format!("the base image `{name}` has neither tag nor digest");
            let help = format!("name the version that is wanted: `{name}:VERSION`");
            checker.advise(Code::BaseImageUntagged, span, message, help);
        }
        Some("latest") => {
            let message = format!("the base image `{name}` is another one with every release");
            let help = "name the version that is wanted, or pin the image by its digest: `NAME@sha256:…`";
            checker.advise(Code::BaseImageLatest, span, message, help);
        }
        Some(_) => {}
    }
}
