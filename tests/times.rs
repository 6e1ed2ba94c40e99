//! The times of images and layers: the same again, on top of what stays as it is.

mod support;

use std::process::Command;

use support::{Lab, given, run};

const FILE: &str = "FROM busybox AS build
WORKDIR /src
COPY . .
RUN echo built > out && ln out link && mkdir empty && rm file
FROM busybox
COPY --link --from=build /src/ /app/
COPY dir /dir
ADD packed.tar /unpacked
RUN echo done > /app/done && rm /etc/group
";

const EPOCH: &str = "1500033600";

/// A checkout of the context whose files were written at `time`.
fn checkout(time: &str) -> Lab {
    let lab = Lab::with_busybox();
    lab.file("file", "content").file("dir/other", "more").file("tree/in", "archived").containerfile(FILE);
    lab.file(".dockerignore", "Containerfile\n.dockerignore\ntree\n");
    touch(&lab, "tree", "@1234567890");
    let context = lab.dir.join("ctx");
    let pack = ["--owner=0", "--group=0", "-cf", "packed.tar", "tree"];
    run(Command::new("tar").args(pack).current_dir(&context)).succeeds();
    touch(&lab, ".", time);
    lab
}

fn touch(lab: &Lab, path: &str, time: &str) {
    let path = lab.dir.join("ctx").join(path);
    run(Command::new("find").arg(path).args(["-exec", "touch", "-h", "-d", time, "{}", "+"])).succeeds();
}

#[test]
fn the_same_image_from_other_checkouts_at_other_times() {
    let rewrite = ["--source-date-epoch", EPOCH, "--rewrite-timestamp"];
    let exactly = ["--timestamp", EPOCH];
    let digests = |lab: Lab| {
        let digest = |arguments: &[&str]| {
            let said = lab.build(arguments);
            said.succeeds();
            said.stdout
        };
        [digest(&rewrite), digest(&exactly), digest(&["--source-date-epoch", EPOCH])]
    };
    let first = digests(checkout("@1600000001"));
    // Whole seconds are what a layer tells.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let second = digests(checkout("@1700000002").single_id());
    assert_eq!(first[..2], second[..2]);
    assert_ne!(first[0], first[1], "the archive's file is older");
    assert_ne!(first[2], second[2], "an epoch alone leaves the times of files that are copied");
}

#[test]
fn base_layers_are_never_rewritten() {
    let lab = Lab::with_busybox();
    let late = "touch -d @1899979200 /late /dir/late /dir";
    lab.containerfile(&format!("FROM busybox\nRUN mkdir dir && {late} && touch -d @1000036800 /early\n"));
    lab.build(&["-t", "base", "-o", "oci:base:v"]).succeeds();
    let below = lab.layers("base");
    // To open a file for writing is no change, though the overlay copies it and its directory.
    let own = "touch -d @1899979200 /own && touch -d @1000036800 /own-early && : >> /dir/late";
    lab.containerfile(&format!("FROM base\nRUN {own}\n"));
    for (name, times, own) in [
        ("plain", &["--source-date-epoch", EPOCH][..], ["2030-03-17", "2001-09-09"]),
        ("rewritten", &["--source-date-epoch", EPOCH, "--rewrite-timestamp"], ["2017-07-14", "2001-09-09"]),
        ("exactly", &["--timestamp", EPOCH], ["2017-07-14", "2017-07-14"]),
    ] {
        lab.build(&[&["-o", &format!("oci:{name}:v")], times].concat()).succeeds();
        let layers = lab.layers(name);
        assert_eq!(layers[..layers.len() - 1], below, "{name}");
        // A file of the base that no step touches is in no layer of ours, however new it is.
        let top = lab.top_layer(name);
        assert_eq!(top.len(), 2, "{name}: {top:?}");
        for (line, date) in top.iter().zip(own) {
            assert!(line.contains(date), "{name}: {line}");
        }
        // Nothing but the base is nothing to rewrite.
        let out = format!("{name}-alone");
        lab.file("alone", "FROM base\n");
        let alone = ["-o", &format!("oci:{out}:v"), "-f", "ctx/alone"];
        lab.build(&[&alone, times].concat()).succeeds();
        assert_eq!(lab.layers(&out), below, "{name}");
    }
}

#[test]
fn layers_with_other_times_are_not_taken_from_the_cache() {
    let options: [&[&str]; 7] = [
        &[],
        &["--source-date-epoch", EPOCH],
        &["--source-date-epoch", EPOCH, "--rewrite-timestamp"],
        &["--timestamp", EPOCH],
        &["--source-date-epoch", "1500000001"],
        &["--source-date-epoch", "1500000001", "--rewrite-timestamp"],
        &["--timestamp", "1500000001"],
    ];
    let layers = |lab: &Lab, options: &[&str]| {
        let _ = std::fs::remove_dir_all(lab.dir.join("out"));
        let said = lab.build(&[&["-o", "oci:out:v"], options].concat());
        said.succeeds();
        (lab.layers("out"), said)
    };
    let shared = checkout("@1600000001");
    let mut seen = Vec::new();
    for options in options {
        let (made, said) = layers(&shared, options);
        assert!(!said.stderr.contains("CACHED"), "{options:?}: {}", said.stderr);
        assert_eq!(made, layers(&checkout("@1600000001"), options).0, "{options:?}");
        assert!(!seen.contains(&made), "{options:?}");
        seen.push(made);
    }
    for (options, made) in options.iter().zip(&seen) {
        let (again, said) = layers(&shared, options);
        assert!(!said.stderr.contains("DONE"), "{options:?}: {}", said.stderr);
        assert_eq!(again, *made, "{options:?}");
    }
}

#[test]
fn an_import_is_dated_and_its_layer_is_not() {
    let lab = Lab::new();
    let import = |epoch: &str, name: &str| {
        let mut command = lab.cooper_command(&["import", &given("COOPER_TEST_BUSYBOX"), name]);
        run(command.env("SOURCE_DATE_EPOCH", epoch))
    };
    import("", "plain").succeeds();
    import(EPOCH, "dated").succeeds();
    import("soon", "never").fails(2).says("SOURCE_DATE_EPOCH is `soon`");
    let image = |name: &str| {
        lab.containerfile(&format!("FROM {name}\n"));
        lab.build(&["-o", &format!("oci:{name}:v"), "--source-date-epoch", "0"]).succeeds();
        let (_, config) = lab.image(name);
        (config["history"][0]["created"].clone(), lab.layers(name))
    };
    let (plain, dated) = (image("plain"), image("dated"));
    assert_eq!(dated.0, "2017-07-14T12:00:00Z");
    assert_ne!(plain.0, dated.0);
    assert_eq!(plain.1, dated.1);
}
