//! What a hostile Containerfile, image, context or server, and a neighbour on this machine, get to do.
//! Each test names the class of published vulnerability that it is about, where there is one.

mod support;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Lab, eventually, given, is_root, processes, run};

/// Every storage backend, with both ways in which ids are mapped.
fn labs() -> Vec<Lab> {
    let with =
        |storage| [Lab::with_busybox().storage(storage), Lab::with_busybox().single_id().storage(storage)];
    ["overlay", "fuse", "copy"].into_iter().flat_map(with).collect()
}

/// A tar archive with an empty file of this name, which is as long as it likes, and one `a`.
fn archive_of(name: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    // What begins with something odd is taken for no archive.
    for name in ["a", name] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(0);
        tar.append_data(&mut header, name, std::io::empty()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Says how long something took.
fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    (what(), start.elapsed())
}

/// CVE-2021-41091: what is root in an image is the user outside.
#[test]
fn no_neighbour_reaches_a_set_user_id_program_of_an_image() {
    for lab in labs() {
        lab.build_out(
            "FROM busybox
             RUN cp /bin/busybox /trap && chmod 6755 /trap
             RUN --mount=type=cache,target=/c cp /trap /c/trap && chmod 6755 /c/trap",
        );
        let found = run(Command::new("find").arg(lab.dir.join("store")).args(["-name", "trap"]));
        let traps: Vec<&str> = found.stdout.lines().collect();
        if is_root() {
            assert_eq!(traps.len(), 2, "{traps:?}");
            for trap in traps {
                let mode = Path::new(trap).metadata().unwrap().permissions().mode();
                assert_eq!(mode & 0o6000, 0o6000, "the image itself keeps its bits");
                let script = format!("test -e {trap} && echo reached; {trap} true && echo ran");
                let mut neighbour = Command::new("setpriv");
                neighbour.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", &script]);
                assert_eq!(run(&mut neighbour).stdout, "", "{trap}");
            }
        }
        for dir in ["layers", "cache", "work"] {
            let mode = lab.dir.join("store").join(dir).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{dir}");
        }
    }
}

#[test]
fn trees_of_any_depth_neither_end_the_program_nor_make_the_store_unusable() {
    for lab in labs() {
        let mut deep = "d/".repeat(150_000);
        deep.push('f');
        lab.file("deep.tar", archive_of(&deep));
        lab.containerfile("FROM busybox\nADD deep.tar /x/\n");
        lab.build(&[]).fails(1).says("more than 1000 directories deep");
        // Deeper than can be walked, and not yet too long for a shell.
        lab.containerfile(
            "FROM busybox\nRUN mkdir /deep && cd /deep && i=0; while [ $i -lt 1100 ]; do mkdir d && cd d || exit 3; i=$((i+1)); done",
        );
        lab.build(&[]).fails(1).says("more than 1000 deep");
        // Nothing of them is left, and honest depths are none of it.
        lab.file("honest.tar", archive_of(&("d/".repeat(400) + "f")));
        lab.build_out("FROM busybox\nADD honest.tar /x/\nRUN find /x | wc -l").prints("403");
        let left: Vec<_> = std::fs::read_dir(lab.dir.join("store/work")).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}

#[test]
fn nobody_waits_for_a_pipe_in_a_context() {
    let lab = Lab::with_busybox();
    let pipe = |name: &str| {
        std::fs::create_dir_all(lab.dir.join("ctx").join(name).parent().unwrap()).unwrap();
        run(Command::new("mkfifo").arg(lab.dir.join("ctx").join(name))).succeeds();
    };
    let quick = |arguments: &[&str]| {
        lab.hand_over();
        run(lab.command("timeout").args(["20", &given("COOPER_TEST_BIN")]).args(arguments))
    };
    std::fs::remove_file(lab.dir.join("ctx/Containerfile")).unwrap();
    pipe("Containerfile");
    quick(&["build", "ctx"]).fails(1).says("Containerfile is not a regular file");
    quick(&["build", "--check", "ctx"]).fails(1);
    quick(&["lint", "ctx"]).fails(2).says("Containerfile is not a regular file");
    std::fs::remove_file(lab.dir.join("ctx/Containerfile")).unwrap();
    lab.file("Containerfile", "FROM busybox\nCOPY . /x/\nRUN test -p /x/a && echo a pipe\n");
    pipe("a");
    quick(&["--progress=plain", "build", "ctx"]).succeeds().prints("a pipe");
    pipe(".dockerignore");
    quick(&["build", "ctx"]).fails(1).says("not a regular file");
    // The one beside a Containerfile that lies elsewhere.
    std::fs::remove_file(lab.dir.join("ctx/.dockerignore")).unwrap();
    std::fs::create_dir(lab.dir.join("other")).unwrap();
    std::fs::write(lab.dir.join("other/c"), "FROM busybox\n").unwrap();
    run(Command::new("mkfifo").arg(lab.dir.join("other/c.dockerignore"))).succeeds();
    run(Command::new("chmod").args(["-R", "a+rwX"]).arg(lab.dir.join("other"))).succeeds();
    quick(&["build", "-f", "other/c", "ctx"]).fails(1).says("not a regular file");
    // A pipe that the user names is read: that is how a shell hands over a program's output.
    let mut child = lab.cooper_command(&["build", "--check", "-f", "/dev/stdin", "ctx"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"FROM busybox:1\nUSER 1\n").unwrap();
    assert!(child.wait().unwrap().code().is_some());
}

/// A server that takes connections and never says a word: one for Git, one for files.
#[test]
fn one_signal_ends_a_build_whose_server_never_answers() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    std::thread::spawn(move || {
        let held: Vec<_> = server.incoming().collect();
        drop(held);
    });
    let lab = Lab::with_busybox();
    for (source, before) in [("git", ""), ("git", "RUN true\n"), ("http", ""), ("http", "RUN true\n")] {
        for signal in ["TERM", "INT", "KILL"] {
            let name = format!("{address}/{}-{signal}", lab.dir.file_name().unwrap().to_str().unwrap());
            let end = if source == "git" { ".git" } else { "" };
            lab.containerfile(&format!("FROM busybox\n{before}ADD {source}://{name}{end} /x/\n"));
            let mut command = lab.cooper_command(&["--progress=plain", "build", "--no-cache", "ctx"]);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            if source == "git" {
                eventually("git asks the server", || !processes(&format!("git://{name}")).is_empty());
            } else {
                std::thread::sleep(Duration::from_millis(700));
            }
            let (_, took) = timed(|| {
                run(Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()])).succeeds();
                child.wait().unwrap()
            });
            assert!(took < Duration::from_secs(8), "{source} {before:?} {signal}: {took:?}");
            eventually(&format!("nothing goes on after {source} {before:?} {signal}"), || {
                processes(&name).is_empty()
            });
        }
    }
    lab.build_out("FROM busybox\nRUN echo usable").prints("usable");
}
