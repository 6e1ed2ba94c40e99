//! Cache keys.
//!
//! A step's key is the SHA-256 of a canonical description of what the step can see and do, and of
//! nothing else. It comes in two halves: the *instruction* half is known while planning, the *parent*
//! half is the chain ID of the layers below, known only when they are. Each part of a description is
//! written with its length before it, so that no two different ones read the same.

use super::{CopySource, CopyStep, MountKind, RunMount, RunStep};
use crate::image::{ChainId, Digest, Hasher};

/// The number of the description format; part of every key.
const FORMAT: &str = "cooper step 3";

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

    /// What stands for this instruction after all that `before` stands for (`None`: nothing). Equal only for
    /// the same instructions on the same base, it is known before any layer is.
    pub fn after(self, before: Option<Digest>) -> Digest {
        let mut description = Description::of("lineage");
        description.text(&self.0.to_string()).option(before.map(|d| d.to_string()).as_deref());
        description.key().0
    }

    /// The digest itself.
    pub fn digest(self) -> Digest {
        self.0
    }

    /// The directory of this instruction's records, one for each parent it was run on.
    pub fn directory(self) -> String {
        format!("steps/{}", self.0.hex())
    }
}

impl StepKey {
    /// The name of the record of what layers hold, where the instruction is one of [`copied`] and
    /// [`mounted`].
    pub fn contents(&self) -> String {
        format!("contents/{}/{}", self.instruction.0.hex(), self.parent.hex())
    }

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
        self.bytes(text.as_bytes())
    }

    /// Adds bytes that need not be text.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Description {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
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

    /// Adds a number.
    pub fn number(&mut self, number: u64) -> &mut Description {
        self.0.update(&number.to_le_bytes());
        self
    }

    /// Adds a yes or no.
    pub fn flag(&mut self, flag: bool) -> &mut Description {
        self.number(flag.into())
    }

    /// Ends the description.
    pub fn key(self) -> InstructionKey {
        InstructionKey(self.0.finish())
    }
}

/// The description of a `RUN`: all it can see but the proxies, the contents of its mounts and the values of
/// its secrets. What bind mounts show has to be added.
///
/// `times` is how modification times are clamped: it is visible in the layer.
pub fn run<I>(step: &RunStep<I>, times: &str) -> Description {
    let mut env = step.env.clone();
    env.sort();
    let mut description = Description::of("run");
    description.list(&step.argv).list(&env).text(&step.user).text(&step.cwd).text(times);
    description.number(step.mounts.len() as u64);
    for mount in &step.mounts {
        describe_mount(mount, &mut description);
    }
    description
}

fn describe_mount<I>(mount: &RunMount<I>, description: &mut Description) {
    description.text(&mount.target);
    match &mount.kind {
        MountKind::Bind { from: _, source, read_only } => {
            description.text("bind").text(source).flag(*read_only);
        }
        MountKind::Cache { id, from, source, sharing, mode, uid, gid, read_only } => {
            // What it starts from is added later, to the mounts that have it.
            description.text("cache").text(id).flag(from.is_some()).text(source).text(sharing.name());
            description.flag(*read_only);
            for number in [mode, uid, gid] {
                description.number(number.map_or(u64::MAX, u64::from));
            }
        }
        MountKind::Tmpfs { size } => {
            description.text("tmpfs").number(size.unwrap_or(u64::MAX));
        }
        MountKind::Secret { id, file, env, required, mode, owner } => {
            description.text("secret").text(id).flag(*file).option(env.as_deref()).flag(*required);
            description.number((*mode).into()).number(owner.0.into()).number(owner.1.into());
        }
        MountKind::Script { content } => {
            description.text("script").text(content);
        }
    }
}

/// The description of a `COPY` or `ADD`, without what it copies.
pub fn copy<I>(step: &CopyStep<I>, times: &str) -> Description {
    // ADD does with archives what COPY does not.
    let mut description = Description::of(if step.add.is_some() { "add" } else { "copy" });
    description
        .text(&step.dest)
        .option(step.chown.as_deref())
        .option(step.chmod.as_deref())
        .flag(step.parents)
        .list(&step.excludes)
        .flag(step.link)
        .text(times);
    description
}

/// What stands for the question which files of some layers a `COPY` takes.
pub fn copied<I>(step: &CopyStep<I>) -> InstructionKey {
    let mut description = Description::of("copied");
    description.text(&step.dest).flag(step.parents).list(&step.excludes).flag(step.add.is_some());
    description.number(step.sources.len() as u64);
    for source in &step.sources {
        match source {
            CopySource::Path(path) => description.text("path").text(path),
            CopySource::Inline { name, content } => description.text("inline").text(name).text(content),
            CopySource::Http(url) => description.text("http").text(url),
            CopySource::Git(url) => description.text("git").text(url),
        };
    }
    description.key()
}

/// What stands for the question what a mount shows of some layers.
pub fn mounted(source: &str) -> InstructionKey {
    let mut description = Description::of("mounted");
    description.text(source);
    description.key()
}

/// The key of a `WORKDIR`.
pub fn workdir(path: &str, user: &str, times: &str) -> InstructionKey {
    let mut description = Description::of("workdir");
    description.text(path).text(user).text(times);
    description.key()
}

#[cfg(test)]
mod tests;
