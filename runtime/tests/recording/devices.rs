//! Device nodes, and ids beyond a map.

use cooper_runtime::record::Node;
use cooper_runtime::recording::{Recording, Scope};

use crate::Case;
use crate::world::World;

pub(crate) const CASES: &[Case] = &[
    ("device_nodes_are_kept", device_nodes_are_kept),
    ("beyond_a_map_only_what_is_outside_is_recorded", beyond_a_map_only_what_is_outside_is_recorded),
];

fn device_nodes_are_kept(world: &World) {
    let mut root = world.busybox();
    let ran = root.run(
        "cd /tmp; umask 0; mknod -m 620 c c 259 70000; mknod b b 8 1; mkdir s; chgrp 5 s; chmod 2777 s; mknod s/n c 1 3
         chown 6 b; stat -c '%n %F %t:%T %a %u:%g %s' c b s/n; test -b b && test -c c && echo tested
         mknod c c 1 3 2>&1; mknod gone c 1 3; rm gone; mknod p p; stat -c %F p; mknod w c 0 0 2>&1; mv b moved; stat -c %F moved",
    );
    ran.says(&[
        "c character special file 103:11170 620 0:0 0",
        "b block special file 8:1 666 6:0 0",
        "s/n character special file 1:3 666 0:5 0",
        "tested",
        "mknod: c: File exists",
        "fifo",
        "mknod: w: Operation not permitted",
        "block special file",
    ])
    .count(4);
    let node = |block, major, minor| Some(Node { block, major, minor });
    assert_eq!(root.record(&ran, "/tmp/c").node, node(false, 259, 70_000));
    assert_eq!(root.record(&ran, "/tmp/moved").node, node(true, 8, 1));
    assert_eq!(root.record(&ran, "/tmp/moved").owner, Some((6, 0)));
    root.remember(&ran, &["/tmp/c"]);
    root.freeze();
    root.run("stat -c '%F %t:%T' /tmp/c; rm /tmp/c").says(&["character special file 103:11170"]).count(0);
}

fn beyond_a_map_only_what_is_outside_is_recorded(world: &World) {
    let mut root = world.busybox();
    let recording = |known| {
        Some(Recording {
            scope: Scope::Beyond { uids: 1, gids: 1 },
            known,
            upper: None,
            settled: None,
            watch: false,
        })
    };
    let root_user = (0, 0, &[][..]);
    let ran = root.step(
        recording(vec![]),
        root_user,
        "cd /tmp; touch a; chown 70000:0 a; stat -c %u a; mknod c c 1 3; stat -c %F c; mknod p p; chown 0:0 p
         grep -c 'Seccomp:.2' /proc/self/status; id -u; mkdir d; chown 0:4294967294 d",
    );
    ran.says(&["0", "regular empty file", "1", "0"]).count(3);
    root.owned(&ran, "/tmp/a", (70_000, 0));
    root.owned(&ran, "/tmp/d", (0, u32::MAX - 1));
    assert_eq!(root.record(&ran, "/tmp/c").node, Some(Node { block: false, major: 1, minor: 3 }));
    // What earlier steps have left on record reads back.
    let known = ran.records.into_iter().collect();
    let ran =
        root.step(recording(known), root_user, "cd /tmp; stat -c %F:%u a c; rm c; mv a b; stat -c %u b");
    ran.says(&["regular empty file:70000", "character special file:0", "70000"]).count(2);
}
