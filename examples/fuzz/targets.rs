//! What is tried with a text. A target panics when something is wrong.

use cooper::dockerfile::ast::{Instruction, Kind, Source, Span, Word};
use cooper::dockerfile::glob::Glob;
use cooper::dockerfile::{Expander, IgnoreFile, ParseError, line_col, parse, parse_trigger, print, same};
use cooper::plan::mount;

use crate::generate::Generator;
use crate::random::Random;

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// Reading a file, printing it, reading it again.
    File,
    /// Reading a trigger.
    Trigger,
    /// Expanding a word.
    Word,
    /// Ignore files and wildcards.
    Pattern,
    /// The values of `RUN`'s flags.
    Flag,
    /// Planning a file.
    Plan,
}

impl Target {
    pub(crate) const ALL: [Target; 6] =
        [Target::File, Target::Trigger, Target::Word, Target::Pattern, Target::Flag, Target::Plan];

    /// As often as they are tried: what is quick more often.
    const MIX: [Target; 10] = [
        Target::File,
        Target::File,
        Target::Trigger,
        Target::Trigger,
        Target::Word,
        Target::Word,
        Target::Pattern,
        Target::Pattern,
        Target::Flag,
        Target::Plan,
    ];

    /// The target and the text of one input.
    pub(crate) fn input(seed: u64, input: u64, only: Option<Target>) -> (Target, String) {
        let mut random = Random::of(seed, input);
        let target = only.unwrap_or_else(|| Target::MIX[random.below(Target::MIX.len())]);
        let mut generator = Generator::new(random);
        let text = match target {
            Target::File | Target::Plan => generator.file(),
            Target::Trigger => generator.trigger(),
            Target::Word => generator.text_of_word(),
            Target::Pattern => generator.patterns(),
            Target::Flag => generator.flag_value(),
        };
        (target, text)
    }

    /// Tries it with `text`.
    pub(crate) fn check(self, text: &str) {
        match self {
            Target::File => file(text),
            Target::Trigger => trigger(text),
            Target::Word => word(text),
            Target::Pattern => pattern(text),
            Target::Flag => flag(text),
            Target::Plan => crate::plan::check(text),
        }
    }
}

/// An error must point into the text and say something.
pub(crate) fn check_error(text: &str, error: &ParseError) {
    assert!(text.get(error.span.range()).is_some(), "the place of an error is none: {error:?}");
    assert!(!error.message.is_empty(), "an error says nothing");
    let (line, column) = line_col(text, error.span.start);
    assert!(line >= 1 && column >= 1);
}

fn file(text: &str) {
    let file = match parse(text) {
        Ok(file) => file,
        Err(error) => return check_error(text, &error),
    };
    for stage in &file.stages {
        check_place(text, stage.from.span);
        for instruction in &stage.instructions {
            check_places(text, instruction);
        }
    }
    let printed = print(&file);
    match parse(&printed) {
        Ok(again) => assert!(same(&file, &again), "printed, it reads as something else: {printed:?}"),
        Err(error) => panic!("printed, it cannot be read: {error:?}: {printed:?}"),
    }
}

fn check_place(text: &str, span: Span) {
    assert!(text.get(span.range()).is_some(), "the place {span:?} is none");
}

fn check_places(text: &str, instruction: &Instruction) {
    check_place(text, instruction.span);
    check_place(text, instruction.keyword);
    match &instruction.kind {
        Kind::Copy(copy) | Kind::Add(copy) => {
            check_place(text, copy.dest.span);
            for source in &copy.sources {
                match source {
                    Source::Path(word) => check_place(text, word.span),
                    Source::Heredoc(heredoc) => check_place(text, heredoc.body.span),
                }
            }
        }
        Kind::Run(run) => run.heredocs.iter().for_each(|heredoc| check_place(text, heredoc.body.span)),
        Kind::Env(pairs) | Kind::Label(pairs) => pairs.iter().for_each(|(key, value)| {
            check_place(text, key.span);
            check_place(text, value.span);
        }),
        Kind::Onbuild(inner) => {
            check_places(text, inner);
            // What goes into an image must be readable when the image is used, unless an escape
            // character of its own file would be needed for that.
            let _ = parse_trigger(&inner.text);
        }
        _ => {}
    }
}

fn trigger(text: &str) {
    match parse_trigger(text) {
        Ok(instruction) => check_places(text, &instruction),
        Err(error) => check_error(text, &error),
    }
}

/// A variable's value: none, empty, or something that could mean something.
pub(crate) fn variable(name: &str) -> Option<String> {
    let value = match name {
        "A" => "a",
        "B" => "",
        "C1" => "x y  z",
        "PATH" => "/usr/local/sbin:/usr/bin",
        "_x" => "$A \"'\\*",
        "1" => "a*b?c/d",
        "ä" => "ä€\u{1f600}\n",
        _ => return None,
    };
    Some(value.to_owned())
}

fn whole(text: &str) -> Word {
    Word { node: text.to_owned(), span: Span::new(0, text.len()) }
}

fn word(text: &str) {
    let word = whole(text);
    for escape in ['\\', '`'] {
        let expander = Expander { escape, lookup: &variable };
        let expanded = expander.expand(&word);
        let words = expander.expand_words(&word);
        assert_eq!(expanded.is_ok(), words.is_ok(), "expanded in two ways, only one worked");
        if let (Ok(expanded), Ok(words)) = (expanded, words) {
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
            let total: usize = words.iter().map(|word| letters(word)).sum();
            assert_eq!(letters(&expanded), total, "splitting lost something");
        }
        for name in expander.unset_variables(&word) {
            assert!(variable(&name).is_none(), "a variable with a value is called unset");
        }
    }
    let expander = Expander { escape: '`', lookup: &variable };
    if let Err(error) = expander.expand_heredoc(&word) {
        check_error(text, &error);
    }
}

fn pattern(text: &str) {
    let (patterns, path) = text.rsplit_once('\n').unwrap_or((text, "a/b"));
    if let Ok(ignore) = IgnoreFile::parse(patterns) {
        let path = path.trim_matches('/').as_bytes();
        let out = ignore.matches(path);
        for (at, _) in path.iter().enumerate().filter(|&(_, &byte)| byte == b'/') {
            assert!(
                out || ignore.may_descend(&path[..at]),
                "the walk would not come to a file that is not left out"
            );
        }
    }
    for line in patterns.split('\n') {
        for glob in [Glob::new(line.as_bytes()), Glob::spanning(line.as_bytes())] {
            let Ok(glob) = glob else { continue };
            let _ = glob.matches(path.as_bytes());
        }
    }
}

fn flag(text: &str) {
    let value = whole(text);
    let expander = Expander { escape: '\\', lookup: &variable };
    if let Err(error) = mount::parse(&value, &|word| expander.expand(word)) {
        check_error(text, &error);
    }
    let other = [mount::network(&value).err(), mount::security(&value).err(), mount::device(&value).err()];
    other.iter().flatten().for_each(|error| check_error(text, error));
}
