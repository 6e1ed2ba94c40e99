//! `--name=value` between an instruction's keyword and its arguments.
//!
//! Which flags an instruction has is known here; what their values mean is not.

use super::ast::{Flag, Spanned};
use super::error::{ParseError, closest};
use super::lines::Part;

/// What a flag may look like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// `--name`, `--name=true` or `--name=false`; once.
    Boolean,
    /// `--name=value`; once.
    Value,
    /// `--name=value`; any number of times.
    Values,
}

use Takes::{Boolean, Value, Values};

const FROM: &[(&str, Takes)] = &[("platform", Value)];
const RUN: &[(&str, Takes)] =
    &[("mount", Values), ("network", Value), ("security", Value), ("device", Values)];
const COPY: &[(&str, Takes)] = &[
    ("from", Value),
    ("chown", Value),
    ("chmod", Value),
    ("link", Boolean),
    ("parents", Boolean),
    ("exclude", Values),
];
const ADD: &[(&str, Takes)] = &[
    ("chown", Value),
    ("chmod", Value),
    ("link", Boolean),
    ("keep-git-dir", Boolean),
    ("checksum", Value),
    ("unpack", Boolean),
    ("exclude", Values),
];
const HEALTHCHECK: &[(&str, Takes)] = &[
    ("interval", Value),
    ("timeout", Value),
    ("start-period", Value),
    ("start-interval", Value),
    ("retries", Value),
];
const WITH_FLAGS: &[(&str, &[(&str, Takes)])] =
    &[("FROM", FROM), ("RUN", RUN), ("COPY", COPY), ("ADD", ADD), ("HEALTHCHECK", HEALTHCHECK)];

/// Every flag, behind its instruction.
#[cfg(test)]
pub(crate) fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    WITH_FLAGS.iter().flat_map(|(keyword, flags)| flags.iter().map(move |(name, _)| (*keyword, *name)))
}

fn flags_of(keyword: &str) -> &'static [(&'static str, Takes)] {
    WITH_FLAGS.iter().find(|(name, _)| *name == keyword).map_or(&[], |(_, flags)| flags)
}

/// Takes the flags off the front of an instruction's arguments and checks them against what `keyword`
/// (in capitals) has. Gives the flags and the rest, trimmed.
///
/// Quotes around a value or a part of it are removed, and so is an escape character before another one:
/// flags are read before anything is expanded, as in BuildKit.
///
/// # Errors
/// For an unknown flag, one given twice that may be given once, one without the value it needs.
pub(super) fn take<'l>(
    keyword: &str,
    args: Part<'l>,
    escape: char,
) -> Result<(Vec<Flag>, Part<'l>), ParseError> {
    let known = flags_of(keyword);
    let mut flags: Vec<Flag> = Vec::new();
    let mut rest = args.trim();
    while rest.as_str().starts_with("--") {
        let (word, text) = flag_word(rest, escape);
        rest = rest.from(word.as_str().len()).trim();
        if text == "--" {
            break;
        }
        let flag = split(word, &text);
        check(keyword, known, &flag, word, &flags)?;
        flags.push(flag);
    }
    Ok((flags, rest))
}

/// The first word of `part`, quotes keeping it together, and its text without quotes and escapes.
fn flag_word(part: Part<'_>, escape: char) -> (Part<'_>, String) {
    let mut text = String::new();
    let mut quote: Option<char> = None;
    let mut chars = part.as_str().char_indices();
    let mut end = part.as_str().len();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                end = at;
                break;
            }
            None if matches!(c, '\'' | '"') => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == escape => text.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => text.push(c),
        }
    }
    (part.sub(0..end), text)
}

/// Splits at the first `=`. In the rare flag whose name is quoted the spans cover the whole word.
fn split(word: Part<'_>, text: &str) -> Flag {
    let body = text.strip_prefix("--").unwrap_or(text);
    let Some((name, value)) = body.split_once('=') else {
        return Flag { name: Spanned { node: body.to_owned(), span: name_part(word).span() }, value: None };
    };
    let value_span = match word.as_str().find('=') {
        Some(equals) => word.from(equals + 1).span(),
        None => word.span(),
    };
    Flag {
        name: Spanned { node: name.to_owned(), span: name_part(word).span() },
        value: Some(Spanned { node: value.to_owned(), span: value_span }),
    }
}

/// `--name` of a flag's word.
fn name_part(word: Part<'_>) -> Part<'_> {
    let text = word.as_str();
    word.sub(0..text.find('=').unwrap_or(text.len()))
}

fn check(
    keyword: &str,
    known: &[(&str, Takes)],
    flag: &Flag,
    word: Part<'_>,
    before: &[Flag],
) -> Result<(), ParseError> {
    let name = flag.name.node.as_str();
    let Some(&(_, takes)) = known.iter().find(|(own, _)| *own == name) else {
        return Err(unknown(keyword, known, flag, word));
    };
    let whole = word.span();
    if takes != Values && before.iter().any(|other| other.name.node == name) {
        let message = format!("`--{name}` is given twice");
        return Err(ParseError::new(message, flag.name.span)
            .with_help(format!("{keyword} takes it once: keep one of them")));
    }
    match (takes, &flag.value) {
        (Value | Values, None) => {
            let message = format!("`--{name}` needs a value");
            Err(ParseError::new(message, whole).with_help(format!("write `--{name}=VALUE`")))
        }
        (Boolean, Some(value)) if !is_boolean(&value.node) => {
            let message = format!("`--{name}` is either true or false");
            Err(ParseError::new(message, value.span)
                .with_help(format!("write `--{name}`, or `--{name}=false`")))
        }
        _ => Ok(()),
    }
}

fn is_boolean(value: &str) -> bool {
    value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false")
}

fn unknown(keyword: &str, known: &[(&str, Takes)], flag: &Flag, word: Part<'_>) -> ParseError {
    let name = flag.name.node.as_str();
    let span = if name.is_empty() { word.span() } else { flag.name.span };
    let error = ParseError::new(format!("{keyword} has no flag `--{name}`"), span);
    let names: Vec<&str> = known.iter().map(|(own, _)| *own).collect();
    if let Some(near) = closest(name, &names) {
        return error.with_help(format!("did you mean `--{near}`?"));
    }
    let elsewhere: Vec<&str> = WITH_FLAGS
        .iter()
        .filter(|(_, flags)| flags.iter().any(|(own, _)| *own == name))
        .map(|(keyword, _)| *keyword)
        .collect();
    if !elsewhere.is_empty() {
        return error.with_help(format!("that is a flag of {}", elsewhere.join(" and ")));
    }
    if names.is_empty() {
        return error.with_help(format!(
            "{keyword} has no flags; for an argument that begins with two dashes write `{keyword} -- --{name}`"
        ));
    }
    error.with_help(format!("{keyword} has --{}", names.join(", --")))
}
