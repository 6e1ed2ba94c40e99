//! Names of stages, and upper and lower case.

use std::collections::BTreeSet;

use super::Checker;
use super::rules::Code;
use crate::dockerfile::ast::{From, Kind, Span, Word};

/// `COPY --from` and `FROM` mean something else by these.
const RESERVED: [&str; 2] = ["context", "scratch"];

pub(super) fn check(checker: &mut Checker<'_>) {
    stage_names(checker);
    keyword_case(checker);
    descriptions(checker);
    blank_lines(checker);
}

/// Blank lines where an instruction goes on. What shows best is the escape character above them.
fn blank_lines(checker: &mut Checker<'_>) {
    let escape = checker.file.directives.escape;
    for span in &checker.file.empty_continuations {
        let above = checker.text[..span.start].trim_end();
        let at = match above.strip_suffix(escape) {
            Some(before) => Span::new(before.len(), above.len()),
            None => *span,
        };
        let help = "remove the blank line, or put a `#` on it";
        checker.advise(
            Code::NoEmptyContinuation,
            at,
            "an instruction goes on, and a blank line follows",
            help,
        );
    }
}

/// Comments that look like the description of an `ARG` or a stage, and are not. Only those on the line above count:
/// with a blank line between, they are about something else.
fn descriptions(checker: &mut Checker<'_>) {
    let file = checker.file;
    for stage in &file.stages {
        if let Some(name) = &stage.from.name {
            description(
                checker,
                &stage.from.comments,
                stage.from.span,
                &[&name.node.to_lowercase()],
                "stage",
            );
        }
    }
    let in_stages = file.stages.iter().flat_map(|stage| &stage.instructions);
    for instruction in file.global_args.iter().chain(in_stages) {
        let Kind::Arg(args) = &instruction.kind else { continue };
        let names: Vec<&str> = args.iter().map(|arg| arg.name.node.as_str()).collect();
        description(checker, &instruction.comments, instruction.keyword, &names, "argument");
    }
}

fn description(checker: &mut Checker<'_>, comments: &[Word], at: Span, names: &[&str], what: &str) {
    let Some(comment) = comments.last() else { return };
    let between = checker.source(Span::new(comment.span.end, at.start));
    let is_directive = ["check", "syntax", "escape"].iter().any(|key| {
        comment.node.to_lowercase().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
    });
    let first = comment.node.split(' ').next().unwrap_or_default();
    if between.matches('\n').count() != 1 || is_directive || names.contains(&first) {
        return;
    }
    let message = format!("the comment above this {what} does not begin with its name");
    let help = match names {
        [name] => format!("write `# {name} DESCRIPTION`, or leave a blank line in between"),
        _ => "write `# NAME DESCRIPTION`, or leave a blank line in between".to_owned(),
    };
    checker.advise(Code::InvalidDefinitionDescription, comment.span, message, help);
}

fn stage_names(checker: &mut Checker<'_>) {
    let file = checker.file;
    let mut seen = BTreeSet::new();
    for stage in &file.stages {
        let Some(name) = &stage.from.name else { continue };
        let lower = name.node.to_lowercase();
        if lower != name.node {
            let message = format!("the stage name `{}` is not in lower case", name.node);
            checker.advise(Code::StageNameCasing, name.span, message, format!("write `{lower}`"));
        }
        if RESERVED.contains(&lower.as_str()) {
            let message = format!("`{lower}` is reserved and cannot be used for a stage");
            checker.advise(Code::ReservedStageName, name.span, message, "give the stage another name");
        }
        if !seen.insert(lower) {
            let message = format!("there is a stage `{}` above already", name.node);
            let help = "give one of them another name: only the last of them can be reached by its name";
            checker.advise(Code::DuplicateStageName, name.span, message, help);
        }
        let from = keyword(&stage.from);
        let (from_text, as_span) = (checker.source(from), as_keyword(checker, &stage.from));
        let as_text = as_span.map(|span| checker.source(span)).unwrap_or_default();
        // Where FROM itself is mixed, that is what is to be mended.
        let matches = match (is_lower(from_text), is_upper(from_text)) {
            (true, _) => is_lower(as_text),
            (_, true) => is_upper(as_text),
            _ => true,
        };
        if let (false, Some(span)) = (matches, as_span) {
            let message = format!("`{as_text}` is not in the case of `{from_text}`");
            let same = if is_lower(from_text) { as_text.to_lowercase() } else { as_text.to_uppercase() };
            checker.advise(Code::FromAsCasing, span, message, format!("write `{same}`"));
        }
    }
}

/// The place of `FROM`.
fn keyword(from: &From) -> Span {
    Span::new(from.span.start, from.span.start + "FROM".len())
}

/// The place of `AS`: the two letters between image and name that no line end, escape or comment is.
fn as_keyword(checker: &Checker<'_>, from: &From) -> Option<Span> {
    let name = from.name.as_ref()?;
    let between = Span::new(from.image.span.end, name.span.start);
    let mut at = between.start;
    for line in checker.source(between).split_inclusive('\n') {
        let word = line.trim().trim_end_matches(checker.file.directives.escape).trim();
        if word.eq_ignore_ascii_case("as") {
            let start = at + line.find(word)?;
            return Some(Span::new(start, start + word.len()));
        }
        at += line.len();
    }
    None
}

fn is_lower(text: &str) -> bool {
    text.to_lowercase() == text
}

fn is_upper(text: &str) -> bool {
    text.to_uppercase() == text
}

/// As the reference has it: the case of most keywords counts, upper case if both are as many; arguments above the
/// first `FROM` are neither counted nor checked.
fn keyword_case(checker: &mut Checker<'_>) {
    let mut keywords = Vec::new();
    for stage in &checker.file.stages {
        keywords.push(keyword(&stage.from));
        keywords.extend(stage.instructions.iter().map(|instruction| instruction.keyword));
    }
    let lower = keywords.iter().filter(|span| is_lower(checker.source(**span))).count();
    let upper = keywords.iter().filter(|span| is_upper(checker.source(**span))).count();
    let to_lower = lower > upper;
    for span in keywords {
        let written = checker.source(span).to_owned();
        let (right, case) = match to_lower {
            true => (written.to_lowercase(), "lower"),
            false => (written.to_uppercase(), "upper"),
        };
        if right != written {
            let message = format!("`{written}` is not in {case} case, as most instructions here are");
            checker.advise(Code::ConsistentInstructionCasing, span, message, format!("write `{right}`"));
        }
    }
}
