//! Access control lists that name ids which the kernel does not have.

use super::notify::{Answer, Answered, Recorder};
use super::target::Target;

impl Recorder {
    pub(super) fn xattr(&mut self, _: &Target) -> Answered {
        Ok(Answer::Pass)
    }
}
