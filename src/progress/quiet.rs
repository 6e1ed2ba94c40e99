//! Nothing but warnings.

use std::io::Write;
use std::time::Duration;

use super::text::notice;
use super::{Event, View};

/// Writes warnings to `W`.
pub(super) struct Quiet<W> {
    out: W,
}

impl<W: Write + Send> Quiet<W> {
    pub(super) fn new(out: W) -> Quiet<W> {
        Quiet { out }
    }
}

impl<W: Write + Send> View for Quiet<W> {
    fn event(&mut self, event: Event, _now: Duration) {
        if let Event::Warning { text } = event {
            let _ = self.out.write_all((notice("warning", &text).join("\n") + "\n").as_bytes());
        }
    }

    fn finish(&mut self, _now: Duration) {}
}
