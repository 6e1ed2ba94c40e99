//! Files of web servers, for contexts and ADD.
//!
//! What was downloaded is kept, and asked for again only to see whether it changed:
//!
//! ```text
//! cache/http/<SHA-256 of the address>/record    what the server said of it, as JSON
//! cache/http/<SHA-256 of the address>/<digest>  the content, read-only
//! ```
//!
//! The content is renamed into place before the record that names it, and its predecessor is removed
//! after that. Who uses a content has a hard link to it in a work directory of its own, so neither locks
//! nor another command's newer download matter. All of it may be deleted at any time.
//!
//! The server is asked each time, by `ETag` or else by `Last-Modified`, unless a checksum says which
//! content is wanted and that is the one that is here.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cooper_runtime::sys::fs::Time;
use serde::{Deserialize, Serialize};

use crate::image::{Digest, Hasher};
use crate::registry::{Web, WebAnswer, WebError};
use crate::store::{Store, StoreError, WorkDir};

/// A file that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No answer.
    #[error("cannot fetch {url}: {source}")]
    Web {
        /// The address, without password.
        url: String,
        /// Why.
        source: WebError,
    },
    /// An answer that is no file.
    #[error("cannot fetch {url}: {host} answers {status}{}", meaning(*status))]
    Status {
        /// The address, without password.
        url: String,
        /// Host and port of who said it, which after a redirect is another.
        host: String,
        /// The HTTP status.
        status: u16,
    },
    /// It broke off.
    #[error("cannot fetch {url}: after {got} bytes: {source}")]
    Broken {
        /// The address, without password.
        url: String,
        /// How much had come.
        got: u64,
        /// What happened.
        source: io::Error,
    },
    /// Another content than was announced.
    #[error("{url} has the digest {found} where {expected} was expected")]
    Checksum {
        /// The address, without password.
        url: String,
        /// What was announced.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// Our side failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl HttpError {
    /// What would help.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            HttpError::Status { status: 401 | 403, .. } => Some(
                "cooper has no credentials for web servers but those in an address: https://USER:PASSWORD@…",
            ),
            HttpError::Web { source: WebError::NotTls { .. }, .. } => {
                Some("write http:// if plain HTTP is meant")
            }
            HttpError::Checksum { .. } => {
                Some("either the file was replaced, or the checksum is that of another one")
            }
            _ => None,
        }
    }
}

fn meaning(status: u16) -> &'static str {
    match status {
        401 => ", it wants to know who asks",
        403 => ", it does not let us have it",
        404 | 410 => ", it has no such file",
        429 => ", it was asked too often",
        500..=599 => ", it is in trouble itself",
        _ => "",
    }
}

/// A file that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// Where it lies, in the work directory; not to be written to.
    pub path: PathBuf,
    /// The SHA-256 of its content.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// What the server calls it, or else the last part of the address, or else `download`.
    pub name: String,
    /// When it was last changed, where the server says so. BuildKit takes 1970 where it does not.
    pub mtime: Option<Time>,
    /// Whether it was here already.
    pub cached: bool,
}

/// What is remembered of a download.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    etag: Option<String>,
    last_modified: Option<String>,
    name: Option<String>,
    digest: Digest,
    size: u64,
}

/// Fetches files. Cheap to make.
#[derive(Debug)]
pub struct Downloader(Web);

impl Default for Downloader {
    fn default() -> Downloader {
        Downloader::new()
    }
}

impl Downloader {
    /// With the proxies and certificates of this environment.
    pub fn new() -> Downloader {
        Downloader(Web::from_environment())
    }

    /// Fetches `url`, or finds that it is here. `progress` hears how many bytes have come, and of how many
    /// where the server says.
    ///
    /// # Errors
    /// When there is no such file, it does not arrive whole, or it is not the one of `checksum`.
    pub fn fetch(
        &self,
        store: &Store,
        work: &WorkDir,
        url: &str,
        checksum: Option<&Digest>,
        progress: &dyn Fn(u64, Option<u64>),
    ) -> Result<Download, HttpError> {
        let address = url.split('#').next().unwrap_or(url);
        let job = Job {
            address: url,
            url: super::git_url::redacted(url),
            name: name_of_url(url),
            dir: format!("http/{}", Digest::of(address.as_bytes()).hex()),
            store,
            work,
        };
        let known: Option<Record> = store.cached(&format!("{}/record", job.dir));
        // Looked at first: what is damaged must not be asked about.
        let known = known.and_then(|record| Some((job.reuse(&record)?, record)));
        if let (Some((download, _)), Some(expected)) = (&known, checksum)
            && download.digest == *expected
        {
            return Ok(download.clone());
        }
        let answer = self.ask(&job, known.as_ref().map(|(_, record)| record))?;
        let download = match (answer.status(), known) {
            (304, Some((download, _))) => download,
            (200, old) => job.receive(answer, old.map(|(_, record)| record), progress)?,
            (status, _) => {
                return Err(HttpError::Status { url: job.url, host: answer.host().to_owned(), status });
            }
        };
        match checksum {
            Some(expected) if *expected != download.digest => {
                Err(HttpError::Checksum { url: job.url, expected: *expected, found: download.digest })
            }
            _ => Ok(download),
        }
    }

    fn ask(&self, job: &Job<'_>, known: Option<&Record>) -> Result<WebAnswer, HttpError> {
        // A server that packs what it sends would give another content than its file has.
        let mut headers = vec![("accept", "*/*".to_owned()), ("accept-encoding", "identity".to_owned())];
        match known {
            Some(Record { etag: Some(etag), .. }) => headers.push(("if-none-match", etag.clone())),
            Some(Record { last_modified: Some(time), .. }) => {
                headers.push(("if-modified-since", time.clone()));
            }
            _ => {}
        }
        self.0.get(job.address, &headers).map_err(|source| HttpError::Web { url: job.url.clone(), source })
    }
}

/// One file.
struct Job<'a> {
    address: &'a str,
    /// The address as messages have it.
    url: String,
    /// What the address calls it.
    name: Option<String>,
    /// Where it is remembered, below `cache/`.
    dir: String,
    store: &'a Store,
    work: &'a WorkDir,
}

impl Job<'_> {
    /// What is remembered, if it is still whole.
    fn reuse(&self, record: &Record) -> Option<Download> {
        let path = self.work.fresh("http-");
        fs::hard_link(self.content(&record.digest), &path).ok()?;
        let mut hasher = Hasher::new();
        let mut file = File::open(&path).ok()?;
        let mut buffer = vec![0; 128 * 1024];
        loop {
            match file.read(&mut buffer).ok()? {
                0 => break,
                got => hasher.update(&buffer[..got]),
            }
        }
        let whole = hasher.finish() == record.digest;
        whole.then(|| self.download(record, path, true))
    }

    fn content(&self, digest: &Digest) -> PathBuf {
        self.store.cache_path(&format!("{}/{}", self.dir, digest.hex()))
    }

    fn download(&self, record: &Record, path: PathBuf, cached: bool) -> Download {
        let name = record.name.clone().or_else(|| self.name.clone());
        Download {
            path,
            digest: record.digest,
            size: record.size,
            name: name.unwrap_or_else(|| "download".to_owned()),
            mtime: record.last_modified.as_deref().and_then(parse_time),
            cached,
        }
    }

    fn receive(
        &self,
        answer: WebAnswer,
        old: Option<Record>,
        progress: &dyn Fn(u64, Option<u64>),
    ) -> Result<Download, HttpError> {
        let text = |name| answer.header(name).map(str::to_owned);
        let (etag, last_modified) = (text("etag"), text("last-modified"));
        let name = answer.header("content-disposition").and_then(disposition_name);
        let total = answer.header("content-length").and_then(|length| length.parse::<u64>().ok());
        let path = self.work.fresh("http-");
        let mut file = File::create_new(&path).map_err(StoreError::io("cannot create", &path))?;
        let mut hasher = Hasher::new();
        let mut size = 0;
        let mut reader = answer.into_reader();
        let mut buffer = vec![0; 128 * 1024];
        progress(0, total);
        loop {
            let got = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(got) => got,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(HttpError::Broken { url: self.url.clone(), got: size, source }),
            };
            hasher.update(&buffer[..got]);
            file.write_all(&buffer[..got]).map_err(StoreError::io("cannot write", &path))?;
            size += got as u64;
            progress(size, total);
        }
        if let Some(total) = total.filter(|total| *total != size) {
            let source = io::Error::new(io::ErrorKind::UnexpectedEof, format!("{total} were announced"));
            return Err(HttpError::Broken { url: self.url.clone(), got: size, source });
        }
        file.set_permissions(fs::Permissions::from_mode(0o444))
            .map_err(StoreError::io("cannot write", &path))?;
        let record = Record { etag, last_modified, name, digest: hasher.finish(), size };
        self.remember(&record, old, &path)?;
        Ok(self.download(&record, path, false))
    }

    fn remember(&self, record: &Record, old: Option<Record>, path: &Path) -> Result<(), StoreError> {
        let content = self.content(&record.digest);
        let dir = self.store.cache_path(&self.dir);
        fs::create_dir_all(&dir).map_err(StoreError::io("cannot create", &dir))?;
        let link = self.work.fresh("http-");
        fs::hard_link(path, &link).map_err(StoreError::io("cannot write", &link))?;
        fs::rename(&link, &content).map_err(StoreError::io("cannot write", &content))?;
        // A rename onto another name of the same file does nothing, and leaves the first name.
        let _ = fs::remove_file(&link);
        self.store.remember(&format!("{}/record", self.dir), record)?;
        if let Some(old) = old.filter(|old| old.digest != record.digest) {
            let _ = fs::remove_file(self.content(&old.digest));
        }
        Ok(())
    }
}

/// Whether a text is the address of a file on a web server.
pub fn is_http(text: &str) -> bool {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    matches!(scheme.as_deref(), Some("http" | "https"))
}

/// What ADD calls a file: the last part of the address's path. `None` where that is no name.
///
/// What the server calls it does not matter there: the name is part of what the instruction says.
pub fn name_of_url(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let path = rest.split(['?', '#']).next()?;
    let path = super::git_url::decode(&path[path.find('/')?..], false)?;
    plain_name(path.trim_end_matches('/'))
}

/// The last component of a path, if it can be a file's name.
fn plain_name(path: &str) -> Option<String> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let usable = !matches!(name, "" | "." | "..") && name.len() <= 255 && !name.contains('\0');
    usable.then(|| name.to_owned())
}

/// The file name of a `Content-Disposition` (RFC 6266), without any directories.
fn disposition_name(header: &str) -> Option<String> {
    let (mut plain, mut extended) = (None, None);
    let mut rest = header.split_once(';')?.1;
    while let Some((key, after)) = rest.split_once('=') {
        let after = after.trim_start();
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        match key.trim().to_ascii_lowercase().as_str() {
            "filename" => plain = Some(value),
            // charset'language'escaped
            "filename*" => {
                let mut parts = value.splitn(3, '\'');
                if parts.next()?.eq_ignore_ascii_case("utf-8") {
                    extended = super::git_url::decode(parts.nth(1)?, false);
                }
            }
            _ => {}
        }
        rest = next.trim_start().strip_prefix(';').unwrap_or_default();
    }
    let name = extended.or(plain)?;
    if name.ends_with('/') { None } else { plain_name(&name) }
}

/// A quoted string behind its first quote, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            other => value.push(other),
        }
    }
    None
}

/// An HTTP date, in the one form that servers have to send.
fn parse_time(text: &str) -> Option<Time> {
    let parser = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true);
    let time = parser.parse_timestamp(text).ok()?;
    Some(Time { sec: time.as_second(), nsec: 0 })
}

#[cfg(test)]
mod tests;
