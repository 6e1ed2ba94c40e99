use std::fs as std_fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

use super::*;

/// An archive in the making.
struct Archive(tar::Builder<Vec<u8>>);

impl Archive {
    fn new() -> Archive {
        Archive(tar::Builder::new(Vec::new()))
    }

    fn add(mut self, kind: tar::EntryType, name: &str, link: &str, mode: u32, content: &str) -> Archive {
        let mut header = tar::Header::new_gnu();
        // The library refuses what an attacker would not.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_000_000);
        header.set_uid(1234);
        header.set_gid(1234);
        header.set_size(content.len() as u64);
        if kind.is_character_special() {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        self.0.append(&header, content.as_bytes()).unwrap();
        self
    }

    fn file(self, name: &str, content: &str) -> Archive {
        self.add(tar::EntryType::Regular, name, "", 0o640, content)
    }

    fn dir(self, name: &str, mode: u32) -> Archive {
        self.add(tar::EntryType::Directory, name, "", mode, "")
    }

    fn symlink(self, name: &str, target: &str) -> Archive {
        self.add(tar::EntryType::Symlink, name, target, 0o777, "")
    }

    fn link(self, name: &str, target: &str) -> Archive {
        self.add(tar::EntryType::Link, name, target, 0o644, "")
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }

    fn unpack(self) -> (Ground, Result<Vec<String>, UnpackError>) {
        let ground = Ground::new();
        let result = unpack(&*self.bytes(), &ground.root);
        ground.check();
        (ground, result)
    }
}

/// A directory to unpack into, beside things that nothing may change.
struct Ground {
    dir: tempfile::TempDir,
    root: PathBuf,
}

impl Ground {
    fn new() -> Ground {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std_fs::create_dir(&root).unwrap();
        std_fs::create_dir(dir.path().join("outside")).unwrap();
        std_fs::write(dir.path().join("secret"), "secret").unwrap();
        Ground { dir, root }
    }

    fn check(&self) {
        assert_eq!(std_fs::read_dir(self.dir.path().join("outside")).unwrap().count(), 0);
        assert_eq!(std_fs::read(self.dir.path().join("secret")).unwrap(), b"secret");
        assert_eq!(std_fs::metadata(self.dir.path().join("secret")).unwrap().nlink(), 1);
        assert_eq!(std_fs::read_dir(self.dir.path()).unwrap().count(), 3);
    }

    fn read(&self, name: &str) -> String {
        std_fs::read_to_string(self.root.join(name)).unwrap()
    }

    fn meta(&self, name: &str) -> std_fs::Metadata {
        std_fs::symlink_metadata(self.root.join(name)).unwrap()
    }

    fn mode(&self, name: &str) -> u32 {
        self.meta(name).permissions().mode() & 0o7777
    }
}

#[test]
fn everything_that_a_context_may_have() {
    let (ground, result) = Archive::new()
        .dir("./", 0o700)
        .file("./a/f", "text")
        .dir("d", 0o2555)
        .file("d/setuid", "x")
        .add(tar::EntryType::Regular, "tool", "", 0o4755, "x")
        .symlink("l", "a/f")
        .symlink("dangling", "/no/where")
        .link("d/hard", "a/f")
        .add(tar::EntryType::Fifo, "pipe", "", 0o600, "")
        .unpack();
    assert_eq!(result.unwrap(), Vec::<String>::new());
    assert_eq!((ground.read("a/f"), ground.read("l")), ("text".into(), "text".into()));
    assert_eq!([ground.mode("."), ground.mode("a"), ground.mode("d")], [0o755, 0o755, 0o2555]);
    assert_eq!([ground.mode("a/f"), ground.mode("tool"), ground.mode("pipe")], [0o640, 0o4755, 0o600]);
    assert_eq!(ground.meta("d/hard").ino(), ground.meta("a/f").ino());
    assert!(ground.meta("pipe").file_type().is_fifo());
    assert_eq!(std_fs::read_link(ground.root.join("dangling")).unwrap(), Path::new("/no/where"));
    for name in [".", "a/f", "d", "l", "pipe"] {
        assert_eq!(ground.meta(name).mtime(), 1_000_000, "{name}");
    }
    assert_eq!(ground.meta("a").mtime(), 0, "nobody said when");
    assert_ne!(ground.meta("a/f").uid(), 1234);
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in ["../secret", "a/../../secret", "..", "/../secret", "./../outside/x"] {
        let (_, result) = Archive::new().file(name, "evil").unpack();
        assert!(matches!(result, Err(UnpackError::Outside(_))), "{name}: {result:?}");
    }
}

#[test]
fn absolute_names_are_names_inside() {
    let (ground, result) = Archive::new().file("/secret", "mine").file("//etc/passwd", "mine").unpack();
    result.unwrap();
    assert_eq!((ground.read("secret"), ground.read("etc/passwd")), ("mine".into(), "mine".into()));
}

#[test]
fn planted_links_lead_nowhere_else() {
    // A link that points out, and then a name below it.
    for target in ["../outside", "../../../../../../tmp", "/", "..", "."] {
        let (ground, result) = Archive::new()
            .dir("outside", 0o755)
            .dir("tmp", 0o755)
            .symlink("l", target)
            .file("l/f", "evil")
            .unpack();
        result.unwrap();
        let inside = match target {
            "../outside" => "outside/f",
            "../../../../../../tmp" => "tmp/f",
            _ => "f",
        };
        assert_eq!(ground.read(inside), "evil", "{target}");
    }
    // One that points at what is not there inside, whatever there is outside.
    let (ground, result) = Archive::new().symlink("l", "/var/lib/x").file("l/f", "evil").unpack();
    result.unwrap();
    assert_eq!(ground.read("var/lib/x/f"), "evil");
    // The last name is replaced and not followed.
    let (ground, result) = Archive::new().symlink("l", "../secret").file("l", "mine").unpack();
    result.unwrap();
    assert!(ground.meta("l").is_file() && ground.read("l") == "mine");
    // A directory does not take a link for a directory, and its mode goes nowhere.
    let (ground, result) =
        Archive::new().symlink("l", "../outside").dir("l", 0o777).file("l/f", "x").unpack();
    result.unwrap();
    assert!(ground.meta("l").is_dir() && ground.read("l/f") == "x");
    // Links in a circle.
    let (_, result) = Archive::new().symlink("a", "b").symlink("b", "a").file("a/f", "x").unpack();
    assert!(matches!(result, Err(UnpackError::Entry { .. })), "{result:?}");
}

#[test]
fn hard_links_lead_to_what_is_in_the_archive() {
    for target in ["../secret", "/../secret", "a/../../secret"] {
        let (_, result) = Archive::new().link("l", target).unpack();
        assert!(matches!(result, Err(UnpackError::Link { .. })), "{target}: {result:?}");
    }
    for target in ["secret", "/secret", "none/x", "/etc/passwd"] {
        let (_, result) = Archive::new().link("l", target).unpack();
        let error = result.unwrap_err().to_string();
        assert!(error.contains("which is not in it"), "{target}: {error}");
    }
    // Through a link that points out; and of a link, which is not what it points to.
    let (_, result) = Archive::new().symlink("up", "..").link("l", "up/secret").unpack();
    assert!(result.unwrap_err().to_string().contains("not in it"));
    let (ground, result) = Archive::new().symlink("s", "../secret").link("l", "s").file("l", "mine").unpack();
    result.unwrap();
    assert_eq!((ground.read("l"), ground.meta("s").is_symlink()), ("mine".into(), true));
    // To a directory, to itself, to what it stands in the way of.
    assert!(Archive::new().dir("d", 0o755).link("l", "d").unpack().1.is_err());
    let (ground, result) = Archive::new().file("f", "x").link("f", "f").link("l", "/./f").unpack();
    result.unwrap();
    assert_eq!((ground.read("f"), ground.read("l")), ("x".into(), "x".into()));
    assert!(Archive::new().file("d/f", "x").link("d", "d/f").unpack().1.is_err());
    // Writing one name of two by a later entry leaves the other.
    let (ground, result) = Archive::new().file("f", "old").link("l", "f").file("l", "new").unpack();
    result.unwrap();
    assert_eq!((ground.read("f"), ground.read("l")), ("old".into(), "new".into()));
}

#[test]
fn later_entries_win() {
    let (ground, result) = Archive::new()
        .file("x/y/f", "1")
        .dir("x/y", 0o500)
        .file("x", "file")
        .file("a", "file")
        .file("b", "1")
        .dir("a", 0o750)
        .file("a/f", "2")
        .file("b", "2")
        .dir("a", 0o700)
        .unpack();
    result.unwrap();
    assert_eq!(
        (ground.read("x"), ground.read("a/f"), ground.read("b")),
        ("file".into(), "2".into(), "2".into())
    );
    assert_eq!(ground.mode("a"), 0o700);
    let (_, result) = Archive::new().file("f", "x").file("f/g", "x").unpack();
    assert!(result.unwrap_err().to_string().contains("`f/g`"));
}

#[test]
fn what_cannot_be_as_in_the_archive_is_noted() {
    let (ground, result) = Archive::new()
        .dir("locked", 0)
        .file("locked/f", "x")
        .add(tar::EntryType::Regular, "none", "", 0, "x")
        .add(tar::EntryType::Char, "dev/null", "", 0o666, "")
        .unpack();
    let notes = result.unwrap();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].contains("device `dev/null`") && notes[1].starts_with("2 files"), "{notes:?}");
    assert_eq!((ground.mode("locked"), ground.mode("none")), (0o500, 0o400));
    assert_eq!(ground.read("locked/f"), "x");
}

#[test]
fn compressed_and_not() {
    let plain = Archive::new().file("f", "text").bytes();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(&*plain, 1).unwrap();
    for archive in [&plain, &gzip, &zstd] {
        assert!(is_archive(archive));
        let ground = Ground::new();
        unpack(&**archive, &ground.root).unwrap();
        assert_eq!(ground.read("f"), "text");
        let cut = &archive[..archive.len() / 4];
        assert!(unpack(cut, &Ground::new().root).is_err());
    }
    unpack(&[0; 1024][..], &Ground::new().root).unwrap();
    for no_tar in [&b""[..], b"FROM scratch\n", &[b'x'; 2000]] {
        assert!(unpack(no_tar, &Ground::new().root).is_err());
        assert!(!is_archive(no_tar));
    }
    assert!(is_archive(b"BZh91AY") && is_archive(b"\xfd7zXZ\0") && is_archive(&[0; 512]));
    assert!(!is_archive(&[0; 511]) && !is_archive(b"BZhello"));
}

#[test]
fn bombs_are_stopped() {
    let mut header = tar::Header::new_gnu();
    header.set_path("f").unwrap();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    let size: u64 = 64 << 20;
    header.set_size(size);
    header.set_cksum();
    // Zeros that are never there: a few kilobytes that stand for many megabytes.
    let plain = Read::chain(&header.as_bytes()[..], io::repeat(0).take(size + 1024));
    let bomb = zstd::encode_all(plain, 1).unwrap();
    assert!((bomb.len() as u64) < size / BOMB_RATIO);
    let ground = Ground::new();
    let error = unpack(&*bomb, &ground.root).unwrap_err().to_string();
    assert!(error.contains("fill the disk"), "{error}");
}
