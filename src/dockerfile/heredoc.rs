//! `<<NAME` and the lines it takes from below the instruction.
//!
//! A line is searched for words of the form `[FD]<<[-]NAME`, quotes and escapes understood; `cat<<EOF`
//! is none, since the word begins with something else. That search always takes the backslash for the
//! escape character, and a line whose quotes or braces do not close has no heredocs at all. Both are so in
//! BuildKit. (It searches flags too, in which no word can begin with `<<`; we do not.)

use super::ast::{Heredoc, Span, Spanned};
use super::error::ParseError;
use super::lex::{self, LexError, Mode};
use super::lines::{Lines, Part};

/// What `<<NAME` says, before the body is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opening {
    pub(super) name: String,
    pub(super) fd: Option<u32>,
    pub(super) expand: bool,
    pub(super) chomp: bool,
}

const SEARCH: Mode = Mode {
    escape: '\\',
    quotes: true,
    keep_quotes: true,
    keep_escapes: true,
    keep_unset: true,
    heredocs: true,
    join_lines: false,
};

/// A delimiter: `$NAME` is just its text.
const NAME: Mode = Mode { keep_quotes: false, keep_escapes: false, heredocs: false, ..SEARCH };

/// The heredocs that an instruction's arguments open, in order, with the places of their delimiters.
///
/// # Errors
/// When a delimiter cannot be read.
pub(super) fn openings(args: Part<'_>) -> Result<Vec<(Opening, Span)>, ParseError> {
    if !args.as_str().contains("<<") {
        return Ok(Vec::new());
    }
    let Ok(output) = lex::scan(args.as_str(), SEARCH, &|_| None) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for word in output.words {
        let span = args.sub(word.range.clone()).span();
        match opening(&word.text) {
            Ok(Some(opening)) => found.push((opening, span)),
            Ok(None) => {}
            Err(LexError(problem)) => {
                let message = format!("the heredoc delimiter cannot be read: {problem}");
                return Err(ParseError::new(message, span));
            }
        }
    }
    Ok(found)
}

/// Reads a raw word as the start of a heredoc, if it is one.
pub(super) fn opening(word: &str) -> Result<Option<Opening>, LexError> {
    let after_fd = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let fd = &word[..word.len() - after_fd.len()];
    let Some(rest) = after_fd.strip_prefix("<<") else { return Ok(None) };
    let (rest, chomp) = match rest.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    let rest = rest.trim_start_matches([' ', '\t', '\n', '\u{c}', '\r']);
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let plain = lex::scan(rest, NAME, &|_| None)?;
    let [name] = &plain.words[..] else { return Ok(None) };
    let quoted = lex::scan(rest, Mode { keep_quotes: true, ..NAME }, &|_| None)?;
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Ok(Some(Opening {
        name: name.text.clone(),
        fd: fd.parse().ok(),
        // Quotes that are there only as long as they are kept did quote something.
        expand: quotes(&plain.text) == quotes(&quoted.text),
        chomp,
    }))
}

/// Takes the bodies of `openings` off `lines`, one after the other.
///
/// # Errors
/// When the file ends before a delimiter stands on a line of its own.
pub(super) fn read_bodies(
    openings: Vec<(Opening, Span)>,
    lines: &mut Lines<'_>,
) -> Result<Vec<Heredoc>, ParseError> {
    let mut bodies = Vec::with_capacity(openings.len());
    for (opening, span) in openings {
        bodies.push(read_body(opening, span, lines)?);
    }
    Ok(bodies)
}

fn read_body(opening: Opening, span: Span, lines: &mut Lines<'_>) -> Result<Heredoc, ParseError> {
    let mut body = String::new();
    let mut place: Option<Span> = None;
    let mut near_miss = None;
    while let Some(line) = lines.next_raw() {
        let candidate = line.content();
        let candidate = if opening.chomp { candidate.trim_start_matches('\t') } else { candidate };
        if candidate == opening.name {
            let Opening { name, fd, expand, chomp } = opening;
            let span_of_body = place.unwrap_or(Span::new(line.start, line.start));
            return Ok(Heredoc {
                name: Spanned { node: name, span },
                fd,
                expand,
                chomp,
                body: Spanned { node: body, span: span_of_body },
            });
        }
        if candidate.trim() == opening.name {
            near_miss = near_miss.or(Some(line.number));
        }
        let text = if opening.chomp { line.text.trim_start_matches('\t') } else { line.text };
        body.push_str(text);
        let line_span = Span::new(line.start, line.end());
        place = Some(place.map_or(line_span, |place| place.to(line_span)));
    }
    let name = &opening.name;
    let help = match near_miss {
        Some(number) => format!("line {number} has white space around `{name}`: remove it"),
        None => format!("put `{name}` alone on the line after the last one of the text"),
    };
    Err(ParseError::new(format!("the heredoc `{name}` does not end"), span)
        .with_label("begins here")
        .with_help(help))
}
