//! `ARG` and `ENV`: what a variable means at one place in the file.
//!
//! As BuildKit has it, a stage has one list of variables, to which both instructions add and in which
//! the later wins; `ENV` is in the image's configuration as well. Arguments before the first `FROM`
//! are known in `FROM` lines, and in a stage only after a plain `ARG NAME` there.

use std::collections::BTreeMap;

use crate::dockerfile::ast::Word;
use crate::dockerfile::{Expander, ParseError};
use crate::image::Platform;

/// Arguments that reach `RUN` without being declared, and that neither history nor cache keys show.
pub const PROXY_ARGS: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Longest text that a word may expand to. A variable that doubles itself line by line would otherwise
/// fill any memory; the kernel passes programs no more than a fraction of this.
const VALUE_LIMIT: usize = 1 << 20;

/// Variables in order of first setting; a later value takes the place of the earlier one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables(Vec<(String, String)>);

impl Variables {
    /// From `NAME=value` lines, as an image's configuration has them.
    pub fn from_env(env: &[String]) -> Variables {
        let mut variables = Variables::default();
        for line in env {
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            variables.set(name, value);
        }
        variables
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(n, _)| n == name) {
            Some((_, v)) => value.clone_into(v),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The names, in order.
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|(n, _)| n.clone()).collect()
    }

    /// As `NAME=value` lines.
    pub fn to_env(&self) -> Vec<String> {
        self.0.iter().map(|(n, v)| format!("{n}={v}")).collect()
    }

    /// Expands a word.
    pub fn expand(&self, escape: char, word: &Word) -> Result<String, ParseError> {
        let lookup = |name: &str| self.get(name).map(str::to_owned);
        let text = Expander { escape, lookup: &lookup }.expand(word)?;
        if text.len() > VALUE_LIMIT {
            let message =
                format!("this expands to {} bytes, more than the {VALUE_LIMIT} that are allowed", text.len());
            return Err(ParseError::new(message, word.span));
        }
        Ok(text)
    }

    /// Expands the body of a heredoc.
    pub fn expand_heredoc(&self, escape: char, body: &Word) -> Result<String, ParseError> {
        let lookup = |name: &str| self.get(name).map(str::to_owned);
        Expander { escape, lookup: &lookup }.expand_heredoc(body)
    }

    /// Expands a word that may become several.
    pub fn expand_words(&self, escape: char, word: &Word) -> Result<Vec<String>, ParseError> {
        let lookup = |name: &str| self.get(name).map(str::to_owned);
        Expander { escape, lookup: &lookup }.expand_words(word)
    }
}

/// The arguments that exist before any `ARG` line: about platforms, and which stage is built.
pub fn predefined(build: &Platform, target: &Platform, target_stage: &str) -> Variables {
    let mut variables = Variables::default();
    for (side, platform) in [("BUILD", build), ("TARGET", target)] {
        for (what, value) in [
            ("PLATFORM", platform.to_string()),
            ("OS", platform.os.clone()),
            ("OSVERSION", String::new()),
            ("ARCH", platform.architecture.clone()),
            ("VARIANT", platform.variant.clone().unwrap_or_default()),
        ] {
            variables.set(&format!("{side}{what}"), &value);
        }
    }
    variables.set("TARGETSTAGE", target_stage);
    variables
}

/// The proxy settings among the build arguments, as `RUN` sees them: each under both of its names, whatever
/// the case in which it was given. Of two that differ only in that, the one in small letters counts.
pub fn proxies(build_args: &BTreeMap<String, String>) -> Vec<String> {
    let mut lines = Vec::new();
    for name in PROXY_ARGS.iter().filter(|name| name.starts_with(char::is_uppercase)) {
        // Capitals sort first.
        let given = build_args.iter().rfind(|(given, _)| given.eq_ignore_ascii_case(name));
        if let Some((_, value)) = given.filter(|(_, value)| !value.is_empty()) {
            lines.push(format!("{name}={value}"));
            lines.push(format!("{}={value}", name.to_lowercase()));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_variable_keeps_its_place() {
        let mut v = Variables::from_env(&["A=1".into(), "B=2".into()]);
        v.set("A", "3");
        v.set("C", "");
        assert_eq!(v.to_env(), ["A=3", "B=2", "C="]);
    }
}
