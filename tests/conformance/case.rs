//! Reads case files; testdata/conformance/README.md describes them.

use std::collections::BTreeSet;
use std::path::Path;

use crate::support::files::{ContextFile, What, context_line, number, octal, shell_words, tokens};

/// One case, as its file has it.
pub struct Case {
    /// `theme/name`.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// More arguments for `cooper build`.
    pub args: Vec<String>,
    /// Environment of cooper.
    pub env: Vec<(String, String)>,
    /// The last argument.
    pub context: String,
    /// A file that is fed to standard input.
    pub stdin: Option<String>,
    /// Another command line than that of a build.
    pub command: Option<Vec<String>>,
    /// Images that are built first: name, Containerfile.
    pub bases: Vec<(String, String)>,
    /// What is put into the context first.
    pub files: Vec<ContextFile>,
    /// A script that goes on from there.
    pub setup: Option<String>,
    pub expect: Expect,
}

/// What must come out.
#[derive(Default)]
pub struct Expect {
    /// Exit code, text, and whether each line only has to be in it.
    pub error: Option<(i32, String, bool)>,
    /// For each platform (an empty one for the only image) the paths that differ.
    pub trees: Vec<Tree>,
    /// For each platform what the configuration has.
    pub configs: Vec<(String, Vec<(String, serde_json::Value)>)>,
    /// What the steps print; whether other lines may stand between.
    pub output: Option<(Vec<String>, bool)>,
    /// Lines that are somewhere in standard error.
    pub says: Vec<String>,
    /// Lines that are not.
    pub never_says: Vec<String>,
    /// What a check finds: code and line of each.
    pub findings: Option<Vec<String>>,
    /// Standard output; whether each line only has to be in it.
    pub stdout: Option<(String, bool)>,
}

/// Which paths are expected.
pub struct Tree {
    pub platform: String,
    /// Whether other paths may differ as well.
    pub subset: bool,
    pub entries: Vec<Entry>,
}

/// One line of a tree.
pub struct Entry {
    pub path: String,
    pub kind: Kind,
    pub mode: u32,
    pub owner: (u64, u64),
    pub mtime: Option<u64>,
    pub xattrs: Vec<(String, String)>,
}

#[derive(PartialEq, Debug)]
pub enum Kind {
    Removed,
    Directory,
    /// With its content, unless any will do.
    File(Option<Vec<u8>>),
    Symlink(String),
    /// The same file as another path.
    Hardlink(String),
    Other(&'static str),
}

/// Reads a case; `replace` fills in the places that a case cannot know.
pub fn parse(name: &str, path: &Path, replace: &dyn Fn(&str) -> String) -> Result<Case, String> {
    let text = replace(&std::fs::read_to_string(path).map_err(|e| e.to_string())?);
    let mut case = Case {
        name: name.to_owned(),
        title: String::new(),
        args: Vec::new(),
        env: Vec::new(),
        context: "ctx".to_owned(),
        stdin: None,
        command: None,
        bases: Vec::new(),
        files: Vec::new(),
        setup: None,
        expect: Expect::default(),
    };
    let mut sections = Vec::<(&str, String)>::new();
    let mut head = true;
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("=== ") {
            head = false;
            sections.push((title.trim(), String::new()));
        } else if head {
            header(line, &mut case)?;
        } else {
            let body = &mut sections.last_mut().unwrap().1;
            body.push_str(line);
            body.push('\n');
        }
    }
    if case.title.is_empty() {
        return Err("the first line does not say what is shown".into());
    }
    let mut seen = BTreeSet::new();
    for (title, body) in sections {
        if !seen.insert(title) {
            return Err(format!("two sections `{title}`"));
        }
        section(title, body, &mut case).map_err(|e| format!("section `{title}`: {e}"))?;
    }
    check(case)
}

fn check(case: Case) -> Result<Case, String> {
    let e = &case.expect;
    let image = !e.trees.is_empty() || !e.configs.is_empty() || e.output.is_some();
    if e.error.is_some() && image {
        return Err("a build that fails makes no image".into());
    }
    if !image && e.error.is_none() && e.says.is_empty() && e.stdout.is_none() && e.findings.is_none() {
        return Err("nothing is expected".into());
    }
    Ok(case)
}

fn header(line: &str, case: &mut Case) -> Result<(), String> {
    if case.title.is_empty() {
        line.trim().clone_into(&mut case.title);
        return Ok(());
    }
    let Some((key, value)) = line.split_once(':') else {
        return if line.trim().is_empty() {
            Ok(())
        } else {
            Err(format!("`{line}` is neither `key: value` nor a section"))
        };
    };
    let value = value.trim();
    match key {
        "args" => case.args.extend(shell_words(value)),
        "env" => {
            let (name, value) = value.split_once('=').ok_or("env: NAME=VALUE")?;
            case.env.push((name.to_owned(), value.to_owned()));
        }
        "context" => value.clone_into(&mut case.context),
        "stdin" => case.stdin = Some(value.to_owned()),
        "command" => case.command = Some(shell_words(value)),
        "note" => {}
        other => return Err(format!("there is no header `{other}`")),
    }
    Ok(())
}

fn section(title: &str, body: String, case: &mut Case) -> Result<(), String> {
    let words = tokens(title)?;
    let words: Vec<&str> = words.iter().map(|t| t.text.as_str()).collect();
    let subset = words.contains(&"subset");
    let platform = || words[1..].iter().find(|w| w.contains('/')).copied().unwrap_or("").to_owned();
    let expect = &mut case.expect;
    match words[0] {
        "Containerfile" => case.files.push(ContextFile {
            path: "Containerfile".into(),
            mode: None,
            mtime: None,
            what: What::File(body.into_bytes()),
        }),
        "file" => {
            let mut path = None;
            let (mut mode, mut mtime, mut bytes) = (None, None, body.into_bytes());
            for word in &words[1..] {
                match *word {
                    "crlf" => bytes = String::from_utf8(bytes).unwrap().replace('\n', "\r\n").into_bytes(),
                    "bom" => bytes.splice(0..0, *b"\xef\xbb\xbf").for_each(drop),
                    "unended" => {
                        bytes.pop();
                    }
                    w if w.starts_with("mode=") => mode = Some(octal(&w[5..])?),
                    w if w.starts_with("mtime=") => mtime = Some(number(&w[6..])?),
                    w if path.is_none() => path = Some(w.to_owned()),
                    w => return Err(format!("`{w}` is not understood")),
                }
            }
            let path = path.ok_or("a file has a path")?;
            case.files.push(ContextFile { path, mode, mtime, what: What::File(bytes) });
        }
        "context" => {
            for line in body.lines().filter(|l| !l.trim().is_empty()) {
                case.files.push(context_line(line)?);
            }
        }
        "setup" => case.setup = Some(body),
        "base" => case.bases.push(((*words.get(1).ok_or("a base has a name")?).to_owned(), body)),
        "tree" => {
            let entries =
                body.lines().filter(|l| !l.trim().is_empty()).map(entry).collect::<Result<_, _>>()?;
            expect.trees.push(Tree { platform: platform(), subset, entries });
        }
        "config" => {
            let mut values = Vec::new();
            for line in body.lines().filter(|l| !l.trim().is_empty()) {
                let (key, value) = line.split_once(" = ").ok_or(format!("`{line}`: KEY = JSON"))?;
                let value = serde_json::from_str(value).map_err(|e| format!("`{line}`: {e}"))?;
                values.push((key.trim().to_owned(), value));
            }
            expect.configs.push((platform(), values));
        }
        "error" => {
            let code = words.get(1).and_then(|w| w.parse().ok()).ok_or("an error has an exit code")?;
            expect.error = Some((code, body, words.contains(&"says")));
        }
        "output" => expect.output = Some((body.lines().map(str::to_owned).collect(), subset)),
        "says" => expect.says = body.lines().map(str::to_owned).collect(),
        "never" => expect.never_says = body.lines().map(str::to_owned).collect(),
        "findings" => expect.findings = Some(body.lines().map(str::to_owned).collect()),
        "stdout" => expect.stdout = Some((body, words.contains(&"says"))),
        other => return Err(format!("there is no section `{other}`")),
    }
    Ok(())
}

/// One line of a tree.
fn entry(line: &str) -> Result<Entry, String> {
    let tokens = tokens(line)?;
    let wrong = |why: &str| Err(format!("`{line}`: {why}"));
    let [path, kind, rest @ ..] = tokens.as_slice() else {
        return wrong("PATH KIND …");
    };
    if !path.text.starts_with('/') {
        return wrong("paths begin with a slash");
    }
    let mut kind = match kind.text.as_str() {
        "removed" => Kind::Removed,
        "dir" => Kind::Directory,
        "file" => Kind::File(Some(Vec::new())),
        "link" => Kind::Symlink(String::new()),
        "hardlink" => Kind::Hardlink(String::new()),
        "fifo" => Kind::Other("fifo"),
        "char" => Kind::Other("char"),
        "block" => Kind::Other("block"),
        _ => return wrong("a kind is removed, dir, file, link, hardlink, fifo, char or block"),
    };
    let mut mode = match kind {
        Kind::Directory => 0o755,
        Kind::Symlink(_) => 0o777,
        _ => 0o644,
    };
    let (mut owner, mut mtime, mut xattrs) = ((0, 0), None, Vec::new());
    let mut complete = !matches!(kind, Kind::File(_) | Kind::Symlink(_) | Kind::Hardlink(_));
    let mut rest = rest.iter();
    while let Some(token) = rest.next() {
        let text = token.text.as_str();
        match (&mut kind, text) {
            (Kind::File(content), _) if token.quoted => {
                *content = Some(text.as_bytes().to_vec());
                complete = true;
            }
            (Kind::File(content), "*") => {
                *content = None;
                complete = true;
            }
            (Kind::File(content), "hex") => {
                *content = Some(unhex(&rest.next().ok_or("hex: digits")?.text)?);
                complete = true;
            }
            (Kind::Symlink(target), "->") | (Kind::Hardlink(target), "=") => {
                rest.next().ok_or("a link leads somewhere")?.text.clone_into(target);
                complete = true;
            }
            (_, w) if w.starts_with("mtime=") => mtime = Some(number(&w[6..])?),
            (_, w) if w.starts_with("xattr=") => {
                let (name, value) = w[6..].split_once(':').ok_or("xattr=NAME:HEX")?;
                xattrs.push((name.to_owned(), value.to_owned()));
            }
            (_, w) if w.contains(':') => {
                let (user, group) = w.split_once(':').unwrap();
                owner = (number(user)?, number(group)?);
            }
            (_, w) => mode = octal(w)?,
        }
    }
    if !complete {
        return wrong("the content or target is missing (`*` for any content)");
    }
    Ok(Entry { path: path.text.clone(), kind, mode, owner, mtime, xattrs })
}

fn unhex(text: &str) -> Result<Vec<u8>, String> {
    (0..text.len())
        .step_by(2)
        .map(|at| {
            text.get(at..at + 2)
                .and_then(|t| u8::from_str_radix(t, 16).ok())
                .ok_or(format!("`{text}` is not hexadecimal"))
        })
        .collect()
}
