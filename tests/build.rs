//! What instructions make of configuration and files.

mod support;

use serde_json::json;
use support::Lab;

#[test]
fn the_configuration_is_what_the_instructions_say() {
    let lab = Lab::with_busybox();
    lab.build_out(
        r#"# syntax=docker/dockerfile:1
ARG VERSION=1
FROM busybox AS base
ENV KEPT=base
CMD ["from", "base"]
FROM base
ARG VERSION
ENV A=1 \
    # a comment in between
    B="two words" PATH=/opt:$PATH
ENV C ${A}x$VERSION
LABEL one=1 "two"='2 two'
EXPOSE 80 53/UDP 8000-8002
VOLUME ["/data", "/more"]
WORKDIR /srv
WORKDIR sub/
USER app:staff
STOPSIGNAL SIGQUIT
SHELL ["/bin/sh", "-ec"]
HEALTHCHECK --interval=1m30s --retries=2 CMD wget -q localhost
MAINTAINER somebody
ENTRYPOINT exec app "$@"
"#,
    );
    let (manifest, config) = lab.image("out");
    assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(
        config["config"],
        json!({
            "User": "app:staff",
            "ExposedPorts": {"53/udp": {}, "80/tcp": {}, "8000/tcp": {}, "8001/tcp": {}, "8002/tcp": {}},
            "Env": [
                "PATH=/opt:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "KEPT=base", "A=1", "B=two words", "C=1x1"
            ],
            "ArgsEscaped": true,
            "Entrypoint": ["/bin/sh", "-ec", "exec app \"$@\""],
            "Healthcheck": {"Test": ["CMD-SHELL", "wget -q localhost"], "Interval": 90_000_000_000u64, "Retries": 2},
            "Volumes": {"/data": {}, "/more": {}},
            "WorkingDir": "/srv/sub",
            "Labels": {"one": "1", "two": "2 two"},
            "StopSignal": "SIGQUIT",
            "Shell": ["/bin/sh", "-ec"],
        })
    );
    assert_eq!(config["author"], "somebody");
    let history = config["history"].as_array().unwrap();
    let layers = config["rootfs"]["diff_ids"].as_array().unwrap().len();
    let with_layer = history.iter().filter(|h| h["empty_layer"] != json!(true)).count();
    assert_eq!(with_layer, layers, "{history:?}");
}

#[test]
fn an_entrypoint_clears_only_an_inherited_cmd() {
    let lab = Lab::with_busybox();
    let cmd = |lab: &Lab, text: &str| {
        lab.build_out(text);
        lab.image("out").1["config"]["Cmd"].clone()
    };
    assert_eq!(cmd(&lab, "FROM scratch\nCMD a b\nENTRYPOINT [\"x\"]\n"), json!(["/bin/sh", "-c", "a b"]));
    assert_eq!(cmd(&lab, "FROM scratch AS b\nCMD [\"a\"]\nFROM b\nENTRYPOINT [\"x\"]\n"), json!(null));
    assert_eq!(
        lab.image("out").1["config"]["Env"][0],
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    );
}

#[test]
fn copy_puts_files_where_docker_puts_them() {
    let lab = Lab::with_busybox();
    lab.file("a.txt", "a").file("b.txt", "b").file("dir/in/deep", "d").file("dir/f", "f").file("skip/me", "");
    lab.file(".dockerignore", "skip\n# comment\n*.md\n!dir/keep.md\n")
        .file("x.md", "")
        .file("dir/keep.md", "k");
    std::os::unix::fs::symlink("f", lab.dir.join("ctx/dir/link")).unwrap();
    let said = lab.build_out(
        "FROM busybox
         COPY a.txt /file
         COPY a.txt b.txt /two/
         COPY *.txt /wild/
         COPY dir /dir
         COPY dir/ /existing/
         COPY nothing*here /none/
         COPY --chown=app:staff --chmod=640 a.txt /new/parent/a
         WORKDIR /work
         COPY a.txt .
         ADD b.txt sub/
         RUN ln -s /target/dangling /link
         COPY a.txt /link
         COPY . /all
         RUN find /file /two /wild /dir /existing /new /work /target /all -exec stat -c '%n %a %U:%G' {} + | sort | sed 's/^/F /'; cat /link; test ! -e /none",
    );
    let found: Vec<&str> = said.output().into_iter().filter_map(|l| l.strip_prefix("F ")).collect();
    for line in [
        "/file 644 root:root",
        "/two 755 root:root",
        "/two/b.txt 644 root:root",
        "/wild/a.txt 644 root:root",
        "/dir/in/deep 644 root:root",
        "/dir/link 777 root:root",
        "/existing/f 644 root:root",
        "/new 640 app:staff",
        "/new/parent 640 app:staff",
        "/new/parent/a 640 app:staff",
        "/work/a.txt 644 root:root",
        "/work/sub/b.txt 644 root:root",
        "/target/dangling 644 root:root",
        "/all/dir/keep.md 644 root:root",
    ] {
        assert!(found.contains(&line), "{line} in {found:#?}");
    }
    assert!(!found.iter().any(|l| l.contains("skip") || l.contains("x.md")), "{found:#?}");
    said.prints("a");
}

#[test]
fn stages_are_built_when_they_are_needed() {
    let lab = Lab::with_busybox();
    lab.containerfile(
        "FROM busybox AS one
         RUN echo one > /one
         FROM busybox AS broken
         RUN false
         FROM one AS two
         RUN cat /one && echo two > /two
         FROM scratch
         COPY --from=TWO /two /from-name
         COPY --from=0 /one /from-number
         COPY --from=busybox /etc/passwd /from-image
        ",
    );
    let said = lab.build(&["-o", "oci:out:latest"]);
    said.succeeds();
    assert!(!said.stderr.contains("broken"), "{}", said.stderr);
    assert_eq!(lab.layers("out").len(), 3);
    lab.build(&["--target", "broken"]).fails(1);
    lab.build(&["--target", "Two"]).succeeds();
    lab.build(&["--target", "three"]).fails(2).says("there is no stage `three`").says("one, broken, two");
}

#[test]
fn build_arguments_and_files_of_results() {
    let lab = Lab::with_busybox();
    lab.containerfile("ARG BASE=nothing\nFROM $BASE\nARG X=default\nRUN echo x is $X\n");
    let said = lab.build(&[
        "--build-arg",
        "BASE=busybox",
        "--build-arg",
        "X=given",
        "--build-arg",
        "TYPO=1",
        "--iidfile",
        "id",
        "--metadata-file",
        "meta.json",
        "-t",
        "one",
        "-t",
        "two:v2",
    ]);
    said.succeeds().prints("x is given").says("--build-arg TYPO was not used");
    let id = std::fs::read_to_string(lab.dir.join("id")).unwrap();
    assert!(lab.dir.join("store/blobs").join(id.replace(':', "/")).exists());
    let meta: serde_json::Value =
        serde_json::from_slice(&std::fs::read(lab.dir.join("meta.json")).unwrap()).unwrap();
    assert_eq!(meta["containerimage.digest"].as_str(), Some(said.stdout.trim()));
    assert_eq!(meta["image.name"], "docker.io/library/one:latest,docker.io/library/two:v2");
    lab.containerfile("FROM two:v2\nRUN true\n");
    lab.build(&[]).succeeds();
}

#[test]
fn quiet_json_and_standard_input() {
    let lab = Lab::with_busybox();
    lab.containerfile("FROM busybox\nRUN echo out && echo err >&2\n");
    let quiet = lab.cooper(&["--progress=quiet", "build", "ctx"]);
    quiet.succeeds();
    assert_eq!(quiet.stderr, "");
    assert!(quiet.stdout.starts_with("sha256:") && quiet.stdout.len() == 72, "{}", quiet.stdout);
    let json = lab.cooper(&["build", "--progress=json", "--no-cache", "ctx"]);
    json.succeeds();
    for line in json.stderr.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
    let last = |arguments: &[&str], code: i32| {
        let said = lab.cooper(arguments);
        said.fails(code);
        let lines = said
            .stderr
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")));
        lines.collect::<Vec<serde_json::Value>>().pop().unwrap()
    };
    let failing = lab.path("ctx/failing");
    lab.file("failing", "FROM busybox\nRUN echo why; exit 3\n");
    let error = last(&["build", "--progress=json", "-f", &failing, "ctx"], 1);
    assert_eq!(error["event"], "error");
    assert_eq!(error["exit_code"], 1);
    assert_eq!(error["message"], "RUN failed: the command returned 3");
    assert!(error["details"].to_string().contains("why"), "{error}");
    let error = last(&["build", "--progress=json", "none"], 1);
    assert_eq!(error["event"], "error");
    let file = std::fs::File::open(lab.dir.join("ctx/Containerfile")).unwrap();
    let said = support::run(lab.cooper_command(&["build", "--progress=plain", "-f", "-", "ctx"]).stdin(file));
    said.succeeds();
    // Built once more without the cache, the image has the date of that.
    assert_eq!(said.stdout, json.stdout);
}
