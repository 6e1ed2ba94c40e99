//! A Containerfile as text again.
//!
//! What is printed reads back as the same tree, but for places, line numbers and the instructions' own
//! texts: one instruction a line, keywords in capitals, nothing left of how it was laid out. The
//! trigger of an `ONBUILD` is printed as it stands, since that text is what goes into the image.
//!
//! The tree does not say in which of two forms something was written when both mean the same. The plainer one is
//! chosen wherever it reads back rightly: `COPY a b` rather than its JSON form, `KEY=value` rather than
//! `KEY value`, no quotes around a flag's value that needs none.

use super::ast::{
    ArgDecl, Command, Containerfile, Copy, Directives, Flag, From, Healthcheck, Heredoc, Instruction, Kind,
    Run, Source, Span, Spanned, Word,
};
use super::lines::{Logical, ends_in_continuation};
use super::{heredoc, split};

/// Prints a file that [`parse`](super::parse) has read.
///
/// A tree that was made or changed by hand is printed as well as it can be; one that no text could have given
/// (a word with a line end in it, an `ENV` without pairs) does not read back as the same.
pub fn print(file: &Containerfile) -> String {
    let mut printer = Printer { out: String::new(), escape: file.directives.escape };
    printer.directives(&file.directives);
    let first = file.global_args.first().map(|arg| &arg.comments);
    let first = first.or(file.stages.first().map(|stage| &stage.from.comments));
    if first.is_some_and(|comments| !comments.is_empty()) {
        // Behind a blank line no comment is taken for a directive.
        printer.out.push('\n');
    }
    for arg in &file.global_args {
        printer.instruction(arg);
    }
    for stage in &file.stages {
        printer.from(&stage.from);
        for instruction in &stage.instructions {
            printer.instruction(instruction);
        }
    }
    printer.out
}

/// Whether two files say the same: all but places, line numbers, layout, and the texts of instructions that are
/// no triggers.
pub fn same(a: &Containerfile, b: &Containerfile) -> bool {
    let (mut a, mut b) = (a.clone(), b.clone());
    forget_places(&mut a);
    forget_places(&mut b);
    a == b
}

struct Printer {
    out: String,
    escape: char,
}

impl Printer {
    fn directives(&mut self, directives: &Directives) {
        for (key, value) in [("syntax", &directives.syntax), ("check", &directives.check)] {
            if let Some(value) = value {
                // Of a value that is nothing but white space nothing is left; without any there is no directive.
                let value = if value.node.is_empty() { " " } else { &value.node };
                self.out.push_str(&format!("# {key}={value}\n"));
            }
        }
        if directives.escape != Directives::default().escape {
            self.out.push_str(&format!("# escape={}\n", directives.escape));
        }
    }

    fn from(&mut self, from: &From) {
        self.comments(&from.comments);
        let mut rest = from.image.node.clone();
        if let Some(name) = &from.name {
            rest.push_str(" AS ");
            rest.push_str(&name.node);
        }
        let platform =
            from.platform.as_ref().map(|value| flag_text("platform", Some(&value.node), self.escape));
        self.line("FROM", &platform.unwrap_or_default(), &rest);
    }

    fn instruction(&mut self, instruction: &Instruction) {
        self.comments(&instruction.comments);
        match &instruction.kind {
            Kind::Run(run) => self.run(run),
            Kind::Copy(copy) => self.copy("COPY", copy),
            Kind::Add(copy) => self.copy("ADD", copy),
            Kind::Env(pairs) => self.line("ENV", "", &pairs_text(pairs, self.escape)),
            Kind::Label(pairs) => self.line("LABEL", "", &pairs_text(pairs, self.escape)),
            Kind::Arg(args) => {
                let words: Vec<String> = args.iter().map(arg_text).collect();
                self.line("ARG", "", &words.join(" "));
            }
            Kind::Workdir(word) => self.line("WORKDIR", "", &word.node),
            Kind::User(word) => self.line("USER", "", &word.node),
            Kind::Stopsignal(word) => self.line("STOPSIGNAL", "", &word.node),
            Kind::Maintainer(word) => self.line("MAINTAINER", "", &word.node),
            Kind::Expose(words) => self.line("EXPOSE", "", &joined(words)),
            Kind::Volume(words) => {
                let text = if plain(words) { joined(words) } else { json(&nodes(words)) };
                self.line("VOLUME", "", &text);
            }
            Kind::Cmd(command) => self.line("CMD", "", &command_text(command)),
            Kind::Entrypoint(command) => self.line("ENTRYPOINT", "", &command_text(command)),
            Kind::Shell(words) => self.line("SHELL", "", &json(words)),
            Kind::Healthcheck(Healthcheck::None) => self.line("HEALTHCHECK", "", "NONE"),
            Kind::Healthcheck(Healthcheck::Cmd { flags, command }) => {
                self.line(
                    "HEALTHCHECK",
                    &flags_text(flags, self.escape),
                    &format!("CMD {}", command_text(command)),
                );
            }
            Kind::Onbuild(inner) => self.onbuild(inner),
        }
    }

    fn comments(&mut self, comments: &[Word]) {
        for comment in comments {
            self.out.push_str(&format!("# {}\n", comment.node));
        }
    }

    /// `KEYWORD FLAGS REST` on a line of its own.
    fn line(&mut self, keyword: &str, flags: &str, rest: &str) {
        let mut line = keyword.to_owned();
        if !flags.is_empty() {
            line.push(' ');
            line.push_str(flags);
        }
        if rest.starts_with("--") {
            // Here ends what may be flags.
            line.push_str(" --");
        }
        if !rest.is_empty() {
            line.push(' ');
            line.push_str(rest);
        }
        if rest.ends_with(char::is_whitespace) {
            // Only an escape character, or an open quote and one behind it, can have kept this in a word.
            line.push(self.escape);
        }
        if ends_in_continuation(&line, self.escape) {
            // White space that ends the line but is none that a continuation may have behind it.
            line.push('\u{b}');
        }
        self.out.push_str(&line);
        self.out.push('\n');
    }

    fn run(&mut self, run: &Run) {
        self.line("RUN", &flags_text(&run.flags, self.escape), &command_text(&run.command));
        for heredoc in &run.heredocs {
            self.body(heredoc, false);
        }
    }

    fn copy(&mut self, keyword: &str, copy: &Copy) {
        let flags = flags_text(&copy.flags, self.escape);
        if copy.sources.iter().all(|source| heredoc_of(source).is_none()) {
            let paths = copy.sources.iter().filter_map(|source| match source {
                Source::Path(word) => Some(word),
                Source::Heredoc(_) => None,
            });
            let words: Vec<Word> = paths.chain([&copy.dest]).cloned().collect();
            let text = if plain(&words) { joined(&words) } else { json(&nodes(&words)) };
            return self.line(keyword, &flags, &text);
        }
        // Quotes and escapes in paths may reach over into what follows; then one of several ways to write the
        // same reads back rightly.
        let ways = [("'", " "), ("'", "  "), ("\"", " "), ("\"", "  ")];
        let plain = |source: &Source| match source {
            Source::Path(word) => !word.node.contains(['\'', '"', '\\', '$']),
            Source::Heredoc(_) => true,
        };
        let before = self.out.len();
        for (quote, gap) in ways {
            self.copy_with_heredocs(keyword, &flags, copy, quote, gap);
            if copy.sources.iter().all(plain) || self.reads_back(before, copy) {
                return;
            }
            self.out.truncate(before);
        }
        self.copy_with_heredocs(keyword, &flags, copy, "'", " ");
    }

    fn copy_with_heredocs(&mut self, keyword: &str, flags: &str, copy: &Copy, quote: &str, gap: &str) {
        let mut text = String::new();
        for source in &copy.sources {
            match source {
                Source::Path(word) => text.push_str(&word.node),
                Source::Heredoc(heredoc) => text.push_str(&opening_text(heredoc, quote)),
            }
            text.push_str(gap);
        }
        text.push_str(&copy.dest.node);
        self.line(keyword, flags, &text);
        // Not each of the words need have a body: one inside another's quotes means the body of the same name.
        let line = Logical::of(&text);
        let opened = heredoc::openings(line.part()).unwrap_or_default();
        for (at, (opening, _)) in opened.iter().enumerate() {
            let with_name = |heredoc: &&Heredoc| heredoc.name.node == opening.name;
            let Some(heredoc) = copy.sources.iter().filter_map(heredoc_of).rfind(with_name) else { continue };
            // Of several with one name the last body is that of all.
            let repeated = opened[at + 1..].iter().any(|(later, _)| later.name == opening.name);
            self.body(heredoc, repeated);
        }
    }

    /// Whether what was printed since `start` is `copy`.
    fn reads_back(&self, start: usize, copy: &Copy) -> bool {
        let text = format!("# escape={}\nFROM a\n{}", self.escape, &self.out[start..]);
        let Ok(mut file) = super::parse(&text) else { return false };
        forget_places(&mut file);
        let mut copy = copy.clone();
        forget_copy(&mut copy);
        let instructions = &file.stages[0].instructions;
        matches!(&instructions[..], [only] if matches!(&only.kind, Kind::Copy(it) | Kind::Add(it) if *it == copy))
    }

    fn body(&mut self, heredoc: &Heredoc, empty: bool) {
        if !empty {
            self.out.push_str(&heredoc.body.node);
        }
        self.out.push_str(&heredoc.name.node);
        self.out.push('\n');
    }

    fn onbuild(&mut self, inner: &Instruction) {
        let (line, bodies) = match inner.text.split_once('\n') {
            Some((line, bodies)) => (line, Some(bodies)),
            None => (inner.text.as_str(), None),
        };
        self.out.push_str("ONBUILD ");
        self.out.push_str(line);
        if line.ends_with('\r') || ends_in_continuation(line, self.escape) {
            // Only the end of the file, where a continuation had nothing to go on with, can have left this.
            self.out.push(self.escape);
        }
        self.out.push('\n');
        if let Some(bodies) = bodies {
            self.out.push_str(bodies);
            self.out.push('\n');
        }
    }
}

fn heredoc_of(source: &Source) -> Option<&Heredoc> {
    match source {
        Source::Heredoc(heredoc) => Some(heredoc),
        Source::Path(_) => None,
    }
}

fn nodes(words: &[Word]) -> Vec<String> {
    words.iter().map(|word| word.node.clone()).collect()
}

fn joined(words: &[Word]) -> String {
    nodes(words).join(" ")
}

/// Whether words can stand on a line as they are, rather than in the JSON form.
fn plain(words: &[Word]) -> bool {
    let fits = |text: &str| !(text.is_empty() || text.contains(char::is_whitespace) || text.contains("<<"));
    words.iter().all(|word| fits(&word.node))
        && words.first().is_some_and(|first| !first.node.starts_with('['))
}

fn json(words: &[String]) -> String {
    serde_json::Value::from(words).to_string()
}

fn command_text(command: &Command) -> String {
    match command {
        Command::Shell(text) => text.node.clone(),
        Command::Exec(words) => json(&words.node),
    }
}

fn arg_text(arg: &ArgDecl) -> String {
    match &arg.default {
        Some(default) => format!("{}={}", arg.name.node, default.node),
        None => arg.name.node.clone(),
    }
}

/// `KEY=VALUE …`, or the old form when that would say something else.
fn pairs_text(pairs: &[(Word, Word)], escape: char) -> String {
    let words: Vec<String> =
        pairs.iter().map(|(key, value)| format!("{}={}", key.node, value.node)).collect();
    if let ([(key, value)], [word]) = (pairs, &words[..]) {
        let line = Logical::of(word);
        let found = split::quoted_words(line.part(), escape);
        let reads_back = matches!(found[..], [only] if only.as_str() == word) && !key.node.contains('=');
        if !reads_back {
            let old_form = format!("{} {}", key.node, value.node);
            let line = Logical::of(&old_form);
            let found = split::quoted_words(line.part(), escape);
            if found.first().is_some_and(|first| first.as_str().contains('=')) {
                // The escape character at the key's end took the blank; it may have the first of two.
                return format!("{}  {}", key.node, value.node);
            }
            return old_form;
        }
    }
    words.join(" ")
}

fn flags_text(flags: &[Flag], escape: char) -> String {
    let value = |flag: &'_ Flag| flag.value.as_ref().map(|value| value.node.clone());
    let flag = |flag: &Flag| flag_text(&flag.name.node, value(flag).as_deref(), escape);
    flags.iter().map(flag).collect::<Vec<_>>().join(" ")
}

/// `--name=value`, in quotes if the value has anything that could mean something.
fn flag_text(name: &str, value: Option<&str>, escape: char) -> String {
    let Some(value) = value else { return format!("--{name}") };
    let special = |c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '\\' | '`');
    if !value.contains(special) {
        return format!("--{name}={value}");
    }
    format!("--{name}=\"{}\"", escaped(value, escape, &['"']))
}

/// `text` with an escape character before each of `special` and before each of its own kind.
fn escaped(text: &str, escape: char, special: &[char]) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    for c in text.chars() {
        if c == escape || special.contains(&c) {
            out.push(escape);
        }
        out.push(c);
    }
    out
}

/// `<<NAME` with its descriptor and dash, and in quotes (of that kind, if it can be) if those are needed.
fn opening_text(heredoc: &Heredoc, quote: &str) -> String {
    let name = heredoc.name.node.as_str();
    let fd = heredoc.fd.map(|fd| fd.to_string()).unwrap_or_default();
    let dash = if heredoc.chomp { "-" } else { "" };
    let ordinary = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/');
    let name = if heredoc.expand {
        // Quotes would say that the body is not to be expanded; backslashes do not.
        let quoted = |c: char| if ordinary(c) { c.to_string() } else { format!("\\{c}") };
        name.chars().map(quoted).collect()
    } else if quote == "\"" || name.contains('\'') {
        format!("\"{}\"", escaped(name, '\\', &['"', '$']))
    } else {
        format!("'{name}'")
    };
    format!("{fd}<<{dash}{name}")
}

/// Sets everything to nothing that says where something stood or how it was laid out.
fn forget_places(file: &mut Containerfile) {
    file.empty_continuations.clear();
    for word in [&mut file.directives.syntax, &mut file.directives.check].into_iter().flatten() {
        forget_word(word);
    }
    for arg in &mut file.global_args {
        forget_instruction(arg);
    }
    for stage in &mut file.stages {
        let from = &mut stage.from;
        (from.span, from.line) = Default::default();
        from.text.clear();
        from.comments.iter_mut().for_each(forget_word);
        forget_word(&mut from.image);
        for word in [&mut from.platform, &mut from.name].into_iter().flatten() {
            forget_word(word);
        }
        stage.instructions.iter_mut().for_each(forget_instruction);
    }
}

fn forget_word<T>(word: &mut Spanned<T>) {
    word.span = Span::default();
}

fn forget_flags(flags: &mut [Flag]) {
    for flag in flags {
        forget_word(&mut flag.name);
        flag.value.iter_mut().for_each(forget_word);
    }
}

fn forget_command(command: &mut Command) {
    match command {
        Command::Shell(word) => forget_word(word),
        Command::Exec(words) => forget_word(words),
    }
}

fn forget_heredoc(heredoc: &mut Heredoc) {
    forget_word(&mut heredoc.name);
    forget_word(&mut heredoc.body);
}

fn forget_copy(copy: &mut Copy) {
    forget_flags(&mut copy.flags);
    forget_word(&mut copy.dest);
    for source in &mut copy.sources {
        match source {
            Source::Path(word) => forget_word(word),
            Source::Heredoc(heredoc) => forget_heredoc(heredoc),
        }
    }
}

fn forget_instruction(instruction: &mut Instruction) {
    (instruction.span, instruction.keyword, instruction.line) = Default::default();
    instruction.text.clear();
    instruction.comments.iter_mut().for_each(forget_word);
    match &mut instruction.kind {
        Kind::Run(run) => {
            forget_flags(&mut run.flags);
            forget_command(&mut run.command);
            run.heredocs.iter_mut().for_each(forget_heredoc);
        }
        Kind::Copy(copy) | Kind::Add(copy) => forget_copy(copy),
        Kind::Env(pairs) | Kind::Label(pairs) => {
            for (key, value) in pairs {
                forget_word(key);
                forget_word(value);
            }
        }
        Kind::Arg(args) => {
            for arg in args {
                forget_word(&mut arg.name);
                arg.default.iter_mut().for_each(forget_word);
            }
        }
        Kind::Workdir(word) | Kind::User(word) | Kind::Stopsignal(word) | Kind::Maintainer(word) => {
            forget_word(word);
        }
        Kind::Expose(words) | Kind::Volume(words) => words.iter_mut().for_each(forget_word),
        Kind::Cmd(command) | Kind::Entrypoint(command) => forget_command(command),
        Kind::Shell(_) | Kind::Healthcheck(Healthcheck::None) => {}
        Kind::Healthcheck(Healthcheck::Cmd { flags, command }) => {
            forget_flags(flags);
            forget_command(command);
        }
        Kind::Onbuild(inner) => {
            // The text of a trigger is what it says.
            let text = std::mem::take(&mut inner.text);
            forget_instruction(inner);
            inner.text = text;
        }
    }
}
