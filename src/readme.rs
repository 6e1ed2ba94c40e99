//! Holds README.md to what it says: the tests that it names for the reference's features are there, and no
//! feature is left out.

use std::fs;
use std::path::Path;

use crate::check::Code;
use crate::dockerfile::{KEYWORDS, all_flags};
use crate::plan::mount::MountType;

/// A line of a table: what there is, and which tests show it.
struct Row {
    what: String,
    tests: Vec<String>,
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The part of the README that is about the reference.
fn section() -> String {
    let readme = read("README.md");
    let (_, section) = readme.split_once("\n## What the reference has\n").expect("the section is there");
    section.split("\n## ").next().unwrap_or_default().to_owned()
}

/// What stands between backticks.
fn code(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn rows() -> Vec<Row> {
    let section = section();
    let lines = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| |"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        let [what, tests] = cells[..] else { panic!("not two cells: {line}") };
        Row { what: what.trim().to_owned(), tests: code(tests) }
    };
    lines.map(row).collect()
}

/// Whether a test is there: a case, or `FILE FUNCTION`.
fn exists(test: &str) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    match test.split_once(' ') {
        None => root.join("testdata/conformance").join(test).with_extension("txt").is_file(),
        Some((file, function)) => {
            let source = fs::read_to_string(root.join(file)).unwrap_or_default();
            let at = source.find(&format!("fn {function}()"));
            at.is_some_and(|at| source[..at].trim_end().ends_with("#[test]"))
        }
    }
}

#[test]
fn every_line_names_tests_that_exist() {
    let rows = rows();
    assert!(rows.len() > 100, "{} lines", rows.len());
    for row in &rows {
        assert!(!row.tests.is_empty(), "no test shows: {}", row.what);
        for test in &row.tests {
            assert!(exists(test), "there is no test `{test}`, which should show: {}", row.what);
        }
    }
    // What stands below the tables names some too.
    let section = section();
    let prose = section.lines().filter(|line| !line.starts_with('|'));
    for test in prose.flat_map(code).filter(|c| c.contains(".rs ")) {
        assert!(exists(&test), "there is no test `{test}`");
    }
    assert!(!exists("copy/no-such-case") && !exists("src/readme.rs section"));
}

#[test]
fn nothing_is_left_out() {
    let rows = rows();
    let has = |all: &[&str]| rows.iter().any(|row| all.iter().all(|text| row.what.contains(text)));
    for keyword in KEYWORDS {
        assert!(has(&[&format!("`{keyword}")]) || has(&[&format!(" {keyword}")]), "{keyword}");
    }
    for (keyword, flag) in all_flags() {
        assert!(has(&[&format!("`{keyword} --"), &format!("--{flag}")]), "{keyword} --{flag}");
    }
    for kind in MountType::ALL {
        let name = format!("`RUN --mount=type={}`", kind.name());
        for key in kind.keys().iter().filter(|key| **key != "type") {
            assert!(has(&[&name, &format!("`{key}`")]), "{key} of {name}");
        }
    }
    for check in Code::ALL {
        assert!(has(&[&format!("`{}`", check.name())]), "{}", check.name());
    }
}
