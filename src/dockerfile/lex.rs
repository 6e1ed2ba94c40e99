//! The scanner under [`super::words`]: quotes, escapes and `$variables`, as BuildKit's `shell.Lex`.
//!
//! It resembles a POSIX shell and is not one: there is no command substitution, `$1` and `$@` are
//! looked up like any name, and outside quotes an escape character goes away whatever follows it.
//! One scanner serves three readers, told apart by [`Mode`]: words of instructions, heredoc bodies, and
//! the search for heredocs in a line.

use std::collections::HashSet;
use std::ops::Range;

use super::pattern::ShellPattern;

/// How deep `${a:-${b:-…}}` may go. The reference has no limit, its stack grows; ours does not.
const MAX_NESTING: usize = 100;

/// How many bytes a text may grow by when it is expanded. A few nested replacements, each of which puts its
/// result in several places, would otherwise fill any memory.
const MAX_GROWTH: usize = 1 << 20;

/// The most steps that matching a pattern may take: half a second or so.
const MAX_EFFORT: usize = 1 << 27;

/// What the scanner does with quotes, escapes and unset variables.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mode {
    /// The escape character.
    pub(super) escape: char,
    /// Whether quotes quote; if not, they are ordinary characters.
    pub(super) quotes: bool,
    /// Whether quotes that quote stay in the result.
    pub(super) keep_quotes: bool,
    /// Whether escape characters stay in the result.
    pub(super) keep_escapes: bool,
    /// Whether an unset variable stays as it is written, instead of becoming nothing.
    pub(super) keep_unset: bool,
    /// Whether blanks after `<<` belong to its word.
    pub(super) heredocs: bool,
    /// Whether an escaped line end vanishes.
    pub(super) join_lines: bool,
}

impl Mode {
    /// For words of instructions.
    pub(super) fn word(escape: char) -> Mode {
        Mode {
            escape,
            quotes: true,
            keep_quotes: false,
            keep_escapes: false,
            keep_unset: false,
            heredocs: false,
            join_lines: false,
        }
    }
}

/// What cannot be scanned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LexError(pub(super) String);

impl LexError {
    fn new<T>(message: impl Into<String>) -> Result<T, LexError> {
        Err(LexError(message.into()))
    }
}

/// A word of the result and where in the input it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scanned {
    pub(super) text: String,
    pub(super) range: Range<usize>,
}

/// The result: as one string, and split at white space that was neither quoted nor escaped.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) text: String,
    pub(super) words: Vec<Scanned>,
    /// The word under way; empty when there is none. That an empty quoted word is dropped when the
    /// result is split is the reference's rule.
    word: String,
    word_start: usize,
    word_end: usize,
}

impl Output {
    /// Adds text that never splits.
    fn solid(&mut self, text: &str, place: Range<usize>) {
        self.text.push_str(text);
        if self.word.is_empty() {
            self.word_start = place.start;
        }
        self.word.push_str(text);
        self.word_end = place.end;
    }

    /// Adds text in which white space splits.
    fn loose(&mut self, text: &str, place: Range<usize>) {
        self.text.push_str(text);
        for c in text.chars() {
            if c.is_whitespace() {
                self.finish_word();
                continue;
            }
            if self.word.is_empty() {
                self.word_start = place.start;
            }
            self.word.push(c);
            self.word_end = place.end;
        }
    }

    fn finish_word(&mut self) {
        if !self.word.is_empty() {
            let text = std::mem::take(&mut self.word);
            self.words.push(Scanned { text, range: self.word_start..self.word_end });
        }
    }
}

/// The scanner. `lookup` gives a variable's value.
pub(super) struct Lexer<'a> {
    text: &'a str,
    position: usize,
    mode: Mode,
    keep_escapes: bool,
    depth: usize,
    /// The most bytes that the result, or any part of it on the way, may have.
    limit: usize,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    /// Names that had no value where one was asked for without an alternative.
    unset: Vec<String>,
}

/// Scans all of `text`.
pub(super) fn scan(
    text: &str,
    mode: Mode,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Output, LexError> {
    scan_noting_unset(text, mode, lookup).0
}

/// As [`scan`], and also the names that had neither a value nor an alternative, each once.
pub(super) fn scan_noting_unset(
    text: &str,
    mode: Mode,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> (Result<Output, LexError>, Vec<String>) {
    let keep_escapes = mode.keep_escapes;
    let limit = text.len() + MAX_GROWTH;
    let mut lexer =
        Lexer { text, position: 0, mode, keep_escapes, depth: 0, limit, lookup, unset: Vec::new() };
    let result = lexer.until(None);
    let mut seen = HashSet::new();
    lexer.unset.retain(|name| seen.insert(name.clone()));
    (result, lexer.unset)
}

impl<'a> Lexer<'a> {
    fn peek(&self) -> Option<char> {
        self.text[self.position..].chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.position += c.len_utf8();
        Some(c)
    }

    /// Scans up to and past `stop`, or to the end when there is none.
    fn until(&mut self, stop: Option<char>) -> Result<Output, LexError> {
        let mut out = Output::default();
        while let Some(c) = self.peek() {
            let start = self.position;
            if Some(c) == stop {
                self.bump();
                out.finish_word();
                return Ok(out);
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    self.check_length(out.text.len() + value.len())?;
                    out.loose(&value, start..self.position);
                }
                '\'' if self.mode.quotes => {
                    let value = self.single_quoted()?;
                    out.solid(&value, start..self.position);
                }
                '"' if self.mode.quotes => {
                    let value = self.double_quoted()?;
                    self.check_length(out.text.len() + value.len())?;
                    out.solid(&value, start..self.position);
                }
                '<' if self.mode.heredocs => {
                    self.heredoc_sign();
                    let sign = &self.text[start..self.position];
                    out.solid(sign, start..self.position);
                }
                _ if c == self.mode.escape => self.escaped(&mut out),
                _ => {
                    self.bump();
                    out.loose(c.encode_utf8(&mut [0; 4]), start..self.position);
                }
            }
        }
        match stop {
            Some(stop) => LexError::new(format!("`{stop}` is missing")),
            None => {
                out.finish_word();
                Ok(out)
            }
        }
    }

    fn check_length(&self, length: usize) -> Result<(), LexError> {
        if length > self.limit { too_long() } else { Ok(()) }
    }

    /// An escape character outside quotes: the next one loses its meaning, at the end it means nothing.
    fn escaped(&mut self, out: &mut Output) {
        let start = self.position;
        self.bump();
        if self.keep_escapes {
            out.solid(&self.text[start..self.position], start..self.position);
        }
        let at = self.position;
        match self.bump() {
            Some('\n') if self.mode.join_lines => {}
            Some(_) => out.solid(&self.text[at..self.position], at..self.position),
            None => {}
        }
    }

    /// `<` or `<<` with the blanks after it.
    fn heredoc_sign(&mut self) {
        self.bump();
        if self.peek() == Some('<') {
            self.bump();
            while self.peek().is_some_and(|c| matches!(c, ' ' | '\t' | '\r' | '\n')) {
                self.bump();
            }
        }
    }

    fn single_quoted(&mut self) -> Result<String, LexError> {
        let start = self.position;
        self.bump();
        let Some(length) = self.text[self.position..].find('\'') else {
            self.position = self.text.len();
            return LexError::new("the closing single quote is missing");
        };
        let inside = self.position..self.position + length;
        self.position = inside.end + 1;
        let kept = if self.mode.keep_quotes { start..self.position } else { inside };
        Ok(self.text[kept].to_owned())
    }

    fn double_quoted(&mut self) -> Result<String, LexError> {
        let mut value = String::new();
        let quote = self.bump();
        if self.mode.keep_quotes {
            value.extend(quote);
        }
        loop {
            let Some(c) = self.peek() else {
                return LexError::new("the closing double quote is missing");
            };
            if c == '$' {
                let inner = self.dollar()?;
                self.check_length(value.len() + inner.len())?;
                value.push_str(&inner);
                continue;
            }
            self.bump();
            if c == '"' {
                if self.mode.keep_quotes {
                    value.push(c);
                }
                return Ok(value);
            }
            if c != self.mode.escape {
                value.push(c);
                continue;
            }
            // Only these three can be escaped here; before anything else the escape is text.
            let next = self.peek();
            let special = next.filter(|&next| matches!(next, '"' | '$') || next == c);
            if self.keep_escapes {
                value.push(c);
            }
            // Where escapes are kept, one that is text is there twice: in a pattern it means itself.
            value.push(special.unwrap_or(c));
            if special.is_some() {
                self.bump();
            }
        }
    }

    /// `$name`, `${…}`, or a dollar sign that means nothing.
    fn dollar(&mut self) -> Result<String, LexError> {
        let start = self.position;
        self.bump();
        if self.peek() != Some('{') {
            let name = self.name();
            return Ok(if name.is_empty() { "$".to_owned() } else { self.plain(name, start) });
        }
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return LexError::new("`${…}` is nested too deep");
        }
        let value = self.braced(start);
        self.depth -= 1;
        value
    }

    fn braced(&mut self, start: usize) -> Result<String, LexError> {
        self.bump();
        match self.peek() {
            None => return LexError::new("`}` is missing"),
            Some('{' | '}' | ':') => return LexError::new("`${` must be followed by a name"),
            Some(_) => {}
        }
        let name = self.name();
        match self.bump() {
            None => LexError::new("`}` is missing"),
            Some('}') => Ok(self.plain(name, start)),
            Some(':') => match self.bump() {
                Some(operator @ ('+' | '-' | '?' | '#' | '%')) => self.modified(start, name, operator, true),
                // Where an unset variable stays as it is written, what would have become of it does not matter.
                Some(_) if self.mode.keep_unset && (self.lookup)(name).is_none() => {
                    self.operand('}', self.keep_escapes)?;
                    Ok(self.text[start..self.position].to_owned())
                }
                Some(other) => unsupported(&format!(":{other}")),
                None => LexError::new("`}` is missing"),
            },
            Some(operator @ ('+' | '-' | '?' | '#' | '%')) => self.modified(start, name, operator, false),
            Some('/') => self.replaced(start, name),
            Some(other) => unsupported(&other.to_string()),
        }
    }

    /// A variable without modifier: its value, or nothing.
    fn plain(&mut self, name: &str, start: usize) -> String {
        match (self.lookup)(name) {
            Some(value) => value,
            None => self.missing(name, start),
        }
    }

    /// What stands for a variable that is not set.
    fn missing(&mut self, name: &str, start: usize) -> String {
        if self.mode.keep_unset {
            return self.text[start..self.position].to_owned();
        }
        self.unset.push(name.to_owned());
        String::new()
    }

    /// The rest of a `${…}` up to `stop`, which is missing when the text ends first.
    fn operand(&mut self, stop: char, keep_escapes: bool) -> Result<String, LexError> {
        let outer = std::mem::replace(&mut self.keep_escapes, keep_escapes);
        let result = self.until(Some(stop));
        self.keep_escapes = outer;
        Ok(result?.text)
    }

    /// `${name-word}` and its kin; with a colon an empty value counts as none.
    fn modified(
        &mut self,
        start: usize,
        name: &'a str,
        operator: char,
        colon: bool,
    ) -> Result<String, LexError> {
        let is_pattern = matches!(operator, '#' | '%');
        let word = self.operand('}', is_pattern)?;
        let value = (self.lookup)(name);
        if value.is_none() && self.mode.keep_unset {
            return Ok(self.text[start..self.position].to_owned());
        }
        let usable = value.as_deref().filter(|value| !(colon && value.is_empty()));
        match operator {
            '-' => Ok(usable.map_or(word, str::to_owned)),
            '+' => Ok(if usable.is_some() { word } else { String::new() }),
            '?' => match (usable, value.is_some()) {
                (Some(usable), _) => Ok(usable.to_owned()),
                (None, _) if !word.is_empty() => LexError::new(format!("{name}: {word}")),
                (None, false) => LexError::new(format!("{name}: is not allowed to be unset")),
                (None, true) => LexError::new(format!("{name}: is not allowed to be empty")),
            },
            _ => {
                let (pattern, longest) = match word.strip_prefix(operator) {
                    Some(pattern) => (pattern, true),
                    None => (word.as_str(), false),
                };
                let pattern = parse_pattern(pattern)?;
                let value = value.unwrap_or_else(|| self.missing(name, start));
                check_effort(&pattern, &value)?;
                Ok(if operator == '#' {
                    pattern.without_prefix(&value, longest)
                } else {
                    pattern.without_suffix(&value, longest)
                })
            }
        }
    }

    /// `${name/pattern/replacement}`, or `//` for every occurrence.
    fn replaced(&mut self, start: usize, name: &'a str) -> Result<String, LexError> {
        let all = self.peek() == Some('/');
        if all {
            self.bump();
        }
        let pattern = self.operand('/', true)?;
        let replacement = self.operand('}', true)?;
        let value = (self.lookup)(name);
        if value.is_none() && self.mode.keep_unset {
            return Ok(self.text[start..self.position].to_owned());
        }
        let pattern = parse_pattern(&pattern)?;
        let value = value.unwrap_or_else(|| self.missing(name, start));
        check_effort(&pattern, &value)?;
        pattern.replace(&value, &replacement, all, self.limit).map_or_else(too_long, Ok)
    }

    /// A variable's name: letters, digits and underscores, or only digits, or one of the shell's special
    /// parameters. Empty if there is none.
    fn name(&mut self) -> &'a str {
        let rest = &self.text[self.position..];
        let length = match rest.chars().next() {
            Some(c) if c.is_ascii_digit() => rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len()),
        };
        self.position += length;
        &rest[..length]
    }
}

fn too_long<T>() -> Result<T, LexError> {
    LexError::new("it becomes too long")
}

fn check_effort(pattern: &ShellPattern, value: &str) -> Result<(), LexError> {
    if pattern.effort(value) > MAX_EFFORT {
        return LexError::new("to match the pattern would take too long");
    }
    Ok(())
}

fn unsupported(modifier: &str) -> Result<String, LexError> {
    LexError::new(format!("the modifier `{modifier}` is not supported in `${{…}}`"))
}

fn parse_pattern(pattern: &str) -> Result<ShellPattern, LexError> {
    ShellPattern::parse(pattern)
        .map_err(|problem| LexError(format!("the pattern `{pattern}` is not valid: {problem}")))
}
