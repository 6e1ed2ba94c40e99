//! `filepath.Match` and `**`.

use super::super::glob::{Glob, has_wildcard};

/// Pattern, name, whether they match; `None` for a bad pattern.
const MATCHES: &[(&str, &str, Option<bool>)] = &[
    ("abc", "abc", Some(true)),
    ("*", "abc", Some(true)),
    ("*c", "abc", Some(true)),
    ("a*", "a", Some(true)),
    ("a*", "ab/c", Some(false)),
    ("a*/b", "abc/b", Some(true)),
    ("a*/b", "a/c/b", Some(false)),
    ("a*b*c*d*e*/f", "axbxcxdxe/f", Some(true)),
    ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", Some(false)),
    ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
    ("a*b?c*x", "abxbbxdbxebxczzy", Some(false)),
    ("ab[c]", "abc", Some(true)),
    ("ab[b-d]", "abc", Some(true)),
    ("ab[e-g]", "abc", Some(false)),
    ("ab[^c]", "abc", Some(false)),
    ("ab[^e-g]", "abc", Some(true)),
    ("ab[!c]", "ab!", Some(true)),
    ("a\\*b", "a*b", Some(true)),
    ("a\\*b", "ab", Some(false)),
    ("a?b", "a☺b", Some(true)),
    ("a[^a]b", "a☺b", Some(true)),
    ("a???b", "a☺b", Some(false)),
    ("[a-ζ]*", "α", Some(true)),
    ("*[a-ζ]", "A", Some(false)),
    ("a?b", "a/b", Some(false)),
    ("a*b", "a/b", Some(false)),
    ("a[.-0]b", "a/b", Some(true)),
    ("[\\]a]", "]", Some(true)),
    ("[\\-]", "-", Some(true)),
    ("[x\\-]", "x", Some(true)),
    ("[x\\-]", "z", Some(false)),
    ("[\\-x]", "a", Some(false)),
    ("*x", "xxx", Some(true)),
    ("**", "a", Some(true)),
    ("**", "a/b", Some(false)),
    ("[]a]", "]", None),
    ("[-]", "-", None),
    ("[x-]", "x", None),
    ("[-x]", "x", None),
    ("[a-b-c]", "a", None),
    ("[", "a", None),
    ("[^", "a", None),
    ("[^bc", "a", None),
    ("a[", "ab", None),
    ("nope[", "x", None),
    ("\\", "a", None),
    ("", "", Some(true)),
    ("", "a", Some(false)),
];

#[test]
fn as_go_matches() {
    for &(pattern, name, expected) in MATCHES {
        let matched = Glob::new(pattern.as_bytes()).ok().map(|glob| glob.matches(name.as_bytes()));
        assert_eq!(matched, expected, "{pattern} {name}");
    }
}

#[test]
fn bytes_that_are_no_text() {
    let matches = |pattern: &[u8], name: &[u8]| Glob::new(pattern).unwrap().matches(name);
    assert!(matches(b"a?b", b"a\xffb"));
    assert!(matches(b"*\xff", b"x\xff"));
    assert!(!matches(b"??", "é".as_bytes()));
    assert!(!matches(b"*??", "€".as_bytes()));
}

#[test]
fn spanning() {
    let matches =
        |pattern: &str, name: &str| Glob::spanning(pattern.as_bytes()).unwrap().matches(name.as_bytes());
    assert!(matches("**", "a/b/c"));
    assert!(matches("a/**/b", "a/b"));
    assert!(matches("a/**/b", "a/x/y/b"));
    assert!(!matches("a/**/b", "a/xb"));
    assert!(matches("**/*.go", "x.go"));
    assert!(matches("**/*.go", "a/b/x.go"));
    assert!(matches("a/**", "a/"));
    assert!(!matches("a/**", "a"));
    assert!(matches("a**", "ab/c"));
}

#[test]
fn many_stars_do_not_explode() {
    let pattern = "*a".repeat(60) + "b";
    let name = "a".repeat(250);
    assert!(!Glob::new(pattern.as_bytes()).unwrap().matches((name + "cb").as_bytes()));
}

#[test]
fn wildcards() {
    for (name, expected) in [
        ("a", false),
        ("a*", true),
        ("a?", true),
        ("[a]", true),
        ("a]", false),
        ("a\\*", false),
        ("a\\\\*", true),
        ("a\\", false),
    ] {
        assert_eq!(has_wildcard(name.as_bytes()), expected, "{name}");
    }
}
