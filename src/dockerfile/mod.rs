//! The Containerfile language: text in, instructions with source spans out.
//!
//! Nothing here does I/O, and nothing here knows what an image is. The behaviour to equal is that of
//! BuildKit's dockerfile frontend, of which the modules name the rule they follow:
//!
//! | module | does |
//! |---|---|
//! | [`ast`] | the tree, every node with its place in the text |
//! | `lines`, `directives` | physical lines → logical ones; the `# key=value` lines at the top |
//! | `parser`, `instruction` | logical lines → stages and instructions |
//! | `flags`, `heredoc`, `json`, `split` | the parts of an instruction |
//! | [`words`] (`lex`, `pattern`) | `$variables`, quotes and escapes in a word, once variables are known |
//! | [`print`](mod@print) | a file as text again |
//! | [`ignore`], [`glob`] | `.dockerignore` patterns; wildcards of `COPY` and `ADD` |
//! | [`mode`] | the value of `--chmod` |
//! | [`error`] | what is wrong, where, and what to write instead |
//!
//! Offsets are bytes into the text that was given to [`parse`], a byte-order mark included.

pub mod ast;
mod directives;
pub mod error;
mod flags;
pub mod glob;
mod heredoc;
pub mod ignore;
mod instruction;
mod json;
mod lex;
mod lines;
pub mod mode;
mod parser;
mod pattern;
pub mod print;
mod split;
#[cfg(test)]
mod tests;
pub mod words;

pub use ast::*;
pub use error::{ParseError, line_col};
#[cfg(test)]
pub(crate) use flags::all as all_flags;
pub use ignore::IgnoreFile;
#[cfg(test)]
pub(crate) use instruction::KEYWORDS;
pub use parser::{parse, parse_trigger};
pub use print::{print, same};
pub use words::Expander;
