//! What a task is: given, given up, shown.

use crate::Case;
use crate::world::World;

pub(crate) const CASES: &[Case] = &[
    ("a_step_is_the_user_that_it_is_to_be", a_step_is_the_user_that_it_is_to_be),
    ("programs_with_the_bits_become_their_owner", programs_with_the_bits_become_their_owner),
    ("debians_own_tools_work", debians_own_tools_work),
    ("ids_are_kept_apart_by_the_kernels_rules", ids_are_kept_apart_by_the_kernels_rules),
    ("peers_see_recorded_ids", peers_see_recorded_ids),
    ("access_control_lists_are_kept", access_control_lists_are_kept),
];

fn a_step_is_the_user_that_it_is_to_be(world: &World) {
    let mut root = world.busybox();
    let ran = root.run_as(
        (1000, 50, &[60, 7]),
        "id -u; id -g; id -G; sh -c 'id -u; (id -ru)'; touch /tmp/f; chown 1001 /tmp/f 2>&1; chgrp 60 /tmp/f && stat -c %g /tmp/f
         chgrp 61 /tmp/f 2>&1; chown 1000 /etc 2>&1; chroot / true 2>&1 | head -c 0; mknod /tmp/d c 1 3 2>&1; true",
    );
    ran.says(&[
        "1000",
        "50",
        "50 7 60",
        "1000",
        "1000",
        "chown: /tmp/f: Operation not permitted",
        "60",
        "chgrp: /tmp/f: Operation not permitted",
        "chown: /etc: Operation not permitted",
        "mknod: /tmp/d: Operation not permitted",
    ]);
}

fn programs_with_the_bits_become_their_owner(world: &World) {
    let mut root = world.debian();
    let ran = root.run(
        "cd /opt; for f in user group both plain; do cp /usr/bin/id $f; done; printf '#!/bin/sh\\nid -u\\n' > script
         cp /usr/bin/perl perl; chown 7:8 *; chmod 4755 user script perl; chmod 2755 group; chmod 6755 both",
    );
    root.remember(&ran, &["/opt/user", "/opt/group", "/opt/both", "/opt/plain", "/opt/script", "/opt/perl"]);
    let ran = root.run_as(
        (1000, 50, &[]),
        "cd /opt; for f in user group both plain; do echo $(./$f -u) $(./$f -g) $(./$f -ru); done; ./script
         setpriv --no-new-privs ./user -u; env -C / opt/both -g; cp user copy; ./copy -u
         ./perl -e 'print \"$< $>\\n\"; $> = $<; print \"$< $>\\n\"; $> = 7; print \"$< $>\\n\"; $< = $> = 1000; $> = 7; print \"$< $>\\n\"'",
    );
    ran.says(&[
        "7 50 1000",
        "1000 8 1000",
        "7 8 1000",
        "1000 50 1000",
        "1000",
        "1000",
        "8",
        "1000",
        "1000 7",
        "1000 1000",
        "1000 7",
        "1000 1000",
    ]);
}

fn debians_own_tools_work(world: &World) {
    let mut root = world.debian();
    let ran = root.run(
        "set -e; useradd --create-home --shell /bin/sh joe; stat -c %U:%G /home/joe /home/joe/.profile
         su joe -c 'id -un; cd; touch made; stat -c %U:%G made'; su - joe -c pwd; runuser -u joe -- id -un
         setpriv --reuid=joe --regid=joe --init-groups id -u; setpriv --reuid=7 --regid=8 --clear-groups id
         su joe -c 'su -c id 2>&1 </dev/null' | tail -1
         install -o joe -g nogroup /etc/hostname /opt/i 2>/dev/null || install -o joe -g nogroup /etc/passwd /opt/i
         stat -c %U:%G /opt/i; mkdir /opt/t; chown -R joe: /opt/t; touch /opt/t/f; chown 12345:54321 /opt/t/f
         tar -C /opt -cf /tmp/t.tar t i; mkdir /opt/x; tar -C /opt/x -xpf /tmp/t.tar; stat -c %u:%g /opt/x/t /opt/x/t/f /opt/x/i
         tar -tvf /tmp/t.tar --numeric-owner | awk '{print $2}'; perl -e '$) = \"5 5 6\"; $> = 7; print \"$( $) $< $>\\n\"'
         userdel -r joe 2>/dev/null; test ! -e /home/joe",
    );
    ran.says(&[
        "joe:joe",
        "joe:joe",
        "joe",
        "joe:joe",
        "/home/joe",
        "joe",
        "1000",
        "uid=7(lp) gid=8(mail) groups=8(mail)",
        "Password: su: Authentication failure",
        "joe:nogroup",
        "1000:1000",
        "12345:54321",
        "1000:65534",
        "1000/1000",
        "12345/54321",
        "1000/65534",
        "0 5 6 5 5 6 0 7",
    ]);
    root.owned(&ran, "/opt/x/t/f", (12345, 54321));
}

/// By system call, with the numbers of both machines.
const CALLS: &str = r#"
    my $x86 = qx(uname -m) =~ /x86_64/;
    my %n = $x86 ? (setuid => 105, setreuid => 113, setresuid => 117, setfsuid => 122, setgroups => 116, getgroups => 115, prctl => 157, setresgid => 119)
                 : (setuid => 146, setreuid => 145, setresuid => 147, setfsuid => 151, setgroups => 159, getgroups => 158, prctl => 167, setresgid => 149);
    sub call { my $name = shift; my $r = syscall($n{$name}, @_); print "$name: ", $r < 0 ? $! + 0 : $r, "\n"; }
    sub ids { open my $f, "<", "/proc/self/status"; my ($r, $e) = ($<, $>); print "$r $e\n"; }
"#;

fn ids_are_kept_apart_by_the_kernels_rules(world: &World) {
    let mut root = world.debian();
    let script = format!(
        r#"perl -e '{CALLS}
            $| = 1;
            call("setresuid", 5, 6, 7); ids(); call("setuid", 8); call("setuid", 7); ids(); call("setresuid", -1, 5, -1); ids();
            call("setgroups", 0, 0); call("setresgid", 9, 9, 9);'
        perl -e '{CALLS}
            $| = 1; call("setfsuid", 9); call("setfsuid", -1); open my $f, ">", "/tmp/fs"; print +(stat $f)[4], "\n"; call("setfsuid", 0);
            call("setgroups", 2, pack("LL", 9, 4)); call("getgroups", 1, pack("L", 0)); call("getgroups", 0, 0);
            call("getgroups", 2, 1); call("setuid", -1); call("prctl", 29, 12345);
            if (my $child = fork) {{ waitpid $child, 0; ids() }} else {{ call("setuid", 3); call("prctl", 29, 12345); ids(); exit }}'"#
    );
    root.run(&script).says(&[
        "setresuid: 0",
        "5 6",
        "setuid: 1",
        "setuid: 0",
        "5 7",
        "setresuid: 0",
        "5 5",
        "setgroups: 1",
        "setresgid: 1",
        "setfsuid: 0",
        "setfsuid: 9",
        "9",
        "setfsuid: 9",
        "setgroups: 0",
        "getgroups: 22",
        "getgroups: 2",
        "getgroups: 14",
        "setuid: 22",
        "prctl: 0",
        "setuid: 0",
        "prctl: 0",
        "3 3",
        "0 0",
    ]);
}

fn peers_see_recorded_ids(world: &World) {
    let mut root = world.debian();
    let script = r#"cat > /tmp/peer.pl <<'END'
        use Socket;
        socketpair(my $none, my $nobody, AF_UNIX, SOCK_STREAM, 0);
        my $path = "/tmp/socket";
        socket(my $s, AF_UNIX, SOCK_STREAM, 0); bind($s, sockaddr_un($path)); listen($s, 1);
        my $child = fork;
        if (!$child) {
            $) = "8 8"; $( = 8; $< = 7; $> = 7;
            socket(my $c, AF_UNIX, SOCK_STREAM, 0); connect($c, sockaddr_un($path)) or die; print $c "x"; sysread $c, my $b, 1; exit;
        }
        accept(my $c, $s); my ($pid, $uid, $gid) = unpack "lLL", getsockopt($c, SOL_SOCKET, 17);
        print $pid == $child ? "child" : "$pid", " $uid $gid\n";
END
        chmod 755 /tmp; perl /tmp/peer.pl"#;
    root.run(script).says(&["child 7 8"]);
}

/// setxattr, getxattr and removexattr on a list: owner rwx, user 5 rw, group r, mask rw, others nothing.
fn access_control_lists_are_kept(world: &World) {
    let mut root = world.debian();
    let script = r#"cat > /tmp/acl.pl <<'END'
        my $x86 = qx(uname -m) =~ /x86_64/;
        my ($set, $get, $remove) = $x86 ? (188, 191, 197) : (5, 8, 14);
        my $name = "system.posix_acl_access"; my $path = "/tmp/f";
        my $list = pack "L(SSL)*", 2, 1, 7, -1, 2, 6, 5, 4, 4, -1, 16, 6, -1, 32, 0, -1;
        my $run = shift; my $buffer = "\0" x 100;
        if ($run eq "set") { open my $f, ">", $path; print syscall($set, $path, $name, $list, length $list, 0), "\n"; }
        my $got = syscall($get, $path, $name, $buffer, 100);
        print $got, " ", substr($buffer, 0, $got) eq $list ? "same" : "other", "\n";
        print syscall($get, $path, $name, $buffer, 3), " ", $! + 0, "\n";
        printf "%o\n", (stat $path)[2] & 07777;
        if ($run eq "remove") { print syscall($remove, $path, $name), "\n"; print syscall($get, $path, $name, $buffer, 100), " ", $! + 0, "\n"; }
END
        perl /tmp/acl.pl set"#;
    let ran = root.run(script);
    ran.says(&["0", "44 same", "-1 34", "760"]).count(1);
    let record = root.record(&ran, "/tmp/f");
    assert_eq!(record.xattrs[&b"system.posix_acl_access"[..]].len(), 44);
    root.remember(&ran, &["/tmp/f"]);
    root.run("perl /tmp/acl.pl remove").says(&["44 same", "-1 34", "760", "0", "-1 61"]).count(0);
}
