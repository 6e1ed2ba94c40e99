//! Owners: set, shown, inherited, and gone with their files.

use crate::Case;
use crate::world::World;

pub(crate) const CASES: &[Case] = &[
    ("owners_are_shown_as_they_were_set", owners_are_shown_as_they_were_set),
    ("each_way_to_name_a_file_leads_to_the_same_record", each_way_to_name_a_file_leads_to_the_same_record),
    ("new_files_belong_to_whoever_makes_them", new_files_belong_to_whoever_makes_them),
    ("directories_with_the_bit_hand_their_group_down", directories_with_the_bit_hand_their_group_down),
    ("records_go_with_the_last_name", records_go_with_the_last_name),
    ("numbers_that_are_used_again_start_clean", numbers_that_are_used_again_start_clean),
    ("renames_keep_records_and_strike_off_what_they_replace", renames_keep_records_and_strike_off),
    ("a_chown_does_what_the_kernel_does_besides", a_chown_does_what_the_kernel_does_besides),
    ("an_image_may_change_its_root", an_image_may_change_its_root),
];

fn owners_are_shown_as_they_were_set(world: &World) {
    let mut root = world.busybox();
    let ran = root.run(
        "cd /tmp; touch a; mkdir -p d/e; touch d/e/f; ln -s nowhere l
         chown 5:6 a; chown -R 7:8 d; chown -h 9:10 l; touch b; chown 11:12 b; touch c; chown 13 c; chgrp 14 c
         stat -c '%n %u:%g' a d d/e d/e/f l b c
         stat -L -c '%u:%g' a; find . -user 7 | wc -l; test -O a || echo not mine",
    );
    let expected = ["a 5:6", "d 7:8", "d/e 7:8", "d/e/f 7:8", "l 9:10", "b 11:12", "c 13:14", "5:6", "3"];
    ran.says(&[&expected[..], &["not mine"]].concat()).count(7);
    root.owned(&ran, "/tmp/a", (5, 6));
    root.owned(&ran, "/tmp/d/e/f", (7, 8));
    root.owned(&ran, "/tmp/l", (9, 10));
    root.owned(&ran, "/tmp/b", (11, 12));
    root.owned(&ran, "/tmp/c", (13, 14));
    // Back to root is on record too: a layer below may have given the file to somebody else.
    root.remember(&ran, &["/tmp/a", "/tmp/c"]);
    let ran = root.run("stat -c %u:%g /tmp/a; chown 0:0 /tmp/a; chown 0 /tmp/c");
    ran.says(&["5:6"]).count(2);
    root.owned(&ran, "/tmp/a", (0, 0));
}

fn each_way_to_name_a_file_leads_to_the_same_record(world: &World) {
    let mut root = world.busybox();
    let ran = root.run(
        "mkdir -p /tmp/d/in; ln -s /tmp/d /tmp/to; ln -s ../tmp/to/in/f /tmp/link; cd /tmp/d/in; touch f
         chown 5:6 ../../to/in/../in/f
         for way in f ./f /tmp/d/in/f ../in/f /tmp/to/in/f //tmp//d/in/f /proc/self/cwd/f; do stat -c %u $way; done | uniq -c
         stat -L -c %u:%g /tmp/link; exec 3< f; stat -L -c %u:%g /proc/self/fd/3
         chown 7 /tmp/link; stat -c %u f; stat -c %u /tmp/link; chown -h 8 /tmp/link; stat -c %u f /tmp/link
         ln f g; stat -c '%u %h' g",
    );
    ran.says(&["      7 5", "5:6", "5:6", "7", "0", "7", "8", "7 2"]).count(2);
}

fn new_files_belong_to_whoever_makes_them(world: &World) {
    let mut root = world.busybox();
    root.run("chmod 1777 /tmp; mkdir /tmp/deep").count(0);
    let ran = root.run_as(
        (1000, 50, &[60]),
        "cd /tmp; umask 027; echo x > f; mkdir d; ln -s x l; mkfifo p; ln -s new dangling; echo y > dangling
         (cd d; echo z > ../deep/r); echo more >> f; cp f c; set -C; echo n > excl; ! (echo n > excl) 2>/dev/null
         stat -c '%n %u:%g %a %s' f d l p dangling new deep/r c excl; echo ours > /etc/ours; stat -c %u:%g /etc/ours",
    );
    ran.says(&[
        "f 1000:50 640 7",
        "d 1000:50 750 4096",
        "l 1000:50 777 1",
        "p 1000:50 640 0",
        "dangling 1000:50 777 3",
        "new 1000:50 640 2",
        "deep/r 1000:50 640 2",
        "c 1000:50 640 7",
        "excl 1000:50 640 2",
        "1000:50",
    ])
    .count(10);
    for path in ["f", "d", "l", "p", "dangling", "new", "deep/r"] {
        root.owned(&ran, &format!("/tmp/{path}"), (1000, 50));
    }
}

fn directories_with_the_bit_hand_their_group_down(world: &World) {
    let mut root = world.busybox();
    let ran = root.run(
        "mkdir /tmp/s; chown 0:50 /tmp/s; chmod 2775 /tmp/s; cd /tmp/s; touch f; mkdir d; touch d/g; ln -s f l; mkfifo p
         stat -c '%n %u:%g %a' f d d/g l p; chgrp 0 /tmp/s; touch h; stat -c %g h",
    );
    ran.says(&["f 0:50 644", "d 0:50 2755", "d/g 0:50 644", "l 0:50 777", "p 0:50 644", "0"]).count(6);
    root.owned(&ran, "/tmp/s", (0, 0));
    root.owned(&ran, "/tmp/s/d/g", (0, 50));
}

fn records_go_with_the_last_name(world: &World) {
    let mut root = world.busybox();
    let ran = root.run(
        "cd /tmp; touch a b; mkdir d; ln -s x l; ln b c; chown -h 5:5 a b d l; rm a l; rmdir d; rm b; stat -c %u:%h c
         mkdir e; touch e/f; chown 6 e; ! rmdir e 2>/dev/null; stat -c %u e",
    );
    ran.says(&["5:1", "6"]).count(2);
    root.remember(&ran, &["/tmp/c", "/tmp/e"]);
    root.run("rm -r /tmp/c /tmp/e").count(0);
}

fn numbers_that_are_used_again_start_clean(world: &World) {
    let mut root = world.busybox();
    let many = |what: &str| format!("for i in $(seq 300); do {what}; done");
    let script = format!(
        "mkdir /tmp/d; cd /tmp/d; {}; chown -R 7:7 .; rm -r *; {}; cd ..; touch x; chown 8 x; {}; mv x y; mv y z; rm z; {}
         find /tmp/d /tmp -mindepth 1 ! -user 0 ! -path /tmp/d",
        many("touch f$i; mkdir d$i; ln -s x l$i"),
        many("touch g$i; mkdir e$i; ln -s y m$i"),
        many("touch r$i; mv r$i x; chown 9 x"),
        many("mknod n$i p; ln -s z k$i"),
    );
    let ran = root.run(&script);
    ran.says(&[]).count(1);
    root.owned(&ran, "/tmp/d", (7, 7));
}

fn renames_keep_records_and_strike_off(world: &World) {
    let mut root = world.busybox();
    let ran = root.run(
        "cd /tmp; touch a b c; chown 5 a; chown 6 b; mv a A; mv -f A b; stat -c %u b; mv b c; stat -c %u c
         mkdir d e; chown 7 d; mv d e/; stat -c %u e/d; touch k; ln k m; chown 8 k; mv k m; stat -c '%u %h' m
         mv /tmp/nothing /tmp/x 2>/dev/null || echo no",
    );
    ran.says(&["5", "5", "7", "8 2", "no"]).count(3);
}

fn a_chown_does_what_the_kernel_does_besides(world: &World) {
    let mut root = world.busybox();
    let ran = root.run(
        "cd /tmp; touch a d; chmod 6755 a; chmod 2644 d; stat -c %a a; chown 5 a d; stat -c %a a d
         touch -d @1 b; before=$(stat -c %Z b); sleep 1.1; chown 5 b; test $(stat -c %Z b) != $before && stat -c %Y b
         chown 5 /tmp/missing 2>&1; chown 5 /proc/version 2>&1; chown 5 /sys 2>&1; chown 5 /bin/ls; stat -c %u /bin/busybox",
    );
    ran.says(&[
        "6755",
        "755",
        "2644",
        "1",
        "chown: /tmp/missing: No such file or directory",
        "chown: /proc/version: Operation not permitted",
        "chown: /sys: Read-only file system",
        "5",
    ]);
    root.owned(&ran, "/bin/busybox", (5, 0));
}

fn an_image_may_change_its_root(world: &World) {
    let mut root = world.busybox();
    let ran = root.run(
        "mkdir -p /in/tmp; cp -a /bin /lib /lib64 /in/ 2>/dev/null; touch /in/tmp/f; ln -s /tmp/f /in/tmp/l; touch /tmp/f
         chroot /in /bin/sh -c 'chown 5 /tmp/l; stat -c %u /tmp/f; cd /tmp; chown 6:6 ../../../tmp/f; stat -c %u f'
         stat -c %u:%g /tmp/f /in/tmp/f",
    );
    ran.says(&["5", "6", "0:0", "6:6"]).count(1);
    root.owned(&ran, "/in/tmp/f", (6, 6));
}
