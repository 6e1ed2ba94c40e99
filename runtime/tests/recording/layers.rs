//! Files of lower layers: their numbers when they are copied up.

use crate::Case;
use crate::world::World;

pub(crate) const CASES: &[Case] = &[
    ("records_of_lower_files_survive_what_copies_them_up", records_survive_what_copies_up),
    ("both_numbers_of_what_is_copied_up_are_on_record", both_numbers_of_what_is_copied_up_are_on_record),
    ("records_of_lower_files_that_go_are_struck_off", records_of_lower_files_that_go_are_struck_off),
];

const MAKE: &str = "cd /tmp; for n in a b c d e f g h i; do echo $n > $n; done; mkdir dir; touch dir/in; ln -s x l; ln -s x m; ln -s x n
    ln e other; touch s; ln s t; chown -Rh 5:6 /tmp/*";

const PATHS: &[&str] = &[
    "/tmp/a",
    "/tmp/b",
    "/tmp/c",
    "/tmp/d",
    "/tmp/e",
    "/tmp/f",
    "/tmp/g",
    "/tmp/h",
    "/tmp/i",
    "/tmp/dir",
    "/tmp/dir/in",
    "/tmp/l",
    "/tmp/m",
    "/tmp/n",
    "/tmp/s",
];

fn records_survive_what_copies_up(world: &World) {
    let mut root = world.busybox();
    let ran = root.run(MAKE);
    root.remember(&ran, PATHS);
    root.freeze();
    let ran = root.run(
        "cd /tmp; echo more >> a; chmod 600 b; mv c C; ln d D; touch -d @5 f; chgrp 7 g; chown 8 e; touch dir/new; chmod 700 dir
         mv l L; ln m M; chown -h 9 n; mv s S; truncate -s 0 h; sed -i s/i/j/ i
         for f in a b C d D f dir dir/in L m M h; do stat -c %u:%g $f; done | uniq -c; stat -c '%n %u:%g' g e n i other S t",
    );
    ran.says(&["     12 5:6", "g 5:7", "e 8:6", "n 9:6", "i 5:6", "other 5:6", "S 5:6", "t 5:6"]);
    for path in ["a", "b", "C", "d", "D", "f", "dir", "dir/in", "L", "m", "M", "h"] {
        root.owned(&ran, &format!("/tmp/{path}"), (5, 6));
    }
    root.owned(&ran, "/tmp/e", (8, 6));
    root.owned(&ran, "/tmp/n", (9, 6));
    root.owned(&ran, "/tmp/i", (5, 6));
    root.owned(&ran, "/tmp/other", (5, 6));
    root.owned(&ran, "/tmp/dir/new", (0, 0));
}

fn records_of_lower_files_that_go_are_struck_off(world: &World) {
    let mut root = world.busybox();
    let ran = root.run(MAKE);
    root.remember(&ran, PATHS);
    root.freeze();
    let ran = root.run(
        "cd /tmp; rm a; mv b c; rm -r dir; rm l; touch a; mkdir dir; ln -s y l; stat -c %u:%g a c dir l",
    );
    ran.says(&["0:0", "5:6", "0:0", "0:0"]);
    root.owned(&ran, "/tmp/a", (0, 0));
    root.owned(&ran, "/tmp/c", (5, 6));
}

/// When memory is short, the kernel forgets which number a file had.
fn both_numbers_of_what_is_copied_up_are_on_record(world: &World) {
    let mut root = world.debian();
    let ran = root.run(&format!("{MAKE}; touch j k o p; mkfifo q; chown 5:6 j k p q"));
    let more = ["/tmp/j", "/tmp/k", "/tmp/p", "/tmp/q"];
    root.remember(&ran, &[PATHS, &more[..]].concat());
    root.freeze();
    let mut ran = root.run(
        "cd /tmp; echo more >> a; echo more >> other; chmod 600 b q; mv c C; ln d D; touch -d @5 f; chgrp 7 g; truncate -s 0 h; perl -e 'open my $f, q(+<), q(i)'
         mv l L; touch -hd @5 m; chown -h 9 n; perl -e 'open my $f, q(<), q(j); chmod 0600, $f; utime 1, 1, q(k)'; chown 5:6 o
         perl -e 'syscall($^O && qx(uname -m) =~ /x86_64/ ? 188 : 5, my $p = q(p), my $n = q(user.x), my $v = q(y), 1, 0)'",
    );
    root.forget(&mut ran);
    let same = [
        "a", "b", "C", "d", "D", "f", "h", "i", "L", "m", "j", "k", "o", "p", "q", "e", "other", "dir",
        "dir/in",
    ];
    for path in same {
        root.owned(&ran, &format!("/tmp/{path}"), (5, 6));
    }
    root.owned(&ran, "/tmp/g", (5, 7));
    root.owned(&ran, "/tmp/n", (9, 6));
}
