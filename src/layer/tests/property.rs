//! Any input, any entries.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::layer::decompress::decompressor;

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("no slash, no NUL", |b| *b != b'/' && *b != 0);
    let short = vec(byte.clone(), 1..12);
    let long = vec(byte, 1..255);
    prop_oneof![4 => short, 1 => long]
        .prop_filter("a plain name", |name| name != b"." && name != b".." && !name.starts_with(b".wh."))
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    // Above the name that hardlinks point to, which comes before them.
    vec(name(), 1..4)
        .prop_map(|names| names.join(&b'/'))
        .prop_filter("after", |p| p.as_slice() > b"\x01".as_slice())
}

fn kind() -> impl Strategy<Value = (EntryKind, Vec<u8>)> {
    let target = vec(any::<u8>().prop_filter("no NUL", |b| *b != 0), 1..200);
    let number = 0u32..=2_097_151;
    prop_oneof![
        Just((EntryKind::Directory, vec![])),
        vec(any::<u8>(), 0..1500).prop_map(|c| (EntryKind::File { size: c.len() as u64 }, c)),
        Just((EntryKind::Hardlink { target: b"\x01".to_vec() }, vec![])),
        target.prop_map(|target| (EntryKind::Symlink { target }, vec![])),
        (number.clone(), number.clone())
            .prop_map(|(major, minor)| (EntryKind::CharDevice { major, minor }, vec![])),
        (number.clone(), number).prop_map(|(major, minor)| (EntryKind::BlockDevice { major, minor }, vec![])),
        Just((EntryKind::Fifo, vec![])),
    ]
}

fn xattrs() -> impl Strategy<Value = BTreeMap<Vec<u8>, Vec<u8>>> {
    let key = vec(any::<u8>().prop_filter("a name", |b| *b != b'=' && *b != 0), 1..20)
        .prop_map(|key| [b"user.", key.as_slice()].concat());
    let value = prop_oneof![
        vec(any::<u8>(), 0..100),
        Just(b"\n".to_vec()),
        Just(b"9 path=x\n12 mtime=0\n".to_vec()),
        Just(vec![]),
    ];
    btree_map(key, value, 0..3)
}

prop_compose! {
    fn any_entry()(
        (kind, content) in kind(), mode in 0u32..=0o7777, uid in 0..u32::MAX, gid in 0..u32::MAX,
        mtime in prop_oneof![any::<i32>().prop_map(i64::from), -9_000_000_000_000i64..9_000_000_000_000], xattrs in xattrs()
    ) -> (Entry, Vec<u8>) {
        let entry = Entry { path: vec![], kind, mode, uid, gid, mtime, xattrs };
        (entry, content)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(entries in btree_map(path(), any_entry(), 0..8)) {
        let mut writer = TarWriter::new(Vec::new());
        for (path, (entry, content)) in &entries {
            writer.append(&Entry { path: path.clone(), ..entry.clone() }, &mut &content[..]).unwrap();
        }
        let tar = writer.finish().unwrap();
        prop_assert_eq!(tar.len() % 512, 0);
        let read = read_all(&tar).unwrap();
        prop_assert_eq!(read.len(), entries.len());
        for ((raw, got), (path, (entry, content))) in read.iter().zip(&entries) {
            let mut name = path.clone();
            if entry.kind == EntryKind::Directory {
                name.push(b'/');
            }
            prop_assert_eq!(&raw.path, &name);
            prop_assert_eq!(&raw.kind, &entry.kind);
            let mode = if matches!(entry.kind, EntryKind::Symlink { .. }) { 0o777 } else { entry.mode };
            prop_assert_eq!((raw.mode, raw.uid, raw.gid), (mode, entry.uid, entry.gid));
            prop_assert_eq!((raw.mtime.sec, raw.mtime.nsec), (entry.mtime, 0));
            if !matches!(entry.kind, EntryKind::Hardlink { .. }) {
                prop_assert_eq!(&raw.xattrs, &entry.xattrs);
            }
            prop_assert_eq!(got, content);
        }
        // The same again is the same to the byte.
        let mut writer = TarWriter::new(Vec::new());
        for (path, (entry, content)) in &entries {
            writer.append(&Entry { path: path.clone(), ..entry.clone() }, &mut &content[..]).unwrap();
        }
        prop_assert_eq!(writer.finish().unwrap(), tar);
    }

    #[test]
    fn noise_is_an_error_or_nothing(mut bytes in vec(any::<u8>(), 0..4000)) {
        let _ = read_all(&bytes);
        if bytes.len() >= 512 {
            // The same with a checksum that holds, so that the rest is looked at.
            mend(&mut bytes[..512]);
            let _ = read_all(&bytes);
        }
        if let Ok(mut reader) = decompressor(&*bytes) {
            let _ = std::io::copy(&mut (&mut reader).take(1 << 20), &mut std::io::sink());
        }
    }

    #[test]
    fn damage_does_not_panic_nor_escape(
        entries in btree_map(path(), any_entry(), 1..5),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        sealed in any::<bool>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut writer = TarWriter::new(Vec::new());
        for (path, (entry, content)) in &entries {
            writer.append(&Entry { path: path.clone(), ..entry.clone() }, &mut &content[..]).unwrap();
        }
        let mut tar = writer.finish().unwrap();
        for (at, byte) in &damage {
            let at = at.index(tar.len());
            tar[at] = *byte;
            if sealed {
                let block = at / 512 * 512;
                mend(&mut tar[block..block + 512]);
            }
        }
        tar.truncate(cut.index(tar.len()) + tar.len() / 2);
        // Content read in full only where it is small: a damaged size may be of a sparse file.
        let mut reader = TarReader::new(&*tar);
        while let Ok(Some(_)) = reader.next() {
            let _ = std::io::copy(&mut (&mut reader).take(1 << 20), &mut std::io::sink());
        }
        let ground = Ground::new();
        let _ = ground.apply_with(&tar, &ApplyOptions { owners: Owners::Record, ..BOTTOM });
        ground.assert_outside_untouched();
    }
}

/// Sets a block's checksum to what it ought to be.
fn mend(block: &mut [u8]) {
    let mut header = tar::Header::new_old();
    header.as_mut_bytes().copy_from_slice(block);
    header.set_cksum();
    block.copy_from_slice(header.as_bytes());
}
