//! What must not happen: a supervisor that waits for a step's files, believes it, or is there without need.

use cooper_runtime::step::Outcome;

use crate::Case;
use crate::world::World;

pub(crate) const CASES: &[Case] = &[
    ("a_step_that_is_not_recorded_has_no_filter", a_step_that_is_not_recorded_has_no_filter),
    ("odd_files_and_arguments_stop_nobody", odd_files_and_arguments_stop_nobody),
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
