//! What a build context may be, and how all that is not a directory becomes one.
//!
//! | written | is |
//! |---|---|
//! | the name of a directory that is there | that directory |
//! | `-` | standard input: an archive, or the Containerfile of a build without files |
//! | a Git address ([`super::git_url`]) | a checkout |
//! | `http://…`, `https://…` | an archive, or the Containerfile of a build without files |
//!
//! Named contexts, `NAME=SOURCE`, may be `docker-image://IMAGE`, `oci:DIR[:TAG]` and
//! `oci-layout://DIR[:TAG][@DIGEST]` as well, and not standard input.
//!
//! Everything that is fetched or unpacked lies in the command's work directory ([`crate::store::work`]) and
//! goes with it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use super::git::{Checkout, Credentials, Git, GitError};
use super::git_url::{self, GitRef, GitUrlError};
use super::http::{self, Downloader, HttpError};
use super::unpack::{self, UnpackError};
use crate::image::{Digest, ImageName};
use crate::store::{Store, WorkDir};

/// No honest Containerfile is larger.
pub const CONTAINERFILE_LIMIT: u64 = 8 << 20;

/// Where a context comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextSpec {
    /// A directory of this machine. Not looked at yet: it need not be there.
    Directory(PathBuf),
    /// Standard input.
    Stdin,
    /// A Git repository.
    Git(GitRef),
    /// A file of a web server.
    Http(String),
    /// An image, by its name as typed. Named contexts only.
    Image(String),
    /// An image in an OCI layout. Named contexts only.
    OciLayout {
        /// The layout.
        dir: PathBuf,
        /// The name in its index.
        tag: Option<String>,
        /// The manifest's digest.
        digest: Option<Digest>,
    },
}

/// A context that is a directory now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The directory.
    pub path: PathBuf,
    /// Whether it is not the user's own: the Containerfile is then looked for in it, and nowhere else
    /// ([`read_inside`]).
    pub remote: bool,
    /// What came was no archive: it is the Containerfile, and the directory is empty.
    pub containerfile: Option<Vec<u8>>,
    /// How messages call the context; no passwords.
    pub name: String,
    /// What the user should know about it.
    pub notes: Vec<String>,
}

/// A context that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The text is wrong.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What would help.
        hint: Option<String>,
    },
    /// A Git address is wrong.
    #[error(transparent)]
    GitUrl(#[from] GitUrlError),
    /// A repository cannot be had.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A file cannot be had.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// What came cannot be unpacked.
    #[error("{name} cannot be unpacked: {source}")]
    Unpack {
        /// How messages call the context.
        name: String,
        /// Why.
        source: UnpackError,
    },
    /// What came is neither an archive nor a Containerfile.
    #[error("{name} {reason}")]
    Content {
        /// How messages call the context.
        name: String,
        /// What it is instead.
        reason: &'static str,
        /// What would help.
        hint: Option<&'static str>,
    },
    /// A file operation failed.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl SourceError {
    fn usage(message: impl Into<String>, hint: impl Into<String>) -> SourceError {
        SourceError::Usage { message: message.into(), hint: Some(hint.into()) }
    }

    fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> SourceError + 'a {
        move |source| SourceError::Io { what, path: path.to_owned(), source }
    }

    /// What would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            SourceError::Usage { hint, .. } => hint.clone(),
            SourceError::GitUrl(e) => e.hint().map(str::to_owned),
            SourceError::Git(e) => e.hint().map(str::to_owned),
            SourceError::Http(e) => e.hint().map(str::to_owned),
            SourceError::Content { hint, .. } => hint.map(str::to_owned),
            SourceError::Unpack { .. } | SourceError::Io { .. } => None,
        }
    }

    /// Whether the command line is to blame.
    pub fn is_usage(&self) -> bool {
        matches!(self, SourceError::Usage { .. } | SourceError::GitUrl(_))
    }

    /// Whether it is this machine that lacks something.
    pub fn is_environment(&self) -> bool {
        matches!(self, SourceError::Git(e) if e.is_environment())
    }
}

/// Reads the context of a command line; `is_dir` tells whether a path is a directory, which comes before
/// all else that a text may mean.
///
/// # Errors
/// When it can be no context.
pub fn parse_context(text: &str, is_dir: impl Fn(&Path) -> bool) -> Result<ContextSpec, SourceError> {
    if text.is_empty() {
        return Err(SourceError::usage("the build context is empty", "`.` is the current directory"));
    }
    if text == "-" {
        return Ok(ContextSpec::Stdin);
    }
    let spec = parse_source(text, is_dir)?;
    match spec {
        ContextSpec::Image(_) | ContextSpec::OciLayout { .. } => Err(SourceError::usage(
            format!("`{text}` is an image, which cannot be the context of a build"),
            format!("--build-context NAME={text} gives it a name for COPY --from=NAME"),
        )),
        other => Ok(other),
    }
}

/// Reads a named context, `NAME=SOURCE`: the name as [`ImageName::familiar`] has it, and what it stands for.
///
/// # Errors
/// When the name is none, or the source can be no context.
pub fn parse_named(text: &str, is_dir: impl Fn(&Path) -> bool) -> Result<(String, ContextSpec), SourceError> {
    let Some((name, source)) = text.split_once('=').filter(|(n, s)| !n.is_empty() && !s.is_empty()) else {
        return Err(SourceError::usage(
            format!("--build-context `{text}` has no name or no source"),
            "write it as --build-context NAME=SOURCE",
        ));
    };
    let Some(normal) = ImageName::familiar(name) else {
        return Err(SourceError::usage(
            format!("--build-context: `{name}` cannot be the name of a context"),
            "names of contexts are made like names of images: letters, digits, and . _ - / in between",
        ));
    };
    if source == "-" {
        return Err(SourceError::usage(
            format!("--build-context {name}: standard input can be the main context only"),
            "write `-` in place of CONTEXT, or unpack it into a directory",
        ));
    }
    Ok((normal, parse_source(source, is_dir)?))
}

fn parse_source(text: &str, is_dir: impl Fn(&Path) -> bool) -> Result<ContextSpec, SourceError> {
    if is_dir(Path::new(text)) {
        return Ok(ContextSpec::Directory(PathBuf::from(text)));
    }
    for scheme in ["docker-image://", "container-image://", "docker://"] {
        if let Some(name) = text.strip_prefix(scheme) {
            let parsed: Result<ImageName, _> = name.parse();
            return match parsed {
                Ok(_) => Ok(ContextSpec::Image(name.to_owned())),
                Err(e) => Err(SourceError::Usage { message: format!("`{text}`: {e}"), hint: None }),
            };
        }
    }
    if let Some(rest) = text.strip_prefix("oci-layout://") {
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (rest, None),
        };
        return layout(text, rest, digest);
    }
    if let Some(rest) = text.strip_prefix("oci:") {
        return layout(text, rest, None);
    }
    if let Some(stage) = text.strip_prefix("target:") {
        return Err(SourceError::usage(
            format!("`{text}` means a target of `docker buildx bake`, which cooper does not have"),
            format!("build `{stage}` first, give it a name, and write docker-image://NAME"),
        ));
    }
    if let Some(git) = git_url::parse_git(text) {
        return Ok(ContextSpec::Git(git?));
    }
    if http::is_http(text) {
        return Ok(ContextSpec::Http(text.to_owned()));
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(SourceError::usage(
            format!("`{}` begins with `{scheme}://`, which is no kind of context", git_url::redacted(text)),
            "a context is a directory, -, an http or https address, or a Git repository, whose path ends in .git",
        ));
    }
    Ok(ContextSpec::Directory(PathBuf::from(text)))
}

fn layout(text: &str, rest: &str, digest: Option<&str>) -> Result<ContextSpec, SourceError> {
    let (dir, tag) = rest.split_once(':').map_or((rest, None), |(dir, tag)| (dir, Some(tag)));
    let wrong = |why: String| {
        SourceError::usage(
            format!("`{text}`: {why}"),
            "write oci:DIR[:TAG] or oci-layout://DIR[:TAG][@DIGEST]",
        )
    };
    if dir.is_empty() {
        return Err(wrong("the layout's directory is missing".to_owned()));
    }
    let digest = digest.map(|digest| digest.parse().map_err(|e| wrong(format!("{e}")))).transpose()?;
    let tag = tag.filter(|tag| !tag.is_empty()).map(str::to_owned);
    Ok(ContextSpec::OciLayout { dir: PathBuf::from(dir), tag, digest })
}

/// What it takes to open contexts.
pub struct Opener<'a> {
    /// Where downloads are remembered.
    pub store: &'a Store,
    /// Where what is opened lies; it has to live as long as the build.
    pub work: &'a WorkDir,
    /// Where downloads come from.
    pub downloader: &'a Downloader,
    /// Hears how many bytes of a download have come, and of how many if that is known.
    pub progress: &'a dyn Fn(u64, Option<u64>),
}

impl Opener<'_> {
    /// Makes a directory of a context. `stdin` is read for [`ContextSpec::Stdin`] only; a directory is
    /// passed on as it is, whether or not it is there.
    ///
    /// # Errors
    /// When it cannot be had or unpacked. Images are for others to open, and are an error here.
    pub fn open(&self, spec: &ContextSpec, stdin: &mut dyn Read) -> Result<Opened, SourceError> {
        match spec {
            ContextSpec::Directory(path) => Ok(Opened {
                path: path.clone(),
                remote: false,
                containerfile: None,
                name: path.display().to_string(),
                notes: Vec::new(),
            }),
            ContextSpec::Stdin => self.receive("standard input", stdin),
            ContextSpec::Http(url) => {
                let download = self.downloader.fetch(self.store, self.work, url, None, self.progress)?;
                let mut file =
                    File::open(&download.path).map_err(SourceError::io("cannot open", &download.path))?;
                let opened = self.receive(&git_url::redacted(url), &mut file);
                let _ = fs::remove_file(&download.path);
                opened
            }
            ContextSpec::Git(from) => {
                let git = Git::new(self.work, Credentials::User);
                let commit = git.resolve(from)?;
                let path = git.checkout(from, &commit, Checkout::of(from, false))?;
                let notes = vec![format!("{from} is commit {}", commit.id)];
                Ok(Opened { path, remote: true, containerfile: None, name: from.to_string(), notes })
            }
            ContextSpec::Image(name) => Err(not_files(name)),
            ContextSpec::OciLayout { dir, .. } => Err(not_files(&dir.display().to_string())),
        }
    }

    /// Fetches a Containerfile that is named by an address.
    ///
    /// # Errors
    /// When it cannot be had, or is no such thing.
    pub fn containerfile(&self, url: &str) -> Result<Vec<u8>, SourceError> {
        let download = self.downloader.fetch(self.store, self.work, url, None, self.progress)?;
        let mut file = File::open(&download.path).map_err(SourceError::io("cannot open", &download.path))?;
        let text = read_text(&git_url::redacted(url), &mut file);
        let _ = fs::remove_file(&download.path);
        text
    }

    /// An archive, or a Containerfile.
    fn receive(&self, name: &str, content: &mut dyn Read) -> Result<Opened, SourceError> {
        let path = self.work.fresh("context-");
        fs::create_dir(&path).map_err(SourceError::io("cannot create", &path))?;
        let mut head = Vec::new();
        content
            .take(unpack::HEAD as u64)
            .read_to_end(&mut head)
            .map_err(SourceError::io("cannot read", Path::new(name)))?;
        let archive = unpack::is_archive(&head);
        let mut content = io::Cursor::new(head).chain(content);
        let opened =
            Opened { path, remote: true, containerfile: None, name: name.to_owned(), notes: Vec::new() };
        if !archive {
            return Ok(Opened { containerfile: Some(read_text(name, &mut content)?), ..opened });
        }
        let unpacked = unpack::unpack(content, &opened.path);
        let notes = unpacked.map_err(|source| SourceError::Unpack { name: name.to_owned(), source })?;
        Ok(Opened { notes, ..opened })
    }
}

fn not_files(name: &str) -> SourceError {
    SourceError::Usage { message: format!("`{name}` is an image and no directory"), hint: None }
}

/// A Containerfile, as far as that can be told by looking.
fn read_text(name: &str, content: &mut dyn Read) -> Result<Vec<u8>, SourceError> {
    let mut text = Vec::new();
    content
        .take(CONTAINERFILE_LIMIT + 1)
        .read_to_end(&mut text)
        .map_err(SourceError::io("cannot read", Path::new(name)))?;
    let wrong = |reason, hint| SourceError::Content { name: name.to_owned(), reason, hint };
    if text.is_empty() {
        return Err(wrong("is empty", Some("it should be a tar archive or a Containerfile")));
    }
    if text.len() as u64 > CONTAINERFILE_LIMIT || text.contains(&0) {
        return Err(wrong("is neither a Containerfile nor a tar archive that cooper knows", None));
    }
    let start = text.trim_ascii_start();
    let start = start[..start.len().min(16)].to_ascii_lowercase();
    if start.starts_with(b"<!doctype") || start.starts_with(b"<html") {
        let hint = "if it is the page of a Git repository, the address has to end in .git";
        return Err(wrong("is a web page and no Containerfile", Some(hint)));
    }
    Ok(text)
}

/// Reads a file of a context that is not the user's own; `None` where there is none. `name` is relative
/// to the context.
///
/// # Errors
/// When the name or a link leads out of the context, and when it is no regular file or larger than
/// [`CONTAINERFILE_LIMIT`].
pub fn read_inside(context: &Path, name: &Path) -> Result<Option<Vec<u8>>, SourceError> {
    let outside = |why: &str| {
        SourceError::usage(
            format!("the file {} is {why} the build context", name.display()),
            "with a context that is fetched, the Containerfile is looked for in it; -f - reads it from standard input",
        )
    };
    if name.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(outside("outside of"));
    }
    // The directory is in our work directory, where nobody changes links meanwhile.
    let root = context.canonicalize().map_err(SourceError::io("cannot open", context))?;
    let path = match root.join(name).canonicalize() {
        Ok(path) => path,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return match fs::symlink_metadata(root.join(name)) {
                // A link to nothing, or to what is there on another machine.
                Ok(_) => Err(outside("a symbolic link to nothing in")),
                Err(_) => Ok(None),
            };
        }
        Err(e) => return Err(SourceError::io("cannot open", name)(e)),
    };
    if !path.starts_with(&root) {
        return Err(outside("a symbolic link out of"));
    }
    let meta = fs::metadata(&path).map_err(SourceError::io("cannot read", name))?;
    if !meta.is_file() || meta.len() > CONTAINERFILE_LIMIT {
        let reason = if meta.is_file() { "is larger than 8 MiB" } else { "is not a regular file" };
        return Err(SourceError::Content { name: name.display().to_string(), reason, hint: None });
    }
    fs::read(&path).map(Some).map_err(SourceError::io("cannot read", name))
}

#[cfg(test)]
mod tests;
