//! The instructions of each stage, in order, and what the stage has come to at its end.

use std::collections::BTreeSet;

use super::Checker;
use super::bases::{Base, Globals};
use super::commands;
use super::rules::Code;
use super::variables::{Place, Scope};
use crate::dockerfile::ast::{Command, Copy, Healthcheck, Instruction, Kind, Source, Span, Word};
use crate::image::ImageConfig;

/// What a stage has come to. A stage that starts from another begins with that one's.
#[derive(Debug, Clone, Default)]
struct State {
    scope: Scope,
    /// Whether `WORKDIR` was used in this file.
    workdir: bool,
    /// Whether the shell was chosen, here or in the base image.
    shell: bool,
    /// `USER`; empty for the base image's own.
    user: User,
    /// Whether it starts a program: the file has `CMD` or `ENTRYPOINT` for it.
    program: bool,
    /// Whether the text of an instruction names a program that changes users.
    drops_root: bool,
}

/// As whom a program starts.
#[derive(Debug, Clone, Default)]
enum User {
    /// As root, since nothing says otherwise.
    #[default]
    Default,
    /// As root, since this says so.
    Root(Span),
    /// As somebody else, or nobody knows.
    Other,
}

/// The instructions of a stage of which the last alone counts.
#[derive(Default)]
struct Once {
    cmd: Option<Span>,
    entrypoint: Option<Span>,
    healthcheck: Option<Span>,
}

pub(super) fn check(checker: &mut Checker<'_>, bases: &[Base]) {
    let globals = Globals::new(checker, true);
    let mut in_image = BTreeSet::new();
    let mut number = checker.target();
    while in_image.insert(number) {
        match bases.get(number) {
            Some(Base::Stage(earlier)) => number = *earlier,
            _ => break,
        }
    }
    let mut ends: Vec<State> = Vec::new();
    let mut told_of_ignore_file = false;
    for (number, stage) in checker.file.stages.iter().enumerate() {
        let mut state = match &bases[number] {
            Base::Stage(earlier) => ends[*earlier].clone(),
            Base::Scratch => {
                State { scope: with_path(Scope { complete: true, ..Scope::default() }), ..State::default() }
            }
            Base::Image(name, config) => from_image(name, config.as_deref()),
            Base::Unknown => State { user: User::Other, ..State::default() },
        };
        let mut once = Once::default();
        for (at, instruction) in stage.instructions.iter().enumerate() {
            let place = Place { stage: number, instruction: at, globals: &globals };
            for word in expanded_words(&instruction.kind) {
                checker.undefined(&state.scope, &place, word);
            }
            visit(checker, &mut state, &mut once, instruction, &place, in_image.contains(&number));
            if let Kind::Copy(copy) | Kind::Add(copy) = &instruction.kind
                && !told_of_ignore_file
            {
                told_of_ignore_file = whole_context(checker, &state, copy);
            }
        }
        ends.push(state);
    }
    user(checker, &ends[checker.target()]);
}

fn with_path(mut scope: Scope) -> Scope {
    scope
        .values
        .entry("PATH".to_owned())
        .or_insert_with(|| Some(crate::plan::stage::DEFAULT_PATH.to_owned()));
    scope
}

fn from_image(name: &str, config: Option<&ImageConfig>) -> State {
    let Some(config) = config else {
        // Images that are known to be made for other users than root say so in their names.
        let tells =
            ["nonroot", "non-root", "rootless", "unprivileged"].iter().any(|hint| name.contains(hint));
        let user = if tells { User::Other } else { User::Default };
        return State { scope: with_path(Scope::default()), user, ..State::default() };
    };
    let mut scope = Scope { complete: true, ..Scope::default() };
    for line in &config.config.env {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        scope.values.insert(name.to_owned(), Some(value.to_owned()));
    }
    let user = if is_root(&config.config.user) { User::Default } else { User::Other };
    State { scope: with_path(scope), shell: !config.config.shell.is_empty(), user, ..State::default() }
}

fn is_root(user: &str) -> bool {
    let name = user.split(':').next().unwrap_or_default();
    matches!(name, "" | "root" | "0")
}

/// The words in which the frontend replaces variables all at once; `ARG` does it one after the other.
fn expanded_words(kind: &Kind) -> Vec<&Word> {
    match kind {
        Kind::Env(pairs) | Kind::Label(pairs) => pairs.iter().flat_map(|(key, value)| [key, value]).collect(),
        Kind::Workdir(word) | Kind::User(word) | Kind::Stopsignal(word) => vec![word],
        Kind::Expose(words) | Kind::Volume(words) => words.iter().collect(),
        Kind::Copy(copy) | Kind::Add(copy) => {
            let flags = copy
                .flags
                .iter()
                .filter(|flag| matches!(flag.name.node.as_str(), "chown" | "chmod" | "exclude" | "checksum"));
            let sources = copy.sources.iter().filter_map(|source| match source {
                Source::Path(word) => Some(word),
                Source::Heredoc(_) => None,
            });
            flags.filter_map(|flag| flag.value.as_ref()).chain(sources).chain([&copy.dest]).collect()
        }
        _ => Vec::new(),
    }
}

fn visit(
    checker: &mut Checker<'_>,
    state: &mut State,
    once: &mut Once,
    instruction: &Instruction,
    place: &Place<'_>,
    in_image: bool,
) {
    let escape = checker.file.directives.escape;
    match &instruction.kind {
        Kind::Run(run) => commands::check(checker, run, in_image),
        Kind::Copy(copy) => copied(checker, state, copy, "COPY"),
        Kind::Add(copy) => {
            copied(checker, state, copy, "ADD");
            added(checker, state, copy, instruction);
        }
        Kind::Env(pairs) => {
            legacy(checker, pairs, "ENV", instruction);
            let values: Vec<_> = pairs
                .iter()
                .map(|(key, value)| (state.scope.expand(escape, key), state.scope.expand(escape, value)))
                .collect();
            for ((key, _), (name, value)) in pairs.iter().zip(values) {
                secret(checker, "ENV", key);
                state.scope.values.insert(name.unwrap_or_else(|| key.node.clone()), value);
            }
        }
        Kind::Label(pairs) => legacy(checker, pairs, "LABEL", instruction),
        Kind::Arg(args) => {
            for arg in args {
                secret(checker, "ARG", &arg.name);
                let mut value = checker.options.build_args.get(&arg.name.node).cloned();
                if let Some(default) = &arg.default {
                    checker.undefined(&state.scope, place, default);
                    value = value.or_else(|| state.scope.expand(escape, default));
                } else {
                    value = value.or_else(|| place.globals.values.get(&arg.name.node).cloned().flatten());
                    // A variable of the same name keeps its value.
                    value = value.or_else(|| state.scope.values.get(&arg.name.node).cloned().flatten());
                }
                state.scope.values.insert(arg.name.node.clone(), value);
            }
        }
        Kind::Workdir(word) => workdir(checker, state, word),
        Kind::User(word) => {
            state.user = match state.scope.expand(escape, word) {
                Some(user) if is_root(&user) => User::Root(word.span),
                _ => User::Other,
            };
        }
        Kind::Expose(words) => exposed(checker, state, words),
        Kind::Cmd(command) => {
            state.program = true;
            again(checker, &mut once.cmd, "CMD", instruction);
            json_form(checker, state, "CMD", command, instruction);
        }
        Kind::Entrypoint(command) => {
            state.program = true;
            again(checker, &mut once.entrypoint, "ENTRYPOINT", instruction);
            json_form(checker, state, "ENTRYPOINT", command, instruction);
        }
        Kind::Healthcheck(Healthcheck::None | Healthcheck::Cmd { .. }) => {
            again(checker, &mut once.healthcheck, "HEALTHCHECK", instruction);
        }
        Kind::Shell(_) => state.shell = true,
        Kind::Maintainer(word) => {
            let message = "MAINTAINER is deprecated";
            let name = word.node.trim_matches(['"', '\'']);
            let help = format!("write `LABEL org.opencontainers.image.authors=\"{name}\"`");
            checker.advise(Code::MaintainerDeprecated, instruction.keyword, message, help);
        }
        Kind::Volume(_) | Kind::Stopsignal(_) | Kind::Onbuild(_) => {}
    }
    let text = &instruction.text;
    state.drops_root |= ["gosu", "su-exec", "setpriv", "runuser", "s6-setuidgid", "supervisord"]
        .iter()
        .any(|p| text.contains(p));
}

/// `ENV key value`.
fn legacy(checker: &mut Checker<'_>, pairs: &[(Word, Word)], name: &str, instruction: &Instruction) {
    let [(key, value)] = pairs else { return };
    if checker.source(Span::new(key.span.end, value.span.start)).contains('=') {
        return;
    }
    let message = format!("`{name} key value` is the old form of `{name} key=value`");
    let shown = match value.node.contains(char::is_whitespace) && !value.node.starts_with(['"', '\'']) {
        true => format!("\"{}\"", value.node),
        false => value.node.clone(),
    };
    let help = format!("write `{name} {}={shown}`", key.node);
    checker.advise(Code::LegacyKeyValueFormat, instruction.keyword.to(value.span), message, help);
}

/// Parts of a name that tell of a secret, and those that tell of none: the reference's.
const SECRETS: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
const NO_SECRETS: [&str; 3] = ["public", "file", "version"];

fn secret(checker: &mut Checker<'_>, instruction: &str, name: &Word) {
    let lower = name.node.to_lowercase();
    let has = |list: &[&str]| lower.split('_').any(|part| list.contains(&part));
    if !has(&SECRETS) || has(&NO_SECRETS) {
        return;
    }
    let message =
        format!("{instruction} is no place for a secret like `{}`: it stays in the image", name.node);
    let help = "mount it where it is needed: `RUN --mount=type=secret,id=NAME,env=NAME …`";
    checker.advise(Code::SecretsUsedInArgOrEnv, name.span, message, help);
}

fn workdir(checker: &mut Checker<'_>, state: &mut State, word: &Word) {
    let path = state.scope.expand(checker.file.directives.escape, word);
    if let (false, Some(path)) = (state.workdir, path)
        && !path.is_empty()
        && !path.starts_with('/')
    {
        let message = format!("`{path}` is below whatever directory the base image has");
        let help = format!("write the whole path, such as `WORKDIR /{}`", path.trim_start_matches("./"));
        checker.advise(Code::WorkdirRelativePath, word.span, message, help);
    }
    state.workdir = true;
}

fn exposed(checker: &mut Checker<'_>, state: &State, words: &[Word]) {
    for word in words {
        let Some(ports) = state.scope.expand_words(checker.file.directives.escape, word) else { continue };
        for port in ports {
            let container = port.rsplit(':').next().unwrap_or(&port);
            if let Some((_, protocol)) = container.split_once('/')
                && protocol != protocol.to_lowercase()
            {
                let message = format!("the protocol of `{port}` is not in lower case");
                let help = format!("write `{}`", port.to_lowercase());
                checker.advise(Code::ExposeProtoCasing, word.span, message, help);
            }
            if container != port {
                let message =
                    format!("`{port}` names an address or port of the host, which EXPOSE cannot map");
                let help = format!("write `{container}`, and map it when the container is started");
                checker.advise(Code::ExposeInvalidFormat, word.span, message, help);
            }
        }
    }
}

/// Points at the earlier one, since that is what has no effect.
fn again(checker: &mut Checker<'_>, seen: &mut Option<Span>, name: &str, instruction: &Instruction) {
    if let Some(earlier) = seen.replace(instruction.keyword) {
        let message = format!("this {name} has no effect: the stage has another one below");
        checker.advise(Code::MultipleInstructionsDisallowed, earlier, message, "remove one of them");
    }
}

fn json_form(
    checker: &mut Checker<'_>,
    state: &State,
    name: &str,
    command: &Command,
    instruction: &Instruction,
) {
    let Command::Shell(word) = command else { return };
    if state.shell || word.node.trim().is_empty() {
        return;
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || " _-./:=,@+%".contains(c);
    let help = if word.node.starts_with('[') {
        "this is no valid JSON: strings take double quotes, and no comma stands behind the last".to_owned()
    } else if word.node.chars().all(plain) {
        let words: Vec<String> = word.node.split_whitespace().map(|word| format!("\"{word}\"")).collect();
        format!("write `{name} [{}]`", words.join(", "))
    } else {
        format!(
            "write `{name} [\"PROGRAM\", \"ARGUMENT\"]`; if a shell is meant to stay in between, say so with SHELL, or \
             with `{name} [\"sh\", \"-c\", \"…\"]`"
        )
    };
    let message = format!("this {name} runs in a shell, which does not pass signals on");
    checker.advise(Code::JSONArgsRecommended, instruction.keyword.to(word.span), message, help);
}

fn takes_from_context(copy: &Copy) -> bool {
    copy.flags.iter().all(|flag| flag.name.node != "from")
}

fn is_remote(path: &str) -> bool {
    let lower = path.to_lowercase();
    lower.contains("://") || lower.starts_with("git@") || lower.ends_with(".git") || lower.contains(".git#")
}

/// The paths in the context, relative to it and without needless parts; and where they are written.
fn context_paths(checker: &Checker<'_>, state: &State, copy: &Copy) -> Vec<(String, Span)> {
    if !takes_from_context(copy) {
        return Vec::new();
    }
    let mut paths = Vec::new();
    for source in &copy.sources {
        let Source::Path(word) = source else { continue };
        let Some(path) = state.scope.expand(checker.file.directives.escape, word) else { continue };
        if is_remote(&path) {
            continue;
        }
        let mut names: Vec<&str> = Vec::new();
        for name in path.split('/') {
            match name {
                "" | "." => {}
                ".." => drop(names.pop()),
                name => names.push(name),
            }
        }
        paths.push((names.join("/"), word.span));
    }
    paths
}

fn copied(checker: &mut Checker<'_>, state: &State, copy: &Copy, name: &str) {
    let Some(ignore) = checker.options.ignore else { return };
    // With exceptions, a directory that is left out may still have something in it.
    if ignore.has_exceptions() {
        return;
    }
    for (path, span) in context_paths(checker, state, copy) {
        if !path.is_empty() && ignore.matches(path.as_bytes()) {
            let message = format!("{name} asks for `{path}`, which the ignore file excludes");
            let help = "take the rule out of the ignore file, or the file out of this instruction";
            checker.advise(Code::CopyIgnoredFile, span, message, help);
        }
    }
}

/// Whether it was reported that a context without an ignore file is copied as a whole.
fn whole_context(checker: &mut Checker<'_>, state: &State, copy: &Copy) -> bool {
    if checker.options.has_ignore_file != Some(false) {
        return false;
    }
    let whole =
        context_paths(checker, state, copy).into_iter().find(|(path, _)| matches!(path.as_str(), "" | "*"));
    let Some((_, span)) = whole else { return false };
    let message = "the whole context is copied, and it has no ignore file";
    let help = "list what does not belong into the image in a file `.dockerignore`, `.git` for one";
    checker.advise(Code::MissingDockerignore, span, message, help);
    true
}

/// `ADD` of what is neither fetched nor unpacked.
fn added(checker: &mut Checker<'_>, state: &State, copy: &Copy, instruction: &Instruction) {
    let only_add = |name: &str| matches!(name, "checksum" | "keep-git-dir" | "unpack");
    if copy.flags.iter().any(|flag| only_add(&flag.name.node)) {
        return;
    }
    let plain = copy.sources.iter().all(|source| match source {
        Source::Heredoc(_) => true,
        Source::Path(word) => {
            let path = state.scope.expand(checker.file.directives.escape, word);
            path.is_some_and(|path| !is_remote(&path) && !may_be_archive(&path))
        }
    });
    if plain {
        let message = "ADD is for what is fetched or unpacked, and this is neither";
        checker.advise(Code::AddInsteadOfCopy, instruction.keyword, message, "write `COPY`");
    }
}

/// By its name; wildcards may match anything.
fn may_be_archive(path: &str) -> bool {
    let lower = path.to_lowercase();
    let name = lower.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let wild = name.contains(['*', '?', '[']);
    let ends = ["gz", "tgz", "bz2", "tbz", "tbz2", "xz", "txz", "zst", "tzst", "tar", "lzma", "z"];
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    match extension {
        Some(extension) if !extension.contains(['*', '?', '[']) => ends.contains(&extension),
        _ => wild,
    }
}

/// A program that starts as root.
fn user(checker: &mut Checker<'_>, state: &State) {
    if !state.program || state.drops_root {
        return;
    }
    let target = checker.target();
    let help = "make a user for it and name it: `USER app`, or `USER 1000`";
    match state.user {
        User::Other => {}
        User::Root(span) => {
            checker.advise(Code::NoUser, span, "the image's program starts as root", help);
        }
        User::Default => {
            let span = checker.file.stages[target].from.span;
            let message = "the image's program starts as root, since no USER says otherwise";
            checker.advise(Code::NoUser, span, message, help);
        }
    }
}
