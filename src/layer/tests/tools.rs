//! Other people's programs: they read what we write, and we what they write.

use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

fn run(program: &str, args: &[&str], stdin: &[u8]) -> String {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(stdin).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let out = Command::new(program)
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .stdin(Stdio::from(file))
        .output()
        .unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    assert!(out.stderr.is_empty(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn everything() -> Vec<(Entry, &'static [u8])> {
    let long = "long-".repeat(40);
    let numbers = Entry { uid: 4_000_000, gid: 3_000_000_000, mtime: -86_400, ..file("numbers", 0) };
    let mut xattr = file("xattr", 2);
    xattr.xattrs.insert(b"user.lines".to_vec(), b"one\ntwo\n".to_vec());
    vec![
        (Entry { mode: 0o755, ..dir("") }, b""),
        (Entry { mode: 0o1777, ..dir("d") }, b""),
        (file("d/content", 600), &[b'c'; 600]),
        (hardlink("d/hard", "d/content"), b""),
        (entry("fifo", EntryKind::Fifo), b""),
        (file(&long, 3), b"abc"),
        (numbers, b""),
        (Entry { mode: 0o4755, ..file("setuid", 0) }, b""),
        (symlink("sym", "../somewhere/else"), b""),
        (symlink("symlong", long), b""),
        (file("umlaut-\u{fc}", 1), b"u"),
        (entry("was", EntryKind::Whiteout), b""),
        (xattr, b"xx"),
        (Entry { mtime: 10_000_000_000, ..file("zukunft", 1) }, b"z"),
    ]
}

#[test]
fn gnu_tar_lists_it() {
    let listed = run("tar", &["--numeric-owner", "-tvf", "-"], &canonical(&everything()));
    let (uid, gid) = me();
    let lines: Vec<_> = listed.lines().collect();
    assert_eq!(lines.len(), 14, "{listed}");
    let has = |words: &[&str]| {
        let ok = lines.iter().any(|l| l.split_whitespace().collect::<Vec<_>>().join(" ") == words.join(" "));
        assert!(ok, "no {words:?} in\n{listed}");
    };
    let me = format!("{uid}/{gid}");
    has(&["drwxr-xr-x", &me, "0", "2020-09-13", "12:26", "./"]);
    has(&["drwxrwxrwt", &me, "0", "2020-09-13", "12:26", "d/"]);
    has(&["-rw-r--r--", &me, "600", "2020-09-13", "12:26", "d/content"]);
    has(&["hrw-r--r--", &me, "0", "2020-09-13", "12:26", "d/hard", "link", "to", "d/content"]);
    has(&["prw-r--r--", &me, "0", "2020-09-13", "12:26", "fifo"]);
    has(&["-rw-r--r--", "4000000/3000000000", "0", "1969-12-31", "00:00", "numbers"]);
    has(&["-rwsr-xr-x", &me, "0", "2020-09-13", "12:26", "setuid"]);
    has(&["lrwxrwxrwx", &me, "0", "2020-09-13", "12:26", "sym", "->", "../somewhere/else"]);
    has(&["----------", "0/0", "0", "1970-01-01", "00:00", ".wh.was"]);
    has(&["-rw-r--r--", &me, "1", "2286-11-20", "17:46", "zukunft"]);
}

#[test]
fn gnu_tar_extracts_it() {
    let ground = Ground::new();
    // An owner that only root can give, and a time that tar warns of.
    let left_out = |path: &[u8]| path == b"numbers" || path == b"zukunft";
    let mine: Vec<_> = everything().into_iter().filter(|(e, _)| !left_out(&e.path)).collect();
    let dest = ground.dest();
    let args = ["--xattrs", "--xattrs-include=*", "-p", "-C", dest.to_str().unwrap(), "-xf", "-"];
    run("tar", &args, &canonical(&mine));
    assert_eq!(ground.text(&"long-".repeat(40)), "abc");
    assert_eq!(ground.xattr("xattr", "user.lines").unwrap(), b"one\ntwo\n");
    assert_eq!(ground.stat("d/hard").unwrap().nlink, 2);
    assert_eq!(ground.stat("setuid").unwrap().mode, 0o4755);
    assert_eq!(ground.stat("d").unwrap().mode, 0o1777);
}

#[test]
fn python_reads_it() {
    let script = r#"
import sys, tarfile
t = tarfile.open(fileobj=sys.stdin.buffer, mode="r|")
for m in t:
    body = t.extractfile(m).read() if m.isreg() else b""
    x = m.pax_headers.get("SCHILY.xattr.user.lines", "")
    print(repr((m.name, m.type, oct(m.mode), m.uid, m.gid, int(m.mtime), m.size, m.linkname, len(body), m.uname, m.gname, x)))
"#;
    let listed = run("python3", &["-c", script], &canonical(&everything()));
    let (uid, gid) = me();
    for line in [
        format!("('.', b'5', '0o755', {uid}, {gid}, 1600000000, 0, '', 0, '', '', '')"),
        format!("('d/hard', b'1', '0o644', {uid}, {gid}, 1600000000, 0, 'd/content', 600, '', '', '')"),
        "('numbers', b'0', '0o644', 4000000, 3000000000, -86400, 0, '', 0, '', '', '')".into(),
        format!("('xattr', b'0', '0o644', {uid}, {gid}, 1600000000, 2, '', 2, '', '', 'one\\ntwo\\n')"),
        format!("('umlaut-\u{fc}', b'0', '0o644', {uid}, {gid}, 1600000000, 1, '', 1, '', '', '')"),
        "('.wh.was', b'0', '0o0', 0, 0, 0, 0, '', 0, '', '', '')".into(),
    ] {
        // A streamed tar has no way back to a hardlink's content.
        let line = line.replace("'d/content', 600,", "'d/content', 0,");
        assert!(listed.lines().any(|l| l == line), "no {line} in\n{listed}");
    }
    assert_eq!(listed.lines().count(), 14);
}

#[test]
fn bsdtar_lists_and_extracts_it() {
    let listed = run("bsdtar", &["--numeric-owner", "-tvf", "-"], &canonical(&everything()));
    let (uid, gid) = me();
    let lines: Vec<String> =
        listed.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines.len(), 14, "{listed}");
    for line in [
        format!("drwxr-xr-x 0 {uid} {gid} 0 Sep 13 2020 ./"),
        format!("hrw-r--r-- 0 {uid} {gid} 0 Sep 13 2020 d/hard link to d/content"),
        format!("prw-r--r-- 0 {uid} {gid} 0 Sep 13 2020 fifo"),
        "-rw-r--r-- 0 4000000 3000000000 0 Dec 31 1969 numbers".to_owned(),
        format!("-rw-r--r-- 0 {uid} {gid} 1 Sep 13 2020 umlaut-\u{fc}"),
        "---------- 0 0 0 0 Jan 1 1970 .wh.was".to_owned(),
    ] {
        assert!(lines.contains(&line), "no {line} in\n{listed}");
    }
    let ground = Ground::new();
    let mine: Vec<_> = everything().into_iter().filter(|(e, _)| e.path != b"numbers").collect();
    let dest = ground.dest();
    run("bsdtar", &["-p", "-C", dest.to_str().unwrap(), "-xf", "-"], &canonical(&mine));
    assert_eq!(ground.text(&"long-".repeat(40)), "abc");
    assert_eq!(ground.xattr("xattr", "user.lines").unwrap(), b"one\ntwo\n");
    assert_eq!(ground.stat("d/hard").unwrap().nlink, 2);
    assert_eq!(ground.stat("setuid").unwrap().mode, 0o4755);
    assert_eq!(ground.stat("zukunft").unwrap().mtime.sec, 10_000_000_000);
}

#[test]
fn we_read_bsdtar() {
    let ground = Ground::new();
    let tree = tree(&ground);
    run("setfattr", &["-n", "user.lines", "-v", "0x6f0a00ff", tree.join("plain").to_str().unwrap()], b"");
    for format in ["pax", "paxr", "gnutar"] {
        let out = Command::new("bsdtar")
            .args(["--format", format, "-C", tree.to_str().unwrap(), "-cf", "-", "."])
            .output()
            .unwrap();
        assert!(out.status.success(), "{format}: {}", String::from_utf8_lossy(&out.stderr));
        // Only its pax form has sparse files, attributes and times before 1970.
        compare(&out.stdout, &tree, format, format != "gnutar");
        assert_eq!(out.stdout.len() < 1 << 20, format != "gnutar", "{format}: {} bytes", out.stdout.len());
        let ground = Ground::new();
        ground.apply_with(&out.stdout, &RECORD).unwrap();
        for name in ["sparse", "plain2"] {
            assert_eq!(
                std::fs::read(ground.dest().join(name)).unwrap(),
                std::fs::read(tree.join(name)).unwrap(),
                "{format} {name}"
            );
        }
        let lines = ground.xattr("plain", "user.lines");
        assert_eq!(lines.is_some_and(|value| value == b"o\n\0\xff"), format != "gnutar", "{format}");
    }
}

#[test]
fn a_star_header_keeps_its_times_out_of_the_prefix() {
    let tar = Foreign::default()
        .header(
            b"name",
            b'0',
            b"",
            |h| {
                let block = h.as_mut_bytes();
                block[345..348].copy_from_slice(b"dir");
                block[476..488].copy_from_slice(b"13764256000 ");
                block[488..500].copy_from_slice(b"13764256000 ");
                block[508..512].copy_from_slice(b"tar\0");
            },
            b"content",
        )
        .end();
    let read = read_all(&tar).unwrap();
    assert_eq!((read[0].0.path.as_slice(), read[0].1.as_slice()), (&b"dir/name"[..], &b"content"[..]));
}

#[test]
fn half_an_end_mark_is_an_error_where_more_follows() {
    let one = Foreign::default().file("one", b"1").0;
    let nul = [0u8; 512];
    let names = |parts: &[&[u8]]| read_all(&parts.concat()).map(|all| all.len());
    assert_eq!(names(&[&one]).unwrap(), 1);
    assert_eq!(names(&[&one, &nul]).unwrap(), 1);
    assert_eq!(names(&[&one, &nul, &nul, b"anything"]).unwrap(), 1);
    assert_eq!(names(&[&one, &nul, &nul, &one]).unwrap(), 1, "as all readers do");
    assert_eq!(names(&[&one, &nul, b"less than a block"]).unwrap(), 1);
    let error = names(&[&one, &nul, &one]).unwrap_err();
    assert!(matches!(error, TarError::AfterEnd { offset: 1536 }), "{error}");
}

/// A tree with all that is hard to write down.
fn tree(ground: &Ground) -> PathBuf {
    let tree = ground.top.path().join("tree");
    let deep = tree.join("x".repeat(90)).join("y".repeat(120));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("z".repeat(200)), b"deep content").unwrap();
    std::fs::write(tree.join("plain"), vec![7; 70_000]).unwrap();
    std::fs::hard_link(tree.join("plain"), tree.join("plain2")).unwrap();
    std::os::unix::fs::symlink("t".repeat(150), tree.join("link")).unwrap();
    let sparse = std::fs::File::create(tree.join("sparse")).unwrap();
    use std::os::unix::fs::FileExt;
    sparse.set_len(3 << 20).unwrap();
    for part in 0..40u64 {
        sparse.write_all_at(format!("part {part}").as_bytes(), part * 65536 + 4096).unwrap();
    }
    run("mkfifo", &[tree.join("pipe").to_str().unwrap()], b"");
    run("touch", &["-d", "@-1000", tree.join("plain").to_str().unwrap()], b"");
    tree
}

/// Compares our reading with the tree.
fn compare(tar: &[u8], tree: &std::path::Path, what: &str, times: bool) {
    let read = read_all(tar).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut seen = 0;
    for (entry, content) in &read {
        let path = String::from_utf8(entry.path.clone()).unwrap();
        let path = tree.join(path.trim_start_matches("./").trim_end_matches('/'));
        let meta = std::fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{what}: {path:?}: {e}"));
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        seen += 1;
        match &entry.kind {
            EntryKind::File { size } => {
                let real = std::fs::read(&path).unwrap();
                assert_eq!(*size, real.len() as u64, "{what}: {path:?}");
                assert!(*content == real, "{what}: content of {path:?}");
            }
            EntryKind::Symlink { target } => {
                assert_eq!(std::fs::read_link(&path).unwrap().to_str().unwrap().as_bytes(), target, "{what}");
            }
            EntryKind::Hardlink { target } => {
                assert!(target.ends_with(b"plain") || target.ends_with(b"plain2"))
            }
            EntryKind::Directory => assert!(meta.is_dir()),
            EntryKind::Fifo => assert!(meta.file_type().is_fifo()),
            other => panic!("{what}: {other:?}"),
        }
        assert_eq!(entry.mode, meta.mode() & 0o7777, "{what}: {path:?}");
        assert_eq!((entry.uid, entry.gid), (meta.uid(), meta.gid()), "{what}: {path:?}");
        if times {
            assert_eq!(entry.mtime.sec, meta.mtime(), "{what}: {path:?}");
        }
    }
    assert_eq!(seen, 9, "{what}");
}

#[test]
fn we_read_gnu_tar() {
    let ground = Ground::new();
    let tree = tree(&ground);
    for args in [
        ["--format=gnu", "--no-xattrs"],
        ["--format=gnu", "--sparse"],
        ["--format=oldgnu", "--sparse"],
        ["--format=posix", "--no-xattrs"],
        ["--format=posix", "--sparse"],
        ["--sparse-version=0.0", "--sparse"],
        ["--sparse-version=0.1", "--sparse"],
        ["--format=pax", "--pax-option=globexthdr.name=g,comment=hello"],
    ] {
        let out = Command::new("tar")
            .args(args)
            .args(if args[0].starts_with("--sparse") { &["--format=posix"][..] } else { &[] })
            .args(["-C", tree.to_str().unwrap(), "-cf", "-", "."])
            .output()
            .unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        compare(&out.stdout, &tree, &format!("{args:?}"), true);
        // The sparse file is stored without its holes, and put back with them.
        if args[1] == "--sparse" {
            assert!(out.stdout.len() < 1 << 20, "{args:?}: not sparse");
            let ground = Ground::new();
            let applied = ground.apply_with(&out.stdout, &RECORD).unwrap();
            assert!(applied.bytes < 1 << 20);
            assert_eq!(
                std::fs::read(ground.dest().join("sparse")).unwrap(),
                std::fs::read(tree.join("sparse")).unwrap()
            );
        }
    }
}

#[test]
fn we_read_ustar_and_v7() {
    let ground = Ground::new();
    let tree = ground.top.path().join("small");
    let sub = tree.join("s".repeat(80));
    std::fs::create_dir_all(&sub).unwrap();
    std::fs::write(sub.join("f".repeat(60)), b"prefix").unwrap();
    for (format, names) in [("ustar", 3), ("v7", 2)] {
        let mut command = Command::new("tar");
        command.arg(format!("--format={format}")).arg("-C").arg(&tree).arg("-cf").arg("-");
        if format == "v7" {
            command.arg("--exclude=f*");
        }
        let out = command.arg(".").output().unwrap();
        assert!(out.status.success(), "{out:?}");
        let read = read_all(&out.stdout).unwrap();
        assert_eq!(read.len(), names, "{format}");
        for (entry, content) in read {
            let name = String::from_utf8(entry.path.clone()).unwrap();
            if name.ends_with('f') {
                assert_eq!(entry.kind, EntryKind::File { size: 6 });
                assert_eq!(content, b"prefix");
                assert_eq!(name, format!("./{}/{}", "s".repeat(80), "f".repeat(60)));
            } else {
                assert_eq!(entry.kind, EntryKind::Directory, "{format} {name}");
            }
        }
    }
}

#[test]
fn we_read_python() {
    let ground = Ground::new();
    let tree = tree(&ground);
    for format in ["GNU_FORMAT", "PAX_FORMAT"] {
        let script = format!(
            "import sys, tarfile\n\
             t = tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=tarfile.{format})\n\
             t.add(sys.argv[1], arcname='.')\nt.close()"
        );
        let out = Command::new("python3").args(["-c", &script, tree.to_str().unwrap()]).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        // Python rounds times before 1970 in its own way.
        compare(&out.stdout, &tree, format, false);
    }
}

#[test]
fn base_256_numbers() {
    let tar = Foreign::default()
        .header(
            b"big",
            b'0',
            b"",
            |h| {
                let old = h.as_old_mut();
                old.uid = [0x80, 0, 0, 0, 0x77, 0x35, 0x94, 0];
                old.mtime = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe];
            },
            b"",
        )
        .end();
    let read = read_all(&tar).unwrap();
    assert_eq!((read[0].0.uid, read[0].0.mtime.sec), (2_000_000_000, -2));
    let size = |h: &mut tar::Header| h.as_old_mut().size = [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
    let tar = Foreign::default().header(b"sized", b'0', b"", size, b"12345").file("next", b"6").end();
    let read = read_all(&tar).unwrap();
    assert_eq!((read[0].1.as_slice(), read[1].1.as_slice()), (&b"12345"[..], &b"6"[..]));
    for bad in [[0xffu8; 8], [0x80, 0, 0, 1, 0, 0, 0, 0], *b"12x4567\0"] {
        let tar = Foreign::default().header(b"big", b'0', b"", |h| h.as_old_mut().uid = bad, b"").end();
        assert!(matches!(read_all(&tar), Err(TarError::Number { .. })), "{bad:?}");
    }
}

#[test]
fn sizes_that_lie_are_errors() {
    let huge = "18446744073709551615";
    let record = format!("29 size={huge}\n");
    assert_eq!(record.len(), 29);
    let tar = Foreign::default().header(b"p", b'x', b"", |_| {}, record.as_bytes()).file("f", b"").end();
    assert!(matches!(read_all(&tar), Err(TarError::Number { .. })));
    let tar = Foreign::default().header(b"p", b'x', b"", |h| h.set_size(2 << 20), b"").end();
    assert!(matches!(read_all(&tar), Err(TarError::TooLarge { .. })));
    let tar = Foreign::default().header(b"f", b'0', b"", |h| h.set_size(1 << 40), b"").end();
    assert!(read_all(&tar).is_err());
    let mut tar = Foreign::default().header(b"p", b'x', b"", |_| {}, b"9 path=x\n").end();
    assert_eq!(read_all(&tar).unwrap().len(), 0);
    tar.truncate(1024);
    assert!(matches!(read_all(&tar), Err(TarError::Truncated(_))));
}
