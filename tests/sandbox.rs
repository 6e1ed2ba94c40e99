//! What a RUN step sees of this machine, and what is left when it ends.

mod support;

use std::process::Stdio;

use support::{Lab, eventually, given, processes, run, wait_for};

#[test]
fn a_step_is_root_in_namespaces_of_its_own() {
    let lab = Lab::with_busybox();
    let said = lab.build_out(
        "FROM busybox
         RUN echo pid $$ && id -u && hostname && readlink /proc/self/ns/user >/dev/null && cat /proc/net/unix >/dev/null
         RUN ls /proc | grep -c '^[0-9]*$' && echo umask $(umask) && pwd && cat /proc/self/loginuid >/dev/null; true",
    );
    said.prints("pid 1").prints("0").prints("cooper").prints("umask 0022").prints("/");
    let count: usize = said.output().iter().filter_map(|l| l.parse().ok()).max().unwrap();
    assert!(count <= 4, "only the step's own processes are in /proc: {count}");
}

#[test]
fn nothing_of_the_builder_is_visible() {
    let lab = Lab::with_busybox();
    lab.containerfile(
        "FROM busybox
         RUN cat /proc/self/mountinfo /proc/1/environ /proc/1/cmdline; ls -l /proc/self/fd; env; id -G",
    );
    let mut command = lab.cooper_command(&["--progress=plain", "build", "ctx"]);
    command.env("BUILDERS_TOKEN", "hunter2");
    let said = run(&mut command);
    said.succeeds().prints("0");
    let text = said.output().join("\n");
    let store = lab.path("store");
    for secret in ["hunter2", store.as_str(), "BUILDERS_TOKEN", "COOPER_ROOT", "socket:"] {
        assert!(!text.contains(secret), "{secret} in\n{text}");
    }
    // The standard streams; the directory that ls itself reads is closed again when it is looked at.
    assert_eq!(text.lines().filter(|l| l.contains(" -> ")).count(), 3, "{text}");
}

#[test]
fn capabilities_are_dockers_fourteen_and_none_is_inheritable() {
    let lab = Lab::with_busybox();
    let said = lab.build_out(
        "FROM busybox
         RUN grep -E '^(Cap|NoNew)' /proc/self/status
         USER app
         RUN grep CapEff /proc/self/status | sed 's/^/app /' && id",
    );
    for line in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t00000000a80425fb",
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t0",
        "app CapEff:\t0000000000000000",
        "uid=1000(app) gid=1000(app) groups=50(staff),1000(app)",
    ] {
        said.prints(line);
    }
}

#[test]
fn devices_and_special_mounts_work() {
    let lab = Lab::with_busybox();
    let said = lab.build_out(
        "FROM busybox
         RUN echo x > /dev/null && head -c 4 /dev/zero | wc -c && head -c 4 /dev/urandom | wc -c \
          && echo err > /dev/stderr && test -c /dev/tty && touch /dev/shm/x && ls /dev/pts/ptmx \
          && ! touch /sys/x 2>/dev/null && ! (echo 1 > /etc/hosts) 2>/dev/null && grep -c localhost /etc/hosts \
          && test -e /etc/resolv.conf && test -d /dev/mqueue && ! mount -t tmpfs none /tmp 2>/dev/null && echo fine",
    );
    said.prints("fine").prints("err").prints("/dev/pts/ptmx");
}

#[test]
fn mount_points_leave_no_trace() {
    let lab = Lab::with_busybox();
    lab.build_out("FROM busybox\nRUN rm -rf /etc/hosts /sys /dev 2>/dev/null; cat /etc/hosts > /dev/null");
    assert_eq!(lab.top_names("out"), Vec::<String>::new());
    // From nothing at all: the static program alone. The first step leaves /proc and /sys, the next nothing.
    let from_nothing =
        "FROM busybox AS b\nFROM scratch\nCOPY --from=b /bin/busybox /touch\nRUN [\"/touch\", \"/made\"]";
    lab.build_out(from_nothing);
    assert_eq!(lab.top_names("out"), ["made", "proc/", "sys/"]);
    assert!(
        lab.top_layer("out").iter().filter(|l| l.ends_with('/')).all(|l| l.starts_with("drwxr-xr-x 0/0"))
    );
    lab.build_out(&format!("{from_nothing}\nRUN [\"/touch\", \"/more\"]"));
    assert_eq!(lab.top_names("out"), ["more"]);
    // Where the image has a dangling link in the place of a file, the link stays what it was.
    std::fs::create_dir(lab.dir.join("ctx/links")).unwrap();
    std::os::unix::fs::symlink("../run/x/resolv.conf", lab.dir.join("ctx/links/resolv.conf")).unwrap();
    lab.build_out("FROM busybox\nCOPY links /etc\nRUN cat /etc/resolv.conf && echo x > /etc/x");
    assert_eq!(lab.top_names("out"), ["etc/", "etc/x"]);
}

#[test]
fn images_that_redirect_mounts_are_refused() {
    let lab = Lab::with_busybox();
    for dir in ["proc", "sys", "dev"] {
        lab.containerfile(&format!("FROM busybox\nCOPY d /{dir}/\nRUN true"));
        lab.file("d/f", "");
        lab.containerfile(&format!(
            "FROM busybox AS b\nRUN mkdir /x && ln -s /tmp /x/{dir}\nFROM scratch\n\
             COPY --from=b /bin/busybox /bin/sh\nCOPY --from=b /x/ /\nRUN echo hi > /{dir}/there"
        ));
        let said = lab.build(&[]);
        said.fails(1).says(&format!("/{dir} of the image is not a directory"));
    }
    lab.containerfile("FROM busybox\nWORKDIR /proc/self/fd/3\nRUN ls");
    assert!(!lab.build(&[]).status.success());
}

#[test]
fn no_descriptor_of_the_builder_can_be_walked_through() {
    let lab = Lab::with_busybox();
    lab.file("f", "");
    for n in 3..16 {
        lab.containerfile(&format!(
            "FROM busybox\nCOPY f /f\nWORKDIR /proc/self/fd/{n}\nRUN ls -d ../ctx; ls /f\n"
        ));
        let said = lab.build(&[]);
        said.fails(1).says("the working directory");
        lab.containerfile(&format!("FROM busybox\nCOPY f /f\nRUN [\"/proc/self/fd/{n}/f\"]\n"));
        lab.build(&[]).fails(1).says("cannot execute");
    }
}

#[test]
fn environment_and_user_are_the_steps_own() {
    let lab = Lab::with_busybox();
    lab.containerfile(
        "FROM busybox
         ARG A=arg
         ARG EMPTY=
         ARG UNSET
         ENV E=env A2=$A
         USER app
         WORKDIR /work
         RUN env | sort && pwd && touch mine
         USER 4711:4712
         RUN env | grep ^HOME && id && stat -c '%u:%g %a' /work",
    );
    let said = lab.build(&["--build-arg", "http_proxy=http://127.0.0.1:1"]);
    said.succeeds();
    let env: Vec<_> = said.output().into_iter().take_while(|l| *l != "/work").collect();
    assert_eq!(
        env,
        [
            "A2=arg",
            "A=arg",
            "E=env",
            "EMPTY=",
            "HOME=/home/app",
            "HTTP_PROXY=http://127.0.0.1:1",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PWD=/work",
            "SHLVL=1",
            "http_proxy=http://127.0.0.1:1",
        ]
    );
    said.prints("HOME=/").prints("uid=4711 gid=4712 groups=4712").prints("1000:1000 755");
}

#[test]
fn exit_codes_and_signals_are_reported() {
    let lab = Lab::with_busybox();
    lab.containerfile("FROM busybox\nRUN echo before && echo oops >&2 && exit 7\n");
    let said = lab.build(&[]);
    said.fails(1).says("RUN failed: the command returned 7").says("Containerfile:2:1").says("oops");
    assert!(said.error().contains("RUN echo before && echo oops >&2 && exit 7"), "{}", said.error());
    lab.containerfile("FROM busybox\nRUN sh -c 'kill -9 $$'; exit $?\n");
    lab.build(&[]).fails(1).says("the command returned 137 (killed");
    lab.containerfile("FROM busybox\nRUN [\"/bin/nothing\"]\n");
    lab.build(&[]).fails(1).says("cannot execute `/bin/nothing` in the image: no such file");
    lab.containerfile("FROM busybox\nUSER nobody-there\nRUN true\n");
    lab.build(&[]).fails(1).says("the image's /etc/passwd has no user `nobody-there`");
}

#[test]
fn background_processes_end_with_the_step() {
    let lab = Lab::with_busybox();
    let began = std::time::Instant::now();
    lab.build_out("FROM busybox\nRUN sleep 86411 & setsid sleep 86411 & echo started");
    assert!(began.elapsed().as_secs() < 60);
    assert_eq!(processes("sleep 86411"), [0i32; 0]);
}

#[test]
fn kill_9_of_the_builder_ends_everything_and_the_next_build_sweeps() {
    let lab = Lab::with_busybox();
    lab.containerfile(
        "FROM busybox\nRUN trap '' TERM INT; echo go-$((1+1)); (sleep 86412; true) & sleep 86412; true\n",
    );
    let mut command = lab.cooper_command(&["--progress=plain", "build", "ctx"]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    wait_for(&mut child, "go-2");
    eventually("the step runs", || processes("sleep 86412").len() >= 2);
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the step's processes end", || processes("sleep 86412").is_empty());
    let work = lab.dir.join("store/work");
    let left = || std::fs::read_dir(&work).unwrap().flatten().filter(|e| e.file_name() != ".lock").count();
    assert_eq!(left(), 1, "what the dead one was making");
    lab.build_out("FROM busybox\nRUN true\n");
    assert_eq!(left(), 0);
}

#[test]
fn signals_reach_the_step_and_stop_the_build() {
    let lab = Lab::with_busybox();
    lab.containerfile(
        "FROM busybox\nRUN trap 'echo got it; exit 0' TERM; echo go-$((1+1)); while true; do sleep 0.1; done\nRUN echo never\n",
    );
    let mut command = lab.cooper_command(&["--progress=plain", "build", "ctx"]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    wait_for(&mut child, "go-2");
    run(std::process::Command::new("kill").args(["-TERM", &child.id().to_string()])).succeeds();
    wait_for(&mut child, "got it");
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    // One that does not listen is killed.
    lab.containerfile("FROM busybox\nRUN trap '' INT; echo go-$((1+1)); sleep 86413; sleep 86413\n");
    let mut command = lab.cooper_command(&["--progress=plain", "build", "ctx"]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    wait_for(&mut child, "go-2");
    run(std::process::Command::new("kill").args(["-INT", &child.id().to_string()])).succeeds();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 2));
    assert_eq!(processes("sleep 86413"), [0i32; 0]);
}

#[test]
fn a_step_that_destroys_all_it_can_reach_leaves_the_store_intact() {
    let lab = Lab::with_busybox();
    lab.containerfile("FROM busybox\nRUN [\"/bin/busybox\", \"rm\", \"-rf\", \"/\"]\n");
    let said = lab.build(&[]);
    assert!(!said.stderr.contains("panicked"), "{}", said.stderr);
    lab.build_out("FROM busybox\nRUN ls /bin/busybox && test -e /etc/passwd && echo intact").prints("intact");
    let inspect = lab
        .command("skopeo")
        .args(["inspect", &format!("oci:{}:docker.io/library/busybox:latest", lab.path("store"))])
        .output()
        .unwrap();
    assert!(inspect.status.success(), "{}", String::from_utf8_lossy(&inspect.stderr));
}

#[test]
fn the_network_and_its_names_are_the_machines() {
    let lab = Lab::with_busybox();
    let registry = given("COOPER_TEST_REGISTRY");
    std::fs::copy("/etc/resolv.conf", lab.dir.join("ctx/expected")).unwrap();
    lab.containerfile("FROM busybox\nARG R\nCOPY expected /\nRUN wget -q -O /dev/null http://$R/v2/ && cmp /etc/resolv.conf /expected && echo same\n");
    lab.build(&["--build-arg", &format!("R={registry}")]).succeeds().prints("same");
}

/// The kernel says that nobody is left to ask from the exit of a step's last process until its namespaces are
/// down. To ask again and again for as long would take a processor.
#[test]
fn nobody_is_asked_for_the_calls_of_a_step_that_has_ended() {
    let lab = Lab::with_busybox();
    lab.containerfile("FROM busybox\nRUN chown 1:1 /bin\nRUN true\nRUN chown 2:2 /bin\n");
    let cooper = given("COOPER_TEST_BIN");
    let trace = lab.path("trace");
    let options = ["-f", "-e", "trace=ioctl", "-e", "signal=none", "-o", &trace];
    let build = ["--progress=quiet", "build", "--no-cache", "ctx"];
    run(lab.command("strace").args(options).arg(&cooper).args(build)).succeeds();
    let trace = std::fs::read_to_string(&trace).unwrap();
    let asked: Vec<&str> = trace.lines().filter(|l| l.contains("SECCOMP_IOCTL_NOTIF_RECV")).collect();
    assert!(asked.len() >= 2, "{trace}");
    let in_vain: Vec<_> = asked.iter().filter(|l| l.contains("ENOENT")).collect();
    assert!(in_vain.is_empty(), "{in_vain:#?}");
}

fn children(pid: i32) -> Vec<i32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// The process that would take the next step is killed: another one is made. More than a socket holds has to
/// reach it.
#[test]
fn a_step_does_not_depend_on_the_process_that_was_ready_for_it() {
    let lab = Lab::with_busybox();
    let text = "x".repeat(400_000);
    lab.containerfile(&format!(
        "FROM busybox\nRUN echo ready-$((40+2)); sleep 1\nRUN <<END\n#!/bin/sh\n# {text}\necho after-$((40+3))\nEND\n"
    ));
    let mut command = lab.cooper_command(&["--progress=plain", "build", "ctx"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&mut child, "ready-42");
    let launchers = children(child.id() as i32);
    let all: Vec<i32> = launchers.iter().flat_map(|launcher| children(*launcher)).collect();
    let ready: Vec<i32> = all.into_iter().filter(|supervisor| children(*supervisor).is_empty()).collect();
    assert_eq!(ready.len(), 1, "{ready:?}");
    run(std::process::Command::new("kill").args(["-9", &ready[0].to_string()])).succeeds();
    let said = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr);
    assert!(said.contains("after-43") && said.contains("built image"), "{said}");
}

#[test]
fn programs_are_told_of_a_signal_in_their_way() {
    let lab = Lab::with_busybox();
    lab.containerfile("FROM busybox\nRUN echo ready-$((40+2)); sleep 1000\n");
    let mut command = lab.cooper_command(&["--progress=json", "build", "ctx"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&mut child, "ready-42");
    run(std::process::Command::new("kill").args(["-TERM", &child.id().to_string()])).succeeds();
    let said = child.wait_with_output().unwrap();
    assert_eq!(said.status.code(), Some(143));
    let last: serde_json::Value =
        serde_json::from_str(String::from_utf8_lossy(&said.stderr).lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["exit_code"]), (&"error".into(), &143.into()), "{last}");
    assert_eq!(last["message"], "interrupted");
}
