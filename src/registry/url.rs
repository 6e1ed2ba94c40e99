//! Addresses: just enough of RFC 3986 to join what a registry says onto where it was asked.

use std::fmt;

use ureq::http::Uri;

/// `http` or `https`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Scheme {
    Https,
    Http,
}

/// An absolute address without user information and fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    scheme: Scheme,
    /// Host in lower case, and the port if it is said.
    authority: String,
    /// Begins with `/`.
    path_and_query: String,
}

/// Scheme, host and port: what credentials belong to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    scheme: Scheme,
    host: String,
    port: u16,
}

impl Scheme {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Scheme::Https => "https",
            Scheme::Http => "http",
        }
    }

    fn port(self) -> u16 {
        match self {
            Scheme::Https => 443,
            Scheme::Http => 80,
        }
    }
}

impl Url {
    /// An address on a registry. Host and path come from checked references and digests.
    pub(super) fn new(scheme: Scheme, authority: &str, path_and_query: String) -> Url {
        Url { scheme, authority: authority.to_ascii_lowercase(), path_and_query }
    }

    /// Reads an absolute address; what is no address, or could be read in two ways, is `None`.
    pub(super) fn parse(text: &str) -> Option<Url> {
        let uri: Uri = text.parse().ok().filter(|_| text.is_ascii())?;
        let scheme = match uri.scheme_str()? {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            _ => return None,
        };
        let authority = uri.authority()?.as_str();
        // `https://registry.example@evil.example/` is meant to be misread.
        if authority.contains('@') || uri.host()?.is_empty() {
            return None;
        }
        let port_text = authority[uri.host()?.len()..].strip_prefix(':');
        if port_text.is_some_and(|p| p.parse::<u16>().is_err()) {
            return None;
        }
        let path_and_query = match uri.path_and_query().map(|p| p.as_str()) {
            None | Some("") => "/".to_owned(),
            Some(query) if query.starts_with('?') => format!("/{query}"),
            Some(path) => path.to_owned(),
        };
        Some(Url { scheme, authority: authority.to_ascii_lowercase(), path_and_query })
    }

    /// The address that `location`, said at this address, leads to.
    pub(super) fn join(&self, location: &str) -> Option<Url> {
        let Url { scheme, authority, path_and_query } = self;
        let scheme = scheme.as_str();
        let path = path_and_query.split('?').next().unwrap_or("/");
        // What comes before the first colon is a scheme only if no `/` or `?` precedes it.
        let has_scheme = location.split(['/', '?']).next().is_some_and(|first| first.contains(':'));
        let text = if has_scheme {
            location.to_owned()
        } else if location.starts_with("//") {
            format!("{scheme}:{location}")
        } else if location.starts_with('/') {
            format!("{scheme}://{authority}{location}")
        } else if location.starts_with('?') {
            format!("{scheme}://{authority}{path}{location}")
        } else if location.is_empty() {
            return None;
        } else {
            let folder = path.rfind('/').map_or("/", |at| &path[..=at]);
            format!("{scheme}://{authority}{folder}{location}")
        };
        Url::parse(&text)
    }

    /// The same address with one more query parameter; the value must need no escaping.
    pub(super) fn with_parameter(&self, name: &str, value: &str) -> Url {
        let separator = if self.path_and_query.contains('?') { '&' } else { '?' };
        Url { path_and_query: format!("{}{separator}{name}={value}", self.path_and_query), ..self.clone() }
    }

    pub(super) fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Host and port as written, for messages.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// The host without port and brackets.
    pub(super) fn host(&self) -> &str {
        match self.authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((v6, _)) => v6,
            None => self.authority.split_once(':').map_or(&self.authority, |(name, _)| name),
        }
    }

    pub(super) fn port(&self) -> u16 {
        let after = self.authority.rsplit_once(']').map_or(self.authority.as_str(), |(_, after)| after);
        after.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(self.scheme.port())
    }

    pub(super) fn origin(&self) -> Origin {
        Origin { scheme: self.scheme, host: self.host().to_owned(), port: self.port() }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.as_str(), self.authority, self.path_and_query)
    }
}

/// Escapes a query parameter's value.
pub(super) fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            // `:`, `/` and `,` are allowed in a query, and scopes are full of them.
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b',' => {
                escaped.push(char::from(byte));
            }
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_joined_as_rfc_3986_has_it() {
        let base = Url::parse("https://r.example:5000/v2/a/blobs/uploads/?x=1").unwrap();
        for (location, expected) in [
            ("/v2/u?_state=a%3D", "https://r.example:5000/v2/u?_state=a%3D"),
            ("https://Other.example/x", "https://other.example/x"),
            ("http://other.example", "http://other.example/"),
            ("//other.example:81/y?z", "https://other.example:81/y?z"),
            ("1234?s=/x://y", "https://r.example:5000/v2/a/blobs/uploads/1234?s=/x://y"),
            ("?q=2", "https://r.example:5000/v2/a/blobs/uploads/?q=2"),
        ] {
            assert_eq!(base.join(location).map(|u| u.to_string()).as_deref(), Some(expected), "{location}");
        }
    }

    #[test]
    fn nonsense_is_no_address() {
        let base = Url::parse("https://r.example/v2/").unwrap();
        for bad in [
            "",
            "https://",
            "ftp://x/",
            "https://u:p@h/",
            "/a b",
            "/\u{fc}",
            "https://h:99999/",
            "http://[::1/",
            "file:///etc/passwd",
            "https://h\r\nX: y/",
        ] {
            assert_eq!(base.join(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn origins_know_default_ports() {
        let origin = |text: &str| Url::parse(text).unwrap().origin();
        assert_eq!(origin("https://A.example/x"), origin("https://a.example:443/y"));
        assert_ne!(origin("https://a.example/"), origin("http://a.example:443/"));
        assert_ne!(origin("https://a.example/"), origin("https://a.example:8443/"));
        let six = Url::parse("http://[::1]:5000/").unwrap();
        assert_eq!((six.host(), six.port()), ("::1", 5000));
        assert_eq!(Url::parse("http://[::1]/").unwrap().port(), 80);
    }
}
