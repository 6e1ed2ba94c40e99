//! Patterns that leave files out: `.dockerignore`, and `COPY --exclude`.
//!
//! The rules are those of moby's patternmatcher as the builder's directory walk uses it. A pattern matches
//! whole paths from the root of the context; what it matches is left out together with everything below,
//! until a pattern further down that begins with `!` brings some of it back. The last match decides, with a
//! subtlety that [`Above`] keeps: a pattern is looked at only where it would change something, and
//! whether a directory matched is remembered from that look.
//!
//! Paths are bytes with slashes between names, without one at either end, and clean: no `.`, no `..`.

use super::glob::{BadPattern, Glob};

/// A list of patterns.
#[derive(Debug, Clone, Default)]
pub struct IgnoreFile {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone)]
struct Pattern {
    /// Whether it brings back what others leave out.
    exception: bool,
    /// Cleaned, without the `!`.
    text: Vec<u8>,
    matcher: Matcher,
}

#[derive(Debug, Clone)]
enum Matcher {
    Glob(Glob),
    /// `**` directly before plain text means any path that ends in it: `**foo` matches `a/xfoo`. With any
    /// wildcard further on it would not; so it is in the reference.
    Suffix(Vec<u8>),
}

/// A line of an ignore file that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct IgnoreError {
    /// Line number from 1; for a list of patterns, which one.
    pub line: usize,
    /// What is wrong.
    pub problem: IgnoreProblem,
}

/// What can be wrong with an ignore pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreProblem {
    /// `!` alone.
    #[error("`!` must be followed by a pattern")]
    EmptyException,
    /// Not a pattern.
    #[error(transparent)]
    Pattern(#[from] BadPattern),
}

/// Which patterns matched a directory or one above it: what a walk hands down from a directory to its
/// entries. The default is that of the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Above {
    matched: Vec<bool>,
}

impl Above {
    /// Whether any pattern matched.
    pub fn any(&self) -> bool {
        self.matched.contains(&true)
    }
}

impl IgnoreFile {
    /// Reads an ignore file: one pattern a line; lines that begin with `#` are comments; white space around
    /// a pattern and a slash before it do not count.
    ///
    /// # Errors
    /// When a line is `!` alone or not a valid pattern.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<IgnoreFile, IgnoreError> {
        let text = text.as_ref();
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut patterns = Vec::new();
        for (number, line) in (1..).zip(text.split(|&byte| byte == b'\n')) {
            if line.starts_with(b"#") {
                continue;
            }
            let (mark, pattern): (&[u8], _) = match trim(line) {
                [] => continue,
                [b'!', pattern @ ..] => (b"!", trim(pattern)),
                pattern => (b"", pattern),
            };
            let cleaned = if pattern.is_empty() { Vec::new() } else { clean(pattern) };
            let relative = match &cleaned[..] {
                [b'/', relative @ ..] if !relative.is_empty() => relative,
                cleaned => cleaned,
            };
            patterns.extend(Pattern::read(number, &[mark, relative].concat())?);
        }
        Ok(IgnoreFile { patterns })
    }

    /// A list of patterns that are not from a file, as those of `COPY --exclude`: white space around them
    /// does not count, empty ones are skipped, and a slash at the start stays.
    ///
    /// # Errors
    /// As for [`parse`](IgnoreFile::parse).
    pub fn from_patterns<P: AsRef<[u8]>>(
        patterns: impl IntoIterator<Item = P>,
    ) -> Result<IgnoreFile, IgnoreError> {
        let mut list = Vec::new();
        for (number, pattern) in (1..).zip(patterns) {
            list.extend(Pattern::read(number, pattern.as_ref())?);
        }
        Ok(IgnoreFile { patterns: list })
    }

    /// Whether a pattern with `!` brings something back that another leaves out.
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.exception)
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether `path` is left out. The reference makes no difference between files and directories.
    ///
    /// A walk over a large tree does better with [`check`](IgnoreFile::check), which does not start from
    /// the root each time.
    pub fn matches(&self, path: &[u8]) -> bool {
        let mut above = Above::default();
        for (at, _) in path.iter().enumerate().filter(|&(_, &byte)| byte == b'/') {
            above = self.check(&above, &path[..at]).1;
        }
        self.check(&above, path).0
    }

    /// Whether `path` is left out, given what is known of the directory that it is in; and what the entries
    /// of `path`, if it is a directory, have to know.
    pub fn check(&self, above: &Above, path: &[u8]) -> (bool, Above) {
        let mut excluded = false;
        let mut matched = Vec::with_capacity(self.patterns.len());
        for (i, pattern) in self.patterns.iter().enumerate() {
            let inherited = above.matched.get(i).copied().unwrap_or(false);
            let matches = inherited || (pattern.exception == excluded && pattern.matches(path));
            matched.push(matches);
            if matches {
                excluded = !pattern.exception;
            }
        }
        (excluded, Above { matched })
    }

    /// Whether a walk must look into the directory `dir`: it is not left out, or something below it may be
    /// brought back. (The directory itself then comes back only if something below it does.)
    pub fn may_descend(&self, dir: &[u8]) -> bool {
        !self.matches(dir) || self.exception_below(dir)
    }

    /// Whether a pattern without `!` may match something below `dir`. Never wrongly no.
    pub fn match_below(&self, dir: &[u8]) -> bool {
        self.patterns.iter().any(|pattern| !pattern.exception && pattern.may_match_below(dir))
    }

    /// Whether a `!` pattern may match something below `dir`. Never wrongly no.
    pub fn exception_below(&self, dir: &[u8]) -> bool {
        self.patterns.iter().any(|pattern| pattern.exception && pattern.may_match_below(dir))
    }
}

impl Pattern {
    /// Reads a pattern with its `!`. The mark is looked for after cleaning, so `./!a` is an exception too.
    fn read(line: usize, text: &[u8]) -> Result<Option<Pattern>, IgnoreError> {
        let text = trim(text);
        if text.is_empty() {
            return Ok(None);
        }
        let cleaned = clean(text);
        let pattern = match &cleaned[..] {
            b"!" => Err(IgnoreProblem::EmptyException),
            [b'!', pattern @ ..] => Pattern::new(true, pattern).map_err(IgnoreProblem::from),
            pattern => Pattern::new(false, pattern).map_err(IgnoreProblem::from),
        };
        pattern.map(Some).map_err(|problem| IgnoreError { line, problem })
    }

    fn new(exception: bool, text: &[u8]) -> Result<Pattern, BadPattern> {
        // Also where `**` makes it a suffix: what is no pattern is refused.
        let glob = Glob::spanning(text)?;
        let special = |byte: &u8| matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\');
        let matcher = match text.strip_prefix(b"**") {
            Some(plain @ [first, ..]) if *first != b'/' && !plain.iter().any(special) => {
                Matcher::Suffix(plain.to_owned())
            }
            _ => Matcher::Glob(glob),
        };
        Ok(Pattern { exception, text: text.to_owned(), matcher })
    }

    fn matches(&self, path: &[u8]) -> bool {
        match &self.matcher {
            Matcher::Glob(glob) => glob.matches(path),
            Matcher::Suffix(suffix) => path.ends_with(suffix),
        }
    }

    /// Compares name by name, and says yes as soon as it cannot tell.
    fn may_match_below(&self, dir: &[u8]) -> bool {
        let mut names = self.text.split(|&byte| byte == b'/');
        for entry in dir.split(|&byte| byte == b'/') {
            let Some(name) = names.next() else { return false };
            // `**` spans names; brackets and escapes may hold a slash.
            let unclear = |name: &[u8]| {
                name.windows(2).any(|pair| pair == b"**")
                    || name.iter().any(|byte| matches!(byte, b'[' | b'\\'))
            };
            if unclear(name) {
                return true;
            }
            if !Glob::new(name).is_ok_and(|glob| glob.matches(entry)) {
                return false;
            }
        }
        // Only a longer pattern reaches below.
        names.next().is_some()
    }
}

fn trim(bytes: &[u8]) -> &[u8] {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.trim().as_bytes(),
        Err(_) => bytes.trim_ascii(),
    }
}

/// The shortest path that means the same, by names alone, as Go's `filepath.Clean`: `.` for nothing, no
/// slash at the end, no `.`, and `..` only at the start.
fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.starts_with(b"/");
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." if names.last().is_some_and(|last| *last != b"..") => {
                names.pop();
            }
            b".." if rooted => {}
            name => names.push(name),
        }
    }
    let joined = names.join(&b'/');
    match (rooted, joined.is_empty()) {
        (true, _) => [b"/", &joined[..]].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}
