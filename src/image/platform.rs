//! Operating system and processor that an image is for.

use std::fmt;

use oci_spec::image::Descriptor;

/// `os/architecture[/variant]`, in the words of Go's `GOOS` and `GOARCH`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `v7`, `v8`, …
    pub variant: Option<String>,
}

impl Platform {
    /// The platform that this program was compiled for, which is the one it runs on.
    pub fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "x86" => ("386", None),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Platform {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// How well an index entry fits: `None` not at all, else higher is better. An entry without a
    /// platform fits badly but fits, since single-platform indexes often leave it out.
    pub fn fit(&self, entry: &Descriptor) -> Option<u32> {
        let Some(platform) = entry.platform() else { return Some(0) };
        if platform.os().to_string() != self.os || platform.architecture().to_string() != self.architecture {
            return None;
        }
        let theirs = platform.variant().as_deref();
        match (self.variant.as_deref(), theirs) {
            (ours, theirs) if ours == theirs => Some(3),
            // arm64 has one variant in practice, and it is often left unsaid.
            (None, Some("v8")) if self.architecture == "arm64" => Some(3),
            (_, None) => Some(2),
            (None, Some("v1")) => Some(2),
            _ => None,
        }
    }

    /// The entry of an index that fits best; the first among equals.
    pub fn choose<'a>(&self, entries: &'a [Descriptor]) -> Option<&'a Descriptor> {
        let mut best: Option<(u32, &Descriptor)> = None;
        for entry in entries {
            if let Some(fit) = self.fit(entry)
                && best.is_none_or(|(so_far, _)| fit > so_far)
            {
                best = Some((fit, entry));
            }
        }
        best.map(|(_, entry)| entry)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|v| write!(f, "/{v}"))
    }
}
