//! What BuildKit does with the same text is the expectation throughout.

mod commands;
mod errors;
mod glob;
mod heredoc;
mod ignore;
mod print;
mod properties;
mod structure;
mod words;

use super::*;

/// The file, or the error with the text that it underlines.
fn file(text: &str) -> Containerfile {
    parse(text).unwrap_or_else(|error| panic!("{error:?}\n{text}"))
}

/// The only instruction after the `FROM scratch` that is put above `text`.
fn one(text: &str) -> Instruction {
    let file = file(&format!("FROM scratch\n{text}"));
    let [stage] = &file.stages[..] else { panic!("not one stage: {file:?}") };
    let [instruction] = &stage.instructions[..] else { panic!("not one instruction: {stage:?}") };
    instruction.clone()
}

/// The error of a text, and what it underlines.
fn refused(text: &str) -> (ParseError, &str) {
    let error = parse(text).expect_err(text);
    let place = &text[error.span.range()];
    (error, place)
}

fn texts(words: &[Word]) -> Vec<&str> {
    words.iter().map(|word| word.node.as_str()).collect()
}

fn pairs(pairs: &[(Word, Word)]) -> Vec<(&str, &str)> {
    pairs.iter().map(|(key, value)| (key.node.as_str(), value.node.as_str())).collect()
}
