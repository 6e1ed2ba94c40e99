//! Stages side by side: what runs at the same time, what runs once, and what a failure ends.

mod support;

use std::time::{Duration, Instant};

use support::{Lab, eventually, processes, wait_for};

/// Two stages that each wait until the other has begun, for two seconds at most.
const RENDEZVOUS: &str = r"FROM busybox AS base
FROM base AS a
RUN --mount=type=cache,id=meeting,target=/m touch /m/a; n=0; \
    while [ ! -e /m/b ]; do n=$((n+1)); [ $n -lt 100 ] || exit 7; sleep 0.02; done; echo a > /met
FROM base AS b
RUN --mount=type=cache,id=meeting,target=/m touch /m/b; n=0; \
    while [ ! -e /m/a ]; do n=$((n+1)); [ $n -lt 100 ] || exit 7; sleep 0.02; done; echo b > /met
FROM scratch
COPY --from=a /met /a
COPY --from=b /met /b
";

#[test]
fn stages_that_do_not_need_one_another_run_at_the_same_time() {
    for storage in ["overlay", "fuse", "copy"] {
        let lab = Lab::with_busybox().storage(storage);
        lab.containerfile(RENDEZVOUS);
        lab.build(&["--jobs", "1"]).fails(1).says("the command returned 7");
        lab.build(&["--jobs", "2", "-o", "oci:out"]).succeeds();
        assert_eq!(lab.top_names("out"), ["b"], "{storage}");
        lab.build(&["--jobs=0", "--no-cache"]).succeeds();
    }
}

#[test]
fn a_step_that_several_stages_have_runs_once() {
    let lab = Lab::with_busybox();
    let count = "--mount=type=cache,id=count,target=/c echo x >> /c/runs && sleep 0.3";
    let said = lab.build_out(&format!(
        "FROM busybox AS a\nRUN {count}\nRUN echo a > /own\nFROM busybox AS b\nRUN {count}\nRUN echo b > /own\n\
         FROM busybox\nCOPY --from=a /own /a\nCOPY --from=b /own /b\n\
         RUN --mount=type=cache,id=count,target=/c echo runs: $(wc -l < /c/runs)\n"
    ));
    said.prints("runs: 1");
}

#[test]
fn a_stage_that_fails_ends_the_others_at_once() {
    let lab = Lab::with_busybox();
    lab.containerfile(
        "FROM busybox AS slow\nRUN sleep 61.7\nFROM busybox AS wrong\nRUN sleep 0.5; echo no such thing; exit 3\n\
         FROM busybox AS waits\nCOPY --from=slow /x /x\n\
         FROM scratch\nCOPY --from=slow /x /\nCOPY --from=wrong /x /\nCOPY --from=waits /x /\n",
    );
    let began = Instant::now();
    let said = lab.build(&["--jobs", "4"]);
    said.fails(1).says("the command returned 3").says("no such thing");
    assert!(!said.error().contains("SIGKILL"), "{}", said.error());
    assert!(began.elapsed() < Duration::from_secs(20));
    eventually("the other stage's step is gone", || processes("sleep 61.7").is_empty());
}

#[test]
fn a_signal_reaches_the_steps_of_all_stages() {
    let lab = Lab::with_busybox();
    lab.containerfile(
        "FROM busybox AS a\nRUN echo ready-a; sleep 62.1\nFROM busybox AS b\nRUN echo ready-b; sleep 62.1\n\
         FROM scratch\nCOPY --from=a /x /\nCOPY --from=b /x /\n",
    );
    let mut command = lab.cooper_command(&["--progress", "plain", "build", "--jobs", "2", "ctx"]);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait_for(&mut child, "ready-");
    eventually("both are running", || processes("sleep 62.1").len() >= 2);
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(!child.wait().unwrap().success());
    eventually("no step is left", || processes("sleep 62.1").is_empty());
}

#[test]
fn a_stage_rebuilt_with_equal_files_runs_nothing_again() {
    let lab = Lab::with_busybox();
    let build = |how: &str, cached: &[bool]| {
        lab.containerfile(&format!(
            "FROM busybox AS made\nRUN mkdir /d && {how}\nFROM busybox\nCOPY --from=made /d /d\nRUN echo copied\n\
             RUN --mount=type=bind,from=made,source=/d,target=/m echo mounted\n"
        ));
        let said = lab.build(&[]);
        said.succeeds();
        let of = |text: &str| {
            let shown = &said.stderr;
            let line =
                shown.lines().position(|l| l.contains(text)).unwrap_or_else(|| panic!("{text}: {shown}"));
            shown.lines().nth(line + 1).is_some_and(|l| l.contains("CACHED"))
        };
        let found = [of("COPY --from=made"), of("RUN echo copied"), of("target=/m echo mounted")];
        assert_eq!(found, cached, "{how}: {}", said.stderr);
    };
    build("echo 1 > /d/f", &[false, false, false]);
    // Other times, and another command; what is not copied differs as well.
    build("sleep 1.1 && echo 1 > /d/f && touch /elsewhere", &[true, true, true]);
    // A COPY gives files to root: only the mount shows whose they were.
    build("echo 1 > /d/f && chown 5 /d/f", &[true, true, false]);
    build("echo 1 > /d/f && chmod 755 /d/f", &[false, false, false]);
    build("echo 1 > /d/f && ln -s f /d/g", &[false, false, false]);
}

/// Writes a file of the context with the same times each time.
fn write_with_old_times(lab: &Lab, text: &str) {
    let path = lab.path("ctx/x");
    std::fs::write(&path, text).unwrap();
    let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
}

/// Builds, and changes the context when a step says `now`.
fn build_and_change(lab: &Lab, text: &str) -> String {
    let mut command = lab.cooper_command(&["--progress", "plain", "build", "--jobs", "1", "ctx"]);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait_for(&mut child, "now");
    write_with_old_times(lab, text);
    let rest = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&rest.stderr).into_owned()
}

#[test]
fn what_changes_while_it_is_used_is_not_remembered_as_what_it_was() {
    let lab = Lab::with_busybox();
    lab.file("ctx/x", "");
    write_with_old_times(&lab, "one");
    lab.containerfile(
        "FROM busybox\nRUN --mount=type=bind,target=/m echo now; sleep 1; echo saw $(cat /m/x)\n",
    );
    let said = build_and_change(&lab, "two");
    assert!(said.contains("saw two") && said.contains("not kept in the cache"), "{said}");
    write_with_old_times(&lab, "one");
    lab.build(&[]).prints("saw one");

    // A stage that waits for its turn takes what is there then. Which of the two waits is chance: it is tried
    // until it is the second, which otherwise copies before the first says anything.
    let waited = (0..20).any(|attempt| {
        let (before, after) = (format!("one-{attempt}"), format!("two-{attempt}"));
        write_with_old_times(&lab, &before);
        lab.containerfile(&format!(
            "FROM busybox AS first\nRUN echo now; sleep 1; echo {attempt} > /done\n\
             FROM busybox AS second\nCOPY x /x\nRUN echo copied $(cat /x)\n\
             FROM busybox\nCOPY --from=first /done /\nCOPY --from=second /x /\n",
        ));
        let said = build_and_change(&lab, &after);
        if !said.contains("] COPY x /x") {
            return false;
        }
        assert!(said.contains(&format!("copied {after}")), "{said}");
        write_with_old_times(&lab, &before);
        lab.build(&[]).prints(&format!("copied {before}"));
        true
    });
    assert!(waited);
}

#[test]
fn what_is_written_ahead_of_a_copy_is_what_the_copy_takes() {
    let lab = Lab::with_busybox();
    lab.file("kept/deep/er", "kept");
    lab.file("changed/f", "one");
    lab.file("top", "top");
    lab.containerfile(
        "FROM busybox\nRUN echo now; sleep 1; mkdir -p /app/there\nCOPY . /app\n\
         RUN cat /app/kept/deep/er /app/top /app/changed/f /app/there/f\n",
    );
    lab.file("there/f", "there");
    // Of what is this new nobody can tell whether it changes once more.
    std::thread::sleep(Duration::from_millis(100));
    let args = ["--progress=plain", "--log-level=debug", "build", "--jobs=2", "-o", "oci:ahead:x", "ctx"];
    let mut child = lab.cooper_command(&args).stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait_for(&mut child, "now");
    std::thread::sleep(Duration::from_millis(500));
    lab.file("changed/f", "two");
    let said = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr);
    assert!(said.contains("app: 3 directories were written ahead, 2 are of no use"), "{said}");
    assert!(said.contains("kepttoptwothere"), "{said}");
    // With one job nothing is.
    let alone = lab.build(&["--jobs=1", "--no-cache", "-o", "oci:alone:x"]);
    alone.succeeds().prints("kepttoptwothere");
    let layers = |layout: &str| lab.image(layout).1["rootfs"]["diff_ids"].clone();
    assert_eq!(layers("ahead"), layers("alone"));
}
