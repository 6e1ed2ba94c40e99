//! Any file of any web server, for contexts and ADD: the transfers that have nothing to do with
//! registries, over the same connections, certificates and proxies.

use std::fmt;
use std::io::Read;

use ureq::http::Method;
use ureq::http::header::{HeaderName, HeaderValue};

use super::config::Security;
use super::error::ConnectionError;
use super::http::{Answer, Call, Content, Http, SendError};
use super::url::Url;

/// Gets files from web servers. Cheap to make; connections and certificates come with the first use.
#[derive(Debug)]
pub struct Web(Http);

/// What a server said, after redirects.
#[derive(Debug)]
pub struct WebAnswer(Answer);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// A text that is no address.
    #[error("`{0}` is not an address that can be fetched")]
    Address(String),
    /// No connection.
    #[error("the server {host} {failure}")]
    Connection {
        /// Host and port.
        host: String,
        /// What happened.
        failure: ConnectionError,
    },
    /// Plain HTTP where HTTPS is wanted.
    #[error("the server {host} answers HTTPS with something else, probably plain HTTP")]
    NotTls {
        /// Host and port.
        host: String,
    },
    /// A redirect that is not followed.
    #[error("the server {host} sends us on to {location:?}, {reason}")]
    Redirect {
        /// Host and port.
        host: String,
        /// Where to.
        location: String,
        /// Why that is refused.
        reason: &'static str,
    },
}

impl Web {
    /// With the proxies and certificates of this environment.
    pub fn from_environment() -> Web {
        Web(Http::from_environment())
    }

    /// Asks for `address`, with `headers` as they are. A user and password in the address are sent to its
    /// host, and along no redirect; what follows `#` is not sent.
    ///
    /// # Errors
    /// When there is no answer. An answer that tells of a failure is no error here.
    pub fn get(&self, address: &str, headers: &[(&'static str, String)]) -> Result<WebAnswer, WebError> {
        let (url, user) =
            read_address(address).ok_or_else(|| WebError::Address(without_password(address)))?;
        let authorization = match user {
            Some(user) => {
                let value = HeaderValue::from_str(&format!("Basic {}", base64(user.as_bytes())));
                Some(value.map_err(|_| WebError::Address(without_password(address)))?)
            }
            None => None,
        };
        let call = Call {
            method: Method::GET,
            url,
            headers: headers.to_vec(),
            content: Content::None,
            authorization,
            security: Security::Strict,
        };
        match self.0.send(&call) {
            Ok(answer) => Ok(WebAnswer(answer)),
            Err(SendError::Connection { host, failure: ConnectionError::NotTls }) => {
                Err(WebError::NotTls { host })
            }
            Err(SendError::Connection { host, failure }) => Err(WebError::Connection { host, failure }),
            Err(SendError::Redirect { host, location, reason }) => {
                // The longer reasons are for people who run registries.
                let reason = reason.split(" (").next().unwrap_or(reason);
                Err(WebError::Redirect { host, location, reason })
            }
        }
    }
}

impl WebAnswer {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.0.status
    }

    /// Host and port of the server that answered.
    pub fn host(&self) -> &str {
        self.0.url.authority()
    }

    /// A header's value, if it is there and is text; of several the first.
    pub fn header(&self, name: &'static str) -> Option<&str> {
        self.0.headers.get(HeaderName::from_static(name)).and_then(|value| value.to_str().ok())
    }

    /// The body.
    pub fn into_reader(self) -> impl Read {
        self.0.into_reader()
    }
}

/// The address that is asked, and user and password, as they are in it.
fn read_address(address: &str) -> Option<(Url, Option<String>)> {
    let address = address.split('#').next().unwrap_or_default();
    let (scheme, rest) = address.split_once("://")?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(unescape(user)?), host),
        None => (None, authority),
    };
    let mut text = format!("{}://{host}", scheme.to_ascii_lowercase());
    // People write blanks and letters of their language; servers get them escaped.
    for byte in path.bytes() {
        match byte {
            b'!'..=b'~' if !b"\"<>\\^`{|}".contains(&byte) => text.push(char::from(byte)),
            0..=0x1f | 0x7f => return None,
            other => fmt::Write::write_fmt(&mut text, format_args!("%{other:02X}")).ok()?,
        }
    }
    Some((Url::parse(&text)?, user))
}

fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            out.push(*first);
        }
    }
    String::from_utf8(out).ok()
}

/// An address for messages.
fn without_password(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => address.to_owned(),
    }
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit) & 63) as usize;
            text.push(if digit <= group.len() { char::from(DIGITS[value]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{Server, reply};

    #[test]
    fn addresses_as_people_write_them() {
        for (address, url, user) in [
            ("http://h.example", "http://h.example/", None),
            ("HTTP://H.example/A b/ü?q=1#f", "http://h.example/A%20b/%C3%BC?q=1", None),
            ("https://u:p%40@h.example:81/x", "https://h.example:81/x", Some("u:p@")),
            ("https://h.example/a@b", "https://h.example/a@b", None),
        ] {
            let (found, who) = read_address(address).unwrap();
            assert_eq!((found.to_string().as_str(), who.as_deref()), (url, user), "{address}");
        }
        for bad in ["", "h.example", "ftp://h.example/", "https:///x", "https://h/\n", "https://h\u{fc}/"] {
            assert!(read_address(bad).is_none(), "{bad:?}");
        }
        let error = Web::from_environment().get("ftp://u:secret@h.example/", &[]).unwrap_err().to_string();
        assert!(error.contains("h.example") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn base64_by_the_book() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("\u{fc}~", "w7x+"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded, "{plain}");
        }
    }

    #[test]
    fn passwords_go_to_their_host_and_along_no_redirect() {
        let other = Server::start(|_| reply(200, "there"));
        let location = format!("http://{}/x", other.host);
        let first = Server::start(move |_| reply(302, "").with("Location", location.clone()));
        let address = format!("http://u:p@{}/a#f", first.host);
        let answer = Web::from_environment().get(&address, &[("x-a", "b".to_owned())]).unwrap();
        assert_eq!((answer.status(), answer.host()), (200, other.host.as_str()));
        assert_eq!(first.seen()[0].header("authorization"), Some("Basic dTpw"));
        assert_eq!((first.seen()[0].line.as_str(), first.seen()[0].header("x-a")), ("GET /a", Some("b")));
        assert_eq!(other.seen()[0].header("authorization"), None);
    }
}
