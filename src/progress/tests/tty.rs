//! The live view, as a terminal would show it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::*;
use crate::progress::Progress;
use crate::progress::screen::{Look, Screen};
use crate::progress::tty::Tty;

/// Just enough of a terminal: text, wrapping, newline, carriage return, cursor up, two kinds of erasing.
/// Anything else is a mistake of the view's.
struct Terminal {
    columns: usize,
    rows: usize,
    lines: Vec<Vec<char>>,
    row: usize,
    column: usize,
}

impl Terminal {
    fn new(columns: usize, rows: usize) -> Terminal {
        Terminal { columns, rows, lines: vec![vec![]], row: 0, column: 0 }
    }

    fn show(&mut self, text: &str) {
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '\r' => self.column = 0,
                '\n' => {
                    self.column = 0;
                    self.down();
                }
                '\x1b' => {
                    assert_eq!(chars.next(), Some('['));
                    let mut sequence = String::new();
                    while !sequence.ends_with(|c: char| c.is_ascii_alphabetic()) {
                        sequence.push(chars.next().expect("a whole sequence in one write"));
                    }
                    self.obey(&sequence);
                }
                c => {
                    assert!(!c.is_control(), "{c:?}");
                    if self.column == self.columns {
                        self.column = 0;
                        self.down();
                    }
                    let line = &mut self.lines[self.row];
                    if line.len() <= self.column {
                        line.resize(self.column + 1, ' ');
                    }
                    line[self.column] = c;
                    self.column += 1;
                }
            }
        }
    }

    fn down(&mut self) {
        self.row += 1;
        if self.row == self.lines.len() {
            self.lines.push(vec![]);
        }
    }

    fn obey(&mut self, sequence: &str) {
        let (parameters, last) = sequence.split_at(sequence.len() - 1);
        match last {
            "A" => {
                self.row -= parameters.parse::<usize>().unwrap();
                // What has scrolled off cannot be reached.
                assert!(self.row + self.rows >= self.lines.len(), "the cursor left the terminal");
            }
            "K" => self.lines[self.row].truncate(self.column),
            "J" => {
                self.lines[self.row].truncate(self.column);
                self.lines.truncate(self.row + 1);
            }
            _ => panic!("unexpected sequence {sequence:?}"),
        }
    }

    fn text(&self) -> String {
        let lines: Vec<String> =
            self.lines.iter().map(|line| line.iter().collect::<String>().trim_end().to_string()).collect();
        lines.join("\n")
    }
}

/// A screen without colours and the terminal that it draws on.
struct Watched {
    screen: Screen,
    sink: Sink,
    terminal: Terminal,
}

impl Watched {
    fn new(columns: usize, rows: usize) -> Watched {
        let sink = Sink::default();
        let look = Look { color: false, unicode: true };
        let screen = Screen::new(Box::new(sink.clone()), Box::new(move || (columns, rows)), look);
        Watched { screen, sink, terminal: Terminal::new(columns, rows) }
    }

    fn event(&mut self, time: u64, event: Event) {
        self.screen.event(event, ms(time));
        self.terminal.show(&self.sink.take());
    }

    fn draw(&mut self, time: u64) -> String {
        self.screen.draw(ms(time));
        self.terminal.show(&self.sink.take());
        self.terminal.text()
    }

    fn finish(&mut self) -> String {
        self.screen.finish();
        self.terminal.show(&self.sink.take());
        self.terminal.text()
    }
}

#[test]
fn a_build() {
    let mut view = Watched::new(60, 24);
    view.event(0, started(1, "[build 1/4]", "FROM debian:12"));
    view.event(400, finished(1, 412));
    view.event(400, cached(2, "[build 2/4]", "RUN apt-get update && apt-get install -y build-essential"));
    view.event(400, started(3, "[build 3/4]", "RUN make"));
    view.event(500, stdout(3, b"one\ntwo\nthree\nfour\nfive\nsix\nseven\nei"));
    let shown = view.draw(12_700);
    let expected = "
 ✓ [build 1/4] FROM debian:12                          0.4s
 ≡ [build 2/4] RUN apt-get update && apt-get insta…  cached
 ⠧ [build 3/4] RUN make                               12.3s
   three
   four
   five
   six
   seven
   ei
";
    assert_eq!(format!("\n{shown}"), expected);

    view.event(12_750, warning("this is not cut, however long it is, since a message is all read"));
    view.event(12_800, finished(3, 12_400));
    let expected = "
 ✓ [build 1/4] FROM debian:12                          0.4s
 ≡ [build 2/4] RUN apt-get update && apt-get insta…  cached
warning: this is not cut, however long it is, since a messag
e is all read
 ✓ [build 3/4] RUN make                               12.4s
";
    assert_eq!(format!("\n{}", view.finish()), expected);
    assert_eq!(format!("\n{}", view.finish()), expected, "a second time changes nothing");
}

#[test]
fn transfers_have_bars() {
    let mut view = Watched::new(80, 24);
    view.event(0, started(1, "", "sha256:4abcf20661432fb2d719aaf90656f55c287f8ca915dc1c92ec14ff61e67fbaf8"));
    view.event(0, started(2, "", "sha256:d17f077ada118cc762df373ff803592abf2dfa3ddafaa7381e364dd27a88fca7"));
    view.event(0, progress(1, 14_000_000, Some(28_000_000)));
    view.event(0, progress(2, 300, None));
    let expected = "
 ↓ sha256:4abcf20661432fb2d719aaf…  ━━━━━━━━────────  14.0 MB / 28.0 MB    2.0s
 ↓ sha256:d17f077ada118cc762df373ff803592abf2dfa3ddafaa7381e364…  300 B    2.0s
";
    assert_eq!(format!("\n{}", view.draw(2_000)), expected);
    view.event(3_000, progress(1, 28_000_000, Some(28_000_000)));
    view.event(3_000, finished(1, 3_000));
    let expected = "
 ✓ sha256:4abcf20661432fb2d719aaf90656f55c287f8ca915dc1c92ec1…  28.0 MB    3.0s
 - sha256:d17f077ada118cc762df373ff803592abf2dfa3ddafaa7381e36…  300 B  stopped
";
    assert_eq!(format!("\n{}", view.finish()), expected);
}

#[test]
fn failure_shows_what_the_error_will_not() {
    let mut view = Watched::new(40, 24);
    view.event(0, started(1, "[a 1/1]", "RUN make"));
    let output: String = (1..=23).map(|number| format!("line {number}\n")).collect();
    view.event(0, stdout(1, output.as_bytes()));
    view.event(100, failed(1, 61_000));
    let expected = "
 ✗ [a 1/1] RUN make               1m01s
   line 1
   line 2
   line 3
";
    assert_eq!(format!("\n{}", view.finish()), expected);
}

#[test]
fn output_cannot_move_the_cursor() {
    let mut view = Watched::new(30, 24);
    view.event(0, started(1, "[a 1/1]", "RUN \x1b[2Jx"));
    view.event(
        0,
        stdout(
            1,
            b"\x1b[2J\x1b[H\x1b]0;title\x07\x1b[31mred\n\ttabbed and far too long for this\n\r50%\r60%",
        ),
    );
    let expected = "
 ⠋ [a 1/1] RUN [2Jx      0.0s
   red
           tabbed and far to…
   60%
";
    assert_eq!(format!("\n{}", view.draw(0)), expected);
}

#[test]
fn the_live_region_never_exceeds_the_terminal() {
    // The terminal of these tests fails when the cursor goes higher than it could, and every line that
    // wraps would make it do so.
    for (columns, rows) in [(80, 24), (30, 7), (20, 3), (9, 2), (5, 1)] {
        let mut view = Watched::new(columns, rows);
        for task in 0..12 {
            view.event(0, started(task, "[stage 1/1]", "RUN something or other"));
            if task % 2 == 0 {
                view.event(0, stdout(task, "some text that is long\n".repeat(10).as_bytes()));
            } else if task % 3 == 0 {
                view.event(0, progress(task, 1 << 40, Some(1 << 41)));
            }
            let before = view.terminal.lines.len();
            assert!(before <= rows.max(2), "{before} lines on {rows} rows");
        }
        view.draw(360_000_000);
        assert!(view.terminal.lines.len() <= rows.max(2));
        let text = view.finish();
        assert_eq!(text.trim_end().lines().count(), 12);
    }
}

#[test]
fn what_does_not_fit_is_counted() {
    let mut view = Watched::new(40, 4);
    for task in 0..5 {
        view.event(0, started(task, "", "task"));
    }
    let expected = "
 ⠋ task                            0.0s
 ⠋ task                            0.0s
   and 3 more
";
    assert_eq!(format!("\n{}", view.draw(0)), expected);
}

#[test]
fn a_terminal_made_narrower_is_cleaned() {
    let columns = Arc::new(AtomicUsize::new(60));
    let sink = Sink::default();
    let asked = Arc::clone(&columns);
    let mut screen = Screen::new(
        Box::new(sink.clone()),
        Box::new(move || (asked.load(Ordering::Relaxed), 24)),
        Look { color: false, unicode: false },
    );
    screen.event(started(1, "[a 1/1]", "RUN make"), ms(0));
    sink.take();
    columns.store(25, Ordering::Relaxed);
    screen.draw(ms(100));
    // 59 columns wrapped at 25 are three rows.
    assert_eq!(sink.take(), "\r\x1b[3A / [a 1/1] RUN ...  0.1s\x1b[K\n\x1b[J");
}

#[test]
fn colours_and_marks_are_left_to_the_terminal_that_has_them() {
    let look = |color, unicode| {
        let sink = Sink::default();
        let mut screen = Screen::new(Box::new(sink.clone()), Box::new(|| (30, 24)), Look { color, unicode });
        screen.event(cached(1, "", "COPY a b"), ms(0));
        screen.event(warning("w"), ms(0));
        sink.take()
    };
    assert_eq!(look(false, false), "\r\x1b[J = COPY a b            cached\n\x1b[J\r\x1b[Jwarning: w\n\x1b[J");
    assert_eq!(
        look(true, true),
        "\r\x1b[J \x1b[36m≡\x1b[0m COPY a b            \x1b[2mcached\x1b[0m\n\x1b[J\
         \r\x1b[J\x1b[33mwarning:\x1b[0m w\n\x1b[J"
    );
}

/// A view with its ticker, on an 80×24 terminal, and what it writes.
fn ticking() -> (Tty, Sink) {
    let sink = Sink::default();
    let look = Look { color: false, unicode: true };
    (Tty::new(Screen::new(Box::new(sink.clone()), Box::new(|| (80, 24)), look)), sink)
}

/// Waits for a condition that another thread brings about.
fn soon(mut condition: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while !condition() {
        if begin.elapsed() > ms(10_000) {
            return false;
        }
        std::thread::sleep(ms(5));
    }
    true
}

#[test]
fn the_thread_comes_with_the_first_task_and_goes_with_pause() {
    let (view, sink) = ticking();
    view.event(note("n"));
    view.event(cached(1, "", "cached"));
    assert_eq!(view.thread(), None, "nothing runs yet");

    view.event(started(2, "", "runs"));
    let thread = view.thread().expect("a ticker");
    assert!(thread.exists());
    sink.take();
    assert!(soon(|| sink.take().contains("0.2s")), "the clock does not move");

    view.pause();
    assert!(!thread.exists(), "the kernel still has the thread");
    assert_eq!(view.thread(), None);
    view.event(started(3, "", "while paused"));
    assert_eq!(view.thread(), None);
    assert!(sink.take().contains("while paused"));

    view.resume();
    assert!(view.thread().is_some());
    // Again and again: joining alone would be enough nearly always.
    for _ in 0..300 {
        let thread = view.thread().unwrap();
        view.pause();
        assert!(!thread.exists(), "the kernel still has the thread");
        view.resume();
    }
    sink.take();
    assert!(soon(|| !sink.take().is_empty()));
    view.finish();
    assert_eq!(view.thread(), None);
    view.event(started(4, "", "too late"));
    assert_eq!(view.thread(), None);
}

#[test]
fn many_threads_may_talk_at_once() {
    let (view, sink) = ticking();
    std::thread::scope(|scope| {
        for task in 0..8 {
            let view = &view;
            scope.spawn(move || {
                for _ in 0..50 {
                    view.event(started(task, "", "task"));
                    view.event(stdout(task, b"text\n"));
                    view.event(finished(task, 1));
                }
            });
        }
        for _ in 0..20 {
            view.pause();
            view.resume();
        }
    });
    drop(view);
    let mut terminal = Terminal::new(80, 24);
    terminal.show(&sink.take());
    assert_eq!(terminal.text().matches("✓ task").count(), 400);
}
