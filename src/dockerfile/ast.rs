//! What a Containerfile says, before any variable is expanded.
//!
//! Every node keeps the [`Span`] it was read from, so that an error found much later (an unknown
//! stage, a file that is missing) can still underline the place. Texts in a [`Word`] are raw: quotes,
//! escapes and `$variables` are still in them, because only the stage's variables, known at planning
//! time, say what they become.

use std::ops::Range;

/// A half-open range of byte offsets into the Containerfile's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Span {
    /// The span from `start` up to, and without, `end`.
    pub fn new(start: usize, end: usize) -> Span {
        Span { start, end }
    }

    /// The smallest span that covers both.
    pub fn to(self, other: Span) -> Span {
        Span::new(self.start.min(other.start), self.end.max(other.end))
    }

    /// As a range, to slice the text with.
    pub fn range(self) -> Range<usize> {
        self.start..self.end
    }
}

/// A value and where it stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The value.
    pub node: T,
    /// Where it was read.
    pub span: Span,
}

/// An unexpanded word: raw text as written (line continuations already joined), and its place.
pub type Word = Spanned<String>;

/// A whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Containerfile {
    /// The directives at the top.
    pub directives: Directives,
    /// `ARG` instructions before the first `FROM`, in order.
    pub global_args: Vec<Instruction>,
    /// The stages, in order; never empty.
    pub stages: Vec<Stage>,
    /// The blank lines between an escape character at a line's end and the line that goes on from there, in
    /// order. They are no error, and BuildKit warns of them. Comment lines are not among them.
    pub empty_continuations: Vec<Span>,
}

/// Parser directives: the `# key=value` comments before anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// `# escape=`: a backslash unless a backtick was asked for.
    pub escape: char,
    /// `# syntax=`, as written.
    pub syntax: Option<Word>,
    /// `# check=`, as written.
    pub check: Option<Word>,
}

impl Default for Directives {
    fn default() -> Self {
        Directives { escape: '\\', syntax: None, check: None }
    }
}

/// `FROM` and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The `FROM` instruction.
    pub from: From,
    /// The instructions up to the next `FROM`.
    pub instructions: Vec<Instruction>,
}

/// `FROM [--platform=P] IMAGE [AS NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// The whole instruction.
    pub span: Span,
    /// Line number of the keyword, from 1.
    pub line: usize,
    /// The comment lines above it; see [`Instruction::comments`].
    pub comments: Vec<Word>,
    /// The instruction as written, with continuations joined by one line.
    pub text: String,
    /// The image, an earlier stage, or `scratch`.
    pub image: Word,
    /// `--platform`.
    pub platform: Option<Word>,
    /// The stage's name as written; compare it without regard to case.
    pub name: Option<Word>,
}

impl From {
    /// What a comment says of the stage: `# NAME the description`, `NAME` being the stage's in small letters.
    pub fn description(&self) -> Option<&str> {
        describes(&self.comments, &self.name.as_ref()?.node.to_lowercase())
    }
}

/// One instruction inside a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// The whole instruction, first byte of the keyword to last byte of its last line (heredoc
    /// bodies included).
    pub span: Span,
    /// The keyword alone.
    pub keyword: Span,
    /// Line number of the keyword, from 1.
    pub line: usize,
    /// The comment lines since the instruction before, each without its `#` and the white space around it;
    /// directives are not among them. A comment line without text drops those above it; blank lines do not.
    pub comments: Vec<Word>,
    /// The instruction with continuations joined and comment lines dropped, without heredoc bodies. Of one
    /// behind `ONBUILD` instead what an image's `OnBuild` holds: heredocs included, blanks at the end kept.
    pub text: String,
    /// What it says.
    pub kind: Kind,
}

impl Instruction {
    /// What a comment above the instruction says of the argument `name`: `# NAME the description`.
    pub fn description(&self, name: &str) -> Option<&str> {
        describes(&self.comments, name)
    }
}

/// The first of the comments that begins with `name` and a blank, without those.
fn describes<'c>(comments: &'c [Word], name: &str) -> Option<&'c str> {
    let text = |comment: &'c Word| comment.node.strip_prefix(name)?.strip_prefix(' ');
    comments.iter().find_map(text).map(str::trim)
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `RUN`
    Run(Run),
    /// `COPY`
    Copy(Copy),
    /// `ADD`
    Add(Copy),
    /// `ENV`, pairs in order. The old form `ENV key the rest` is one pair.
    Env(Vec<(Word, Word)>),
    /// `ARG`, one or more.
    Arg(Vec<ArgDecl>),
    /// `WORKDIR`
    Workdir(Word),
    /// `USER`
    User(Word),
    /// `LABEL`, pairs in order.
    Label(Vec<(Word, Word)>),
    /// `EXPOSE`; one word may expand to several.
    Expose(Vec<Word>),
    /// `VOLUME`, both forms. `expand` words of the plain form; those of the JSON form as well.
    Volume(Vec<Word>),
    /// `CMD`
    Cmd(Command),
    /// `ENTRYPOINT`
    Entrypoint(Command),
    /// `SHELL`: JSON form only.
    Shell(Vec<String>),
    /// `STOPSIGNAL`
    Stopsignal(Word),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `ONBUILD`: the instruction behind it, parsed, and its text as it is stored in the image.
    Onbuild(Box<Instruction>),
    /// `MAINTAINER`
    Maintainer(Word),
}

/// `NAME` or `NAME=default`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgDecl {
    /// The name, unexpanded; in a stage it may hold quotes and variables, as `ENV` names may.
    pub name: Word,
    /// The default; `Some("")` for `NAME=`.
    pub default: Option<Word>,
}

/// A command line in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Text for the shell, as written, continuations joined.
    Shell(Word),
    /// A JSON array of strings.
    Exec(Spanned<Vec<String>>),
}

/// `RUN [--mount=…] [--network=…] [--security=…] [--device=…] COMMAND`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// `--name=value` flags in order, names and values raw.
    pub flags: Vec<Flag>,
    /// The command. With heredocs this is the text of the first line, `<<EOF` included.
    pub command: Command,
    /// Bodies of the heredocs that the first line opens, in order.
    pub heredocs: Vec<Heredoc>,
}

impl Run {
    /// The heredoc that is itself the command, as in `RUN <<EOF`: its body goes to the shell, or is executed
    /// when it begins with `#!`. With `None` the heredocs are input of the command, which the shell reads: it
    /// gets the command, and after it each body and delimiter on lines of their own.
    pub fn script(&self) -> Option<&Heredoc> {
        let Command::Shell(text) = &self.command else { return None };
        let opening = super::heredoc::opening(&text.node).ok().flatten();
        self.heredocs.first().filter(|_| opening.is_some())
    }
}

/// `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// `--name[=value]` flags in order.
    pub flags: Vec<Flag>,
    /// The sources; at least one.
    pub sources: Vec<Source>,
    /// The destination.
    pub dest: Word,
}

/// One source of `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path, wildcard or URL.
    Path(Word),
    /// An inline file.
    Heredoc(Heredoc),
}

/// `--name` or `--name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// Without the dashes.
    pub name: Spanned<String>,
    /// Not expanded, but without its quotes and backslashes, since BuildKit removes those when it takes the
    /// flags off the line; `None` when there was no `=`.
    pub value: Option<Word>,
}

/// `<<NAME` and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter, unquoted; also the file's name in `COPY`.
    pub name: Spanned<String>,
    /// File descriptor before `<<`, if any (`3<<EOF`).
    pub fd: Option<u32>,
    /// Whether the body is expanded: the delimiter had no quotes.
    pub expand: bool,
    /// Whether `<<-` strips leading tabs (already done in `body`).
    pub chomp: bool,
    /// The lines between, each with its newline.
    pub body: Spanned<String>,
}

/// `HEALTHCHECK`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`
    None,
    /// `HEALTHCHECK [OPTIONS] CMD …`
    Cmd {
        /// `--interval`, `--timeout`, `--start-period`, `--start-interval`, `--retries`, raw.
        flags: Vec<Flag>,
        /// The command.
        command: Command,
    },
}
