//! Layers made to reach outside the place they are unpacked in, and their honest neighbours.

use cooper_runtime::sys::fs::FileKind;

use super::*;

fn refused(tar: Vec<u8>) -> String {
    let ground = Ground::new();
    let error = ground.apply_with(&tar, &BOTTOM).unwrap_err().to_string();
    ground.assert_outside_untouched();
    error
}

#[test]
fn upward_names_are_refused_and_named() {
    for name in ["../outside/x", "a/../../outside/x", "/../outside/x", "..", "a/..", "./../outside/secret"] {
        for tar in [
            Foreign::default().dir("a").file(name, b"evil"),
            Foreign::default().dir("a").dir(name),
            Foreign::default().dir("a").symlink(name, "x"),
            Foreign::default().dir("a").file("a/f", b"").hardlink(name, "a/f"),
            Foreign::default().dir("a").hardlink("x", name),
        ] {
            let error = refused(tar.end());
            assert!(error.contains("`..`"), "{name}: {error}");
        }
    }
    assert!(refused(Foreign::default().file("../.wh.outside", b"").end()).contains("`..`"));
    assert!(refused(Foreign::default().file("../outside/.wh..wh..opq", b"").end()).contains("`..`"));
}

#[test]
fn absolute_names_stay_inside() {
    let ground = Ground::new();
    let evil = ground.outside().join("new");
    let evil = evil.to_str().unwrap();
    let tar = Foreign::default().file(evil, b"evil").hardlink("link", evil).end();
    ground.apply_with(&tar, &ApplyOptions { owners: Owners::Record, ..BOTTOM }).unwrap();
    ground.assert_outside_untouched();
    assert_eq!(ground.text(&evil[1..]), "evil");
}

#[test]
fn nothing_is_written_through_a_planted_link() {
    for up in ["abs", "../outside", "../../../../../../../../../..", "/proc/self/root", "/proc/self/cwd"] {
        let ground = Ground::new();
        let outside = ground.outside();
        let target = if up == "abs" { outside.to_str().unwrap() } else { up };
        let tar = Foreign::default()
            .symlink("l", target)
            .symlink("l2", "l")
            .file("l2/evil", b"evil")
            .file("l/secret", b"evil")
            .file("l/.wh.secret", b"")
            .file("l/.wh..wh..opq", b"")
            .file(&format!("l{}/secret", outside.to_str().unwrap()), b"evil")
            .hardlink("copy", "l/secret");
        let result = ground.apply_with(&tar.end(), &ApplyOptions { owners: Owners::Record, ..BOTTOM });
        ground.assert_outside_untouched();
        // It is a strange layer but not a wrong one: all of it lands inside.
        result.unwrap();
        assert_eq!(ground.text("copy"), "evil");
    }
}

#[test]
fn the_last_name_is_never_followed() {
    let ground = Ground::new();
    let secret = ground.outside().join("secret");
    let secret = secret.to_str().unwrap();
    let outside = ground.outside();
    let tar = Foreign::default()
        .symlink("f", secret)
        .file("f", b"evil")
        .symlink("d", outside.to_str().unwrap())
        .header(b"d", b'5', b"", |h| h.set_mode(0o777), b"")
        .file("d/secret", b"evil")
        .symlink("h", secret)
        .hardlink("h2", "h")
        .file("h2", b"evil")
        .symlink("w", secret)
        .file(".wh.w", b"");
    ground.apply(&tar.end()).unwrap();
    ground.assert_outside_untouched();
    assert_eq!(ground.text("f"), "evil");
    assert_eq!(ground.stat("d").unwrap().kind, FileKind::Directory);
    assert_eq!(ground.stat("h").unwrap().kind, FileKind::Symlink);
}

#[test]
fn attributes_do_not_go_through_links() {
    let ground = Ground::new();
    let before = std::fs::metadata(ground.outside()).unwrap();
    let outside = ground.outside();
    let mut evil = symlink("l", outside.to_str().unwrap());
    evil.mtime = 1;
    evil.mode = 0o777;
    evil.xattrs.insert(b"user.evil".to_vec(), b"1".to_vec());
    ground.apply(&canonical(&[(evil, b"")])).unwrap();
    let after = std::fs::metadata(ground.outside()).unwrap();
    assert_eq!(before.permissions(), after.permissions());
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
    let top = fs::open_dir(ground.top.path()).unwrap();
    assert_eq!(fs::xattrs_at(&top, "outside".as_ref()).unwrap().get(std::ffi::OsStr::new("user.evil")), None);
}

#[test]
fn links_in_circles_end() {
    let tar = Foreign::default().symlink("a", "b").symlink("b", "a").file("a/x", b"");
    assert!(refused(tar.end()).contains("symbolic links"));
    let tar = Foreign::default().symlink("a", "a/a/a/a").file("a/x", b"");
    assert!(refused(tar.end()).contains("symbolic links"));
}

#[test]
fn the_root_stays_a_directory() {
    for name in [".", "/", "./", "././"] {
        for tar in [
            Foreign::default().symlink(name, "/outside"),
            Foreign::default().file(name, b"x"),
            Foreign::default().dir("d").file("d/f", b"").hardlink(name, "d/f"),
            Foreign::default().header(name.as_bytes(), b'6', b"", |_| {}, b""),
        ] {
            let error = refused(tar.end());
            assert!(error.contains("root"), "{name}: {error}");
        }
    }
    assert!(refused(Foreign::default().hardlink("x", "/").end()).contains("root"));
    assert!(refused(Foreign::default().file(".wh..", b"").end()).contains("whiteout"));
    assert!(refused(Foreign::default().file(".wh...", b"").end()).contains("whiteout"));
    assert!(refused(Foreign::default().file(".wh.", b"").end()).contains("whiteout"));
    assert!(refused(Foreign::default().file(".wh.d/x", b"").end()).contains("whiteout"));
}

#[test]
fn nonsense_is_refused() {
    let error = refused(Foreign::default().dir("d").hardlink("x", "d").end());
    assert!(error.contains("a directory"), "{error}");
    let error = refused(Foreign::default().file("f", b"").file("f/x", b"").end());
    assert!(error.contains("`/f`, which is no directory"), "{error}");
    let error = refused(Foreign::default().file(".wh.f", b"").hardlink("x", "f").end());
    assert!(error.contains("removed by this layer"), "{error}");
    let error = refused(Foreign::default().dir("d").file("d/t", b"").hardlink("d", "d/t").end());
    assert!(error.contains("/d"), "{error}");
    let mut deep = Vec::new();
    for _ in 0..3000 {
        deep.extend_from_slice(b"d/");
    }
    let record = format!("{} path={}\n", 5 + 6 + deep.len(), String::from_utf8(deep).unwrap());
    let tar = Foreign::default().header(b"p", b'x', b"", |_| {}, record.as_bytes()).dir("d").end();
    assert!(refused(tar).contains("directories deep"));
}

#[test]
fn a_hardlink_to_itself_keeps_the_file() {
    let ground = Ground::new();
    ground.apply(&Foreign::default().file("f", b"1").hardlink("./f", "/f").end()).unwrap();
    assert_eq!(ground.text("f"), "1");
}

#[test]
fn pax_values_do_not_inject_records() {
    // The `tar` crate splits records at newlines and would take the second line for a record.
    let evil = b"x\n26 linkpath=/etc/passwd\n";
    let mut entry = file("f", 1);
    entry.xattrs.insert(b"user.a".to_vec(), evil.to_vec());
    let tar = canonical(&[(entry, b"x"), (symlink("s", "honest"), b"")]);
    let read = read_all(&tar).unwrap();
    assert_eq!(read[0].0.xattrs[b"user.a".as_slice()], evil);
    assert_eq!(read[1].0.kind, EntryKind::Symlink { target: b"honest".to_vec() });
}

/// A pax header of one record.
fn record(tar: Foreign, flag: u8, key: &str, value: &str) -> Foreign {
    let rest = key.len() + value.len() + 3;
    let length = (rest + 1..).find(|n| rest + n.to_string().len() == *n).unwrap();
    tar.header(b"p", flag, b"", |_| {}, format!("{length} {key}={value}\n").as_bytes())
}

#[test]
fn headers_do_not_add_up_in_memory() {
    // Each is small and honest by itself; together they would be as much as the archive is long.
    let value = "v".repeat(50_000);
    let endless = |flag: u8, key: &dyn Fn(usize) -> String, value: &str| {
        let headers = (0..30).fold(Foreign::default(), |tar, n| record(tar, flag, &key(n), value));
        read_all(&headers.file("f", b"1").end())
    };
    for key in [&|n| format!("SCHILY.xattr.user.{n}") as String, &|n| format!("key{n}")]
        as [&dyn Fn(usize) -> String; 2]
    {
        let error = endless(b'x', key, &value).unwrap_err();
        assert!(error.to_string().contains("pax headers of one entry"), "{error}");
        let error = endless(b'g', key, &value).unwrap_err();
        assert!(error.to_string().contains("global pax records"), "{error}");
    }
    let map = "0,1,".repeat(12_000) + "0,1";
    let error = endless(b'x', &|_| "GNU.sparse.map".to_owned(), &map).unwrap_err();
    assert!(error.to_string().contains("pax headers of one entry"), "{error}");

    // What people write: one that is said again, several for one entry, and large ones for many entries.
    assert_eq!(endless(b'g', &|_| "comment".to_owned(), &value).unwrap().len(), 1);
    assert_eq!(endless(b'x', &|n| format!("SCHILY.xattr.user.{n}"), "small").unwrap()[0].0.xattrs.len(), 30);
    let many = (0..30).fold(Foreign::default(), |tar, n| {
        record(tar, b'x', "SCHILY.xattr.user.a", &value).file(&format!("f{n}"), b"")
    });
    assert_eq!(read_all(&many.end()).unwrap().len(), 30);
}

#[test]
fn a_sparse_file_of_exabytes_takes_no_space_and_a_plain_one_must_bring_its_bytes() {
    let sized = |size: &str| {
        let tar = record(Foreign::default(), b'x', "GNU.sparse.size", size);
        record(record(tar, b'x', "GNU.sparse.numblocks", "1"), b'x', "GNU.sparse.map", "0,4")
            .file("f", b"data")
            .end()
    };
    let ground = Ground::new();
    ground.apply(&sized("1099511627776")).unwrap();
    let made = ground.stat("f").unwrap();
    use std::os::unix::fs::MetadataExt;
    let blocks = std::fs::metadata(ground.dest().join("f")).unwrap().blocks();
    assert_eq!((made.size, blocks <= 16), (1 << 40, true), "{blocks} blocks");
    // More than any file system has.
    let ground = Ground::new();
    assert!(ground.apply(&sized("9223372036854775807")).is_err());
    let plain = record(Foreign::default(), b'x', "size", "9223372036854775807").file("f", b"data").end();
    assert!(Ground::new().apply(&plain).is_err());
}

#[test]
fn honest_neighbours_still_work() {
    let ground = Ground::new();
    let tar = Foreign::default()
        .dir("etc")
        .dir("etc/ssl")
        .file("etc/ssl/ca.crt", b"cert")
        .dir("opt")
        .symlink("opt/cacerts", "../../../etc/ssl/ca.crt")
        .symlink("opt/link", "/nonexistent")
        .file("opt/link", b"replaced")
        .file("..data", b"fine")
        .file("...", b"fine");
    ground.apply(&tar.end()).unwrap();
    assert_eq!(ground.stat("opt/cacerts").unwrap().kind, FileKind::Symlink);
    assert_eq!(ground.text("opt/link"), "replaced");
    assert_eq!(ground.text("..data"), "fine");
    assert_eq!(ground.text("..."), "fine");
}
