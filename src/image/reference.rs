//! Image names as people type them, and as registries take them.
//!
//! The grammar is that of the distribution project: `[registry/]repository[:tag][@digest]`, where the
//! first component is a registry only if it has a dot or a port, or is `localhost`.

use std::fmt;
use std::str::FromStr;

use super::digest::Digest;

/// The registry that a name without one means, as Docker has it.
pub const DEFAULT_REGISTRY: &str = "docker.io";

/// A text that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not an image name: {reason}")]
pub struct ReferenceError {
    name: String,
    reason: String,
}

/// A name as typed: the registry may be missing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageName {
    /// Host and port, if the name has them.
    pub registry: Option<String>,
    /// The path within the registry, as typed.
    pub repository: String,
    /// The tag, if given.
    pub tag: Option<String>,
    /// The digest, if given.
    pub digest: Option<Digest>,
}

/// A full name: registry, repository, and tag or digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Host and optional port.
    pub registry: String,
    /// The path within the registry, `library/` included where Docker Hub has it.
    pub repository: String,
    /// The tag; `None` only where there is a digest.
    pub tag: Option<String>,
    /// The digest, if the name is pinned.
    pub digest: Option<Digest>,
}

impl ImageName {
    /// The form of a name in which two that mean the same are equal, and in which Docker shows them:
    /// `docker.io/library/alpine:latest` is `alpine`. `None` for what can be no name.
    pub fn familiar(text: &str) -> Option<String> {
        let name: ImageName = text.to_ascii_lowercase().parse().ok()?;
        let full = name.normalised();
        let repository = match full.registry.as_str() {
            DEFAULT_REGISTRY => {
                full.repository.strip_prefix("library/").unwrap_or(&full.repository).to_owned()
            }
            registry => format!("{registry}/{}", full.repository),
        };
        let tag = full.tag.filter(|tag| tag != "latest").map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = full.digest.map(|digest| format!("@{digest}")).unwrap_or_default();
        Some(format!("{repository}{tag}{digest}"))
    }

    /// The full name when `registry` stands in for a missing one. Without tag and digest the tag is
    /// `latest`.
    pub fn in_registry(&self, registry: &str) -> Reference {
        let registry = match self.registry.as_deref().unwrap_or(registry) {
            "index.docker.io" => DEFAULT_REGISTRY,
            other => other,
        };
        let official = registry == DEFAULT_REGISTRY && !self.repository.contains('/');
        let tag = match (&self.tag, &self.digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.clone(),
        };
        Reference {
            registry: registry.to_owned(),
            repository: if official {
                format!("library/{}", self.repository)
            } else {
                self.repository.clone()
            },
            tag,
            digest: self.digest,
        }
    }

    /// The full name, `docker.io` where the registry is missing.
    pub fn normalised(&self) -> Reference {
        self.in_registry(DEFAULT_REGISTRY)
    }
}

impl FromStr for ImageName {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<ImageName, ReferenceError> {
        let fail = |reason: &str| ReferenceError { name: text.to_owned(), reason: reason.to_owned() };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|e| fail(&e.to_string()))?)),
            None => (text, None),
        };
        let (name, tag) = match rest.rfind(':') {
            // A colon before the last slash belongs to a port.
            Some(at) if !rest[at..].contains('/') => (&rest[..at], Some(&rest[at + 1..])),
            _ => (rest, None),
        };
        if name.is_empty() {
            return Err(fail("the name is empty"));
        }
        let (registry, repository) = match name.split_once('/') {
            Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), path),
            _ => (None, name),
        };
        if let Some(registry) = registry
            && !valid_registry(registry)
        {
            return Err(fail(&format!("`{registry}` is not a registry's host name")));
        }
        if repository.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(fail("repository names are lower case"));
        }
        if repository.len() > 255 || !repository.split('/').all(valid_component) {
            return Err(fail(
                "a repository is lower-case letters and digits, with single `.`, `_`, `__` or `-` between them, \
                 in parts separated by `/`",
            ));
        }
        if let Some(tag) = tag
            && !valid_tag(tag)
        {
            return Err(fail(
                "a tag is up to 128 letters, digits, `_`, `.` and `-`, and does not begin with `.` or `-`",
            ));
        }
        Ok(ImageName {
            registry: registry.map(str::to_owned),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

/// Whether `tag` can be a tag.
pub fn valid_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= 128 && tag.starts_with(word) && tag.chars().all(|c| word(c) || c == '.' || c == '-')
}

fn valid_registry(registry: &str) -> bool {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((v6, port)) if v6.parse::<std::net::Ipv6Addr>().is_ok() => {
                ("localhost", port.strip_prefix(':'))
            }
            _ => return false,
        },
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        },
    };
    let label = |l: &str| {
        !l.is_empty()
            && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    host.split('.').all(label) && port.is_none_or(|p| p.parse::<u16>().is_ok())
}

fn valid_component(part: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !part.starts_with(alphanumeric) || !part.ends_with(alphanumeric) {
        return false;
    }
    // What stands between two runs of letters and digits: one dot, one or two underscores, or dashes.
    part.split(alphanumeric).all(|sep| matches!(sep, "" | "." | "_" | "__") || sep.chars().all(|c| c == '-'))
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.registry.iter().try_for_each(|r| write!(f, "{r}/"))?;
        write_tail(f, &self.repository, self.tag.as_deref(), self.digest)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.registry)?;
        write_tail(f, &self.repository, self.tag.as_deref(), self.digest)
    }
}

fn write_tail(
    f: &mut fmt::Formatter<'_>,
    repository: &str,
    tag: Option<&str>,
    digest: Option<Digest>,
) -> fmt::Result {
    f.write_str(repository)?;
    tag.iter().try_for_each(|t| write!(f, ":{t}"))?;
    digest.iter().try_for_each(|d| write!(f, "@{d}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn full(text: &str) -> String {
        text.parse::<ImageName>().unwrap().normalised().to_string()
    }

    #[test]
    fn names_become_what_docker_makes_of_them() {
        assert_eq!(full("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(full("team/app:1.2"), "docker.io/team/app:1.2");
        assert_eq!(full("docker.io/busybox"), "docker.io/library/busybox:latest");
        assert_eq!(full("localhost/a"), "localhost/a:latest");
        assert_eq!(full("127.0.0.1:5000/a/b__c-d:x"), "127.0.0.1:5000/a/b__c-d:x");
        assert_eq!(full("[::1]:5000/a"), "[::1]:5000/a:latest");
        let pinned = format!("quay.io/x/y@{}", Digest::of(b""));
        assert_eq!(full(&pinned), pinned);
    }

    #[test]
    fn what_is_no_name_says_why() {
        for bad in [
            "",
            ":x",
            "UPPER",
            "a//b",
            "a/",
            "-a",
            "a..b",
            "a___b",
            "a:",
            "a:-x",
            "a@sha256:12",
            "a b",
            "h.o-/x",
        ] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad}");
        }
        let message = "Busybox".parse::<ImageName>().unwrap_err().to_string();
        assert_eq!(message, "`Busybox` is not an image name: repository names are lower case");
    }
}
