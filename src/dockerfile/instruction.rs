//! One logical line → one instruction.

use super::ast::{
    ArgDecl, Command, Copy, From, Healthcheck, Heredoc, Instruction, Kind, Run, Source, Spanned, Word,
};
use super::error::{ParseError, closest};
use super::lines::{Lines, Part};
use super::{flags, heredoc, json, split};

/// What a logical line can be.
pub(super) enum Statement {
    /// The start of a stage.
    From(From),
    /// Anything else.
    Instruction(Instruction),
}

/// All instructions.
pub(crate) const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Reads instructions. `lines` stands behind the logical line that is read, for heredoc bodies.
pub(super) struct Reader<'r, 't> {
    pub(super) escape: char,
    pub(super) lines: &'r mut Lines<'t>,
}

/// An instruction's arguments without its flags, and the heredocs of its line.
struct Args<'l> {
    keyword: Part<'l>,
    name: &'static str,
    rest: Part<'l>,
}

impl Args<'_> {
    fn need(&self, what: &str, help: &str) -> ParseError {
        let message = format!("{} requires {what}", self.name);
        ParseError::new(message, self.keyword.span()).with_help(help)
    }
}

impl Reader<'_, '_> {
    /// Reads the statement in `part`.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub(super) fn statement(&mut self, part: Part<'_>) -> Result<Statement, ParseError> {
        let part = part.trim();
        let (keyword, rest) = split::first_word(part);
        let name = keyword_name(keyword)?;
        let text = part.as_str().to_owned();
        let line = part.line.line;
        if name == "FROM" {
            return self.from(keyword, rest, text, line).map(Statement::From);
        }
        let (flags, rest) = flags::take(name, rest, self.escape)?;
        let args = Args { keyword, name, rest };
        let mut span = part.span();
        let kind = match name {
            "RUN" => self.run(&args, flags)?,
            "COPY" => Kind::Copy(self.copy(&args, flags)?),
            "ADD" => Kind::Add(self.copy(&args, flags)?),
            "ENV" => Kind::Env(self.pairs(&args)?),
            "LABEL" => Kind::Label(self.pairs(&args)?),
            "ARG" => Kind::Arg(self.arg(&args)?),
            "WORKDIR" => Kind::Workdir(single(&args, "a directory: `WORKDIR /app`")?),
            "USER" => Kind::User(single(&args, "a user: `USER app`, or `USER 1000:1000`")?),
            "STOPSIGNAL" => Kind::Stopsignal(single(&args, "a signal: `STOPSIGNAL SIGTERM`")?),
            "MAINTAINER" => Kind::Maintainer(single(&args, "a name: `MAINTAINER me@example.org`")?),
            "EXPOSE" => Kind::Expose(expose(&args)?),
            "VOLUME" => Kind::Volume(volume(&args)?),
            "CMD" => Kind::Cmd(command(args.rest)?),
            "ENTRYPOINT" => Kind::Entrypoint(command(args.rest)?),
            "SHELL" => Kind::Shell(shell(&args)?),
            "HEALTHCHECK" => Kind::Healthcheck(healthcheck(&args, flags)?),
            _ => Kind::Onbuild(Box::new(self.onbuild(&args)?)),
        };
        if let Some(end) = self.heredoc_end(&kind) {
            span.end = span.end.max(end);
        }
        let keyword = keyword.span();
        Ok(Statement::Instruction(Instruction { span, keyword, line, comments: Vec::new(), text, kind }))
    }

    fn from(
        &mut self,
        keyword: Part<'_>,
        rest: Part<'_>,
        text: String,
        line: usize,
    ) -> Result<From, ParseError> {
        let (mut flags, rest) = flags::take("FROM", rest, self.escape)?;
        let words = split::blank_separated(rest);
        let (image, name) = match words[..] {
            [image] => (image, None),
            [image, r#as, name] if r#as.as_str().eq_ignore_ascii_case("as") => (image, Some(name)),
            _ => return Err(from_arguments(keyword, rest, &words)),
        };
        if let Some(name) = name {
            check_stage_name(name)?;
        }
        Ok(From {
            span: keyword.span().to(words.last().map_or(keyword, |last| *last).span()),
            line,
            comments: Vec::new(),
            text,
            image: image.word(),
            platform: flags.pop().and_then(|flag| flag.value),
            name: name.map(Part::word),
        })
    }

    fn run(&mut self, args: &Args<'_>, flags: Vec<super::ast::Flag>) -> Result<Kind, ParseError> {
        let command = command(args.rest)?;
        let heredocs = match command {
            Command::Shell(_) => self.heredocs(args)?,
            Command::Exec(_) => Vec::new(),
        };
        Ok(Kind::Run(Run { flags, command, heredocs }))
    }

    fn heredocs(&mut self, args: &Args<'_>) -> Result<Vec<Heredoc>, ParseError> {
        heredoc::read_bodies(heredoc::openings(args.rest)?, self.lines)
    }

    fn copy(&mut self, args: &Args<'_>, flags: Vec<super::ast::Flag>) -> Result<Copy, ParseError> {
        if let Some(mut words) = json::strings(args.rest)? {
            let dest = words.pop().filter(|_| !words.is_empty());
            let dest = dest.ok_or_else(|| copy_arguments(args))?;
            return Ok(Copy { flags, sources: words.into_iter().map(Source::Path).collect(), dest });
        }
        let heredocs = self.heredocs(args)?;
        let words = copy_words(args.rest);
        let Some((dest, sources)) = words.split_last().filter(|(_, sources)| !sources.is_empty()) else {
            return Err(copy_arguments(args));
        };
        if heredoc::opening(dest.as_str()).is_ok_and(|opening| opening.is_some()) {
            let message = format!("{} cannot write to a heredoc", args.name);
            return Err(ParseError::new(message, dest.span())
                .with_label("stands where the destination is expected")
                .with_help(format!("name the destination last: `{} <<EOF /file`", args.name)));
        }
        let mut used = vec![false; heredocs.len()];
        let mut list = Vec::with_capacity(sources.len());
        for source in sources {
            list.push(match heredoc::opening(source.as_str()) {
                Ok(Some(opening)) => {
                    // Of two heredocs with the same delimiter both words mean the last: BuildKit finds
                    // them by name.
                    let found = heredocs.iter().rposition(|h| h.name.node == opening.name);
                    for (used, heredoc) in used.iter_mut().zip(&heredocs) {
                        *used |= heredoc.name.node == opening.name;
                    }
                    match found {
                        Some(at) => Source::Heredoc(Heredoc {
                            name: Spanned { node: opening.name, span: source.span() },
                            fd: opening.fd,
                            expand: opening.expand,
                            chomp: opening.chomp,
                            body: heredocs[at].body.clone(),
                        }),
                        None => Source::Path(source.word()),
                    }
                }
                _ => Source::Path(source.word()),
            });
        }
        if let Some(unused) = used.iter().position(|used| !used) {
            let message = format!("this heredoc is not a source of the {}", args.name);
            return Err(ParseError::new(message, heredocs[unused].name.span)
                .with_help("its delimiter must be one word, without blanks: `<<EOF`"));
        }
        Ok(Copy { flags, sources: list, dest: dest.word() })
    }

    /// `ENV` and `LABEL`: `key=value …`, or the old `key the rest of the line`.
    fn pairs(&self, args: &Args<'_>) -> Result<Vec<(Word, Word)>, ParseError> {
        let name = args.name;
        let example = format!("write `{name} KEY=VALUE`");
        let words = split::quoted_words(args.rest, self.escape);
        let Some(first) = words.first() else {
            return Err(args.need("at least one argument", &example));
        };
        if !first.as_str().contains('=') {
            let (key, value) = split::first_word(args.rest);
            if value.is_empty() {
                return Err(ParseError::new(format!("{name} must have two arguments"), key.span())
                    .with_label("has no value")
                    .with_help(example));
            }
            return Ok(vec![(key.word(), value.word())]);
        }
        let mut pairs = Vec::with_capacity(words.len());
        for word in words {
            let Some(equals) = word.as_str().find('=') else {
                let message = format!("`{}` has no `=`", word.as_str());
                return Err(ParseError::new(message, word.span())
                    .with_label("expected KEY=VALUE")
                    .with_help("put quotes around a value with white space: `KEY=\"some words\"`"));
            };
            if equals == 0 {
                return Err(blank_name(name, word));
            }
            pairs.push((word.sub(0..equals).word(), word.from(equals + 1).word()));
        }
        Ok(pairs)
    }

    fn arg(&self, args: &Args<'_>) -> Result<Vec<ArgDecl>, ParseError> {
        let words = split::quoted_words(args.rest, self.escape);
        if words.is_empty() {
            return Err(args.need("at least one argument", "write `ARG NAME`, or `ARG NAME=default`"));
        }
        let declaration = |word: Part<'_>| match word.as_str().find('=') {
            Some(0) => Err(blank_name("ARG", word)),
            Some(equals) => {
                Ok(ArgDecl { name: word.sub(0..equals).word(), default: Some(word.from(equals + 1).word()) })
            }
            None => Ok(ArgDecl { name: word.word(), default: None }),
        };
        words.into_iter().map(declaration).collect()
    }

    fn onbuild(&mut self, args: &Args<'_>) -> Result<Instruction, ParseError> {
        if args.rest.is_empty() {
            return Err(args.need("an instruction", "write `ONBUILD RUN …`, for example"));
        }
        let (keyword, _) = split::first_word(args.rest);
        refuse_as_trigger(keyword)?;
        let Statement::Instruction(mut inner) = self.statement(args.rest)? else {
            // `FROM` was refused above.
            return Err(not_a_trigger("FROM", keyword));
        };
        // What goes into the image is the text as it stands, white space at its end included, and the
        // heredocs with it, before any tab was stripped.
        inner.text = args.rest.line.text[args.rest.start..].to_owned();
        let heredocs = heredocs_of(&inner.kind);
        for heredoc in heredocs {
            inner.text.push('\n');
            inner.text.push_str(&self.lines.text()[heredoc.body.span.range()]);
            inner.text.push_str(&heredoc.name.node);
        }
        Ok(inner)
    }

    /// The end of the line that closes the instruction's last heredoc.
    fn heredoc_end(&self, kind: &Kind) -> Option<usize> {
        let body_end = heredocs_of(kind).iter().map(|heredoc| heredoc.body.span.end).max()?;
        let rest = &self.lines.text()[body_end..];
        let closing = rest.split('\n').next().unwrap_or(rest);
        Some(body_end + closing.trim_end_matches('\r').len())
    }
}

/// The heredocs of an instruction, or of the one behind its `ONBUILD`.
fn heredocs_of(kind: &Kind) -> Vec<&Heredoc> {
    match kind {
        Kind::Run(run) => run.heredocs.iter().collect(),
        Kind::Copy(copy) | Kind::Add(copy) => copy
            .sources
            .iter()
            .filter_map(|source| match source {
                Source::Heredoc(heredoc) => Some(heredoc),
                Source::Path(_) => None,
            })
            .collect(),
        Kind::Onbuild(inner) => heredocs_of(&inner.kind),
        _ => Vec::new(),
    }
}

fn keyword_name(keyword: Part<'_>) -> Result<&'static str, ParseError> {
    let written = keyword.as_str();
    if let Some(known) = KEYWORDS.iter().find(|known| known.eq_ignore_ascii_case(written)) {
        return Ok(known);
    }
    let error = ParseError::new(format!("unknown instruction: {written}"), keyword.span());
    if written.is_empty() {
        return Err(ParseError::new("a line continues with nothing", keyword.span())
            .with_help("remove the escape character at the line's end"));
    }
    if written.contains(|c: char| c.is_whitespace()) {
        return Err(error.with_help("the white space in it is not an ordinary blank: type it anew"));
    }
    if let Some(near) = closest(written, &KEYWORDS) {
        return Err(error.with_help(format!("did you mean `{near}`?")));
    }
    Err(error.with_help(
        "if this belongs to the line above, that one must end in the escape character (a backslash)",
    ))
}

/// A command line in one of its two forms.
fn command(rest: Part<'_>) -> Result<Command, ParseError> {
    Ok(match json::strings(rest)? {
        Some(words) => Command::Exec(Spanned {
            node: words.into_iter().map(|word| word.node).collect(),
            span: rest.span(),
        }),
        None => Command::Shell(rest.word()),
    })
}

/// The whole rest of the line as one argument.
fn single(args: &Args<'_>, example: &str) -> Result<Word, ParseError> {
    if args.rest.is_empty() {
        return Err(args.need("exactly one argument", &format!("name {example}")));
    }
    Ok(args.rest.word())
}

fn expose(args: &Args<'_>) -> Result<Vec<Word>, ParseError> {
    if args.rest.is_empty() {
        return Err(args.need("at least one argument", "name a port: `EXPOSE 8080`"));
    }
    Ok(split::blank_separated(args.rest).into_iter().map(Part::word).collect())
}

fn volume(args: &Args<'_>) -> Result<Vec<Word>, ParseError> {
    let words = match json::strings(args.rest)? {
        Some(words) => words,
        None => split::blank_separated(args.rest).into_iter().map(Part::word).collect(),
    };
    if words.is_empty() {
        return Err(args.need("at least one argument", "name a directory: `VOLUME /data`"));
    }
    let trim = |word: Word| Word { node: word.node.trim().to_owned(), span: word.span };
    let words: Vec<Word> = words.into_iter().map(trim).collect();
    match words.iter().find(|word| word.node.is_empty()) {
        Some(empty) => Err(ParseError::new("a volume cannot be an empty string", empty.span)),
        None => Ok(words),
    }
}

fn shell(args: &Args<'_>) -> Result<Vec<String>, ParseError> {
    let example = "write `SHELL [\"/bin/bash\", \"-c\"]`";
    if args.rest.is_empty() {
        return Err(args.need("at least one argument", example));
    }
    match json::strings(args.rest)? {
        Some(words) if words.is_empty() => Err(args.need("at least one argument", example)),
        Some(words) => Ok(words.into_iter().map(|word| word.node).collect()),
        None => {
            let message = "SHELL requires its arguments in JSON form";
            Err(ParseError::new(message, args.rest.span()).with_help(example))
        }
    }
}

fn healthcheck(args: &Args<'_>, flags: Vec<super::ast::Flag>) -> Result<Healthcheck, ParseError> {
    let example = "write `HEALTHCHECK CMD …`, or `HEALTHCHECK NONE`";
    if args.rest.is_empty() {
        return Err(args.need("at least one argument", example));
    }
    let text = args.rest.as_str();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (kind, rest) = (args.rest.sub(0..end), args.rest.from(end).trim());
    match kind.as_str().to_ascii_uppercase().as_str() {
        // BuildKit does not even look at the flags; whoever wrote them expects them to do something.
        "NONE" if let Some(flag) = flags.first() => {
            let message = format!("HEALTHCHECK NONE has no flag `--{}`", flag.name.node);
            Err(ParseError::new(message, flag.name.span)
                .with_help("remove it: NONE means that there is no check"))
        }
        "NONE" if rest.is_empty() => Ok(Healthcheck::None),
        "NONE" => Err(ParseError::new("HEALTHCHECK NONE takes no arguments", rest.span())),
        "CMD" => {
            let command = command(rest)?;
            let empty = match &command {
                Command::Shell(text) => text.node.is_empty(),
                Command::Exec(words) => words.node.is_empty(),
            };
            if empty {
                let message = "the command after HEALTHCHECK CMD is missing";
                return Err(ParseError::new(message, kind.span()));
            }
            Ok(Healthcheck::Cmd { flags, command })
        }
        _ => Err(ParseError::new(format!("unknown type of HEALTHCHECK: {}", kind.as_str()), kind.span())
            .with_help(example)),
    }
}

/// The words of a plain `COPY` or `ADD`. `<< EOF` is one, as it is where heredocs are looked for.
fn copy_words(rest: Part<'_>) -> Vec<Part<'_>> {
    let mut words: Vec<Part<'_>> = Vec::new();
    for word in split::blank_separated(rest) {
        match words.last_mut() {
            Some(last) if is_open(last.as_str()) => last.end = word.end,
            _ => words.push(word),
        }
    }
    words
}

fn is_open(word: &str) -> bool {
    word.trim_start_matches(|c: char| c.is_ascii_digit()) == "<<"
}

fn copy_arguments(args: &Args<'_>) -> ParseError {
    let help = format!("name the sources, then the destination: `{} SOURCE DESTINATION`", args.name);
    if args.rest.is_empty() {
        return args.need("at least two arguments", &help);
    }
    let message = format!("{} requires at least two arguments, but has one", args.name);
    ParseError::new(message, args.rest.span()).with_label("has no destination").with_help(help)
}

fn blank_name(keyword: &str, word: Part<'_>) -> ParseError {
    ParseError::new(format!("{keyword} names cannot be blank"), word.span())
        .with_label("has nothing before the `=`")
}

fn from_arguments(keyword: Part<'_>, rest: Part<'_>, words: &[Part<'_>]) -> ParseError {
    let message = "FROM requires either one or three arguments";
    if words.is_empty() {
        return ParseError::new(message, keyword.span())
            .with_help("name an image: `FROM debian:13`, or `FROM scratch`");
    }
    let error = ParseError::new(message, rest.span());
    if words[1..].iter().any(|word| word.as_str().starts_with("--")) {
        return error.with_help("flags stand before the image: `FROM --platform=linux/amd64 IMAGE`");
    }
    if words[1..].iter().any(|word| word.as_str().starts_with('#')) {
        return error.with_help("a comment takes a line of its own");
    }
    error.with_help("write `FROM IMAGE`, or `FROM IMAGE AS NAME`")
}

/// A stage is named with a letter, then letters, digits, `-`, `_` and `.`, capitals taken as small ones.
fn check_stage_name(name: Part<'_>) -> Result<(), ParseError> {
    let lower = name.as_str().to_lowercase();
    let valid = lower.starts_with(|c: char| c.is_ascii_lowercase())
        && lower
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'));
    if valid {
        return Ok(());
    }
    let message = format!("invalid name for a build stage: {}", name.as_str());
    Err(ParseError::new(message, name.span())
        .with_help("begin with a letter and go on with letters, digits, `-`, `_` and `.`"))
}

/// Refuses what cannot stand behind `ONBUILD`.
pub(super) fn refuse_as_trigger(keyword: Part<'_>) -> Result<(), ParseError> {
    let name = keyword.as_str().to_ascii_uppercase();
    match name.as_str() {
        "ONBUILD" | "FROM" | "MAINTAINER" => Err(not_a_trigger(&name, keyword)),
        _ => Ok(()),
    }
}

fn not_a_trigger(name: &str, keyword: Part<'_>) -> ParseError {
    ParseError::new(format!("{name} is not allowed behind ONBUILD"), keyword.span())
}
