//! Operating system and processor that an image is for.

use std::fmt;
use std::str::FromStr;

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

/// A platform that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a platform; write OS/ARCHITECTURE, such as linux/amd64 or linux/arm/v7")]
pub struct BadPlatform(String);

impl FromStr for Platform {
    type Err = BadPlatform;

    /// Reads `os`, `architecture`, `os/architecture` or `os/architecture/variant`. The names that `uname`
    /// gives machines are turned into Go's; what is left out is that of this machine.
    fn from_str(text: &str) -> Result<Platform, BadPlatform> {
        let bad = || BadPlatform(text.to_owned());
        let lower = text.to_ascii_lowercase();
        let valid = |part: &str| {
            !part.is_empty()
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
        };
        let parts: Vec<&str> = lower.split('/').collect();
        if parts.len() > 3 || !parts.iter().all(|part| valid(part)) {
            return Err(bad());
        }
        let host = Platform::host();
        let (os, architecture, variant) = match parts.as_slice() {
            ["local"] => return Ok(host),
            ["linux"] => return Ok(host),
            [architecture] if KNOWN_ARCHITECTURES.contains(architecture) => ("linux", *architecture, None),
            [os, architecture] => (*os, *architecture, None),
            [os, architecture, variant] => (*os, *architecture, Some(*variant)),
            _ => return Err(bad()),
        };
        let (architecture, variant) = match (architecture, variant) {
            ("x86_64" | "x86-64", v) => ("amd64", v),
            ("i386" | "i686", v) => ("386", v),
            ("aarch64" | "arm64", None | Some("8" | "v8")) => ("arm64", None),
            ("aarch64", v) => ("arm64", v),
            ("armhf", None) => ("arm", Some("v7")),
            ("armel", None) => ("arm", Some("v6")),
            ("arm", None | Some("7")) => ("arm", Some("v7")),
            ("arm", Some("5")) => ("arm", Some("v5")),
            ("arm", Some("6")) => ("arm", Some("v6")),
            ("amd64", Some("v1")) => ("amd64", None),
            (architecture, v) => (architecture, v),
        };
        // A misspelt one would make an image that runs nowhere.
        if !KNOWN_ARCHITECTURES.contains(&architecture) {
            return Err(bad());
        }
        let own = |s: &str| s.to_owned();
        Ok(Platform { os: own(os), architecture: own(architecture), variant: variant.map(own) })
    }
}

/// What may be named without its operating system.
const KNOWN_ARCHITECTURES: [&str; 21] = [
    "386", "amd64", "arm", "arm64", "armhf", "armel", "aarch64", "x86_64", "x86-64", "i386", "i686",
    "loong64", "mips", "mips64", "mips64le", "ppc64", "ppc64le", "riscv64", "s390x", "sparc64", "wasm",
];

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|v| write!(f, "/{v}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_in_all_their_spellings() {
        let read = |text: &str| text.parse::<Platform>().map(|p| p.to_string());
        for (text, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("Linux/AMD64", "linux/amd64"),
            ("windows/amd64", "windows/amd64"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
        for bad in ["", "linux/", "/amd64", "linux/amd64/v1/x", "vax", "linux/am d64"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
