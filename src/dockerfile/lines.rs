//! From physical lines to logical ones, remembering where every byte came from.
//!
//! A logical line is what stands between two line ends that no escape character joins. Inside it,
//! comment lines and blank lines vanish, as they do for BuildKit. Indentation of continuation lines
//! stays: a shell command may need it.

use std::ops::Range;

use super::ast::{Span, Word};

/// The physical lines of a text, one after the other. Also hands out heredoc bodies.
pub(super) struct Lines<'t> {
    text: &'t str,
    position: usize,
    number: usize,
    /// Blank lines inside continued ones, so far.
    blanks: Vec<Span>,
}

/// A physical line with its line end.
#[derive(Clone, Copy)]
pub(super) struct RawLine<'t> {
    /// Offset of its first byte.
    pub(super) start: usize,
    /// From 1.
    pub(super) number: usize,
    /// The line, line end included.
    pub(super) text: &'t str,
}

impl<'t> RawLine<'t> {
    /// Without `\n`, `\r\n`, or however many carriage returns there are.
    pub(super) fn content(&self) -> &'t str {
        self.text.trim_end_matches(['\r', '\n'])
    }

    /// Offset past the last byte, line end included.
    pub(super) fn end(&self) -> usize {
        self.start + self.text.len()
    }
}

impl<'t> Lines<'t> {
    /// From the top; a byte-order mark is skipped.
    pub(super) fn new(text: &'t str) -> Lines<'t> {
        let position = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Lines { text, position, number: 0, blanks: Vec::new() }
    }

    /// The whole text.
    pub(super) fn text(&self) -> &'t str {
        self.text
    }

    /// The blank lines inside the continued lines that were read.
    pub(super) fn into_blanks(self) -> Vec<Span> {
        self.blanks
    }

    /// The next physical line.
    pub(super) fn next_raw(&mut self) -> Option<RawLine<'t>> {
        let rest = &self.text[self.position..];
        if rest.is_empty() {
            return None;
        }
        let length = rest.find('\n').map_or(rest.len(), |newline| newline + 1);
        let line = RawLine { start: self.position, number: self.number + 1, text: &rest[..length] };
        self.position += length;
        self.number += 1;
        Some(line)
    }

    /// The next line that is neither blank nor a comment, with its continuations joined.
    pub(super) fn next_logical(&mut self, escape: char) -> Option<Logical> {
        let mut comments = Vec::new();
        loop {
            let first = self.next_raw()?;
            let content = first.content().trim_start();
            let start = first.start + (first.content().len() - content.len());
            if let Some(comment) = content.strip_prefix('#') {
                let text = comment.trim();
                if text.is_empty() {
                    comments.clear();
                } else {
                    let start = start + 1 + (comment.len() - comment.trim_start().len());
                    let span = Span::new(start, start + text.len());
                    comments.push(Word { node: text.to_owned(), span });
                }
                continue;
            }
            if content.is_empty() {
                continue;
            }
            let (text, pieces) = (String::new(), Vec::new());
            let mut logical = Logical { text, pieces, line: first.number, comments };
            let mut open = logical.push(content, start, escape);
            while open {
                // A continuation at the end of the file continues with nothing.
                let Some(next) = self.next_raw() else { break };
                let content = next.content();
                let trimmed = content.trim_start();
                if trimmed.is_empty() {
                    self.blanks.push(Span::new(next.start, next.start + content.len()));
                }
                if trimmed.is_empty() || trimmed.starts_with('#') {
                    continue;
                }
                open = logical.push(content, next.start, escape);
            }
            return Some(logical);
        }
    }
}

/// What stands before the escape character, if the line goes on below.
///
/// The escape must be the last character but for blanks, and not itself escaped: BuildKit takes a
/// doubled one at the line's end as text.
fn strip_continuation(line: &str, escape: char) -> Option<&str> {
    let before = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!before.ends_with(escape)).then_some(before)
}

/// Whether a line would go on below.
pub(super) fn ends_in_continuation(line: &str, escape: char) -> bool {
    strip_continuation(line, escape).is_some()
}

/// A joined line and the map back to the text.
#[derive(Debug)]
pub(super) struct Logical {
    /// The joined text.
    pub(super) text: String,
    /// Where each piece begins: in `text`, and in the source. Pieces end on character boundaries.
    pieces: Vec<(usize, usize)>,
    /// Number of the first line, from 1.
    pub(super) line: usize,
    /// The comments above it.
    comments: Vec<Word>,
}

impl Logical {
    /// A line that stands alone, at the start of its text.
    pub(super) fn of(text: &str) -> Logical {
        Logical { text: text.to_owned(), pieces: vec![(0, 0)], line: 1, comments: Vec::new() }
    }

    /// Adds a line's content; true if it is continued.
    fn push(&mut self, content: &str, source: usize, escape: char) -> bool {
        let continued = strip_continuation(content, escape);
        let piece = continued.unwrap_or(content);
        if !piece.is_empty() || self.pieces.is_empty() {
            self.pieces.push((self.text.len(), source));
            self.text.push_str(piece);
        }
        continued.is_some()
    }

    /// The comments above the line; once.
    pub(super) fn take_comments(&mut self) -> Vec<Word> {
        std::mem::take(&mut self.comments)
    }

    /// Everything, as a part.
    pub(super) fn part(&self) -> Part<'_> {
        Part { line: self, start: 0, end: self.text.len() }
    }

    /// The source offset of the byte at `at`.
    fn source(&self, at: usize) -> usize {
        let piece = self.pieces.partition_point(|&(start, _)| start <= at).saturating_sub(1);
        let (start, source) = self.pieces[piece];
        source + (at - start)
    }

    /// Where a range of the joined text stood; it may reach over line ends.
    pub(super) fn span(&self, range: Range<usize>) -> Span {
        let start = self.source(range.start);
        if range.is_empty() {
            // Between two pieces the later one is meant, except at the very end.
            return Span::new(start, start);
        }
        Span::new(start, self.source(range.end - 1) + 1)
    }
}

/// A stretch of a logical line.
#[derive(Clone, Copy)]
pub(super) struct Part<'l> {
    /// The line it belongs to.
    pub(super) line: &'l Logical,
    /// First byte in the joined text.
    pub(super) start: usize,
    /// One past the last byte in the joined text.
    pub(super) end: usize,
}

impl<'l> Part<'l> {
    /// Its text.
    pub(super) fn as_str(self) -> &'l str {
        &self.line.text[self.start..self.end]
    }

    /// Its place in the source.
    pub(super) fn span(self) -> Span {
        self.line.span(self.start..self.end)
    }

    /// Its text and place.
    pub(super) fn word(self) -> Word {
        Word { node: self.as_str().to_owned(), span: self.span() }
    }

    /// A stretch of it, by byte offsets counted from its own start.
    pub(super) fn sub(self, range: Range<usize>) -> Part<'l> {
        Part { line: self.line, start: self.start + range.start, end: self.start + range.end }
    }

    /// From `at` on.
    pub(super) fn from(self, at: usize) -> Part<'l> {
        Part { start: self.start + at, ..self }
    }

    /// Without white space at its ends.
    pub(super) fn trim(self) -> Part<'l> {
        let text = self.as_str();
        let start = self.start + (text.len() - text.trim_start().len());
        Part { line: self.line, start, end: start + text.trim().len() }
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(self) -> bool {
        self.start == self.end
    }
}
