//! OCI image layouts: directories with `oci-layout`, `index.json` and `blobs/sha256/…`.
//!
//! A layout that is read is somebody else's: every blob is hashed on its way into the store, and
//! symbolic links are not followed. A layout that is written is locked (`flock` on the directory
//! itself, which leaves no lock file behind) and named last: whatever goes wrong, `index.json` is as it
//! was and no blob is cut short.

mod read;
mod write;

use std::io;
use std::path::{Path, PathBuf};

use crate::image::{Digest, Platform};
use crate::registry::{ContentsError, DocumentError};
use crate::store::{ReceiveError, StoreError};

pub use read::read_layout;
pub use write::{check_layout, write_layout};

/// Where an image lies, or shall lie, in a layout.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OciName {
    /// The layout.
    pub dir: PathBuf,
    /// The name in its `index.json`.
    pub tag: Option<String>,
}

/// What can be wrong with a layout.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A text that names no layout.
    #[error("`{0}` is not `oci:DIR` or `oci:DIR:TAG`")]
    Name(String),
    /// No layout there.
    #[error("{} is not an OCI image layout: {reason}", dir.display())]
    NotALayout {
        /// The directory.
        dir: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// Something else there.
    #[error("{} is not empty and not an OCI image layout, so nothing is written there", dir.display())]
    Occupied {
        /// The directory.
        dir: PathBuf,
    },
    /// No image of this name.
    #[error("{} has no image `{tag}`; {}", dir.display(), listed(tags))]
    NoTag {
        /// The layout.
        dir: PathBuf,
        /// The name asked for.
        tag: String,
        /// Those that are there.
        tags: Vec<String>,
    },
    /// Several images, and none chosen.
    #[error("{} has several images: choose one with oci:{}:TAG; {}", dir.display(), dir.display(), listed(tags))]
    Ambiguous {
        /// The layout.
        dir: PathBuf,
        /// Their names.
        tags: Vec<String>,
    },
    /// No image at all.
    #[error("{} has no images", dir.display())]
    Empty {
        /// The layout.
        dir: PathBuf,
    },
    /// No image for the platform.
    #[error("no image for {platform} in {}; it has {}", dir.display(), platforms.join(", "))]
    NoPlatform {
        /// The layout.
        dir: PathBuf,
        /// The platform wanted.
        platform: Platform,
        /// Those that are there.
        platforms: Vec<String>,
    },
    /// A document that makes no sense.
    #[error("{} cannot be used: {source}", path.display())]
    Document {
        /// Which.
        path: PathBuf,
        /// Why.
        source: DocumentError,
    },
    /// A blob that is not a plain file.
    #[error("{} is refused: {reason}", path.display())]
    Suspicious {
        /// Which.
        path: PathBuf,
        /// What it is.
        reason: &'static str,
    },
    /// A blob that is not there.
    #[error("{} lacks the blob {digest}", dir.display())]
    Missing {
        /// The layout.
        dir: PathBuf,
        /// Which.
        digest: Digest,
    },
    /// A blob with another content than its name says.
    #[error("in {}: {source}", dir.display())]
    Blob {
        /// The layout.
        dir: PathBuf,
        /// What is wrong.
        source: ReceiveError,
    },
    /// A file operation failed.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The image to write is not whole.
    #[error("cannot write the image: {0}")]
    Incomplete(ContentsError),
    /// Our side failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl LayoutError {
    fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> LayoutError + 'a {
        move |source| LayoutError::Io { what, path: path.to_owned(), source }
    }
}

/// Reads `oci:DIR` or `oci:DIR:TAG` as skopeo does: the first colon ends the directory, and what comes
/// after it may have more.
///
/// # Errors
/// When the prefix or the directory is missing.
pub fn parse_oci(text: &str) -> Result<OciName, LayoutError> {
    let wrong = || LayoutError::Name(text.to_owned());
    let rest = text.strip_prefix("oci:").ok_or_else(wrong)?;
    let (dir, tag) = match rest.split_once(':') {
        Some((dir, tag)) => (dir, Some(tag).filter(|t| !t.is_empty())),
        None => (rest, None),
    };
    if dir.is_empty() || rest.contains('\0') {
        return Err(wrong());
    }
    Ok(OciName { dir: PathBuf::from(dir), tag: tag.map(str::to_owned) })
}

/// Whether a layout's version is one that we read.
fn version_is_known(text: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Marker {
        image_layout_version: String,
    }
    serde_json::from_slice::<Marker>(text).is_ok_and(|m| m.image_layout_version.starts_with("1."))
}

fn listed(tags: &[String]) -> String {
    match tags {
        [] => "its images have no names".to_owned(),
        tags => format!("it has {}", tags.join(", ")),
    }
}

#[cfg(test)]
mod tests;
