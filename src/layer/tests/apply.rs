//! What a layer becomes on disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;

use cooper_runtime::record::Node;
use cooper_runtime::sys::fs::{FileKind, Time};

use super::*;
use crate::layer::apply::ParentTree;

/// A lower layer of one directory, one link and one file.
struct Below;

impl ParentTree for Below {
    fn lookup(&self, path: &[u8]) -> io::Result<Option<Entry>> {
        Ok(match path {
            b"etc" => Some(Entry { mode: 0o1750, mtime: 77, ..dir("etc") }),
            b"var" => Some(dir("var")),
            b"run" => Some(dir("run")),
            b"var/run" => Some(symlink("var/run", "/run")),
            b"etc/passwd" => Some(Entry { mode: 0o640, mtime: 78, ..file("etc/passwd", 5) }),
            _ => None,
        })
    }

    fn open(&self, path: &[u8]) -> io::Result<File> {
        assert_eq!(path, b"etc/passwd");
        use std::io::{Seek, Write};
        let mut file = tempfile::tempfile()?;
        file.write_all(b"root!")?;
        file.rewind()?;
        Ok(file)
    }
}

const ABOVE: ApplyOptions<'static> =
    ApplyOptions { owners: Owners::Make, parents: Some(&Below), max_entries: None, max_bytes: None };

#[test]
fn every_kind_gets_what_its_entry_says() {
    let ground = Ground::new();
    let tar = canonical(&[
        (Entry { mode: 0o711, mtime: 5, ..dir("") }, b""),
        (Entry { mode: 0o1555, mtime: 9, ..dir("bin") }, b""),
        (
            Entry {
                mode: 0o4711,
                mtime: -5,
                xattrs: [
                    (b"user.note".to_vec(), b"a\nb\0\xff".to_vec()),
                    (b"user.overlay.redirect".to_vec(), b"/".to_vec()),
                ]
                .into(),
                ..file("bin/tool", 3)
            },
            b"abc",
        ),
        (hardlink("bin/tool2", "bin/tool"), b""),
        (Entry { mode: 0o622, ..entry("pipe", EntryKind::Fifo) }, b""),
        (Entry { mtime: 5_000_000_000, ..symlink("sh", "/bin/tool") }, b""),
    ]);
    let applied = ground.apply(&tar).unwrap();
    assert_eq!((applied.entries, applied.bytes, applied.newest_mtime), (6, 3, Some(5_000_000_000)));
    assert!(applied.end_marker && !applied.opaque_root);

    let tool = ground.stat("bin/tool").unwrap();
    assert_eq!((tool.mode, tool.mtime, tool.nlink), (0o4711, Time { sec: -5, nsec: 0 }, 2));
    assert_eq!(tool.ino, ground.stat("bin/tool2").unwrap().ino);
    assert_eq!(ground.text("bin/tool"), "abc");
    assert_eq!(ground.xattr("bin/tool", "user.note").unwrap(), b"a\nb\0\xff");
    assert_eq!(ground.xattr("bin/tool", "user.overlay.redirect"), None);
    let bin = ground.stat("bin").unwrap();
    assert_eq!((bin.mode, bin.mtime.sec), (0o1555, 9));
    let root = ground.stat(".").unwrap();
    assert_eq!((root.mode, root.mtime.sec), (0o711, 5));
    assert_eq!(ground.xattr(".", "user.cooper.root").unwrap(), b"1");
    let pipe = ground.stat("pipe").unwrap();
    assert_eq!((pipe.kind, pipe.mode), (FileKind::Fifo, 0o622));
    let sh = ground.stat("sh").unwrap();
    assert_eq!((sh.kind, sh.mtime.sec), (FileKind::Symlink, 5_000_000_000));
}

#[test]
fn owners_are_made_or_recorded() {
    let tar = canonical(&[
        (Entry { uid: 0, gid: 0, ..dir("") }, b""),
        (Entry { uid: 70, gid: 71, mode: 0o2755, ..dir("d") }, b""),
        (Entry { uid: 5, gid: 6, mode: 0o6755, ..file("d/f", 1) }, b"x"),
        (Entry { uid: 0, gid: 0, ..file("d/g", 1) }, b"x"),
        (Entry { uid: 8, gid: 9, ..symlink("d/l", "f") }, b""),
        (hardlink("d/z", "d/f"), b""),
        (Entry { uid: 3, ..entry("tty", EntryKind::CharDevice { major: 4, minor: 7 }) }, b""),
    ]);
    let ground = Ground::new();
    let applied = ground.apply_with(&tar, &RECORD).unwrap();
    let owner = |path: &str| applied.records.get(path.as_bytes()).and_then(|r| r.owner);
    assert_eq!(owner("d"), Some((70, 71)));
    assert_eq!(owner("d/f"), Some((5, 6)));
    assert_eq!(owner("d/z"), Some((5, 6)));
    assert_eq!(owner("d/g"), None);
    assert_eq!(owner("d/l"), Some((8, 9)));
    assert_eq!(owner("tty"), Some((3, me().1)));
    let node = Node { block: false, major: 4, minor: 7 };
    assert_eq!(applied.records[b"tty".as_slice()].node, Some(node));
    let tty = ground.stat("tty").unwrap();
    assert_eq!((tty.kind, tty.size, tty.mode), (FileKind::File, 0, 0o644));
    assert_eq!(ground.stat("d/f").unwrap().uid, me().0);
    assert_eq!(ground.stat("d/f").unwrap().mode, 0o6755);

    if me().0 == 0 {
        let ground = Ground::new();
        let applied = ground.apply(&tar).unwrap();
        assert!(applied.records.is_empty());
        let ids = |path: &str| ground.stat(path).map(|s| (s.uid, s.gid, s.mode)).unwrap();
        assert_eq!(ids("d"), (70, 71, 0o2755));
        assert_eq!(ids("d/f"), (5, 6, 0o6755));
        assert_eq!(ids("d/g"), (0, 0, 0o644));
        assert_eq!(ids("d/l"), (8, 9, 0o777));
        let tty = ground.stat("tty").unwrap();
        assert_eq!((tty.kind, tty.rdev, tty.uid), (FileKind::CharDevice, (4, 7), 3));
    }
}

#[test]
fn capabilities_survive_the_change_of_owner_and_lose_their_root_id() {
    if me().0 != 0 {
        return;
    }
    let v3 = [1, 0, 0, 3, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xa0, 0x86, 1, 0];
    let tool =
        Entry { uid: 7, xattrs: [(b"security.capability".to_vec(), v3.to_vec())].into(), ..file("ping", 1) };
    let ground = Ground::new();
    ground.apply(&canonical(&[(tool, b"x")])).unwrap();
    let value = ground.xattr("ping", "security.capability").unwrap();
    assert_eq!((value.len(), value[3]), (20, 2));
}

#[test]
fn whiteouts_and_opaque_markers_take_overlays_form() {
    let ground = Ground::new();
    let tar = Foreign::default()
        .dir("a/")
        .file("a/.wh.gone", b"")
        .dir("before/")
        .file("before/.wh..wh..opq", b"")
        .file("before/kept", b"1")
        .dir("after")
        .file("after/kept", b"2")
        .file("./after/.wh..wh..opq", b"")
        .dir(".wh..wh.plnk")
        .file(".wh..wh.plnk/1.2", b"")
        .file(".wh..wh.aufs", b"")
        .end();
    let applied = ground.apply(&tar).unwrap();
    assert!(ground.stat("a/gone").unwrap().is_whiteout());
    assert!(!ground.opaque("a"));
    for opaque in ["before", "after"] {
        assert!(ground.opaque(opaque), "{opaque}");
        assert!(ground.stat(&format!("{opaque}/kept")).is_some());
    }
    assert_eq!(std::fs::read_dir(ground.dest()).unwrap().count(), 3);
    assert!(!applied.opaque_root);
}

#[test]
fn what_a_layer_adds_outlives_its_whiteout_in_either_order() {
    for swap in [false, true] {
        let ground = Ground::new();
        let mut tar = Foreign::default();
        for round in [swap, !swap] {
            tar = match round {
                true => tar.file(".wh.f", b"").file(".wh.d", b"").file(".wh.l", b""),
                false => tar.file("f", b"new").dir("d").file("d/x", b"").symlink("l", "f"),
            };
        }
        ground.apply(&tar.end()).unwrap();
        assert_eq!(ground.text("f"), "new");
        assert!(ground.opaque("d"), "the directory below is gone: swap {swap}");
        assert!(ground.stat("d/x").is_some());
        assert_eq!(ground.stat("l").unwrap().kind, FileKind::Symlink);
    }
}

#[test]
fn whiteouts_that_hide_nothing_are_not_left_to_be_listed() {
    let ground = Ground::new();
    let tar = Foreign::default()
        .dir("d")
        .dir("d/s")
        .file("d/s/.wh.x", b"")
        .file("d/.wh.y", b"")
        .file("d/.wh..wh..opq", b"");
    ground.apply(&tar.end()).unwrap();
    assert!(ground.opaque("d"));
    assert!(ground.stat("d/s/x").is_none() && ground.stat("d/y").is_none());
}

#[test]
fn an_opaque_root_is_reported() {
    assert!(Ground::new().apply(&Foreign::default().file(".wh..wh..opq", b"").end()).unwrap().opaque_root);
}

#[test]
fn the_later_entry_wins() {
    let ground = Ground::new();
    let tar = Foreign::default()
        .file("f", b"long content")
        .hardlink("old", "f")
        .file("f", b"short")
        .dir("d")
        .file("d/kept", b"")
        .header(b"d", b'5', b"", |h| h.set_mode(0o700), b"")
        .dir("gone")
        .file("gone/x", b"")
        .file("gone", b"file now")
        .file("back", b"")
        .dir("back")
        .symlink("s", "d")
        .file("s", b"a file, not through the link");
    let applied = ground.apply(&tar.end()).unwrap();
    assert_eq!(ground.text("f"), "short");
    assert_eq!(ground.text("old"), "long content");
    assert!(ground.stat("d/kept").is_some());
    assert_eq!(ground.stat("d").unwrap().mode, 0o700);
    assert_eq!(ground.text("gone"), "file now");
    assert_eq!(ground.stat("back").unwrap().kind, FileKind::Directory);
    assert!(ground.opaque("back"), "the file took away what was below");
    assert_eq!(ground.stat("s").unwrap().kind, FileKind::File);
    assert_eq!(applied.entries, 13);
}

#[test]
fn replacing_forgets_what_was_recorded() {
    let ground = Ground::new();
    let owned = |h: &mut tar::Header| h.set_uid(9);
    let zero = |h: &mut tar::Header| {
        h.set_uid(0);
        h.set_gid(0);
    };
    let tar = Foreign::default()
        .header(b"d", b'5', b"", owned, b"")
        .header(b"d/x", b'0', b"", owned, b"")
        .header(b"d/n", b'3', b"", |h| h.set_device_major(1).unwrap(), b"")
        .header(b"d-after", b'0', b"", owned, b"")
        .header(b"d", b'0', b"", zero, b"")
        .header(b"f", b'0', b"", owned, b"")
        .header(b"f", b'0', b"", zero, b"");
    let applied = ground.apply_with(&tar.end(), &RECORD).unwrap();
    assert_eq!(applied.records.keys().collect::<Vec<_>>(), [b"d-after"]);
}

#[test]
fn parents_come_from_below_or_are_made() {
    let tar = Foreign::default().file("etc/new", b"n").end();
    let ground = Ground::new();
    let error = ground.apply(&tar).unwrap_err();
    assert!(matches!(&error, ApplyError::NeedsParents { path } if path == b"etc"), "{error}");

    let ground = Ground::new();
    ground.apply_with(&tar, &ABOVE).unwrap();
    let etc = ground.stat("etc").unwrap();
    assert_eq!((etc.mode, etc.mtime.sec), (0o1750, 77));

    if me().0 == 0 {
        let ground = Ground::new();
        ground.apply_with(&tar, &BOTTOM).unwrap();
        let etc = ground.stat("etc").unwrap();
        assert_eq!((etc.mode, etc.mtime.sec, etc.uid), (0o755, 0, 0));
    }

    // A link below leads on, and is not replaced by a directory.
    let ground = Ground::new();
    let tar = Foreign::default().file("var/run/lock/.wh.x", b"").file("var/run/pid", b"1").end();
    ground.apply_with(&tar, &ApplyOptions { owners: Owners::Record, ..ABOVE }).unwrap();
    assert_eq!(ground.text("run/pid"), "1");
    assert!(ground.stat("var/run").is_none());
    assert!(ground.stat("run/lock/x").unwrap().is_whiteout());

    // A whited-out directory made again has nothing from below.
    let ground = Ground::new();
    let tar = Foreign::default().file(".wh.etc", b"").file("etc/new", b"n").end();
    ground.apply_with(&tar, &ApplyOptions { owners: Owners::Record, ..ABOVE }).unwrap();
    assert!(ground.opaque("etc"));
    assert_eq!(ground.stat("etc").unwrap().mode, 0o755);
}

#[test]
fn hardlinks_to_a_lower_file_bring_it_along() {
    let tar = Foreign::default().hardlink("shadow", "etc/passwd").end();
    assert!(matches!(Ground::new().apply(&tar), Err(ApplyError::NeedsParents { .. })));
    let ground = Ground::new();
    ground.apply_with(&tar, &ABOVE).unwrap();
    assert_eq!(ground.text("shadow"), "root!");
    let (a, b) = (ground.stat("shadow").unwrap(), ground.stat("etc/passwd").unwrap());
    assert_eq!(a.ino, b.ino);
    assert_eq!((a.mode, a.mtime.sec), (0o640, 78));

    let missing = Foreign::default().hardlink("x", "nowhere").end();
    let error = Ground::new().apply_with(&missing, &ABOVE).unwrap_err();
    assert!(error.to_string().contains("`/nowhere`, which is not in the image"), "{error}");
}

#[test]
fn links_in_parents_are_followed_inside_the_root() {
    let ground = Ground::new();
    let tar = Foreign::default()
        .dir("real")
        .dir("real/deep")
        .symlink("abs", "/real")
        .symlink("rel", "real/deep")
        .symlink("real/up", "../../../../real/deep")
        .file("abs/one", b"1")
        .file("rel/two", b"2")
        .file("abs/up/three", b"3")
        .hardlink("abs/up/four", "/rel/two");
    ground.apply(&tar.end()).unwrap();
    assert_eq!(ground.text("real/one"), "1");
    assert_eq!(ground.text("real/deep/two"), "2");
    assert_eq!(ground.text("real/deep/three"), "3");
    assert_eq!(ground.text("real/deep/four"), "2");
}

#[test]
fn directories_without_permissions_can_be_filled() {
    let ground = Ground::new();
    let closed = |h: &mut tar::Header| h.set_mode(0);
    let tar = Foreign::default()
        .header(b"d", b'5', b"", closed, b"")
        .header(b"d/e", b'5', b"", closed, b"")
        .file("d/e/f", b"in")
        .file("d/g", b"in");
    ground.apply(&tar.end()).unwrap();
    assert_eq!(ground.stat("d").unwrap().mode, 0);
    assert_eq!(ground.stat("d").unwrap().mtime.sec, 1_500_000_000);
    std::fs::set_permissions(ground.dest().join("d"), std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(ground.stat("d/e").unwrap().mode, 0);
    std::fs::set_permissions(ground.dest().join("d/e"), std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(ground.text("d/e/f"), "in");
}

#[test]
fn deep_trees_and_long_names() {
    let ground = Ground::new();
    let mut entries = Vec::new();
    let mut path = Vec::new();
    // 150 directories deep, more than are kept open, and 15,000 bytes, more than a path may have.
    for _ in 0..150 {
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&[b'n'; 100]);
        entries.push((dir(&path), b"".as_slice()));
    }
    let at = entries.len();
    entries.push((file([&path, b"/end".as_slice()].concat(), 2), b"ok"));
    entries.push((file([&entries[70].0.path, b"/side".as_slice()].concat(), 2), b"ok"));
    entries.sort_by(|a, b| a.0.path.cmp(&b.0.path));
    let applied = ground.apply(&canonical(&entries)).unwrap();
    assert_eq!(applied.entries as usize, at + 2);
    let found = std::process::Command::new("find")
        .arg(ground.dest())
        .args([
            "-mindepth",
            "1",
            "(",
            "-name",
            "end",
            "-o",
            "-name",
            "side",
            "-o",
            "-newermt",
            "2020-09-14",
            ")",
        ])
        .args(["-printf", "%f\\n"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "end\nside\n");
}

#[test]
fn bounds_are_kept() {
    let tar = Foreign::default().file("a", b"12345").file("b", b"12345").end();
    let bound = |entries, bytes| ApplyOptions { max_entries: entries, max_bytes: bytes, ..BOTTOM };
    assert!(Ground::new().apply_with(&tar, &bound(Some(2), Some(10))).is_ok());
    assert!(matches!(
        Ground::new().apply_with(&tar, &bound(Some(1), None)),
        Err(ApplyError::TooManyEntries(1))
    ));
    assert!(matches!(Ground::new().apply_with(&tar, &bound(None, Some(9))), Err(ApplyError::TooLarge(9))));
}

#[test]
fn long_zeros_become_holes() {
    use std::os::unix::fs::MetadataExt;
    let ground = Ground::new();
    let size = 8 << 20;
    let mut content = vec![0u8; size];
    content[3 << 20] = 1;
    ground.apply(&canonical(&[(file("big", size), &content)])).unwrap();
    assert_eq!(std::fs::read(ground.dest().join("big")).unwrap(), content);
    let blocks = std::fs::metadata(ground.dest().join("big")).unwrap().blocks();
    assert!(blocks * 512 < 1 << 20, "{blocks} blocks");
}

#[test]
fn a_missing_end_is_told() {
    let mut tar = Foreign::default().file("a", b"1").end();
    tar.truncate(tar.len() - 1024);
    let applied = Ground::new().apply(&tar).unwrap();
    assert!(!applied.end_marker);
    tar.truncate(tar.len() - 1);
    assert!(
        matches!(Ground::new().apply(&tar), Err(ApplyError::Io { .. } | ApplyError::Tar(_)))
            || tar.len() > 513
    );
}
