//! Cache keys.
//!
//! A step's key is the SHA-256 of a canonical description of what the step can see and do, and of
//! nothing else. It comes in two halves: the *instruction* half is known while planning, the *parent*
//! half is the chain ID of the layers below, known only when they are. Each part of a description is
//! written with its length before it, so that no two different ones read the same.

use super::RunStep;
use crate::image::{ChainId, Digest, Hasher};

/// The number of the description format; part of every key.
const FORMAT: &str = "cooper step 1";

/// The half of a key that says what is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InstructionKey(Digest);

/// A whole key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StepKey {
    instruction: InstructionKey,
    parent: Digest,
}

impl InstructionKey {
    /// The key of this instruction on top of these layers (`None`: none).
    pub fn on(self, parent: Option<ChainId>) -> StepKey {
        StepKey { instruction: self, parent: parent.map_or_else(|| Digest::of(b"scratch"), |c| c.0) }
    }

    /// The directory of this instruction's records, one for each parent it was run on.
    pub fn directory(self) -> String {
        format!("steps/{}", self.0.hex())
    }
}

impl StepKey {
    /// The name of the step's record in the cache.
    pub fn record(&self) -> String {
        format!("{}/{}", self.instruction.directory(), self.parent.hex())
    }
}

/// Collects the parts of a description.
pub struct Description(Hasher);

impl Description {
    /// Starts the description of one kind of step.
    pub fn of(kind: &str) -> Description {
        let mut description = Description(Hasher::new());
        description.text(FORMAT);
        description.text(kind);
        description
    }

    /// Adds a text.
    pub fn text(&mut self, text: &str) -> &mut Description {
        self.0.update(&(text.len() as u64).to_le_bytes());
        self.0.update(text.as_bytes());
        self
    }

    /// Adds a list of texts.
    pub fn list<S: AsRef<str>>(&mut self, list: &[S]) -> &mut Description {
        self.0.update(&(list.len() as u64).to_le_bytes());
        for text in list {
            self.text(text.as_ref());
        }
        self
    }

    /// Adds a text that may be missing.
    pub fn option(&mut self, text: Option<&str>) -> &mut Description {
        self.list(text.as_slice())
    }

    /// Ends the description.
    pub fn key(self) -> InstructionKey {
        InstructionKey(self.0.finish())
    }
}

/// The key of a `RUN`: all it can see but the proxies.
///
/// `times` is how modification times are clamped: it is visible in the layer.
pub fn run(step: &RunStep, times: &str) -> InstructionKey {
    let mut env = step.env.clone();
    env.sort();
    let mut description = Description::of("run");
    description.list(&step.argv).list(&env).text(&step.user).text(&step.cwd).text(times);
    description.key()
}

/// The key of a `WORKDIR`.
pub fn workdir(path: &str, user: &str, times: &str) -> InstructionKey {
    let mut description = Description::of("workdir");
    description.text(path).text(user).text(times);
    description.key()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(argv: &[&str], env: &[&str]) -> RunStep {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        RunStep {
            argv: own(argv),
            env: own(env),
            proxies: Vec::new(),
            user: String::new(),
            cwd: "/".to_owned(),
        }
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(run(&step(&["ab", "c"], &[]), ""), run(&step(&["a", "bc"], &[]), ""));
        assert_ne!(run(&step(&["a"], &["b"]), ""), run(&step(&["a", "b"], &[]), ""));
        assert_ne!(workdir("/a", "b", ""), workdir("/a", "", "b"));
    }

    #[test]
    fn what_a_step_cannot_see_is_not_in_its_key() {
        let mut with_proxy = step(&["a"], &["X=1", "Y=2"]);
        with_proxy.proxies.push("HTTP_PROXY=http://localhost:1".to_owned());
        assert_eq!(run(&with_proxy, ""), run(&step(&["a"], &["Y=2", "X=1"]), ""));
    }

    #[test]
    fn the_parent_counts() {
        let key = workdir("/a", "", "");
        let parent = ChainId(Digest::of(b"x"));
        assert_ne!(key.on(None).record(), key.on(Some(parent)).record());
    }
}
