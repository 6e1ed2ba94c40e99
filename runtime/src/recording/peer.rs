//! Who is at the other end of a local socket.

use super::notify::{Answer, Answered, Recorder};
use super::target::Target;

impl Recorder {
    pub(super) fn peer(&mut self, _: &Target) -> Answered {
        Ok(Answer::Pass)
    }
}
