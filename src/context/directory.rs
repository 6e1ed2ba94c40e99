//! A directory as build context, and the file that says what of it does not belong to it.

use std::io;
use std::path::{Path, PathBuf};

use cooper_runtime::in_root;
use cooper_runtime::sys::fs;

use super::tree::SourceTree;
use crate::dockerfile::IgnoreFile;
use crate::dockerfile::ignore::IgnoreError;

/// The ignore files of a context, the first that is there: the second name is podman's.
pub const GENERAL: [&str; 2] = [".dockerignore", ".containerignore"];

/// More than anybody writes by hand; a context may come from strangers.
const IGNORE_FILE_LIMIT: u64 = 16 << 20;

/// What can be wrong with a build context.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The directory cannot be opened.
    #[error("cannot open the build context {}: {source}", path.display())]
    Open {
        /// The directory as it was given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An ignore file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    ReadIgnore {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An ignore file has a line that is no pattern.
    #[error("{}, {source}", path.display())]
    Ignore {
        /// The file.
        path: PathBuf,
        /// Which line, and why.
        source: IgnoreError,
    },
}

/// The patterns of an ignore file, with what it takes to tell which of them left a file out.
#[derive(Debug, Clone, Default)]
pub struct IgnoreRules {
    patterns: IgnoreFile,
    /// As messages call the file.
    name: String,
    text: Vec<u8>,
}

/// A line of an ignore file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoreLine {
    /// The ignore file, as messages call it.
    pub file: String,
    /// The line's number, from 1.
    pub number: usize,
    /// What it says.
    pub pattern: String,
}

impl IgnoreRules {
    /// Rules that leave nothing out.
    pub fn none() -> IgnoreRules {
        IgnoreRules::default()
    }

    /// Reads the text of an ignore file; messages will call it `name`.
    ///
    /// # Errors
    /// When a line is no pattern.
    pub fn parse(name: impl Into<String>, text: impl Into<Vec<u8>>) -> Result<IgnoreRules, IgnoreError> {
        let text = text.into();
        Ok(IgnoreRules { patterns: IgnoreFile::parse(&text)?, name: name.into(), text })
    }

    /// Finds the ignore file of a build: `<Containerfile>.dockerignore` beside the Containerfile, else
    /// `.dockerignore` in the context's root, else `.containerignore` there, else no rules. `containerfile` is `None` when it came from
    /// standard input.
    ///
    /// # Errors
    /// When a file is there and cannot be read or understood.
    pub fn read(context: &Path, containerfile: Option<&Path>) -> Result<IgnoreRules, ContextError> {
        let root = open_context(context)?;
        if let Some(containerfile) = containerfile {
            let mut own = containerfile.as_os_str().to_owned();
            own.push(".dockerignore");
            let own = PathBuf::from(own);
            if let Some(text) = read_beside(&root, context, &own)? {
                return IgnoreRules::named(&own, text);
            }
        }
        for name in GENERAL {
            let general = context.join(name);
            if let Some(text) = read_inside(&root, name.as_bytes(), &general)? {
                return IgnoreRules::named(&general, text);
            }
        }
        Ok(IgnoreRules::none())
    }

    fn named(path: &Path, text: Vec<u8>) -> Result<IgnoreRules, ContextError> {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        IgnoreRules::parse(name, text)
            .map_err(|source| ContextError::Ignore { path: path.to_owned(), source })
    }

    /// The patterns.
    pub fn patterns(&self) -> &IgnoreFile {
        &self.patterns
    }

    /// The line because of which `path` is left out; `None` when it is not.
    pub fn line_excluding(&self, path: &[u8]) -> Option<IgnoreLine> {
        if !self.patterns.matches(path) {
            return None;
        }
        // The last line that turned the answer from no to yes. Asking the patterns again for each
        // beginning of the file keeps their rules in one place; it happens only on the way to an error.
        let mut ends: Vec<usize> =
            (1..).zip(&self.text).filter(|(_, b)| **b == b'\n').map(|(i, _)| i).collect();
        ends.push(self.text.len());
        let (mut start, mut before, mut found) = (0, false, None);
        for (number, end) in (1..).zip(ends) {
            let now = IgnoreFile::parse(&self.text[..end]).is_ok_and(|rules| rules.matches(path));
            if now && !before {
                let pattern = String::from_utf8_lossy(&self.text[start..end]).trim().to_owned();
                found = Some(IgnoreLine { file: self.name.clone(), number, pattern });
            }
            (start, before) = (end, now);
        }
        found
    }
}

fn open_context(path: &Path) -> Result<std::os::fd::OwnedFd, ContextError> {
    fs::open_dir(path).map_err(|source| ContextError::Open { path: path.to_owned(), source })
}

/// A file of the context: its links stay inside, as a context need not be the user's own work.
fn read_inside(
    root: &std::os::fd::OwnedFd,
    name: &[u8],
    path: &Path,
) -> Result<Option<Vec<u8>>, ContextError> {
    let unreadable = |source| ContextError::ReadIgnore { path: path.to_owned(), source };
    // Only what is truly missing means that there are no rules: a directory, or a link that leads out
    // of the context, would otherwise let everything into the image that it was meant to keep out.
    match in_root::find(root, name, in_root::Walk { follow_last: false, make_dir: None }) {
        Ok(place) if place.stat.is_some() => {}
        Ok(_) => return Ok(None),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(unreadable(e)),
    }
    match in_root::read_file(root, name, IGNORE_FILE_LIMIT).map_err(unreadable)? {
        Some(text) => Ok(Some(text)),
        None => Err(unreadable(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file inside the context",
        ))),
    }
}

/// The ignore file beside a Containerfile. One inside the context is treated as the rest of the context;
/// another was named by the user, and is read like any file that a user names.
fn read_beside(
    root: &std::os::fd::OwnedFd,
    context: &Path,
    path: &Path,
) -> Result<Option<Vec<u8>>, ContextError> {
    use std::os::unix::ffi::OsStrExt;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let (Ok(context), Ok(parent), Some(name)) =
        (context.canonicalize(), parent.canonicalize(), path.file_name())
        && let Ok(inside) = parent.strip_prefix(&context)
    {
        return read_inside(root, inside.join(name).as_os_str().as_bytes(), path);
    }
    let unreadable = |source| ContextError::ReadIgnore { path: path.to_owned(), source };
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => {}
        // Reading a pipe would wait for somebody to write to it.
        Ok(_) => {
            return Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
        }
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(unreadable(e)),
    }
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| io::Read::read_to_end(&mut io::Read::take(file, IGNORE_FILE_LIMIT + 1), &mut text))
        .map_err(unreadable)?;
    // Less than all of the rules would let in what the rest keeps out.
    if text.len() as u64 > IGNORE_FILE_LIMIT {
        let what = format!("larger than {IGNORE_FILE_LIMIT} bytes");
        return Err(unreadable(io::Error::new(io::ErrorKind::FileTooLarge, what)));
    }
    Ok(Some(text))
}

/// An open build context.
#[derive(Debug, Clone)]
pub struct DirectoryContext {
    path: PathBuf,
    tree: SourceTree,
}

impl DirectoryContext {
    /// Opens the directory at `path`.
    ///
    /// # Errors
    /// When it is no directory, or cannot be opened.
    pub fn open(path: &Path, ignore: IgnoreRules) -> Result<DirectoryContext, ContextError> {
        DirectoryContext::open_as(path, None, ignore)
    }

    /// The same, with another name than its path in messages: a context that was brought here from elsewhere.
    ///
    /// # Errors
    /// As for [`open`](DirectoryContext::open).
    pub fn open_as(
        path: &Path,
        name: Option<&str>,
        ignore: IgnoreRules,
    ) -> Result<DirectoryContext, ContextError> {
        let root = open_context(path)?;
        let canonical =
            path.canonicalize().map_err(|source| ContextError::Open { path: path.to_owned(), source })?;
        let shown = path.display().to_string();
        let name = format!("the build context {}", name.unwrap_or(&shown));
        Ok(DirectoryContext { path: canonical, tree: SourceTree::context(root, name, ignore) })
    }

    /// The directory, absolute and without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What COPY copies from.
    pub fn tree(&self) -> &SourceTree {
        &self.tree
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_containerfiles_own_ignore_file_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("docker")).unwrap();
        let containerfile = dir.path().join("docker/web.Containerfile");
        assert!(IgnoreRules::read(dir.path(), Some(&containerfile)).unwrap().patterns().is_empty());
        fs::write(dir.path().join(".dockerignore"), "general\n").unwrap();
        let rules = IgnoreRules::read(dir.path(), Some(&containerfile)).unwrap();
        assert!(rules.patterns().matches(b"general"));
        fs::write(dir.path().join("docker/web.Containerfile.dockerignore"), "own\n").unwrap();
        let rules = IgnoreRules::read(dir.path(), Some(&containerfile)).unwrap();
        assert!(rules.patterns().matches(b"own") && !rules.patterns().matches(b"general"));
        assert!(IgnoreRules::read(dir.path(), None).unwrap().patterns().matches(b"general"));
    }

    #[test]
    fn an_ignore_file_outside_the_context_is_found_beside_its_containerfile() {
        let (context, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(other.path().join("Containerfile.dockerignore"), "x").unwrap();
        let rules = IgnoreRules::read(context.path(), Some(&other.path().join("Containerfile"))).unwrap();
        assert!(rules.patterns().matches(b"x"));
    }

    #[test]
    fn an_ignore_file_that_is_a_link_out_of_the_context_is_not_followed_there() {
        let (context, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(other.path().join("secret"), "x").unwrap();
        symlink(other.path().join("secret"), context.path().join(".dockerignore")).unwrap();
        let error = IgnoreRules::read(context.path(), None).unwrap_err();
        assert!(matches!(error, ContextError::ReadIgnore { .. }), "{error}");
        fs::remove_file(context.path().join(".dockerignore")).unwrap();
        fs::write(context.path().join("real"), "x").unwrap();
        symlink("/real", context.path().join(".dockerignore")).unwrap();
        assert!(IgnoreRules::read(context.path(), None).unwrap().patterns().matches(b"x"));
    }

    #[test]
    fn podmans_ignore_file_counts_where_dockers_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".containerignore"), "podman\n").unwrap();
        assert!(IgnoreRules::read(dir.path(), None).unwrap().patterns().matches(b"podman"));
        fs::write(dir.path().join(".dockerignore"), "docker\n").unwrap();
        let rules = IgnoreRules::read(dir.path(), None).unwrap();
        assert!(rules.patterns().matches(b"docker") && !rules.patterns().matches(b"podman"));
    }

    #[test]
    fn a_bad_pattern_is_told_with_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".dockerignore"), "ok\n[\n").unwrap();
        let message = IgnoreRules::read(dir.path(), None).unwrap_err().to_string();
        assert!(message.contains(".dockerignore, line 2: "), "{message}");
    }

    #[test]
    fn the_line_that_leaves_a_file_out_is_the_last_that_decided() {
        let text = "# comment\n*.log\n!keep.log\n\nkeep.*\nkeep*\n";
        let rules = IgnoreRules::parse(".dockerignore", text).unwrap();
        let line = |path: &str| rules.line_excluding(path.as_bytes()).map(|l| (l.number, l.pattern));
        assert_eq!(line("a.log"), Some((2, "*.log".into())));
        assert_eq!(line("keep.log"), Some((5, "keep.*".into())));
        assert_eq!(line("other"), None);
    }

    #[test]
    fn a_missing_context_is_named() {
        let error = DirectoryContext::open(Path::new("/no/such/dir"), IgnoreRules::none()).unwrap_err();
        assert!(error.to_string().starts_with("cannot open the build context /no/such/dir: "), "{error}");
    }
}
