//! The JSON form of arguments: `["a", "b"]`.

use serde_json::Value;

use super::ast::{Spanned, Word};
use super::error::ParseError;
use super::lines::Part;

/// The strings of a JSON array, or `None` if the text is not a JSON array at all: then BuildKit takes
/// it as the plain form, just as it stands.
///
/// # Errors
/// When it is an array of something else than strings.
pub(super) fn strings(part: Part<'_>) -> Result<Option<Vec<Word>>, ParseError> {
    let part = part.trim();
    if !part.as_str().starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<Value>>(part.as_str()) else { return Ok(None) };
    let mut words = Vec::with_capacity(values.len());
    let mut places = literals(part).into_iter();
    for value in values {
        let Value::String(node) = value else {
            return Err(ParseError::new("the JSON form takes strings only", part.span())
                .with_help("put every element in double quotes"));
        };
        // In a valid array of nothing but strings, literals and elements are the same things.
        let span = places.next().map_or(part.span(), Part::span);
        words.push(Spanned { node, span });
    }
    Ok(Some(words))
}

/// The string literals in valid JSON, in order, with their quotes.
fn literals(part: Part<'_>) -> Vec<Part<'_>> {
    let mut found = Vec::new();
    let mut open: Option<usize> = None;
    let mut chars = part.as_str().char_indices();
    while let Some((at, c)) = chars.next() {
        match (c, open) {
            ('"', Some(start)) => {
                found.push(part.sub(start..at + 1));
                open = None;
            }
            ('"', None) => open = Some(at),
            ('\\', Some(_)) => {
                chars.next();
            }
            _ => {}
        }
    }
    found
}
