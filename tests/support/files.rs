//! Files of a build context as lines of text, and how they are made.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::{Lab, given, is_root, run};

/// A file; the path is relative to the context.
pub struct ContextFile {
    pub path: String,
    pub mode: Option<u32>,
    pub mtime: Option<u64>,
    pub what: What,
}

pub enum What {
    File(Vec<u8>),
    Directory,
    Symlink(String),
    /// Another name of a file of the context.
    Hardlink(String),
}

/// Writes files below `context`; they and all in `dir` become the ordinary user's.
pub fn write(files: &[ContextFile], context: &Path, dir: &Path) -> Result<(), String> {
    for file in files {
        let path = context.join(&file.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let written = match &file.what {
            What::File(content) => fs::write(&path, content),
            What::Directory => fs::create_dir_all(&path),
            What::Symlink(target) => std::os::unix::fs::symlink(target, &path),
            What::Hardlink(peer) => fs::hard_link(context.join(peer), &path),
        };
        written.map_err(|e| format!("cannot write {}: {e}", file.path))?;
    }
    if is_root() {
        let user = given("COOPER_TEST_USER");
        run(Command::new("chown").args(["-Rh", &format!("{user}:")]).arg(dir)).succeeds();
    }
    // After the change of owners, which takes setuid bits away. Inner ones first: a directory's time
    // changes with what is in it.
    for file in files.iter().rev().filter(|f| !matches!(f.what, What::Symlink(_))) {
        let path = context.join(&file.path);
        if let Some(mode) = file.mode {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        if let Some(seconds) = file.mtime {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            fs::File::open(&path).unwrap().set_modified(time).unwrap();
        }
    }
    Ok(())
}

/// Runs a script in a directory, as the ordinary user; what Git records does not differ from run to run.
pub fn script(lab: &Lab, script: &str, dir: &Path) -> Result<(), String> {
    let mut shell = lab.command("sh");
    shell.args(["-euc", script]).current_dir(dir).env("GIT_CONFIG_NOSYSTEM", "1");
    for (name, value) in [
        ("GIT_AUTHOR_NAME", "somebody"),
        ("GIT_COMMITTER_NAME", "somebody"),
        ("GIT_AUTHOR_EMAIL", "somebody@localhost"),
        ("GIT_COMMITTER_EMAIL", "somebody@localhost"),
        ("GIT_AUTHOR_DATE", "1700000000 +0000"),
        ("GIT_COMMITTER_DATE", "1700000000 +0000"),
    ] {
        shell.env(name, value);
    }
    let said = run(&mut shell);
    match said.status.success() {
        true => Ok(()),
        false => Err(format!("{:?}\n{}{}", said.status, said.stdout, said.stderr)),
    }
}

/// `path`, `path "content" 0644`, `path/`, `link -> target`, `name = other-name`.
pub fn context_line(line: &str) -> Result<ContextFile, String> {
    let tokens = tokens(line)?;
    let path = tokens[0].text.clone();
    let default = || format!("{path}\n").into_bytes();
    let mut file = match path.strip_suffix('/') {
        Some(directory) => {
            ContextFile { path: directory.to_owned(), mode: None, mtime: None, what: What::Directory }
        }
        None => ContextFile { path: path.clone(), mode: None, mtime: None, what: What::File(default()) },
    };
    let mut rest = tokens[1..].iter();
    while let Some(token) = rest.next() {
        match token.text.as_str() {
            _ if token.quoted => file.what = What::File(token.text.clone().into_bytes()),
            "->" => file.what = What::Symlink(rest.next().ok_or("a link has a target")?.text.clone()),
            "=" => file.what = What::Hardlink(rest.next().ok_or("a hardlink has a peer")?.text.clone()),
            w if w.starts_with("mtime=") => file.mtime = Some(number(&w[6..])?),
            w => file.mode = Some(octal(w)?),
        }
    }
    Ok(file)
}

/// Words at blanks; single quotes keep them together.
pub fn shell_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut inside, mut quoted) = (String::new(), false, false);
    for c in text.chars() {
        match c {
            '\'' => (quoted, inside) = (!quoted, true),
            c if c.is_whitespace() && !quoted => {
                if std::mem::take(&mut inside) {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => {
                word.push(c);
                inside = true;
            }
        }
    }
    if inside {
        words.push(word);
    }
    words
}

pub fn octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8).map_err(|_| format!("`{text}` is neither a mode nor anything else"))
}

pub fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number"))
}

/// A word of a line.
pub struct Token {
    pub text: String,
    pub quoted: bool,
}

/// Words at blanks; one in double quotes is read as JSON.
pub fn tokens(line: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        if rest.starts_with('"') {
            let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            let text = stream.next().unwrap().map_err(|e| format!("`{line}`: {e}"))?;
            rest = rest[stream.byte_offset()..].trim_start();
            found.push(Token { text, quoted: true });
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            found.push(Token { text: rest[..end].to_owned(), quoted: false });
            rest = rest[end..].trim_start();
        }
    }
    if found.is_empty() {
        return Err("an empty line".into());
    }
    Ok(found)
}
