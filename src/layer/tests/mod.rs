//! Tests of the parts together, and with other people's programs.

mod apply;
mod attacks;
mod blob;
mod holes;
mod property;
mod reproduce;
mod reuse;
mod tools;

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use cooper_runtime::sys::fs;

use super::apply::{Applied, ApplyError, ApplyOptions, Owners};
use super::entry::{Entry, EntryKind};
use super::read::{RawEntry, TarError, TarReader};
use super::write::TarWriter;

/// Who runs the tests; only root may give files away.
fn me() -> (u32, u32) {
    use std::os::unix::fs::MetadataExt;
    let file = tempfile::NamedTempFile::new().unwrap();
    let meta = file.as_file().metadata().unwrap();
    (meta.uid(), meta.gid())
}

fn entry(path: impl AsRef<[u8]>, kind: EntryKind) -> Entry {
    let (uid, gid) = me();
    let mode = match kind {
        EntryKind::Directory => 0o755,
        EntryKind::Symlink { .. } => 0o777,
        _ => 0o644,
    };
    Entry {
        path: path.as_ref().to_vec(),
        kind,
        mode,
        uid,
        gid,
        mtime: 1_600_000_000,
        xattrs: BTreeMap::new(),
    }
}

fn dir(path: impl AsRef<[u8]>) -> Entry {
    entry(path, EntryKind::Directory)
}

fn file(path: impl AsRef<[u8]>, size: usize) -> Entry {
    entry(path, EntryKind::File { size: size as u64 })
}

fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    entry(path, EntryKind::Symlink { target: target.as_ref().to_vec() })
}

fn hardlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    entry(path, EntryKind::Hardlink { target: target.as_ref().to_vec() })
}

/// The canonical tar of entries with their contents.
fn canonical(entries: &[(Entry, &[u8])]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for (entry, content) in entries {
        writer.append(entry, &mut &content[..]).unwrap();
    }
    writer.finish().unwrap()
}

/// A tar as somebody else might write it: any order, any name, nothing checked.
#[derive(Default)]
struct Foreign(Vec<u8>);

impl Foreign {
    fn header(
        mut self,
        name: &[u8],
        flag: u8,
        link: &[u8],
        change: impl FnOnce(&mut tar::Header),
        body: &[u8],
    ) -> Self {
        let mut header = tar::Header::new_ustar();
        let ustar = header.as_ustar_mut().unwrap();
        ustar.name[..name.len()].copy_from_slice(name);
        ustar.linkname[..link.len()].copy_from_slice(link);
        ustar.typeflag = [flag];
        let (uid, gid) = me();
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_mode(if flag == b'5' { 0o755 } else { 0o644 });
        header.set_mtime(1_500_000_000);
        header.set_size(body.len() as u64);
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn dir(self, name: &str) -> Self {
        self.header(name.as_bytes(), b'5', b"", |_| {}, b"")
    }

    fn file(self, name: &str, body: &[u8]) -> Self {
        self.header(name.as_bytes(), b'0', b"", |_| {}, body)
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.header(name.as_bytes(), b'2', target.as_bytes(), |_| {}, b"")
    }

    fn hardlink(self, name: &str, target: &str) -> Self {
        self.header(name.as_bytes(), b'1', target.as_bytes(), |_| {}, b"")
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// All entries of a tar, with what their content reads as.
fn read_all(tar: &[u8]) -> Result<Vec<(RawEntry, Vec<u8>)>, TarError> {
    let mut reader = TarReader::new(tar);
    let mut all = Vec::new();
    while let Some(entry) = reader.next()? {
        let mut content = Vec::new();
        reader.read_to_end(&mut content)?;
        all.push((entry, content));
    }
    Ok(all)
}

/// A fresh directory with a place to unpack in and something beside it that must stay as it is.
struct Ground {
    top: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir(top.path().join("dest")).unwrap();
        std::fs::create_dir(top.path().join("outside")).unwrap();
        std::fs::write(top.path().join("outside/secret"), "untouched").unwrap();
        Self { top }
    }

    fn dest(&self) -> PathBuf {
        self.top.path().join("dest")
    }

    fn outside(&self) -> PathBuf {
        self.top.path().join("outside")
    }

    fn apply(&self, tar: &[u8]) -> Result<Applied, ApplyError> {
        self.apply_with(tar, &ApplyOptions::default())
    }

    fn apply_with(&self, tar: &[u8], options: &ApplyOptions<'_>) -> Result<Applied, ApplyError> {
        let dest = fs::open_dir(&self.dest()).unwrap();
        super::apply::apply(tar, dest.as_fd(), options)
    }

    fn stat(&self, path: &str) -> Option<fs::Stat> {
        let dest = fs::open_dir(&self.dest()).unwrap();
        fs::try_stat_at(&dest, Path::new(path).as_os_str()).unwrap()
    }

    fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.dest().join(path)).unwrap()
    }

    fn opaque(&self, path: &str) -> bool {
        self.xattr(path, super::apply::OPAQUE_XATTR).is_some_and(|value| value == b"y")
    }

    fn xattr(&self, path: &str, name: &str) -> Option<Vec<u8>> {
        let dest = fs::open_dir(&self.dest()).unwrap();
        fs::xattr_at(&dest, Path::new(path).as_os_str(), name.as_ref()).unwrap()
    }

    /// Nothing beside the destination has changed.
    fn assert_outside_untouched(&self) {
        let outside = self.outside();
        let names: Vec<_> = std::fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"]);
        assert_eq!(std::fs::read_to_string(outside.join("secret")).unwrap(), "untouched");
        assert_eq!(fs::stat_at(fs::open_dir(&outside).unwrap(), "secret".as_ref()).unwrap().nlink, 1);
        assert_eq!(std::fs::read_dir(self.top.path()).unwrap().count(), 2);
    }
}

const RECORD: ApplyOptions<'static> =
    ApplyOptions { owners: Owners::Record, parents: None, max_entries: None, max_bytes: None };
const BOTTOM: ApplyOptions<'static> = ApplyOptions {
    owners: Owners::Make,
    parents: Some(&super::apply::NoParents),
    max_entries: None,
    max_bytes: None,
};
