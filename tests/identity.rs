//! With a range of ids, with one id, and with no user namespace at all.

mod support;

use support::{Lab, given, run};

#[test]
fn without_newuidmap_there_is_one_id_and_it_is_said_why() {
    let lab = Lab::with_busybox().single_id();
    lab.containerfile("FROM busybox\nRUN cat /proc/self/uid_map && echo x > /f && chmod 4755 /f\n");
    let said = lab.build(&["--log-level=info", "-o", "oci:out:latest"]);
    said.succeeds().says("only one user id can be used").says("newuidmap");
    assert_eq!(lab.top_names("out"), ["f"]);
    let map: Vec<&str> = said.output()[0].split_whitespace().collect();
    assert_eq!((map[0], map[2]), ("0", "1"));
}

#[test]
fn owners_that_cannot_be_made_are_recorded() {
    let file = "FROM busybox AS build
COPY --chown=12:34 f /d/
FROM busybox
COPY --chown=app f /own/f
COPY --from=build /d /d/
RUN echo more >> /own/f && touch -d @1000000000 /own/f && ls -n /own
COPY --chown=7 f /own/g
";
    let owners = |lab: Lab| {
        lab.file("f", "x").containerfile(file);
        // The time is in the layer, and the labs are not made in the same second.
        let copied = std::fs::File::open(lab.path("ctx/f")).unwrap();
        copied.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_500_000_000)).unwrap();
        lab.build(&["-o", "oci:out:latest"]).succeeds();
        let (_, config) = lab.image("out");
        config["rootfs"]["diff_ids"].clone()
    };
    assert_eq!(owners(Lab::with_busybox()), owners(Lab::with_busybox().single_id()));
}

#[test]
fn with_one_id_a_step_can_be_any_user() {
    let file = "FROM busybox
RUN mkdir -m 2775 /own && chown app:staff /own && mknod /own/null c 1 3
USER app
RUN id -u && id -G && touch /own/f && stat -c '%U:%G %a' /own /own/f && test -c /own/null
USER 3000000:3000001
RUN id -u && mkdir /tmp/d && stat -c '%u:%g' /tmp/d
";
    let layers = |lab: Lab| {
        let said = lab.build_out(file);
        said.prints("1000").prints("1000 50").prints("app:staff 2775").prints("app:staff 644");
        said.prints("3000000:3000001");
        lab.image("out").1["rootfs"]["diff_ids"].clone()
    };
    layers(Lab::with_busybox().single_id());
}

#[test]
fn without_user_namespaces_the_switch_is_named() {
    let lab = Lab::with_busybox();
    lab.containerfile("FROM busybox\nRUN true\n");
    // Its limit is the first thing that a user namespace's root may set for what is below it.
    let script = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces && {} build -o oci:out:v ctx",
        given("COOPER_TEST_BIN")
    );
    let mut command = lab.command("unshare");
    let said = run(command.args(["-Ur", "sh", "-c", &script]));
    said.fails(3).says("does not allow user namespaces").says("sysctl -w user.max_user_namespaces=15000");
    assert!(!lab.dir.join("out").exists());
    // What needs no step needs no namespace.
    lab.containerfile("FROM busybox\nENV A=1\n");
    let mut command = lab.command("unshare");
    run(command.args(["-Ur", "sh", "-c", &script])).succeeds();
}

#[test]
fn as_root_the_same_layers() {
    let file = "FROM busybox\nRUN echo x > /f && chown 12:34 /f && chmod 6755 /f\nCOPY --chown=1000 f /g\n";
    let build = |as_root: bool| {
        let lab = Lab::new();
        lab.cooper(&["import", &given("COOPER_TEST_BUSYBOX"), "busybox"]).succeeds();
        lab.file("f", "x").containerfile(file);
        run(std::process::Command::new("touch").args(["-d", "@1600000000"]).arg(lab.dir.join("ctx/f")))
            .succeeds();
        let said = if as_root {
            assert!(support::is_root(), "run scripts/test as root");
            let mut command = std::process::Command::new(given("COOPER_TEST_BIN"));
            command.current_dir(&lab.dir).env("COOPER_ROOT", lab.dir.join("root-store"));
            run(command.args(["import", &given("COOPER_TEST_BUSYBOX"), "busybox"])).succeeds();
            let mut command = std::process::Command::new(given("COOPER_TEST_BIN"));
            command.current_dir(&lab.dir).env("COOPER_ROOT", lab.dir.join("root-store"));
            run(command.args(["build", "-o", "oci:out:latest", "ctx"]))
        } else {
            lab.build(&["-o", "oci:out:latest"])
        };
        said.succeeds();
        lab.layers("out")
    };
    assert_eq!(build(true), build(false));
}
