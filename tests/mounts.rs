//! `RUN --mount`: what a step sees of it, and that nothing of it is left.

mod support;

use std::process::{Command, Stdio};

use support::{Lab, run, wait_for};

/// A Containerfile on the busybox base, with a stage `src` that has something to mount.
fn with_source(steps: &str) -> String {
    format!(
        "FROM busybox AS src\n\
         RUN mkdir -p /d/deep && echo inner > /d/f && echo 'echo from the mount' > /d/run && chmod 755 /d/run \
           && ln -s / /d/up && ln -s /d /alias && ln -s /etc/passwd /d/passwd && mkdir /only-in-src\n\
         FROM busybox\n{steps}\n"
    )
}

/// Whether any file of the store contains a text.
fn store_contains(lab: &Lab, text: &str) -> bool {
    let found = run(Command::new("grep").args(["-rlaF", text]).arg(lab.dir.join("store")));
    !found.stdout.is_empty()
}

#[test]
fn a_cache_outlives_the_build_and_is_in_no_layer() {
    let lab = Lab::with_busybox();
    let step = |n: u32| {
        format!(
            "FROM busybox\nRUN --mount=type=cache,target=/c cat /c/* 2>/dev/null; echo line-{n} >> /c/f; stat -c '%a %u:%g' /c; touch /made\n"
        )
    };
    let first = lab.build_out(&step(1));
    first.prints("755 0:0");
    assert!(!first.output().contains(&"line-1"));
    assert_eq!(lab.top_names("out"), ["made"]);
    lab.build_out(&step(2)).prints("line-1");
    lab.build_out(&step(3)).prints("line-1").prints("line-2");
    // Another id, or another target without one, is another cache.
    let other = lab.build_out("FROM busybox\nRUN --mount=type=cache,target=/c,id=other ls /c | wc -l");
    other.prints("0");
    lab.build_out("FROM busybox\nRUN --mount=type=cache,target=/elsewhere,id=/c cat /elsewhere/f")
        .prints("line-3");
    let said = lab.cooper(&["prune"]);
    said.succeeds();
    assert_eq!(said.stdout, "removed 2 cache mounts, 21 bytes\n");
    let anew = lab.build_out("FROM busybox\nRUN --mount=type=cache,target=/c ls -A /c | wc -l");
    anew.prints("0");
    // Images and cached steps are still there.
    let again = lab.build_out(&step(3));
    assert!(again.stderr.contains("CACHED"), "{}", again.stderr);
}

#[test]
fn a_cache_has_the_mode_and_owner_it_asks_for() {
    let lab = Lab::with_busybox();
    let said = lab.build_out(
        "FROM busybox\nUSER app\n\
         RUN --mount=type=cache,target=/c,uid=1000,gid=50,mode=0770 stat -c '%a %u:%g' /c && touch /c/mine\n\
         RUN --mount=type=cache,target=/c,uid=0,mode=0700,readonly stat -c 'again %a %u:%g' /c && ! touch /c/x 2>/dev/null",
    );
    said.prints("770 1000:50").prints("again 770 1000:50");
    lab.cooper(&["prune"]).succeeds();
    let single = lab.single_id();
    let said = single.build_out("FROM busybox\nRUN --mount=type=cache,target=/c,uid=1000 stat -c '%u:%g' /c");
    said.prints("1000:0");
}

#[test]
fn a_cache_can_start_from_a_stage() {
    let lab = Lab::with_busybox();
    let said = lab.build_out(&with_source(
        "RUN --mount=type=cache,target=/c,from=src,source=/d cat /c/f && echo changed > /c/f\n\
         RUN --mount=type=cache,target=/c,from=src,source=/d echo now $(cat /c/f)\n\
         RUN --mount=type=bind,target=/b,from=src,source=/d echo still $(cat /b/f)",
    ));
    said.prints("inner").prints("now changed").prints("still inner");
}

#[test]
fn no_id_of_a_cache_leads_out_of_the_store() {
    let lab = Lab::with_busybox();
    std::fs::create_dir_all(lab.dir.join("x")).unwrap();
    lab.hand_over();
    for id in ["../../x", "../../../x", "/etc"] {
        let said = lab.build_out(&format!(
            "FROM busybox\nRUN --mount=type=cache,id={id},target=/c echo {id} > /c/f && ls /c"
        ));
        said.prints("f");
    }
    assert!(!lab.dir.join("x/f").exists() && !lab.dir.join("store/x").exists());
    lab.containerfile(&with_source("RUN --mount=type=cache,target=/c,from=src,source=../../.. ls /c"));
    let said = lab.build(&[]);
    said.succeeds().prints("only-in-src");
}

#[test]
fn builds_wait_for_a_locked_cache() {
    let lab = Lab::with_busybox();
    lab.file("one/Containerfile", "FROM busybox\nRUN --mount=type=cache,target=/c,sharing=locked echo got-$((1+1)); sleep 3; echo first >> /c/f\n");
    lab.file("two/Containerfile", "FROM busybox\nRUN --mount=type=cache,target=/c,sharing=locked cat /c/f\n");
    let mut command = lab.cooper_command(&["--progress=plain", "build", "ctx/one"]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    wait_for(&mut child, "got-2");
    let second = lab.cooper(&["--progress=plain", "build", "ctx/two"]);
    second.succeeds().prints("first").says("waiting for the cache mount `/c`, which another step has locked");
    assert!(child.wait().unwrap().success());
}

#[test]
fn binds_are_read_only_run_programs_and_never_lead_out_of_their_source() {
    let lab = Lab::with_busybox();
    lab.file("data/f", "from the context");
    let said = lab.build_out(&with_source(
        "RUN --mount=from=src,source=/d,target=/b cat /b/f && sh -c /b/run && ! touch /b/x 2>/dev/null && touch /made\n\
         RUN --mount=from=src,source=/d/f,target=/opt/one/file cat /opt/one/file && ! (echo x > /opt/one/file) 2>/dev/null\n\
         RUN --mount=from=src,source=/d/up,target=/b ls -d /b/only-in-src\n\
         RUN --mount=from=src,source=/alias/deep/../f,target=/b cat /b\n\
         RUN --mount=target=/ctx,source=data cat /ctx/f\n\
         WORKDIR /work\n\
         RUN --mount=target=. cat data/f",
    ));
    said.prints("inner").prints("from the mount").prints("/b/only-in-src").prints("from the context");
    assert!(lab.layers("out").len() >= 5);
    let said = lab.build_out(&with_source("RUN --mount=from=src,source=/d,target=/new/place touch /made"));
    assert!(said.status.success());
    assert_eq!(lab.top_names("out"), ["made"], "neither the place nor its parents are left");
}

#[test]
fn what_is_written_to_a_bind_is_thrown_away() {
    let lab = Lab::with_busybox();
    lab.file("data/f", "untouched");
    let said = lab.build_out(&with_source(
        "RUN --mount=from=src,source=/d,target=/b,rw rm /b/f && echo new > /b/new && ls /b/new\n\
         RUN --mount=from=src,source=/d,target=/b,rw cat /b/f && ! ls /b/new 2>/dev/null\n\
         RUN --mount=from=src,source=/d/f,target=/one,rw echo changed > /one && cat /one\n\
         RUN --mount=from=src,source=/d/f,target=/one,rw cat /one\n\
         RUN --mount=target=/ctx,rw echo changed > /ctx/data/f && cat /ctx/data/f && touch /made",
    ));
    said.prints("/b/new").prints("inner").prints("changed");
    assert_eq!(lab.top_names("out"), ["made"]);
    assert_eq!(std::fs::read_to_string(lab.dir.join("ctx/data/f")).unwrap(), "untouched");
}

#[test]
fn a_tmpfs_is_gone_after_the_step() {
    let lab = Lab::with_busybox();
    let said = lab.build_out(
        "FROM busybox\nRUN mkdir -m 700 /private\n\
         RUN --mount=type=tmpfs,target=/t/here,size=4m --mount=type=tmpfs,target=/private stat -c '%a %n' /t/here /private \
           && df -k /t/here | tail -n 1 | awk '{print \"kilobytes\", $2}' && touch /t/here/x /private/x && touch /made",
    );
    said.prints("1777 /t/here").prints("700 /private").prints("kilobytes 4096");
    assert_eq!(lab.top_names("out"), ["made"]);
}

#[test]
fn a_secret_is_seen_by_its_step_alone() {
    let lab = Lab::with_busybox();
    let secret = "hunter2-the-secret";
    std::fs::write(lab.dir.join("key"), secret).unwrap();
    lab.hand_over();
    run(Command::new("chmod").arg("644").arg(lab.dir.join("key"))).succeeds();
    let file = "FROM busybox
RUN --mount=type=secret,id=key wc -c < /run/secrets/key && stat -c '%a %u:%g' /run/secrets/key && ! (echo > /run/secrets/key) 2>/dev/null && touch /made
RUN --mount=type=secret,id=key,target=/etc/app/key,mode=0440,uid=1000,gid=50 stat -c '%a %u:%g' /etc/app/key
RUN --mount=type=secret,id=env,target=/env wc -c < /env
RUN --mount=type=secret,id=other ls /run/secrets 2>/dev/null; echo without
RUN ! ls /run/secrets 2>/dev/null && ! ls /etc/app 2>/dev/null && echo gone
";
    lab.containerfile(file);
    let source = format!("id=key,src={}", lab.path("key"));
    let arguments = ["--secret", &source, "--secret", "id=env,env=BUILD_SECRET", "-o", "oci:out:latest"];
    let all = [&["--progress=plain", "build"][..], &arguments, &["ctx"]].concat();
    let mut command = lab.cooper_command(&all);
    command.env("BUILD_SECRET", format!("{secret}!"));
    let said = run(&mut command);
    said.succeeds().prints("18").prints("400 0:0").prints("440 1000:50").prints("19");
    said.prints("without").prints("gone");
    assert!(!said.stderr.contains(secret));
    assert!(!store_contains(&lab, secret), "in the store");
    let layers = lab.layers("out");
    let first = lab.dir.join("out/blobs").join(layers[layers.len() - 5].replace(':', "/"));
    let listed = run(Command::new("tar").arg("-tf").arg(first));
    assert_eq!(listed.stdout, "made\n");
    // What it is does not belong to the key.
    std::fs::write(lab.dir.join("key"), "another").unwrap();
    let again = lab.build(&["--secret", &source]);
    again.succeeds();
    assert!(again.output().is_empty(), "{}", again.stderr);
    lab.containerfile("FROM busybox\nRUN --mount=type=secret,id=key,required true\n");
    lab.build(&[])
        .fails(1)
        .says("the secret `key` is required and was not given")
        .says("--secret id=key,src=FILE");
    lab.build(&["--secret", "id=key,src=no-such-file"]).says("no-such-file");
    std::fs::write(lab.dir.join("key"), vec![b'x'; 500 * 1024 + 1]).unwrap();
    lab.build(&["--secret", &source]).fails(1).says("the secret `key` is larger than 512000 bytes");
    std::fs::write(lab.dir.join("key"), vec![b'x'; 500 * 1024]).unwrap();
    lab.containerfile("FROM busybox\nRUN --mount=type=secret,id=key,required wc -c < /run/secrets/key\n");
    lab.build(&["--secret", &source]).succeeds().prints("512000");
}

#[test]
fn mounts_inside_mounts_are_seen_wherever_they_stand() {
    let lab = Lab::with_busybox();
    let said = lab.build_out(&with_source(
        "RUN --mount=from=src,source=/d,target=/a/b --mount=type=tmpfs,target=/a cat /a/b/f && touch /a/x && touch /made\n\
         RUN --mount=type=tmpfs,target=/a --mount=from=src,source=/d,target=/a ls /a/f\n\
         RUN --mount=type=tmpfs,target=/etc/app cat /etc/resolv.conf > /dev/null && grep -c localhost /etc/hosts > /dev/null && echo files\n\
         RUN --mount=from=src,source=/d,target=/etc ls /etc/f",
    ));
    said.prints("inner").prints("/a/f").prints("files").prints("/etc/f");
    assert_eq!(lab.top_names("out"), Vec::<String>::new());
    lab.containerfile(&with_source(
        "RUN --mount=from=src,source=/d,target=/a --mount=type=tmpfs,target=/a/missing true",
    ));
    lab.build(&[]).fails(1).says("mount on /a/missing").says("read-only file system");
}

#[test]
fn targets_go_through_links_of_the_image_and_stay_in_it() {
    let lab = Lab::with_busybox();
    let said = lab.build_out(&with_source(
        "RUN ln -s ../../../../../opt/real /link && ln -s /opt/real/dangling /dangling && mkdir -p /opt/real && touch /file\n\
         RUN --mount=from=src,source=/d,target=/link/new --mount=type=tmpfs,target=/dangling \
           ls /opt/real/new/f && touch /opt/real/dangling/x && ls -A /opt/real | wc -l\n\
         RUN ls -A /opt/real | wc -l && readlink /dangling",
    ));
    said.prints("/opt/real/new/f").prints("2").prints("0").prints("/opt/real/dangling");
    for (mount, says) in [
        ("type=tmpfs,target=/etc/passwd", "mount on /etc/passwd: it is a file in the image"),
        ("from=src,source=/d/f,target=/etc", "mount on /etc: it is a directory in the image"),
        ("type=tmpfs,target=/proc/sys", "nothing can be mounted on /proc or below it"),
        ("type=tmpfs,target=/sys/here", "mount on /sys/here"),
    ] {
        lab.containerfile(&with_source(&format!("RUN --mount={mount} true")));
        lab.build(&[]).fails(1).says(says);
    }
}

#[test]
fn a_step_that_swaps_the_parent_of_a_mount_has_nothing_removed_elsewhere() {
    let lab = Lab::with_busybox();
    let said = lab.build_out(
        "FROM busybox\nRUN mkdir -p /victim/c /victim/k && touch /victim/key\n\
         RUN --mount=type=tmpfs,target=/a/b/c --mount=type=tmpfs,target=/other/c \
           mv /a/b /a/moved 2>/dev/null; mv /a /moved 2>/dev/null; mv /other /moved-other 2>/dev/null; \
           ln -s /victim /other 2>/dev/null; ln -s /victim /a/b 2>/dev/null; true\n\
         RUN ls -d /victim/c /victim/k /victim/key",
    );
    said.prints("/victim/c").prints("/victim/k").prints("/victim/key");
}
