use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::context::select::select as select_with;
use crate::context::{DirectoryContext, IgnoreRules, SelectOptions};

fn select<S: AsRef<[u8]>>(tree: &SourceTree, sources: &[S], dest: &[u8]) -> Result<Selection, SelectError> {
    select_with(tree, sources, dest, &SelectOptions::default())
}

fn digest_of(root: &Path, sources: &[&str]) -> Digest {
    let context = DirectoryContext::open(root, IgnoreRules::none()).unwrap();
    select(context.tree(), sources, b"/x/").unwrap().digest(&mut StatCache::disabled()).unwrap()
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn all_that_a_copy_shows_changes_the_digest() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("d")).unwrap();
    fs::write(at("d/f"), "one").unwrap();
    fs::write(at("d/g"), "one").unwrap();
    symlink("f", at("d/l")).unwrap();
    fs::create_dir(at("d/sub")).unwrap();
    let mut seen = vec![digest_of(dir.path(), &["d"])];
    let mut changed = |what: &str| {
        let digest = digest_of(dir.path(), &["d"]);
        assert!(!seen.contains(&digest), "{what}");
        seen.push(digest);
    };
    fs::write(at("d/f"), "two").unwrap();
    changed("content");
    mode(&at("d/f"), 0o755);
    changed("mode");
    mode(&at("d/sub"), 0o700);
    changed("mode of a directory");
    fs::remove_file(at("d/l")).unwrap();
    symlink("g", at("d/l")).unwrap();
    changed("link target");
    fs::rename(at("d/g"), at("d/h")).unwrap();
    changed("name");
    fs::write(at("d/i"), "").unwrap();
    changed("new file");
    fs::remove_file(at("d/i")).unwrap();
    fs::hard_link(at("d/f"), at("d/i")).unwrap();
    changed("hard link");
    fs::remove_file(at("d/i")).unwrap();
    fs::copy(at("d/f"), at("d/i")).unwrap();
    changed("copy instead of hard link");
    fs::create_dir(at("d/new")).unwrap();
    changed("empty directory");
}

#[test]
fn what_a_copy_does_not_show_leaves_the_digest() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("d")).unwrap();
    fs::write(at("d/f"), "one").unwrap();
    let before = digest_of(dir.path(), &["d"]);
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000);
    fs::File::options().write(true).open(at("d/f")).unwrap().set_modified(old).unwrap();
    mode(&at("d"), 0o700);
    fs::write(at("beside"), "").unwrap();
    fs::hard_link(at("d/f"), at("other-name")).unwrap();
    assert_eq!(digest_of(dir.path(), &["d"]), before);
    fs::rename(at("d"), at("e")).unwrap();
    assert_eq!(digest_of(dir.path(), &["e"]), before, "only the content of a directory is copied");
    assert_ne!(
        digest_of(dir.path(), &["e/f"]),
        digest_of(dir.path(), &["other-name"]),
        "a file has its name"
    );
}

#[test]
fn neither_order_nor_division_of_sources_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        fs::write(dir.path().join(name), name).unwrap();
    }
    let digests =
        [&["a", "b"][..], &["b", "a"], &["a"], &["."], &["none*"]].map(|s| digest_of(dir.path(), s));
    for (i, digest) in digests.iter().enumerate() {
        assert!(!digests[..i].contains(digest));
    }
}

#[test]
fn many_files_are_hashed_in_parallel_with_the_same_result() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for i in 0..300 {
        let content = format!("content {i}");
        let path = dir.path().join(format!("d{}/{i:03}", i % 7));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &content).unwrap();
        expected.push((i % 7, i, ContentHash::from(Sha256::digest(content.as_bytes()))));
    }
    expected.sort();
    let context = DirectoryContext::open(dir.path(), IgnoreRules::none()).unwrap();
    let selection = select(context.tree(), &["."], b"/x").unwrap();
    let contents = selection.contents(&mut StatCache::disabled()).unwrap();
    assert_eq!(contents, expected.into_iter().map(|(_, _, hash)| hash).collect::<Vec<_>>());
}

#[test]
fn a_file_that_changes_after_it_was_selected_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "before").unwrap();
    let context = DirectoryContext::open(dir.path(), IgnoreRules::none()).unwrap();
    let selection = select(context.tree(), &["."], b"/x").unwrap();
    fs::write(dir.path().join("f"), "after, and longer").unwrap();
    let error = selection.digest(&mut StatCache::disabled()).unwrap_err();
    assert!(matches!(&error, SelectError::Changed { path, .. } if path == "f"), "{error}");
    fs::remove_file(dir.path().join("f")).unwrap();
    assert!(matches!(selection.digest(&mut StatCache::disabled()), Err(SelectError::Changed { .. })));
    // Nor is one followed that became a link.
    symlink("/etc/passwd", dir.path().join("f")).unwrap();
    assert!(matches!(selection.digest(&mut StatCache::disabled()), Err(SelectError::Changed { .. })));
}

#[test]
fn a_stage_counts_with_its_content_alone() {
    let (dir, twin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for root in [&dir, &twin] {
        fs::write(root.path().join("tool"), "x").unwrap();
        mode(&root.path().join("tool"), 0o4755);
    }
    let digest = |root: &Path| {
        let tree = SourceTree::image(cooper_runtime::sys::fs::open_dir(root).unwrap(), "stage");
        select(&tree, &["tool"], b"/x").unwrap().digest(&mut StatCache::disabled()).unwrap()
    };
    assert_eq!(digest(dir.path()), digest(twin.path()));
    mode(&twin.path().join("tool"), 0o755);
    assert_ne!(digest(dir.path()), digest(twin.path()));
}

#[test]
fn what_moves_from_one_part_to_the_next_changes_the_digest() {
    type Make = fn(&Path);
    // Trees that are the same bytes in the same order, divided otherwise.
    let trees: [(&str, Make); 14] = [
        ("two files", |d| {
            fs::write(d.join("a"), "bc").unwrap();
            fs::write(d.join("d"), "").unwrap();
        }),
        ("a byte in the name", |d| {
            fs::write(d.join("ab"), "c").unwrap();
            fs::write(d.join("d"), "").unwrap();
        }),
        ("a byte in the next name", |d| {
            fs::write(d.join("a"), "b").unwrap();
            fs::write(d.join("cd"), "").unwrap();
        }),
        ("a byte in the next content", |d| {
            fs::write(d.join("a"), "b").unwrap();
            fs::write(d.join("d"), "c").unwrap();
        }),
        ("one file", |d| fs::write(d.join("abcd"), "").unwrap()),
        ("a file in a directory", |d| {
            fs::create_dir(d.join("a")).unwrap();
            fs::write(d.join("a/bc"), "").unwrap();
            fs::write(d.join("d"), "").unwrap();
        }),
        ("a name with what separates lines", |d| fs::write(d.join("a\nbc"), "").unwrap()),
        ("a name with a backslash", |d| fs::write(d.join("a\\bc"), "").unwrap()),
        ("a file with bytes", |d| fs::write(d.join("x"), "y").unwrap()),
        ("a link with the same", |d| symlink("y", d.join("x")).unwrap()),
        ("a directory of that name", |d| fs::create_dir(d.join("x")).unwrap()),
        ("an empty file of that name", |d| fs::write(d.join("x"), "").unwrap()),
        ("three names of two files", |d| {
            fs::write(d.join("l1"), "z").unwrap();
            fs::write(d.join("l3"), "z").unwrap();
            fs::hard_link(d.join("l1"), d.join("l2")).unwrap();
        }),
        ("the other way", |d| {
            fs::write(d.join("l1"), "z").unwrap();
            fs::write(d.join("l2"), "z").unwrap();
            fs::hard_link(d.join("l2"), d.join("l3")).unwrap();
        }),
    ];
    let mut seen: Vec<(&str, Digest)> = Vec::new();
    for (what, make) in trees {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path());
        let digest = digest_of(dir.path(), &["."]);
        for (earlier, other) in &seen {
            assert_ne!(*other, digest, "{earlier}, and {what}");
        }
        seen.push((what, digest));
    }
}

#[test]
fn owners_and_change_times_do_not_count() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/f"), "one").unwrap();
    let context = DirectoryContext::open(dir.path(), IgnoreRules::none()).unwrap();
    let selection = select(context.tree(), &["d", "d/f"], b"/x/").unwrap();
    let mut other = selection.clone();
    for item in other.sources.iter_mut().flat_map(|source| &mut source.items) {
        (item.stat.uid, item.stat.gid, item.stat.ctime.sec) = (12, 34, 56);
    }
    let digest = |s: &Selection| s.digest(&mut StatCache::disabled()).unwrap();
    assert_eq!(digest(&selection), digest(&other));
}
