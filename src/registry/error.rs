//! What can go wrong between here and a registry, in sentences for the person at the terminal.

use crate::image::{Digest, Platform, Reference};
use crate::store::{ReceiveError, StoreError};

use super::config::ConfigError;
use super::contents::ContentsError;
use super::document::DocumentError;

/// A pull or push that failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// `registries.conf` is wrong, or forbids it.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No answer.
    #[error("registry {host} {failure}")]
    Connection {
        /// Host and port.
        host: String,
        /// What happened.
        failure: ConnectionError,
    },
    /// The registry wants to know who we are.
    #[error(
        "{host} does not let an anonymous user {action}{detail}: either there is no such repository, or it is \
         private, and private images need `login`, which this version does not have"
    )]
    Unauthorized {
        /// Host and port.
        host: String,
        /// What was asked, as in "pull a/b:latest".
        action: String,
        /// What the registry said, in brackets; may be empty.
        detail: String,
    },
    /// A layer that registries do not pass on, and that nobody else has either.
    #[error(
        "layer {digest} is not passed on by registries, and not to be had from where the image says: {}",
        list(tried)
    )]
    Elsewhere {
        /// Which.
        digest: Digest,
        /// Each address, and why it was of no use.
        tried: Vec<(String, String)>,
    },
    /// Not there.
    #[error("{host} has no {what}{detail}")]
    NotFound {
        /// Host and port.
        host: String,
        /// Which document or blob.
        what: String,
        /// What the registry said, in brackets; may be empty.
        detail: String,
    },
    /// Any other answer that is no success.
    #[error("{host} answered {status} when asked to {action}{detail}")]
    Status {
        /// Host and port.
        host: String,
        /// What was asked.
        action: String,
        /// HTTP status.
        status: u16,
        /// What the registry said, in brackets; may be empty.
        detail: String,
    },
    /// A redirect or upload address that is not followed.
    #[error("{host} sends us on to {location:?} to {action}, {reason}")]
    Redirect {
        /// Host and port.
        host: String,
        /// What was asked.
        action: String,
        /// Where to.
        location: String,
        /// Why that is refused.
        reason: &'static str,
    },
    /// The token service gave no token.
    #[error("{host} gave no usable token for {scope}: {reason}")]
    Token {
        /// Host of the token service.
        host: String,
        /// What the token was for.
        scope: String,
        /// What was wrong.
        reason: String,
    },
    /// A manifest or configuration of absurd size.
    #[error("{what} from {host} is larger than {limit} bytes, which no honest one is")]
    TooLarge {
        /// Host and port.
        host: String,
        /// Which document.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// A document that breaks off or does not arrive.
    #[error("reading {what} from {host}: {source}")]
    Read {
        /// Host and port.
        host: String,
        /// Which document.
        what: String,
        /// How it broke.
        source: std::io::Error,
    },
    /// A document with another content than was announced.
    #[error("{host} gave {what} with the digest {found} where {expected} was announced")]
    Digest {
        /// Host and port.
        host: String,
        /// Which document.
        what: String,
        /// Announced.
        expected: Digest,
        /// Computed.
        found: Digest,
    },
    /// A manifest, index or configuration that makes no sense.
    #[error("{what} cannot be used: {source}")]
    Document {
        /// Which document, and from where.
        what: String,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// An index without this platform.
    #[error("no image for {platform} in {name}; {}", available(platforms))]
    NoPlatform {
        /// The name asked for.
        name: String,
        /// The platform wanted.
        platform: Box<Platform>,
        /// Those that are there.
        platforms: Vec<String>,
    },
    /// A layer arrived wrong or not at all.
    #[error("{host}: {source}")]
    Blob {
        /// Host and port.
        host: String,
        /// What was wrong.
        source: ReceiveError,
    },
    /// None of several places had it.
    #[error("{reference} was found nowhere:{}", tried.iter().map(|(e, why)| format!("\n  {e}: {why}")).collect::<String>())]
    Everywhere {
        /// The name asked for.
        reference: Box<Reference>,
        /// Each place, with what went wrong there.
        tried: Vec<(String, RegistryError)>,
    },
    /// A push whose name has a digest that is not the image's.
    #[error("cannot push {found} as {reference}: that name has another digest")]
    OtherDigest {
        /// The name to push to.
        reference: Box<Reference>,
        /// The image's digest.
        found: Digest,
    },
    /// The image to push is not whole.
    #[error("cannot push {reference}: {source}")]
    Incomplete {
        /// The name to push to.
        reference: Box<Reference>,
        /// What is missing or wrong.
        source: ContentsError,
    },
    /// Reading a blob of our own.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why there was no answer; reads on after "registry HOST".
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// Nobody listens.
    #[error("refused the connection: is it running?")]
    Refused,
    /// No such host.
    #[error(
        "cannot be found: no address is known for this host name (is it spelt right, and is there a network?)"
    )]
    UnknownHost,
    /// Nothing for too long.
    #[error("did not answer in time ({0})")]
    TimedOut(String),
    /// No trusted TLS.
    #[error("could not be reached over TLS: {0}")]
    Tls(String),
    /// The server speaks plain HTTP where HTTPS is wanted.
    #[error(
        "answered HTTPS with something else, probably plain HTTP: if that is meant, set `insecure = true` for it \
         in registries.conf"
    )]
    NotTls,
    /// The proxy did not help.
    #[error("could not be reached through the proxy: {0}")]
    Proxy(String),
    /// The connection broke or never was.
    #[error("could not be reached: {0}")]
    Other(String),
    /// HTTPS and plain HTTP both failed.
    #[error("could not be reached over HTTPS ({https}) nor over HTTP ({http})")]
    Both {
        /// Over TLS.
        https: Box<ConnectionError>,
        /// Without.
        http: Box<ConnectionError>,
    },
}

impl ConnectionError {
    /// The same failure where it was the proxy that was asked: only there is a host looked up, and
    /// only it can refuse.
    pub(super) fn of_proxy(self) -> ConnectionError {
        match self {
            ConnectionError::Refused => ConnectionError::Proxy("it refused the connection".to_owned()),
            ConnectionError::UnknownHost => ConnectionError::Proxy("no address is known for it".to_owned()),
            other => other,
        }
    }
}

impl RegistryError {
    /// Whether another place may do better. What is wrong on our side (a full disk), or with what was
    /// asked, is wrong everywhere.
    pub(super) fn try_elsewhere(&self) -> bool {
        !matches!(
            self,
            RegistryError::Store(_)
                | RegistryError::Config(_)
                | RegistryError::Blob { source: ReceiveError::Store(_), .. }
                | RegistryError::Everywhere { .. }
        )
    }
}

fn list(tried: &[(String, String)]) -> String {
    tried.iter().map(|(url, why)| format!("{url}: {why}")).collect::<Vec<_>>().join("; ")
}

fn available(platforms: &[String]) -> String {
    match platforms {
        [] => "it has none at all".to_owned(),
        some => format!("it has {}", some.join(", ")),
    }
}
