//! What users are told, to the letter, and with which exit code.

mod support;

use support::Lab;

#[track_caller]
fn is(lab: &Lab, arguments: &[&str], code: i32, expected: &str) {
    let said = lab.build(arguments);
    said.fails(code);
    assert_eq!(said.error().trim_end(), expected.trim_end());
    assert_eq!(said.stdout, "");
}

#[test]
fn a_failed_run_shows_line_command_code_and_output() {
    let lab = Lab::with_busybox();
    // The two streams come through two pipes, so their order is that of time only.
    lab.containerfile("FROM busybox\n\nRUN echo one; sleep 0.5; \\\n    echo two >&2; \\\n    exit 3\n");
    is(
        &lab,
        &[],
        1,
        "error: RUN failed: the command returned 3
 --> ctx/Containerfile:3:1
  |
3 | RUN echo one; sleep 0.5; \\
  | ^^^^^^^^^^^^^^^^^^^^^^^^^^
command: RUN echo one; sleep 0.5;     echo two >&2;     exit 3
last output:
  one
  two",
    );
}

#[test]
fn a_missing_file_is_named_and_near_ones_are_offered() {
    let lab = Lab::with_busybox();
    lab.file("main.rs", "").file("secret.txt", "").file(".dockerignore", "secret*\n");
    lab.containerfile("FROM busybox\nCOPY mian.rs /\n");
    let said = lab.build(&[]);
    said.fails(1).says("COPY failed:").says("mian.rs").says("Containerfile:2:6").says("main.rs");
    lab.containerfile("FROM busybox\nCOPY secret.txt /\n");
    lab.build(&[]).fails(1).says("secret.txt").says(".dockerignore").says("secret*");
    lab.containerfile("FROM busybox AS a\nFROM busybox\nCOPY --from=a /nope /\n");
    lab.build(&[]).fails(1).says("/nope").says("stage a");
}

#[test]
fn mistakes_in_the_file_point_into_it() {
    let lab = Lab::with_busybox();
    for (text, needle, help) in [
        ("FROM busybox\nRNU true\n", "Containerfile:2:1", "RUN"),
        ("FROM busybox\nCOPY --form=a b c\n", "Containerfile:2:", "from"),
        ("RUN true\n", "Containerfile:1:1", "FROM"),
        ("FROM busybox AS builder\nFROM busybox\nCOPY --from=bulider /a /b\n", "Containerfile:3:", "builder"),
        ("FROM busybox\nCOPY a b /c\n", "Containerfile:2:", "/c/"),
    ] {
        lab.containerfile(text);
        lab.build(&[]).fails(2).says(needle).says(help);
    }
    lab.containerfile("");
    lab.build(&[]).fails(2);
}

#[test]
fn what_is_not_there_yet_is_refused_and_never_ignored() {
    let lab = Lab::with_busybox();
    lab.file("a", "");
    for text in [
        "FROM busybox\nRUN --network=none true\n",
        "FROM busybox\nRUN --network=host true\n",
        "FROM busybox\nRUN --security=insecure true\n",
        "FROM busybox\nRUN --device=vendor.com/x=y true\n",
        "FROM busybox\nRUN --mount=type=ssh true\n",
        "FROM docker-archive:x.tar\n",
    ] {
        lab.containerfile(text);
        lab.build(&[]).fails(2).says("not there yet");
    }
    // What is wrong with them is told before that they are not there.
    for (text, hint) in [
        ("FROM busybox\nRUN --network=nono true\n", "none"),
        ("FROM busybox\nRUN --security=insecur true\n", "insecure"),
        ("FROM busybox\nRUN --mount=type=ssh,sharing=locked true\n", "sharing"),
        ("FROM busybox\nADD --checksum=sha256:0 a /\n", "URL"),
        ("FROM busybox\nADD --keep-git-dir a /\n", "Git"),
        ("FROM busybox\nCOPY --chmod=u+y a /\n", "octal"),
        ("FROM --platform=linux/s309x busybox\n", "linux/amd64"),
    ] {
        lab.containerfile(text);
        lab.build(&[]).fails(2).says(hint);
    }
    lab.containerfile("FROM busybox\n");
    for (argument, hint) in [
        ("--platform=linux/arm46", "linux/amd64"),
        ("--secret=id=x,src=nowhere", "nowhere"),
        ("--secret=src=x", "id"),
        ("--build-context=x", "NAME"),
        ("--ssh=default", "SSH"),
        ("--cache-from=x", "the cache is in the store"),
        ("--output=type=docker,dest=x", "skopeo"),
        ("--isolation=chroot", "namespaces"),
        ("--compression=lzma", "gzip"),
        ("--source-date-epoch=yesterday", "yesterday"),
        ("--tag=UPPER", "lower case"),
        ("--push", "--tag"),
    ] {
        lab.build(&[argument]).fails(2).says(hint);
    }
    lab.cooper(&["build", "nowhere"]).fails(1).says("nowhere");
}

#[test]
fn a_store_that_is_none_is_left_alone() {
    let lab = Lab::new();
    lab.containerfile("FROM scratch\n");
    lab.file("thesis.tex", "precious");
    lab.cooper(&["--root", "ctx", "build", "ctx"])
        .fails(1)
        .says("is not empty and is not a cooper store")
        .says("--root");
    lab.cooper(&["build", "ctx"]).succeeds();
    std::fs::write(lab.dir.join("store/version"), "99\n").unwrap();
    lab.cooper(&["build", "ctx"]).fails(1).says("has format \"99\"");
}

#[test]
fn an_output_that_cannot_be_written_is_told_before_anything_is_built() {
    let lab = Lab::with_busybox();
    lab.containerfile("FROM busybox\nRUN echo built\n");
    lab.file("taken/file", "").file("plain", "");
    let (taken, plain) = (lab.path("ctx/taken"), lab.path("ctx/plain"));
    for (output, told) in [
        (
            taken.clone(),
            format!("{taken} is not empty and not an OCI image layout, so nothing is written there"),
        ),
        (format!("{plain}/deep/er"), format!("cannot write to {plain}: not a directory")),
        ("/proc/none".to_owned(), "cannot write to /proc:".to_owned()),
    ] {
        let said = lab.build(&["-o", &format!("oci:{output}:x")]);
        said.fails(1);
        // Without the line breaks that suit the terminal.
        let error = said.error().split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(error.starts_with(&format!("error: {told}")), "{error}");
        assert!(error.contains("hint: "), "{error}");
        assert!(!said.stderr.contains("echo built"), "{}", said.stderr);
    }
    // Relative ones too, and some of the way may be missing.
    lab.build(&["-o", "oci:new/below/it:x"]).succeeds();
    lab.build(&["-o", "oci:plain-name"]).succeeds();
}
