//! Which proxy a request goes through, from the environment, by the rules that Go's programs have made
//! customary.

use std::net::IpAddr;

use super::config::is_loopback;
use super::url::{Scheme, Url};

/// The proxies of this environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Proxies {
    https: Option<String>,
    http: Option<String>,
    exceptions: Vec<String>,
}

impl Proxies {
    /// Upper or lower case; `ALL_PROXY` where there is no particular one.
    pub(super) fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Proxies {
        let first = |names: &[&str]| names.iter().find_map(|n| variable(n).filter(|v| !v.trim().is_empty()));
        Proxies {
            https: first(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]),
            http: first(&["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]),
            exceptions: first(&["NO_PROXY", "no_proxy"])
                .unwrap_or_default()
                .split([',', ' '])
                .filter(|e| !e.is_empty())
                .map(str::to_ascii_lowercase)
                .collect(),
        }
    }

    /// The proxy's address for a request; never one for this machine itself.
    pub(super) fn choose(&self, url: &Url) -> Option<&str> {
        let proxy = match url.scheme() {
            Scheme::Https => self.https.as_deref(),
            Scheme::Http => self.http.as_deref(),
        };
        proxy.filter(|_| !is_loopback(url.authority()) && !self.exceptions.iter().any(|e| excepts(e, url)))
    }
}

/// Whether one entry of `NO_PROXY` covers an address: `*`, a host (and what is below it), `.domain`
/// (only what is below it), an IP address or a range of them; with an optional port.
fn excepts(entry: &str, url: &Url) -> bool {
    if entry == "*" {
        return true;
    }
    let host = url.host();
    let address = host.parse::<IpAddr>().ok();
    if let Some((network, bits)) = entry.split_once('/') {
        let (Some(address), Ok(network), Ok(bits)) = (address, network.parse(), bits.parse()) else {
            return false;
        };
        return in_network(address, network, bits);
    }
    let (name, port) = match entry.rsplit_once(':') {
        // More colons make it an IPv6 address, which has a port only behind brackets.
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, Some(port)),
        _ => (entry, None),
    };
    if port.is_some_and(|p| p.parse() != Ok(url.port())) {
        return false;
    }
    let name = name.trim_start_matches('[').trim_end_matches(']');
    if let (Some(address), Ok(excepted)) = (address, name.parse::<IpAddr>()) {
        return address == excepted;
    }
    let below =
        |domain: &str| host.strip_suffix(domain).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'));
    match name.strip_prefix("*.").or_else(|| name.strip_prefix('.')) {
        Some(domain) => below(domain),
        None => !name.is_empty() && (host == name || below(name)),
    }
}

fn in_network(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            a.to_bits() & mask == n.to_bits() & mask
        }
        (IpAddr::V6(a), IpAddr::V6(n)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            a.to_bits() & mask == n.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn through(no_proxy: &str, url: &str) -> bool {
        let proxies = Proxies::from_environment(|name| match name {
            "HTTPS_PROXY" => Some("http://secure:1".to_owned()),
            "http_proxy" => Some("http://plain:2".to_owned()),
            "NO_PROXY" => Some(no_proxy.to_owned()),
            _ => None,
        });
        proxies.choose(&Url::parse(url).unwrap()).is_some()
    }

    #[test]
    fn schemes_have_their_own_proxy_and_this_machine_has_none() {
        let proxies = Proxies::from_environment(|name| (name == "HTTPS_PROXY").then(|| "p:1".to_owned()));
        let choose = |url: &str| proxies.choose(&Url::parse(url).unwrap()).map(str::to_owned);
        assert_eq!(choose("https://a.example/"), Some("p:1".to_owned()));
        assert_eq!(choose("http://a.example/"), None);
        for local in ["https://localhost:5000/", "https://127.8.0.1/", "https://[::1]:1/"] {
            assert_eq!(choose(local), None, "{local}");
        }
    }

    #[test]
    fn exceptions_are_hosts_domains_and_networks() {
        for (no_proxy, url, expected) in [
            ("", "https://a.example/", true),
            ("*", "https://a.example/", false),
            ("example", "https://a.example/", false),
            ("a.example", "https://a.example/", false),
            ("a.example", "https://b.a.example/", false),
            ("a.example", "https://ba.example/", true),
            (".a.example", "https://a.example/", true),
            ("x, .a.example", "https://b.a.example/", false),
            ("*.a.example", "https://b.a.example/", false),
            ("a.example:443", "https://a.example/", false),
            ("a.example:5000", "https://a.example/", true),
            ("10.0.0.0/8", "http://10.2.3.4:5000/", false),
            ("10.0.0.0/8", "http://11.2.3.4:5000/", true),
            ("0.0.0.0/0", "http://11.2.3.4/", false),
            ("10.0.0.0/99", "http://10.2.3.4/", true),
            ("fd00::/8", "https://[fd12::1]:5000/", false),
            ("fd12::1", "https://[fd12::1]:5000/", false),
            ("[fd12::1]:5000", "https://[fd12::1]:5000/", false),
            ("[fd12::1]:5001", "https://[fd12::1]:5000/", true),
        ] {
            assert_eq!(through(no_proxy, url), expected, "{no_proxy:?} {url}");
        }
    }
}
