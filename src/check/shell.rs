//! The commands in the text of a `RUN`: as much of a shell's grammar as it takes to tell a command from a
//! comment, a quoted text or a here-document.
//!
//! It reads the Containerfile's own text, so that every word keeps its place; escaped line ends and the comment
//! lines between them vanish as they do for the frontend. What a shell would only know when it runs (variables,
//! substitutions, functions, aliases) stays text: checks must not conclude anything from a word that has a `$`.

use crate::dockerfile::ast::{Command, Containerfile, Run, Span};

/// A simple command: its words without assignments, redirections and reserved words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Simple {
    /// At least one.
    pub(super) words: Vec<String>,
    /// From the first word to the last.
    pub(super) span: Span,
}

impl Simple {
    /// The program, without the directory it is in.
    pub(super) fn name(&self) -> &str {
        let first = self.words[0].as_str();
        first.rsplit('/').next().unwrap_or(first)
    }

    /// What follows the program.
    pub(super) fn arguments(&self) -> &[String] {
        &self.words[1..]
    }

    /// Whether one of the arguments is this word.
    pub(super) fn has(&self, word: &str) -> bool {
        self.arguments().iter().any(|argument| argument == word)
    }
}

/// The commands that a `RUN` starts, as far as they can be seen: those of the shell form, of a script in a
/// heredoc, and of `["sh", "-c", "…"]`.
pub(super) fn commands(text: &str, file: &Containerfile, run: &Run) -> Vec<Simple> {
    let mut found = match &run.command {
        Command::Exec(words) => match simple(words.node.clone(), words.span) {
            Some(simple) => vec![simple],
            None => Vec::new(),
        },
        Command::Shell(word) => Scanner::new(text, word.span, Some(file.directives.escape)).commands(),
    };
    // The shell reads a heredoc as its script when nothing stands before it, or another shell does.
    let is_script = match &run.command {
        Command::Shell(word) => {
            word.node.starts_with("<<")
                || found.first().is_some_and(|first| is_shell(first) && first.words.len() == 1)
        }
        Command::Exec(_) => false,
    };
    if let (true, Some(script)) = (is_script, run.heredocs.first())
        && !names_another_interpreter(&script.body.node)
    {
        found.extend(Scanner::new(text, script.body.span, None).commands());
    }
    found.into_iter().flat_map(unwrap).collect()
}

fn names_another_interpreter(script: &str) -> bool {
    script.lines().next().and_then(|line| line.strip_prefix("#!")).is_some_and(|line| {
        let program = line.split_whitespace().next_back().unwrap_or_default();
        !["sh", "bash", "dash", "ash", "ksh", "zsh"].iter().any(|shell| program.ends_with(shell))
    })
}

fn is_shell(command: &Simple) -> bool {
    matches!(command.name(), "sh" | "bash" | "dash" | "ash" | "ksh" | "zsh")
}

/// Programs and builtins that run the command behind them.
const WRAPPERS: [&str; 8] = ["exec", "command", "time", "nohup", "eatmydata", "env", "nice", "builtin"];

/// Removes what only changes how a command runs; takes the script of `sh -c` apart.
fn unwrap(command: Simple) -> Vec<Simple> {
    let mut words = command.words.as_slice();
    while words.first().is_some_and(|word| WRAPPERS.contains(&word.as_str())) {
        words = &words[1..];
        while words.first().is_some_and(|word| word.starts_with('-') || is_assignment(word)) {
            words = &words[1..];
        }
    }
    let Some(command) = simple(words.to_vec(), command.span) else { return Vec::new() };
    if is_shell(&command) {
        let script = command.arguments().iter().position(|word| {
            word.strip_prefix('-').is_some_and(|flags| !flags.starts_with('-') && flags.ends_with('c'))
        });
        if let Some(script) = script.and_then(|at| command.arguments().get(at + 1)) {
            let whole = Span::new(0, script.len());
            // Nested ever deeper they could use up the stack, so one level it is.
            let inner = Scanner::new(script, whole, None).commands();
            return inner.into_iter().map(|c| Simple { span: command.span, ..c }).collect();
        }
    }
    vec![command]
}

fn simple(words: Vec<String>, span: Span) -> Option<Simple> {
    (!words.is_empty()).then_some(Simple { words, span })
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        let name = name.strip_suffix('+').unwrap_or(name);
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

struct Scanner<'t> {
    text: &'t str,
    at: usize,
    end: usize,
    /// The file's escape character, where lines that end in it are joined.
    joined: Option<char>,
    found: Vec<Simple>,
    words: Vec<String>,
    span: Span,
    /// The next word is where a redirection goes.
    redirected: bool,
}

impl<'t> Scanner<'t> {
    fn new(text: &'t str, span: Span, joined: Option<char>) -> Scanner<'t> {
        let end = span.end.min(text.len());
        Scanner {
            text,
            at: span.start.min(end),
            end,
            joined,
            found: Vec::new(),
            words: Vec::new(),
            span: Span::default(),
            redirected: false,
        }
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..self.end]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn commands(mut self) -> Vec<Simple> {
        while let Some(c) = self.peek() {
            if self.continuation() {
                continue;
            }
            match c {
                '\n' | ';' | '&' | '|' | '(' | ')' => {
                    self.bump();
                    self.finish();
                }
                '<' | '>' => self.redirection(),
                '#' => self.comment(),
                c if c.is_whitespace() => {
                    self.bump();
                }
                _ => self.word(),
            }
        }
        self.finish();
        self.found
    }

    /// Skips an escaped line end, and the blank and comment lines after it.
    fn continuation(&mut self) -> bool {
        let escape = self.joined.unwrap_or('\\');
        let Some(after) = self.rest().strip_prefix(escape) else { return false };
        let blanks = match self.joined {
            // The frontend allows blanks behind the escape, a shell does not.
            Some(_) => after.len() - after.trim_start_matches([' ', '\t', '\r']).len(),
            None => usize::from(after.starts_with("\r\n")),
        };
        if !after[blanks..].starts_with('\n') {
            return false;
        }
        self.at += escape.len_utf8() + blanks + 1;
        while self.joined.is_some() && !self.rest().is_empty() {
            let line = self.rest().split_inclusive('\n').next().unwrap_or_default();
            let content = line.trim();
            if !content.is_empty() && !content.starts_with('#') {
                break;
            }
            self.at += line.len();
        }
        true
    }

    /// To the end of the line; where lines are joined, that is the end of it all.
    fn comment(&mut self) {
        self.at = match (self.joined, self.rest().find('\n')) {
            (None, Some(length)) => self.at + length,
            _ => self.end,
        };
    }

    fn redirection(&mut self) {
        while self.peek().is_some_and(|c| matches!(c, '<' | '>' | '&' | '|' | '-')) {
            self.bump();
        }
        self.redirected = true;
    }

    fn word(&mut self) {
        let start = self.at;
        let mut word = String::new();
        let mut quoted = false;
        while let Some(c) = self.peek() {
            if self.continuation() {
                continue;
            }
            match c {
                '\'' => {
                    quoted = true;
                    self.bump();
                    while let Some(c) = self.bump().filter(|c| *c != '\'') {
                        word.push(c);
                    }
                }
                '"' => {
                    quoted = true;
                    self.bump();
                    self.double_quoted(&mut word);
                }
                '\\' => {
                    self.bump();
                    word.extend(self.bump());
                }
                '$' => self.dollar(&mut word),
                '`' => {
                    self.bump();
                    word.push('`');
                    while let Some(c) = self.bump().filter(|c| *c != '`') {
                        word.push(c);
                    }
                }
                '<' | '>' if word.chars().all(|c| c.is_ascii_digit()) && !quoted => {
                    // The number before is the descriptor that is redirected.
                    self.redirection();
                    return;
                }
                c if c.is_whitespace() || matches!(c, ';' | '&' | '|' | '(' | ')' | '<' | '>') => break,
                c => {
                    self.bump();
                    word.push(c);
                }
            }
        }
        self.add(word, quoted, Span::new(start, self.at));
    }

    fn double_quoted(&mut self, word: &mut String) {
        while let Some(c) = self.peek() {
            if self.continuation() {
                continue;
            }
            match c {
                '"' => {
                    self.bump();
                    return;
                }
                '\\' => {
                    self.bump();
                    word.extend(self.bump());
                }
                '$' => self.dollar(word),
                c => {
                    self.bump();
                    word.push(c);
                }
            }
        }
    }

    /// `$(…)` and `${…}` up to their ends, as text.
    fn dollar(&mut self, word: &mut String) {
        word.extend(self.bump());
        let (open, close) = match self.peek() {
            Some('(') => ('(', ')'),
            Some('{') => ('{', '}'),
            _ => return,
        };
        let mut depth = 0;
        while let Some(c) = self.bump() {
            word.push(c);
            if c == open {
                depth += 1;
            } else if c == close {
                depth -= 1;
            } else if c == '\'' {
                while let Some(c) = self.bump().filter(|c| *c != '\'') {
                    word.push(c);
                }
            }
            if depth == 0 {
                return;
            }
        }
    }

    fn add(&mut self, word: String, quoted: bool, span: Span) {
        if std::mem::take(&mut self.redirected) {
            return;
        }
        if self.words.is_empty() {
            let reserved =
                ["if", "then", "elif", "else", "fi", "do", "done", "while", "until", "!", "{", "}", "esac"];
            if (!quoted && reserved.contains(&word.as_str()))
                || is_assignment(&self.text[span.start..span.end])
            {
                return;
            }
            self.span = span;
        }
        self.span = self.span.to(span);
        self.words.push(word);
    }

    fn finish(&mut self) {
        self.redirected = false;
        self.found.extend(simple(std::mem::take(&mut self.words), self.span));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::{self, Kind};

    fn seen(run: &str) -> Vec<String> {
        let text = format!("FROM scratch\n{run}\n");
        let file = dockerfile::parse(&text).unwrap();
        let Kind::Run(parsed) = &file.stages[0].instructions[0].kind else { panic!("{run}") };
        let found = commands(&text, &file, parsed);
        for command in &found {
            assert!(text.get(command.span.range()).is_some_and(|part| !part.is_empty()), "{command:?}");
        }
        found.into_iter().map(|c| c.words.join(" ")).collect()
    }

    #[test]
    fn commands_are_told_from_all_else() {
        for (run, expected) in [
            ("RUN a && b -c; d | e || f & g", &["a", "b -c", "d", "e", "f", "g"][..]),
            ("RUN a \\\n  # sudo b \\\n\n  && c", &["a", "c"]),
            ("RUN a # sudo b", &["a"]),
            ("RUN a#b c#d", &["a#b c#d"]),
            ("RUN A=1 B='2 3' c >/dev/null 2>&1 d", &["c d"]),
            ("RUN echo 'sudo x; y' \"sudo && z\" \\; w", &["echo sudo x; y sudo && z ; w"]),
            ("RUN if [ -e x ]; then a; else b; fi", &["[ -e x ]", "a", "b"]),
            ("RUN (a; { b; }) ", &["a", "b"]),
            ("RUN x $(sudo a; b) \"$(c \"d\")\" ${e}", &["x $(sudo a; b) $(c \"d\") ${e}"]),
            ("RUN env A=b exec -a z apt-get update", &["z apt-get update"]),
            ("RUN [\"apt-get\", \"update\"]", &["apt-get update"]),
            ("RUN [\"/bin/bash\", \"-eo\", \"pipefail\", \"-c\", \"a; b\"]", &["a", "b"]),
            ("RUN sh -ec 'a && b'", &["a", "b"]),
            ("RUN <<EOF\na\n# sudo b\nc \\\n  d\nEOF", &["a", "c d"]),
            ("RUN bash <<'EOF'\na\nEOF", &["bash", "a"]),
            ("RUN <<EOF\n#!/usr/bin/env python3\nsudo(1)\nEOF", &[]),
            ("RUN cat <<EOF >/x\nsudo a\nEOF", &["cat"]),
            ("RUN --mount=type=cache,target=/c a", &["a"]),
        ] {
            assert_eq!(seen(run), expected, "{run}");
        }
    }

    #[test]
    fn nothing_makes_it_panic_or_hang() {
        for text in ["'", "\"", "\\", "$(", "${", "`", "a\\", "((((", "<<<", "2>", "$", "é\\\n é'", "\"\\"]
        {
            for joined in [None, Some('\\'), Some('`')] {
                Scanner::new(text, Span::new(0, text.len() + 5), joined).commands();
            }
        }
    }
}
