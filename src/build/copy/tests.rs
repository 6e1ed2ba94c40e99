use std::fs as stdfs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::context::tree::SourceTree;
use crate::context::{DirectoryContext, IgnoreRules, SelectOptions, select};

/// Keeps owners instead of making them, so that the tests need no privilege.
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

/// A source directory and a root file system.
struct Bench {
    dir: tempfile::TempDir,
    owners: Owners,
    options: CopyOptions,
    selecting: SelectOptions,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        stdfs::create_dir(dir.path().join("src")).unwrap();
        stdfs::create_dir(dir.path().join("root")).unwrap();
        Bench {
            dir,
            owners: Owners::default(),
            options: CopyOptions::default(),
            selecting: SelectOptions::default(),
        }
    }

    fn src(&self, path: &str) -> PathBuf {
        self.dir.path().join("src").join(path)
    }

    fn root(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    fn file(&self, path: &str, content: &str) {
        put(&self.src(path), content);
    }

    fn select(&self, sources: &[&str], dest: &str) -> Selection {
        let context = DirectoryContext::open(&self.src(""), IgnoreRules::none()).unwrap();
        select(context.tree(), sources, dest.as_bytes(), &self.selecting).unwrap()
    }

    fn write(&mut self, selection: &Selection, dest: &str) -> Result<CopyReport, CopyError> {
        let root = fs::open_dir(&self.root("")).unwrap();
        copy_into(root.as_fd(), dest.as_bytes(), selection, &self.options, &mut self.owners)
    }

    fn try_copy(&mut self, sources: &[&str], dest: &str) -> Result<CopyReport, CopyError> {
        let selection = self.select(sources, dest);
        self.write(&selection, dest)
    }

    fn copy(&mut self, sources: &[&str], dest: &str) -> CopyReport {
        self.try_copy(sources, dest).unwrap()
    }

    fn refused(&mut self, sources: &[&str], dest: &str) -> String {
        self.try_copy(sources, dest).unwrap_err().to_string()
    }

    fn read(&self, path: &str) -> String {
        stdfs::read_to_string(self.root(path)).unwrap()
    }

    fn mode(&self, path: &str) -> u32 {
        stdfs::symlink_metadata(self.root(path)).unwrap().mode() & 0o7777
    }

    fn mtime(&self, path: &str) -> i64 {
        stdfs::symlink_metadata(self.root(path)).unwrap().mtime()
    }
}

fn put(path: &Path, content: &str) {
    stdfs::create_dir_all(path.parent().unwrap()).unwrap();
    stdfs::write(path, content).unwrap();
}

fn chmod(path: &Path, mode: u32) {
    stdfs::set_permissions(path, stdfs::Permissions::from_mode(mode)).unwrap();
}

fn set_time(path: &Path, seconds: u64) {
    let file = stdfs::File::open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
}

#[test]
fn a_file_becomes_the_destination_or_goes_into_it() {
    let mut bench = Bench::new();
    bench.file("f", "content");
    bench.copy(&["f"], "/new");
    bench.copy(&["f"], "/dir/");
    bench.copy(&["f"], "/p/q/other");
    assert_eq!((bench.read("new"), bench.read("dir/f")), ("content".into(), "content".into()));
    assert_eq!(bench.read("p/q/other"), "content");
    bench.copy(&["f"], "/p");
    assert_eq!(bench.read("p/f"), "content", "into a directory that is there");
    bench.copy(&["f"], "/");
    assert_eq!(bench.read("f"), "content");
    let report = bench.copy(&["f", "f"], "/twice/");
    assert_eq!(report, CopyReport { files: 2, directories: 0, bytes: 14, ..CopyReport::default() });
}

#[test]
fn a_directory_copies_its_content() {
    let mut bench = Bench::new();
    bench.file("d/a", "a");
    bench.file("d/sub/b", "b");
    symlink("../outside", bench.src("d/link")).unwrap();
    let report = bench.copy(&["d"], "/dest");
    assert_eq!(report, CopyReport { files: 3, directories: 2, bytes: 2, ..CopyReport::default() });
    assert_eq!((bench.read("dest/a"), bench.read("dest/sub/b")), ("a".into(), "b".into()));
    assert_eq!(stdfs::read_link(bench.root("dest/link")).unwrap(), Path::new("../outside"));
    bench.copy(&["."], "/");
    assert_eq!(bench.read("d/sub/b"), "b");
}

#[test]
fn modes_and_times_come_along_except_for_the_root_of_a_directory() {
    let mut bench = Bench::new();
    bench.file("d/setuid", "x");
    bench.file("d/sub/x", "x");
    bench.file("file", "x");
    chmod(&bench.src("d/setuid"), 0o4711);
    chmod(&bench.src("d/sub"), 0o2750);
    chmod(&bench.src("d"), 0o700);
    for (path, time) in [("d/setuid", 10), ("d/sub/x", 20), ("d/sub", 30), ("d", 40), ("file", 50)] {
        set_time(&bench.src(path), time);
    }
    stdfs::create_dir_all(bench.root("old/sub")).unwrap();
    chmod(&bench.root("old"), 0o711);
    for dest in ["new", "old"] {
        bench.copy(&["d"], &format!("/{dest}"));
        let at = |path: &str| format!("{dest}/{path}");
        assert_eq!((bench.mode(&at("setuid")), bench.mtime(&at("setuid"))), (0o4711, 10));
        assert_eq!((bench.mode(&at("sub")), bench.mtime(&at("sub"))), (0o2750, 30));
        assert_eq!(bench.mtime(&at("sub/x")), 20);
        assert_eq!(bench.mtime(dest), 40);
    }
    assert_eq!((bench.mode("new"), bench.mode("old")), (0o755, 0o711));
    bench.copy(&["file"], "/parents/are/made/file");
    assert_eq!(bench.mode("parents/are"), 0o755);
    assert_eq!(bench.mtime("parents/are/made/file"), 50);
}

#[test]
fn owners_are_root_unless_asked_otherwise_and_existing_directories_keep_theirs() {
    let mut bench = Bench::new();
    bench.file("d/f", "x");
    stdfs::create_dir(bench.root("old")).unwrap();
    bench.copy(&["d"], "/old");
    assert_eq!(bench.owners.0, [("old/f".to_owned(), 0, 0)]);
    bench.owners.0.clear();
    bench.options.chown = Some((1000, 50));
    bench.copy(&["d/f"], "/p/q/f");
    bench.copy(&["d"], "/new");
    let expected = ["p/q/f", "p/q", "p", "new/f", "new"].map(|path| (path.to_owned(), 1000, 50));
    assert_eq!(bench.owners.0, expected);
}

#[test]
fn chmod_reaches_files_directories_and_made_parents() {
    let mut bench = Bench::new();
    bench.file("d/sub/f", "x");
    symlink("f", bench.src("d/sub/l")).unwrap();
    stdfs::create_dir(bench.root("old")).unwrap();
    chmod(&bench.root("old"), 0o755);
    bench.options.chmod = Some(Chmod::parse("0750").unwrap());
    bench.copy(&["d"], "/old/p/q");
    for path in ["old/p", "old/p/q", "old/p/q/sub", "old/p/q/sub/f"] {
        assert_eq!(bench.mode(path), 0o750, "{path}");
    }
    assert_eq!(bench.mode("old"), 0o755);
    // A mode without x for its owner must not keep the copy itself out.
    bench.options.chmod = Some(Chmod::parse("640").unwrap());
    bench.copy(&["d"], "/r/s");
    assert_eq!(bench.mode("r"), 0o640);
    chmod(&bench.root("r"), 0o755);
    assert_eq!(bench.mode("r/s"), 0o640);
    chmod(&bench.root("r/s"), 0o755);
    assert_eq!(bench.mode("r/s/sub"), 0o640);
}

#[test]
fn symbolic_modes_change_each_file_from_what_it_had() {
    let mut bench = Bench::new();
    bench.file("d/sub/plain", "x");
    bench.file("d/sub/program", "x");
    for (path, mode) in [("d/sub/plain", 0o666), ("d/sub/program", 0o4710), ("d/sub", 0o700)] {
        chmod(&bench.src(path), mode);
    }
    bench.options.chmod = Some(Chmod::parse("go-w,o+rX").unwrap());
    bench.copy(&["d"], "/p/q");
    let modes = ["p", "p/q", "p/q/sub", "p/q/sub/plain", "p/q/sub/program"].map(|path| bench.mode(path));
    assert_eq!(modes, [0o755, 0o755, 0o705, 0o644, 0o4715]);
    bench.options.chmod = Some(Chmod::parse("go=u").unwrap());
    bench.copy(&["d/sub/program"], "/made/program");
    assert_eq!((bench.mode("made"), bench.mode("made/program")), (0o755, 0o4777));
}

#[test]
fn hard_links_stay_within_a_directory_and_not_between_sources() {
    let mut bench = Bench::new();
    bench.file("d/a", "x");
    stdfs::create_dir(bench.src("d/sub")).unwrap();
    stdfs::hard_link(bench.src("d/a"), bench.src("d/sub/b")).unwrap();
    put(&bench.root("dest/sub/b"), "in the way");
    bench.copy(&["d"], "/dest");
    let inode = |path: &str| stdfs::metadata(bench.root(path)).unwrap().ino();
    assert_eq!(inode("dest/a"), inode("dest/sub/b"));
    bench.copy(&["d/a", "d/sub/b"], "/two/");
    let inode = |path: &str| stdfs::metadata(bench.root(path)).unwrap().ino();
    assert_ne!(inode("two/a"), inode("two/b"));
}

#[test]
fn destination_links_are_followed_inside_the_root_also_when_they_dangle() {
    let mut bench = Bench::new();
    let outside = tempfile::tempdir().unwrap();
    bench.file("f", "new");
    bench.file("d/x", "x");
    stdfs::create_dir(bench.root("real")).unwrap();
    symlink("/real", bench.root("dir-link")).unwrap();
    put(&bench.root("target"), "old");
    symlink("target", bench.root("file-link")).unwrap();
    symlink("/made/by/link", bench.root("dangling")).unwrap();
    symlink("../../gone", bench.root("dangling-dir")).unwrap();
    symlink(outside.path(), bench.root("escape")).unwrap();
    bench.copy(&["f"], "/dir-link");
    assert_eq!(bench.read("real/f"), "new");
    bench.copy(&["f"], "/file-link");
    assert_eq!(bench.read("target"), "new");
    assert!(bench.root("file-link").is_symlink());
    bench.copy(&["f"], "/dangling");
    assert_eq!(bench.read("made/by/link"), "new");
    bench.copy(&["d"], "/dangling-dir");
    assert_eq!(bench.read("gone/x"), "x");
    bench.copy(&["f"], "/escape/");
    bench.copy(&["f"], "/escape/../../../up");
    assert_eq!(stdfs::read_dir(outside.path()).unwrap().count(), 0);
    let inside = format!("{}/f", outside.path().strip_prefix("/").unwrap().display());
    assert_eq!(bench.read(&inside), "new");
}

#[test]
fn names_in_a_copied_directory_are_replaced_and_not_written_through() {
    let mut bench = Bench::new();
    bench.file("d/a", "new");
    bench.file("d/b", "new");
    put(&bench.root("victim"), "untouched");
    stdfs::create_dir(bench.root("dest")).unwrap();
    symlink("../victim", bench.root("dest/a")).unwrap();
    stdfs::hard_link(bench.root("victim"), bench.root("dest/b")).unwrap();
    bench.copy(&["d"], "/dest");
    assert_eq!((bench.read("dest/a"), bench.read("dest/b")), ("new".into(), "new".into()));
    bench.copy(&["d/a"], "/dest/");
    assert!(!bench.root("dest/a").is_symlink());
    // A single file over another name of a file: that name alone changes.
    stdfs::hard_link(bench.root("victim"), bench.root("alias")).unwrap();
    bench.copy(&["d/a"], "/alias");
    assert_eq!(bench.read("alias"), "new");
    assert_eq!(bench.read("victim"), "untouched");
}

#[test]
fn directories_and_others_do_not_replace_each_other() {
    let mut bench = Bench::new();
    bench.file("d/x/inner", "");
    bench.file("f", "");
    put(&bench.root("file"), "");
    put(&bench.root("dest/x"), "");
    stdfs::create_dir_all(bench.root("dir/f")).unwrap();
    let advice = "remove it first or choose another destination";
    assert_eq!(
        bench.refused(&["d"], "/file"),
        format!("cannot copy the directory \"d\" to /file: a file is there; {advice}")
    );
    assert_eq!(
        bench.refused(&["d"], "/dest"),
        format!("cannot copy the directory \"d/x\" to /dest/x: a file is there; {advice}")
    );
    stdfs::remove_file(bench.root("dest/x")).unwrap();
    symlink("/dir", bench.root("dest/x")).unwrap();
    assert!(bench.refused(&["d"], "/dest").contains("a symbolic link is there"));
    assert_eq!(
        bench.refused(&["f"], "/dir/"),
        format!("cannot copy \"f\" to /dir/f: a directory is there; {advice}")
    );
    assert!(
        bench.refused(&["f"], "/file/below").contains("/file/below: a part of this path is not a directory")
    );
    assert!(bench.refused(&["f"], "/file/").contains("not a directory"));
}

#[test]
fn a_wildcard_writes_what_it_matched_one_after_the_other() {
    let mut bench = Bench::new();
    bench.file("a.txt", "a");
    bench.file("b.txt", "b");
    bench.file("c/inner", "c");
    bench.copy(&["*.txt"], "/file");
    assert_eq!(bench.read("file"), "b", "no slash: one file, the last one wins");
    bench.copy(&["*.txt"], "/dir/");
    assert_eq!((bench.read("dir/a.txt"), bench.read("dir/b.txt")), ("a".into(), "b".into()));
    let report = bench.copy(&["*.none"], "/nothing/at/all/");
    assert_eq!(report, CopyReport::default());
    assert!(!bench.root("nothing").exists());
}

#[test]
fn sockets_and_pipes() {
    let mut bench = Bench::new();
    stdfs::create_dir(bench.src("d")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(bench.src("d/socket")).unwrap();
    chmod(&bench.src("d/socket"), 0o640);
    let dir = fs::open_dir(&bench.src("d")).unwrap();
    fs::make_node_at(&dir, OsStr::new("pipe"), FileKind::Fifo, (0, 0)).unwrap();
    chmod(&bench.src("d/pipe"), 0o622);
    bench.copy(&["d"], "/dest");
    assert_eq!((bench.read("dest/socket").as_str(), bench.mode("dest/socket")), ("", 0o640));
    let root = fs::open_dir(&bench.root("dest")).unwrap();
    assert_eq!(fs::stat_at(&root, OsStr::new("pipe")).unwrap().kind, FileKind::Fifo);
    assert_eq!(bench.mode("dest/pipe"), 0o622);
}

#[test]
fn capabilities_survive_from_a_stage_and_nothing_else_does() {
    let mut bench = Bench::new();
    bench.file("tool", "x");
    let dir = fs::open_dir(&bench.src("")).unwrap();
    let (tool, capability, user) =
        (OsStr::new("tool"), OsStr::new("security.capability"), OsStr::new("user.note"));
    // cap_net_raw+ep, as setcap writes it.
    let value = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let capable = fs::set_xattr_at(&dir, tool, capability, &value).is_ok();
    let noted = fs::set_xattr_at(&dir, tool, user, b"x").is_ok();
    bench.copy(&["tool"], "/from-context");
    let stage = SourceTree::image(dir, "stage `build`");
    let selection = select(&stage, &["tool"], b"/from-stage", &SelectOptions::default()).unwrap();
    bench.options.chown = Some((5, 5));
    bench.write(&selection, "/from-stage").unwrap();
    let root = fs::open_dir(&bench.root("")).unwrap();
    let attribute = |name: &str, attr| fs::xattr_at(&root, OsStr::new(name), attr).unwrap();
    // Who may not set capabilities (an ordinary user) can test the rest.
    assert_eq!(attribute("from-stage", capability), capable.then(|| value.to_vec()));
    assert_eq!(attribute("from-context", capability), None);
    if noted {
        assert_eq!((attribute("from-stage", user), attribute("from-context", user)), (None, None));
    }
}

#[test]
fn large_and_sparse_files_arrive_whole() {
    let mut bench = Bench::new();
    let content: Vec<u8> = (0..1_000_003u32).map(|i| (i % 251) as u8).collect();
    stdfs::write(bench.src("large"), &content).unwrap();
    let sparse = stdfs::File::create(bench.src("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", (64 << 20) - 3).unwrap();
    bench.copy(&["."], "/d");
    assert_eq!(stdfs::read(bench.root("d/large")).unwrap(), content);
    let copied = stdfs::metadata(bench.root("d/sparse")).unwrap();
    assert_eq!(copied.len(), 64 << 20);
    assert!(copied.blocks() * 512 < 1 << 20, "holes stay holes");
}

#[test]
fn a_source_that_changed_since_it_was_selected_is_an_error() {
    let mut bench = Bench::new();
    bench.file("d/f", "before");
    let selection = bench.select(&["d"], "/x");
    for change in ["longer than before", "", "BEFORE"] {
        std::thread::sleep(Duration::from_millis(20));
        bench.file("d/f", change);
        let error = bench.write(&selection, "/x").unwrap_err();
        assert!(matches!(error, CopyError::Changed { .. }), "{change}: {error}");
    }
    stdfs::remove_file(bench.src("d/f")).unwrap();
    assert!(matches!(bench.write(&selection, "/x").unwrap_err(), CopyError::Changed { .. }));
    symlink("/etc/passwd", bench.src("d/f")).unwrap();
    assert!(bench.write(&selection, "/x").is_err());
}

#[test]
fn what_fails_in_the_image_is_named() {
    struct Full;
    impl OwnerSink for Full {
        fn set_owner(&mut self, _: BorrowedFd<'_>, _: &OsStr, path: &[u8], _: u32, _: u32) -> io::Result<()> {
            match path {
                b"dest/d/f" => Err(io::Error::from(io::ErrorKind::StorageFull)),
                _ => Ok(()),
            }
        }
    }
    let bench = Bench::new();
    bench.file("d/f", "x");
    let root = fs::open_dir(&bench.root("")).unwrap();
    let selection = bench.select(&["."], "/dest");
    let error = copy_into(root.as_fd(), b"/dest", &selection, &bench.options, &mut Full).unwrap_err();
    assert_eq!(error.to_string(), "cannot set the owner of /dest/d/f in the image: no storage space");
}

#[test]
fn with_parents_directories_on_the_way_are_those_of_the_source() {
    let mut bench = Bench::new();
    bench.file("a/b/f", "x");
    bench.file("a/other", "x");
    chmod(&bench.src("a"), 0o2750);
    chmod(&bench.src("a/b"), 0o700);
    for (path, time) in [("a/b", 20), ("a", 30), ("", 40)] {
        set_time(&bench.src(path), time);
    }
    stdfs::create_dir_all(bench.root("old/a")).unwrap();
    chmod(&bench.root("old"), 0o711);
    bench.selecting.parents = true;
    bench.copy(&["a/b/f"], "/new");
    assert_eq!((bench.mode("new"), bench.mode("new/a"), bench.mode("new/a/b")), (0o755, 0o2750, 0o700));
    assert_eq!((bench.mtime("new"), bench.mtime("new/a"), bench.mtime("new/a/b")), (40, 30, 20));
    assert!(!bench.root("new/a/other").exists());
    // One that is there takes the mode as it is in the source, and keeps its owner.
    bench.owners.0.clear();
    bench.options.chmod = Some(Chmod::parse("o+rwx").unwrap());
    bench.options.chown = Some((7, 7));
    bench.copy(&["a/b/f"], "/old");
    assert_eq!((bench.mode("old"), bench.mode("old/a"), bench.mode("old/a/b")), (0o711, 0o2750, 0o707));
    assert_eq!(bench.owners.0, ["old/a/b/f", "old/a/b"].map(|path| (path.to_owned(), 7, 7)));
    // The destination is a directory whatever it is called.
    bench.options = CopyOptions::default();
    bench.copy(&["a/./other"], "/dir");
    assert_eq!(bench.read("dir/other"), "x");
}

#[test]
fn what_is_excluded_leaves_no_trace() {
    let mut bench = Bench::new();
    for path in ["d/a", "d/no/b", "d/no/c/yes", "d/empty/no"] {
        bench.file(path, "x");
    }
    bench.selecting.excludes = vec![b"no".to_vec(), b"*/no".to_vec(), b"!no/c/yes".to_vec()];
    bench.copy(&["d"], "/dest");
    assert_eq!(bench.read("dest/no/c/yes"), "x");
    assert!(!bench.root("dest/no/b").exists());
    assert_eq!(stdfs::read_dir(bench.root("dest/empty")).unwrap().count(), 0);
}

#[test]
fn a_text_is_written_as_a_file() {
    let mut bench = Bench::new();
    put(&bench.root("old"), "old");
    let text = Selection::inline("EOF", "hello\n");
    let report = bench.write(&text, "/p/file").unwrap();
    assert_eq!(report, CopyReport { files: 1, directories: 0, bytes: 6, ..CopyReport::default() });
    assert_eq!((bench.read("p/file"), bench.mode("p/file")), ("hello\n".into(), 0o644));
    bench.write(&text, "/old").unwrap();
    bench.write(&text, "/dir/").unwrap();
    bench.write(&text, "/p").unwrap();
    assert_eq!(
        (bench.read("old"), bench.read("dir/EOF"), bench.read("p/EOF")),
        ("hello\n".into(), "hello\n".into(), "hello\n".into())
    );
    bench.options =
        CopyOptions { chown: Some((3, 4)), chmod: Some(Chmod::parse("u+x").unwrap()), unpack: false };
    bench.owners.0.clear();
    bench.write(&text, "/script").unwrap();
    assert_eq!(
        (bench.mode("script"), bench.owners.0.as_slice()),
        (0o744, &[("script".to_owned(), 3, 4)][..])
    );
}

#[test]
fn one_selection_may_hold_sources_of_several_kinds() {
    let mut bench = Bench::new();
    bench.file("f", "file");
    bench.file("download", "downloaded");
    let mut selection = bench.select(&["f"], "/dest/");
    let tree = SourceTree::image(fs::open_dir(&bench.src("")).unwrap(), "the download");
    let time = fs::Time { sec: 77, nsec: 0 };
    selection.append(Selection::single_file(&tree, b"download", "tool", 0o600, time).unwrap());
    selection.append(Selection::inline("text", "text"));
    bench.write(&selection, "/dest/").unwrap();
    assert_eq!((bench.read("dest/f"), bench.read("dest/text")), ("file".into(), "text".into()));
    assert_eq!(
        (bench.read("dest/tool"), bench.mode("dest/tool"), bench.mtime("dest/tool")),
        ("downloaded".into(), 0o600, 77)
    );
}
