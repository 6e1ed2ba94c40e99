//! Numbered lines, for logs and pipes.
//!
//! ```text
//! #1 [build 2/5] RUN make
//! #1 0.123 cc -c main.c
//! #1 DONE 1.2s
//! #2 [build 3/5] COPY . .
//! #2 CACHED
//! ```
//!
//! Tasks are numbered from 1 in the order in which they are first heard of. Those that run side by side
//! interleave by whole lines; the number says whose a line is.

use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use super::lines::Lines;
use super::text::{bytes, notice, seconds, title, transferred};
use super::{Event, Stream, TaskId, View};

/// How often a log hears of a transfer that is under way.
const TRANSFER_EVERY: Duration = Duration::from_secs(5);

/// Writes lines to `W`.
pub(super) struct Plain<W> {
    out: W,
    /// Tasks heard of so far, ended ones included.
    count: usize,
    running: HashMap<TaskId, Task>,
}

struct Task {
    number: usize,
    began: Duration,
    stdout: Lines,
    stderr: Lines,
    done: Option<u64>,
    /// When a line about the transfer was last written.
    told: Duration,
}

impl<W: Write + Send> Plain<W> {
    pub(super) fn new(out: W) -> Plain<W> {
        Plain { out, count: 0, running: HashMap::new() }
    }

    /// Takes a task up, giving it its number.
    fn begin(&mut self, now: Duration) -> Task {
        self.count += 1;
        Task {
            number: self.count,
            began: now,
            stdout: Lines::default(),
            stderr: Lines::default(),
            done: None,
            told: now,
        }
    }

    /// Ends a task: its begun lines, then its fate.
    fn end(&mut self, mut task: Task, now: Duration, fate: &str) {
        let mut text = String::new();
        let (number, time) = (task.number, now.saturating_sub(task.began));
        task.stdout.finish(|line| output(&mut text, number, time, &line));
        task.stderr.finish(|line| output(&mut text, number, time, &line));
        let size = task.done.map(|done| format!(", {}", bytes(done))).unwrap_or_default();
        text += &format!("#{number} {fate}{size}\n");
        self.write(&text);
    }

    /// Whole lines go out in one call, so that other writers to the same log do not split them.
    fn write(&mut self, text: &str) {
        if !text.is_empty() {
            let _ = self.out.write_all(text.as_bytes());
        }
    }
}

impl<W: Write + Send> View for Plain<W> {
    fn event(&mut self, event: Event, now: Duration) {
        match event {
            Event::Started { task, label, text } => {
                let begun = self.begin(now);
                self.write(&format!("#{} {}\n", begun.number, title(&label, &text)));
                self.running.insert(task, begun);
            }
            Event::Cached { label, text, .. } => {
                let number = self.begin(now).number;
                self.write(&format!("#{number} {}\n#{number} CACHED\n", title(&label, &text)));
            }
            Event::Output { task, stream, bytes } => {
                let Some(task) = self.running.get_mut(&task) else { return };
                let (number, time) = (task.number, now.saturating_sub(task.began));
                let lines = match stream {
                    Stream::Stdout => &mut task.stdout,
                    Stream::Stderr => &mut task.stderr,
                };
                let mut text = String::new();
                lines.push(&bytes, |line| output(&mut text, number, time, &line));
                self.write(&text);
            }
            Event::Progress { task, done, total } => {
                let Some(task) = self.running.get_mut(&task) else { return };
                task.done = Some(done);
                if now.saturating_sub(task.told) >= TRANSFER_EVERY {
                    task.told = now;
                    let line = format!("#{} {}\n", task.number, transferred(done, total));
                    self.write(&line);
                }
            }
            Event::Finished { task, elapsed } => {
                if let Some(task) = self.running.remove(&task) {
                    self.end(task, now, &format!("DONE {}", seconds(elapsed)));
                }
            }
            Event::Failed { task, elapsed } => {
                if let Some(task) = self.running.remove(&task) {
                    self.end(task, now, &format!("FAILED {}", seconds(elapsed)));
                }
            }
            Event::Warning { text } => self.write(&(notice("warning", &text).join("\n") + "\n")),
            Event::Note { text } => self.write(&(notice("note", &text).join("\n") + "\n")),
        }
    }

    fn finish(&mut self, now: Duration) {
        let mut left: Vec<Task> = self.running.drain().map(|(_, task)| task).collect();
        left.sort_by_key(|task| task.number);
        for task in left {
            self.end(task, now, "CANCELED");
        }
    }
}

/// Appends a line of a RUN's output: when, in seconds since the task began, and what.
fn output(text: &mut String, number: usize, time: Duration, line: &str) {
    let line = format!("#{number} {:.3} {line}", time.as_secs_f64());
    text.push_str(line.trim_end());
    text.push('\n');
}
