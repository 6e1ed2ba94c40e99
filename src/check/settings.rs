//! `# check=skip=A,B;error=true;experimental=C`, and the build argument that overrides it.

use std::ops::Range;

use super::rules::{Code, SILENT};
use crate::dockerfile::error::closest;

/// What a directive asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `skip=`
    pub skip: Names,
    /// `experimental=`
    pub experimental: Names,
    /// `error=true`: a warning makes the build fail.
    pub error: bool,
}

/// `all`, or a list of checks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    all: bool,
    /// Each with its place in the text.
    list: Vec<(String, Range<usize>)>,
}

impl Names {
    fn parse(text: &str, start: usize) -> Names {
        if text.trim() == "all" {
            return Names { all: true, list: Vec::new() };
        }
        let mut names = Names::default();
        let mut at = start;
        for part in text.split(',') {
            let name = part.trim();
            let name_at = at + (part.len() - part.trim_start().len());
            if !name.is_empty() {
                names.list.push((name.to_owned(), name_at..name_at + name.len()));
            }
            at += part.len() + 1;
        }
        names
    }

    /// Whether it is in the list by its name.
    fn lists(&self, code: Code) -> bool {
        self.list.iter().any(|(name, _)| name == code.name())
    }
}

/// An option that is not understood: which part of the text, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misread {
    /// The part.
    pub range: Range<usize>,
    /// Why, as a sentence.
    pub message: String,
}

/// A check that does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// Where its name stands.
    pub range: Range<usize>,
    /// Its name.
    pub name: String,
    /// The one that was meant, perhaps.
    pub near: Option<&'static str>,
}

impl Settings {
    /// Reads the value of a directive. The last of equal keys counts.
    ///
    /// # Errors
    /// When a part is not `key=value` with a key there is, or `error=` is given something else than a truth value.
    pub fn parse(text: &str) -> Result<Settings, Misread> {
        let mut settings = Settings::default();
        if text.trim().is_empty() {
            return Ok(settings);
        }
        let mut start = 0;
        for part in text.split(';') {
            let range = start..start + part.len();
            start = range.end + 1;
            let misread = |message: String| Err(Misread { range: range.clone(), message });
            let Some((key, value)) = part.split_once('=') else {
                return misread(format!("`{}` is no option for build checks", part.trim()));
            };
            let value_at = range.start + key.len() + 1;
            match key.trim() {
                "skip" => settings.skip = Names::parse(value, value_at),
                "experimental" => settings.experimental = Names::parse(value, value_at),
                "error" => match truth(value.trim()) {
                    Some(error) => settings.error = error,
                    None => return misread(format!("`error={}` is neither true nor false", value.trim())),
                },
                key => return misread(format!("`{key}` is no option for build checks")),
            }
        }
        Ok(settings)
    }

    /// Whether a check runs.
    pub fn runs(&self, code: Code) -> bool {
        if self.experimental.lists(code) || (code.is_experimental() && self.experimental.all) {
            return true;
        }
        !code.is_experimental() && !self.skip.all && !self.skip.lists(code)
    }

    /// The names that are none.
    pub fn unknown(&self) -> impl Iterator<Item = Unknown> {
        let known = |name: &str| Code::from_name(name).is_some() || SILENT.contains(&name);
        self.skip
            .list
            .iter()
            .chain(&self.experimental.list)
            .filter(move |(name, _)| !known(name))
            .map(|(name, range)| Unknown { range: range.clone(), name: name.clone(), near: near(name) })
    }
}

/// The check whose name is nearest.
pub fn near(name: &str) -> Option<&'static str> {
    let names: Vec<&'static str> = Code::ALL.iter().map(|code| code.name()).collect();
    closest(name, &names)
}

/// What Go takes for a truth value.
fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_the_reference_reads_them() {
        let s = Settings::parse(" skip = NoUser , SudoUsed;error=True; experimental=all").unwrap();
        assert!(!s.runs(Code::NoUser) && !s.runs(Code::SudoUsed) && s.runs(Code::UndefinedVar));
        assert!(s.error);
        assert_eq!(Settings::parse("").unwrap(), Settings::default());
        let s = Settings::parse("skip=all;experimental=CopyIgnoredFile").unwrap();
        assert!(!s.runs(Code::UndefinedVar) && s.runs(Code::CopyIgnoredFile));
    }

    #[test]
    fn what_is_no_option_is_refused_with_its_place() {
        for (text, part) in
            [("skip", "skip"), ("skip=all;eror=true", "eror=true"), ("error=maybe;skip=all", "error=maybe")]
        {
            let e = Settings::parse(text).unwrap_err();
            assert_eq!(&text[e.range], part);
        }
    }

    #[test]
    fn unknown_names_are_found_with_their_place() {
        let text = "skip=NoUser, NoUsr,InvalidBaseImagePlatform;experimental=Xyz";
        let s = Settings::parse(text).unwrap();
        let found: Vec<_> = s.unknown().map(|u| (text[u.range].to_owned(), u.near)).collect();
        assert_eq!(found, [("NoUsr".to_owned(), Some("NoUser")), ("Xyz".to_owned(), None)]);
    }
}
