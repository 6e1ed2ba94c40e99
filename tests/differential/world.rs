//! A Containerfile and its context, as data that can be changed a little.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::Path;

/// All that a build is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    pub stages: Vec<Stage>,
    /// By path, directories before what is in them.
    pub context: BTreeMap<String, Node>,
    /// Lines of `.dockerignore`.
    pub ignore: Vec<String>,
    /// `--build-arg`
    pub args: BTreeMap<String, String>,
}

/// A stage: `s0`, `s1`, ….
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// What stands behind `FROM`.
    pub base: String,
    pub steps: Vec<Step>,
}

/// An instruction. It keeps its number in all changes of a world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub number: usize,
    pub text: String,
}

/// A file of the context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    File {
        content: String,
        mode: u32,
    },
    Directory {
        mode: u32,
    },
    Symlink(String),
    /// An archive with one file in it.
    Archive {
        name: String,
        content: String,
    },
}

impl World {
    pub fn containerfile(&self) -> String {
        let mut text = String::new();
        for (at, stage) in self.stages.iter().enumerate() {
            text.push_str(&format!("FROM {} AS s{at}\n", stage.base));
            for step in &stage.steps {
                text.push_str(&step.text);
                text.push('\n');
            }
        }
        text
    }

    /// Makes the context in `dir`, which has `before`'s, by changing what differs and nothing else.
    pub fn write(&self, before: Option<&World>, dir: &Path, owner: (u32, u32)) {
        fs::create_dir_all(dir).unwrap();
        let own = |path: &Path| lchown(path, Some(owner.0), Some(owner.1)).unwrap();
        own(dir);
        let none = BTreeMap::new();
        let old = before.map_or(&none, |w| &w.context);
        for (path, node) in old.iter().rev().filter(|(path, node)| self.context.get(*path) != Some(*node)) {
            let at = dir.join(path);
            let stays = matches!(
                (node, self.context.get(path)),
                (Node::Directory { .. }, Some(Node::Directory { .. }))
            );
            match node {
                _ if stays => {}
                Node::Directory { .. } => fs::remove_dir(&at).unwrap(),
                // A file that goes on is written in place, as an editor may do it.
                Node::File { .. } if matches!(self.context.get(path), Some(Node::File { .. })) => {}
                _ => fs::remove_file(&at).unwrap(),
            }
        }
        for (path, node) in self.context.iter().filter(|(path, node)| old.get(*path) != Some(*node)) {
            let at = dir.join(path);
            match node {
                Node::File { content, .. } => fs::write(&at, content).unwrap(),
                Node::Directory { .. } => fs::create_dir_all(&at).unwrap(),
                Node::Symlink(target) => symlink(target, &at).unwrap(),
                Node::Archive { name, content } => fs::write(&at, archive(name, content)).unwrap(),
            }
            own(&at);
            if let Node::File { mode, .. } | Node::Directory { mode } = node {
                fs::set_permissions(&at, fs::Permissions::from_mode(*mode)).unwrap();
            }
        }
        let ignore = dir.join(".dockerignore");
        if before.is_none_or(|w| w.ignore != self.ignore) {
            fs::write(&ignore, self.ignore.join("\n") + "\n").unwrap();
            own(&ignore);
        }
    }

    /// The world as somebody would have to make it to see the same.
    pub fn describe(&self) -> String {
        let args: Vec<String> = self.args.iter().map(|(k, v)| format!("--build-arg {k}={v}")).collect();
        let mut text = format!("{}\n# context, .dockerignore {:?}\n", args.join(" "), self.ignore);
        for (path, node) in &self.context {
            text.push_str(&format!("#   {path}: {node:?}\n"));
        }
        text + &self.containerfile()
    }
}

fn archive(name: &str, content: &str) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o640);
    header.set_mtime(1_000_000_000);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, name, content.as_bytes()).unwrap();
    archive.into_inner().unwrap()
}
