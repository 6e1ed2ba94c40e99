//! Bytes of a program's output → lines that are safe to show.
//!
//! A RUN may write anything: colours, progress bars that go back to the start of the line, titles for the
//! terminal's window, half a character at the end of a read. What comes out of here is text that can
//! neither move the cursor nor change a colour, one finished line at a time.

use std::mem::take;

/// Longest line that is held back, in bytes. A program that never writes a newline must not fill our
/// memory, so that a longer line is handed out in pieces.
pub(super) const MAX_LINE: usize = 32 * 1024;

/// Cuts one stream into lines, across reads.
#[derive(Default)]
pub(super) struct Lines {
    /// The line so far.
    line: Vec<u8>,
    /// A carriage return came: the next text replaces the line. Not before, because in `\r\n` there is
    /// no such text, and a bar's last state is to be kept when the program ends after it.
    returned: bool,
    escape: Escape,
    /// Parameters of the control sequence that is being read.
    params: Vec<u8>,
}

/// Where in an escape sequence (ECMA-48) the last byte was.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    /// In none.
    #[default]
    None,
    /// After ESC.
    Start,
    /// After ESC `[`: colours, cursor movements.
    Control,
    /// In a string that ends with BEL or ESC `\`: window titles, links.
    Text,
    /// After an ESC in such a string.
    TextEnd,
}

impl Lines {
    /// Takes what a read gave, and hands every line that it completes to `sink`.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut sink: impl FnMut(String)) {
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.escape == Escape::None {
                let text = bytes.iter().position(|byte| byte.is_ascii_control()).unwrap_or(bytes.len());
                if text > 0 {
                    self.text(&bytes[..text], &mut sink);
                    bytes = &bytes[text..];
                    continue;
                }
            }
            self.byte(byte, &mut sink);
            bytes = rest;
        }
    }

    /// Hands out the last line if it had no newline.
    pub(super) fn finish(&mut self, mut sink: impl FnMut(String)) {
        let last = take(self);
        if !last.line.is_empty() {
            sink(printable(&last.line));
        }
    }

    /// The line that is not complete yet, if it has begun.
    pub(super) fn partial(&self) -> Option<String> {
        (!self.line.is_empty()).then(|| printable(&self.line))
    }

    fn text(&mut self, text: &[u8], sink: &mut impl FnMut(String)) {
        if take(&mut self.returned) {
            self.line.clear();
        }
        self.line.extend_from_slice(text);
        while self.line.len() > MAX_LINE {
            let mut cut = MAX_LINE;
            while cut > MAX_LINE - 4 && is_continuation(self.line[cut]) {
                cut -= 1;
            }
            let rest = self.line.split_off(cut);
            sink(printable(&self.line));
            self.line = rest;
        }
    }

    fn byte(&mut self, byte: u8, sink: &mut impl FnMut(String)) {
        match (self.escape, byte) {
            // A sequence that is never ended must not swallow the rest of the output: every one of them
            // ends with the line, and on what cannot be part of it.
            (_, b'\n') | (Escape::None, _) => self.plain(byte, sink),
            (Escape::Start, b'[') => {
                self.params.clear();
                self.escape = Escape::Control;
            }
            (Escape::Start, b']' | b'P' | b'X' | b'^' | b'_') => self.escape = Escape::Text,
            (Escape::Start, 0x20..=0x2f | 0x1b) => {}
            (Escape::Start, 0x30..=0x7e) => self.escape = Escape::None,
            (Escape::Control, 0x20..=0x3f) => {
                if self.params.len() < 8 {
                    self.params.push(byte);
                }
            }
            (Escape::Control, 0x40..=0x7e) => {
                self.escape = Escape::None;
                self.control(byte);
            }
            (Escape::Start | Escape::Control, _) => self.plain(byte, sink),
            (Escape::Text, 0x1b) => self.escape = Escape::TextEnd,
            (Escape::Text, 0x07 | 0x18 | 0x1a) | (Escape::TextEnd, b'\\') => self.escape = Escape::None,
            (Escape::Text, _) => {}
            (Escape::TextEnd, _) => {
                self.escape = Escape::Start;
                self.byte(byte, sink);
            }
        }
    }

    /// A byte outside of sequences.
    fn plain(&mut self, byte: u8, sink: &mut impl FnMut(String)) {
        self.escape = Escape::None;
        match byte {
            b'\n' => {
                self.returned = false;
                sink(printable(&take(&mut self.line)));
            }
            b'\r' => self.returned = !self.line.is_empty(),
            // Spinners step back over their last frame before they draw the next.
            0x08 if !self.returned => while self.line.pop().is_some_and(is_continuation) {},
            0x1b => self.escape = Escape::Start,
            b'\t' | 0x20..=0x7e | 0x80.. => self.text(&[byte], sink),
            _ => {}
        }
    }

    /// A control sequence: only what progress bars use instead of a carriage return has a meaning here.
    fn control(&mut self, last: u8) {
        match (last, self.params.as_slice()) {
            // Erase the line, or its rest when we stand at its start.
            (b'K', b"2") => self.line.clear(),
            (b'K', b"" | b"0") if self.returned => self.line.clear(),
            // Go to the first column.
            (b'G', b"" | b"0" | b"1") => self.returned = true,
            _ => {}
        }
    }
}

/// Text of one line from bytes of one line: invalid UTF-8 replaced, control characters dropped.
pub(super) fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    if text.chars().all(is_harmless) {
        text.into_owned()
    } else {
        text.chars().filter(|&c| is_harmless(c)).collect()
    }
}

/// Whether a terminal shows the character, rather than obeying it. The last two ranges turn the direction
/// of text around, with which a line can be made to read as something else.
fn is_harmless(c: char) -> bool {
    c == '\t'
        || !(c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
}

/// Whether the byte is inside a UTF-8 sequence, not at its start.
fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}
