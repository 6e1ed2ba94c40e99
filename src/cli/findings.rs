//! Findings of build checks as text, JSON and SARIF.

use std::io::IsTerminal;

use serde_json::{Value, json};

use super::diagnostics::snippet;
use super::error::paragraph;
use super::failure::Source;
use crate::check::{Code, Finding, Level, Report};
use crate::dockerfile::Span;
use crate::dockerfile::error::line_col;

/// Whether standard output is a terminal that shows colours.
pub(super) fn color_on_stdout() -> bool {
    let allowed = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    allowed && std::io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// For people: what, where, and what to do.
pub(super) fn text(source: &Source, report: &Report, color: bool) -> String {
    let mut out = String::new();
    for finding in &report.findings {
        let head = format!("{}[{}]:", finding.level.name(), finding.code.name());
        let paint = match finding.level {
            Level::Error => "1;31",
            Level::Warning => "1;33",
            Level::Info => "1;36",
        };
        out += &paragraph(&head, paint, &finding.message, "1", color);
        out += snippet(&source.name, &source.text, shown(source, finding.span), None, color).trim_end();
        out.push('\n');
        if let Some(help) = &finding.help {
            out += &paragraph("help:", "1;36", help, "", color);
        }
        out +=
            &paragraph("see:", "1;36", &format!("cooper lint --explain {}", finding.code.name()), "", color);
        out.push('\n');
    }
    out
}

/// The part of a span that is worth underlining: its first line, if it has several.
fn shown(source: &Source, span: Span) -> Span {
    let part = source.text.get(span.range()).unwrap_or_default();
    let first = part.lines().next().unwrap_or_default().trim_end();
    Span::new(span.start, span.start + first.len())
}

/// How much was found.
pub(super) fn summary(source: &Source, report: &Report) -> String {
    let count = |level: Level, one: &str, many: &str| match report
        .findings
        .iter()
        .filter(|finding| finding.level == level)
        .count()
    {
        0 => None,
        1 => Some(format!("1 {one}")),
        n => Some(format!("{n} {many}")),
    };
    let parts: Vec<String> = [
        count(Level::Error, "error", "errors"),
        count(Level::Warning, "warning", "warnings"),
        count(Level::Info, "piece of advice", "pieces of advice"),
    ]
    .into_iter()
    .flatten()
    .collect();
    match parts.is_empty() {
        true => format!("{}: nothing found", source.name),
        false => format!("{}: {}", source.name, parts.join(", ")),
    }
}

/// One object: `{"file": …, "findings": [{"code", "level", "message", "help", "start", "end"}…]}`.
pub(super) fn json(source: &Source, report: &Report) -> String {
    let place = |offset: usize| {
        let (line, column) = line_col(&source.text, offset);
        json!({ "line": line, "column": column, "offset": offset })
    };
    let findings: Vec<Value> = report
        .findings
        .iter()
        .map(|finding| {
            json!({
                "code": finding.code.name(),
                "level": finding.level.name(),
                "message": finding.message,
                "help": finding.help,
                "start": place(finding.span.start),
                "end": place(finding.span.end),
            })
        })
        .collect();
    format!("{:#}\n", json!({ "file": source.name, "findings": findings }))
}

/// SARIF 2.1.0: one run, with all checks as its rules.
pub(super) fn sarif(source: &Source, report: &Report) -> String {
    let rules: Vec<Value> = Code::ALL
        .iter()
        .map(|code| {
            json!({
                "id": code.name(),
                "name": code.name(),
                "shortDescription": { "text": code.summary() },
                "help": { "text": code.page(), "markdown": code.page() },
                "defaultConfiguration": { "level": sarif_level(code.level()) },
            })
        })
        .collect();
    let results: Vec<Value> = report.findings.iter().map(|finding| result(source, finding)).collect();
    let document = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "cooper",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    });
    format!("{document:#}\n")
}

fn result(source: &Source, finding: &Finding) -> Value {
    let (start_line, start_column) = line_col(&source.text, finding.span.start);
    let (end_line, end_column) = line_col(&source.text, finding.span.end.max(finding.span.start));
    let message = match &finding.help {
        Some(help) => format!("{}: {help}", finding.message),
        None => finding.message.clone(),
    };
    json!({
        "ruleId": finding.code.name(),
        "ruleIndex": Code::ALL.iter().position(|code| *code == finding.code),
        "level": sarif_level(finding.level),
        "message": { "text": message },
        "locations": [{ "physicalLocation": {
            "artifactLocation": { "uri": uri(&source.name) },
            "region": {
                "startLine": start_line,
                "startColumn": start_column,
                "endLine": end_line,
                "endColumn": end_column,
            },
        }}],
    })
}

fn sarif_level(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Info => "note",
    }
}

/// A path as a relative reference of RFC 3986, or as a `file:` URI when it is absolute.
fn uri(path: &str) -> String {
    let path = path.strip_prefix("./").unwrap_or(path);
    let mut out = String::from(if path.starts_with('/') { "file://" } else { "" });
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(byte))
            }
            other => out += &format!("%{other:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{check, dockerfile};

    fn checked(text: &str) -> (Source, Report) {
        let source = Source { name: "some dir/Containerfile".to_owned(), text: text.to_owned() };
        let file = dockerfile::parse(text).unwrap();
        let report = check::check(text, &file, &check::Options::default()).unwrap();
        (source, report)
    }

    #[test]
    fn text_shows_the_place_and_what_to_do() {
        let (source, report) = checked("FROM debian:13 AS Build\nUSER app\nRUN true \\\n  && sudo make\n");
        assert_eq!(
            text(&source, &report, false),
            "warning[StageNameCasing]: the stage name `Build` is not in lower case
 --> some dir/Containerfile:1:19
  |
1 | FROM debian:13 AS Build
  |                   ^^^^^
help: write `build`
see: cooper lint --explain StageNameCasing

warning[SudoUsed]: `sudo` is of no use in a build, and of little good in an
  image
 --> some dir/Containerfile:4:6
  |
4 |   && sudo make
  |      ^^^^^^^^^
help: steps are root until a USER says otherwise: put `USER root` before, and
  the other one behind
see: cooper lint --explain SudoUsed

"
        );
        assert_eq!(summary(&source, &report), "some dir/Containerfile: 2 warnings");
    }

    #[test]
    fn json_has_places_as_numbers() {
        let (source, report) = checked("FROM debian:13 AS Bäh\n".replace('ä', "A").as_str());
        let value: Value = serde_json::from_str(&json(&source, &report)).unwrap();
        assert_eq!(value["findings"][0]["code"], "StageNameCasing");
        assert_eq!(value["findings"][0]["start"], json!({ "line": 1, "column": 19, "offset": 18 }));
        assert_eq!(value["findings"][0]["end"]["column"], 22);
    }

    #[test]
    fn sarif_has_what_the_specification_requires() {
        let (source, report) = checked("# check=error=true\nFROM debian\nRUN sudo a\nCMD x\n");
        let value: Value = serde_json::from_str(&sarif(&source, &report)).unwrap();
        assert_eq!(value["version"], "2.1.0");
        let run = &value["runs"][0];
        let driver = &run["tool"]["driver"];
        assert_eq!(driver["name"], "cooper");
        let rules = driver["rules"].as_array().unwrap();
        for rule in rules {
            assert!(!rule["id"].as_str().unwrap().is_empty());
            assert!(!rule["shortDescription"]["text"].as_str().unwrap().is_empty(), "{rule}");
            assert!(!rule["help"]["text"].as_str().unwrap().is_empty(), "{rule}");
        }
        let results = run["results"].as_array().unwrap();
        assert!(results.len() >= 4, "{results:?}");
        for result in results {
            let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
            assert_eq!(rules[index]["id"], result["ruleId"]);
            assert!(["error", "warning", "note"].contains(&result["level"].as_str().unwrap()));
            assert!(!result["message"]["text"].as_str().unwrap().is_empty());
            let place = &result["locations"][0]["physicalLocation"];
            assert_eq!(place["artifactLocation"]["uri"], "some%20dir/Containerfile");
            let number = |name: &str| place["region"][name].as_u64().unwrap();
            assert!(number("startLine") >= 1 && number("startColumn") >= 1);
            assert!((number("endLine"), number("endColumn")) >= (number("startLine"), number("startColumn")));
        }
        assert_eq!(uri("/a b/ü"), "file:///a%20b/%C3%BC");
    }
}
