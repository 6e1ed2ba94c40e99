//! Splitting the arguments of an instruction into raw words.

use super::lines::Part;

/// White space between the words of an instruction.
///
/// Narrower than Unicode's: a no-break space is part of a word, which the error for an unknown
/// instruction makes visible.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// The first blank-separated word, and what follows the blanks after it.
pub(super) fn first_word(part: Part<'_>) -> (Part<'_>, Part<'_>) {
    let text = part.as_str();
    let end = text.find(is_blank).unwrap_or(text.len());
    let rest = text[end..].trim_start_matches(is_blank);
    (part.sub(0..end), part.from(text.len() - rest.len()))
}

/// All blank-separated words; quotes mean nothing here (`COPY`, `ADD`, `VOLUME`, `EXPOSE`, `FROM`).
pub(super) fn blank_separated(part: Part<'_>) -> Vec<Part<'_>> {
    let mut words = Vec::new();
    let mut rest = part.trim();
    while !rest.is_empty() {
        let (word, after) = first_word(rest);
        // A line can only begin with a blank of the other kind after `trim`, never with one of ours.
        words.push(word);
        rest = after;
    }
    words
}

/// Words in which quotes and the escape character keep white space together (`ENV`, `LABEL`, `ARG`).
/// The quotes and escapes stay in the words. An escape character at the very end is dropped.
pub(super) fn quoted_words(part: Part<'_>, escape: char) -> Vec<Part<'_>> {
    let text = part.as_str();
    let mut words = Vec::new();
    let mut start: Option<usize> = None;
    let mut quote: Option<char> = None;
    let mut end = text.len();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if start.is_none() {
            if c.is_whitespace() {
                continue;
            }
            start = Some(at);
        }
        if c == escape && quote != Some('\'') {
            // Whatever is escaped belongs to the word, be it a blank or a quote.
            if chars.next().is_none() {
                end = at;
            }
        } else if let Some(open) = quote {
            if c == open {
                quote = None;
            }
        } else if c == '\'' || c == '"' {
            quote = Some(c);
        } else if c.is_whitespace() {
            words.extend(start.take().map(|start| part.sub(start..at)));
        }
    }
    words.extend(start.filter(|&start| start < end).map(|start| part.sub(start..end)));
    words
}
