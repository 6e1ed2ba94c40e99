//! The distribution protocol's operations, each one exchange with one registry.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use ureq::http::Method;
use ureq::http::header::{CONTENT_TYPE, HeaderMap};

use super::auth::{Challenge, TokenError, Tokens, fetch_token};
use super::config::{Endpoint, Registries, Security};
use super::error::{ConnectionError, RegistryError};
use super::http::{Answer, Call, Content, Http, SendError, upload_url};
use super::url::{Scheme, Url};
use crate::image::{Digest, media};
use crate::store::blobs::DOCUMENT_LIMIT;

/// What an error's body may hold.
const DETAIL_LIMIT: u64 = 16 << 10;

/// Talks to registries. Can be shared by threads; keeps connections and tokens for its lifetime and
/// runs no threads of its own.
#[derive(Debug)]
pub struct Client {
    registries: Registries,
    http: Http,
    tokens: Tokens,
    /// What hosts speak that may speak plain HTTP.
    schemes: Mutex<HashMap<String, Scheme>>,
}

/// What names a manifest within a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A tag.
    Tag(String),
    /// A digest.
    Digest(Digest),
}

/// A manifest or index as it came.
#[derive(Debug)]
pub struct Fetched {
    /// The document.
    pub bytes: Vec<u8>,
    /// Its digest, computed.
    pub digest: Digest,
    /// The media type that the registry gave.
    pub media_type: Option<String>,
}

/// The content of a blob, not checked in any way.
pub struct BlobStream {
    reader: Box<dyn Read + Send>,
    /// The registry that sends it.
    pub host: String,
}

impl Read for BlobStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buf)
    }
}

/// What a token must allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Pull,
    Push,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Tag(tag) => f.write_str(tag),
            Target::Digest(digest) => digest.fmt(f),
        }
    }
}

impl Endpoint {
    /// What the reference wants: the digest if it has one, else the tag.
    pub fn target(&self) -> Target {
        match (self.reference.digest, &self.reference.tag) {
            (Some(digest), _) => Target::Digest(digest),
            (None, Some(tag)) => Target::Tag(tag.clone()),
            (None, None) => Target::Tag("latest".to_owned()),
        }
    }

    fn named(&self, target: &Target) -> String {
        let separator = if matches!(target, Target::Tag(_)) { ':' } else { '@' };
        format!("{}{separator}{target}", self.repository)
    }
}

impl Client {
    /// A client with this configuration, and with the environment's proxies.
    pub fn new(registries: Registries) -> Client {
        Client {
            registries,
            http: Http::from_environment(),
            tokens: Tokens::default(),
            schemes: Mutex::default(),
        }
    }

    /// The configuration.
    pub fn registries(&self) -> &Registries {
        &self.registries
    }

    /// Fetches a manifest or index. Asked for by digest, it has that digest.
    ///
    /// # Errors
    /// When it is not to be had, too large, or another than announced.
    pub fn manifest(&self, endpoint: &Endpoint, target: &Target) -> Result<Fetched, RegistryError> {
        let named = endpoint.named(target);
        let what = format!("manifest {named}");
        let request = Request {
            method: Method::GET,
            path: format!("manifests/{target}"),
            headers: accept_manifests(),
            ..Request::new(endpoint, Access::Pull, format!("pull {named}"), what.clone())
        };
        let answer = self.expect(&request, &[200])?;
        let host = endpoint.host.clone();
        let media_type = media_type(&answer.headers);
        let announced = match target {
            Target::Digest(digest) => Some(*digest),
            Target::Tag(_) => header_digest(&answer.headers),
        };
        let bytes = read_document(answer, &host, &what)?;
        let digest = Digest::of(&bytes);
        match announced {
            Some(expected) if expected != digest => {
                Err(RegistryError::Digest { host, what, expected, found: digest })
            }
            _ => Ok(Fetched { bytes, digest, media_type }),
        }
    }

    /// The digest that a tag leads to, without fetching anything; `None` when the registry does not
    /// say, or has no such tag.
    ///
    /// # Errors
    /// When the registry cannot be reached or wants credentials.
    pub fn manifest_digest(
        &self,
        endpoint: &Endpoint,
        target: &Target,
    ) -> Result<Option<Digest>, RegistryError> {
        let named = endpoint.named(target);
        let request = Request {
            method: Method::HEAD,
            path: format!("manifests/{target}"),
            headers: accept_manifests(),
            ..Request::new(endpoint, Access::Pull, format!("pull {named}"), format!("manifest {named}"))
        };
        let answer = self.call(&request)?;
        match answer.status {
            200 => Ok(header_digest(&answer.headers)),
            401 | 403 => Err(self.refused(&request, answer)),
            _ => Ok(None),
        }
    }

    /// Opens a blob. Its content is checked by whoever takes it in.
    ///
    /// # Errors
    /// When it is not to be had.
    pub fn blob(&self, endpoint: &Endpoint, digest: &Digest) -> Result<BlobStream, RegistryError> {
        let action = format!("pull {}", endpoint.repository);
        let request = Request {
            path: format!("blobs/{digest}"),
            ..Request::new(
                endpoint,
                Access::Pull,
                action,
                format!("blob {digest} in {}", endpoint.repository),
            )
        };
        let answer = self.expect(&request, &[200])?;
        Ok(BlobStream { reader: Box::new(answer.into_reader()), host: endpoint.host.clone() })
    }

    /// Fetches a blob that is a document, and checks its digest.
    pub(super) fn document(&self, endpoint: &Endpoint, digest: &Digest) -> Result<Vec<u8>, RegistryError> {
        let what = format!("blob {digest}");
        let mut stream = self.blob(endpoint, digest)?;
        let host = endpoint.host.clone();
        let bytes = read_limited(&mut stream, &host, &what)?;
        match Digest::of(&bytes) {
            found if found != *digest => Err(RegistryError::Digest { host, what, expected: *digest, found }),
            _ => Ok(bytes),
        }
    }

    /// Whether a repository has a blob, asked with a token for pushing.
    ///
    /// # Errors
    /// When the registry cannot be reached or wants credentials.
    pub fn has_blob(&self, endpoint: &Endpoint, digest: &Digest) -> Result<bool, RegistryError> {
        let request = Request {
            method: Method::HEAD,
            path: format!("blobs/{digest}"),
            ..Request::new(endpoint, Access::Push, push_to(endpoint), format!("blob {digest}"))
        };
        let answer = self.call(&request)?;
        match answer.status {
            200 => Ok(true),
            401 | 403 => Err(self.refused(&request, answer)),
            // Whatever else it says, uploading will tell more.
            _ => Ok(false),
        }
    }

    /// Uploads a blob in one piece. `sent` hears how many bytes went out.
    ///
    /// # Errors
    /// When the registry does not take it.
    pub fn upload_blob(
        &self,
        endpoint: &Endpoint,
        digest: &Digest,
        file: &File,
        size: u64,
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<(), RegistryError> {
        let start = Request {
            method: Method::POST,
            path: "blobs/uploads/".to_owned(),
            content: Content::Empty,
            ..Request::new(
                endpoint,
                Access::Push,
                push_to(endpoint),
                format!("repository {}", endpoint.repository),
            )
        };
        let answer = self.expect(&start, &[202])?;
        let location = upload_url(&answer, endpoint.security).map_err(|e| self.send_error(&start, e))?;
        let finish = Request {
            method: Method::PUT,
            url: Some(location.with_parameter("digest", &digest.to_string())),
            headers: vec![("Content-Type", "application/octet-stream".to_owned())],
            content: Content::File(file, size, sent),
            action: format!("take the blob {digest}"),
            ..start
        };
        self.expect(&finish, &[201, 202, 204])?;
        Ok(())
    }

    /// Puts a manifest or index.
    ///
    /// # Errors
    /// When the registry does not take it.
    pub fn put_manifest(
        &self,
        endpoint: &Endpoint,
        target: &Target,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), RegistryError> {
        let request = Request {
            method: Method::PUT,
            path: format!("manifests/{target}"),
            headers: vec![("Content-Type", media_type.to_owned())],
            content: Content::Bytes(bytes),
            ..Request::new(
                endpoint,
                Access::Push,
                format!("push {}", endpoint.named(target)),
                format!("repository {}", endpoint.repository),
            )
        };
        let answer = self.expect(&request, &[201, 202, 204, 200])?;
        let expected = Digest::of(bytes);
        match header_digest(&answer.headers) {
            Some(found) if found != expected => Err(RegistryError::Digest {
                host: endpoint.host.clone(),
                what: format!("the stored manifest {}", endpoint.named(target)),
                expected,
                found,
            }),
            _ => Ok(()),
        }
    }

    /// A call whose answer must have one of these statuses.
    fn expect(&self, request: &Request<'_>, good: &[u16]) -> Result<Answer, RegistryError> {
        let answer = self.call(request)?;
        if good.contains(&answer.status) { Ok(answer) } else { Err(self.refused(request, answer)) }
    }

    /// Sends a request, and gets a token where the registry asks for one.
    fn call(&self, request: &Request<'_>) -> Result<Answer, RegistryError> {
        let endpoint = request.endpoint;
        let base = self.base(endpoint)?;
        let origin = base.origin();
        let url = match &request.url {
            Some(url) => url.clone(),
            None => Url::new(
                base.scheme(),
                base.authority(),
                format!("/v2/{}/{}", endpoint.repository, request.path),
            ),
        };
        let rights = if request.access == Access::Push { "pull,push" } else { "pull" };
        let scope = format!("repository:{}:{rights}", endpoint.repository);
        // Uploads may go on at another host, which our token is none of the business of.
        let at_home = url.origin() == origin;
        let mut call = Call {
            method: request.method.clone(),
            url,
            headers: request.headers.clone(),
            content: request.content,
            authorization: self.tokens.get(&origin, &scope).filter(|_| at_home),
            security: endpoint.security,
        };
        let answer = self.http.send(&call).map_err(|e| self.send_error(request, e))?;
        // A 401 of a host that we were redirected to is not a question to answer with a token.
        if answer.status != 401 || !at_home || answer.url.origin() != origin {
            return Ok(answer);
        }
        let challenges = Challenge::all(&answer.headers);
        let Some(challenge) = challenges.iter().find(|c| c.scheme == "bearer") else { return Ok(answer) };
        let token = fetch_token(&self.http, challenge, &answer.url, &scope, endpoint.security);
        let token = token.map_err(|e| match e {
            TokenError::Send(e) => self.send_error(request, e),
            TokenError::Refused { host } => RegistryError::Unauthorized {
                host: endpoint.host.clone(),
                action: request.action.clone(),
                detail: format!(" ({host} gives no token without credentials)"),
            },
            TokenError::Unusable { host, reason } => {
                RegistryError::Token { host, scope: scope.clone(), reason }
            }
        })?;
        self.tokens.put(origin, &scope, token.clone());
        call.authorization = Some(token);
        self.http.send(&call).map_err(|e| self.send_error(request, e))
    }

    /// Where an endpoint's API is. A host that may speak plain HTTP is asked over HTTPS first, the way
    /// Docker does it.
    fn base(&self, endpoint: &Endpoint) -> Result<Url, RegistryError> {
        let at = |scheme| Url::new(scheme, &endpoint.host, "/v2/".to_owned());
        if endpoint.security == Security::Strict {
            return Ok(at(Scheme::Https));
        }
        let known = |scheme| {
            let mut schemes = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
            match scheme {
                None => schemes.get(&endpoint.host).copied(),
                Some(scheme) => schemes.insert(endpoint.host.clone(), scheme).or(Some(scheme)),
            }
        };
        if let Some(scheme) = known(None) {
            return Ok(at(scheme));
        }
        let probe = |scheme| {
            let call = Call {
                method: Method::GET,
                url: at(scheme),
                headers: Vec::new(),
                content: Content::None,
                authorization: None,
                security: Security::Relaxed,
            };
            match self.http.send(&call) {
                Err(SendError::Connection { failure, .. }) => Err(failure),
                // Any answer at all shows what is spoken.
                _ => Ok(at(scheme)),
            }
        };
        let https = match probe(Scheme::Https) {
            Ok(url) => {
                known(Some(Scheme::Https));
                return Ok(url);
            }
            Err(failure) => failure,
        };
        match probe(Scheme::Http) {
            Ok(url) => {
                known(Some(Scheme::Http));
                Ok(url)
            }
            Err(http) => {
                let failure = match (https, http) {
                    (ConnectionError::NotTls, http) => http,
                    (ConnectionError::Refused, ConnectionError::Refused) => ConnectionError::Refused,
                    (ConnectionError::UnknownHost, _) => ConnectionError::UnknownHost,
                    (https, http) => ConnectionError::Both { https: Box::new(https), http: Box::new(http) },
                };
                Err(RegistryError::Connection { host: endpoint.host.clone(), failure })
            }
        }
    }

    fn send_error(&self, request: &Request<'_>, error: SendError) -> RegistryError {
        match error {
            SendError::Connection { host, failure } => RegistryError::Connection { host, failure },
            SendError::Redirect { host, location, reason } => {
                RegistryError::Redirect { host, action: request.action.clone(), location, reason }
            }
        }
    }

    /// The error for an answer that is no success.
    fn refused(&self, request: &Request<'_>, answer: Answer) -> RegistryError {
        let host = answer.url.authority().to_owned();
        let (status, what, action) = (answer.status, request.what.clone(), request.action.clone());
        let detail = detail(answer);
        match status {
            401 | 403 => RegistryError::Unauthorized { host, action, detail },
            404 => RegistryError::NotFound { host, what, detail },
            _ => RegistryError::Status { host, action, status, detail },
        }
    }
}

/// One call of the API.
struct Request<'a> {
    endpoint: &'a Endpoint,
    access: Access,
    method: Method,
    /// Behind `/v2/REPOSITORY/`.
    path: String,
    /// In place of the path, where the registry has said how to go on.
    url: Option<Url>,
    headers: Vec<(&'static str, String)>,
    content: Content<'a>,
    /// For messages: "pull a/b:latest".
    action: String,
    /// For messages: "manifest a/b:latest".
    what: String,
}

impl<'a> Request<'a> {
    fn new(endpoint: &'a Endpoint, access: Access, action: String, what: String) -> Request<'a> {
        Request {
            endpoint,
            access,
            method: Method::GET,
            path: String::new(),
            url: None,
            headers: Vec::new(),
            content: Content::None,
            action,
            what,
        }
    }
}

fn push_to(endpoint: &Endpoint) -> String {
    format!("push to {}", endpoint.repository)
}

fn accept_manifests() -> Vec<(&'static str, String)> {
    vec![("Accept", media::MANIFESTS.join(", "))]
}

fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// A digest that cannot be read is as good as none: the content is hashed anyway.
fn header_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get("Docker-Content-Digest")?.to_str().ok()?.trim().parse().ok()
}

fn read_document(answer: Answer, host: &str, what: &str) -> Result<Vec<u8>, RegistryError> {
    read_limited(&mut answer.into_reader(), host, what)
}

fn read_limited(reader: &mut dyn Read, host: &str, what: &str) -> Result<Vec<u8>, RegistryError> {
    let (host, what) = (host.to_owned(), what.to_owned());
    let mut bytes = Vec::new();
    if let Err(source) = reader.take(DOCUMENT_LIMIT + 1).read_to_end(&mut bytes) {
        return Err(RegistryError::Read { host, what, source });
    }
    match bytes.len() as u64 {
        size if size > DOCUMENT_LIMIT => Err(RegistryError::TooLarge { host, what, limit: DOCUMENT_LIMIT }),
        _ => Ok(bytes),
    }
}

/// What the registry says about an error, in brackets, fit for a terminal.
fn detail(answer: Answer) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        code: Option<String>,
        message: Option<String>,
    }
    let mut text = Vec::new();
    let _ = answer.into_reader().take(DETAIL_LIMIT).read_to_end(&mut text);
    let Ok(Errors { errors }) = serde_json::from_slice::<Errors>(&text) else { return String::new() };
    let parts: Vec<String> = errors
        .iter()
        .take(3)
        .map(|e| {
            [e.code.as_deref(), e.message.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(": ")
        })
        .collect();
    let line: String = parts.join("; ").chars().filter(|c| !c.is_control()).take(300).collect();
    if line.is_empty() { line } else { format!(" ({line})") }
}
