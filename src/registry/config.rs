//! `registries.conf`, version 2: which registries a short name means, and where a full name's content
//! is really fetched from.
//!
//! The rules are those of containers-registries.conf(5): of all `[[registry]]` tables the one with the
//! longest prefix of the name counts, and only that one; its mirrors are asked first, then its
//! location. Parsing is pure; `files.rs` finds and reads the files.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use crate::image::reference::DEFAULT_REGISTRY;
use crate::image::{ImageName, Reference};

/// Where Docker Hub's content is served; `docker.io` itself is a web site.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// A configuration that cannot be used, or that forbids what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A file that is there cannot be read.
    #[error("cannot read {file}: {reason}")]
    Read {
        /// Which.
        file: String,
        /// Why.
        reason: String,
    },
    /// Not TOML, or a field with another type.
    #[error("{file} is not a registries.conf: {reason}")]
    Syntax {
        /// Which file.
        file: String,
        /// What the parser said, with the line.
        reason: String,
    },
    /// The old format.
    #[error(
        "{file} has the format of version 1 (`[registries.{section}]`), which cooper does not read: \
         write `unqualified-search-registries = […]` and `[[registry]]` tables, as \
         containers-registries.conf(5) explains"
    )]
    Version1 {
        /// Which file.
        file: String,
        /// The table that shows it.
        section: String,
    },
    /// A value that makes no sense.
    #[error("{file}: {reason}")]
    Value {
        /// Which file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A registry that the configuration forbids.
    #[error("{reference} is not fetched: registries.conf blocks `{prefix}`")]
    Blocked {
        /// The name asked for.
        reference: String,
        /// The prefix of the table that blocks it.
        prefix: String,
    },
    /// Prefix and location together give no name.
    #[error("registries.conf turns {reference} into `{rewritten}`, which is not an image name: {reason}")]
    Rewrite {
        /// The name asked for.
        reference: String,
        /// What it became.
        rewritten: String,
        /// Why that is no name.
        reason: String,
    },
}

/// How far a connection must be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// HTTPS with a certificate that verifies, nothing else.
    Strict,
    /// HTTPS with any certificate, or plain HTTP where there is no TLS: `insecure = true`, and
    /// loopback hosts, which Docker treats the same way.
    Relaxed,
}

/// One place to ask for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Host and optional port to connect to.
    pub host: String,
    /// The repository there, after prefix rewriting.
    pub repository: String,
    /// Tag and digest of what is wanted, as in the reference.
    pub reference: Reference,
    /// What connection will do.
    pub security: Security,
    /// Whether this is a mirror, and not the registry itself.
    pub mirror: bool,
}

/// When a mirror may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MirrorUse {
    All,
    DigestOnly,
    TagOnly,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mirror {
    location: String,
    insecure: bool,
    used_for: MirrorUse,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Registry {
    /// As written: a beginning of full names, or `*.` and a domain.
    prefix: String,
    /// Empty only below a wildcard: nothing is rewritten.
    location: String,
    insecure: bool,
    blocked: bool,
    mirrors: Vec<Mirror>,
}

/// What `registries.conf` and its drop-ins say together; the default is what holds without any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registries {
    /// `None` when no file sets it, which means Docker Hub; an empty list means that short names are
    /// not wanted.
    search: Option<Vec<String>>,
    registries: Vec<Registry>,
    aliases: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    unqualified_search_registries: Option<Vec<String>>,
    #[serde(default)]
    registry: Vec<RegistryTable>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RegistryTable {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<MirrorTable>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MirrorTable {
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: String,
}

/// Fields with no effect on what cooper does: prompting happens in interactive programs only, and
/// credentials are not read yet.
const ACCEPTED: [&str; 3] = ["credential-helpers", "short-name-mode", "additional-layer-store-auth-helper"];
const KNOWN: [&str; 3] = ["unqualified-search-registries", "registry", "aliases"];
const KNOWN_REGISTRY: [&str; 6] =
    ["prefix", "location", "insecure", "blocked", "mirror-by-digest-only", "mirror"];
const KNOWN_MIRROR: [&str; 3] = ["location", "insecure", "pull-from-mirror"];

impl Registries {
    /// Parses one file. `name` is for messages. Gives also what should be told to the user: fields
    /// that mean nothing to us.
    ///
    /// # Errors
    /// When it is not TOML, has the old format, or contradicts itself.
    pub fn parse(name: &str, text: &str) -> Result<(Registries, Vec<String>), ConfigError> {
        let syntax = |e: toml::de::Error| ConfigError::Syntax {
            file: name.to_owned(),
            reason: e.to_string().trim_end().to_owned(),
        };
        let value = |reason: String| ConfigError::Value { file: name.to_owned(), reason };
        let table: toml::Table = toml::from_str(text).map_err(syntax)?;
        if let Some(toml::Value::Table(old)) = table.get("registries") {
            let section = old.keys().next().cloned().unwrap_or_default();
            return Err(ConfigError::Version1 { file: name.to_owned(), section });
        }
        let file: File = toml::from_str(text).map_err(syntax)?;
        let search = match file.unqualified_search_registries {
            Some(hosts) => {
                Some(hosts.iter().map(|h| search_host(h)).collect::<Result<_, _>>().map_err(value)?)
            }
            None => None,
        };
        let mut registries: Vec<Registry> = Vec::new();
        for table in file.registry {
            let registry = registry(table).map_err(value)?;
            if registries.iter().any(|r| r.prefix == registry.prefix) {
                let reason = format!("there are two [[registry]] tables for `{}`: keep one", registry.prefix);
                return Err(value(reason));
            }
            registries.push(registry);
        }
        for (alias, target) in &file.aliases {
            check_alias(alias, target).map_err(value)?;
        }
        let warnings = unknown_fields(&table).into_iter().map(|w| format!("{name}: {w}")).collect();
        Ok((Registries { search, registries, aliases: file.aliases }, warnings))
    }

    /// Puts a drop-in over what was read before: its search list and its tables replace those of the
    /// same prefix, its aliases those of the same name.
    pub fn merge(&mut self, over: Registries) {
        if over.search.is_some() {
            self.search = over.search;
        }
        for registry in over.registries {
            match self.registries.iter_mut().find(|r| r.prefix == registry.prefix) {
                Some(old) => *old = registry,
                None => self.registries.push(registry),
            }
        }
        self.aliases.extend(over.aliases);
    }

    /// The full names that a name may mean, in the order in which they are to be tried. A name with a
    /// registry means itself. A short name means its alias, else itself in each of the search
    /// registries; the list is empty when the configuration says that there are none.
    pub fn candidates(&self, name: &ImageName) -> Vec<Reference> {
        if name.registry.is_some() {
            return vec![name.normalised()];
        }
        // An empty target erases an alias that an earlier file has set.
        if let Some(target) = self.aliases.get(&name.repository).filter(|t| !t.is_empty())
            && let Ok(target) = target.parse::<ImageName>()
        {
            let full = ImageName { tag: name.tag.clone(), digest: name.digest, ..target };
            return vec![full.normalised()];
        }
        match &self.search {
            Some(hosts) => hosts.iter().map(|host| name.in_registry(host)).collect(),
            None => vec![name.in_registry(DEFAULT_REGISTRY)],
        }
    }

    /// The places to pull `reference` from, in the order in which they are to be tried: mirrors, then
    /// the registry itself.
    ///
    /// # Errors
    /// When the configuration blocks the name, or makes something of it that is no name.
    pub fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>, ConfigError> {
        let full = reference.to_string();
        let Some((registry, matched)) = self.matching(&full)? else {
            return Ok(vec![endpoint(reference.clone(), false, false)]);
        };
        let rewrite = |location: &str| -> Result<Reference, ConfigError> {
            if location.is_empty() {
                return Ok(reference.clone());
            }
            let rewritten = format!("{location}{}", &full[matched..]);
            let failed = |reason: String| ConfigError::Rewrite {
                reference: full.clone(),
                rewritten: rewritten.clone(),
                reason,
            };
            let name = rewritten.parse::<ImageName>().map_err(|e| failed(e.to_string()))?;
            if name.registry.is_none() {
                return Err(failed("it has no registry".to_owned()));
            }
            Ok(name.normalised())
        };
        let mut endpoints = Vec::new();
        for mirror in &registry.mirrors {
            let wanted = match mirror.used_for {
                MirrorUse::All => true,
                MirrorUse::DigestOnly => reference.digest.is_some(),
                MirrorUse::TagOnly => reference.digest.is_none(),
            };
            if wanted {
                endpoints.push(endpoint(rewrite(&mirror.location)?, mirror.insecure, true));
            }
        }
        endpoints.push(endpoint(rewrite(&registry.location)?, registry.insecure, false));
        Ok(endpoints)
    }

    /// The place to push `reference` to: always the registry it names, since mirrors and rewriting
    /// are for reading only.
    ///
    /// # Errors
    /// When the configuration blocks the name.
    pub fn push_endpoint(&self, reference: &Reference) -> Result<Endpoint, ConfigError> {
        let found = self.matching(&reference.to_string())?;
        Ok(endpoint(reference.clone(), found.is_some_and(|(registry, _)| registry.insecure), false))
    }

    /// The table that counts for a full name, and how many bytes of the name its prefix covers.
    fn matching(&self, full: &str) -> Result<Option<(&Registry, usize)>, ConfigError> {
        let mut best: Option<(&Registry, usize)> = None;
        for registry in &self.registries {
            // Other tools let `example.com` match `example.com:5000` too, and call it a mistake. We do
            // not, except that what they block stays blocked.
            if let Some(matched) = match_prefix(full, &registry.prefix, registry.blocked)
                && best.is_none_or(|(b, _)| registry.prefix.len() > b.prefix.len())
            {
                best = Some((registry, matched));
            }
        }
        match best {
            Some((registry, _)) if registry.blocked => {
                Err(ConfigError::Blocked { reference: full.to_owned(), prefix: registry.prefix.clone() })
            }
            best => Ok(best),
        }
    }
}

/// How much of the full name a prefix covers; `None` when it does not match. `any_port` lets a host
/// without a port stand for all of its ports.
fn match_prefix(full: &str, prefix: &str, any_port: bool) -> Option<usize> {
    if let Some(domain) = prefix.strip_prefix('*') {
        // `domain` begins with its dot, so that `*.example.com` is not `badexample.com`.
        let host_end = full.find('/')?;
        let host = &full[..host_end];
        let name = host.split_once(':').map_or(host, |(name, _)| name);
        return ((any_port || name.len() == host.len())
            && name.len() > domain.len()
            && name.ends_with(domain))
        .then_some(host_end);
    }
    let rest = full.strip_prefix(prefix)?;
    match rest.as_bytes().first() {
        None | Some(b'/' | b'@') => Some(prefix.len()),
        // A colon begins a tag only behind a repository: `example.com` is not `example.com:5000`.
        Some(b':') if any_port || prefix.contains('/') => Some(prefix.len()),
        _ => None,
    }
}

fn endpoint(reference: Reference, insecure: bool, mirror: bool) -> Endpoint {
    let security =
        if insecure || is_loopback(&reference.registry) { Security::Relaxed } else { Security::Strict };
    let host = match reference.registry.as_str() {
        DEFAULT_REGISTRY => DOCKER_HUB.to_owned(),
        other => other.to_owned(),
    };
    Endpoint { host, repository: reference.repository.clone(), reference, security, mirror }
}

/// Whether `host[:port]` is this machine by its very name.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, _)) => v6,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn registry(table: RegistryTable) -> Result<Registry, String> {
    let location = check_location(&table.location)?;
    let prefix = check_location(&table.prefix)?;
    let prefix = if prefix.is_empty() { location.clone() } else { prefix };
    let wildcard = prefix.starts_with('*');
    if wildcard && (!prefix.starts_with("*.") || prefix.contains(['/', ':']) || prefix.len() < 3) {
        return Err(format!("prefix = \"{prefix}\": a wildcard is `*.` and a domain, nothing more"));
    }
    if prefix[usize::from(wildcard)..].contains('*') || location.contains('*') {
        return Err(format!(
            "`*` stands only at the beginning of a prefix, not in `{prefix}` (`{location}`)"
        ));
    }
    if location.is_empty() && !wildcard {
        return Err(match prefix.as_str() {
            "" => "a [[registry]] table needs a location".to_owned(),
            prefix => format!("the [[registry]] table with prefix = \"{prefix}\" needs a location"),
        });
    }
    let mut mirrors = Vec::new();
    for mirror in table.mirror {
        let used_for = match mirror.pull_from_mirror.as_str() {
            "" | "all" => MirrorUse::All,
            "digest-only" => MirrorUse::DigestOnly,
            "tag-only" => MirrorUse::TagOnly,
            other => {
                return Err(format!(
                    "pull-from-mirror = \"{other}\" is none of `all`, `digest-only` and `tag-only`"
                ));
            }
        };
        if table.mirror_by_digest_only && !mirror.pull_from_mirror.is_empty() {
            return Err(format!(
                "`{prefix}` has mirror-by-digest-only and a mirror with pull-from-mirror: use one"
            ));
        }
        let used_for = if table.mirror_by_digest_only { MirrorUse::DigestOnly } else { used_for };
        let location = check_location(&mirror.location)?;
        if location.is_empty() || location.contains('*') {
            return Err(format!("a mirror of `{prefix}` has no usable location"));
        }
        mirrors.push(Mirror { location, insecure: mirror.insecure, used_for });
    }
    Ok(Registry { prefix, location, insecure: table.insecure, blocked: table.blocked, mirrors })
}

/// A prefix or location without trailing slashes; a scheme is a common mistake and refused.
fn check_location(text: &str) -> Result<String, String> {
    let text = text.trim_end_matches('/');
    if text.contains("://") {
        return Err(format!("`{text}`: write host and path without `https://` or `http://`"));
    }
    Ok(text.to_owned())
}

fn search_host(text: &str) -> Result<String, String> {
    let host = check_location(text)?;
    // Anything that is no host makes this name invalid, or names another registry.
    let probe = format!("{host}/x").parse::<ImageName>();
    match probe {
        Ok(name) if name.registry.as_deref() == Some(host.as_str()) => Ok(host),
        _ => Err(format!("unqualified-search-registries: `{text}` is not a registry's host name")),
    }
}

fn check_alias(alias: &str, target: &str) -> Result<(), String> {
    let bare = |name: &ImageName| name.tag.is_none() && name.digest.is_none();
    match alias.parse::<ImageName>() {
        Ok(name) if name.registry.is_none() && bare(&name) => {}
        _ => return Err(format!("aliases: `{alias}` is not a short name without tag and digest")),
    }
    match target.parse::<ImageName>() {
        _ if target.is_empty() => Ok(()),
        Ok(name) if name.registry.is_some() && bare(&name) => Ok(()),
        _ => Err(format!(
            "aliases: `{alias}` = `{target}`: expected registry and repository, without tag or digest"
        )),
    }
}

fn unknown_fields(table: &toml::Table) -> Vec<String> {
    let mut unknown = Vec::new();
    let mut check = |place: &str, table: &toml::Table, known: &[&str]| {
        let strangers = table.keys().filter(|k| !known.contains(&k.as_str()));
        unknown.extend(strangers.map(|k| format!("`{k}`{place} means nothing to cooper and is left out")));
    };
    check("", table, &[&KNOWN[..], &ACCEPTED[..]].concat());
    let tables = |value: Option<&toml::Value>| -> Vec<toml::Table> {
        let list = value.and_then(|v| v.as_array()).cloned().unwrap_or_default();
        list.into_iter().filter_map(|v| v.as_table().cloned()).collect()
    };
    for registry in tables(table.get("registry")) {
        check(" in a [[registry]] table", &registry, &KNOWN_REGISTRY);
        for mirror in tables(registry.get("mirror")) {
            check(" in a [[registry.mirror]] table", &mirror, &KNOWN_MIRROR);
        }
    }
    unknown
}

#[cfg(test)]
mod tests;
