//! What is wrong with a Containerfile, where, and what to write instead.

use super::ast::Span;

/// One error, made to be shown under the line that it is about.
///
/// The parts are separate so that a terminal, JSON and SARIF can each lay them out in their own way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParseError {
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// The place to underline; within the text and on character boundaries.
    pub span: Span,
    /// A few words to stand beside the underline, when they say more than the message.
    pub label: Option<String>,
    /// What to do instead.
    pub help: Option<String>,
}

impl ParseError {
    /// An error with neither label nor help.
    pub fn new(message: impl Into<String>, span: Span) -> ParseError {
        ParseError { message: message.into(), span, label: None, help: None }
    }

    /// The same error with words beside the underline.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>) -> ParseError {
        self.label = Some(label.into());
        self
    }

    /// The same error with advice.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> ParseError {
        self.help = Some(help.into());
        self
    }
}

/// Line and column of a byte offset, both from 1; the column counts characters.
///
/// An offset past the end is taken as the end, one inside a character as that character's start. A
/// byte-order mark at the start of the text takes no column, since no editor shows it.
pub fn line_col(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.bytes().filter(|&b| b == b'\n').count() + 1;
    let column = before[line_start..].chars().filter(|&c| c != '\u{feff}').count() + 1;
    (line, column)
}

/// The candidate that `word` is most likely a misspelling of, if any is near enough.
///
/// Near enough is one edit for short words and a third of the length for longer ones; a swap of two
/// neighbours counts as one edit, since that is how fingers err.
pub(crate) fn closest<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let word = word.to_lowercase();
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .iter()
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), *candidate))
        .filter(|&(edits, _)| edits <= allowed)
        .min_by_key(|&(edits, _)| edits)
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance: insertions, deletions, replacements, neighbour swaps.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    // No keyword or flag is long; an absurd word is simply unlike all of them, at no cost.
    if a.len().abs_diff(b.len()) > 3 {
        return usize::MAX;
    }
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1; b.len() + 1];
        for j in 0..b.len() {
            let replaced = last[j] + usize::from(a[i] != b[j]);
            row[j + 1] = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                row[j + 1] = row[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}
