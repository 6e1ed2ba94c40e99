use std::ffi::OsStr;
use std::fs as stdfs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::context::{DirectoryContext, IgnoreRules, StatCache};

fn select<S: AsRef<[u8]>>(tree: &SourceTree, sources: &[S], dest: &[u8]) -> Result<Selection, SelectError> {
    super::select(tree, sources, dest, &SelectOptions::default())
}

fn write(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    stdfs::create_dir_all(path.parent().unwrap()).unwrap();
    stdfs::write(path, content).unwrap();
}

fn context(root: &Path, ignore: &str) -> SourceTree {
    let rules = IgnoreRules::parse(".dockerignore", ignore).unwrap();
    DirectoryContext::open(root, rules).unwrap().tree().clone()
}

/// Each source as `name: path path …`.
fn lines(selection: &Selection) -> Vec<String> {
    let line = |source: &Source| {
        let paths: Vec<_> =
            source.items.iter().map(|item| String::from_utf8_lossy(&item.path).into_owned()).collect();
        format!("{}:{}", String::from_utf8_lossy(&source.name), paths.join(" "))
    };
    selection.sources.iter().map(line).collect()
}

fn selected(tree: &SourceTree, sources: &[&str]) -> Vec<String> {
    lines(&select(tree, sources, b"/dest/").unwrap())
}

fn refused(tree: &SourceTree, source: &str) -> (String, Option<String>) {
    let error = select(tree, &[source], b"/dest/").unwrap_err();
    (error.to_string(), error.hint())
}

#[test]
fn directories_files_and_wildcards() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["a.txt", "b.txt", "sub/x", "sub/x-y", "sub/x.d/z", "other/x", "sub/.hidden"] {
        write(dir.path(), path, "");
    }
    let tree = context(dir.path(), "");
    assert_eq!(selected(&tree, &["a.txt"]), ["a.txt:"]);
    assert_eq!(selected(&tree, &["/a.txt", "./sub/x"]), ["a.txt:", "x:"]);
    assert_eq!(selected(&tree, &["sub"]), ["sub: .hidden x x-y x.d x.d/z"]);
    assert_eq!(selected(&tree, &["sub/"]), ["sub: .hidden x x-y x.d x.d/z"]);
    assert_eq!(selected(&tree, &["*.txt"]), ["a.txt:", "b.txt:"]);
    assert_eq!(selected(&tree, &["*/x"]), ["x:", "x:"]);
    assert_eq!(selected(&tree, &["s?b/x*"]), ["x:", "x-y:", "x.d: z"]);
    assert_eq!(selected(&tree, &["[ab].txt"]), ["a.txt:", "b.txt:"]);
    assert_eq!(selected(&tree, &["**/x"]), ["x:", "x:"], "** is *");
    assert_eq!(selected(&tree, &["../../../a.txt"]), ["a.txt:"], "`..` stops at the root");
    assert_eq!(selected(&tree, &["*.none"]), Vec::<String>::new());
    assert_eq!(select(&tree, &["."], b"/x").unwrap().len(), 11);
}

#[test]
fn several_sources_need_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a", "");
    write(dir.path(), "b", "");
    let tree = context(dir.path(), "");
    let error = select(&tree, &["a", "b"], b"/dest").unwrap_err().to_string();
    assert_eq!(error, "several sources need a directory as destination: write `/dest/` instead of `/dest`");
    for dest in ["/dest/", ".", "./", "x/..", "x/."] {
        assert!(select(&tree, &["a", "b"], dest.as_bytes()).unwrap().dest_is_directory, "{dest}");
    }
    let one = select(&tree, &["[ab]"], b"/dest").unwrap();
    assert!(!one.dest_is_directory, "one wildcard is one source");
}

#[test]
fn what_is_missing_is_named_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["package.json", "src/main.rs", "secret.env", "node/x"] {
        write(dir.path(), path, "");
    }
    symlink("gone", dir.path().join("dangling")).unwrap();
    let tree = context(dir.path(), "# comment\n*.env\nnode\n");
    let (message, hint) = refused(&tree, "pakcage.json");
    assert_eq!(message, format!("\"pakcage.json\" not found in the build context {}", dir.path().display()));
    assert_eq!(hint.unwrap(), "did you mean \"package.json\"?");
    assert_eq!(refused(&tree, "Src/main.rs").1.unwrap(), "did you mean \"src\"?");
    assert_eq!(refused(&tree, "nothing-like-it").1, None);
    assert_eq!(refused(&tree, "secret.env").1.unwrap(), "it is excluded by line 2 of .dockerignore, `*.env`");
    assert_eq!(refused(&tree, "node").1.unwrap(), "it is excluded by line 3 of .dockerignore, `node`");
    assert_eq!(refused(&tree, "node/x").1.unwrap(), "it is excluded by line 3 of .dockerignore, `node`");
    assert_eq!(refused(&tree, "secret.enw").1, None, "what is left out is not suggested");
    assert!(refused(&tree, "dangling").1.unwrap().contains("\"gone\", which is not there"));
    assert!(refused(&tree, "package.json/x").0.ends_with("\"package.json\" is not a directory"));
    assert!(refused(&tree, "missing/*").0.contains("\"missing/*\" not found"));
    assert!(matches!(select(&tree, &["[a"], b"/x"), Err(SelectError::Pattern { .. })));
}

#[test]
fn ignored_files_stay_out_and_exceptions_bring_their_parents_back() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["out/a", "out/deep/keep", "out/deep/drop", "out/empty/x", "src/x.log", "src/y"] {
        write(dir.path(), path, "");
    }
    let tree = context(dir.path(), "out\n!out/deep/keep\n**/*.log\n");
    assert_eq!(selected(&tree, &["."]), [": out out/deep out/deep/keep src src/y"]);
    assert_eq!(selected(&tree, &["out"]), ["out: deep deep/keep"]);
    assert_eq!(selected(&tree, &["out/deep/*"]), ["keep:"]);
    assert_eq!(selected(&tree, &["src/*"]), ["y:"]);
    assert_eq!(selected(&tree, &["*"]), ["out: deep deep/keep", "src: y"]);
    assert!(select(&tree, &["out/empty"], b"/x").is_err());
    assert!(select(&tree, &["out/deep/drop"], b"/x").is_err());
}

#[test]
fn a_directory_that_is_left_out_and_in_which_nothing_comes_back_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "out/a", "");
    let tree = context(dir.path(), "out\n!out/*.none\n");
    assert_eq!(selected(&tree, &["."]), [":"]);
    assert_eq!(selected(&tree, &["o*"]), Vec::<String>::new());
    assert_eq!(refused(&tree, "out").1.unwrap(), "it is excluded by line 1 of .dockerignore, `out`");
}

#[test]
fn links_to_sources_are_followed_and_never_out_of_the_context() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(outside.path(), "secret", "top secret");
    write(dir.path(), "real/file", "x");
    symlink("real", dir.path().join("to-dir")).unwrap();
    symlink("/real/file", dir.path().join("to-file")).unwrap();
    symlink("to-file", dir.path().join("to-link")).unwrap();
    symlink(outside.path().join("secret"), dir.path().join("out-file")).unwrap();
    symlink("../../../../../../../../..", dir.path().join("out-up")).unwrap();
    symlink("/", dir.path().join("out-root")).unwrap();
    symlink("loop", dir.path().join("loop")).unwrap();
    symlink(outside.path(), dir.path().join("real/out")).unwrap();
    let tree = context(dir.path(), "");
    let one = |source: &str| {
        let mut selection = select(&tree, &[source], b"/x").unwrap();
        selection.sources.remove(0)
    };
    assert_eq!(one("to-file").location, b"real/file");
    assert_eq!(one("to-link").location, b"real/file");
    assert_eq!(one("to-link").name, b"to-link", "it arrives under the name it was asked for");
    assert_eq!(one("to-dir/file").location, b"real/file");
    assert_eq!(one("to-f*").location, b"real/file");
    assert!(one("to-dir").is_directory());
    // Outside is clamped to the root, where the same path is not there or is the context itself.
    assert!(refused(&tree, "out-file").0.contains("not found"));
    assert!(refused(&tree, &format!("out-root{}/secret", outside.path().display())).0.contains("not found"));
    assert_eq!(one("out-up").location, b"");
    assert_eq!(one("out-root/real/file").location, b"real/file");
    assert!(matches!(select(&tree, &["loop"], b"/x"), Err(SelectError::Loop { .. })));
    // Inside a directory a link stays what it is.
    let real = one("real");
    assert_eq!(real.items[2].kind, ItemKind::Symlink(outside.path().as_os_str().as_bytes().to_vec()));
    let digest = select(&tree, &["."], b"/x").unwrap().digest(&mut StatCache::disabled()).unwrap();
    stdfs::write(outside.path().join("secret"), "other").unwrap();
    let again = select(&tree, &["."], b"/x").unwrap().digest(&mut StatCache::disabled()).unwrap();
    assert_eq!(digest, again);
}

#[test]
fn a_link_that_is_left_out_leads_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "real/file", "x");
    write(dir.path(), "secret", "x");
    symlink("real", dir.path().join("link")).unwrap();
    symlink("secret", dir.path().join("alias")).unwrap();
    let tree = context(dir.path(), "link\nsecret\n");
    assert!(select(&tree, &["link/file"], b"/x").is_err());
    assert_eq!(refused(&tree, "alias").1.unwrap(), "it is excluded by line 2 of .dockerignore, `secret`");
}

#[test]
fn hard_links_are_known_within_one_source_only() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "d/b", "x");
    stdfs::hard_link(dir.path().join("d/b"), dir.path().join("d/a")).unwrap();
    stdfs::hard_link(dir.path().join("d/b"), dir.path().join("elsewhere")).unwrap();
    let tree = context(dir.path(), "");
    let selection = select(&tree, &["d", "elsewhere", "d/a"], b"/x/").unwrap();
    let kinds: Vec<_> = selection.sources.iter().flat_map(|s| &s.items).map(|i| i.kind.clone()).collect();
    assert_eq!(
        kinds,
        [ItemKind::Directory, ItemKind::File, ItemKind::Hardlink(1), ItemKind::File, ItemKind::File]
    );
}

#[test]
fn a_socket_is_an_empty_file_in_a_context_and_nothing_in_a_stage() {
    let dir = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
    let selection = select(&context(dir.path(), ""), &["."], b"/x").unwrap();
    assert_eq!(selection.sources[0].items[1].kind, ItemKind::Socket);
    let stage = SourceTree::image(fs::open_dir(dir.path()).unwrap(), "stage `build`");
    assert_eq!(selected(&stage, &["."]), [":"]);
    assert!(refused(&stage, "missing").0.ends_with("not found in stage `build`"));
}

#[test]
fn an_unreadable_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "private/x", "");
    let private = dir.path().join("private");
    stdfs::set_permissions(&private, stdfs::Permissions::from_mode(0o0)).unwrap();
    let result = select(&context(dir.path(), ""), &["."], b"/x");
    let root = stdfs::metadata("/proc/self").unwrap().uid() == 0;
    stdfs::set_permissions(&private, stdfs::Permissions::from_mode(0o755)).unwrap();
    if root {
        assert!(result.is_ok(), "root can read everything");
    } else {
        assert!(result.unwrap_err().to_string().starts_with("cannot read \"private\" in the build context"));
    }
}

#[test]
fn names_that_are_no_text_are_copied_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let name = OsStr::from_bytes(b"caf\xe9");
    stdfs::write(dir.path().join(name), "x").unwrap();
    let tree = context(dir.path(), "");
    assert_eq!(select(&tree, &[&b"caf\xe9"[..]], b"/x").unwrap().sources[0].name, b"caf\xe9");
    assert_eq!(select(&tree, &["caf?"], b"/x").unwrap().sources[0].name, b"caf\xe9");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Names and contents decide, whatever the order in which a directory was filled (and is listed).
    #[test]
    fn order_and_digest_do_not_depend_on_the_order_of_listing(
        files in prop::collection::btree_map("[a-c.-]{1,3}(/[a-c]{1,2}){0,2}", "[xy]{0,2}", 1..12),
        seed in any::<u64>(),
    ) {
        let make = |names: Vec<(&String, &String)>| {
            let dir = tempfile::tempdir().unwrap();
            for (path, content) in names {
                // `a` and `a/b` cannot both be; whichever sorts first wins in either order.
                let taken = files.keys().any(|other| path.starts_with(&format!("{other}/")));
                if !taken && path.split('/').all(|name| name != "." && name != "..") {
                    write(dir.path(), path, content);
                }
            }
            let selection = select(&context(dir.path(), ""), &["."], b"/x").unwrap();
            let digest = selection.digest(&mut StatCache::disabled()).unwrap();
            (lines(&selection), digest)
        };
        let mut shuffled: Vec<_> = files.iter().collect();
        let mut state = seed | 1;
        for i in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            shuffled.swap(i, (state >> 33) as usize % (i + 1));
        }
        prop_assert_eq!(make(files.iter().collect()), make(shuffled));
    }
}

/// With `--parents` and `--exclude`, as a COPY to `/dest/`.
fn selected_with(tree: &SourceTree, sources: &[&str], parents: bool, excludes: &[&str]) -> Vec<String> {
    let excludes = excludes.iter().map(|pattern| pattern.as_bytes().to_vec()).collect();
    lines(&super::select(tree, sources, b"/dest/", &SelectOptions { parents, excludes }).unwrap())
}

#[test]
fn with_parents_paths_are_kept_from_the_pivot_on() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["a/b/c/f", "a/b/g", "a/x/c/h", "top.txt", "a/deep/er/n.txt", "a/[odd]"] {
        write(dir.path(), path, "");
    }
    symlink("b", dir.path().join("a/link")).unwrap();
    let tree = context(dir.path(), "");
    let parents = |sources: &[&str]| selected_with(&tree, sources, true, &[]);
    assert_eq!(parents(&["a/b/c/f"]), [": a a/b a/b/c a/b/c/f"]);
    assert_eq!(parents(&["./a/b/../b/g", "/top.txt"]), [": a a/b a/b/g", ": top.txt"]);
    assert_eq!(parents(&["a/b"]), [": a a/b a/b/c a/b/c/f a/b/g"], "a match brings all below it");
    assert_eq!(parents(&["a/./b/c"]), ["a: b b/c b/c/f"]);
    assert_eq!(
        parents(&["a/*/./c"]),
        ["[odd]:", "b: c c/f", "deep:", "link: c c/f", "x: c c/h"],
        "all that the wildcard matches"
    );
    assert_eq!(parents(&["a/*/c"]), [": a a/b a/b/c a/b/c/f a/x a/x/c a/x/c/h"]);
    assert_eq!(parents(&["**/*.txt"]), [": a a/deep a/deep/er a/deep/er/n.txt top.txt"]);
    assert_eq!(
        parents(&["a/**/./er/*.txt"]),
        ["[odd]:", "b:", "deep: er er/n.txt", "link:", "x:"],
        "before the pivot `**` is `*`"
    );
    assert_eq!(parents(&["a/./"]), ["a: [odd] b b/c b/c/f b/g deep deep/er deep/er/n.txt link x x/c x/c/h"]);
    assert_eq!(parents(&["no*thing"]), [":"], "the destination is made all the same");
    assert_eq!(parents(&["a/link"]), [": a a/link"], "a link is copied and not followed");
    assert_eq!(parents(&["a/link/./g"]), ["link: g"], "but before the pivot it is");
    let selection =
        super::select(&tree, &["a/b/c/f"], b"/f", &SelectOptions { parents: true, ..Default::default() });
    let selection = selection.unwrap();
    assert!(selection.dest_is_directory);
    let on_the_way = selection.sources[0].items.iter().map(|item| item.on_the_way).collect::<Vec<_>>();
    assert_eq!(on_the_way, [false, true, true, true, false]);
}

#[test]
fn with_parents_a_plain_source_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["a/b/f", "secret/s"] {
        write(dir.path(), path, "");
    }
    symlink("b", dir.path().join("a/link")).unwrap();
    let tree = context(dir.path(), "secret\n");
    let options = SelectOptions { parents: true, ..Default::default() };
    let refused = |source: &str| {
        let error = super::select(&tree, &[source], b"/dest/", &options).unwrap_err();
        (error.to_string(), error.hint())
    };
    assert!(refused("a/c/f").0.contains("\"a/c/f\" not found"));
    assert!(refused("a/./b/g").0.contains("\"a/./b/g\" not found"));
    assert_eq!(refused("a/bb").1.unwrap(), "did you mean \"a/b\"?");
    assert!(refused("a/link/f").0.ends_with("\"a/link\" is not a directory"));
    assert!(refused("a/b/f/./x").0.ends_with("\"a/b/f\" is not a directory"));
    assert_eq!(refused("secret/s").1.unwrap(), "it is excluded by line 1 of .dockerignore, `secret`");
    assert!(refused("[").0.contains("bad pattern"));
}

#[test]
fn excludes_are_relative_to_each_directory_that_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["p/a.log", "p/a.txt", "p/sub/b.log", "p/sub/b.txt", "p/out/keep", "p/out/drop", "q/a.log"] {
        write(dir.path(), path, "");
    }
    let tree = context(dir.path(), "");
    let excluding = |sources: &[&str], excludes: &[&str]| selected_with(&tree, sources, false, excludes);
    assert_eq!(excluding(&["p"], &["*.log"]), ["p: a.txt out out/drop out/keep sub sub/b.log sub/b.txt"]);
    assert_eq!(excluding(&["p"], &["**/*.log", "out"]), ["p: a.txt sub sub/b.txt"]);
    assert_eq!(
        excluding(&["p"], &["/sub", "out/"]),
        ["p: a.log a.txt sub sub/b.log sub/b.txt"],
        "as BuildKit"
    );
    assert_eq!(excluding(&["."], &["a.log", "p"]), [": q q/a.log"]);
    assert_eq!(excluding(&["p", "q"], &["a.*", "sub", "out"]), ["p:", "q:"]);
    assert_eq!(excluding(&["p"], &["*", "!out/keep"]), ["p: out out/keep"]);
    let selection = super::select(
        &tree,
        &["p"],
        b"/x",
        &SelectOptions { parents: false, excludes: vec![b"*".to_vec(), b"!out/keep".to_vec()] },
    );
    assert!(selection.unwrap().sources[0].items[1].on_the_way);
    assert_eq!(
        selected_with(&tree, &["p/./**/*.txt", "q"], true, &["sub"]),
        ["p: a.txt", ": q q/a.log"],
        "below the pivot"
    );
    let error = super::select(
        &tree,
        &["p"],
        b"/x",
        &SelectOptions { parents: false, excludes: vec![b"ok".to_vec(), b"[a".to_vec()] },
    );
    let message = error.unwrap_err().to_string();
    assert!(message.starts_with("--exclude `[a`: bad pattern `[a`: "), "{message}");
}

#[test]
fn a_single_file_is_copied_whatever_excludes_say_and_that_is_told() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["d/home.txt", "d/home.md", "d/hom/x.txt"] {
        write(dir.path(), path, "");
    }
    let tree = context(dir.path(), "");
    let options = SelectOptions { parents: false, excludes: vec![b"*.txt".to_vec()] };
    let selection = super::select(&tree, &["d/hom*"], b"/dest/", &options).unwrap();
    assert_eq!(lines(&selection), ["hom:", "home.md:", "home.txt:"]);
    assert_eq!(selection.not_excluded, ["d/home.txt"]);
}

#[test]
fn a_text_and_a_downloaded_file_are_selections_too() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "download", "content");
    let tree = SourceTree::image(fs::open_dir(dir.path()).unwrap(), "the download");
    let time = Time { sec: 1234, nsec: 0 };
    let file = Selection::single_file(&tree, b"download", "tool", 0o600, time).unwrap();
    let [source] = file.sources.as_slice() else { panic!("one source") };
    assert_eq!((source.name.as_slice(), source.location.as_slice()), (&b"tool"[..], &b"download"[..]));
    assert_eq!((source.items[0].stat.mode, file.newest_mtime(), file.bytes()), (0o600, Some(1234), 7));
    let digest = |selection: &Selection| selection.digest(&mut StatCache::disabled()).unwrap();
    let renamed = Selection::single_file(&tree, b"download", "other", 0o600, time).unwrap();
    assert_ne!(digest(&file), digest(&renamed));
    assert!(Selection::single_file(&tree, b"", "x", 0o600, time).is_err());

    let text = Selection::inline("EOF", "one\n");
    assert_eq!((text.newest_mtime(), text.bytes(), text.len()), (None, 4, 1));
    assert_ne!(digest(&text), digest(&Selection::inline("EOF", "two\n")));
    assert_ne!(digest(&text), digest(&Selection::inline("other", "one\n")));
    write(dir.path(), "EOF", "one\n");
    stdfs::set_permissions(dir.path().join("EOF"), stdfs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(digest(&text), digest(&select(&tree, &["EOF"], b"/x").unwrap()), "the same file in the image");

    let mut both = file.clone();
    both.append(text.clone());
    let mut swapped = text;
    swapped.append(file);
    assert_ne!(digest(&both), digest(&swapped));
    assert_eq!((both.len(), both.newest_mtime()), (2, Some(1234)));
}

#[test]
fn sockets_are_told() {
    let dir = tempfile::tempdir().unwrap();
    stdfs::create_dir(dir.path().join("run")).unwrap();
    let _sockets =
        ["run/a", "b"].map(|path| std::os::unix::net::UnixListener::bind(dir.path().join(path)).unwrap());
    let tree = context(dir.path(), "");
    assert_eq!(select(&tree, &["."], b"/x").unwrap().sockets(), ["b", "run/a"]);
    assert_eq!(select(&tree, &["run"], b"/x").unwrap().sockets(), ["run/a"]);
}

/// What the paths of one directory source are.
fn paths(selection: &Selection) -> Vec<String> {
    let items = selection.sources.iter().flat_map(|source| &source.items);
    items
        .map(|item| String::from_utf8_lossy(&item.path).into_owned())
        .filter(|path| !path.is_empty())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Walking with pruning gives what asking for every path by itself would.
    #[test]
    fn pruning_loses_nothing(
        files in prop::collection::btree_set("[ab]{1,2}(/[ab]{1,2}){0,2}", 1..10),
        source in "([ab*]{1,2}|\\*\\*)(/([ab?]{1,2}|\\*\\*)){0,2}",
        excludes in prop::collection::vec("!?([ab*]{1,2}|\\*\\*)(/[ab*]{1,2}){0,2}", 0..3),
    ) {
        let dir = tempfile::tempdir().unwrap();
        for path in &files {
            if !files.iter().any(|other| other.starts_with(&format!("{path}/"))) {
                write(dir.path(), path, "");
            }
        }
        let tree = context(dir.path(), "");
        let everything = paths(&select(&tree, &["."], b"/x").unwrap());
        let patterns: Vec<_> = excludes.iter().map(|pattern| pattern.as_bytes().to_vec()).collect();
        let options = SelectOptions { parents: true, excludes: patterns.clone() };
        let Ok(selection) = super::select(&tree, &[&source], b"/x", &options) else { return Ok(()) };
        let include = crate::dockerfile::IgnoreFile::from_patterns([&source]).unwrap();
        let exclude = crate::dockerfile::IgnoreFile::from_patterns(&patterns).unwrap();
        let wanted = |path: &str| include.matches(path.as_bytes()) && !exclude.matches(path.as_bytes());
        let expected: Vec<_> = everything
            .iter()
            .filter(|path| everything.iter().any(|at| wanted(at) && (at == *path || at.starts_with(&format!("{path}/")))))
            .cloned()
            .collect();
        prop_assert_eq!(paths(&selection), expected);
        let on_the_way = selection.sources.iter().flat_map(|source| &source.items).filter(|item| item.on_the_way);
        for item in on_the_way {
            prop_assert!(!wanted(&String::from_utf8_lossy(&item.path)));
        }
    }
}
