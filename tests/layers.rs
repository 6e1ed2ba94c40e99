//! What steps change is in the layer, exactly, and other people's tools read it.

mod support;

use std::process::Command;

use support::{Lab, is_root, run};

#[test]
fn deletions_and_replacements() {
    let lab = Lab::with_busybox();
    lab.build_out(
        "FROM busybox
         RUN mkdir -p /d/sub /e /g && echo 1 > /d/a && echo 2 > /d/sub/b && echo 3 > /e/f && echo 4 > /g/h && echo > /file && ln -s d /link
         RUN rm /d/a && rm -r /d/sub && rm -r /e && mkdir /e && echo new > /e/n && rm -r /g && echo now > /g \
          && rm /file && mkdir /file && rm /link && echo > /link",
    );
    assert_eq!(
        lab.top_names("out"),
        ["d/", "d/.wh.a", "d/.wh.sub", "e/", "e/.wh.f", "e/n", "file/", "g", "link"]
    );
}

#[test]
fn what_is_the_same_stays_out() {
    let lab = Lab::with_busybox();
    lab.build_out(
        "FROM busybox
         RUN mkdir -p /d/e && echo same > /d/f && echo other > /d/g && touch -d @1000000000 /d/f /d/g /d/e /d
         RUN cp -p /d/f /x && cat /x > /d/f && rm /x && touch -d @1000000000 /d/f /d && chmod 700 /d/e && chmod 755 /d/e \
          && mv /d/g /d/h && mv /d/h /d/g && touch -d @1000000000 /d",
    );
    assert_eq!(lab.top_names("out"), Vec::<String>::new());
    lab.build_out(
        "FROM busybox
         RUN mkdir -p /d/e && echo same > /d/f && touch -d @1000000000 /d/f /d/e /d
         RUN rm -rf /d && mkdir -p /d/e && echo same > /d/f && echo more > /d/new && touch -d @1000000000 /d/f /d/e",
    );
    assert_eq!(lab.top_names("out"), ["d/", "d/new"], "a directory made again is told by its differences");
}

#[test]
fn what_was_deleted_stays_deleted_however_deep() {
    let lab = Lab::with_busybox();
    let said = lab.build_out(
        "FROM busybox
         RUN mkdir -p /d/sub/deep /a/b/c && touch /d/sub/old /d/sub/deep/old2 /a/b/c/f
         RUN rm -rf /d && mkdir -p /d/sub/deep && touch /d/sub/new && mv /a /a2 && mkdir -p /a/b
         RUN find /d /a -type f | sed 's/^/LEFT /'",
    );
    let left: Vec<&str> = said.output().into_iter().filter(|l| l.starts_with("LEFT")).collect();
    assert_eq!(left, ["LEFT /d/sub/new"]);
}

#[test]
fn a_step_cannot_leave_marks_in_layers_that_others_share() {
    let lab = Lab::with_debian();
    std::fs::copy("/usr/bin/setfattr", lab.dir.join("ctx/setfattr")).unwrap();
    lab.containerfile(
        "FROM debian\nCOPY setfattr /usr/local/bin/\nRUN setfattr -n user.cooper.opaque-root -v 1 / \\
          ; setfattr -n user.cooper.root -v 1 /usr; true\n",
    );
    lab.build(&["--no-cache"]).succeeds();
    lab.containerfile("FROM debian\nCOPY setfattr /usr/local/bin/\nRUN true\nRUN echo still here\n");
    lab.build(&[]).succeeds().prints("still here");
}

#[test]
fn metadata_alone_is_a_change() {
    let lab = Lab::with_busybox();
    lab.build_out(
        "FROM busybox
         RUN mkdir /d && touch -d @1000000000 /d/mode /d/owner /d/time /d/same /d
         RUN chmod 4711 /d/mode && chown 12:34 /d/owner && touch -d @5 /d/time && touch -d @1000000000 /d",
    );
    let listed = lab.top_layer("out");
    let names: Vec<_> = listed.iter().map(|l| l.split_whitespace().last().unwrap()).collect();
    assert_eq!(names, ["d/", "d/mode", "d/owner", "d/time"]);
    assert!(listed[1].starts_with("-rws--x--x 0/0"), "{listed:?}");
    assert!(listed[2].starts_with("-rw-r--r-- 12/34"), "{listed:?}");
    assert!(listed[3].contains("1970-01-01"), "{listed:?}");
}

#[test]
fn hard_links_are_links_within_the_layer() {
    let lab = Lab::with_busybox();
    lab.build_out("FROM busybox\nRUN mkdir /d && echo x > /d/z && ln /d/z /d/a && ln /d/z /b && ln -s nowhere /l && ln /l /m");
    let listed = lab.top_layer("out");
    let tail = |l: &String| l.split_whitespace().skip(5).collect::<Vec<_>>().join(" ");
    let shown: Vec<_> = listed.iter().map(tail).collect();
    assert_eq!(shown, ["b", "d/", "d/a link to b", "d/z link to b", "l -> nowhere", "m link to l"]);
}

#[test]
fn special_files_modes_and_odd_names() {
    let lab = Lab::with_busybox();
    lab.build_out(
        "FROM busybox
         RUN mkdir /d && cd /d && mkfifo p && chmod 640 p && mkdir -m 1777 t && mkdir -m 2755 g && mkdir -m 0 none && touch none/inside \
          && touch 'a b' \"$(printf 'new\\nline')\" \"$(printf 'caf\\303\\251')\" \"$(printf 'not-utf8-\\377')\" \
          && mkdir -p $(seq -s / 1 60) && touch $(seq -s / 1 60)/deep && dd if=/dev/zero of=big bs=1M count=0 seek=20 2>/dev/null",
    );
    let unpacked = Unpacked::new(&lab);
    let d = unpacked.rootfs("d");
    let stat = |name: &str| {
        let said = run(Command::new("stat").args(["-c", "%F %a %s"]).arg(d.join(name)));
        said.succeeds();
        said.stdout.trim().to_owned()
    };
    assert!(stat("p").starts_with("fifo 640"));
    assert!(stat("t").starts_with("directory 1777"));
    assert!(stat("g").starts_with("directory 2755"));
    assert!(stat("none").starts_with("directory 0 "));
    assert_eq!(stat("none/inside"), "regular empty file 644 0");
    assert_eq!(stat("new\nline"), "regular empty file 644 0");
    assert_eq!(stat("café"), "regular empty file 644 0");
    assert_eq!(stat("big"), "regular file 644 20971520");
    let deep: String = (1..=60).map(|n| format!("{n}/")).collect();
    assert_eq!(stat(&format!("{deep}deep")), "regular empty file 644 0");
    use std::os::unix::ffi::OsStrExt;
    assert!(d.join(std::ffi::OsStr::from_bytes(b"not-utf8-\xff")).exists());
}

#[test]
fn the_unpacked_tree_is_the_one_the_build_saw() {
    let lab = Lab::with_debian();
    for tool in ["setfattr", "getfattr"] {
        std::fs::copy(format!("/usr/bin/{tool}"), lab.dir.join("ctx").join(tool)).unwrap();
    }
    std::fs::copy("/usr/sbin/setcap", lab.dir.join("ctx/setcap")).unwrap();
    lab.file("a/one", "1").file("a/b/two", "22").file(".dockerignore", "a/b/skip\n").file("a/b/skip", "");
    // The same words as below, so that both sides are looked at in the same way.
    lab.file("look", LOOK);
    let said = lab.build_out(
        "FROM debian
         COPY setfattr getfattr setcap /usr/local/bin/
         COPY --chmod=755 look /look
         COPY --chown=33:44 a /srv/a/
         RUN mkdir -p /x/y && echo hello > /x/f && ln /x/f /x/y/g && ln -s ../f /x/y/l && mkfifo /x/p \
          && setfattr -n user.note -v 0x000aff /x/f && setfattr -n user.dir -v yes /x/y && cp /bin/true /x/cap \
          && setcap cap_net_raw+ep /x/cap && chown 1234:4321 /x/y /x/p && chmod 6755 /x/cap && chmod 1770 /x/y \
          && rm -r /usr/share/doc && touch -d @-5 /x/p && touch -d @4294967296 /x/f
         RUN rm /etc/debian_version && useradd -m someone && echo changed >> /etc/hostname
         RUN /look / 2>&1 | sed 's/^/LOOK /'",
    );
    let seen: Vec<&str> = said.output().into_iter().filter_map(|l| l.strip_prefix("LOOK ")).collect();
    assert!(seen.len() > 1000, "{}", said.stderr);
    let unpacked = Unpacked::new(&lab);
    let root = unpacked.rootfs("");
    let found = run(Command::new("bash").arg(lab.dir.join("ctx/look")).arg(&root));
    found.succeeds();
    let found: Vec<&str> = found.stdout.lines().filter(|l| !l.is_empty()).collect();
    for (seen, found) in seen.iter().zip(&found) {
        assert_eq!(seen, found);
    }
    assert_eq!(seen.len(), found.len());
    assert!(found.iter().any(|l| l.contains("user.note=0x000aff")), "{found:?}");
    assert!(found.iter().any(|l| l.starts_with("security.capability=0x01000002002000")), "{found:?}");
}

#[test]
fn the_diff_id_can_be_computed_from_the_book_alone() {
    let lab = Lab::with_debian();
    for tool in ["setfattr", "setcap"] {
        let from = if tool == "setcap" { "/usr/sbin/setcap" } else { "/usr/bin/setfattr" };
        std::fs::copy(from, lab.dir.join("ctx").join(tool)).unwrap();
    }
    lab.build_out(
        "FROM debian
         COPY setfattr setcap /usr/local/bin/
         RUN mkdir -p /srv/d/e && cd /srv/d && echo x > z && ln z a && ln z e/b && ln -s ../nowhere l && ln l m && mkfifo p \
          && touch \"$(printf 'new\\nline')\" \"$(printf 'not-utf8-\\377')\" a-b e/x \"$(printf '%0255d' 7)\" && chmod 7711 e \
          && chown 12:3456 z && ln -s $(printf '%0200d' 8) long && truncate -s 20M big && echo end >> big \
          && setfattr -n user.any -v 0x000aff0a e && setfattr -n user.text -v text z && cp /bin/true c && setcap cap_net_raw+ep c \
          && touch -d @-5.25 p && touch -d @4294967296.75 z && touch -h -d @-0.5 l && touch -d @8589934592 e/x",
    );
    let (_, config) = lab.image("out");
    let expected = config["rootfs"]["diff_ids"].as_array().unwrap().last().unwrap().as_str().unwrap();
    let unpacked = Unpacked::new(&lab);
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reproduce_layer.py");
    let said = run(Command::new("python3").arg(script).arg("tree").arg(unpacked.rootfs("")).arg("srv/d"));
    said.succeeds();
    assert_eq!(said.stdout.trim(), expected, "{:#?}", lab.top_layer("out"));
}

#[test]
fn names_that_mean_removal_fail_the_step_that_makes_them() {
    let lab = Lab::with_busybox();
    lab.containerfile("FROM busybox\nRUN mkdir /d && touch /d/.wh.x\nRUN rm /d/.wh.x\n");
    let said = lab.build(&[]);
    said.fails(1).says("`/d/.wh.x` cannot be written to a layer").says("Containerfile:2:1");
    lab.file(".wh.y", "").containerfile("FROM busybox\nCOPY .wh.y /d/\n");
    lab.build(&[]).fails(1).says("`/d/.wh.y` cannot be written to a layer").says("Containerfile:2:1");
    lab.build_out("FROM busybox\nRUN mkdir /d && cd /d && touch .wh.gone .wh .whx x.wh.y && rm .wh.gone\n");
    assert_eq!(lab.top_names("out"), ["d/", "d/.wh", "d/.whx", "d/x.wh.y"]);
}

#[test]
fn a_layer_that_may_not_be_passed_on_keeps_its_type_and_addresses() {
    let lab = Lab::with_busybox();
    lab.build_out("FROM busybox\nRUN echo licensed > /licensed\n");
    // The same image, with its topmost layer marked as Docker does it.
    let (mut manifest, _) = lab.image("out");
    let url = "https://127.0.0.1:1/licensed";
    let layer = manifest["layers"].as_array_mut().unwrap().last_mut().unwrap();
    layer["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into();
    layer["urls"] = vec![url].into();
    let layer = layer.clone();
    let bytes = manifest.to_string();
    std::fs::write(lab.dir.join("manifest"), &bytes).unwrap();
    let sum = run(Command::new("sha256sum").arg(lab.dir.join("manifest")));
    let digest = sum.stdout.split(' ').next().unwrap();
    std::fs::write(lab.dir.join("out/blobs/sha256").join(digest), &bytes).unwrap();
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": format!("sha256:{digest}"),
        "size": bytes.len(), "annotations": { "org.opencontainers.image.ref.name": "latest" },
    }] });
    std::fs::write(lab.dir.join("out/index.json"), index.to_string()).unwrap();

    lab.containerfile("FROM oci:out:latest\nRUN cat /licensed && echo more > /more\n");
    lab.build(&["-o", "oci:derived:latest"]).succeeds().prints("licensed");
    let (manifest, _) = lab.image("derived");
    let kept = &manifest["layers"].as_array().unwrap()[manifest["layers"].as_array().unwrap().len() - 2];
    assert_eq!(kept["digest"], layer["digest"]);
    assert_eq!(kept["mediaType"], "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip");
    assert_eq!(kept["urls"], serde_json::json!([url]));
    // A layout is for whoever has it: all of the image is in it.
    let blob = layer["digest"].as_str().unwrap().replace(':', "/");
    assert!(lab.dir.join("derived/blobs").join(blob).is_file());
    assert_eq!(lab.layers("derived").len(), lab.layers("out").len() + 1);
}

/// Prints every path with type, mode, owner, size, whole-second time, link count and target, content
/// and extended attributes. What every step has mounted is left out, and so are times of directories,
/// which looking itself may change.
const LOOK: &str = r#"#!/bin/bash
cd "$1" || exit 1
export LC_ALL=C TZ=UTC
find . -xdev \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./etc/hosts -o -path ./etc/resolv.conf \) -prune \
  -o -type d -printf '%p d %m %U:%G\n' \
  -o -type l -printf '%p l %U:%G -> %l\n' \
  -o -printf '%p %y %m %U:%G %s %Ts %n\n' | sort
find . -xdev \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./etc/hosts -o -path ./etc/resolv.conf \) -prune \
  -o -type f -print0 | sort -z | xargs -0 sha256sum
find x -print0 | sort -z | xargs -0 getfattr -h -d -m '^(user|security)' -e hex 2>/dev/null
"#;

/// An image of a lab, unpacked by umoci as root, which alone can give files their owners.
struct Unpacked(std::path::PathBuf);

impl Unpacked {
    fn new(lab: &Lab) -> Unpacked {
        assert!(is_root(), "unpacking with owners needs root: run scripts/test as root");
        let bundle = lab.dir.join("bundle");
        run(Command::new("umoci").args(["unpack", "--image", &lab.path("out:latest")]).arg(&bundle))
            .succeeds();
        Unpacked(bundle)
    }

    fn rootfs(&self, path: &str) -> std::path::PathBuf {
        self.0.join("rootfs").join(path)
    }
}
