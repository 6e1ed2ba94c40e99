//! Texts that are nearly Containerfiles, words, patterns and flags.
//!
//! A text is first made by rule, so that it gets past the parser's first checks, and then often broken in
//! a few places.

use crate::random::Random;

/// What a text is broken with: whatever means something somewhere.
const PIECES: &[&str] = &[
    "\n",
    "\n",
    "\r\n",
    "\r",
    " ",
    "  ",
    "\t",
    "\u{b}",
    "\u{a0}",
    "\u{feff}",
    "\\\n",
    "`\n",
    "\\",
    "\\\\",
    "`",
    "'",
    "\"",
    "''",
    "$",
    "${",
    "}",
    "${A",
    "${A:-",
    "${A:+",
    "${A:?",
    "${A#",
    "${A##",
    "${A%",
    "${A%%",
    "${A/",
    "${A//",
    "$A",
    "${NOPE}",
    ":",
    "-",
    "+",
    "?",
    "#",
    "# ",
    "#\n",
    "# escape=`\n",
    "# escape=\\\n",
    "# syntax=x\n",
    "# check=skip=all\n",
    "<<",
    "<<-",
    "<<EOF",
    "<<'EOF'",
    "<<\"A B\"",
    "3<<X",
    "EOF\n",
    "\nEOF\n",
    "\tEOF\n",
    "[",
    "]",
    "[\"",
    "\"]",
    "\",\"",
    "[]",
    "[\"a\",\"b\"]",
    "\\u0041",
    "\\ud800",
    ",",
    "=",
    "A=b",
    "--",
    "-- ",
    "--from=",
    "--mount=type=",
    "--link",
    "--chown=",
    " AS ",
    "FROM ",
    "RUN ",
    "COPY ",
    "ENV ",
    "ARG ",
    "ONBUILD ",
    "NONE",
    "CMD",
    "scratch",
    "*",
    "**",
    "?",
    "[a-z]",
    "[^",
    "!",
    "/",
    "..",
    ".",
    "~",
    "ä",
    "€",
    "\u{1f600}",
    "\u{0}",
    "0",
    "9",
    "99999999999999999999",
    "a",
    "b",
];

const NAMES: &[&str] = &["A", "B", "C1", "PATH", "NOPE", "_x", "HTTP_PROXY", "TARGETARCH", "1", "?", "ä"];
const PLAIN: &[&str] = &[
    "a",
    "b",
    "x.txt",
    "/",
    "/a/b",
    ".",
    "..",
    "dir/",
    "./x",
    "*.rs",
    "a?",
    "[ab]",
    "0",
    "80/tcp",
    "1000:1000",
    "no",
    "none",
    "base",
    "build",
    "https://localhost/x.tar",
    "SIGTERM",
    "C:\\x",
    "ä",
    "x=y",
    "sha256:00",
];
const OPERATORS: &[&str] =
    &[":-", "-", ":+", "+", ":?", "?", "#", "##", "%", "%%", "/", "//", ":#", ":", "^", "", "}"];

/// Makes texts out of random numbers.
pub(crate) struct Generator {
    pub(crate) random: Random,
    out: String,
}

impl Generator {
    pub(crate) fn new(random: Random) -> Generator {
        Generator { random, out: String::with_capacity(512) }
    }

    /// A Containerfile, perhaps broken.
    pub(crate) fn file(&mut self) -> String {
        for _ in 0..self.random.below(3) {
            if self.random.once_in(2) {
                self.push_one(&[
                    "# escape=`\n",
                    "# syntax=docker/dockerfile:1\n",
                    "# note\n",
                    "\n",
                    "#check=x\n",
                ]);
            }
        }
        for _ in 0..self.random.below(3) {
            self.instruction("ARG");
        }
        for _ in 0..1 + self.random.below(2) {
            self.instruction("FROM");
            for _ in 0..self.random.below(5) {
                let keyword = self.keyword();
                self.instruction(keyword);
            }
        }
        self.broken()
    }

    /// One instruction, as an image's configuration holds it.
    pub(crate) fn trigger(&mut self) -> String {
        let keyword = self.keyword();
        self.instruction(keyword);
        self.broken()
    }

    /// A word with variables, quotes and escapes in it.
    pub(crate) fn text_of_word(&mut self) -> String {
        for _ in 0..1 + self.random.below(3) {
            self.word(0);
            if self.random.once_in(3) {
                self.out.push(' ');
            }
        }
        self.broken()
    }

    /// Patterns, one a line, and a path on the last line.
    pub(crate) fn patterns(&mut self) -> String {
        for _ in 0..1 + self.random.below(5) {
            if self.random.once_in(4) {
                self.out.push('!');
            }
            for _ in 0..1 + self.random.below(6) {
                self.push_one(&[
                    "a", "b", "ab", "/", "/", "*", "**", "**/", "?", "[a-b]", "[^a]", "[", "]", "\\", ".",
                    "..", "#", " ", "ä",
                ]);
            }
            self.out.push('\n');
        }
        for _ in 0..1 + self.random.below(8) {
            self.push_one(&["a", "b", "ab", "/", "/", "ä", "."]);
        }
        self.broken()
    }

    /// The value of a `--mount`, or of one of the other flags of `RUN`.
    pub(crate) fn flag_value(&mut self) -> String {
        for at in 0..1 + self.random.below(6) {
            if at > 0 {
                self.out.push(',');
            }
            if self.random.once_in(8) {
                self.out.push('"');
            }
            self.push_one(&[
                "type=bind",
                "type=cache",
                "type=tmpfs",
                "type=secret",
                "type=ssh",
                "type=",
                "from=",
                "source=",
                "src=",
                "target=",
                "dst=",
                "destination=",
                "ro",
                "rw",
                "readonly=",
                "readwrite=",
                "required",
                "required=",
                "size=",
                "id=",
                "sharing=",
                "mode=",
                "uid=",
                "gid=",
                "env=",
                "propagation=",
                "default",
                "none",
                "sandbox",
                "vendor.com/x=y",
            ]);
            if self.random.once_in(2) {
                self.push_one(&[
                    "1",
                    "0",
                    "true",
                    "f",
                    "64m",
                    "1.5GiB",
                    "9e99",
                    "0755",
                    "shared",
                    "locked",
                    "/x",
                    "$A",
                    "${A:-b}",
                    "a\"\"b",
                    "-1",
                    "99999999999",
                    "\"",
                    "",
                ]);
            }
        }
        self.broken()
    }

    fn push_one(&mut self, list: &[&str]) {
        let piece = self.random.one_of(list);
        self.out.push_str(piece);
    }

    fn keyword(&mut self) -> &'static str {
        self.random.one_of(&[
            "RUN",
            "RUN",
            "RUN",
            "COPY",
            "COPY",
            "COPY",
            "ADD",
            "ENV",
            "ENV",
            "ARG",
            "LABEL",
            "WORKDIR",
            "USER",
            "EXPOSE",
            "VOLUME",
            "CMD",
            "ENTRYPOINT",
            "SHELL",
            "STOPSIGNAL",
            "HEALTHCHECK",
            "ONBUILD",
            "MAINTAINER",
        ])
    }

    fn blank(&mut self) {
        self.push_one(&[" ", " ", " ", " ", " ", " ", "  ", "\t", " \\\n  ", " \\\n\n# c\n  "]);
    }

    fn instruction(&mut self, keyword: &'static str) {
        let mut heredocs = Vec::new();
        if self.random.once_in(8) {
            self.push_one(&["# A the first\n", "# base x\n", "\n", "#\n", "  "]);
        }
        if self.random.once_in(10) {
            self.out.push_str(&keyword.to_lowercase());
        } else {
            self.out.push_str(keyword);
        }
        self.blank();
        self.arguments(keyword, &mut heredocs);
        self.push_one(&["\n", "\n", "\n", "\n", "\r\n", "\n\n", " \n"]);
        for (name, tab) in heredocs {
            for _ in 0..self.random.below(3) {
                self.push_one(&["", "\t", "#!"]);
                self.word(1);
                self.push_one(&["\n", "\n", "\\\n", "\r\n"]);
            }
            self.out.push_str(tab);
            self.out.push_str(name);
            self.out.push('\n');
        }
    }

    fn arguments(&mut self, keyword: &str, heredocs: &mut Vec<(&'static str, &'static str)>) {
        match keyword {
            "FROM" => {
                if self.random.once_in(6) {
                    self.push_one(&[
                        "--platform=linux/amd64 ",
                        "--platform=$A ",
                        "--platform=$BUILDPLATFORM ",
                    ]);
                }
                self.push_one(&[
                    "scratch",
                    "scratch",
                    "base",
                    "build",
                    "debian:13",
                    "$A",
                    "0",
                    "x@sha256:1",
                    "A/b",
                ]);
                if self.random.once_in(2) {
                    self.push_one(&[" AS base", " as Build", " AS b.2-x", " AS $A"]);
                }
            }
            "RUN" => {
                self.flags(&[
                    "--mount=type=cache,target=/c",
                    "--mount=",
                    "--network=none",
                    "--security=insecure",
                    "--device=a",
                ]);
                if self.random.once_in(4) {
                    self.heredoc(heredocs);
                }
                self.command(heredocs);
            }
            "COPY" | "ADD" => {
                self.flags(&[
                    "--from=base",
                    "--from=0",
                    "--chown=1:1",
                    "--chmod=755",
                    "--link",
                    "--exclude=*.o",
                    "--parents",
                    "--unpack=true",
                ]);
                if self.random.once_in(6) {
                    return self.json();
                }
                for _ in 0..1 + self.random.below(3) {
                    if self.random.once_in(5) {
                        self.heredoc(heredocs);
                    } else {
                        self.word(0);
                    }
                    self.blank();
                }
                self.push_one(&["/d/", ".", "/x", "$A"]);
            }
            "ENV" | "LABEL" | "ARG" => {
                if keyword != "ARG" && self.random.once_in(5) {
                    self.push_one(NAMES);
                    self.blank();
                    return self.word(0);
                }
                for _ in 0..1 + self.random.below(3) {
                    self.push_one(NAMES);
                    if keyword != "ARG" || self.random.once_in(2) {
                        self.out.push('=');
                        self.word(0);
                    }
                    self.blank();
                }
            }
            "ONBUILD" => {
                let keyword = self.keyword();
                self.out.push_str(keyword);
                self.out.push(' ');
                if keyword != "ONBUILD" {
                    self.arguments(keyword, heredocs);
                }
            }
            "HEALTHCHECK" => {
                self.flags(&["--interval=5s", "--timeout=1h2m", "--retries=3", "--start-period=$A"]);
                if self.random.once_in(4) {
                    return self.out.push_str("NONE");
                }
                self.out.push_str("CMD ");
                self.command(heredocs);
            }
            "SHELL" => self.json(),
            "CMD" | "ENTRYPOINT" => self.command(&mut Vec::new()),
            "VOLUME" if self.random.once_in(3) => self.json(),
            _ => {
                for _ in 0..1 + self.random.below(2) {
                    self.word(0);
                    self.blank();
                }
            }
        }
    }

    fn flags(&mut self, list: &[&str]) {
        while self.random.once_in(4) {
            self.push_one(list);
            if self.random.once_in(8) {
                self.push_one(&["'a b'", "\"x\"", "\\ ", "=x", ","]);
            }
            self.blank();
        }
    }

    fn command(&mut self, heredocs: &mut Vec<(&'static str, &'static str)>) {
        if self.random.once_in(3) {
            return self.json();
        }
        for _ in 0..self.random.below(4) {
            self.word(0);
            self.blank();
            if self.random.once_in(12) {
                self.heredoc(heredocs);
                self.out.push(' ');
            }
        }
    }

    fn json(&mut self) {
        self.out.push('[');
        for at in 0..self.random.below(4) {
            if at > 0 {
                self.push_one(&[",", ", ", " ,"]);
            }
            self.push_one(&[
                "\"a\"",
                "\"\"",
                "\"x y\"",
                "\"\\u00e4\\n\"",
                "\"$A\"",
                "\"<<E\"",
                "\"--x\"",
                "\"[\"",
                "\"\\\\\"",
                "\"ä\"",
                "1",
            ]);
        }
        self.out.push(']');
    }

    fn heredoc(&mut self, heredocs: &mut Vec<(&'static str, &'static str)>) {
        let name = self.random.one_of(&["EOF", "a.txt", "E", "$A", "x-y"]);
        let (dash, tab) = if self.random.once_in(3) { ("-", "\t") } else { ("", "") };
        let quote = self.random.one_of(&["", "", "'", "\""]);
        self.push_one(&["", "", "", "3"]);
        self.out.push_str("<<");
        self.push_one(&["", "", "", "", " "]);
        self.out.push_str(dash);
        for part in [quote, name, quote] {
            self.out.push_str(part);
        }
        heredocs.push((name, tab));
    }

    fn word(&mut self, depth: usize) {
        for _ in 0..1 + self.random.below(3) {
            match self.random.below(10) {
                0 => {
                    self.out.push('$');
                    self.push_one(NAMES);
                }
                1 | 2 if depth < 6 => {
                    self.out.push_str("${");
                    self.push_one(NAMES);
                    self.push_one(OPERATORS);
                    self.word(depth + 1);
                    if self.random.once_in(4) {
                        self.out.push('/');
                        self.word(depth + 1);
                    }
                    self.out.push('}');
                }
                3 if depth < 6 => {
                    let quote = self.random.one_of(&["'", "\""]);
                    self.out.push_str(quote);
                    self.word(depth + 1);
                    self.push_one(&["", " ", "*", "\\"]);
                    self.out.push_str(quote);
                }
                4 => self.push_one(&["\\$", "\\\\", "\\ ", "`$", "\\\"", "*", "?"]),
                _ => self.push_one(PLAIN),
            }
        }
    }

    /// The text so far, half of the time with a few changes; the next one begins empty.
    fn broken(&mut self) -> String {
        let mut text = std::mem::take(&mut self.out);
        if self.random.once_in(2) {
            for _ in 0..1 + self.random.below(4) {
                self.change(&mut text);
            }
        }
        text
    }

    fn change(&mut self, text: &mut String) {
        let start = self.place(text);
        match self.random.below(6) {
            0 => {
                let end = self.place(text).max(start);
                // Mostly a little of it.
                let end = if self.random.once_in(4) { end } else { boundary(text, end.min(start + 8)) };
                text.replace_range(start..end, "");
            }
            1 => {
                let end = self.place(text);
                let (start, end) = (start.min(end), start.max(end).min(start.min(end) + 200));
                let copy = text[start..boundary(text, end)].to_owned();
                let at = self.place(text);
                text.insert_str(at, &copy);
            }
            2 => text.truncate(start),
            _ => {
                let piece = self.random.one_of(PIECES);
                text.insert_str(start, piece);
            }
        }
    }

    fn place(&mut self, text: &str) -> usize {
        let at = self.random.below(text.len() + 1);
        boundary(text, at)
    }
}

/// The character boundary at or before `at`.
fn boundary(text: &str, at: usize) -> usize {
    text.floor_char_boundary(at)
}
