//! What a build tells whoever watches it: events in, a view out.
//!
//! The builder sends [`Event`]s and does not know what becomes of them. There is a view for people at a
//! terminal (`tty`), one for logs (`plain`), one for programs (`json`) and one for neither (`quiet`). All
//! of them write to stderr, since stdout belongs to a command's result, and none of them ever fails: a
//! build must not break because nobody is listening.
//!
//! Threads: only the terminal view has one, to keep its clocks running. It is started by the first
//! [`Event::Started`], never earlier, and [`Progress::pause`] takes it away again, because a process
//! must have a single thread when it enters a user namespace.

pub mod json;
mod lines;
mod plain;
mod quiet;
mod screen;
mod tail;
#[cfg(test)]
mod tests;
mod text;
mod tty;

pub use tail::Tail;

use std::io::{IsTerminal, stderr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Names a step or transfer from its `Started` to its `Finished` or `Failed`.
///
/// Whoever sends the events chooses the numbers. One may be used again once its task is over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TaskId(pub usize);

/// Where a RUN wrote its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Something happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A step or transfer begins.
    Started {
        /// The task.
        task: TaskId,
        /// What it belongs to: `[build 2/5]`. May be empty.
        label: String,
        /// What it is: `RUN make`.
        text: String,
    },
    /// A RUN wrote something: any bytes, cut anywhere.
    Output {
        /// The task.
        task: TaskId,
        /// The stream it wrote to.
        stream: Stream,
        /// What it wrote.
        bytes: Vec<u8>,
    },
    /// A transfer came further.
    Progress {
        /// The task.
        task: TaskId,
        /// Bytes so far.
        done: u64,
        /// Bytes in all, when known.
        total: Option<u64>,
    },
    /// A step was not run, because its result was in the cache. It has neither `Started` nor `Finished`.
    Cached {
        /// The task.
        task: TaskId,
        /// As in `Started`.
        label: String,
        /// As in `Started`.
        text: String,
    },
    /// A task is done.
    Finished {
        /// The task.
        task: TaskId,
        /// How long it took.
        elapsed: Duration,
    },
    /// A task failed. Why is told by the command's error, which is expected to show the task's [`Tail`].
    Failed {
        /// The task.
        task: TaskId,
        /// How long it took.
        elapsed: Duration,
    },
    /// Something the user should mend, though the build goes on.
    Warning {
        /// The message.
        text: String,
    },
    /// Something the user may want to know.
    Note {
        /// The message.
        text: String,
    },
}

/// A view that can be told events, from any thread.
pub trait Progress: Send + Sync {
    /// Shows that something happened.
    fn event(&self, event: Event);

    /// Ends the view: tasks that are still running are shown as given up. Idempotent, and also done when
    /// the view is dropped if it has anything to put right. To be called before an error is printed.
    fn finish(&self);

    /// Leaves the process with no thread of the view's, until [`resume`](Progress::resume).
    ///
    /// Events are still taken and shown; only clocks stand still.
    fn pause(&self) {}

    /// Takes back [`pause`](Progress::pause).
    fn resume(&self) {}
}

/// Which view to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Mode {
    /// `tty` when stderr is a terminal, else `plain`
    #[default]
    Auto,
    /// A live view that redraws itself
    Tty,
    /// Numbered lines, for logs
    Plain,
    /// One JSON object a line, for programs
    Json,
    /// Warnings and errors only
    Quiet,
}

/// Starts the view. Nothing is written and no thread runs before there is an event.
pub fn start(mode: Mode) -> Box<dyn Progress> {
    match mode {
        Mode::Auto if is_capable_terminal() => Box::new(tty::Tty::on_stderr()),
        Mode::Tty => Box::new(tty::Tty::on_stderr()),
        Mode::Auto | Mode::Plain => Box::new(Unthreaded::new(plain::Plain::new(stderr()))),
        Mode::Json => Box::new(Unthreaded::new(json::Json::new(stderr()))),
        Mode::Quiet => Box::new(Unthreaded::new(quiet::Quiet::new(stderr()))),
    }
}

/// Whether messages on stderr may be coloured: it is a terminal that can, and `NO_COLOR` is not set.
pub fn color_on_stderr() -> bool {
    is_capable_terminal() && !no_color()
}

/// Whether stderr is a terminal on which the cursor can be moved.
fn is_capable_terminal() -> bool {
    stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// <https://no-color.org>: set to anything but the empty string.
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// A view without a thread, and without a clock of its own so that tests can say what time it is.
trait View: Send {
    /// Shows an event that happened so long after the view was started.
    fn event(&mut self, event: Event, now: Duration);

    /// Says what has become of tasks that are still running.
    fn finish(&mut self, now: Duration);
}

/// Gives a [`View`] its lock and its clock.
struct Unthreaded<V> {
    view: Mutex<V>,
    start: Instant,
}

impl<V: View> Unthreaded<V> {
    fn new(view: V) -> Unthreaded<V> {
        Unthreaded { view: Mutex::new(view), start: Instant::now() }
    }
}

impl<V: View> Progress for Unthreaded<V> {
    fn event(&self, event: Event) {
        // The clock is read under the lock, so that times in a log never run backwards.
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.event(event, self.start.elapsed());
    }

    fn finish(&self) {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.finish(self.start.elapsed());
    }
}
