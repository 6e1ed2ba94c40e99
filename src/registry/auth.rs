//! Bearer tokens, fetched without credentials.
//!
//! Docker Hub, ghcr.io and quay.io want a token even for what everybody may read: a 401 answer names a
//! token service, which gives one to anybody who asks. With credentials the request to that service
//! would carry them; that is the seam for `login`.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use ureq::http::Method;
use ureq::http::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};

use super::config::Security;
use super::http::{Call, Content, Http, SendError};
use super::url::{Origin, Scheme, Url, escape};

/// Tokens are a few kilobytes.
const TOKEN_LIMIT: u64 = 1 << 20;

/// One way of authenticating that a server offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    /// In lower case.
    pub(super) scheme: String,
    parameters: Vec<(String, String)>,
}

/// The tokens of this command: by the host they are for, and by what they allow.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<(Origin, String), HeaderValue>>);

/// Why there is no token.
#[derive(Debug)]
pub(super) enum TokenError {
    /// The service was not reached.
    Send(SendError),
    /// The service wants credentials.
    Refused { host: String },
    /// Its answer is of no use.
    Unusable { host: String, reason: String },
}

impl Challenge {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// All challenges of an answer.
    pub(super) fn all(headers: &HeaderMap) -> Vec<Challenge> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok());
        values.flat_map(parse_challenges).collect()
    }
}

impl Tokens {
    pub(super) fn get(&self, origin: &Origin, scope: &str) -> Option<HeaderValue> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(&(origin.clone(), scope.to_owned())).cloned()
    }

    pub(super) fn put(&self, origin: Origin, scope: &str, token: HeaderValue) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.insert((origin, scope.to_owned()), token);
    }
}

/// Asks the token service that a challenge names; gives the value of an `Authorization` header.
/// `scope` is what we are after, for challenges that do not say it.
pub(super) fn fetch_token(
    http: &Http,
    challenge: &Challenge,
    from: &Url,
    scope: &str,
    security: Security,
) -> Result<HeaderValue, TokenError> {
    let unusable =
        |host: &str, reason: &str| TokenError::Unusable { host: host.to_owned(), reason: reason.to_owned() };
    let realm = challenge.get("realm").unwrap_or_default();
    let Some(mut url) = Url::parse(realm) else {
        return Err(unusable(
            from.authority(),
            &format!("`{}` is not a token service's address", shown(realm)),
        ));
    };
    let host = url.authority().to_owned();
    if url.scheme() == Scheme::Http && security == Security::Strict {
        return Err(unusable(&host, "it would go over the network without encryption"));
    }
    if let Some(service) = challenge.get("service") {
        url = url.with_parameter("service", &escape(service));
    }
    for part in challenge.get("scope").filter(|s| !s.is_empty()).unwrap_or(scope).split(' ') {
        url = url.with_parameter("scope", &escape(part));
    }
    let call = Call {
        method: Method::GET,
        url,
        headers: vec![("Accept", "application/json".to_owned())],
        content: Content::None,
        authorization: None,
        security,
    };
    let answer = http.send(&call).map_err(TokenError::Send)?;
    match answer.status {
        200 => {}
        401 | 403 => return Err(TokenError::Refused { host }),
        status => return Err(unusable(&host, &format!("it answered {status}"))),
    }
    #[derive(Deserialize)]
    struct Granted {
        token: Option<String>,
        access_token: Option<String>,
    }
    let mut text = Vec::new();
    let read = answer.into_reader().take(TOKEN_LIMIT).read_to_end(&mut text);
    read.map_err(|e| unusable(&host, &format!("its answer broke off: {e}")))?;
    // Not with the parser's message: it may show a part of the token.
    let granted: Granted =
        serde_json::from_slice(&text).map_err(|_| unusable(&host, "its answer is not the JSON expected"))?;
    let token = granted.token.filter(|t| !t.is_empty()).or(granted.access_token).unwrap_or_default();
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(unusable(&host, "its answer holds no token"));
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| unusable(&host, "its answer holds no token"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

/// Reads `Scheme name=value, name="value", Scheme …`, skipping what it does not understand.
fn parse_challenges(text: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() && after.is_empty() {
            return challenges;
        }
        let after = after.trim_start_matches([' ', '\t']);
        let Some(value) = after.strip_prefix('=') else {
            challenges.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
            rest = after;
            continue;
        };
        let value = value.trim_start_matches([' ', '\t']);
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = value.find([' ', '\t', ',']).unwrap_or(value.len());
                (value[..end].to_owned(), &value[end..])
            }
        };
        if let Some(challenge) = challenges.last_mut() {
            challenge.parameters.push((word.to_ascii_lowercase(), value));
        }
        rest = after;
    }
}

/// What is before the closing quote, and what comes after it.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_servers_write_them() {
        let text = r#"Bearer realm="https://auth.example/token",service=registry.example,scope="repository:a/b:pull,push", Basic realm="say \"hi\", you""#;
        let challenges = parse_challenges(text);
        assert_eq!(challenges.len(), 2);
        assert_eq!(challenges[0].scheme, "bearer");
        assert_eq!(challenges[0].get("scope"), Some("repository:a/b:pull,push"));
        assert_eq!(challenges[0].get("service"), Some("registry.example"));
        assert_eq!(challenges[1].get("realm"), Some(r#"say "hi", you"#));
    }

    #[test]
    fn nonsense_is_skipped_and_ends() {
        for text in [
            "",
            ",,,",
            "=",
            "===",
            "=x,=y",
            "Bearer realm=\"",
            "a b c",
            "Bearer =",
            "\"",
            "Bearer realm=\"\\",
        ] {
            parse_challenges(text);
        }
        assert_eq!(parse_challenges("Bearer realm=\"x")[0].get("realm"), Some("x"));
    }
}
