//! What is wanted of a directory that is copied: the patterns of `--exclude`, and the one that a source of
//! `--parents` is.
//!
//! Paths are relative to the directory. The patterns are those of ignore files, as in BuildKit.

use super::select::SelectError;
use crate::dockerfile::IgnoreFile;
use crate::dockerfile::glob::BadPattern;
use crate::dockerfile::ignore::{Above, IgnoreProblem};

/// Which paths are wanted.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    /// `None` wants all.
    include: Option<IgnoreFile>,
    exclude: IgnoreFile,
}

/// What the entries of a directory have to know of the patterns.
#[derive(Debug, Clone, Default)]
pub(super) struct Way {
    include: Above,
    exclude: Above,
    excluded: bool,
}

impl Wanted {
    /// All but what these patterns match.
    pub(super) fn excluding(patterns: &[Vec<u8>]) -> Result<Wanted, SelectError> {
        let exclude = IgnoreFile::from_patterns(patterns).map_err(|error| {
            let bad = patterns.get(error.line.saturating_sub(1)).map_or(&b""[..], Vec::as_slice);
            SelectError::Exclude { pattern: String::from_utf8_lossy(bad).into_owned(), source: error.problem }
        })?;
        Ok(Wanted { include: None, exclude })
    }

    /// Only what `pattern` matches, with all below it; the empty one matches all.
    pub(super) fn including(mut self, pattern: &[u8]) -> Result<Wanted, BadPattern> {
        if pattern.is_empty() {
            return Ok(self);
        }
        // A source is never an exception from another.
        let literal = if pattern.starts_with(b"!") { &b"\\"[..] } else { b"" };
        match IgnoreFile::from_patterns([[literal, pattern].concat()]) {
            Ok(include) => self.include = Some(include),
            Err(error) => match error.problem {
                IgnoreProblem::Pattern(bad) => return Err(bad),
                IgnoreProblem::EmptyException => {}
            },
        }
        Ok(self)
    }

    /// Whether there is nothing that is not wanted.
    pub(super) fn is_all(&self) -> bool {
        self.include.is_none() && self.exclude.is_empty()
    }

    /// Whether `path` is wanted, given what is known of the directory it is in; and what its own entries
    /// have to know.
    pub(super) fn check(&self, above: &Way, path: &[u8]) -> (bool, Way) {
        let (included, include) = match &self.include {
            Some(patterns) => patterns.check(&above.include, path),
            None => (true, Above::default()),
        };
        let (excluded, exclude) = match self.exclude.is_empty() {
            true => (false, Above::default()),
            false => self.exclude.check(&above.exclude, path),
        };
        (included && !excluded, Way { include, exclude, excluded })
    }

    /// Whether something below the directory `path`, which is not wanted itself, may be. `way` is what
    /// [`check`](Wanted::check) gave for it. Never wrongly no.
    pub(super) fn may_want_below(&self, way: &Way, path: &[u8]) -> bool {
        let included = self.include.as_ref().is_none_or(|patterns| {
            // Matched, with all below, or perhaps matched further down.
            way.include.any() || patterns.match_below(path)
        });
        included && (!way.excluded || self.exclude.exception_below(path))
    }

    /// Whether a pattern of `--exclude` matches this name.
    pub(super) fn excludes(&self, name: &[u8]) -> bool {
        !self.exclude.is_empty() && self.exclude.matches(name)
    }
}
