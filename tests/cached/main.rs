//! A build whose steps are all in the cache only looks. How long that takes says little on a busy machine, so
//! what it asks of the kernel and of registries is counted. And what does have to be written is on the disk
//! before anything names it.

#[path = "../support/mod.rs"]
mod support;

mod registry;
mod strace;

use std::collections::HashSet;
use std::path::Path;

use registry::Registry;
use strace::{Calls, traced};
use support::{Lab, given, is_root, run};

/// A build with stages that copy from the context, from each other and from an image, and with mounts.
fn containerfile(steps: usize) -> String {
    let more: String = (0..steps).map(|n| format!("RUN echo {n} > /step-{n}\n")).collect();
    format!(
        "FROM busybox AS one
WORKDIR /src
COPY tree tree
RUN --mount=type=bind,source=tree/0,target=/in --mount=type=cache,target=/cache ls /in > list && cp list /cache/
FROM busybox AS two
COPY --from=one /src /src
COPY --from=busybox /etc/passwd /passwd
ADD tree/0/0 /added
RUN --mount=type=bind,from=one,source=/src,target=/in ls /in > /list
FROM busybox
{more}COPY --from=two / /two
COPY --link tree/0 /link
ENV A=1
"
    )
}

/// Writes `files` files into each of `dirs` directories of the context, and builds.
fn build(lab: &Lab, dirs: usize, files: usize, steps: usize) {
    for dir in 0..dirs {
        for file in 0..files {
            lab.file(&format!("tree/{dir}/{file}"), format!("{dir} {file}"));
        }
    }
    lab.file(".dockerignore", "nothing\n!nothing/but\n");
    lab.containerfile(&containerfile(steps)).hand_over();
    // What was changed just now may be changed again without a new time, and is not remembered. From here on
    // nobody may hand anything over: a new owner is a change.
    std::thread::sleep(std::time::Duration::from_millis(100));
    run(lab.command(&given("COOPER_TEST_BIN")).args(BUILD)).succeeds();
}

const BUILD: [&str; 7] = ["--progress=plain", "build", "-t", "app", "-o", "oci:out:app", "ctx"];

/// The calls of the build when it is all cached.
fn cached(lab: &Lab) -> Calls {
    let (said, calls) = traced(lab, &BUILD);
    said.succeeds();
    assert_eq!(said.stderr.matches("DONE").count(), 0, "{}", said.stderr);
    calls
}

fn inside(path: &Path, dir: &str) -> bool {
    path.components().any(|c| c.as_os_str() == dir)
}

#[test]
fn a_cached_build_only_looks() {
    let lab = Lab::with_busybox();
    build(&lab, 4, 50, 3);
    let calls = cached(&lab);
    // No process, no namespace, no mount; a thread is a clone with the flag.
    assert_eq!(calls.count("execve"), 1);
    let entering =
        ["unshare", "setns", "mount", "umount2", "move_mount", "fsopen", "open_tree", "pivot_root"];
    let forks: Vec<&str> = calls.named(&["clone", "clone3", "fork", "vfork"]);
    assert_eq!(calls.named(&entering), [""; 0]);
    assert!(forks.iter().all(|line| line.contains("CLONE_THREAD")), "{forks:?}");
    assert!(forks.len() <= 8, "{forks:?}");
    // Nobody is asked.
    assert_eq!(calls.named(&["socket", "connect", "sendto", "sendmsg"]), [""; 0]);
    // Nothing is written, the layout neither, and so there is no disk to wait for.
    let changing = [
        "mkdir",
        "mkdirat",
        "rename",
        "renameat",
        "renameat2",
        "link",
        "linkat",
        "symlink",
        "symlinkat",
        "unlink",
        "unlinkat",
        "chmod",
        "fchmod",
        "fchmodat",
        "fsync",
        "fdatasync",
        "syncfs",
        "sync_file_range",
        "utimensat",
    ];
    assert_eq!(calls.named(&changing), [""; 0]);
    let opens = calls.named(&["open", "openat", "openat2", "creat"]);
    let writing = |line: &&&str| ["O_WRONLY", "O_RDWR", "O_CREAT"].iter().any(|flag| line.contains(flag));
    assert_eq!(opens.iter().find(writing), None);
    // Of the context, directories and what is no content: files are only looked at.
    let opened = calls.opened();
    let content: Vec<_> = opened.iter().filter(|p| inside(p, "tree") && p.is_file()).collect();
    assert!(content.is_empty(), "{content:?}");
    // Of the store, documents and records, but no layers.
    assert!(opened.iter().all(|p| !inside(p, "layers") && !inside(p, "mounts")), "{opened:?}");
    let blobs: Vec<_> = opened.iter().filter(|p| inside(p, "blobs") && p.is_file()).collect();
    assert!(!blobs.is_empty());
    for blob in blobs {
        assert_eq!(std::fs::read(blob).unwrap().first(), Some(&b'{'), "{} is a layer", blob.display());
    }
}

#[test]
fn what_a_cached_build_asks_grows_with_steps_and_directories() {
    let lab = Lab::with_busybox();
    let counts = |dirs, files, steps| {
        build(&lab, dirs, files, steps);
        let calls = cached(&lab);
        // Threads that go through a large context together may each open the directory above.
        (calls.opened().into_iter().collect::<HashSet<_>>().len(), calls.len())
    };
    let (opens, all) = counts(4, 20, 1);
    assert!(opens < 70, "{opens}");
    // 400 files more: `COPY tree` takes all of them, `COPY tree/0` and the mount a quarter each.
    let (opens_with_files, all_with_files) = counts(4, 120, 1);
    assert!(opens_with_files <= opens, "{opens} files opened, {opens_with_files} with more files");
    assert!(all_with_files - all < 400 * 2, "{all} calls, {all_with_files} with more files");
    let (opens_with_dirs, all_with_dirs) = counts(14, 120, 1);
    assert!(
        opens_with_dirs <= opens + 10,
        "{opens} files opened, {opens_with_dirs} with ten directories more"
    );
    let (opens_with_steps, all_with_steps) = counts(14, 120, 7);
    let steps = opens_with_steps - opens_with_dirs;
    assert!(steps <= 6, "{opens_with_dirs} files opened, {opens_with_steps} with six steps more");
    let steps = all_with_steps - all_with_dirs;
    assert!(steps <= 6 * 15, "{all_with_dirs} calls, {all_with_steps} with six steps more");
}

#[test]
fn a_registry_is_asked_once_and_for_the_digest_only() {
    let publisher = Lab::with_busybox();
    publisher.build_out("FROM busybox\nRUN echo base > /base\n");
    let registry = Registry::serve(publisher.dir.join("out"));
    let lab = Lab::new();
    let (one, two) = (registry.name("base:1"), registry.name("base:2"));
    let text = |name: &str| {
        format!(
            "FROM {name} AS a\nRUN cat /base > /a\nFROM {name}\nCOPY --from=a /a /a\nCOPY --from={name} /base /b\n\
             RUN --mount=type=bind,from={name},target=/m cat /m/base > /c\n"
        )
    };
    lab.containerfile(&text(&one));
    lab.build(&["-t", "app"]).succeeds();
    let first = registry.asked();
    assert_eq!(first[0], "HEAD /v2/base/manifests/1", "{first:?}");
    assert!(first.iter().any(|request| request.starts_with("GET /v2/base/blobs/")), "{first:?}");
    // By now the store has the name.
    for options in [&[][..], &["--pull=missing"], &["--pull=never"]] {
        lab.build(options).succeeds();
        assert_eq!(registry.asked(), [""; 0], "{options:?}");
    }
    for options in [&["--pull=always"][..], &["--pull"], &["--pull=always", "--no-cache"]] {
        lab.build(options).succeeds();
        assert_eq!(registry.asked(), ["HEAD /v2/base/manifests/1"], "{options:?}");
    }
    // Another name of an image that the store has: one question, also where steps have to be run.
    lab.containerfile(&text(&two));
    lab.build(&["--no-cache"]).succeeds();
    assert_eq!(registry.asked(), ["HEAD /v2/base/manifests/2"]);
    lab.build(&[]).succeeds();
    assert_eq!(registry.asked(), [""; 0]);
}

#[test]
fn what_is_named_is_on_the_disk_before() {
    let lab = Lab::with_busybox();
    lab.file("f", "content").containerfile("FROM busybox\nRUN echo x > /x\nCOPY f /f\n").hand_over();
    let (said, calls) = traced(&lab, &["build", "-t", "synced", "-o", "oci:out:v", "ctx"]);
    said.succeeds();
    let calls: Vec<_> = calls.iter().collect();
    let position = |what: &str, names: &[&str], text: &str| {
        let found = calls.iter().position(|c| names.contains(&c.name.as_str()) && c.line.contains(text));
        found.unwrap_or_else(|| panic!("no {what} of {text}"))
    };
    let rename = ["rename", "renameat", "renameat2"];
    let named = position("rename", &rename, "/store/index.json");
    let (manifest, _) = lab.image("out");
    let new = manifest["layers"].as_array().unwrap().iter().rev().take(2);
    let digest = |value: &serde_json::Value| {
        format!("/store/blobs/sha256/{}", value.as_str().unwrap().trim_start_matches("sha256:"))
    };
    let first_record = position("rename", &rename, "/store/cache/steps/");
    for layer in new {
        let path = digest(&layer["digest"]);
        assert!(position("fdatasync", &["fdatasync"], &path) < first_record, "{path}");
    }
    for document in [digest(&manifest["config"]["digest"]), digest(&serde_json::json!(said.stdout.trim()))] {
        assert!(position("fdatasync", &["fdatasync"], &document) < named, "{document}");
    }
    let directory = position("fsync", &["fsync"], "/store/blobs/sha256>");
    assert!(directory < first_record);
    // And the index itself, in the store and in the layout, before it gets its name.
    for at in [named, position("rename", &rename, "out/index.json")] {
        let temporary = calls[at].line.split('"').nth(1).unwrap();
        let temporary = Path::new(temporary).file_name().unwrap().to_str().unwrap();
        assert!(position("fdatasync", &["fdatasync"], temporary) < at, "{temporary}");
    }
    // Each once.
    let synced = calls.iter().filter(|c| c.name == "fdatasync" && c.line.contains("/blobs/sha256/")).count();
    assert_eq!(synced, 4);
}

#[test]
fn an_unpacked_layer_of_another_boot_is_made_again() {
    let lab = Lab::with_busybox();
    lab.containerfile("FROM busybox\nRUN grep -q ^root: /etc/passwd && cat /etc/passwd\n");
    lab.build(&[]).succeeds();
    let marks = || {
        let found = run(std::process::Command::new("find")
            .arg(lab.dir.join("store/layers"))
            .args(["(", "-name", "*.boot-*", "-o", "-name", "*.synced", ")", "-type", "f"]));
        found.stdout.lines().map(|l| Path::new(l).to_owned()).collect::<Vec<_>>()
    };
    // What a loss of power may leave: every name, and nothing in the files.
    let lose = || {
        let truncate = "find store/layers -path '*/etc/passwd' -exec truncate -s 0 {} +";
        let mut shell = match is_root() {
            true => std::process::Command::new("sh"),
            false => lab.command("sh"),
        };
        run(shell.current_dir(&lab.dir).args(["-c", truncate])).succeeds();
    };
    assert!(marks().len() >= 2, "{:?}", marks());
    // In the same boot nobody looks: layers are never changed.
    lose();
    assert!(!lab.build(&["--no-cache"]).status.success());
    for mark in marks() {
        std::fs::rename(&mark, mark.with_extension("boot-00000000-0000-0000-0000-000000000000")).unwrap();
    }
    lab.build(&["--no-cache"]).succeeds();
    assert!(marks().iter().all(|mark| !mark.to_str().unwrap().contains("boot-00000000")), "{:?}", marks());
    lab.build(&["--no-cache"]).succeeds();
}
