//! What must not happen: a supervisor that waits for a step's files, believes it, or is there without need.

use cooper_runtime::step::Outcome;

use crate::Case;
use crate::world::World;

pub(crate) const CASES: &[Case] = &[
    ("a_step_that_is_not_recorded_has_no_filter", a_step_that_is_not_recorded_has_no_filter),
    ("odd_files_and_arguments_stop_nobody", odd_files_and_arguments_stop_nobody),
    ("no_path_leads_out_of_the_step", no_path_leads_out_of_the_step),
    ("links_of_proc_are_the_kernels", links_of_proc_are_the_kernels),
    ("mount_namespaces_are_told_apart", mount_namespaces_are_told_apart),
    ("a_step_ends_as_ever", a_step_ends_as_ever),
    ("many_tasks_at_once_get_their_own_answers", many_tasks_at_once_get_their_own_answers),
];

fn a_step_that_is_not_recorded_has_no_filter(world: &World) {
    let mut root = world.busybox();
    let ran = root.step(
        None,
        (0, 0, &[]),
        "grep Seccomp: /proc/self/status; touch /tmp/f; chown 5 /tmp/f 2>&1 || true",
    );
    ran.says(&["Seccomp:\t0", "chown: /tmp/f: Invalid argument"]).count(0);
    let ran =
        root.run("grep Seccomp: /proc/self/status; ls /proc/self/fd | wc -l; touch /tmp/f; chown 5 /tmp/f");
    ran.says(&["Seccomp:\t2", "4"]).count(1);
}

fn odd_files_and_arguments_stop_nobody(world: &World) {
    let mut root = world.debian();
    let script = r#"cd /tmp; mkfifo p; chown 5 p; chmod 4755 p; (exec /tmp/p) 2>/dev/null; stat -c %u p
        long=$(printf 'd/%.0s' $(seq 2100)); chown 5 $long 2>&1 | grep -c 'File name too long'
        perl -e 'my ($name, $empty) = ("/tmp/p", ""); my ($chown, $stat, $open) = qx(uname -m) =~ /x86_64/ ? (260, 262, 257) : (54, 79, 56);
            for (1, 7, -1) { print syscall($chown, -100, $_, 5, 5, 0), " ", $! + 0, "\n" }
            print syscall($stat, -100, $name, 1, 0), " ", $! + 0, "\n";
            print syscall($stat, 77, $empty, 1, 0x1000), " ", $! + 0, "\n";
            print syscall($open, -100, $empty, 0101, 0644), " ", $! + 0, "\n"; print syscall(425, 1, 0), " ", $! + 0, "\n"'
        setpriv --reuid=5 --clear-groups sh -c 'touch . 2>&1; touch a/ 2>&1; true > /tmp/nowhere/x; mkdir /; mkdir /tmp/..; ln -s loop loop; true > loop' 2>&1"#;
    let ran = root.try_step(recorded(), (0, 0, &[]), script);
    let lines: Vec<&str> = ran.output.lines().collect();
    let expected = ["5", "1", "-1 14", "-1 14", "-1 14", "-1 14", "-1 9", "-1 2", "-1 38"];
    assert_eq!(lines.get(..expected.len()), Some(&expected[..]), "{}", ran.output);
    let said = [
        "No such file or directory",
        "File exists",
        "Too many levels of symbolic links|Too many symbolic links",
    ];
    for text in said {
        assert!(text.split('|').any(|t| ran.output.contains(t)), "{text}\n{}", ran.output);
    }
}

fn recorded() -> Option<cooper_runtime::recording::Recording> {
    use cooper_runtime::recording::{Recording, Scope};
    Some(Recording { scope: Scope::Everything, known: Vec::new(), upper: None, settled: None, watch: false })
}

fn no_path_leads_out_of_the_step(world: &World) {
    let mut root = world.debian();
    let outside = root.path().with_file_name("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), "kept").unwrap();
    let script = format!(
        r#"for up in /proc/self/../.. /proc/self/fd/../../.. /proc/thread-self/task/../../../..; do
             out=$up{}
             perl -e 'my ($f) = @ARGV; chown 5, 5, "$f/file"; unlink "$f/file"; rename "$f/file", "$f/moved"; link "$f/file", "/tmp/l";
                      $) = 5; $> = 5; mkdir "$f/d"; symlink "x", "$f/s"; open F, ">", "$f/new" and print "made\n"; -e "$f/file" and print "seen\n"' $out
           done; true"#,
        outside.display()
    );
    root.run(&script).says(&[]);
    let names: Vec<_> = std::fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["file"]);
    assert_eq!(std::fs::read_to_string(outside.join("file")).unwrap(), "kept");
}

fn links_of_proc_are_the_kernels(world: &World) {
    let mut root = world.busybox();
    let script = "chmod 1777 /tmp; touch /tmp/gone; exec 3>/tmp/gone; rm /tmp/gone; exec 4>&1
        for to in /dev/stdout /proc/self/fd/1 /dev/fd/1 /proc/$$/fd/4; do echo $to > $to; done
        echo x > /proc/$$/fd/3; ls /tmp";
    let ran = root.try_step(recorded(), (7, 7, &[]), script);
    let said = "/dev/stdout\n/proc/self/fd/1\n/dev/fd/1\n/proc/1/fd/4\n";
    assert_eq!(ran.output, said);
}

fn mount_namespaces_are_told_apart(world: &World) {
    let mut root = world.debian();
    let script = "chmod 1777 /mnt; echo outer > /mnt/f; chown 5 /mnt/f
        unshare --map-root-user --mount sh -c 'mount -t tmpfs none /mnt; echo inner > /mnt/f; chown 7 /mnt/f; stat -c %u /mnt/f
            setpriv --reuid=9 --clear-groups mkdir /mnt/d; rm /mnt/f; ls /mnt'
        stat -c '%u %n' /mnt/*; cat /mnt/f";
    root.run(script).says(&["7", "d", "5 /mnt/f", "outer"]);
}

fn a_step_ends_as_ever(world: &World) {
    let mut root = world.busybox();
    assert_eq!(root.try_step(recorded(), (0, 0, &[]), "exit 3").outcome, Outcome::Exited(3));
    let ran = root.try_step(recorded(), (7, 7, &[]), "touch /tmp/f; sleep 100 & kill -9 $$; touch /tmp/g");
    assert!(matches!(ran.outcome, Outcome::Exited(_) | Outcome::Signaled(_)), "{:?}", ran.outcome);
    // Records are kept when the step fails: what becomes of them the builder decides.
    let ran = root.try_step(recorded(), (7, 7, &[]), "touch /tmp/h; exit 1");
    root.owned(&ran, "/tmp/h", (7, 7));
    let ran = root.try_step(recorded(), (0, 0, &[]), "mkdir -p /x && rm /bin/sh && exec /bin/sh");
    assert_eq!(ran.outcome, Outcome::Exited(127), "{}", ran.output);
}

fn many_tasks_at_once_get_their_own_answers(world: &World) {
    let mut root = world.debian();
    let ran = root.run(
        "chmod 1777 /tmp; for u in $(seq 1 20); do (setpriv --reuid=$u --regid=$u --clear-groups sh -c '
             for n in $(seq 20); do touch /tmp/'$u'-$n; mkdir /tmp/'$u'-d$n; done') & done; wait
         find /tmp -mindepth 1 -printf '%U %G %f\\n' | awk '{ split($3, part, \"-\"); if ($1 != part[1] || $2 != $1) print }'",
    );
    ran.says(&[]).count(800);
}
