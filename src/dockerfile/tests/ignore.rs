//! `.dockerignore`.

use super::*;

fn matches(patterns: &str, path: &str) -> bool {
    IgnoreFile::parse(patterns).unwrap().matches(path.as_bytes())
}

/// Patterns (a line each), path, whether it is left out.
const CASES: &[(&str, &str, bool)] = &[
    ("", "a", false),
    ("a", "a", true),
    ("a", "a/b/c", true),
    ("a", "b/a", false),
    ("a", "ab", false),
    ("/a", "a", true),
    ("./a/", "a", true),
    ("a/../b", "b", true),
    ("a//b", "a/b", true),
    ("  a  ", "a", true),
    ("# a\na", "a", true),
    ("#a", "#a", false),
    (" #a", "#a", true),
    ("\\#a", "#a", true),
    ("a\r\nb\r\n", "b", true),
    ("\u{feff}a", "a", true),
    (".", "a", false),
    ("/", "a", false),
    ("..", "a", false),
    ("../a", "a", false),
    ("*", "a", true),
    ("*", "a/b", true),
    ("*/b", "a/b", true),
    ("*/b", "b", false),
    ("*/*/b", "x/y/b", true),
    ("*.md", "README.md", true),
    ("*.md", "docs/README.md", false),
    ("**/*.md", "README.md", true),
    ("**/*.md", "docs/x/README.md", true),
    ("**/*.md", "docs/x.md/y", true),
    ("**", "a/b", true),
    ("**/", "a/b", true),
    ("a/**", "a/b/c", true),
    ("a/**", "a", false),
    ("a/**/b", "a/b", true),
    ("a/**/b", "a/x/y/b/z", true),
    ("a**", "abc/d", true),
    ("**foo", "xfoo", true),
    ("**foo", "a/xfoo", true),
    ("**/foo", "xfoo", false),
    ("**/foo", "a/foo", true),
    ("**fo?", "xfoo", false),
    ("**fo?", "a/foo", true),
    ("a?c", "abc", true),
    ("a?c", "a/c", false),
    ("[a-c]x", "bx", true),
    ("[^a]x", "bx", true),
    ("[^a]x", "ax", false),
    ("a\\*", "a*", true),
    ("a\\*", "ab", false),
    ("a.c", "abc", false),
    ("a(b)+|{c}$^", "a(b)+|{c}$^", true),
    // Exceptions, in order.
    ("*\n!a", "a", false),
    ("*\n!a", "b", true),
    ("!a\n*", "a", true),
    ("*\n! a ", "a", false),
    ("*\n!a\na/b", "a/b", true),
    ("*\n!a\na/b", "a/c", false),
    ("a\n!a/b", "a/b", false),
    ("a\n!a/b", "a/b/c", false),
    ("a\n!a/b", "a/c", true),
    ("a\n!a/b", "a", true),
    ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true),
    ("*.md\n!README*.md\nREADME-secret.md", "README.md", false),
    ("**/x\n!y/x", "y/x", false),
    ("**/x\n!y/x", "z/x", true),
    ("*\n!./a", "a", false),
    ("*\n!/a", "a", false),
    ("*\n./!a", "a", false),
    // The reference looks at a pattern only where it changes something, and remembers that look: when `a`
    // itself is judged, the last line is skipped, so `a/b` does not inherit from it.
    ("*\n!a/b\na", "a/b", false),
    ("*\n!a/b\na/*", "a/b", true),
];

#[test]
fn cases() {
    for &(patterns, path, expected) in CASES {
        assert_eq!(matches(patterns, path), expected, "{patterns:?} {path}");
    }
}

#[test]
fn paths_are_bytes() {
    let ignore = IgnoreFile::parse(b"*.\xff\n".as_slice()).unwrap();
    assert!(ignore.matches(b"a\xfe.\xff"));
    assert!(!ignore.matches(b"a"));
    assert!(IgnoreFile::parse("?").unwrap().matches(b"\xff"));
}

#[test]
fn refused_lines() {
    for (text, line) in
        [("a\n!", 2), ("!\n", 1), ("#\n\n! \n", 3), ("!/", 1), ("a\n\n[", 3), ("a\\", 1), ("![a", 1)]
    {
        let error = IgnoreFile::parse(text).expect_err(text);
        assert_eq!(error.line, line, "{text:?}: {error}");
    }
    let error = IgnoreFile::parse("x[").unwrap_err();
    assert_eq!(error.to_string(), "line 1: bad pattern `x[`: the bracket `[` is not closed");
}

#[test]
fn lists_of_patterns() {
    let list = IgnoreFile::from_patterns(["*.txt", " ", "!keep.txt"]).unwrap();
    assert!(list.matches(b"a.txt"));
    assert!(!list.matches(b"keep.txt"));
    assert!(!IgnoreFile::from_patterns(["/a"]).unwrap().matches(b"a"));
    assert!(IgnoreFile::from_patterns(["!"]).is_err());
    assert!(IgnoreFile::from_patterns([""; 0]).unwrap().is_empty());
}

#[test]
fn where_a_walk_must_look() {
    let descend =
        |patterns: &str, dir: &str| IgnoreFile::parse(patterns).unwrap().may_descend(dir.as_bytes());
    assert!(descend("", "a"));
    assert!(descend("b", "a"));
    assert!(!descend("a", "a"));
    assert!(!descend("a\n!b/c", "a"));
    assert!(descend("a\n!a/b", "a"));
    assert!(descend("a\n!a/b/c", "a/b"));
    assert!(!descend("a\n!a/b/c", "a/x"));
    assert!(descend("*\n!*/c", "a"));
    assert!(!descend("*\n!*/c", "a/b"));
    assert!(descend("*\n!**/c", "a/b"));
    assert!(descend("*\n!a/[b]", "a"));
    assert!(!descend("*\n!x/[b]", "a"));
    assert!(!descend("**/node_modules\n!src", "src/node_modules"));
}
