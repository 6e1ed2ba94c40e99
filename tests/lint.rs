//! `cooper lint` from outside: where it reads, what it prints where, and how it ends.

mod support;

use std::io::Write;
use std::process::Stdio;

use support::Lab;

const SLOPPY: &str = "FROM debian:13 AS Build\nCOPY . /src\nCOPY a.log /\n";

#[test]
fn a_context_is_checked_with_its_ignore_file() {
    let lab = Lab::new();
    lab.containerfile(SLOPPY);
    let said = lab.cooper(&["lint", "ctx"]);
    said.fails(1);
    assert_eq!(
        said.stdout,
        "warning[StageNameCasing]: the stage name `Build` is not in lower case
 --> ctx/Containerfile:1:19
  |
1 | FROM debian:13 AS Build
  |                   ^^^^^
help: write `build`
see: cooper lint --explain StageNameCasing

info[MissingDockerignore]: the whole context is copied, and it has no ignore
  file
 --> ctx/Containerfile:2:6
  |
2 | COPY . /src
  |      ^
help: list what does not belong into the image in a file `.dockerignore`, `.git`
  for one
see: cooper lint --explain MissingDockerignore

"
    );
    assert_eq!(said.stderr, "ctx/Containerfile: 1 warning, 1 piece of advice\n");
    lab.file(".dockerignore", "*.log\n");
    let said = lab.cooper(&["lint", "--skip", "StageNameCasing", "ctx"]);
    said.fails(1);
    assert!(said.stdout.starts_with("warning[CopyIgnoredFile]: COPY asks for `a.log`"), "{}", said.stdout);
    lab.cooper(&["lint", "--skip", "stagenamecasing,CopyIgnoredFile", "ctx"]).succeeds();
}

#[test]
fn the_exit_code_follows_the_level() {
    let lab = Lab::new();
    lab.containerfile(SLOPPY);
    lab.cooper(&["lint", "--level", "error", "ctx"]).succeeds();
    lab.cooper(&["lint", "--skip", "StageNameCasing", "ctx"]).succeeds();
    lab.cooper(&["lint", "--skip", "StageNameCasing", "--level", "info", "ctx"]).fails(1);
    lab.containerfile(&format!("# check=error=true\n{SLOPPY}"));
    lab.cooper(&["lint", "--level", "error", "ctx"]).fails(1);
    lab.containerfile(&format!("# check=skip=all\n{SLOPPY}"));
    let said = lab.cooper(&["lint", "ctx"]);
    said.succeeds();
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("", "ctx/Containerfile: nothing found\n"));
    let argument = "BUILDKIT_DOCKERFILE_CHECK=skip=NoUser";
    lab.cooper(&["lint", "--build-arg", argument, "ctx"]).fails(1);
}

#[test]
fn what_cannot_be_checked_is_wrong_usage() {
    let lab = Lab::new();
    lab.cooper(&["lint", "ctx"]).fails(2).says("neither Containerfile nor Dockerfile");
    lab.containerfile("FROM a\nRNU b\n");
    lab.cooper(&["lint", "ctx/Containerfile"]).fails(2).says("Containerfile:2:1").says("RUN");
    lab.containerfile("# check=skp=all\nFROM a\n");
    lab.cooper(&["lint", "ctx"]).fails(2).says("Containerfile:1:9").says("skp");
    lab.cooper(&["lint", "--skip", "NoUsr", "ctx"]).fails(2).says("NoUser");
    lab.cooper(&["lint", "--explain", "what"]).fails(2).says("StageNameCasing");
    lab.cooper(&["lint", "nowhere"]).fails(1).says("nowhere");
    lab.file("Containerfile", b"FROM a\n\xff\n");
    lab.cooper(&["lint", "ctx"]).fails(2).says("not UTF-8 text: line 2");
}

#[test]
fn programs_get_json_and_sarif() {
    let lab = Lab::new();
    lab.containerfile(SLOPPY);
    for (format, pointer) in [("json", "/findings/0/code"), ("sarif", "/runs/0/results/0/ruleId")] {
        let said = lab.cooper(&["lint", "--format", format, "ctx"]);
        said.fails(1);
        let value: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
        assert_eq!(value.pointer(pointer).unwrap(), "StageNameCasing");
        assert_eq!(said.stderr, "");
    }
    let said = lab.cooper(&["lint", "--explain", "NoUser"]);
    said.succeeds();
    assert!(said.stdout.starts_with("# NoUser\n"));
}

#[test]
fn standard_input_is_checked() {
    let lab = Lab::new();
    let mut command = lab.command(&support::given("COOPER_TEST_BIN"));
    command.args(["lint", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"FROM debian\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains(" --> standard input:1:6\n"), "{said}");
}
