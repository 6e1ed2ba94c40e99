//! Expansion of words: quotes and escapes processed, variables replaced.
//!
//! Which fields of which instructions are expanded, and from which variables, is the planner's business.
//! The rules are those of BuildKit's `shell.Lex` with its `ProcessWord` and `ProcessWords`.

use super::ast::Word;
use super::error::ParseError;
use super::lex::{self, LexError, Mode};

/// Expands words.
pub struct Expander<'a> {
    /// The file's escape character, from its directives.
    pub escape: char,
    /// The value of a variable; `None` if it is not set, which is not the same as empty.
    pub lookup: &'a dyn Fn(&str) -> Option<String>,
}

impl std::fmt::Debug for Expander<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Expander").field("escape", &self.escape).finish_non_exhaustive()
    }
}

impl Expander<'_> {
    /// The word with its quotes and escapes processed and its variables replaced; unset ones become
    /// nothing. White space stays, whether quoted or not.
    ///
    /// # Errors
    /// When a quote or brace is not closed, a modifier or its pattern is not valid, or `${name:?message}`
    /// finds nothing. The span is that of the whole word.
    pub fn expand(&self, word: &Word) -> Result<String, ParseError> {
        match lex::scan(&word.node, Mode::word(self.escape), self.lookup) {
            Ok(output) => Ok(output.text),
            Err(error) => Err(self.cannot(word, &error)),
        }
    }

    /// As [`expand`](Expander::expand), then split at white space that was neither quoted nor escaped:
    /// one variable may become several words (`EXPOSE $PORTS`), or none.
    ///
    /// # Errors
    /// The same.
    pub fn expand_words(&self, word: &Word) -> Result<Vec<String>, ParseError> {
        match lex::scan(&word.node, Mode::word(self.escape), self.lookup) {
            Ok(output) => Ok(output.words.into_iter().map(|word| word.text).collect()),
            Err(error) => Err(self.cannot(word, &error)),
        }
    }

    /// The body of a heredoc whose delimiter had no quotes. Quotes are ordinary characters. A backslash,
    /// whatever the file's escape character is, goes away and takes the meaning from what follows it; with
    /// a line end it goes away together.
    ///
    /// # Errors
    /// As for [`expand`](Expander::expand).
    pub fn expand_heredoc(&self, body: &Word) -> Result<String, ParseError> {
        match lex::scan(&body.node, HEREDOC, self.lookup) {
            Ok(output) => Ok(output.text),
            Err(LexError(problem)) => {
                Err(ParseError::new(format!("cannot expand the heredoc: {problem}"), body.span)
                    .with_help("to keep the text as it is, put quotes around the delimiter: <<'EOF'"))
            }
        }
    }

    /// The variables that the word uses though they have no value, without giving an alternative
    /// (`${name:-…}`); each once, in order of use. For build checks.
    pub fn unset_variables(&self, word: &Word) -> Vec<String> {
        lex::scan_noting_unset(&word.node, Mode::word(self.escape), self.lookup).1
    }

    fn cannot(&self, word: &Word, LexError(problem): &LexError) -> ParseError {
        let error = ParseError::new(format!("cannot expand `{}`: {problem}", word.node), word.span);
        if problem.contains("quote is missing") {
            let help = format!("to mean the quote itself, write `{}` before it", self.escape);
            return error.with_help(help);
        }
        error
    }
}

/// The reference's own tests have an escaped line end give a bare line end; runs of it have shown the two
/// lines joined, and the runs are what we follow (`join_lines`).
const HEREDOC: Mode = Mode {
    escape: '\\',
    quotes: false,
    keep_quotes: false,
    keep_escapes: false,
    keep_unset: false,
    heredocs: false,
    join_lines: true,
};
