//! Taking an image out of a layout and into the store.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use cooper_runtime::sys::fs as sysfs;

use super::{LayoutError, version_is_known};
use crate::image::{Descriptor, Digest, Platform};
use crate::registry::Pulled;
use crate::registry::document::{Document, DocumentError, SelectError, digest_of, select};
use crate::store::blobs::DOCUMENT_LIMIT;
use crate::store::refs::name_of;
use crate::store::{ReceiveError, Store, WorkDir};

/// containerd's annotation for the full name, beside which it keeps only the tag in the standard one.
const FULL_NAME: &str = "io.containerd.image.name";

/// Copies an image from a layout into the store, and says what it is. Without a tag the layout must
/// hold one image only (or one for each of several platforms).
///
/// # Errors
/// When the directory is no layout, the image is not in it or not for the platform, or its content is
/// not what the digests say.
pub fn read_layout(
    dir: &Path,
    tag: Option<&str>,
    platform: &Platform,
    store: &Store,
    work: &WorkDir,
) -> Result<Pulled, LayoutError> {
    let layout = Layout::open(dir)?;
    let entry = layout.entry(tag, platform)?;
    let document = |path: PathBuf| move |source| LayoutError::Document { path, source };
    let root = digest_of(&entry).map_err(|e| document(dir.join("index.json"))(DocumentError::Digest(e)))?;
    let bytes = layout.document(&root, &entry)?;
    store.write_document(&bytes)?;
    let announced = entry.media_type().to_string();
    let mut fetch = |digest: &Digest, descriptor: &Descriptor| -> Result<Vec<u8>, LayoutError> {
        let bytes = layout.document(digest, descriptor)?;
        store.write_document(&bytes)?;
        Ok(bytes)
    };
    let image = select(&root, bytes, Some(&announced), platform, &mut fetch).map_err(|e| match e {
        SelectError::Fetch(error) => error,
        SelectError::Document { digest, source } => document(layout.path(&digest))(source),
        SelectError::NoPlatform(platforms) => {
            LayoutError::NoPlatform { dir: dir.to_owned(), platform: platform.clone(), platforms }
        }
    })?;
    let mut seen = BTreeSet::new();
    for layer in image.layers.iter().filter(|l| seen.insert(l.digest)) {
        if store.blob_size(&layer.digest) == Some(layer.size) {
            continue;
        }
        let mut file = layout.blob(&layer.digest)?;
        store.receive_blob(work, &layer.digest, layer.size, &mut file).map_err(|e| match e {
            ReceiveError::Store(error) => LayoutError::Store(error),
            source => LayoutError::Blob { dir: dir.to_owned(), source },
        })?;
    }
    Ok(image)
}

/// A layout open for reading.
struct Layout {
    dir: PathBuf,
    root: OwnedFd,
    /// `blobs/sha256`; `None` where there is no such directory.
    blobs: Option<OwnedFd>,
}

impl Layout {
    fn open(dir: &Path) -> Result<Layout, LayoutError> {
        let no_layout = |reason: String| LayoutError::NotALayout { dir: dir.to_owned(), reason };
        let root = sysfs::open_dir(dir).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => no_layout("there is no such directory".to_owned()),
            io::ErrorKind::NotADirectory => no_layout("it is not a directory".to_owned()),
            _ => LayoutError::io("cannot open", dir)(e),
        })?;
        let marker = match read_at(&root, "oci-layout", dir) {
            Err(LayoutError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(no_layout("it has no file `oci-layout`".to_owned()));
            }
            other => other?,
        };
        if !version_is_known(&marker) {
            return Err(no_layout("its `oci-layout` does not say version 1".to_owned()));
        }
        let blobs = match sysfs::open_dir_at(&root, OsStr::new("blobs")) {
            Ok(blobs) => sysfs::open_dir_at(blobs, OsStr::new("sha256")),
            Err(e) => Err(e),
        };
        let blobs = match blobs {
            Ok(blobs) => Some(blobs),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(_) => {
                let reason = "a layout's blobs lie in plain directories, not behind links";
                return Err(LayoutError::Suspicious { path: dir.join("blobs/sha256"), reason });
            }
        };
        Ok(Layout { dir: dir.to_owned(), root, blobs })
    }

    /// The entry of `index.json` that is meant.
    fn entry(&self, tag: Option<&str>, platform: &Platform) -> Result<Descriptor, LayoutError> {
        let path = self.dir.join("index.json");
        let document = |source| LayoutError::Document { path: path.clone(), source };
        let text = read_at(&self.root, "index.json", &self.dir)?;
        let index = match Document::parse(&text, None).map_err(document)? {
            Document::Index(index) => index,
            Document::Manifest(_) => {
                let found = "a manifest".to_owned();
                return Err(document(DocumentError::Contradiction {
                    announced: "an index".to_owned(),
                    found,
                }));
            }
        };
        let entries: Vec<Descriptor> = match tag {
            Some(tag) => index.manifests().iter().filter(|d| names(d).any(|n| n == tag)).cloned().collect(),
            None => index.manifests().clone(),
        };
        let tags = || {
            let all = index.manifests().iter().filter_map(|d| name_of(d).map(str::to_owned));
            all.collect::<BTreeSet<String>>().into_iter().collect::<Vec<String>>()
        };
        match (&entries[..], tag) {
            ([], Some(tag)) => {
                Err(LayoutError::NoTag { dir: self.dir.clone(), tag: tag.to_owned(), tags: tags() })
            }
            ([], None) => Err(LayoutError::Empty { dir: self.dir.clone() }),
            ([one], _) => Ok(one.clone()),
            (several, _) => {
                // One name for images of several platforms is like an index; different names are a choice.
                let distinct: BTreeSet<Option<&str>> = several.iter().map(name_of).collect();
                let platforms: BTreeSet<String> =
                    several.iter().filter_map(|d| d.platform().as_ref()).map(|p| format!("{p:?}")).collect();
                if distinct.len() > 1 || platforms.len() < several.len() {
                    return Err(LayoutError::Ambiguous { dir: self.dir.clone(), tags: tags() });
                }
                platform.choose(several).cloned().ok_or_else(|| LayoutError::NoPlatform {
                    dir: self.dir.clone(),
                    platform: platform.clone(),
                    platforms: several
                        .iter()
                        .filter_map(|d| d.platform().as_ref())
                        .map(|p| format!("{}/{}", p.os(), p.architecture()))
                        .collect(),
                })
            }
        }
    }

    /// Reads a document and checks its digest.
    fn document(&self, digest: &Digest, descriptor: &Descriptor) -> Result<Vec<u8>, LayoutError> {
        let failed = |source| LayoutError::Blob { dir: self.dir.clone(), source };
        let expected = descriptor.size();
        let bytes = read_limited(self.blob(digest)?, &self.path(digest))?;
        if bytes.len() as u64 != expected {
            return Err(failed(ReceiveError::Size { digest: *digest, expected, found: bytes.len() as u64 }));
        }
        match Digest::of(&bytes) {
            found if found != *digest => Err(failed(ReceiveError::Digest { expected: *digest, found })),
            _ => Ok(bytes),
        }
    }

    fn blob(&self, digest: &Digest) -> Result<File, LayoutError> {
        let missing = || LayoutError::Missing { dir: self.dir.clone(), digest: *digest };
        let blobs = self.blobs.as_ref().ok_or_else(missing)?;
        match open_plain(blobs, &digest.hex(), &self.path(digest)) {
            Err(LayoutError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Err(missing()),
            other => other,
        }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }
}

fn names(descriptor: &Descriptor) -> impl Iterator<Item = &str> {
    let full = descriptor.annotations().as_ref().and_then(|a| a.get(FULL_NAME)).map(String::as_str);
    name_of(descriptor).into_iter().chain(full)
}

/// Opens a regular file and nothing else: a link could lead anywhere, a FIFO would wait for ever.
fn open_plain(dir: impl AsFd, name: &str, path: &Path) -> Result<File, LayoutError> {
    let io = |e| LayoutError::io("cannot open", path)(e);
    let suspicious = |reason| LayoutError::Suspicious { path: path.to_owned(), reason };
    let stat = sysfs::stat_at(&dir, OsStr::new(name)).map_err(io)?;
    match stat.kind {
        sysfs::FileKind::File => {}
        sysfs::FileKind::Symlink => return Err(suspicious("it is a symbolic link")),
        _ => return Err(suspicious("it is not a regular file")),
    }
    // What it is now need not be what it was: the open file is looked at once more.
    let file = sysfs::open_file_at(&dir, OsStr::new(name)).map_err(io)?;
    match file.metadata().map_err(io)?.is_file() {
        true => Ok(file),
        false => Err(suspicious("it is not a regular file")),
    }
}

fn read_at(dir: impl AsFd, name: &str, path: &Path) -> Result<Vec<u8>, LayoutError> {
    let path = path.join(name);
    read_limited(open_plain(dir, name, &path)?, &path)
}

fn read_limited(file: File, path: &Path) -> Result<Vec<u8>, LayoutError> {
    let mut bytes = Vec::new();
    file.take(DOCUMENT_LIMIT + 1).read_to_end(&mut bytes).map_err(LayoutError::io("cannot read", path))?;
    match bytes.len() as u64 {
        size if size > DOCUMENT_LIMIT => {
            Err(LayoutError::Suspicious { path: path.to_owned(), reason: "no honest document is that large" })
        }
        _ => Ok(bytes),
    }
}
