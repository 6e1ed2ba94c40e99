//! Which times an image and its new layers have.

use crate::rootfs::Clamp;

/// What was asked for about times, all of them in whole seconds since 1970. Base layers keep theirs in any
/// case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Times {
    /// Nothing: a file that a step writes gets the newest time of what went into its stage, and the image
    /// that of when it was first made.
    #[default]
    Inputs,
    /// `SOURCE_DATE_EPOCH`: the image, its history, and the files that steps write have this time.
    Epoch {
        /// The time.
        epoch: i64,
        /// `--rewrite-timestamp`: what else is newer than the epoch in new layers is set to it.
        rewrite: bool,
    },
    /// `--timestamp`: the image, its history and everything in new layers have this time.
    Exactly(i64),
}

impl Times {
    /// The date of the image and of its new history, if one was given.
    pub fn created(self) -> Option<i64> {
        match self {
            Times::Inputs => None,
            Times::Epoch { epoch, .. } => Some(epoch),
            Times::Exactly(time) => Some(time),
        }
    }

    /// Stands for these times in the keys of steps: they can be seen in layers, and by later steps.
    pub(super) fn key(self) -> String {
        match self {
            Times::Inputs => "inputs".to_owned(),
            Times::Epoch { epoch, rewrite: false } => format!("written at {epoch}"),
            Times::Epoch { epoch, rewrite: true } => format!("rewritten to {epoch}"),
            Times::Exactly(time) => format!("exactly {time}"),
        }
    }

    /// The times of what a step leaves that ran in the seconds `from..=until`, and into whose stage nothing
    /// newer than `inputs` has gone.
    pub(super) fn clamp(self, from: i64, until: i64, inputs: i64) -> Clamp {
        match self {
            Times::Inputs => Clamp::Between { from, until, to: inputs },
            Times::Epoch { epoch, rewrite: false } => Clamp::Between { from, until, to: epoch },
            Times::Epoch { epoch, rewrite: true } => Clamp::Newest { from, until, to: epoch },
            Times::Exactly(time) => Clamp::Exactly(time),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_differ_have_keys_that_differ() {
        let epoch = |epoch, rewrite| Times::Epoch { epoch, rewrite };
        let all = [
            Times::Inputs,
            epoch(0, false),
            epoch(0, true),
            epoch(1, false),
            epoch(1, true),
            Times::Exactly(0),
            Times::Exactly(1),
            Times::Exactly(-1),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all[..at].iter().all(|other| other.key() != one.key()), "{one:?}");
        }
    }

    #[test]
    fn a_step_writes_at_the_time_that_was_given() {
        // The step ran from 100 to 110: what it wrote, what is older than 50, older, and newer.
        let of = |times: Times| [105, 40, 90, 120].map(|t| times.clamp(100, 110, 60).apply(t));
        assert_eq!(of(Times::Inputs), [60, 40, 90, 120]);
        assert_eq!(of(Times::Epoch { epoch: 50, rewrite: false }), [50, 40, 90, 120]);
        assert_eq!(of(Times::Epoch { epoch: 50, rewrite: true }), [50, 40, 50, 50]);
        assert_eq!(of(Times::Exactly(50)), [50; 4]);
        // A clock that is behind the epoch does not show through either.
        assert_eq!(of(Times::Epoch { epoch: 500, rewrite: true }), [500, 40, 90, 120]);
        assert_eq!(of(Times::Epoch { epoch: 500, rewrite: false }), [500, 40, 90, 120]);
    }
}
