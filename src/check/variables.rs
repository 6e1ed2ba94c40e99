//! Which variables are set at one place of a stage, and which words use others.

use std::collections::BTreeMap;

use super::Checker;
use super::bases::Globals;
use super::rules::Code;
use crate::dockerfile::Expander;
use crate::dockerfile::ast::{Containerfile, Kind, Span, Word};
use crate::dockerfile::error::closest;

/// Variables of a stage.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    /// Each with its value; `None` where it is not known, or is declared without one.
    pub(super) values: BTreeMap<String, Option<String>>,
    /// Whether there are no others: the environment of the base image is known.
    pub(super) complete: bool,
}

impl Scope {
    /// The word with all its variables replaced; `None` when not all of them are known, or it is not valid.
    pub(super) fn expand(&self, escape: char, word: &Word) -> Option<String> {
        let lookup = |name: &str| self.values.get(name).cloned().flatten();
        let expander = Expander { escape, lookup: &lookup };
        let unknown = |name: &String| !self.complete || self.values.contains_key(name);
        if expander.unset_variables(word).iter().any(unknown) {
            return None;
        }
        expander.expand(word).ok()
    }

    /// As [`expand`](Scope::expand), for a word that may become several.
    pub(super) fn expand_words(&self, escape: char, word: &Word) -> Option<Vec<String>> {
        self.expand(escape, word)?;
        let lookup = |name: &str| self.values.get(name).cloned().flatten();
        Expander { escape, lookup: &lookup }.expand_words(word).ok()
    }

    fn unset(&self, escape: char, word: &Word) -> Vec<String> {
        let lookup = |name: &str| {
            // What is declared without a value is nothing to complain about.
            self.values.get(name).map(|value| value.clone().unwrap_or_default())
        };
        Expander { escape, lookup: &lookup }.unset_variables(word)
    }
}

/// Where a word stands: what may be the reason that a variable is not set.
pub(super) struct Place<'a> {
    /// The number of the stage.
    pub(super) stage: usize,
    /// The number of the instruction in it.
    pub(super) instruction: usize,
    /// The arguments above the first `FROM`.
    pub(super) globals: &'a Globals,
}

impl Checker<'_> {
    /// Where `$name` stands in a word; the whole word if that cannot be seen.
    pub(super) fn variable(&self, word: &Word, name: &str) -> Span {
        let text = self.source(word.span);
        for (at, _) in text.match_indices('$') {
            let rest = &text[at + 1..];
            let (rest, open) = rest.strip_prefix('{').map_or((rest, 0), |rest| (rest, 1));
            let Some(after) = rest.strip_prefix(name) else { continue };
            if after.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let start = word.span.start + at;
            let close = usize::from(open == 1 && after.starts_with('}'));
            return Span::new(start, start + 1 + open + name.len() + close);
        }
        word.span
    }

    /// Reports the variables of a word that are not set.
    ///
    /// Where the base image may have set them, only those are reported that the file itself shows to be a mistake.
    pub(super) fn undefined(&mut self, scope: &Scope, place: &Place<'_>, word: &Word) {
        for name in scope.unset(self.file.directives.escape, word) {
            let known: Vec<&str> = scope.values.keys().map(String::as_str).collect();
            let near = closest(&name, &known);
            let help = if place.globals.values.contains_key(&name) {
                Some(format!(
                    "put `ARG {name}` into this stage: arguments do not reach into stages by themselves"
                ))
            } else if is_declared_below(self.file, place, &name) {
                Some(format!("move `ARG {name}` up: it stands below"))
            } else {
                let likely = near.filter(|near| scope.complete || is_slip(&name, near));
                likely.map(|near| format!("did you mean `${near}`?"))
            };
            if help.is_none() && !scope.complete {
                continue;
            }
            let span = self.variable(word, &name);
            let message = format!("the variable `${name}` is not set here");
            self.report(Code::UndefinedVar, span, message).help =
                help.or_else(|| Some(format!("set it with `ENV {name}=…`, or declare `ARG {name}`")));
        }
    }
}

fn is_declared_below(file: &Containerfile, place: &Place<'_>, name: &str) -> bool {
    file.stages[place.stage].instructions[place.instruction + 1..].iter().any(|instruction| {
        matches!(&instruction.kind, Kind::Arg(args) if args.iter().any(|arg| arg.name.node == name))
    })
}

/// Whether two names differ by one letter, or by two that have changed places: never by a number, since
/// `JAVA_8` and `JAVA_9` are two things.
fn is_slip(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().min(b.len()) < 4 {
        return false;
    }
    let start = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let end = a[start..].iter().rev().zip(b[start..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[start..a.len() - end], &b[start..b.len() - end]);
    let letters = a.iter().chain(b).all(|c| !c.is_ascii_digit());
    let swapped = matches!((a, b), ([a, b], [c, d]) if a == d && b == c);
    letters && (a.len().max(b.len()) == 1 || swapped)
}

#[cfg(test)]
mod tests {
    use super::is_slip;

    #[test]
    fn slips_are_near_and_no_numbers() {
        for (a, b) in
            [("VERSOIN", "VERSION"), ("VERSON", "VERSION"), ("VERSIONS", "VERSION"), ("VARSION", "VERSION")]
        {
            assert!(is_slip(a, b) && is_slip(b, a), "{a} {b}");
        }
        for (a, b) in
            [("JAVA_8", "JAVA_9"), ("ABC", "ABD"), ("NODE_VERSION", "JAR_VERSION"), ("LANG", "GOLANG")]
        {
            assert!(!is_slip(a, b), "{a} {b}");
        }
    }
}
