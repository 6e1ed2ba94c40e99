//! The end of a program's output, for the error that tells of its failure.

use std::collections::VecDeque;

use super::lines::Lines;

/// Keeps the last lines of an output, however long it is.
///
/// Lines are as the views show them: invalid UTF-8 replaced, escape sequences removed, progress bars
/// reduced to their last state.
pub struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
    input: Lines,
    max_lines: usize,
    max_bytes: usize,
}

impl Tail {
    /// How many lines [`Tail::default`] keeps.
    pub const LINES: usize = 20;
    /// How many bytes [`Tail::default`] keeps.
    pub const BYTES: usize = 8 * 1024;

    /// An empty tail that keeps no more than the last `max_lines` and, newlines not counted, `max_bytes`.
    pub fn new(max_lines: usize, max_bytes: usize) -> Tail {
        Tail { lines: VecDeque::new(), bytes: 0, input: Lines::default(), max_lines, max_bytes }
    }

    /// Takes more output, cut anywhere.
    pub fn push(&mut self, bytes: &[u8]) {
        let mut input = std::mem::take(&mut self.input);
        input.push(bytes, |line| self.push_line(line));
        self.input = input;
    }

    /// The last lines, a begun one included.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.lines.iter().cloned().collect();
        lines.extend(self.input.partial().map(|line| end_of(line, self.max_bytes)));
        lines.drain(..lines.len() - fitting(lines.iter(), self.max_lines, self.max_bytes));
        lines
    }

    /// Takes a line that is clean already.
    pub(super) fn push_line(&mut self, line: String) {
        let line = end_of(line, self.max_bytes);
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > self.max_lines || self.bytes > self.max_bytes {
            let Some(first) = self.lines.pop_front() else { break };
            self.bytes -= first.len();
        }
    }

    /// The last `count` lines, without a begun one.
    pub(super) fn last(&self, count: usize) -> impl Iterator<Item = &String> {
        self.lines.iter().skip(self.lines.len().saturating_sub(count))
    }
}

impl Default for Tail {
    fn default() -> Tail {
        Tail::new(Tail::LINES, Tail::BYTES)
    }
}

/// How many of the last lines stay within the limits.
pub(super) fn fitting<'l>(
    lines: impl DoubleEndedIterator<Item = &'l String>,
    max_lines: usize,
    max_bytes: usize,
) -> usize {
    let mut room = max_bytes;
    lines
        .rev()
        .take(max_lines)
        .take_while(|line| match room.checked_sub(line.len()) {
            Some(left) => {
                room = left;
                true
            }
            None => false,
        })
        .count()
}

/// The end of a line that alone is too long: what went wrong is said last.
fn end_of(mut line: String, max_bytes: usize) -> String {
    if line.len() > max_bytes {
        let mut start = line.len() - max_bytes;
        while !line.is_char_boundary(start) {
            start += 1;
        }
        line.drain(..start);
    }
    line
}
