//! The file as a whole: directives, global arguments, stages.

use super::ast::{Containerfile, Instruction, Kind, Span, Stage};
use super::directives;
use super::error::ParseError;
use super::instruction::{Reader, Statement, refuse_as_trigger};
use super::lines::Lines;
use super::split;

/// Reads a Containerfile.
///
/// # Errors
/// The first thing that BuildKit's frontend would refuse, with its place: a directive given twice, an
/// unknown instruction or flag, a wrong number of arguments, a heredoc without end, an instruction before
/// the first `FROM`, no `FROM` at all. Flag values, image names and words are not looked into.
pub fn parse(text: &str) -> Result<Containerfile, ParseError> {
    let (directives, directives_end) = directives::parse(text)?;
    let escape = directives.escape;
    let mut file = Containerfile {
        directives,
        global_args: Vec::new(),
        stages: Vec::new(),
        empty_continuations: Vec::new(),
    };
    let mut lines = Lines::new(text);
    while let Some(mut line) = lines.next_logical(escape) {
        let mut comments = line.take_comments();
        comments.retain(|comment| comment.span.start >= directives_end);
        let mut reader = Reader { escape, lines: &mut lines };
        match (reader.statement(line.part())?, file.stages.last_mut()) {
            (Statement::From(mut from), _) => {
                from.comments = comments;
                file.stages.push(Stage { from, instructions: Vec::new() });
            }
            (Statement::Instruction(mut instruction), Some(stage)) => {
                instruction.comments = comments;
                stage.instructions.push(instruction);
            }
            (Statement::Instruction(mut instruction), None) => {
                instruction.comments = comments;
                if !matches!(instruction.kind, Kind::Arg(_)) {
                    return Err(before_from(text, &instruction));
                }
                file.global_args.push(instruction);
            }
        }
    }
    if !file.stages.is_empty() {
        file.empty_continuations = lines.into_blanks();
        return Ok(file);
    }
    Err(match file.global_args.last() {
        None => ParseError::new("the file has no instructions", Span::new(0, 0))
            .with_help("begin with `FROM IMAGE`"),
        Some(last) => ParseError::new("the file has no stage to build", last.span)
            .with_help("name the image to start from: `FROM IMAGE`"),
    })
}

fn before_from(text: &str, instruction: &Instruction) -> ParseError {
    let keyword = text[instruction.keyword.range()].to_uppercase();
    ParseError::new(format!("{keyword} stands before the first FROM"), instruction.keyword)
        .with_help("only ARG may: put `FROM IMAGE` above this line")
}

/// Reads the trigger of an `ONBUILD`, as an image's configuration holds it: one instruction, with its
/// heredocs. The escape character is always the backslash. Spans are offsets into `text`.
///
/// # Errors
/// As for [`parse`], and when `text` is not one instruction, or one that cannot be a trigger.
pub fn parse_trigger(text: &str) -> Result<Instruction, ParseError> {
    let escape = '\\';
    let mut lines = Lines::new(text);
    let Some(line) = lines.next_logical(escape) else {
        return Err(ParseError::new("the ONBUILD trigger is empty", Span::new(0, 0)));
    };
    let (keyword, _) = split::first_word(line.part().trim());
    refuse_as_trigger(keyword)?;
    let mut reader = Reader { escape, lines: &mut lines };
    let Statement::Instruction(instruction) = reader.statement(line.part())? else {
        return Err(ParseError::new("FROM is not allowed behind ONBUILD", keyword.span()));
    };
    match lines.next_logical(escape) {
        None => Ok(instruction),
        Some(more) => {
            Err(ParseError::new("an ONBUILD trigger is a single instruction", more.part().trim().span()))
        }
    }
}
