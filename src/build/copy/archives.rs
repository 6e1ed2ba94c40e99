//! Tests of ADDed archives.

use std::fs as stdfs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use proptest::prelude::*;

use super::*;
use crate::context::{DirectoryContext, IgnoreRules, SelectOptions, select};

/// An archive under construction: entries as they are told, however odd.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(
        mut self,
        name: &str,
        kind: u8,
        mode: u32,
        owner: (u64, u64),
        link: &str,
        content: &[u8],
    ) -> Tar {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.as_old_mut().linkflag[0] = kind;
        header.set_mode(mode);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        header.set_mtime(1000 + u64::from(mode));
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn dir(self, name: &str, mode: u32) -> Tar {
        self.entry(name, b'5', mode, (1, 2), "", b"")
    }

    fn file(self, name: &str, content: &str) -> Tar {
        self.entry(name, b'0', 0o644, (1, 2), "", content.as_bytes())
    }

    fn symlink(self, name: &str, target: &str) -> Tar {
        self.entry(name, b'2', 0o777, (1, 2), target, b"")
    }

    fn hardlink(self, name: &str, target: &str) -> Tar {
        self.entry(name, b'1', 0o644, (1, 2), target, b"")
    }

    fn done(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

/// Keeps owners, so that no privilege is needed.
#[derive(Default)]
struct Owners(Vec<(String, u32, u32)>);

impl OwnerSink for Owners {
    fn set_owner(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &[u8],
        uid: u32,
        gid: u32,
    ) -> io::Result<()> {
        fs::stat_at(dir, name)?;
        self.0.push((String::from_utf8_lossy(path).into_owned(), uid, gid));
        Ok(())
    }
}

struct Bench {
    dir: tempfile::TempDir,
    owners: Owners,
    options: CopyOptions,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        stdfs::create_dir(dir.path().join("src")).unwrap();
        stdfs::create_dir(dir.path().join("root")).unwrap();
        stdfs::write(dir.path().join("outside"), "untouched").unwrap();
        let options = CopyOptions { unpack: true, ..CopyOptions::default() };
        Bench { dir, owners: Owners::default(), options }
    }

    fn root(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join("root").join(path)
    }

    fn try_add(&mut self, archive: &[u8], dest: &str) -> Result<CopyReport, CopyError> {
        stdfs::write(self.dir.path().join("src/archive"), archive).unwrap();
        let context = DirectoryContext::open(&self.dir.path().join("src"), IgnoreRules::none()).unwrap();
        let selection =
            select(context.tree(), &["archive"], dest.as_bytes(), &SelectOptions::default()).unwrap();
        let root = fs::open_dir(&self.root("")).unwrap();
        copy_into(root.as_fd(), dest.as_bytes(), &selection, &self.options, &mut self.owners)
    }

    fn add(&mut self, archive: Tar, dest: &str) -> CopyReport {
        self.try_add(&archive.done(), dest).unwrap()
    }

    fn refused(&mut self, archive: Tar) -> String {
        let message = self.try_add(&archive.done(), "/dest/").unwrap_err().to_string();
        self.nothing_outside();
        message
    }

    /// Beside the root lies what was there before, and nothing else.
    fn nothing_outside(&self) {
        assert_eq!(stdfs::read_to_string(self.dir.path().join("outside")).unwrap(), "untouched");
        assert_eq!(stdfs::metadata(self.dir.path().join("outside")).unwrap().nlink(), 1);
        assert_eq!(stdfs::read_dir(self.dir.path()).unwrap().count(), 3);
    }

    fn read(&self, path: &str) -> String {
        stdfs::read_to_string(self.root(path)).unwrap()
    }

    fn stat(&self, path: &str) -> stdfs::Metadata {
        stdfs::symlink_metadata(self.root(path)).unwrap()
    }

    fn mode(&self, path: &str) -> u32 {
        self.stat(path).mode() & 0o7777
    }
}

#[test]
fn an_archive_is_extracted_with_its_attributes() {
    let mut bench = Bench::new();
    let archive = Tar::default()
        .dir("./", 0o700)
        .dir("d/", 0o2750)
        .entry("d/tool", b'0', 0o4711, (1000, 50), "", b"tool")
        .symlink("d/link", "../../etc/passwd")
        .hardlink("d/again", "d/tool")
        .file("implied/dirs/f", "f");
    let report = bench.add(archive, "/opt/app");
    assert_eq!(report, CopyReport { files: 4, directories: 1, bytes: 5, extracted: 1, skipped: Vec::new() });
    assert_eq!(
        (bench.read("opt/app/d/tool"), bench.read("opt/app/implied/dirs/f")),
        ("tool".into(), "f".into())
    );
    let modes =
        ["opt", "opt/app", "opt/app/d", "opt/app/d/tool", "opt/app/implied/dirs"].map(|p| bench.mode(p));
    assert_eq!(modes, [0o755, 0o755, 0o2750, 0o4711, 0o755], "the root entry is not the destination's");
    assert_eq!(bench.stat("opt/app/d/tool").mtime(), 1000 + 0o4711);
    assert_eq!(bench.stat("opt/app/d").mtime(), 1000 + 0o2750, "whatever was put into it later");
    assert_eq!(bench.stat("opt/app/d/again").ino(), bench.stat("opt/app/d/tool").ino());
    assert_eq!(stdfs::read_link(bench.root("opt/app/d/link")).unwrap().to_str(), Some("../../etc/passwd"));
    let owners: Vec<_> =
        bench.owners.0.iter().map(|(path, uid, gid)| format!("{path} {uid}:{gid}")).collect();
    assert_eq!(
        owners,
        [
            "opt/app/d 1:2",
            "opt/app/d/tool 1000:50",
            "opt/app/d/link 1:2",
            "opt/app/implied 0:0",
            "opt/app/implied/dirs 0:0",
            "opt/app/implied/dirs/f 1:2",
            "opt/app 0:0",
            "opt 0:0",
        ]
    );
}

#[test]
fn chown_reaches_all_that_the_archive_names_and_chmod_nothing() {
    let mut bench = Bench::new();
    bench.options.chown = Some((7, 8));
    bench.options.chmod = Some(Chmod::parse("600").unwrap());
    bench.add(Tar::default().dir("d", 0o750).file("x/f", "f"), "/new/dir");
    assert_eq!(
        ["new", "new/dir", "new/dir/d", "new/dir/x/f"].map(|p| bench.mode(p)),
        [0o755, 0o755, 0o750, 0o644]
    );
    let of = |path: &str| bench.owners.0.iter().find(|(at, ..)| at == path).map(|(_, uid, gid)| (*uid, *gid));
    assert_eq!(["new", "new/dir", "new/dir/d", "new/dir/x/f"].map(of), [Some((7, 8)); 4]);
    assert_eq!(of("new/dir/x"), Some((0, 0)), "a directory that no entry names is root's");
}

#[test]
fn what_is_there_is_replaced_and_directories_are_merged() {
    let mut bench = Bench::new();
    stdfs::create_dir_all(bench.root("dest/dir/sub")).unwrap();
    stdfs::write(bench.root("dest/dir/old"), "old").unwrap();
    stdfs::create_dir_all(bench.root("dest/becomes-file/full")).unwrap();
    stdfs::write(bench.root("dest/becomes-dir"), "").unwrap();
    stdfs::write(bench.root("victim"), "victim").unwrap();
    symlink("../victim", bench.root("dest/link")).unwrap();
    stdfs::hard_link(bench.root("victim"), bench.root("dest/name")).unwrap();
    let before = bench.mode("dest");
    bench.add(
        Tar::default()
            .dir("dir", 0o711)
            .file("becomes-file", "file")
            .dir("becomes-dir", 0o755)
            .file("link", "own")
            .file("name", "own")
            .file("twice", "first")
            .file("twice", "second"),
        "/dest",
    );
    assert_eq!((bench.read("dest/dir/old"), bench.mode("dest/dir")), ("old".into(), 0o711));
    assert_eq!((bench.read("dest/becomes-file"), bench.read("dest/twice")), ("file".into(), "second".into()));
    assert!(bench.root("dest/becomes-dir").is_dir());
    assert_eq!(
        (bench.read("dest/link"), bench.read("dest/name"), bench.read("victim")),
        ("own".into(), "own".into(), "victim".into())
    );
    assert_eq!(bench.mode("dest"), before);
}

#[test]
fn names_that_lead_out_are_refused() {
    let mut bench = Bench::new();
    for name in ["../outside", "a/../../outside", "/../outside", ".."] {
        let message = bench.refused(Tar::default().file(name, "evil"));
        let expected =
            format!("cannot extract \"archive\": its entry `{name}` would lie outside the destination");
        assert!(message.starts_with(&expected), "{message}");
    }
    bench.add(Tar::default().file("/abs/olute", "x").file("a/../b", "y").file("./c", "z"), "/dest/");
    assert_eq!(["dest/abs/olute", "dest/b", "dest/c"].map(|path| bench.read(path)), ["x", "y", "z"]);
    bench.nothing_outside();
}

#[test]
fn links_are_followed_below_the_destination_and_never_out() {
    let mut bench = Bench::new();
    let top = bench.dir.path().to_str().unwrap().to_owned();
    // Planted by the archive, absolute and relative.
    bench.add(
        Tar::default()
            .symlink("abs", &top)
            .file("abs/outside", "evil")
            .symlink("up", "../../../../../../../..")
            .file("up/outside", "evil")
            .symlink("chain", "up")
            .file("chain/tmp/x", "evil"),
        "/dest/",
    );
    bench.nothing_outside();
    assert_eq!(bench.read(&format!("dest{top}/outside")), "evil");
    assert_eq!((bench.read("dest/outside"), bench.read("dest/tmp/x")), ("evil".into(), "evil".into()));
    // Put there by the image.
    symlink(&top, bench.root("dest/image")).unwrap();
    bench.add(Tar::default().file("image/fresh", "x"), "/dest/");
    bench.nothing_outside();
    // The honest neighbours: a link that is a parent, one that a file replaces, one that leads up inside.
    stdfs::create_dir_all(bench.root("root2/usr/lib")).unwrap();
    symlink("usr/lib", bench.root("root2/lib")).unwrap();
    bench.add(
        Tar::default()
            .file("lib/libc.so", "libc")
            .symlink("etc/ssl/cacerts", "../../../etc/pki/cacerts")
            .symlink("replaced", "lib")
            .file("replaced", "file"),
        "/root2",
    );
    assert!(bench.root("root2/lib").is_symlink());
    assert_eq!(
        (bench.read("root2/usr/lib/libc.so"), bench.read("root2/replaced")),
        ("libc".into(), "file".into())
    );
    assert_eq!(
        stdfs::read_link(bench.root("root2/etc/ssl/cacerts")).unwrap().to_str(),
        Some("../../../etc/pki/cacerts")
    );
    let looping = Tar::default().symlink("loop", "loop").file("loop/x", "");
    assert!(bench.refused(looping).contains("cannot reach loop/x"));
    let below = Tar::default().file("f", "").file("f/x", "");
    assert!(bench.refused(below).ends_with("its entry `f/x` lies below something that is not a directory"));
}

#[test]
fn hard_links_stay_inside() {
    let mut bench = Bench::new();
    let top = bench.dir.path().to_str().unwrap().to_owned();
    for (target, found) in [
        ("../outside", "would lie outside the destination"),
        ("../../outside", "would lie outside the destination"),
        (&format!("{top}/outside"), "which is not there"),
        ("missing", "which is not there"),
        (".", "which is the destination itself"),
        ("d", "which is a directory"),
    ] {
        let message = bench.refused(Tar::default().dir("d", 0o755).hardlink("name", target));
        assert!(message.contains(found), "{target}: {message}");
    }
    let message = bench.refused(Tar::default().symlink("l", &top).hardlink("name", "l/outside"));
    assert!(message.contains("which is not there"), "{message}");
    bench.add(Tar::default().file("f", "x").hardlink("a/g", "/f").hardlink("f", "./f"), "/ok");
    assert_eq!(bench.stat("ok/a/g").nlink(), 2);
    let message = bench.refused(Tar::default().file("d/f", "x").hardlink("d", "d/f"));
    assert!(message.contains("inside the directory that it would replace"), "{message}");
}

#[test]
fn recorded_owners_hold_for_all_names_of_a_file() {
    let bench = Bench::new();
    let archive = Tar::default().entry("z", b'0', 0o4755, (5, 6), "", b"").hardlink("a", "z").done();
    stdfs::write(bench.dir.path().join("src/archive"), archive).unwrap();
    let context = DirectoryContext::open(&bench.dir.path().join("src"), IgnoreRules::none()).unwrap();
    let selection = select(context.tree(), &["archive"], b"/", &SelectOptions::default()).unwrap();
    let root = fs::open_dir(&bench.root("")).unwrap();
    use cooper_runtime::record::Attributes;
    let record = |owner| Attributes { owner: Some(owner), ..Attributes::default() };
    let mut records = crate::rootfs::Records::from([(b"a".to_vec(), record((1, 1)))]);
    let mut owners = crate::build::workdir::Ownership { records: &mut records, single: true };
    copy_into(root.as_fd(), b"/", &selection, &bench.options, &mut owners).unwrap();
    assert_eq!([&records[&b"z"[..]], &records[&b"a"[..]]], [&record((5, 6)); 2]);
    assert_eq!(bench.mode("a"), 0o4755);
}

#[test]
fn devices_are_left_out_and_told() {
    let mut bench = Bench::new();
    stdfs::create_dir_all(bench.root("dest/dev")).unwrap();
    stdfs::write(bench.root("dest/dev/null"), "kept").unwrap();
    let archive = Tar::default()
        .dir("dev", 0o755)
        .entry("dev/null", b'3', 0o666, (0, 0), "", b"")
        .entry("dev/sda", b'4', 0o660, (0, 0), "", b"")
        .entry("run/pipe", b'6', 0o640, (0, 0), "", b"")
        .file(".wh.name", "ordinary");
    let report = bench.add(archive, "/dest");
    assert_eq!(report.skipped, ["dev/null", "dev/sda"]);
    use std::os::unix::fs::FileTypeExt;
    assert!(bench.stat("dest/run/pipe").file_type().is_fifo());
    assert_eq!(bench.mode("dest/run/pipe"), 0o640);
    assert_eq!(
        (bench.read("dest/dev/null"), bench.read("dest/.wh.name")),
        ("kept".into(), "ordinary".into())
    );
}

#[test]
fn the_destination_must_be_a_directory() {
    let mut bench = Bench::new();
    stdfs::write(bench.root("file"), "").unwrap();
    symlink("made/by/link", bench.root("link")).unwrap();
    let archive = || Tar::default().file("f", "x");
    assert!(bench.try_add(&archive().done(), "/file").unwrap_err().to_string().contains("not a directory"));
    bench.add(archive(), "/link");
    assert_eq!(bench.read("made/by/link/f"), "x");
    bench.add(archive(), "/");
    assert_eq!(bench.read("f"), "x");
}

#[test]
fn only_archives_are_extracted_and_only_when_asked() {
    let mut bench = Bench::new();
    let tar = Tar::default().file("f", "x").done();
    let zip = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    for plain in [&b""[..], b"hello", &[0; 4096], &zip(b"hello"), &zip(&tar)[..20], &tar[1..]] {
        let report = bench.try_add(plain, "/plain").unwrap();
        assert_eq!((report.extracted, stdfs::read(bench.root("plain")).unwrap()), (0, plain.to_vec()));
    }
    bench.try_add(&zip(&tar), "/dir").unwrap();
    assert_eq!(bench.read("dir/f"), "x");
    bench.options.unpack = false;
    bench.try_add(&tar, "/copied").unwrap();
    assert_eq!(stdfs::read(bench.root("copied")).unwrap(), tar);
}

#[test]
fn a_damaged_archive_is_an_error() {
    let mut bench = Bench::new();
    let tar = Tar::default().file("f", "x").file("big", &"y".repeat(100_000)).done();
    let message = bench.try_add(&tar[..50_000], "/d").unwrap_err().to_string();
    assert!(message.starts_with("cannot extract \"archive\": ") && message.contains("cut off"), "{message}");
    // Enough of it that the start can be read before the damage is met.
    let noise: String =
        (0..400_000u32).map(|i| char::from(b'!' + (i.wrapping_mul(2654435761) >> 26) as u8)).collect();
    let mut zipped = zstd::encode_all(&Tar::default().file("big", &noise).done()[..], 1).unwrap();
    zipped.truncate(zipped.len() - 3);
    let message = bench.try_add(&zipped, "/d").unwrap_err().to_string();
    assert!(message.starts_with("cannot extract \"archive\": "), "{message}");
}

#[test]
fn capabilities_are_kept_and_other_attributes_are_not() {
    let mut bench = Bench::new();
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut pax = Vec::new();
    for (name, value) in [("security.capability", &capability[..]), ("user.note", b"x")] {
        let body = [format!(" SCHILY.xattr.{name}=").as_bytes(), value, b"\n"].concat();
        let length = (body.len() + 2..).find(|n| n.to_string().len() + body.len() == *n).unwrap();
        pax.extend(length.to_string().bytes().chain(body));
    }
    let archive = Tar::default().entry("pax", b'x', 0, (0, 0), "", &pax).file("tool", "x").done();
    let probe = fs::open_dir(&bench.root("")).unwrap();
    stdfs::write(bench.root("probe"), "").unwrap();
    let name = OsStr::new("security.capability");
    if fs::set_xattr_at(&probe, OsStr::new("probe"), name, &capability).is_err() {
        // Who may not set capabilities is told so.
        assert!(bench.try_add(&archive, "/d").unwrap_err().to_string().contains("capabilities of /d/tool"));
        return;
    }
    bench.try_add(&archive, "/d").unwrap();
    let dir = fs::open_dir(&bench.root("d")).unwrap();
    let attribute = |name: &str| fs::xattr_at(&dir, OsStr::new("tool"), OsStr::new(name)).unwrap();
    assert_eq!(attribute("security.capability"), Some(capability.to_vec()));
    assert_eq!(attribute("user.note"), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever an archive names, links and replaces, nothing outside the destination changes.
    #[test]
    fn nothing_lands_outside_the_destination(
        entries in prop::collection::vec(
            (0..4u8, "(/|\\.\\./|[abc]/){0,3}[abc]", "(/|\\.\\./|[abc]/){0,4}([abc]|\\.\\.)"),
            1..12,
        ),
    ) {
        let mut bench = Bench::new();
        stdfs::create_dir(bench.root("dest")).unwrap();
        stdfs::write(bench.root("a"), "beside").unwrap();
        stdfs::set_permissions(bench.root("a"), stdfs::Permissions::from_mode(0o640)).unwrap();
        let archive = entries.iter().fold(Tar::default(), |tar, (kind, name, target)| match kind {
            0 => tar.dir(name, 0o755),
            1 => tar.file(name, "content"),
            2 => tar.symlink(name, target),
            _ => tar.hardlink(name, target),
        });
        let _ = bench.try_add(&archive.done(), "/dest");
        bench.nothing_outside();
        prop_assert_eq!(stdfs::read_dir(bench.root("")).unwrap().count(), 2);
        prop_assert_eq!((bench.read("a"), bench.mode("a"), bench.stat("a").nlink()), ("beside".into(), 0o640, 1));
        prop_assert!(bench.owners.0.iter().all(|(path, ..)| path.starts_with("dest/")));
    }
}
