//! What the live view puts on the terminal.
//!
//! Below everything that is over, and scrolls away, there is a region that is drawn again and again: the
//! running tasks, each with its clock and the last lines of its output. It is never higher than the
//! terminal, since the cursor cannot go back to what has scrolled off, and no line in it is wider.
//!
//! `indicatif` would do this too, for some thirty more packages in Cargo.lock and less say in what a line
//! looks like.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::lines::Lines;
use super::tail::fitting;
use super::text::{self, clock, cut, notice, title, transferred, width};
use super::{Event, Stream, Tail, TaskId};

/// How often clocks move, and output is shown.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// Most lines of output below a running task.
const OUTPUT_LINES: usize = 6;
/// Width of a transfer's bar; left out on terminals narrower than [`BAR_FROM`].
const BAR: usize = 16;
const BAR_FROM: usize = 70;

/// How the view looks.
#[derive(Clone, Copy)]
pub(super) struct Look {
    /// Whether there are colours, dimmed text included.
    pub(super) color: bool,
    /// Whether the terminal is known to show more than ASCII.
    pub(super) unicode: bool,
}

impl Look {
    pub(super) fn of_environment() -> Look {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
        let unicode = locale.is_some_and(|locale| {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        });
        Look { color: !super::no_color(), unicode }
    }
}

/// What is on the terminal, and how to change it. Has no clock of its own.
pub(super) struct Screen {
    out: Box<dyn Write + Send>,
    size: Box<dyn Fn() -> (usize, usize) + Send>,
    look: Look,
    /// Whether the ticker is to go on.
    pub(super) ticking: bool,
    /// The ticker's directory below `/proc`.
    pub(super) thread: Option<PathBuf>,
    /// The running tasks, in the order in which they started.
    tasks: Vec<Task>,
    /// Lines to stand above the live region for good, not written yet.
    above: Vec<String>,
    /// The widths of the live region's lines, as they were last drawn.
    drawn: Vec<usize>,
    drawn_at: Duration,
}

struct Task {
    id: TaskId,
    title: String,
    began: Duration,
    stdout: Lines,
    stderr: Lines,
    /// More of the output than is shown, for the case of failure.
    output: Tail,
    transfer: Option<(u64, Option<u64>)>,
}

/// The kinds of line, with the marks that they begin with.
#[derive(Clone, Copy)]
enum Mark {
    Running,
    Transfer,
    Done,
    Cached,
    Failed,
    Stopped,
}

impl Screen {
    /// A screen of `size()` columns and rows, which may change at any time.
    pub(super) fn new(
        out: Box<dyn Write + Send>,
        size: Box<dyn Fn() -> (usize, usize) + Send>,
        look: Look,
    ) -> Screen {
        Screen {
            out,
            size,
            look,
            ticking: false,
            thread: None,
            tasks: Vec::new(),
            above: Vec::new(),
            drawn: Vec::new(),
            drawn_at: Duration::ZERO,
        }
    }

    /// Whether a task is running.
    pub(super) fn is_busy(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// Takes an event and draws: at once what is new, with the next tick what only has changed.
    pub(super) fn event(&mut self, event: Event, now: Duration) {
        let mut at_once = true;
        match event {
            Event::Started { task, label, text } => {
                self.tasks.retain(|other| other.id != task);
                self.tasks.push(Task {
                    id: task,
                    title: title(&label, &text),
                    began: now,
                    stdout: Lines::default(),
                    stderr: Lines::default(),
                    output: Tail::new(1000, 256 * 1024),
                    transfer: None,
                });
            }
            Event::Cached { label, text, .. } => {
                let columns = (self.size)().0;
                let line = self.line(Mark::Cached, &title(&label, &text), "cached", columns, now);
                self.above.push(line);
            }
            Event::Output { task, stream, bytes } => {
                if let Some(task) = self.tasks.iter_mut().find(|other| other.id == task) {
                    let lines = match stream {
                        Stream::Stdout => &mut task.stdout,
                        Stream::Stderr => &mut task.stderr,
                    };
                    lines.push(&bytes, |line| task.output.push_line(line));
                }
                at_once = false;
            }
            Event::Progress { task, done, total } => {
                if let Some(task) = self.tasks.iter_mut().find(|other| other.id == task) {
                    task.transfer = Some((done, total));
                }
                at_once = false;
            }
            Event::Finished { task, elapsed } => self.end(task, Mark::Done, &clock(elapsed), now),
            Event::Failed { task, elapsed } => self.end(task, Mark::Failed, &clock(elapsed), now),
            Event::Warning { text } => {
                let mut lines = notice("warning", &text);
                if let Some(rest) = lines[0].strip_prefix("warning:") {
                    lines[0] = format!("{}{rest}", self.paint("33", "warning:"));
                }
                self.above.append(&mut lines);
            }
            Event::Note { text } => self.above.append(&mut notice("note", &text)),
        }
        if at_once || now.saturating_sub(self.drawn_at) >= TICK {
            self.draw(now);
        }
    }

    /// Turns what still runs into lines that say so, and leaves the cursor below everything.
    pub(super) fn finish(&mut self) {
        let now = self.drawn_at;
        while let Some(id) = self.tasks.first().map(|task| task.id) {
            self.end(id, Mark::Stopped, "stopped", now);
        }
        if !self.drawn.is_empty() || !self.above.is_empty() {
            self.draw(now);
        }
    }

    /// Moves a task from the live region to what is over.
    fn end(&mut self, id: TaskId, mark: Mark, right: &str, now: Duration) {
        let Some(index) = self.tasks.iter().position(|task| task.id == id) else { return };
        let columns = (self.size)().0;
        let mut task = self.tasks.remove(index);
        task.stdout.finish(|line| task.output.push_line(line));
        task.stderr.finish(|line| task.output.push_line(line));
        let right = match task.transfer {
            Some((done, _)) => format!("{}  {right:>6}", text::bytes(done)),
            None => right.to_string(),
        };
        let line = self.line(mark, &task.title, &right, columns, now);
        self.above.push(line);
        if matches!(mark, Mark::Failed) {
            // The error that follows shows the output's tail. What came before it is shown here, or it
            // would be lost with the live region.
            let lines = task.output.lines();
            let told = fitting(lines.iter(), Tail::LINES, Tail::BYTES);
            for line in &lines[..lines.len() - told] {
                self.above.push(format!("   {}", self.paint("2", line)));
            }
        }
    }

    /// Replaces the live region, after what has to stand above it.
    pub(super) fn draw(&mut self, now: Duration) {
        let (columns, rows) = (self.size)();
        let live = self.live(columns, rows, now);
        // Terminals wrap lines anew when they become narrower: then a line drawn earlier takes several.
        let up: usize = self.drawn.iter().map(|line| line.div_ceil(columns.max(1)).max(1)).sum();
        let mut text = String::from("\r");
        if up > 0 {
            text += &format!("\x1b[{up}A");
        }
        if !self.above.is_empty() {
            text += "\x1b[J";
        }
        for line in self.above.drain(..) {
            text += &line;
            text.push('\n');
        }
        self.drawn.clear();
        for (width, line) in live {
            // Erasing after the text, not before, keeps lines that stay the same from flickering. It is
            // safe because no line reaches the last column.
            text += &line;
            text += "\x1b[K\n";
            self.drawn.push(width);
        }
        text += "\x1b[J";
        // In one piece, so that no other writer's text ends up between the parts.
        let _ = self.out.write_all(text.as_bytes());
        let _ = self.out.flush();
        self.drawn_at = now;
    }

    /// The live region: at most `rows` - 1 lines, each with its width.
    fn live(&self, columns: usize, rows: usize, now: Duration) -> Vec<(usize, String)> {
        let room = rows.saturating_sub(1);
        if room == 0 {
            return Vec::new();
        }
        let mut shown = self.tasks.len();
        if shown > room {
            shown = room - 1;
        }
        let hidden = self.tasks.len() - shown;
        let talking = self.tasks[..shown].iter().filter(|task| !task.is_silent()).count();
        let left = room - shown - usize::from(hidden > 0);
        let each = left.checked_div(talking).unwrap_or(0).min(OUTPUT_LINES);
        let mut live = Vec::new();
        for task in &self.tasks[..shown] {
            let time = clock(now.saturating_sub(task.began));
            let (mark, right) = match task.transfer {
                Some((done, total)) => {
                    let bar = total.filter(|_| columns >= BAR_FROM).map(|total| self.bar(done, total));
                    let bar = bar.map(|bar| bar + "  ").unwrap_or_default();
                    (Mark::Transfer, format!("{bar}{}  {time:>6}", transferred(done, total)))
                }
                None => (Mark::Running, time),
            };
            let line = self.line(mark, &task.title, &right, columns, now);
            live.push((columns.saturating_sub(1), line));
            let room = columns.saturating_sub(4);
            let begun = [&task.stdout, &task.stderr].into_iter().filter_map(Lines::partial);
            let lines: Vec<String> = task.output.last(each).cloned().chain(begun).collect();
            for line in &lines[lines.len().saturating_sub(each)..] {
                let line = cut(line, room, self.more());
                live.push((width(&line) + 3, format!("   {}", self.paint("2", &line))));
            }
        }
        if hidden > 0 {
            let line = cut(&format!("   and {hidden} more"), columns.saturating_sub(1), "");
            live.push((width(&line), line));
        }
        live
    }

    /// A task's line: mark, title, and at the right edge its time or fate; the last column stays free.
    fn line(&self, mark: Mark, title: &str, right: &str, columns: usize, now: Duration) -> String {
        const SPIN: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
        const SPIN_ASCII: [&str; 4] = ["|", "/", "-", "\\"];
        let turn = (now.as_millis() / TICK.as_millis()) as usize;
        let (unicode, ascii, color) = match mark {
            Mark::Running => (SPIN[turn % SPIN.len()], SPIN_ASCII[turn % SPIN_ASCII.len()], "34"),
            Mark::Transfer => ("↓", "*", "34"),
            Mark::Done => ("✓", "+", "32"),
            Mark::Cached => ("≡", "=", "36"),
            Mark::Failed => ("✗", "x", "1;31"),
            Mark::Stopped => ("-", "-", "33"),
        };
        let sign = if self.look.unicode { unicode } else { ascii };
        // Blank, mark, blank, title, two blanks, right, free column. A very narrow terminal gets no right.
        let room = columns.saturating_sub(width(right) + 6);
        let (room, right) = if room < 8 { (columns.saturating_sub(4), "") } else { (room, right) };
        let text = cut(title, room, self.more());
        let gap = if right.is_empty() { 0 } else { room - width(&text) + 2 };
        let text = if matches!(mark, Mark::Failed) { self.paint("1", &text) } else { text };
        format!(" {} {text}{:gap$}{}", self.paint(color, sign), "", self.paint("2", right))
    }

    fn bar(&self, done: u64, total: u64) -> String {
        let filled = match total {
            0 => BAR,
            _ => (u128::from(done.min(total)) * BAR as u128 / u128::from(total)) as usize,
        };
        let (full, empty) = if self.look.unicode { ("━", "─") } else { ("#", "-") };
        full.repeat(filled) + &empty.repeat(BAR - filled)
    }

    fn more(&self) -> &'static str {
        if self.look.unicode { "…" } else { "..." }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.look.color && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }
}

impl Task {
    /// Whether there is no output to show.
    fn is_silent(&self) -> bool {
        self.output.last(1).next().is_none()
            && self.stdout.partial().is_none()
            && self.stderr.partial().is_none()
    }
}
