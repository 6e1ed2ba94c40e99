//! The plain and the quiet view.

use super::*;
use crate::progress::plain::Plain;
use crate::progress::quiet::Quiet;
use crate::progress::{View, color_on_stderr};

/// What the view writes for events at these milliseconds, and for the end of the command at the last.
fn plain(events: impl IntoIterator<Item = (u64, Event)>) -> String {
    let sink = Sink::default();
    let mut view = Plain::new(sink.clone());
    let mut now = 0;
    for (time, event) in events {
        now = time;
        view.event(event, ms(time));
    }
    view.finish(ms(now));
    sink.take()
}

#[test]
fn a_build() {
    let log = plain([
        (0, note("using the overlay storage")),
        (10, started(0, "[build 1/3]", "FROM debian:12")),
        (20, finished(0, 10)),
        (20, cached(1, "[build 2/3]", "COPY . .")),
        (100, started(2, "[build 3/3]", "RUN make")),
        (223, stdout(2, b"cc -c main.c\ncc -c ")),
        (300, stderr(2, b"main.c:1: \x1b[35mwarning\x1b[0m: unused\n\n")),
        (400, stdout(2, b"util.c\nno newline")),
        (1300, finished(2, 1200)),
        (1300, warning("the tag is not pushed\nuse --push")),
    ]);
    let expected = "\
note: using the overlay storage
#1 [build 1/3] FROM debian:12
#1 DONE 0.0s
#2 [build 2/3] COPY . .
#2 CACHED
#3 [build 3/3] RUN make
#3 0.123 cc -c main.c
#3 0.200 main.c:1: warning: unused
#3 0.200
#3 0.300 cc -c util.c
#3 1.200 no newline
#3 DONE 1.2s
warning: the tag is not pushed
  use --push
";
    assert_eq!(log, expected);
}

#[test]
fn tasks_side_by_side_interleave_by_whole_lines() {
    let log = plain([
        (0, started(7, "[a 1/1]", "RUN one")),
        (0, started(3, "[b 1/1]", "RUN two")),
        (100, stdout(7, b"o")),
        (100, stdout(3, b"two\ntw")),
        (200, stdout(7, b"ne\n")),
        (300, failed(3, 300)),
        (400, stdout(7, b"begun")),
    ]);
    let expected = "\
#1 [a 1/1] RUN one
#2 [b 1/1] RUN two
#2 0.100 two
#1 0.200 one
#2 0.300 tw
#2 FAILED 0.3s
#1 0.400 begun
#1 CANCELED
";
    assert_eq!(log, expected);
}

#[test]
fn transfers_are_told_of_now_and_then() {
    let mut events = vec![(0, started(1, "", "sha256:abc"))];
    events.extend((0..12).map(|second| (second * 1000, progress(1, second * 1_000_000, Some(12_000_000)))));
    events.push((12_000, progress(1, 12_000_000, Some(12_000_000))));
    events.push((12_000, finished(1, 12_000)));
    let expected = "\
#1 sha256:abc
#1 5.0 MB / 12.0 MB
#1 10.0 MB / 12.0 MB
#1 DONE 12.0s, 12.0 MB
";
    assert_eq!(plain(events), expected);
}

#[test]
fn a_number_is_not_used_twice() {
    let log = plain([
        (0, started(1, "", "one")),
        (0, finished(1, 0)),
        (0, started(1, "", "another")),
        (0, finished(1, 0)),
        (0, stdout(1, b"late\n")),
        (0, finished(1, 0)),
    ]);
    assert_eq!(log, "#1 one\n#1 DONE 0.0s\n#2 another\n#2 DONE 0.0s\n");
}

#[test]
fn quiet_warns_only() {
    let sink = Sink::default();
    let mut view = Quiet::new(sink.clone());
    for event in [started(1, "", "x"), stdout(1, b"text\n"), note("n"), warning("w"), failed(1, 1)] {
        view.event(event, ms(0));
    }
    view.finish(ms(0));
    assert_eq!(sink.take(), "warning: w\n");
}

#[test]
fn tests_have_no_terminal() {
    // Only that asking is safe when stderr is whatever the test runner made of it.
    let _ = color_on_stderr();
}
