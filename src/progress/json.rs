//! One JSON object a line, for programs.
//!
//! Every object has `event`, and `time`: seconds since the command began to show progress, to the
//! millisecond. The others depend on the event:
//!
//! | `event` | fields |
//! |---|---|
//! | `started`, `cached` | `task` (a number), `label`, `text` |
//! | `output` | `task`, `stream` (`stdout` or `stderr`), `text`: as written, escape sequences included; bytes that are not UTF-8 become U+FFFD, a character cut in two by a read stays whole |
//! | `progress` | `task`, `done` in bytes, and `total` if known; at most ten a second for each task, the last one always |
//! | `finished`, `failed` | `task`, `elapsed` in seconds |
//! | `canceled` | `task`: it was running when the command ended |
//! | `warning`, `note` | `text` |
//!
//! A command that fails ends the stream with one object of its own making ([`CliError::to_json`]).
//!
//! [`CliError::to_json`]: crate::cli::error::CliError::to_json
//!
//! New events and fields may come; readers are to skip what they do not know.

use std::collections::BTreeMap;
use std::io::Write;
use std::mem::take;
use std::time::Duration;

use serde::Serialize;

use super::{Event, Stream, TaskId, View};

/// Least time between two objects about the same transfer.
const TRANSFER_EVERY: Duration = Duration::from_millis(100);

/// Writes objects to `W`.
pub(super) struct Json<W> {
    out: W,
    running: BTreeMap<usize, Task>,
}

#[derive(Default)]
struct Task {
    /// The begun character at the end of what was last read, of stdout and of stderr.
    begun: [Vec<u8>; 2],
    /// When the transfer was last told of.
    told: Option<Duration>,
    /// What has not been told since.
    untold: Option<(u64, Option<u64>)>,
}

#[derive(Serialize)]
struct Object<'a> {
    time: f64,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum What<'a> {
    Started {
        task: usize,
        label: &'a str,
        text: &'a str,
    },
    Cached {
        task: usize,
        label: &'a str,
        text: &'a str,
    },
    Output {
        task: usize,
        stream: &'a str,
        text: &'a str,
    },
    Progress {
        task: usize,
        done: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
    },
    Finished {
        task: usize,
        elapsed: f64,
    },
    Failed {
        task: usize,
        elapsed: f64,
    },
    Canceled {
        task: usize,
    },
    Warning {
        text: &'a str,
    },
    Note {
        text: &'a str,
    },
}

impl<W: Write + Send> Json<W> {
    pub(super) fn new(out: W) -> Json<W> {
        Json { out, running: BTreeMap::new() }
    }

    fn write(&mut self, now: Duration, what: What) {
        let object = Object { time: seconds(now), what };
        if let Ok(mut line) = serde_json::to_vec(&object) {
            line.push(b'\n');
            let _ = self.out.write_all(&line);
        }
    }

    /// Tells what was held back of a task that is over.
    fn end(&mut self, task: usize, now: Duration) {
        let Some(left) = self.running.remove(&task) else { return };
        for (begun, stream) in left.begun.iter().zip(["stdout", "stderr"]) {
            if !begun.is_empty() {
                let text = String::from_utf8_lossy(begun);
                self.write(now, What::Output { task, stream, text: &text });
            }
        }
        if let Some((done, total)) = left.untold {
            self.write(now, What::Progress { task, done, total });
        }
    }
}

impl<W: Write + Send> View for Json<W> {
    fn event(&mut self, event: Event, now: Duration) {
        match event {
            Event::Started { task: TaskId(task), label, text } => {
                self.running.insert(task, Task::default());
                self.write(now, What::Started { task, label: &label, text: &text });
            }
            Event::Cached { task: TaskId(task), label, text } => {
                self.write(now, What::Cached { task, label: &label, text: &text });
            }
            Event::Output { task: TaskId(task), stream, bytes } => {
                let (index, stream) = match stream {
                    Stream::Stdout => (0, "stdout"),
                    Stream::Stderr => (1, "stderr"),
                };
                let begun = &mut self.running.entry(task).or_default().begun[index];
                let text = whole_characters(begun, &bytes);
                if !text.is_empty() {
                    self.write(now, What::Output { task, stream, text: &text });
                }
            }
            Event::Progress { task: TaskId(task), done, total } => {
                let state = self.running.entry(task).or_default();
                if state.told.is_some_and(|told| now.saturating_sub(told) < TRANSFER_EVERY) {
                    state.untold = Some((done, total));
                } else {
                    (state.told, state.untold) = (Some(now), None);
                    self.write(now, What::Progress { task, done, total });
                }
            }
            Event::Finished { task: TaskId(task), elapsed } => {
                self.end(task, now);
                self.write(now, What::Finished { task, elapsed: seconds(elapsed) });
            }
            Event::Failed { task: TaskId(task), elapsed } => {
                self.end(task, now);
                self.write(now, What::Failed { task, elapsed: seconds(elapsed) });
            }
            Event::Warning { text } => self.write(now, What::Warning { text: &text }),
            Event::Note { text } => self.write(now, What::Note { text: &text }),
        }
    }

    fn finish(&mut self, now: Duration) {
        while let Some(&task) = self.running.keys().next() {
            self.end(task, now);
            self.write(now, What::Canceled { task });
        }
    }
}

/// A time as objects have it: seconds, to the millisecond.
pub fn seconds(time: Duration) -> f64 {
    time.as_millis() as f64 / 1000.0
}

/// What was begun and what came, as text; a character that `bytes` ends within is left in `begun`.
fn whole_characters(begun: &mut Vec<u8>, bytes: &[u8]) -> String {
    let mut all = take(begun);
    all.extend_from_slice(bytes);
    // Only the last three bytes can be the start of a character whose end is still to come.
    for back in 1..=all.len().min(3) {
        let rest = &all[all.len() - back..];
        if matches!(str::from_utf8(rest), Err(error) if error.valid_up_to() == 0 && error.error_len().is_none())
        {
            *begun = rest.to_vec();
            all.truncate(all.len() - back);
            break;
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}
