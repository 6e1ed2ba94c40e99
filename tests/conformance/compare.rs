//! Holds what came out against what a case expects.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::case::{Case, Entry, Kind, Tree};
use crate::support::Said;
use crate::tree::{Files, Image, Node, NodeKind, read_image};

/// All that is wrong, each with what was expected and what was found.
pub fn compare(case: &Case, said: &Said, dir: &Path, plain: &Image, builds: bool) -> Vec<String> {
    let expect = &case.expect;
    let mut wrong = Vec::new();
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for line in &expect.says {
        if !flat(&said.stderr).contains(&flat(line)) {
            wrong.push(format!("it does not say {line:?}:\n{}", said.stderr));
        }
    }
    for line in &expect.never_says {
        if flat(&said.stderr).contains(&flat(line)) || flat(&said.stdout).contains(&flat(line)) {
            wrong.push(format!("it says {line:?}:\n{}\n{}", said.stderr, said.stdout));
        }
    }
    if let Some((text, parts)) = &expect.stdout {
        let right = match parts {
            true => text.lines().all(|line| flat(&said.stdout).contains(&flat(line))),
            false => said.stdout.trim_end() == text.trim_end(),
        };
        if !right {
            wrong.push(format!("standard output is\n{}\nexpected\n{text}\n{}", said.stdout, said.stderr));
        }
    }
    if let Some(expected) = &expect.findings {
        // A check that finds something ends like a failure.
        let found = findings(&said.stdout);
        if found != *expected {
            let found = found.join("\n  ");
            wrong.push(format!(
                "found is\n  {found}\nexpected\n  {}\n{}",
                expected.join("\n  "),
                said.stderr
            ));
        }
        return wrong;
    }
    if let Some((code, text, parts)) = &expect.error {
        if said.status.code() != Some(*code) {
            wrong.push(format!("exit code {:?} instead of {code}\n{}", said.status.code(), said.stderr));
        } else if *parts {
            for line in text.lines().filter(|l| !flat(said.error()).contains(&flat(l))) {
                wrong.push(format!("the error does not say {line:?}:\n{}", said.error()));
            }
        } else if joined(said.error()) != joined(text) {
            wrong.push(format!("the error is\n{}\nexpected\n{text}", said.error()));
        }
        return wrong;
    }
    if !said.status.success() {
        wrong.push(format!("it fails: {:?}\n{}{}", said.status, said.stderr, said.stdout));
        return wrong;
    }
    if !builds {
        return wrong;
    }
    if let Some((lines, subset)) = &expect.output {
        let found = said.output();
        let right = match subset {
            true => lines.iter().all(|l| found.contains(&l.as_str())),
            false => found == *lines,
        };
        if !right {
            wrong.push(format!(
                "the steps print\n  {}\nexpected\n  {}",
                found.join("\n  "),
                lines.join("\n  ")
            ));
        }
    }
    // Nothing said is nothing changed.
    let unchanged = Tree { platform: String::new(), subset: false, entries: Vec::new() };
    let several = expect.trees.iter().any(|t| !t.platform.is_empty())
        || expect.configs.iter().any(|(platform, _)| !platform.is_empty());
    let default = (expect.trees.is_empty() && !several).then_some(&unchanged);
    for tree in expect.trees.iter().chain(default) {
        match read_image(&dir.join("out"), &tree.platform) {
            Ok(image) => compare_tree(tree, &image, plain, &mut wrong),
            Err(why) => wrong.push(why),
        }
    }
    for (platform, values) in &expect.configs {
        match read_image(&dir.join("out"), platform) {
            Ok(image) => {
                values.iter().for_each(|(key, value)| compare_value(key, value, &image, plain, &mut wrong))
            }
            Err(why) => wrong.push(why),
        }
    }
    wrong
}

/// `CODE LINE` of each finding that was printed, in order.
fn findings(stdout: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut code = None;
    for line in stdout.lines() {
        let (word, place) = (line.split("]:").next().unwrap_or(""), line.trim_start().strip_prefix("--> "));
        if let (Some((_, name)), true) = (word.split_once('['), line.contains("]: ")) {
            code = Some(name.to_owned());
        } else if let (Some(place), Some(code)) = (place, code.take_if(|_| place.is_some())) {
            found.push(format!("{code} {}", place.rsplit(':').nth(1).unwrap_or("")));
        }
    }
    found
}

/// An error with its wrapped lines joined, so that a case may break them where it likes.
fn joined(error: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut paragraph = false;
    for line in error.trim_end().lines() {
        let line = line.trim_end();
        let more = line.starts_with("  ")
            && !line.trim_start().starts_with("-->")
            && !line.trim_start().starts_with('|');
        if paragraph && more {
            let last = lines.last_mut().unwrap();
            last.push(' ');
            last.push_str(line.trim_start());
        } else {
            paragraph = line.starts_with("error:") || line.starts_with("hint:");
            lines.push(line.to_owned());
        }
    }
    lines
}

fn compare_tree(tree: &Tree, image: &Image, plain: &Image, wrong: &mut Vec<String>) {
    let nothing = Files::new();
    let base = if image.layers.starts_with(&plain.layers) { &plain.files } else { &nothing };
    let mut differences = Vec::new();
    let expected: BTreeMap<&str, &Entry> = tree.entries.iter().map(|e| (e.path.as_str(), e)).collect();
    if !tree.subset {
        for (path, node) in &image.files {
            let known = expected.contains_key(path.as_str()) || base.get(path).is_some_and(|b| b.same(node));
            if !known && path != "/" {
                differences.push(format!("  unexpected  {}", node.line(path)));
            }
        }
        for path in base.keys() {
            if !image.files.contains_key(path) && !expected.contains_key(path.as_str()) {
                differences.push(format!("  unexpected  {path} removed"));
            }
        }
    }
    for entry in &tree.entries {
        let found = image.files.get(&entry.path);
        let is = found.map_or_else(|| "nothing".to_owned(), |n| n.line(&entry.path));
        if let Some(why) = mismatch(entry, found, &image.files, tree) {
            differences.push(format!("  {why}\n    expected  {}\n    found     {is}", line(entry)));
        }
    }
    if !differences.is_empty() {
        wrong.push(format!(
            "the files of the image{}:\n{}",
            for_platform(&tree.platform),
            differences.join("\n")
        ));
    }
}

fn for_platform(platform: &str) -> String {
    if platform.is_empty() { String::new() } else { format!(" for {platform}") }
}

/// How a path is not what is expected.
fn mismatch(entry: &Entry, found: Option<&Node>, files: &Files, tree: &Tree) -> Option<&'static str> {
    let Some(node) = found else {
        return (entry.kind != Kind::Removed).then_some("missing");
    };
    if let Kind::Hardlink(peer) = &entry.kind {
        return files.get(peer).is_none_or(|p| p.inode != node.inode).then_some("not a hardlink");
    }
    if entry.kind == Kind::Removed {
        return Some("still there");
    }
    if !node.is(&entry.kind) {
        return Some("different");
    }
    if node.mode != entry.mode && !matches!(node.kind, NodeKind::Symlink(_)) {
        return Some("mode");
    }
    if node.owner != entry.owner {
        return Some("owner");
    }
    if entry.mtime.is_some_and(|m| m != node.mtime) {
        return Some("time");
    }
    let mut xattrs: Vec<(String, String)> = entry.xattrs.clone();
    xattrs.sort();
    if !xattrs.iter().map(|(n, v)| (n, v)).eq(&node.xattrs) {
        return Some("extended attributes");
    }
    let peers = files.values().filter(|n| n.inode == node.inode).count();
    let said = tree.entries.iter().filter(|e| e.kind == Kind::Hardlink(entry.path.clone())).count();
    (peers > said + 1).then_some("a hardlink")
}

fn line(entry: &Entry) -> String {
    let mode = entry.mode;
    let (user, group) = entry.owner;
    let what = match &entry.kind {
        Kind::Removed => return format!("{} removed", entry.path),
        Kind::Hardlink(peer) => return format!("{} hardlink = {peer}", entry.path),
        Kind::Directory => "dir".to_owned(),
        Kind::File(None) => "file *".to_owned(),
        Kind::File(Some(content)) => format!("file {:?}", String::from_utf8_lossy(content)),
        Kind::Symlink(target) => format!("link -> {target}"),
        Kind::Other(kind) => (*kind).to_owned(),
    };
    let mtime = entry.mtime.map(|m| format!(" mtime={m}")).unwrap_or_default();
    format!("{} {what} {mode:04o} {user}:{group}{mtime} {:?}", entry.path, entry.xattrs)
}

/// `layers`, a path of names with dots between, or with slashes a JSON pointer.
fn compare_value(key: &str, expected: &Value, image: &Image, plain: &Image, wrong: &mut Vec<String>) {
    let pointer = if key.starts_with('/') { key.to_owned() } else { format!("/{}", key.replace('.', "/")) };
    let found = match key {
        // Those above the base's.
        "layers" => {
            let below = if image.layers.starts_with(&plain.layers) { plain.layers.len() } else { 0 };
            Value::from(image.layers.len() - below)
        }
        // Those above the base's: what was done, and whether that made a layer.
        "history" => history(image, plain),
        _ => image.config.pointer(&pointer).cloned().unwrap_or(Value::Null),
    };
    let mut expected = expected.clone();
    if let Some(list) = expected.as_array_mut()
        && list.first() == Some(&Value::from("..."))
    {
        let base = plain.config.pointer(&pointer).and_then(Value::as_array).cloned().unwrap_or_default();
        list.splice(0..1, base);
    }
    if found != expected {
        wrong.push(format!("{key} is\n  {found}\nexpected\n  {expected}"));
    }
}

/// For each entry the instruction's keyword, with a `*` before it where there is a layer.
fn history(image: &Image, plain: &Image) -> Value {
    let entries = |image: &Image| image.config["history"].as_array().cloned().unwrap_or_default();
    let all = entries(image);
    let below = if image.layers.starts_with(&plain.layers) { entries(plain).len() } else { 0 };
    let line = |e: &Value| {
        let keyword = e["created_by"].as_str().unwrap_or("").split(' ').next().unwrap_or("").to_owned();
        if e["empty_layer"].as_bool() == Some(true) { keyword } else { format!("*{keyword}") }
    };
    all[below.min(all.len())..].iter().map(line).collect()
}
