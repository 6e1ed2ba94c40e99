//! Any copies onto any layers, each written directly and into a mounted root: the layers must be the same.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use cooper_runtime::record::Attributes;
use cooper_runtime::sys::fs::Stat;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::build::copy::copy_into;
use crate::build::workdir::Ownership;
use crate::context::{DirectoryContext, IgnoreRules, SelectOptions, select};
use crate::layer::entry::EntryKind;
use crate::layer::write::TarWriter;
use crate::rootfs::opener::FileOpener;
use crate::rootfs::storage::Backend;
use crate::store::Store;

/// What a tree has at a path.
#[derive(Debug, Clone)]
enum Node {
    Directory(u32),
    File(&'static str, u32),
    Symlink(&'static str),
    Fifo,
    /// Another name for whatever file is at this path.
    Link(String),
    Gone,
}

type Nodes = Vec<(String, Node, u64)>;

fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop::sample::select(vec!["a", "b", "a-b", "c"]), 1..4)
        .prop_map(|names| names.join("/"))
}

fn nodes(most: usize) -> impl Strategy<Value = Nodes> {
    let mode = prop::sample::select(vec![0o755, 0o644, 0o750, 0o4711]);
    let dir_mode = prop::sample::select(vec![0o755, 0o700, 0o2775, 0o1777]);
    let text = prop::sample::select(vec!["", "x", "y", "longer"]);
    let target = prop::sample::select(vec!["a", "/b", "../c", "/new/far", "."]);
    let node = prop_oneof![
        4 => dir_mode.prop_map(Node::Directory),
        6 => (text, mode).prop_map(|(text, mode)| Node::File(text, mode)),
        2 => target.prop_map(Node::Symlink),
        1 => Just(Node::Fifo),
        2 => path().prop_map(Node::Link),
        1 => Just(Node::Gone),
    ];
    proptest::collection::vec((path(), node, prop::sample::select(vec![100u64, 200])), 0..most)
}

/// Makes of a tree what can be made of it.
fn make(root: &Path, nodes: &Nodes) {
    let time = |path: &Path, time: u64| {
        let dir = fs::open_dir(path.parent().unwrap()).unwrap();
        let time = Time { sec: time as i64, nsec: 7 };
        fs::set_mtime_at(dir, path.file_name().unwrap(), time).unwrap();
    };
    let mut times = BTreeMap::new();
    for (path, node, mtime) in nodes {
        let path = root.join(path);
        let parent = path.parent().unwrap();
        let inside = |path: &Path| {
            let mut above = path.ancestors().skip(1).take_while(|p| p.starts_with(root));
            above.all(|p| p.symlink_metadata().is_ok_and(|m| m.is_dir()))
        };
        if !inside(&path) && std::fs::create_dir_all(parent).is_err() || !inside(&path) {
            continue;
        }
        let there = path.symlink_metadata().is_ok();
        let dir = fs::open_dir(parent).unwrap();
        let name = path.file_name().unwrap();
        match node {
            Node::Gone => {
                fs::remove_tree_at(&dir, name).unwrap();
                times.retain(|known: &PathBuf, _| !known.starts_with(&path));
                continue;
            }
            _ if there => continue,
            Node::Directory(mode) => fs::make_dir_at(&dir, name, *mode).unwrap(),
            Node::File(text, mode) => {
                std::fs::write(&path, text).unwrap();
                fs::chmod_at(&dir, name, *mode).unwrap();
            }
            Node::Symlink(target) => std::os::unix::fs::symlink(target, &path).unwrap(),
            Node::Fifo => fs::make_node_at(&dir, name, fs::FileKind::Fifo, (0, 0)).unwrap(),
            Node::Link(to) => {
                let to = root.join(to);
                if !inside(&to) || !to.symlink_metadata().is_ok_and(|m| m.is_file()) {
                    continue;
                }
                std::fs::hard_link(to, &path).unwrap();
            }
        }
        times.insert(path, *mtime);
    }
    times.iter().rev().for_each(|(path, mtime)| time(path, *mtime));
}

#[derive(Debug, Clone)]
struct Case {
    words: Vec<&'static str>,
    dest: &'static str,
    chown: Option<(u32, u32)>,
    chmod: Option<&'static str>,
    parents: bool,
    text: bool,
    clamp: Clamp,
    /// The clamp that directories are written ahead with, if they are.
    ahead: Option<Clamp>,
}

/// A time between those that trees have and now.
const WHILE: i64 = 1000;

fn case() -> impl Strategy<Value = Case> {
    let words = prop::sample::select(vec![
        vec!["."],
        vec!["a"],
        vec!["b"],
        vec!["a", "b"],
        vec!["*"],
        vec!["a/*", "c"],
        vec!["a-b"],
    ]);
    let dest = prop::sample::select(vec![
        "/",
        "/a",
        "/a/",
        "/new",
        "/new/deep/",
        "/a/b/c",
        "/b/",
        "/c/new/x",
        "/a/../c/",
        "/n/../m",
    ]);
    let options = (
        prop::option::weighted(0.3, Just((7, 8))),
        prop::option::weighted(0.3, prop::sample::select(vec!["640", "u=rwX,go=rX"])),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
    );
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    let clamp = prop::sample::select(vec![
        Clamp::Between { from: WHILE, until: now + 10_000, to: 300 },
        Clamp::Newest { from: WHILE, until: now + 10_000, to: 150 },
        Clamp::Exactly(100),
    ]);
    let ahead = prop::option::of(clamp.clone());
    (words, dest, options, clamp, ahead).prop_map(
        |(words, dest, (chown, chmod, parents, text), clamp, ahead)| Case {
            words,
            dest,
            chown,
            chmod,
            parents,
            text,
            clamp,
            ahead,
        },
    )
}

/// Writes a source ahead, as if it were old.
fn ahead(lab: &Lab, source: &Source, dest: &[u8], clamp: Clamp) -> Option<Staged> {
    let late = Time { sec: i64::MAX, nsec: 0 };
    let base = dest.strip_prefix(b"/").unwrap();
    let base = base.strip_suffix(b"/").unwrap_or(base);
    Staged::write(&lab.storage, source.clone(), base, clamp, late, &AtomicBool::new(false)).ok()
}

struct Lab {
    dir: tempfile::TempDir,
    storage: Storage,
}

impl Lab {
    /// One in which owners are recorded, so that the tests need no privilege and nothing is mounted.
    fn new() -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let work = Arc::new(store.work_dir().unwrap());
        Lab { storage: Storage::open(Some(Backend::Copy), work, true).unwrap(), dir }
    }

    fn layer(&self, parents: &[LayerDir], nodes: &Nodes) -> LayerDir {
        let rootfs = self.storage.mount(parents).unwrap();
        make(rootfs.path(), nodes);
        let now = Clamp::Between { from: WHILE, until: i64::MAX, to: 100 };
        let Frozen { mut layer, entries } = rootfs.freeze(now).unwrap();
        // Every third directory is somebody's.
        let mut records = Records::clone(&layer.records);
        for entry in entries.iter().filter(|e| e.kind == EntryKind::Directory).step_by(3) {
            let record = Attributes { owner: Some((3, 4)), ..Attributes::default() };
            records.insert(entry.path.clone(), record);
        }
        layer.records = records.into();
        layer
    }

    fn mounted(&self, target: &Target<'_>, parts: &[(&Selection, CopyOptions)]) -> Option<Frozen> {
        let mut rootfs = self.storage.mount(target.parents).unwrap();
        let root = rootfs.root().try_clone_to_owned().unwrap();
        let mut owners = Ownership { records: &mut rootfs.records, single: true };
        for (selection, options) in parts {
            copy_into(root.as_fd(), target.dest, selection, options, &mut owners).ok()?;
        }
        Some(rootfs.freeze(target.clamp).unwrap())
    }
}

/// What lies in a layer's directory: all that `stat` says that does not depend on when it was made.
fn on_disk(dir: &Path) -> BTreeMap<PathBuf, (Stat, Vec<std::ffi::OsString>)> {
    let nothing = Time::default();
    let look = |entry: walkdir::DirEntry| {
        let parent = fs::open_dir(entry.path().parent().unwrap()).unwrap();
        let stat = fs::stat_at(&parent, entry.file_name()).unwrap();
        let size = if stat.kind == fs::FileKind::Directory { 0 } else { stat.size };
        let nlink = if stat.kind == fs::FileKind::Directory { 0 } else { stat.nlink };
        let stat = Stat { size, nlink, ctime: nothing, ino: 0, dev: 0, ..stat };
        let xattrs = fs::xattr_names_at(&parent, entry.file_name()).unwrap();
        (entry.path().strip_prefix(dir).unwrap().to_owned(), (stat, xattrs))
    };
    walkdir::WalkDir::new(dir).min_depth(1).into_iter().map(|entry| look(entry.unwrap())).collect()
}

fn tar(frozen: &Frozen) -> Vec<u8> {
    let root = fs::open_dir(&frozen.layer.path).unwrap();
    let mut files = FileOpener::new(root.as_fd()).unwrap();
    let mut tar = TarWriter::new(Vec::new());
    for entry in &frozen.entries {
        match entry.kind {
            EntryKind::File { .. } => tar.append(entry, &mut files.open(&entry.path).unwrap()).unwrap(),
            _ => tar.append(entry, &mut io::empty()).unwrap(),
        }
    }
    tar.finish().unwrap()
}

/// Compares both ways; says whether there were two.
fn compare(lab: &Lab, parents: &[LayerDir], source: &Path, case: &Case) -> Result<bool, TestCaseError> {
    let context = DirectoryContext::open(source, IgnoreRules::none()).unwrap();
    let selecting = SelectOptions { parents: case.parents, ..SelectOptions::default() };
    let Ok(selection) = select(context.tree(), &case.words, case.dest.as_bytes(), &selecting) else {
        return Ok(false);
    };
    let chmod = case.chmod.map(|mode| Chmod::parse(mode).unwrap());
    let options = CopyOptions { chown: case.chown, chmod, unpack: false };
    let text = Selection::inline("text", "here");
    let mut parts = vec![(&selection, options.clone())];
    if case.text {
        parts.push((&text, options));
    }
    let dest = case.dest.as_bytes();
    // Some of it was written ahead, in another second.
    let staged: Vec<Staged> = match case.ahead {
        Some(clamp) => selection.sources.iter().filter_map(|s| ahead(lab, s, dest, clamp)).collect(),
        None => Vec::new(),
    };
    let target =
        Target { storage: &lab.storage, parents, dest, clamp: case.clamp, now: WHILE, staged: &staged };
    let Some((direct, reports)) = copy_directly(&target, &parts) else { return Ok(false) };
    let mounted = lab.mounted(&target, &parts);
    prop_assert!(mounted.is_some(), "written directly, and refused in a mounted root");
    let mounted = mounted.unwrap();
    prop_assert_eq!(&direct.entries, &mounted.entries);
    prop_assert_eq!(&direct.layer.records, &mounted.layer.records);
    prop_assert_eq!(on_disk(&direct.layer.path), on_disk(&mounted.layer.path));
    prop_assert!(tar(&direct) == tar(&mounted));
    prop_assert_eq!(reports[0].files + reports[0].directories, selection.len() as u64);
    Ok(true)
}

#[test]
fn both_ways_make_the_same_layers() {
    let config = ProptestConfig {
        failure_persistence: None,
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(24),
        ..ProptestConfig::default()
    };
    let copies = proptest::collection::vec(case(), 6);
    let (tried, both) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let result = TestRunner::new(config).run(&(nodes(12), nodes(6), nodes(16), copies), |input| {
        let (low, high, source, copies) = input;
        let lab = Lab::new();
        let mut parents = vec![lab.layer(&[], &low)];
        parents.push(lab.layer(&parents, &high));
        let from = lab.dir.path().join("source");
        std::fs::create_dir(&from).unwrap();
        make(&from, &source);
        for case in &copies {
            tried.set(tried.get() + 1);
            both.set(both.get() + u32::from(compare(&lab, &parents, &from, case)?));
        }
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
    assert!(both.get() * 5 > tried.get(), "{} of {} copies went directly", both.get(), tried.get());
}

fn plain_case(dest: &'static str) -> Case {
    let clamp = Clamp::Between { from: WHILE, until: i64::MAX, to: 300 };
    Case { words: vec!["."], dest, chown: None, chmod: None, parents: false, text: false, clamp, ahead: None }
}

#[test]
fn many_files_are_written_by_several_threads() {
    let lab = Lab::new();
    let mut nodes = Nodes::new();
    for dir in 0..40 {
        for file in 0..30 {
            nodes.push((format!("d{dir}/{file}"), Node::File("text", 0o644), 100 + file));
        }
        nodes.push((format!("d{dir}/link"), Node::Link(format!("d{}/0", dir / 2)), 100));
        nodes.push((format!("d{dir}"), Node::Directory(0o750), 100));
    }
    let from = lab.dir.path().join("source");
    std::fs::create_dir(&from).unwrap();
    make(&from, &nodes);
    std::fs::write(from.join("large"), vec![b'x'; 5 << 20]).unwrap();
    let low = vec![("app".to_owned(), Node::Directory(0o750), 100), ("app/d1/7".to_owned(), Node::Fifo, 100)];
    let parents = [lab.layer(&[], &low)];
    for dest in ["/app", "/srv/app", "/app/d2"] {
        assert!(compare(&lab, &parents, &from, &plain_case(dest)).unwrap(), "{dest}");
    }
    // Once more the same: nothing is different, and a file that is changes the layer.
    let context = DirectoryContext::open(&from, IgnoreRules::none()).unwrap();
    let selection = select(context.tree(), &["."], b"/srv", &SelectOptions::default()).unwrap();
    let parts = [(&selection, CopyOptions::default())];
    let clamp = plain_case("/").clamp;
    let write = |parents: &[LayerDir]| {
        let target = Target { storage: &lab.storage, parents, dest: b"/srv", clamp, now: WHILE, staged: &[] };
        copy_directly(&target, &parts).unwrap().0
    };
    let first = write(&[]).layer;
    let linked = |e: &Entry| e.path.ends_with(b"/0") || e.path.ends_with(b"/link");
    let again = write(std::slice::from_ref(&first)).entries;
    assert!(!again.is_empty() && again.iter().all(|e| linked(e) || e.kind == EntryKind::Directory));
    std::fs::remove_file(first.path.join("srv/d3/9")).unwrap();
    let last = write(&[first]).entries;
    let path = |e: &Entry| std::ffi::OsStr::from_bytes(&e.path).to_owned();
    assert!(last.iter().any(|e| path(e) == "srv/d3/9"));
}

#[test]
fn what_is_not_plain_goes_the_other_way_and_leaves_nothing() {
    let lab = Lab::new();
    let from = lab.dir.path().join("source");
    std::fs::create_dir(&from).unwrap();
    let file = |path: &str| (path.to_owned(), Node::File("x", 0o644), 100);
    make(&from, &vec![file("d/f"), file("f")]);
    let parents = [lab.layer(&[], &vec![file("f/d"), file("file"), file("d")])];
    let before = std::fs::read_dir(lab.storage.work().path()).unwrap().count();
    // A directory over a file, a file over a directory, a file on the way, and below a missing directory.
    for dest in ["/", "/file", "/file/x", "/no/../way"] {
        assert!(!compare(&lab, &parents, &from, &plain_case(dest)).unwrap(), "{dest}");
    }
    // Both have the same name.
    let twice = Case { words: vec!["f", "d/f"], ..plain_case("/both/") };
    assert!(!compare(&lab, &parents, &from, &twice).unwrap());
    assert_eq!(std::fs::read_dir(lab.storage.work().path()).unwrap().count(), before);
}

#[test]
fn what_was_written_ahead_is_taken_if_it_is_still_the_same() {
    let clamp = plain_case("/").clamp;
    let file = |path: &str| (path.to_owned(), Node::File("x", 0o644), 100);
    let lab = Lab::new();
    let from = lab.dir.path().join("source");
    std::fs::create_dir(&from).unwrap();
    make(&from, &vec![file("d/sub/f"), file("e/f"), file("f"), file("g/link-to/f")]);
    let select = || {
        let context = DirectoryContext::open(&from, IgnoreRules::none()).unwrap();
        select(context.tree(), &["."], b"/app", &SelectOptions::default()).unwrap()
    };
    let low = [lab.layer(&[], &vec![file("app/e")])];
    let inodes = |dir: &Path| {
        ["d", "e", "g"].map(|name| {
            std::fs::metadata(dir.join(name)).ok().map(|m| std::os::unix::fs::MetadataExt::ino(&m))
        })
    };
    // Stages, has something happen, and copies: says which directories were taken as they are.
    let taken = |parents: &[LayerDir], now: Clamp, happens: &dyn Fn()| {
        let staged = [ahead(&lab, &select().sources[0], b"/app/", clamp).unwrap()];
        let made = inodes(&staged[0].path);
        assert!(made.iter().all(Option::is_some));
        happens();
        let selection = select();
        let parts = [(&selection, CopyOptions::default())];
        let target =
            Target { storage: &lab.storage, parents, dest: b"/app", clamp: now, now: WHILE, staged: &staged };
        let (frozen, _) = copy_directly(&target, &parts)?;
        let plain = Target { staged: &[], ..target };
        let (again, _) = copy_directly(&plain, &parts)?;
        assert_eq!(frozen.entries, again.entries);
        assert_eq!(on_disk(&frozen.layer.path), on_disk(&again.layer.path));
        let found = inodes(&frozen.layer.path.join("app"));
        Some([0, 1, 2].map(|at| found[at] == made[at]))
    };
    assert_eq!(taken(&[], clamp, &|| {}), Some([true, true, true]));
    // Over a file no directory is written directly.
    assert_eq!(taken(&low, clamp, &|| {}), None);
    let low = [lab.layer(&[], &vec![file("app/e/other")])];
    assert_eq!(taken(&low, clamp, &|| {}), Some([true, false, true]));
    // Times that the copy would set otherwise; the same from another span of time.
    assert_eq!(taken(&[], Clamp::Exactly(7), &|| {}), Some([false; 3]));
    let later = Clamp::Between { from: WHILE + 7, until: i64::MAX, to: 300 };
    assert_eq!(taken(&[], later, &|| {}), Some([true; 3]));
    // The same bytes, size and time, by another file, and what is not in it any more.
    let replace = || {
        let old = std::fs::metadata(from.join("d/sub/f")).unwrap().modified().unwrap();
        std::fs::write(from.join("d/sub/new"), "y").unwrap();
        std::fs::File::options().write(true).open(from.join("d/sub/new")).unwrap().set_modified(old).unwrap();
        std::fs::rename(from.join("d/sub/new"), from.join("d/sub/f")).unwrap();
    };
    assert_eq!(taken(&[], clamp, &replace), Some([false, true, true]));
    assert_eq!(
        taken(&[], clamp, &|| std::fs::remove_file(from.join("g/link-to/f")).unwrap()),
        Some([true, true, false])
    );
    assert_eq!(
        taken(&[], clamp, &|| fs::chmod_at(fs::open_dir(&from).unwrap(), "e".as_ref(), 0o700).unwrap()),
        Some([true, false, true])
    );

    // Another name of a file comes into the context, and the file's times do not tell.
    let outside = lab.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::hard_link(from.join("d/sub/f"), outside.join("f")).unwrap();
    let enters = || std::fs::rename(&outside, from.join("h")).unwrap();
    assert_eq!(taken(&[], clamp, &enters).map(|[d, e, _]| [d, e]), Some([false, true]));
    std::fs::remove_dir_all(from.join("h")).unwrap();
    std::fs::create_dir_all(from.join("g/link-to")).unwrap();
    std::fs::write(from.join("g/link-to/f"), "x").unwrap();
    // Of what is new nobody can tell; and nothing is left of what is not finished.
    let before = std::fs::read_dir(lab.storage.work().path()).unwrap().count();
    let source = select().sources.remove(0);
    let changed = source.items.iter().map(|item| item.stat.ctime).min().unwrap();
    let late = Time { sec: changed.sec + 10, nsec: 0 };
    let write = |when: Time, over: bool| {
        Staged::write(&lab.storage, source.clone(), b"app", clamp, when, &AtomicBool::new(over)).is_ok()
    };
    assert!(!write(changed, false));
    assert!(!write(late, true));
    assert!(write(late, false));
    assert_eq!(std::fs::read_dir(lab.storage.work().path()).unwrap().count(), before);
}
