//! Which sources of an `ADD` are archives, told by their content as BuildKit does.

use std::io::{self, Read};

use cooper_runtime::in_root::{self, Walk};
use cooper_runtime::sys::fs;

use crate::context::{ItemKind, Origin, Selection};
use crate::layer::decompress::decompressor;
use crate::layer::read::TarReader;

/// The first source that `ADD` would extract instead of copying.
pub fn first(selection: &Selection) -> io::Result<Option<String>> {
    for source in &selection.sources {
        let ([only], Origin::Tree(tree)) = (source.items.as_slice(), &source.origin) else { continue };
        if only.kind != ItemKind::File {
            continue;
        }
        let walk = Walk { follow_last: false, make_dir: None };
        let place = in_root::find(tree.root(), &source.location, walk)?;
        if is_archive(fs::open_file_at(&place.dir, &place.name)?)? {
            return Ok(Some(String::from_utf8_lossy(&source.location).into_owned()));
        }
    }
    Ok(None)
}

/// Whether it is a tar, plain or compressed. A compressed file that is no tar is copied; where we
/// cannot look inside (bzip2, xz), it is taken for one.
fn is_archive(mut file: impl Read) -> io::Result<bool> {
    let mut head = Vec::new();
    file.by_ref().take(6).read_to_end(&mut head)?;
    if head.starts_with(b"BZh") || head == [0xfd, b'7', b'z', b'X', b'Z', 0] {
        return Ok(true);
    }
    let Ok(content) = decompressor(io::Cursor::new(head).chain(file)) else { return Ok(false) };
    Ok(matches!(TarReader::new(content).next(), Ok(Some(_))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::entry::{Entry, EntryKind};
    use crate::layer::write::TarWriter;

    #[test]
    fn archives_are_told_by_content() {
        let mut tar = TarWriter::new(Vec::new());
        let entry = Entry {
            path: b"a".to_vec(),
            kind: EntryKind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: Default::default(),
        };
        tar.append(&entry, &mut io::empty()).unwrap();
        let tar = tar.finish().unwrap();
        let zip = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        assert!(is_archive(&tar[..]).unwrap());
        assert!(is_archive(&zip(&tar)[..]).unwrap());
        assert!(is_archive(&b"BZh91AY"[..]).unwrap());
        for plain in [&b""[..], b"hello", &[0; 4096], &zip(b"hello")] {
            assert!(!is_archive(plain).unwrap());
        }
    }
}
