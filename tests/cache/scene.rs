//! Reads scenes; testdata/cache/README.md describes them.

use std::collections::BTreeSet;
use std::path::Path;

use crate::support::files::{ContextFile, What, context_line, shell_words};

/// A build, and changes of it.
pub struct Scene {
    /// `theme/name`.
    pub name: String,
    pub surroundings: Surroundings,
    /// Images that are built before: name, Containerfile.
    pub bases: Vec<(String, String)>,
    pub containerfile: String,
    pub files: Vec<ContextFile>,
    /// A script that goes on from there.
    pub setup: Option<String>,
    pub rows: Vec<Row>,
}

/// What a build is given besides files.
#[derive(Clone, Default)]
pub struct Surroundings {
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
}

/// A change, and which steps it runs again.
pub struct Row {
    /// Why it is so.
    pub reason: String,
    pub edits: Vec<Edit>,
    /// Labels of the steps, as in `build.2`, or `2` where there is one stage.
    pub runs: BTreeSet<String>,
}

pub enum Edit {
    /// In the Containerfile, or in that of a base.
    Text {
        base: Option<String>,
        old: String,
        new: String,
    },
    File(ContextFile),
    Remove(String),
    Script(String),
    Args(Vec<String>),
    Env(String, String),
}

/// Reads a scene; `replace` fills in the places that it cannot know.
pub fn parse(name: &str, path: &Path, replace: &dyn Fn(&str) -> String) -> Result<Scene, String> {
    let text = replace(&std::fs::read_to_string(path).map_err(|e| e.to_string())?);
    let mut sections = text.split("\n=== ");
    let mut scene = Scene {
        name: name.to_owned(),
        surroundings: Surroundings::default(),
        bases: Vec::new(),
        containerfile: String::new(),
        files: Vec::new(),
        setup: None,
        rows: Vec::new(),
    };
    let mut head = sections.next().unwrap_or_default().lines();
    if head.next().is_none_or(|title| title.trim().is_empty()) {
        return Err("the first line does not say what is shown".into());
    }
    for line in head.filter(|l| !l.trim().is_empty()) {
        match line.split_once(": ").ok_or(format!("`{line}` is no header"))? {
            ("args", value) => scene.surroundings.args = shell_words(value),
            ("env", value) => scene.surroundings.env.push(variable(value)?),
            (other, _) => return Err(format!("there is no header `{other}`")),
        }
    }
    for whole in sections {
        let (title, body) = whole.split_once('\n').unwrap_or((whole, ""));
        let lines = || body.lines().filter(|l| !l.trim().is_empty());
        let text = || format!("{}\n", body.trim_end_matches('\n'));
        let (kind, rest) = title.split_once(' ').unwrap_or((title, ""));
        match kind {
            "Containerfile" => scene.containerfile = text(),
            "base" => scene.bases.push((rest.to_owned(), text())),
            "context" => scene.files.extend(lines().map(context_line).collect::<Result<Vec<_>, _>>()?),
            "setup" => scene.setup = Some(text()),
            "hits:" | "runs" => {
                let (steps, reason) = if kind == "runs" {
                    rest.split_once(": ").ok_or(format!("`{title}`: runs STEP…: REASON"))?
                } else {
                    ("", rest)
                };
                let edits = lines().map(edit).collect::<Result<Vec<_>, _>>();
                let edits = edits.map_err(|e| format!("`{title}`: {e}"))?;
                if edits.is_empty() || reason.trim().is_empty() {
                    return Err(format!("`{title}` has no change or no reason"));
                }
                let runs = steps.split_whitespace().map(str::to_owned).collect();
                scene.rows.push(Row { reason: reason.to_owned(), edits, runs });
            }
            other => return Err(format!("there is no section `{other}`")),
        }
    }
    if scene.rows.is_empty() || scene.containerfile.is_empty() {
        return Err("there is no Containerfile, or nothing changes".into());
    }
    Ok(scene)
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn edit(line: &str) -> Result<Edit, String> {
    let (kind, rest) = line.split_once(": ").ok_or(format!("`{line}` is no change"))?;
    let text = |base: Option<&str>| {
        let (old, new) = rest.split_once(" => ").ok_or(format!("`{line}`: OLD => NEW"))?;
        let plain = |text: &str| match text.starts_with('"') {
            true => serde_json::from_str(text).map_err(|e| format!("`{line}`: {e}")),
            false => Ok(text.to_owned()),
        };
        Ok::<_, String>(Edit::Text { base: base.map(str::to_owned), old: plain(old)?, new: plain(new)? })
    };
    match kind {
        "Containerfile" => text(None),
        "context" => Ok(Edit::File(context_line(rest)?)),
        "remove" => Ok(Edit::Remove(rest.to_owned())),
        "sh" => Ok(Edit::Script(rest.to_owned())),
        "args" => Ok(Edit::Args(shell_words(rest))),
        "env" => variable(rest).map(|(name, value)| Edit::Env(name, value)),
        other => match other.strip_prefix("base ") {
            Some(name) => text(Some(name)),
            None => Err(format!("there is no change `{other}`")),
        },
    }
}

/// Replaces a text that is there once.
pub fn replace_once(text: &str, old: &str, new: &str) -> Result<String, String> {
    match text.matches(old).count() {
        1 => Ok(text.replacen(old, new, 1)),
        n => Err(format!("`{old}` is there {n} times, not once")),
    }
}

/// Whether a change of files writes one that is there already, which is done in place.
pub fn in_place(file: &ContextFile) -> bool {
    matches!(file.what, What::File(_) | What::Directory)
}
