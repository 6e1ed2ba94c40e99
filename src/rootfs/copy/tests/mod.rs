//! Any steps, each compared with the slow and obvious reference; and the cases that matter most, by name.

mod model;
mod mutate;

use cooper_runtime::record::Attributes;
use cooper_runtime::sys::fs::FileKind;
use proptest::prelude::*;

use super::*;
use crate::layer::apply::{ApplyOptions, apply};
use crate::layer::entry::{Entry, EntryKind};
use crate::layer::write::TarWriter;
use crate::rootfs::Clamp;
use crate::rootfs::freeze::freeze;
use crate::rootfs::opener::FileOpener;
use crate::store::Store;
use model::Tree as Model;

/// No time is clamped.
const AS_IT_IS: Clamp = Clamp::Between { from: 1, until: 0, to: 0 };

struct Lab {
    dir: tempfile::TempDir,
    trees: Arc<Trees>,
}

impl Lab {
    fn new() -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let trees = Arc::new(Trees::new(Arc::new(store.work_dir().unwrap())));
        Lab { dir, trees }
    }

    /// A step: `work` is done on top of `parents`. Gives the entries of the layer that comes of it, with
    /// those that the reference expects.
    fn step(&self, parents: &mut Vec<LayerDir>, work: impl FnOnce(&Path)) -> (Vec<Entry>, Vec<Entry>) {
        let tree = self.trees.mount(parents).unwrap();
        let mut before = model::read(tree.root());
        let attributes = MergedDir::root(parents).unwrap().root_attributes().unwrap();
        if let Some(root) = before.get_mut(&b""[..]) {
            (root.mode, root.owner) = (attributes.0, (attributes.1, attributes.2));
        }
        work(tree.path());
        let after = model::read(tree.root());
        let entries = freeze_tree(tree, parents, None);
        (entries, model::layer(&before, &after))
    }
}

fn freeze_tree(tree: WorkingTree, parents: &mut Vec<LayerDir>, inodes: Option<&ByInode>) -> Vec<Entry> {
    let Changes { upper, mut records } = Box::new(tree).changes(inodes).unwrap();
    let path = upper.end();
    let root = fs::open_dir(&path).unwrap();
    let entries = freeze(root.as_fd(), parents, AS_IT_IS, &mut records, false).unwrap();
    parents.push(LayerDir { path, records: records.into() });
    entries
}

fn tar(layer: &LayerDir, entries: &[Entry]) -> Vec<u8> {
    let root = fs::open_dir(&layer.path).unwrap();
    let mut files = FileOpener::new(root.as_fd()).unwrap();
    let mut tar = TarWriter::new(Vec::new());
    for entry in entries {
        match entry.kind {
            EntryKind::File { .. } => tar.append(entry, &mut files.open(&entry.path).unwrap()).unwrap(),
            _ => tar.append(entry, &mut io::empty()).unwrap(),
        }
    }
    tar.finish().unwrap()
}

/// Without the root's attributes and the time of anything that changes with what is in it.
fn below_root(mut tree: Model) -> Model {
    tree.remove(&b""[..]);
    tree
}

/// Names of one file have one name for it, and nobody asks when a whiteout was made.
fn canonical(mut tree: Model) -> Model {
    let mut first = std::collections::HashMap::new();
    for (number, node) in tree.values_mut().enumerate() {
        node.file = node.file.map(|file| *first.entry(file).or_insert(number as u64));
        if node.kind == FileKind::CharDevice {
            node.mtime = 0;
        }
    }
    tree
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(40),
        ..ProptestConfig::default()
    })]

    #[test]
    fn steps_make_the_layers_that_they_should(
        steps in proptest::collection::vec(mutate::changes(), 1..5),
        branch in mutate::changes(),
        at in 0usize..4,
    ) {
        let lab = Lab::new();
        let mut parents = Vec::new();
        for changes in &steps {
            let mut after = Model::new();
            let (entries, expected) = lab.step(&mut parents, |root| {
                let root = fs::open_dir(root).unwrap();
                mutate::apply(root.as_fd(), changes);
                after = model::read(root.as_fd());
            });
            prop_assert_eq!(&entries, &expected);
            // The tree that the next step gets is the old one with the layer; that must show nothing.
            let again = lab.trees.mount(&parents).unwrap();
            prop_assert_eq!(below_root(model::read(again.root())), below_root(model::next(&after)));
            lab.trees.put(again_idle(again));
            // Nor must it matter that a layer was packed and unpacked.
            let layer = &parents[parents.len() - 1];
            let dest = tempfile::tempdir_in(lab.dir.path()).unwrap();
            let dest_dir = fs::open_dir(dest.path()).unwrap();
            let applied = apply(&tar(layer, &entries)[..], dest_dir.as_fd(), &ApplyOptions::default());
            prop_assert_eq!(applied.map_err(|e| e.to_string()).unwrap().records.len(), 0);
            let frozen = fs::open_dir(&layer.path).unwrap();
            prop_assert_eq!(
                canonical(below_root(model::read(dest_dir.as_fd()))),
                canonical(below_root(model::read(frozen.as_fd())))
            );
        }
        // Another stage, from somewhere on the way.
        parents.truncate(at.min(parents.len()));
        let fresh = Lab::new();
        let (made_over, made_new) = (lab.trees.mount(&parents).unwrap(), fresh.trees.mount(&parents).unwrap());
        prop_assert_eq!(below_root(model::read(made_over.root())), below_root(model::read(made_new.root())));
        drop((made_over, made_new));
        let (entries, expected) = lab.step(&mut parents, |root| {
            mutate::apply(fs::open_dir(root).unwrap().as_fd(), &branch);
        });
        prop_assert_eq!(entries, expected);
    }
}

/// The tree of a step that did nothing.
fn again_idle(mut tree: WorkingTree) -> Tree {
    tree.tree.take().unwrap()
}

fn text(path: &Path, name: &str, content: &str) {
    std::fs::write(path.join(name), content).unwrap();
}

fn paths(entries: &[Entry]) -> Vec<String> {
    entries
        .iter()
        .filter(|e| !e.path.is_empty())
        .map(|e| {
            let mark = if e.kind == EntryKind::Whiteout { "-" } else { "" };
            format!("{mark}{}", e.path.escape_ascii())
        })
        .collect()
}

#[test]
fn a_file_rewritten_at_once_with_size_and_time_as_they_were() {
    let lab = Lab::new();
    let mut parents = Vec::new();
    lab.step(&mut parents, |root| (0..50).for_each(|n| text(root, &format!("f{n}"), "before")));
    for round in 0..20 {
        // Nothing lies between the snapshot and the change.
        let (entries, expected) = lab.step(&mut parents, |root| {
            let name = format!("f{}", round * 2);
            let path = root.join(&name);
            let was = path.metadata().unwrap().modified().unwrap();
            text(root, &name, &format!("after{}", round % 10));
            std::fs::File::open(&path).unwrap().set_modified(was).unwrap();
        });
        assert_eq!(entries, expected);
        assert_eq!(paths(&entries), [format!("f{}", round * 2)]);
    }
}

#[test]
fn times_from_the_future_prove_nothing() {
    let lab = Lab::new();
    let dir = lab.dir.path().join("tree");
    std::fs::create_dir(&dir).unwrap();
    text(&dir, "old", "");
    let root = fs::open_dir(&dir).unwrap();
    let whole = Stale { whole: true, ..Stale::default() };
    let mut snapshot = Snapshot::default();
    snapshot.renew(root.as_fd(), &whole).unwrap();
    snapshot.pretend_newest(i64::MAX);
    snapshot.settle(&lab.trees.work).unwrap();
    assert_eq!(snapshot.differences(root.as_fd()).unwrap(), []);
    // As if it had been there, made in the very tick in which the step began.
    text(&dir, "young", "");
    snapshot.renew(root.as_fd(), &whole).unwrap();
    let found: Vec<_> =
        snapshot.differences(root.as_fd()).unwrap().into_iter().map(|(path, _)| path).collect();
    assert_eq!(found, [b"young"]);
}

#[test]
fn links_of_lower_layers_are_broken_and_those_of_a_step_are_not() {
    let lab = Lab::new();
    let mut parents = Vec::new();
    let (entries, _) = lab.step(&mut parents, |root| {
        text(root, "a", "x");
        std::fs::hard_link(root.join("a"), root.join("b")).unwrap();
    });
    assert_eq!(entries[entries.len() - 1].kind, EntryKind::Hardlink { target: b"a".to_vec() });
    let (entries, _) = lab.step(&mut parents, |root| {
        std::fs::OpenOptions::new().append(true).open(root.join("b")).unwrap().set_len(0).unwrap();
        assert_eq!(std::fs::read_to_string(root.join("a")).unwrap(), "x");
    });
    assert_eq!(paths(&entries), ["b"]);
    let (entries, _) = lab.step(&mut parents, |root| {
        std::fs::hard_link(root.join("a"), root.join("c")).unwrap();
    });
    assert_eq!(paths(&entries), ["a", "c"]);
    assert_eq!(entries[entries.len() - 1].kind, EntryKind::Hardlink { target: b"a".to_vec() });
}

#[test]
fn a_renamed_directory_is_new_and_its_old_name_is_gone() {
    let lab = Lab::new();
    let mut parents = Vec::new();
    lab.step(&mut parents, |root| {
        std::fs::create_dir_all(root.join("old/deep")).unwrap();
        text(root, "old/deep/file", "x");
    });
    let (entries, expected) = lab.step(&mut parents, |root| {
        std::fs::rename(root.join("old"), root.join("new")).unwrap();
    });
    assert_eq!(paths(&entries), ["new", "new/deep", "new/deep/file", "-old"]);
    assert_eq!(entries, expected);
}

#[test]
fn names_beyond_what_a_path_can_be() {
    let lab = Lab::new();
    let mut parents = Vec::new();
    let (long, levels) = ("n".repeat(255), 20);
    let deep = |root: &Path, levels: usize| {
        let mut dir = fs::open_dir(root).unwrap();
        for _ in 0..levels {
            match fs::make_dir_at(&dir, OsStr::new(&long), 0o755) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                other => other.unwrap(),
            }
            dir = fs::open_dir_at(&dir, OsStr::new(&long)).unwrap();
        }
        dir
    };
    let (entries, _) = lab.step(&mut parents, |root| drop(deep(root, levels)));
    assert_eq!(entries.iter().map(|e| e.path.len()).max(), Some(levels * 256 - 1));
    let (entries, _) = lab.step(&mut parents, |root| {
        fs::create_file_at(deep(root, levels), OsStr::new("file")).unwrap();
    });
    assert_eq!(entries.iter().filter(|e| e.kind != EntryKind::Directory).count(), 1);
    // No further than everywhere else.
    let tree = lab.trees.mount(&parents).unwrap();
    deep(tree.path(), fs::DEPTH_LIMIT + 2);
    let Changes { upper, mut records } = Box::new(tree).changes(None).unwrap();
    let upper = fs::open_dir(&upper.path).unwrap();
    // A test's thread has less of a stack than a program's first one.
    let error = std::thread::scope(|scope| {
        let large = std::thread::Builder::new().stack_size(8 << 20);
        let freeze = || freeze(upper.as_fd(), &parents, AS_IT_IS, &mut records, false).unwrap_err();
        large.spawn_scoped(scope, freeze).unwrap().join().unwrap()
    });
    assert!(error.to_string().contains("more than 1000 deep"), "{error}");
}

#[test]
fn a_directory_with_very_many_names() {
    let lab = Lab::new();
    let mut parents = Vec::new();
    let many = 20_000;
    lab.step(&mut parents, |root| {
        std::fs::create_dir(root.join("d")).unwrap();
        (0..many).for_each(|n| text(root, &format!("d/{n}"), ""));
    });
    let (entries, _) = lab.step(&mut parents, |root| {
        text(root, "d/777", "x");
        std::fs::remove_file(root.join("d/778")).unwrap();
        text(root, "d/new", "");
    });
    assert_eq!(paths(&entries), ["d", "d/777", "-d/778", "d/new"]);
}

#[test]
fn what_is_on_record_is_told_of_everything_that_moved() {
    let lab = Lab::new();
    let mut parents = Vec::new();
    lab.step(&mut parents, |root| {
        ["kept", "made again", "other"].iter().for_each(|name| text(root, name, ""));
        std::fs::create_dir(root.join("dir")).unwrap();
        std::fs::create_dir(root.join("dir again")).unwrap();
    });
    let whose = |uid| Attributes { owner: Some((uid, uid)), ..Attributes::default() };
    let all = ["kept", "made again", "other", "dir", "dir again"];
    let below: Records = all.iter().map(|name| (name.as_bytes().to_vec(), whose(7))).collect();
    parents[0].records = below.into();
    let work = |root: &Path| {
        text(root, "kept", "more");
        text(root, "moved", "new");
        std::fs::rename(root.join("moved"), root.join("made again")).unwrap();
        text(root, "dir/new", "");
        std::fs::create_dir(root.join("moved")).unwrap();
        std::fs::rename(root.join("moved"), root.join("dir again")).unwrap();
        std::fs::create_dir(root.join("new dir")).unwrap();
        text(root, "new dir/inner", "");
    };
    // Nobody kept records: a file that is still the same keeps its own.
    let tree = lab.trees.mount(&parents).unwrap();
    work(tree.path());
    let mut layers = parents.clone();
    let entries = freeze_tree(tree, &mut layers, None);
    let owner = |path: &str| entries.iter().find(|e| e.path == path.as_bytes()).map(|e| e.uid);
    let ours = nix::unistd::Uid::effective().as_raw();
    assert_eq!([owner("kept"), owner("dir")], [Some(7); 2]);
    assert_eq!([owner("made again"), owner("dir again"), owner("new dir/inner")], [Some(ours); 3]);
    assert_eq!(owner("other"), None);
    // Records by inode say all there is to say.
    let tree = lab.trees.mount(&parents).unwrap();
    work(tree.path());
    let mut inodes = ByInode::new();
    for (name, uid) in [("made again", 8), ("new dir/inner", 9), ("dir", 10)] {
        let stat = fs::stat(fs::open_in_root(tree.root(), OsStr::new(name), false).unwrap()).unwrap();
        inodes.insert(cooper_runtime::record::Inode { dev: stat.dev, ino: stat.ino }, whose(uid));
    }
    let mut layers = parents.clone();
    let entries = freeze_tree(tree, &mut layers, Some(&inodes));
    let owner = |path: &str| entries.iter().find(|e| e.path == path.as_bytes()).map(|e| e.uid);
    assert_eq!([owner("made again"), owner("new dir/inner"), owner("dir")], [Some(8), Some(9), Some(10)]);
    assert_eq!([owner("kept"), owner("dir again"), owner("new dir")], [Some(ours); 3]);
}

#[test]
fn trees_to_read_from_are_the_layers_own_files() {
    let lab = Lab::new();
    let mut parents = Vec::new();
    lab.step(&mut parents, |root| {
        std::fs::create_dir(root.join("d")).unwrap();
        ["d/a", "d/b", "gone"].iter().for_each(|name| text(root, name, name));
    });
    lab.step(&mut parents, |root| {
        text(root, "d/b", "new");
        std::fs::remove_file(root.join("gone")).unwrap();
    });
    let tree = lab.trees.mount_read_only(&parents).unwrap();
    let inode = |path: PathBuf| std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
    assert_eq!(inode(tree.path().join("d/a")), inode(parents[0].path.join("d/a")));
    assert_eq!(inode(tree.path().join("d/b")), inode(parents[1].path.join("d/b")));
    assert!(!tree.path().join("gone").exists());
    let path = tree.path().to_owned();
    drop((tree, lab.trees));
    assert!(!path.exists(), "nothing is left");
}

#[test]
fn holes_stay_holes() {
    let lab = Lab::new();
    let mut parents = Vec::new();
    let size = 1 << 30;
    let blocks = |path: PathBuf| std::os::unix::fs::MetadataExt::blocks(&path.metadata().unwrap());
    let tree = lab.trees.mount(&parents).unwrap();
    let file = std::fs::File::create(tree.path().join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", size / 2).unwrap();
    file.set_len(size).unwrap();
    freeze_tree(tree, &mut parents, None);
    let tree = lab.trees.mount(&parents).unwrap();
    assert_eq!(tree.path().join("sparse").metadata().unwrap().len(), size);
    assert!(blocks(tree.path().join("sparse")) < 4096);
}
