//! The `# key=value` lines at the top of the file.
//!
//! They count only before the first line that is anything else, be it a blank line, a plain comment
//! or an unknown key. From there on they are comments.

use super::ast::{Directives, Span, Spanned, Word};
use super::error::ParseError;
use super::lines::Lines;

/// Reads the directives; gives also the offset at which they end.
///
/// # Errors
/// When one of them is given twice, or `escape` is neither a backslash nor a backtick.
pub(super) fn parse(text: &str) -> Result<(Directives, usize), ParseError> {
    let mut end = 0;
    let mut directives = Directives::default();
    let mut escape_at: Option<Span> = None;
    let mut lines = Lines::new(text);
    while let Some(line) = lines.next_raw() {
        let content = line.content();
        let Some((key, value)) = key_value(content, line.start) else { break };
        let twice = match key.node.as_str() {
            "escape" => {
                let escape = escape_token(&value)?;
                let first = escape_at.replace(key.span);
                directives.escape = escape;
                first.is_some()
            }
            "syntax" => directives.syntax.replace(value).is_some(),
            "check" => directives.check.replace(value).is_some(),
            _ => break,
        };
        if twice {
            let message = format!("the parser directive `{}` is given twice", key.node);
            return Err(ParseError::new(message, key.span).with_help("keep one of them"));
        }
        end = line.end();
    }
    Ok((directives, end))
}

fn escape_token(value: &Word) -> Result<char, ParseError> {
    match value.node.as_str() {
        "\\" => Ok('\\'),
        "`" => Ok('`'),
        other => Err(ParseError::new(format!("`{other}` cannot be the escape character"), value.span)
            .with_help("only a backslash or a backtick can: `# escape=\\` or `` # escape=` ``")),
    }
}

/// Key (in lower case) and value of a directive line, or nothing when the line is none.
fn key_value(content: &str, start: usize) -> Option<(Word, Word)> {
    let line_end = start + content.len();
    let offset = |rest: &str| line_end - rest.len();
    let rest = content.trim_start().strip_prefix('#')?.trim_start();
    let length = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
    let (key, after) = rest.split_at(length);
    if !key.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let key_span = Span::new(offset(rest), offset(rest) + length);
    let value = after.trim_start().strip_prefix('=')?;
    if value.is_empty() {
        return None;
    }
    let value_start = offset(value.trim_start());
    let value = value.trim();
    Some((
        Spanned { node: key.to_lowercase(), span: key_span },
        Spanned { node: value.to_owned(), span: Span::new(value_start, value_start + value.len()) },
    ))
}
