//! What a command failed with: the one form in which errors reach the user.
//!
//! Parts have their own error enums; a command turns them into a [`CliError`] once, where it knows what the
//! user was about to do and what would help. `main` prints [`CliError::render`] to stderr and exits with
//! [`Kind::exit_code`].

use std::error::Error;
use std::fmt::{self, Display};
use std::io;
use std::path::Path;
use std::time::Duration;

use unicode_width::UnicodeWidthStr;

use crate::progress::json::seconds;

/// Which sort of failure it is; decides the exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The build or operation failed.
    Failed,
    /// The command line is wrong, or a Containerfile does not parse.
    Usage,
    /// This machine, container or account does not let us do it; elsewhere the same command may work.
    Environment,
}

impl Kind {
    /// The status that the program exits with.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::Environment => 3,
        }
    }
}

/// An error that is ready to be shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CliError {
    /// Which sort it is.
    pub kind: Kind,
    /// What went wrong, in one sentence without a full stop.
    pub message: String,
    /// Blocks of lines that are laid out already, such as a snippet of the Containerfile or a command's
    /// last output.
    pub details: Vec<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Width that messages are wrapped to.
const WIDTH: usize = 80;
/// Columns that the second and later lines of a message are moved to the right.
const INDENT: usize = 2;

impl CliError {
    /// An error with neither details nor a hint.
    pub fn new(kind: Kind, message: impl Into<String>) -> CliError {
        CliError { kind, message: message.into(), details: Vec::new(), hint: None }
    }

    /// The build or operation failed.
    pub fn failed(message: impl Into<String>) -> CliError {
        CliError::new(Kind::Failed, message)
    }

    /// The user wrote something wrong.
    pub fn usage(message: impl Into<String>) -> CliError {
        CliError::new(Kind::Usage, message)
    }

    /// It cannot be done here.
    pub fn environment(message: impl Into<String>) -> CliError {
        CliError::new(Kind::Environment, message)
    }

    /// A file operation failed: `doing` says which, as in "cannot write", and `path` on what.
    ///
    /// Conditions that a user can mend get their hint; a full disk is a failure like others, since the same
    /// command works once there is space. Not for errors of other system calls: `unshare`, for one, says
    /// "no space left" when it means that there are too many namespaces.
    pub fn io(doing: impl Display, path: &Path, error: &io::Error) -> CliError {
        let kind = match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem => Kind::Environment,
            _ => Kind::Failed,
        };
        let mut message = doing.to_string();
        // Whoever made the error may have named the path already.
        let reason = io_reason(error);
        let shown = path.display().to_string();
        if !shown.is_empty() && !message.contains(&shown) && !reason.contains(&shown) {
            message += &format!(" {shown}");
        }
        let hint = io_hint(error, path);
        CliError { kind, message: format!("{message}: {reason}"), details: Vec::new(), hint }
    }

    /// The same error with another block below the message.
    #[must_use]
    pub fn with_detail(mut self, block: impl Into<String>) -> CliError {
        self.details.push(block.into());
        self
    }

    /// The same error with the end of a command's output, as [`Tail`](crate::progress::Tail) kept it.
    /// Nothing is added when there is none.
    #[must_use]
    pub fn with_output(mut self, lines: &[String]) -> CliError {
        if !lines.is_empty() {
            let lines: Vec<String> =
                lines.iter().map(|line| format!("  {line}").trim_end().to_string()).collect();
            self.details.push(format!("last output:\n{}", lines.join("\n")));
        }
        self
    }

    /// The same error with advice.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> CliError {
        self.hint = Some(hint.into());
        self
    }

    /// The error as it is printed, newline at the end included; with `color`, for a terminal.
    ///
    /// Control characters in the message and the hint are left out: what they quote may come from an archive
    /// or a registry.
    pub fn render(&self, color: bool) -> String {
        let mut out = paragraph("error:", "1;31", &self.message, "1", color);
        for block in &self.details {
            out += block.trim_end();
            out.push('\n');
        }
        if let Some(hint) = &self.hint {
            out += &paragraph("hint:", "1;36", hint, "", color);
        }
        out
    }

    /// The error as an object in the stream of `--progress=json`, with a newline: the event `error`, so long
    /// after the command began, which exits with this code.
    pub fn to_json(&self, exit_code: u8, now: Duration) -> String {
        let Self { kind: _, message, details, hint } = self;
        let mut object = serde_json::json!({
            "event": "error",
            "time": seconds(now),
            "exit_code": exit_code,
            "message": message,
        });
        if !details.is_empty() {
            object["details"] = details.clone().into();
        }
        if let Some(hint) = hint {
            object["hint"] = hint.clone().into();
        }
        format!("{object}\n")
    }
}

impl Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for CliError {}

/// What an I/O error says, as the end of a sentence: "no space left on device".
pub fn io_reason(error: &io::Error) -> String {
    let text = error.to_string();
    // The number tells a user nothing that the words do not.
    let text = match error.raw_os_error() {
        Some(number) => text.strip_suffix(&format!(" (os error {number})")).unwrap_or(&text),
        None => &text,
    };
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().collect::<String>() + chars.as_str()
        }
        _ => text.to_string(),
    }
}

/// What to do about an I/O error on `path`, if there is something.
pub fn io_hint(error: &io::Error, path: &Path) -> Option<String> {
    let elsewhere = "point --root to another file system";
    let place = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    let place = if place.as_os_str().is_empty() { Path::new(".") } else { place };
    let (path, place) = (path.display(), place.display());
    match error.kind() {
        io::ErrorKind::StorageFull => Some(format!("free space in {place} or {elsewhere}")),
        io::ErrorKind::QuotaExceeded => Some(format!(
            "your disk quota on the file system of {place} is used up: remove files there or {elsewhere}"
        )),
        io::ErrorKind::ReadOnlyFilesystem => {
            Some(format!("{place} is on a read-only file system: remount it or {elsewhere}"))
        }
        // EPERM is the same kind in Rust, but says that even the right mode would not help.
        io::ErrorKind::PermissionDenied if error.raw_os_error() != Some(1) => {
            Some(format!("`namei -l {path}` shows which part of the path your user may not use"))
        }
        _ => None,
    }
}

/// A word and a text, each with the codes it is painted with, wrapped.
pub(super) fn paragraph(word: &str, word_code: &str, text: &str, text_code: &str, color: bool) -> String {
    let paint = |code: &str, text: &str| match color && !code.is_empty() {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text.to_string(),
    };
    let text: String = text.chars().filter(|&c| c == '\n' || !c.is_control()).collect();
    let mut out = paint(word_code, word);
    // Every line is painted on its own, so that a pager or a log which takes the lines apart shows each as
    // it is meant.
    for (index, line) in wrap(&text, word.len() + 1, INDENT).iter().enumerate() {
        if index > 0 {
            out += &format!("\n{:INDENT$}", "");
        } else {
            out.push(' ');
        }
        out += &paint(text_code, line);
    }
    out.push('\n');
    out
}

/// Breaks text at blanks into lines of up to [`WIDTH`] columns, of which the first loses `first` and the
/// others `rest` columns to what stands before them. Words that are longer stay whole, so that paths and
/// digests can be copied; lines that the text has stay lines.
fn wrap(text: &str, first: usize, rest: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.trim_end().split('\n') {
        let mut line = String::new();
        let mut used = if lines.is_empty() { first } else { rest };
        // Split at single blanks: runs of them, as in an indented example, are kept.
        for (index, word) in paragraph.trim_end().split(' ').enumerate() {
            let columns = word.width();
            if index > 0 && !line.trim().is_empty() && used + 1 + columns > WIDTH {
                lines.push(std::mem::take(&mut line));
                used = rest;
            } else if index > 0 {
                line.push(' ');
                used += 1;
            }
            line.push_str(word);
            used += columns;
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes() {
        let codes = [CliError::failed("x"), CliError::usage("x"), CliError::environment("x")];
        assert_eq!(codes.map(|error| error.kind.exit_code()), [1, 2, 3]);
    }

    #[test]
    fn everything_in_its_place() {
        let error = CliError::failed("the command exited with status 2")
            .with_detail(" --> Containerfile:3:1\n  |\n3 | RUN make\n  | ^^^^^^^^\n")
            .with_output(&["cc -c main.c".into(), String::new(), "main.c:1: no".into()])
            .with_output(&[])
            .with_hint(
                "run it with --progress plain to see all of its output, from the first line to the last",
            );
        let expected = "\
error: the command exited with status 2
 --> Containerfile:3:1
  |
3 | RUN make
  | ^^^^^^^^
last output:
  cc -c main.c

  main.c:1: no
hint: run it with --progress plain to see all of its output, from the first line
  to the last
";
        assert_eq!(error.render(false), expected);
        assert_eq!(error.to_string(), "the command exited with status 2");
    }

    #[test]
    fn colours_only_when_asked_for() {
        let error = CliError::usage("no such flag").with_hint("look at --help");
        assert_eq!(error.render(false), "error: no such flag\nhint: look at --help\n");
        assert_eq!(
            error.render(true),
            "\x1b[1;31merror:\x1b[0m \x1b[1mno such flag\x1b[0m\n\x1b[1;36mhint:\x1b[0m look at --help\n"
        );
    }

    #[test]
    fn quoted_text_cannot_reach_the_terminal() {
        let error = CliError::failed("the registry says \x1b]0;x\x07\x1b[2J\r\nno").with_hint("\u{9b}31m");
        assert_eq!(error.render(false), "error: the registry says ]0;x[2J\n  no\nhint: 31m\n");
    }

    #[test]
    fn wrapping() {
        let long = "a".repeat(100);
        assert_eq!(wrap(&format!("see {long} now"), 7, 2), ["see", &long, "now"], "a path stays whole");
        assert_eq!(wrap("one\n  two  three\n\nfour\n", 7, 2), ["one", "  two  three", "", "four"]);
        assert_eq!(wrap("", 7, 2), [""]);
        let exact = format!("{} {}", "b".repeat(36), "c".repeat(36));
        assert_eq!(wrap(&exact, 7, 2).len(), 1, "7 + 73 columns are 80");
        assert_eq!(wrap(&exact, 8, 2).len(), 2);
        assert_eq!(wrap(&"漢字 ".repeat(20), 7, 2).len(), 2, "20 words of 4 columns and their blanks");
    }

    #[test]
    fn full_disks_and_their_kin() {
        let path = Path::new("/store/blobs/sha256/.tmp-1");
        let render = |number| {
            let error = CliError::io("cannot write", path, &io::Error::from_raw_os_error(number));
            (error.kind, error.render(false))
        };
        let message = "error: cannot write /store/blobs/sha256/.tmp-1:";
        let (kind, text) = render(28);
        assert_eq!(kind, Kind::Failed);
        let hint = "hint: free space in /store/blobs/sha256 or point --root to another file system";
        assert_eq!(text, format!("{message} no space left on device\n{hint}\n"));
        for (number, kind, hint) in [
            (122, Kind::Failed, "hint: your disk quota on the file system of /store/blobs/sha256"),
            (30, Kind::Environment, "hint: /store/blobs/sha256 is on a read-only file system"),
            (13, Kind::Failed, "hint: `namei -l /store/blobs/sha256/.tmp-1` shows"),
        ] {
            let (found, text) = render(number);
            assert_eq!(found, kind, "{text}");
            assert!(text.starts_with(message) && text.contains(hint), "{text}");
        }
        assert_eq!(
            render(1),
            (Kind::Failed, format!("{message} operation not permitted\n")),
            "EPERM is not EACCES"
        );
        assert_eq!(render(2), (Kind::Failed, format!("{message} no such file or directory\n")));
    }

    #[test]
    fn the_place_to_free_is_the_directory_itself_if_it_is_one() {
        let full = io::Error::from_raw_os_error(28);
        let hint = |path| io_hint(&full, Path::new(path)).unwrap();
        assert!(hint("/usr").starts_with("free space in /usr or"));
        assert!(hint("/usr/no-such-file").starts_with("free space in /usr or"));
        assert!(hint("no-such-file").starts_with("free space in . or"));
    }

    #[test]
    fn a_path_is_said_once() {
        let error = CliError::io("cannot read", Path::new("/a"), &io::Error::other("/a is odd"));
        assert_eq!(error.message, "cannot read: /a is odd");
        let error =
            CliError::io("cannot rename /a to /b", Path::new("/a"), &io::Error::other("EOF came early"));
        assert_eq!(error.message, "cannot rename /a to /b: EOF came early");
    }
}
