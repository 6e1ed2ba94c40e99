//! Any steps, each compared with the slow and obvious reference; and the cases that matter most, by name.

mod model;
mod mutate;

use cooper_runtime::sys::fs::FileKind;
use proptest::prelude::*;

use super::*;
use crate::layer::apply::{ApplyOptions, apply};
use crate::layer::entry::{Entry, EntryKind};
use crate::layer::write::TarWriter;
use crate::rootfs::Clamp;
use crate::rootfs::freeze::{FileOpener, freeze};
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
    let root = fs::open_dir(&upper).unwrap();
    let entries = freeze(root.as_fd(), parents, AS_IT_IS, &mut records, false).unwrap();
    parents.push(LayerDir { path: upper, records: records.into() });
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
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(60),
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
