//! One HTTP exchange: agents, certificates, proxies, timeouts, redirects.
//!
//! Redirects are followed here and not by `ureq`, so that one rule holds whatever the library does:
//! the `Authorization` header goes to the host it was made for and to no other.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ureq::http::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION};
use ureq::http::{Method, Request, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Body, SendBody};

use super::config::Security;
use super::error::ConnectionError;
use super::proxy::Proxies;
use super::roots::roots;
use super::url::{Scheme, Url};

const CONNECT: Duration = Duration::from_secs(30);
/// The longest silence in which a transfer counts as alive.
const STALL: Duration = Duration::from_secs(60);
/// A registry that was given a large blob may take its time to store it.
const STORING: Duration = Duration::from_secs(600);
const REDIRECTS: usize = 10;

/// Sends requests.
#[derive(Debug, Default)]
pub(super) struct Http {
    proxies: Proxies,
    roots: OnceLock<RootCerts>,
    /// One agent, with its idle connections, for each way of connecting.
    agents: Mutex<HashMap<(Security, Option<String>), Agent>>,
}

/// What a request carries.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    None,
    /// No bytes, and a header that says so: POST and PUT need it.
    Empty,
    Bytes(&'a [u8]),
    /// The whole file from its beginning; the function hears how many bytes were sent.
    File(&'a File, u64, &'a (dyn Fn(u64) + Sync)),
}

/// A request.
#[derive(Clone)]
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) content: Content<'a>,
    /// For the host of `url` only.
    pub(super) authorization: Option<HeaderValue>,
    pub(super) security: Security,
}

/// A response, after redirects.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    body: Body,
    /// Where it came from in the end.
    pub(super) url: Url,
}

/// Why there is no response.
#[derive(Debug)]
pub(super) enum SendError {
    Connection { host: String, failure: ConnectionError },
    Redirect { host: String, location: String, reason: &'static str },
}

/// A response's body, with errors for people.
pub(super) struct BodyReader(ureq::BodyReader<'static>);

impl Answer {
    pub(super) fn into_reader(self) -> BodyReader {
        BodyReader(self.body.into_reader())
    }
}

impl Read for BodyReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf).map_err(|e| match e.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(ureq::Error::Timeout(_)) => {
                let text = format!("nothing came for {} seconds", STALL.as_secs());
                io::Error::new(io::ErrorKind::TimedOut, text)
            }
            _ => e,
        })
    }
}

impl Http {
    pub(super) fn from_environment() -> Http {
        Http { proxies: Proxies::from_environment(|name| std::env::var(name).ok()), ..Http::default() }
    }

    /// Sends a request and follows redirects.
    pub(super) fn send(&self, call: &Call<'_>) -> Result<Answer, SendError> {
        let origin = call.url.origin();
        let mut url = call.url.clone();
        for _ in 0..=REDIRECTS {
            let authorization = call.authorization.as_ref().filter(|_| url.origin() == origin);
            let (status, headers, body) = self
                .exchange(call, &url, authorization)
                .map_err(|failure| SendError::Connection { host: url.authority().to_owned(), failure })?;
            let location = match status {
                301 | 302 | 303 | 307 | 308 => headers.get(LOCATION),
                _ => None,
            };
            let Some(location) = location else { return Ok(Answer { status, headers, body, url }) };
            let location = String::from_utf8_lossy(location.as_bytes()).into_owned();
            let refuse = |reason| SendError::Redirect {
                host: url.authority().to_owned(),
                location: location.chars().take(200).collect(),
                reason,
            };
            if !matches!(call.content, Content::None) && !matches!(status, 307 | 308) {
                return Err(refuse("in a way that would lose what is being sent"));
            }
            url = next_url(&url, &location, call.security).map_err(refuse)?;
        }
        Err(SendError::Redirect {
            host: call.url.authority().to_owned(),
            location: url.to_string().chars().take(200).collect(),
            reason: "after ten redirects before it, which is a loop",
        })
    }

    fn exchange(
        &self,
        call: &Call<'_>,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<(u16, HeaderMap, Body), ConnectionError> {
        let agent = self.agent(url, call.security)?;
        let mut request = Request::builder().method(call.method.clone()).uri(url.to_string());
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        if let Some(value) = authorization {
            // Printed as "Sensitive" by whatever logs headers.
            let mut value = value.clone();
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let (size, reader): (u64, Option<Box<dyn Read + '_>>) = match call.content {
            Content::None => (0, None),
            Content::Empty => (0, Some(Box::new(io::empty()))),
            Content::Bytes(bytes) => (bytes.len() as u64, Some(Box::new(bytes))),
            Content::File(file, size, sent) => {
                let counted =
                    Counted::new(file, size, sent).map_err(|e| ConnectionError::Other(e.to_string()))?;
                (size, Some(Box::new(counted)))
            }
        };
        let invalid = |e: ureq::http::Error| ConnectionError::Other(e.to_string());
        let response = match reader {
            None => {
                let request = request.body(()).map_err(invalid)?;
                agent.run(request)
            }
            Some(mut reader) => {
                let body = SendBody::from_reader(&mut reader);
                let request = request.header(CONTENT_LENGTH, size).body(body).map_err(invalid)?;
                let request = agent.configure_request(request).timeout_per_read(Some(STORING)).build();
                agent.run(request)
            }
        };
        let response = response.map_err(|e| {
            let failure = connection_error(e);
            if self.proxies.choose(url).is_some() { failure.of_proxy() } else { failure }
        })?;
        let (parts, body) = response.into_parts();
        Ok((parts.status.as_u16(), parts.headers, body))
    }

    fn agent(&self, url: &Url, security: Security) -> Result<Agent, ConnectionError> {
        let proxy = self.proxies.choose(url);
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (security, proxy.map(str::to_owned));
        if let Some(agent) = agents.get(&key) {
            return Ok(agent.clone());
        }
        let proxy = match proxy {
            None => None,
            Some(address) => Some(proxy_of(address)?),
        };
        // Reading the certificates takes milliseconds, which is for those who look at them.
        let roots = match security {
            Security::Strict => self.roots.get_or_init(roots).clone(),
            Security::Relaxed => RootCerts::WebPki,
        };
        let tls = TlsConfig::builder()
            .root_certs(roots)
            .disable_verification(security == Security::Relaxed)
            .build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("cooper/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls)
            .proxy(proxy)
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(STALL))
            .timeout_per_write(Some(STALL))
            .max_idle_connections_per_host(8)
            .build();
        let agent = Agent::with_parts(config, DefaultConnector::default(), Inline::default());
        agents.insert(key, agent.clone());
        Ok(agent)
    }
}

fn next_url(from: &Url, location: &str, security: Security) -> Result<Url, &'static str> {
    let next = from.join(location).ok_or("which is not a usable address")?;
    // What was plain from the start has nothing to lose; a registry begins with HTTPS where it is strict.
    let given_up = from.scheme() == Scheme::Https && next.scheme() == Scheme::Http;
    if given_up && security == Security::Strict {
        return Err(
            "without encryption, which is refused (behind a proxy, the registry may need to be told that it \
             is reached over https: `X-Forwarded-Proto`)",
        );
    }
    Ok(next)
}

/// The address an upload goes on at, said by a registry in `Location`.
pub(super) fn upload_url(answer: &Answer, security: Security) -> Result<Url, SendError> {
    let location = answer.headers.get(LOCATION).map(|l| String::from_utf8_lossy(l.as_bytes()).into_owned());
    let location = location.unwrap_or_default();
    next_url(&answer.url, &location, security).map_err(|reason| SendError::Redirect {
        host: answer.url.authority().to_owned(),
        location: location.chars().take(200).collect(),
        reason,
    })
}

fn proxy_of(address: &str) -> Result<ureq::Proxy, ConnectionError> {
    let wrong = |why: &str| {
        // An address may hold a password: only what stands behind it is shown.
        let shown = address.rsplit('@').next().unwrap_or_default();
        ConnectionError::Proxy(format!("`{shown}` {why}"))
    };
    let proxy = ureq::Proxy::new(address)
        .map_err(|_| wrong("in HTTPS_PROXY or HTTP_PROXY is not a proxy's address"))?;
    match proxy.protocol() {
        ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https => Ok(proxy),
        _ => Err(wrong("is a SOCKS proxy, which cooper does not know; use an HTTP proxy")),
    }
}

/// Looks names up on the calling thread. `ureq`'s own resolver uses a thread that it does not wait for
/// where there is a timeout, and cooper must be able to count on having one thread only.
#[derive(Debug, Default)]
struct Inline(DefaultResolver);

impl Resolver for Inline {
    fn resolve(
        &self,
        uri: &Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let never = ureq::unversioned::transport::time::Duration::NotHappening;
        self.0.resolve(uri, config, NextTimeout { after: never, ..timeout })
    }
}

/// Reads a file from its beginning and tells how far it got.
struct Counted<'a> {
    file: &'a File,
    left: u64,
    sent: &'a (dyn Fn(u64) + Sync),
}

impl<'a> Counted<'a> {
    fn new(mut file: &'a File, size: u64, sent: &'a (dyn Fn(u64) + Sync)) -> io::Result<Counted<'a>> {
        file.rewind()?;
        Ok(Counted { file, left: size, sent })
    }
}

impl Read for Counted<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        let got = self.file.read(&mut buf[..most])?;
        if got == 0 && most > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was sent",
            ));
        }
        self.left -= got as u64;
        (self.sent)(got as u64);
        Ok(got)
    }
}

/// What `ureq` says, in our words. It wraps errors of TLS in I/O errors, and those only have texts.
fn connection_error(error: ureq::Error) -> ConnectionError {
    let tls = |text: String| {
        if text.contains("InvalidContentType") || text.contains("corrupt message") {
            ConnectionError::NotTls
        } else {
            ConnectionError::Tls(text)
        }
    };
    match error {
        ureq::Error::HostNotFound => ConnectionError::UnknownHost,
        ureq::Error::Timeout(which) => ConnectionError::TimedOut(which.to_string()),
        ureq::Error::ConnectProxyFailed(text) => ConnectionError::Proxy(text),
        ureq::Error::InvalidProxyUrl => ConnectionError::Proxy("its address is not valid".to_owned()),
        ureq::Error::Rustls(e) => tls(e.to_string()),
        ureq::Error::Tls(text) => tls(text.to_owned()),
        ureq::Error::Io(e) => {
            let text = e.to_string();
            match e.kind() {
                io::ErrorKind::ConnectionRefused => ConnectionError::Refused,
                io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => ConnectionError::TimedOut(text),
                // rustls inside.
                io::ErrorKind::InvalidData => tls(text),
                _ if text.starts_with("failed to lookup address") => ConnectionError::UnknownHost,
                _ => ConnectionError::Other(text),
            }
        }
        other => ConnectionError::Other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encryption_is_not_given_up_on_the_way() {
        let from = Url::parse("https://r.example/v2/").unwrap();
        assert!(
            next_url(&from, "http://r.example/x", Security::Strict)
                .unwrap_err()
                .contains("without encryption")
        );
        assert!(next_url(&from, "http://r.example/x", Security::Relaxed).is_ok());
        assert!(next_url(&from, "https://cdn.example/x", Security::Strict).is_ok());
    }

    #[test]
    fn a_proxys_password_is_not_shown() {
        for address in ["socks5://u:secret@p.example:1", "gopher://u:secret@p.example"] {
            let message = proxy_of(address).unwrap_err().to_string();
            assert!(message.contains("p.example") && !message.contains("secret"), "{message}");
        }
        assert!(proxy_of("http://u:secret@p.example:3128").is_ok());
    }
}
