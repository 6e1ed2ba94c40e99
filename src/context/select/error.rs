//! What can go wrong when sources are selected, and what may explain it.

use std::fmt;
use std::io;

use super::shown;
use crate::context::directory::IgnoreLine;
use crate::context::tree::SourceTree;
use crate::dockerfile::glob::BadPattern;
use crate::dockerfile::ignore::IgnoreProblem;

/// Why sources could not be selected or read.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// A source that is not there. [`SelectError::hint`] may know more.
    #[error("\"{source_word}\" not found in {tree}")]
    NotFound {
        /// The source as it was written.
        source_word: String,
        /// How the tree is called.
        tree: String,
        /// What may explain it.
        why: Option<Hint>,
    },
    /// The way to a source goes through something that is no directory.
    #[error("\"{source_word}\" not found in {tree}: \"{path}\" is not a directory")]
    NotADirectory {
        /// The source as it was written.
        source_word: String,
        /// How the tree is called.
        tree: String,
        /// What is in the way.
        path: String,
    },
    /// A source leads through links that lead to each other.
    #[error("\"{source_word}\" in {tree} leads through too many symbolic links")]
    Loop {
        /// The source as it was written.
        source_word: String,
        /// How the tree is called.
        tree: String,
    },
    /// A wildcard that is none.
    #[error("\"{source_word}\": {source}")]
    Pattern {
        /// The source as it was written.
        source_word: String,
        /// What is wrong.
        source: BadPattern,
    },
    /// An `--exclude` that is no pattern.
    #[error("--exclude `{pattern}`: {source}")]
    Exclude {
        /// The value as it was written.
        pattern: String,
        /// What is wrong.
        source: IgnoreProblem,
    },
    /// Several sources and one destination.
    #[error("several sources need a directory as destination: write `{dest}/` instead of `{dest}`")]
    SeveralToOne {
        /// The destination as it was written.
        dest: String,
    },
    /// Something cannot be read.
    #[error("cannot read \"{path}\" in {tree}: {source}")]
    Io {
        /// Its path in the tree.
        path: String,
        /// How the tree is called.
        tree: String,
        /// Why.
        source: io::Error,
    },
    /// A file was written to while it was read.
    #[error("\"{path}\" in {tree} changed while it was being read; build again when it is complete")]
    Changed {
        /// Its path in the tree.
        path: String,
        /// How the tree is called.
        tree: String,
    },
}

/// What may explain that a source was not found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// The ignore file leaves it out.
    Excluded(IgnoreLine),
    /// A name like it is there.
    DidYouMean(String),
    /// It is a link, and this place, where it leads, is not there.
    DanglingLink(String),
    /// It lies above the context, as it is written.
    Above,
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hint::Above => f.write_str(
                "nothing above the context can be copied: pass --build-context NAME=DIR, and COPY --from=NAME",
            ),
            Hint::Excluded(line) => {
                write!(f, "it is excluded by line {} of {}, `{}`", line.number, line.file, line.pattern)
            }
            Hint::DidYouMean(name) => write!(f, "did you mean \"{name}\"?"),
            Hint::DanglingLink(target) => {
                write!(f, "it is or leads through a symbolic link to \"{target}\", which is not there")
            }
        }
    }
}

impl SelectError {
    /// The source that is to blame, as it was written.
    pub fn source_word(&self) -> Option<&str> {
        match self {
            SelectError::NotFound { source_word, .. }
            | SelectError::NotADirectory { source_word, .. }
            | SelectError::Loop { source_word, .. }
            | SelectError::Pattern { source_word, .. } => Some(source_word),
            _ => None,
        }
    }

    /// What may explain the error, for a line of its own.
    pub fn hint(&self) -> Option<String> {
        match self {
            SelectError::NotFound { why, .. } => why.as_ref().map(Hint::to_string),
            SelectError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("make it readable for the user who builds, or list it in .dockerignore".to_owned())
            }
            _ => None,
        }
    }

    pub(in crate::context) fn io(tree: &SourceTree, path: &[u8], source: io::Error) -> SelectError {
        if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
            || source.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32)
        {
            // It was there when its directory was listed.
            return SelectError::Changed { path: shown(path), tree: tree.name().to_owned() };
        }
        SelectError::Io { path: shown(path), tree: tree.name().to_owned(), source }
    }
}
