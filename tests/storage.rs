//! The storage backends: which one is taken, what is said where one cannot be, and that the layers are the same.

mod support;

use std::path::Path;
use std::process::Stdio;

use support::{Lab, eventually, run, wait_for};

#[test]
fn the_best_backend_is_found_and_said() {
    let lab = Lab::with_busybox();
    lab.containerfile("FROM busybox\nRUN true\n");
    lab.build(&["--log-level=info"]).succeeds().says("storage: overlay, the best that works here");
    // Said to those who ask, and to nobody else.
    let quiet = lab.build(&["--no-cache"]);
    assert!(!quiet.succeeds().stderr.contains("storage:"), "{}", quiet.stderr);
    for backend in ["overlay", "fuse"] {
        let option = format!("--storage={backend}");
        lab.containerfile("FROM busybox\nRUN --mount=type=bind,target=/ctx,rw echo on $(sed -n 's,^.* / .* - \\([^ ]*\\) .*,\\1,p' /proc/self/mountinfo | tail -n 1)\n");
        let said = lab.build(&[&option, "--no-cache"]);
        let kind = if backend == "fuse" { "on fuse.fuse-overlayfs" } else { "on overlay" };
        said.succeeds().prints(kind);
    }
}

/// Runs the build as root of a user namespace, after a command that takes something away from it.
fn build_after(lab: &Lab, command: &str, arguments: &[&str]) -> support::Said {
    lab.hand_over();
    let script = format!("set -e\n{command}\nexec \"$@\"");
    let mut shell = lab.command("unshare");
    shell.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
    shell
        .arg(support::given("COOPER_TEST_BIN"))
        .args(["--progress=plain", "build"])
        .args(arguments)
        .arg("ctx");
    run(&mut shell)
}

#[test]
fn what_fuse_needs_and_does_not_find_is_said() {
    let lab = Lab::with_busybox().single_id();
    lab.containerfile("FROM busybox\nRUN echo was here\n");
    lab.hand_over();
    let mut without = lab.command("/usr/bin/env");
    without.args(["PATH=/nonexistent", &support::given("COOPER_TEST_BIN"), "--storage=fuse", "build", "ctx"]);
    run(&mut without)
        .fails(3)
        .says("the program fuse-overlayfs is not installed")
        .says("apt install fuse-overlayfs");

    let hidden = "mount --bind /etc/shadow /dev/fuse";
    build_after(&lab, hidden, &["--storage=fuse"])
        .fails(3)
        .says("this user may not open /dev/fuse")
        .says("chmod 666 /dev/fuse");
    let gone = "mkdir dev && mount -t tmpfs none dev && for f in null zero full random urandom tty; do
                    touch dev/$f; mount --bind /dev/$f dev/$f; done; mount --rbind dev /dev";
    build_after(&lab, gone, &["--storage=fuse"]).fails(3).says("there is no /dev/fuse").says("modprobe fuse");
    // Something else that opens.
    build_after(&lab, "mount --bind /dev/null /dev/fuse", &["--storage=fuse"])
        .fails(3)
        .says("the kernel refuses to mount /dev/fuse");
    // Who does not insist on it gets the next best.
    build_after(&lab, hidden, &["--log-level=info"]).succeeds().prints("was here");
}

#[test]
fn the_next_best_is_taken_where_the_best_cannot_be_had() {
    let lab = Lab::new().single_id();
    // No whiteouts: an overlay lets nobody make them, so a store on one cannot hold any.
    lab.containerfile("FROM scratch\nCOPY Containerfile /f\n");
    let overlay = "mkdir -p lower upper work over
        mount -t overlay overlay -o userxattr,lowerdir=lower,upperdir=upper,workdir=work over
        export COOPER_ROOT=$PWD/over/store";
    let refused = "storage: not overlay: the kernel refuses to mount it: Invalid argument (os error 22); it needs Linux 5.11";
    let info = ["--log-level=info", "--no-cache", "-o", "oci:out:latest"];
    build_after(&lab, overlay, &info)
        .succeeds()
        .says(refused)
        .says("storage: fuse, the best that works here");
    let fuse = lab.layers("out");
    build_after(&lab, &format!("{overlay}\nmount --bind /etc/shadow /dev/fuse"), &info)
        .succeeds()
        .says(refused)
        .says("storage: not fuse: this user may not open /dev/fuse; as root: chmod 666 /dev/fuse")
        .says("storage: copy, the best that works here");
    assert_eq!(lab.layers("out"), fuse);
    // A COPY could do without any.
    lab.containerfile("FROM scratch\nWORKDIR /d\n");
    build_after(&lab, overlay, &["--storage=overlay", "--no-cache"])
        .fails(3)
        .says("the kernel refuses to mount an overlay on")
        .says("--root DIR puts the store elsewhere");
}

#[test]
fn a_program_that_does_not_answer_is_quoted() {
    let lab = Lab::with_busybox();
    lab.containerfile("FROM busybox\nRUN true\n");
    lab.file("bin/fuse-overlayfs", "#!/bin/sh\necho no such option >&2\nexit 1\n");
    run(std::process::Command::new("chmod").arg("755").arg(lab.dir.join("ctx/bin/fuse-overlayfs")))
        .succeeds();
    let mut command = lab.cooper_command(&["build", "--storage=fuse", "ctx"]);
    command.env("PATH", format!("{}:/usr/bin:/bin", lab.path("ctx/bin")));
    run(&mut command).fails(3).says("fuse-overlayfs ended: no such option");
}

/// Processes of fuse-overlayfs that work for a lab: what they say goes to a file of its store.
fn servers(lab: &Lab) -> usize {
    support::processes("fuse-overlayfs -f")
        .into_iter()
        .filter(|pid| {
            std::fs::read_link(format!("/proc/{pid}/fd/1")).is_ok_and(|log| log.starts_with(&lab.dir))
        })
        .count()
}

/// Whether any process has something mounted in a lab.
fn mounted(lab: &Lab) -> bool {
    let inside = lab.dir.to_str().unwrap();
    std::fs::read_dir("/proc").unwrap().flatten().any(|process| {
        std::fs::read_to_string(process.path().join("mountinfo")).is_ok_and(|text| text.contains(inside))
    })
}

#[test]
fn a_killed_build_leaves_no_server_and_no_mount() {
    for lab in [Lab::with_busybox(), Lab::with_busybox().single_id()] {
        lab.containerfile("FROM busybox\nRUN echo ready-$((40+2)); sleep 1000\n");
        let mut command = lab.cooper_command(&["--progress=plain", "--storage=fuse", "build", "ctx"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        wait_for(&mut child, "ready-42");
        assert_eq!(servers(&lab), 1);
        assert!(mounted(&lab));
        child.kill().unwrap();
        child.wait().unwrap();
        eventually("the server is gone", || servers(&lab) == 0);
        eventually("nothing is mounted", || !mounted(&lab));
    }
}

#[test]
fn a_build_that_ends_leaves_nothing_either() {
    let lab = Lab::with_busybox();
    lab.containerfile("FROM busybox AS a\nRUN echo 1 > /a\nFROM busybox\nCOPY --from=a /a /\nRUN false\n");
    for storage in ["--storage=fuse", "--storage=copy"] {
        lab.build(&[storage]).fails(1);
        assert_eq!(servers(&lab), 0);
        assert!(!mounted(&lab));
        let left: Vec<_> = std::fs::read_dir(lab.dir.join("store/work")).unwrap().flatten().collect();
        assert!(left.iter().all(|e| e.file_name() == ".lock"), "{left:?}");
    }
}

#[test]
fn what_is_mounted_from_a_stage_of_plain_directories_cannot_be_changed() {
    let lab = Lab::with_busybox();
    lab.containerfile(
        "FROM busybox AS a\nRUN echo original > /f\nFROM busybox\n\
         RUN --mount=from=a,target=/m ! echo changed > /m/f && ! ln /m/f /m/g && ! chmod 600 /m/f\n\
         RUN --mount=from=a,target=/m,rw echo changed > /m/f && cat /m/f\n\
         COPY --from=a /f /f\nRUN echo more >> /f; cat /f\n\
         FROM a\nRUN echo it is $(cat /f)\n",
    );
    let said = lab.build(&["--storage=copy", "--target=1"]);
    said.succeeds().prints("changed").prints("original").prints("more");
    lab.build(&["--storage=copy"]).succeeds().prints("it is original");
}

/// What a layer can say, and what copying up does to it. Each line is a step.
const CHANGES: &[&str] = &[
    "mkdir -p /d/sub /d/gone /l/s /many && cd /l && echo 1 > a && ln a b && ln a s/c && ln -s a sym && echo x > x",
    "cd /d && mkfifo ff && mkdir setgid && chmod 2775 setgid && echo suid > su && chmod 4755 su && chmod 1777 sub",
    "for i in 1 2 3 4 5 6 7 8 9; do echo $i > /many/$i; done; touch -d '1960-01-01 00:00:00' /many/1",
    // Names of one file: written, changed, linked, moved, removed, through one of them.
    "echo 2 >> /l/s/c",
    "chmod 600 /l/b",
    "ln /l/a /l/a2",
    "mv /l/b /l/b2 && rm /l/a",
    "ln /l/x /l/x2 && echo y >> /l/x2",
    // Copied up, and the directory stays as it is; not so where something was made or taken away.
    "echo more >> /many/1",
    "chmod -R go-w /many",
    "touch /many/t && rm /many/t && echo more >> /many/2",
    "echo more >> /many/3; touch -d '2001-01-01 00:00:00' /many",
    "echo same > /many/4",
    "touch -r /many/5 /tmp/r && echo 5 > /many/5 && touch -r /tmp/r /many/5 && rm /tmp/r",
    // Bits and kinds that copying up has to keep.
    "chmod 640 /d/ff",
    "touch /d/setgid/f && chmod o-w /d/sub",
    "echo >> /d/su; chmod 4711 /d/su",
    "chmod u-s /d/su; chmod g-s /d/setgid",
    "touch -h -d '2002-02-02 00:00:00' /l/sym",
    // Gone, made anew, replaced by something else.
    "rm /many/7 && rm -r /d/gone && mkdir /d/gone && touch /d/gone/new",
    "rm -r /d/gone && ln -s sub /d/gone",
    "rm /d/gone && echo file > /d/gone",
    "rm -r /d && mkdir -p /d/sub/deep && echo 1 > /d/sub/deep/f",
    "rm -r /d/sub && mkdir /d/sub",
    "cp -a /many /many2 && rm -r /many && mv /many2 /many",
    "rm /many/8 && mkdir /many/8 && mv /many/9 /many/8/nine",
    "mkdir /new && mv /new /new2 && mv /many/1 /new2/1",
    "cd /new2 && printf x > \"$(printf 'nl\\nx')\" && printf y > \"$(printf '\\377\\376')\" && mkdir 'a,b:c\\d'",
    "chmod 000 /new2 && echo z > /new2/z",
    "true",
];

#[test]
fn layers_are_the_same_as_the_overlays() {
    let mut text = "FROM busybox\n".to_owned();
    for change in CHANGES {
        text.push_str(&format!("RUN {change}\n"));
    }
    text.push_str(
        "FROM busybox\nCOPY --from=0 /l /l2\nCOPY --from=0 / /all/\nRUN --mount=from=0,target=/m,rw cp -a /m/many /x && echo >> /m/l/x\n",
    );
    // Owners need more ids than one.
    let owners = "RUN chown -R 5:6 /all/l && chown -h 7:8 /all/l/sym && chmod 4750 /all/l/x\nRUN echo >> /all/l/x\n\
        RUN chmod u-s /all/l/x; chown -R 0:0 /all/l\nRUN mkdir /w && chown 1000:1000 /w\n\
        USER app\nRUN touch /w/f && mkdir /w/d && mkfifo /w/p && ln -s f /w/s\n";
    let single = (Lab::with_busybox().single_id(), text.clone());
    text.push_str(owners);
    for (lab, text) in [(Lab::with_busybox(), text), single] {
        lab.containerfile(&text);
        let built = |storage: &str, target: &str| {
            let (option, out) = (format!("--storage={storage}"), format!("oci:{storage}{target}:latest"));
            let target = format!("--target={target}");
            let arguments = [&option, "--no-cache", "--source-date-epoch=1600000000", &target, "-o", &out];
            lab.build(&arguments).succeeds();
        };
        for (target, backend) in [("0", "fuse"), ("0", "copy"), ("1", "fuse"), ("1", "copy")] {
            built("overlay", target);
            built(backend, target);
            let [overlay, with] = ["overlay", backend].map(|storage| format!("{storage}{target}"));
            let layers = [lab.layers(&overlay), lab.layers(&with)];
            assert_eq!(layers[0].len(), layers[1].len());
            for (at, (one, other)) in layers[0].iter().zip(&layers[1]).enumerate() {
                if one != other {
                    let [one, other] = [listed(&lab, &overlay, one), listed(&lab, &with, other)];
                    let only = |a: &[String], b: &[String]| -> Vec<String> {
                        a.iter().filter(|line| !b.contains(line)).cloned().collect()
                    };
                    panic!("layer {at} of {target}: {:#?} {:#?}", only(&one, &other), only(&other, &one));
                }
            }
        }
    }
}

/// What `tar` says of a layer.
fn listed(lab: &Lab, layout: &str, digest: &str) -> Vec<String> {
    let blob = lab.dir.join(layout).join("blobs").join(digest.replace(':', "/"));
    let said =
        run(std::process::Command::new("tar").args(["--numeric-owner", "--full-time", "-tvf"]).arg(blob));
    said.succeeds();
    said.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn stacks_are_as_high_as_images_get() {
    let lab = Lab::with_busybox();
    let mut text = "FROM busybox\n".to_owned();
    for n in 0..120 {
        text.push_str(&format!("COPY Containerfile /f{n}\n"));
    }
    text.push_str("RUN echo $(ls -d /f* | wc -l) files; rm /f7; echo >> /f8\n");
    lab.containerfile(&text);
    lab.build(&["--storage=fuse", "-o", "oci:out:latest"]).succeeds().prints("120 files");
    assert_eq!(lab.top_names("out"), [".wh.f7", "f8"]);
    assert!(Path::new(&lab.path("out")).is_dir());
}

#[test]
fn a_stack_may_have_equal_layers() {
    for backend in ["overlay", "fuse", "copy"] {
        let lab = Lab::with_busybox().storage(backend);
        // Two layers with nothing in them, and twice the same file; what follows finds them in the store.
        let steps = "FROM busybox\nRUN true\nRUN :\nCOPY f /\nRUN rm f\nCOPY f /\n";
        lab.file("f", "in it").containerfile(steps);
        lab.build(&[]).succeeds();
        lab.containerfile(&format!(
            "{steps}RUN cat f\nFROM busybox\nRUN --mount=from=0,target=/m cat /m/f\n"
        ));
        lab.build(&["--target=0"]).succeeds().prints("in it");
        lab.build(&[]).succeeds().prints("in it");
    }
}
