//! Tests of the views, with the time and the terminal's size made up.

mod json;
mod lines;
mod plain;
mod tty;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Event, Stream, TaskId};

/// A writer whose text can still be read after a view has taken it.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn started(task: usize, label: &str, text: &str) -> Event {
    Event::Started { task: TaskId(task), label: label.into(), text: text.into() }
}

fn cached(task: usize, label: &str, text: &str) -> Event {
    Event::Cached { task: TaskId(task), label: label.into(), text: text.into() }
}

fn stdout(task: usize, bytes: &[u8]) -> Event {
    Event::Output { task: TaskId(task), stream: Stream::Stdout, bytes: bytes.into() }
}

fn stderr(task: usize, bytes: &[u8]) -> Event {
    Event::Output { task: TaskId(task), stream: Stream::Stderr, bytes: bytes.into() }
}

fn progress(task: usize, done: u64, total: Option<u64>) -> Event {
    Event::Progress { task: TaskId(task), done, total }
}

fn finished(task: usize, elapsed: u64) -> Event {
    Event::Finished { task: TaskId(task), elapsed: ms(elapsed) }
}

fn failed(task: usize, elapsed: u64) -> Event {
    Event::Failed { task: TaskId(task), elapsed: ms(elapsed) }
}

fn warning(text: &str) -> Event {
    Event::Warning { text: text.into() }
}

fn note(text: &str) -> Event {
    Event::Note { text: text.into() }
}
