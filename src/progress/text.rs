//! Text as a terminal measures it, and numbers as people read them.

use std::time::Duration;

use unicode_width::UnicodeWidthChar;

use super::lines::printable;

/// A label, instruction or message as one harmless line: a Containerfile is no more to be trusted with the
/// terminal than a program's output is.
pub(super) fn one_line(text: &str) -> String {
    printable(text.replace(['\n', '\r', '\t'], " ").as_bytes())
}

/// What a task is called: its label, if it has one, and its text.
pub(super) fn title(label: &str, text: &str) -> String {
    let (label, text) = (one_line(label), one_line(text));
    if label.is_empty() { text } else { format!("{label} {text}") }
}

/// The lines of a warning or note: the word before the first, the others indented.
pub(super) fn notice(word: &str, text: &str) -> Vec<String> {
    let mut lines: Vec<String> =
        text.trim_end().lines().map(|line| format!("  {}", one_line(line))).collect();
    match lines.first_mut() {
        Some(first) => first.replace_range(..2, &format!("{word}: ")),
        None => lines.push(format!("{word}:")),
    }
    lines
}

/// Columns a character takes.
fn columns(c: char) -> usize {
    // The variation selector that asks for an emoji's coloured form widens the character before it from
    // one column to two, in the terminals that honour it. Counting too much only cuts a little early;
    // counting too little would wrap the line.
    if c == '\u{fe0f}' { 1 } else { c.width().unwrap_or(0) }
}

/// Columns that a text without control characters takes.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

/// The text in no more than `room` columns, tabs as spaces, and `more` at the end if anything was left out.
pub(super) fn cut(text: &str, room: usize, more: &str) -> String {
    let more_width = width(more);
    let (mut out, mut used) = (String::new(), 0);
    // Where `more` goes if the text turns out too long: after the last character that leaves room for it.
    let mut keep = 0;
    for c in text.chars() {
        let (count, c) = if c == '\t' { (8 - used % 8, ' ') } else { (1, c) };
        for _ in 0..count {
            used += columns(c);
            if used > room {
                out.truncate(keep);
                if more_width <= room {
                    out.push_str(more);
                }
                return out;
            }
            out.push(c);
            if used + more_width <= room {
                keep = out.len();
            }
        }
    }
    out
}

/// Seconds with one decimal, for logs: `75.3s`.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}

/// A time that takes no more than six columns below a hundred hours: `1.2s`, `1m15s`, `2h03m`.
pub(super) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}.{}s", time.subsec_millis() / 100),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// Bytes in decimal units, in no more than seven columns: `12.3 MB`.
pub(super) fn bytes(count: u64) -> String {
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    // Compared with what would be rounded up to a fourth digit.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if value < 99.95 { 1 } else { 0 };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// How far a transfer is: `12.3 MB / 28.0 MB`, or just what has come when the end is not known.
pub(super) fn transferred(done: u64, total: Option<u64>) -> String {
    match total {
        Some(total) => format!("{} / {}", bytes(done), bytes(total)),
        None => bytes(done),
    }
}
