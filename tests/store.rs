//! The store and what is written from it: the same again, from the cache, and never half.

mod support;

use std::process::Command;

use support::{Lab, given, run};

const FILE: &str = "FROM busybox AS build
WORKDIR /src
COPY . .
RUN echo built > out && ln out link && mkdir empty
FROM busybox
ENV A=1
COPY --from=build /src/ /app/
RUN echo done > /app/done && rm /etc/group
CMD [\"cat\", \"/app/out\"]
";

fn lab() -> Lab {
    let lab = Lab::with_busybox();
    lab.file("file", "content").file("dir/other", "more").containerfile(FILE);
    lab.file(".dockerignore", "Containerfile\n.dockerignore\n");
    lab
}

#[test]
fn the_same_from_empty_stores_is_the_same() {
    let build = |pause: bool| {
        let lab = lab();
        // The context as a checkout leaves it: one time for all.
        run(Command::new("find").arg(lab.dir.join("ctx")).args([
            "-exec",
            "touch",
            "-d",
            "@1600000000",
            "{}",
            "+",
        ]))
        .succeeds();
        if pause {
            // Whole seconds are what a layer tells.
            std::thread::sleep(std::time::Duration::from_millis(1100));
        }
        lab.build(&["-o", "oci:plain:v"]).succeeds();
        let rewrite = ["--source-date-epoch", "1500000000", "--rewrite-timestamp"];
        let dated = lab.build(&[&["-o", "oci:dated:v"], &rewrite[..]].concat());
        dated.succeeds();
        (lab.layers("plain"), dated.stdout, lab.layers("dated"))
    };
    let (first, second) = (build(false), build(true));
    assert_eq!(first, second);
    assert_ne!(first.0, first.2, "times newer than the epoch are set to it");
}

#[test]
fn a_cached_build_runs_nothing_and_gives_the_same_image() {
    let lab = lab();
    let first = lab.build(&["-t", "app"]);
    first.succeeds();
    let second = lab.build(&["-t", "app"]);
    second.succeeds();
    assert_eq!(first.stdout, second.stdout);
    assert_eq!(second.stderr.matches("CACHED").count(), 5, "{}", second.stderr);
    assert_eq!(second.stderr.matches("DONE").count(), 0, "{}", second.stderr);
    // A label re-runs nothing, another file does what it must.
    lab.containerfile(&FILE.replace("ENV A=1", "LABEL a=b"));
    let labelled = lab.build(&[]);
    assert_eq!(labelled.stderr.matches("CACHED").count(), 4, "RUN sees A: {}", labelled.stderr);
    lab.file("file", "changed");
    let changed = lab.build(&[]);
    assert_eq!(changed.stderr.matches("CACHED").count(), 1, "{}", changed.stderr);
    let fresh = lab.build(&["--no-cache"]);
    assert_eq!(fresh.stderr.matches("CACHED").count(), 0, "{}", fresh.stderr);
}

#[test]
fn a_touched_file_is_the_same_and_a_changed_mode_is_not() {
    let lab = lab();
    lab.build(&[]).succeeds();
    run(Command::new("touch").arg(lab.dir.join("ctx/file"))).succeeds();
    assert!(!lab.build(&[]).stderr.contains("DONE"));
    run(Command::new("chmod").arg("700").arg(lab.dir.join("ctx/file"))).succeeds();
    assert!(lab.build(&[]).stderr.contains("DONE"));
}

#[test]
fn a_cached_step_above_a_fresh_one_is_found_and_shared() {
    let lab = Lab::with_busybox();
    // The second step sees the same layers below in both builds, though the first is run anew: it
    // prints something else, and leaves the same.
    let file = |word: &str| {
        format!(
            "FROM busybox AS a\nRUN echo {word} && echo same > /f\nFROM a AS b\nRUN echo second > /g\nRUN echo {word} > /h\n\
             FROM a\nRUN cat /f\nCOPY --from=b /h /\nCOPY --from=a /f /f2\n"
        )
    };
    lab.containerfile(&file("one"));
    lab.build(&[]).succeeds();
    lab.containerfile(&file("two"));
    let said = lab.build(&["-o", "oci:out:latest"]);
    said.succeeds();
    let cached: Vec<&str> = said.stderr.lines().filter(|l| l.ends_with("CACHED")).collect();
    assert_eq!(cached.len(), 2, "RUN second and RUN cat: {}", said.stderr);
}

#[test]
fn compressions_differ_in_blobs_and_not_in_diff_ids() {
    let lab = lab();
    let diff_ids = |kind: &str, media: &str| {
        lab.build(&["--compression", kind, "-o", &format!("oci:{kind}:v")]).succeeds();
        let (manifest, config) = lab.image(kind);
        assert_eq!(manifest["layers"].as_array().unwrap().last().unwrap()["mediaType"], media);
        config["rootfs"]["diff_ids"].clone()
    };
    let gzip = diff_ids("gzip", "application/vnd.oci.image.layer.v1.tar+gzip");
    let zstd = diff_ids("zstd", "application/vnd.oci.image.layer.v1.tar+zstd");
    let none = diff_ids("none", "application/vnd.oci.image.layer.v1.tar");
    assert_eq!(gzip, zstd);
    assert_eq!(gzip, none);
}

#[test]
fn others_read_what_we_write() {
    let lab = lab();
    for kind in ["gzip", "zstd"] {
        lab.build(&["-t", "app", "--compression", kind, "-o", &format!("oci:{kind}:v")]).succeeds();
        let image = format!("oci:{}:v", lab.path(kind));
        run(Command::new("skopeo").args(["inspect", &image])).succeeds();
        // Docker's archives know no zstd.
        let archive = match kind {
            "gzip" => format!("docker-archive:{}:app:{kind}", lab.path("app.tar")),
            _ => format!("oci-archive:{}:app", lab.path("app.oci.tar")),
        };
        run(Command::new("skopeo").args(["copy", &image, &archive])).succeeds();
    }
    let unpack = ["unpack", "--rootless", "--image"];
    run(Command::new("umoci").args(unpack).arg(lab.path("gzip:v")).arg(lab.path("bundle"))).succeeds();
    assert_eq!(std::fs::read_to_string(lab.dir.join("bundle/rootfs/app/done")).unwrap(), "done\n");
    assert!(!lab.dir.join("bundle/rootfs/etc/group").exists());
    // The store is a layout itself.
    let stored = format!("oci:{}:docker.io/library/app:latest", lab.path("store"));
    run(Command::new("skopeo").args(["inspect", &stored])).succeeds();
}

#[test]
fn a_layout_stands_alone_and_can_be_built_on() {
    let lab = lab();
    lab.build(&["-o", "oci:base:v1"]).succeeds();
    lab.containerfile("FROM oci:base:v1\nRUN cat /app/out\n");
    let elsewhere = lab.path("other-store");
    let said = lab.cooper(&["--root", &elsewhere, "--progress=plain", "build", "-o", "oci:base:v2", "ctx"]);
    said.succeeds().prints("built");
    let index = std::fs::read_to_string(lab.dir.join("base/index.json")).unwrap();
    assert!(index.contains("\"v1\"") && index.contains("\"v2\""), "{index}");
    lab.containerfile("FROM oci:base\nRUN true\n");
    lab.build(&[]).fails(1).says("v1").says("v2");
}

#[test]
fn a_blob_that_is_not_the_layer_it_is_said_to_be_is_refused() {
    let lab = lab();
    lab.build(&["-o", "oci:good:v"]).succeeds();
    lab.file("file", "another content");
    lab.build(&["-o", "oci:bad:v"]).succeeds();
    // The configuration of the one with the layers of the other; its own layers are unpacked already.
    let (good, _) = lab.image("good");
    let (mut manifest, _) = lab.image("bad");
    manifest["config"] = good["config"].clone();
    let text = manifest.to_string();
    let path = lab.dir.join("manifest.json");
    std::fs::write(&path, &text).unwrap();
    let digest = run(Command::new("sha256sum").arg(&path)).stdout[..64].to_owned();
    let bad = lab.dir.join("bad");
    std::fs::copy(&path, bad.join("blobs/sha256").join(&digest)).unwrap();
    let config = good["config"]["digest"].as_str().unwrap().replace(':', "/");
    std::fs::copy(lab.dir.join("good/blobs").join(&config), bad.join("blobs").join(&config)).unwrap();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": format!("sha256:{digest}"), "size": text.len()
    }]});
    std::fs::write(bad.join("index.json"), index.to_string()).unwrap();
    lab.containerfile("FROM oci:bad\nRUN true\n");
    lab.build(&[]).fails(1).says("configuration says");
}

#[test]
fn an_ignore_file_that_cannot_be_used_is_an_error() {
    let lab = Lab::with_busybox();
    lab.containerfile("FROM busybox\nCOPY . /x\n");
    std::fs::create_dir(lab.dir.join("ctx/.dockerignore")).unwrap();
    lab.build(&[]).fails(1).says(".dockerignore").says("not a regular file");
}

#[test]
fn add_and_copy_have_keys_of_their_own() {
    let lab = Lab::with_busybox();
    run(Command::new("tar").arg("-cf").arg(lab.dir.join("ctx/a.tar")).args(["-C", "/etc", "hostname"]))
        .succeeds();
    lab.containerfile("FROM busybox\nCOPY a.tar /x/\n");
    lab.build(&[]).succeeds();
    lab.containerfile("FROM busybox\nADD a.tar /x/\nRUN test -f /x/hostname -a ! -e /x/a.tar\n");
    lab.build(&[]).succeeds();
}

#[test]
fn imports_are_the_same_image_every_time() {
    let (one, two) = (Lab::new(), Lab::new());
    let import = |lab: &Lab, file: &str| {
        let said = lab.cooper(&["import", "-c", "CMD [\"sh\"]", "-c", "ENV X=1", file, "base"]);
        said.succeeds();
        said.stdout
    };
    let tar = given("COOPER_TEST_BUSYBOX");
    let first = import(&one, &tar);
    assert_eq!(first, import(&two, &tar));
    for (program, suffix) in [("gzip", "gz"), ("zstd", "zst")] {
        let packed = two.path(&format!("base.tar.{suffix}"));
        let packed_bytes = Command::new(program).args(["-c", &tar]).output().unwrap().stdout;
        std::fs::write(&packed, packed_bytes).unwrap();
        assert_eq!(first, import(&two, &packed), "{suffix}");
    }
    let mut piped = two.cooper_command(&["import", "-c", "CMD [\"sh\"]", "-c", "ENV X=1", "-", "base"]);
    let said = run(piped.stdin(std::fs::File::open(&tar).unwrap()));
    assert_eq!(said.stdout, first, "{}", said.stderr);
    two.file("no.tar", "this is no tar at all");
    two.cooper(&["import", "ctx/no.tar", "x"]).fails(1).says("cannot import ctx/no.tar");
}

#[test]
fn parallel_builds_share_a_store() {
    let lab = lab();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let lab = &lab;
            scope.spawn(move || {
                let arg = format!("N={}", n % 2);
                let file = format!("ctx/file-{n}");
                std::fs::write(
                    lab.dir.join(&file),
                    "FROM busybox\nARG N\nRUN echo $N > /n && sleep 0.2\nRUN echo x > /y\n",
                )
                .unwrap();
                let name = format!("par:{n}");
                lab.build(&["-f", &file, "--build-arg", &arg, "-t", &name]).succeeds();
            });
        }
    });
    let index = std::fs::read_to_string(lab.dir.join("store/index.json")).unwrap();
    for n in 0..4 {
        assert!(index.contains(&format!("docker.io/library/par:{n}")), "{index}");
    }
    assert_eq!(std::fs::read_dir(lab.dir.join("store/work")).unwrap().count(), 1, "only the gate is left");
}

#[test]
fn a_full_disk_is_said_so_and_leaves_nothing_half_written() {
    let lab = Lab::new();
    lab.containerfile(
        "FROM busybox\nRUN dd if=/dev/urandom of=/big bs=1M count=40 2>/dev/null || exit 0\nRUN true\n",
    );
    // A small file system of one's own: a mount namespace is all it takes.
    let script = format!(
        "mount -t tmpfs -o size=12m none store && {bin} import {base} busybox >/dev/null && \
         {bin} --progress=plain build -o oci:out:v ctx; echo status $?; ls store/work -A; cp -r store/blobs left",
        bin = given("COOPER_TEST_BIN"),
        base = given("COOPER_TEST_BUSYBOX"),
    );
    std::fs::create_dir(lab.dir.join("store")).unwrap();
    lab.hand_over();
    let mut command = lab.command("unshare");
    if support::is_root() {
        run(Command::new("chown").arg(format!("{}:", given("COOPER_TEST_USER"))).arg(lab.dir.join("store")))
            .succeeds();
    }
    let said = run(command.args(["-Urm", "sh", "-c", &script]));
    said.succeeds();
    assert!(said.stdout.starts_with("status 1\n.lock\n"), "{}\n{}", said.stdout, said.stderr);
    said.says("o space left on device").says("hint: free space in");
    assert!(!lab.dir.join("out").exists(), "no layout is begun");
    // Every blob that is there is whole.
    let blobs = walkdir::WalkDir::new(lab.dir.join("left")).into_iter().map(Result::unwrap);
    let blobs: Vec<_> = blobs.filter(|e| e.file_type().is_file()).collect();
    assert!(blobs.len() >= 3, "{blobs:?}");
    for blob in blobs {
        let sum = run(Command::new("sha256sum").arg(blob.path()));
        assert_eq!(sum.stdout.split(' ').next(), blob.file_name().to_str(), "{blob:?}");
    }
}

#[test]
fn added_archives_keep_their_owners_whatever_ids_there_are() {
    for single in [false, true] {
        let lab = Lab::with_busybox();
        let lab = if single { lab.single_id() } else { lab };
        lab.file("src/tool", "tool").file("src/d/f", "f");
        let archive = lab.dir.join("ctx/a.tar.xz");
        run(Command::new("tar")
            .arg("-cJf")
            .arg(&archive)
            .args(["--owner=1000", "--group=50", "--mode=u=rwxs,go=rx", "-C"])
            .arg(lab.dir.join("ctx/src"))
            .arg("."))
        .succeeds();
        let said = lab.build_out("FROM busybox\nADD a.tar.xz /opt/app\n");
        said.succeeds();
        let listed = lab.top_layer("out");
        let tool = listed.iter().find(|line| line.ends_with("opt/app/tool"));
        let tool = tool.unwrap_or_else(|| panic!("{listed:?}"));
        assert!(tool.starts_with("-rwsr-") && tool.contains(" 1000/50 "), "single {single}: {tool}");
        assert!(listed.iter().any(|line| line.ends_with("opt/app/d/f")), "{listed:?}");
    }
}
