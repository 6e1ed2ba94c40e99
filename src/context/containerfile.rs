//! Where a build's Containerfile comes from.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::git_url::redacted;
use super::http::is_http;
use super::source::{CONTAINERFILE_LIMIT, ContextSpec, Opened, SourceError, read_inside};

/// What a context's Containerfile may be called when nobody says it, the first that is there.
pub const NAMES: [&str; 2] = ["Containerfile", "Dockerfile"];

/// A Containerfile, as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// How messages call it; no passwords.
    pub name: String,
    /// What it says; need not be UTF-8.
    pub bytes: Vec<u8>,
    /// Where it lies, for the ignore file beside it; `None` where it was no file of a directory.
    pub path: Option<PathBuf>,
}

/// Whether a context and a `-f` go together; asked before anything is opened.
///
/// # Errors
/// When both want to read standard input.
pub fn check(context: &ContextSpec, file: Option<&Path>) -> Result<(), SourceError> {
    match file {
        Some(file) if *context == ContextSpec::Stdin && file == Path::new("-") => Err(SourceError::Usage {
            message: "standard input can be the context or the Containerfile, not both".to_owned(),
            hint: Some("put the Containerfile into the archive, and name it there with -f FILE".to_owned()),
        }),
        _ => Ok(()),
    }
}

/// Reads the Containerfile; `fetch` brings one that is an address. `file` is what `-f` says: `-` for standard input, an http or https address, or
/// a path; with a context that was fetched a path in it, else one of this machine.
///
/// # Errors
/// When there is none, it cannot be read, or it is larger than [`CONTAINERFILE_LIMIT`].
pub fn read(
    fetch: &mut dyn FnMut(&str) -> Result<Vec<u8>, SourceError>,
    context: &Opened,
    file: Option<&Path>,
    stdin: &mut dyn Read,
) -> Result<Found, SourceError> {
    if let Some(bytes) = &context.containerfile {
        return match file {
            None => Ok(Found { name: context.name.clone(), bytes: bytes.clone(), path: None }),
            Some(file) => Err(SourceError::Usage {
                message: format!("{} is a Containerfile, and -f {} another", context.name, file.display()),
                hint: Some("leave out -f, or name a context that has files".to_owned()),
            }),
        };
    }
    let Some(file) = file else {
        for name in NAMES {
            let path = context.path.join(name);
            check_kind(&path)?;
            if let Some(bytes) = read_path(context, Path::new(name), &path)? {
                return Ok(Found { name: shown(context, name, &path), bytes, path: Some(path) });
            }
        }
        return Err(SourceError::Usage {
            message: format!("{} has neither Containerfile nor Dockerfile", context.name),
            hint: Some("name the file with -f FILE".to_owned()),
        });
    };
    if file == Path::new("-") {
        let name = "standard input".to_owned();
        let bytes = read_capped(&mut *stdin, Path::new(&name))?;
        return Ok(Found { name, bytes, path: None });
    }
    if let Some(url) = file.to_str().filter(|text| is_http(text)) {
        return Ok(Found { name: redacted(url), bytes: fetch(url)?, path: None });
    }
    let path = if context.remote { context.path.join(file) } else { file.to_owned() };
    match read_path(context, file, &path)? {
        Some(bytes) => Ok(Found { name: file.display().to_string(), bytes, path: Some(path) }),
        None if context.remote => Err(SourceError::Usage {
            message: format!("{} has no file {}", context.name, file.display()),
            hint: Some("with a context that is fetched, -f names a file in it".to_owned()),
        }),
        None => Err(SourceError::Io { what: "cannot read", path, source: Errno::ENOENT.into() }),
    }
}

/// As messages call a file whose name nobody said: files in work directories mean nothing to people.
fn shown(context: &Opened, name: &str, path: &Path) -> String {
    if context.remote { name.to_owned() } else { path.display().to_string() }
}

fn read_path(context: &Opened, name: &Path, path: &Path) -> Result<Option<Vec<u8>>, SourceError> {
    if context.remote {
        return read_inside(&context.path, name);
    }
    match File::open(path) {
        Ok(file) => read_capped(file, path).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SourceError::Io { what: "cannot read", path: path.to_owned(), source }),
    }
}

/// Whether what lies under one of [`NAMES`] in a context can be read without waiting for somebody: a pipe
/// there is nothing that a user has named, as with `-f <(program)`.
///
/// # Errors
/// When it is neither a regular file nor missing.
pub fn check_kind(path: &Path) -> Result<(), SourceError> {
    match std::fs::metadata(path) {
        Ok(meta) if !meta.is_file() => {
            let name = path.display().to_string();
            let hint = Some("name the Containerfile with -f FILE");
            Err(SourceError::Content { name, reason: "is not a regular file", hint })
        }
        _ => Ok(()),
    }
}

fn read_capped(input: impl Read, path: &Path) -> Result<Vec<u8>, SourceError> {
    let mut bytes = Vec::new();
    let failed = |source| SourceError::Io { what: "cannot read", path: path.to_owned(), source };
    input.take(CONTAINERFILE_LIMIT + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > CONTAINERFILE_LIMIT {
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 8 MiB")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::source::Opener;
    use super::*;
    use crate::context::http::Downloader;
    use crate::registry::testing::{Server, reply};
    use crate::store::Store;

    fn read_with(context: &Opened, file: Option<&str>, stdin: &[u8]) -> Result<Found, SourceError> {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let work = store.work_dir().unwrap();
        let downloader = Downloader::new();
        let opener = Opener { store: &store, work: &work, downloader: &downloader, progress: &|_, _| {} };
        read(&mut |url| opener.containerfile(url), context, file.map(Path::new), &mut &*stdin)
    }

    fn opened(path: &Path, remote: bool) -> Opened {
        Opened {
            path: path.to_owned(),
            remote,
            containerfile: None,
            name: "the context".into(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn it_is_found_in_the_context_or_where_it_is_said_to_be() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let outside = other.path().join("c");
        fs::write(&outside, "outside").unwrap();
        for remote in [false, true] {
            let context = opened(dir.path(), remote);
            let error = read_with(&context, None, b"").unwrap_err();
            assert_eq!(error.to_string(), "the context has neither Containerfile nor Dockerfile");
        }
        fs::write(dir.path().join("Dockerfile"), "docker").unwrap();
        let local = opened(dir.path(), false);
        assert_eq!(read_with(&local, None, b"").unwrap().bytes, b"docker");
        fs::write(dir.path().join("Containerfile"), "container").unwrap();
        let remote = opened(dir.path(), true);
        for (context, name) in [
            (&local, dir.path().join("Containerfile").display().to_string()),
            (&remote, "Containerfile".into()),
        ] {
            let found = read_with(context, None, b"").unwrap();
            assert_eq!((found.name, found.bytes), (name, b"container".to_vec()));
            assert_eq!(found.path, Some(dir.path().join("Containerfile")));
            assert_eq!(read_with(context, Some("-"), b"typed").unwrap().bytes, b"typed");
        }
        // Outside of a directory it may be, outside of what was fetched it may not.
        let path = outside.to_str().unwrap();
        assert_eq!(read_with(&local, Some(path), b"").unwrap().bytes, b"outside");
        assert!(read_with(&local, Some("/no/such/file"), b"").is_err());
        assert_eq!(read_with(&remote, Some("Dockerfile"), b"").unwrap().bytes, b"docker");
        symlink(&outside, dir.path().join("link")).unwrap();
        for refused in [path, "../c", "link", "none"] {
            assert!(read_with(&remote, Some(refused), b"").unwrap_err().is_usage(), "{refused}");
        }
    }

    #[test]
    fn it_may_come_from_a_server() {
        let server = Server::start(|_| reply(200, "FROM scratch"));
        let url = format!("http://u:secret@{}/c", server.host);
        let dir = tempfile::tempdir().unwrap();
        let found = read_with(&opened(dir.path(), false), Some(&url), b"").unwrap();
        assert_eq!((found.bytes.as_slice(), found.path), (&b"FROM scratch"[..], None));
        assert!(!found.name.contains("secret"));
    }

    #[test]
    fn there_is_one_only() {
        let dir = tempfile::tempdir().unwrap();
        let context = Opened { containerfile: Some(b"x".to_vec()), ..opened(dir.path(), true) };
        assert_eq!(read_with(&context, None, b"").unwrap().bytes, b"x");
        assert!(read_with(&context, Some("Dockerfile"), b"").unwrap_err().is_usage());
        assert!(check(&ContextSpec::Stdin, Some(Path::new("-"))).unwrap_err().is_usage());
        assert!(check(&ContextSpec::Stdin, Some(Path::new("x"))).is_ok());
        assert!(check(&ContextSpec::Directory(".".into()), Some(Path::new("-"))).is_ok());
    }
}
