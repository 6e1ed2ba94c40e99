//! Expansion.

use super::*;

fn word(text: &str) -> Word {
    Word { node: text.to_owned(), span: Span::new(0, text.len()) }
}

fn variable(name: &str) -> Option<String> {
    let value = match name {
        "A" => "a",
        "EMPTY" => "",
        "TWO" => "x y",
        "PATHS" => "/usr/local/bin",
        "FILE" => "archive.tar.gz",
        "LINES" => "ab\ncb",
        "ÄÖ" => "umlaut",
        "1" => "one",
        "STAR" => "a*b",
        _ => return None,
    };
    Some(value.to_owned())
}

fn expand(text: &str) -> Result<String, String> {
    let expander = Expander { escape: '\\', lookup: &variable };
    expander.expand(&word(text)).map_err(|error| error.message)
}

const EXPANSIONS: &[(&str, &str)] = &[
    ("plain text", "plain text"),
    ("$A", "a"),
    ("${A}", "a"),
    ("$A$A-$Ab", "aa-"),
    ("${A}b", "ab"),
    ("$NOPE", ""),
    ("$ÄÖ!", "umlaut!"),
    ("$1x $12", "onex "),
    ("$", "$"),
    ("a$ b", "a$ b"),
    ("$.", "$."),
    ("$@$$", ""),
    ("\\$A", "$A"),
    ("\\\\$A", "\\a"),
    ("a\\", "a"),
    ("a\\b", "ab"),
    ("'$A \\ \"x\"'", "$A \\ \"x\""),
    ("\"$A \\$A \\\" \\\\ \\n '\"", "a $A \" \\ \\n '"),
    ("x'y'\"z\"", "xyz"),
    ("''", ""),
    ("${A:-d}", "a"),
    ("${NOPE:-d}", "d"),
    ("${EMPTY:-d}", "d"),
    ("${EMPTY-d}", ""),
    ("${NOPE-d}", "d"),
    ("${NOPE:-$A ${A}}", "a a"),
    ("${NOPE:-${NOPE2:-x}}", "x"),
    ("${NOPE:-'}'}", "}"),
    ("${NOPE:-\\}}", "}"),
    ("${A:+d}", "d"),
    ("${EMPTY:+d}", ""),
    ("${EMPTY+d}", "d"),
    ("${NOPE+d}", ""),
    ("${A:?m}", "a"),
    ("${EMPTY?m}", ""),
    ("${PATHS#*/}", "usr/local/bin"),
    ("${PATHS##*/}", "bin"),
    ("${PATHS%/*}", "/usr/local"),
    ("${PATHS%%/*}", ""),
    ("${FILE%.*}", "archive.tar"),
    ("${FILE%%.*}", "archive"),
    ("${FILE#archive}", ".tar.gz"),
    ("${FILE#nope}", "archive.tar.gz"),
    ("${FILE#???}", "hive.tar.gz"),
    ("${FILE:#a}", "rchive.tar.gz"),
    ("${FILE#}", "archive.tar.gz"),
    ("${STAR#a\\*}", "b"),
    ("${STAR#a\\?}", "a*b"),
    ("${STAR%\\*b}", "a"),
    ("${NOPE#x}", ""),
    ("${PATHS/\\//-}", "-usr/local/bin"),
    ("${PATHS//\\//-}", "-usr-local-bin"),
    ("${FILE/a*a/X}", "Xr.gz"),
    ("${FILE//[ar]/X}", "archive.tar.gz"),
    ("${FILE//r/$A}", "aachive.taa.gz"),
    ("${FILE//r/}", "achive.ta.gz"),
    ("${FILE/nope/X}", "archive.tar.gz"),
    ("${A///-}", "-a-"),
    ("${A//*/X}", "X"),
    ("${EMPTY//*/X}", "X"),
    ("${LINES/a*b/X}", "X\ncb"),
    ("${LINES//?b/X}", "X\nX"),
    ("${LINES##*b}", "\ncb"),
    ("${NOPE/a/b}", ""),
    ("\"${NOPE:-\"x  y\"}\"", "x  y"),
    ("<< EOF <", "<< EOF <"),
];

#[test]
fn expansions() {
    for &(text, expected) in EXPANSIONS {
        assert_eq!(expand(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn replacing_in_archive() {
    // The leftmost match, and there the longest.
    assert_eq!(expand("${FILE/a*r/X}").as_deref(), Ok("X.gz"));
    assert_eq!(expand("${FILE/r*r/X}").as_deref(), Ok("aX.gz"));
}

const REFUSED: &[(&str, &str)] = &[
    ("'a", "closing single quote is missing"),
    ("\"a", "closing double quote is missing"),
    ("\"a\\\"", "closing double quote is missing"),
    ("${A", "`}` is missing"),
    ("${", "`}` is missing"),
    ("${A:-x", "`}` is missing"),
    ("${}", "followed by a name"),
    ("${:}", "followed by a name"),
    ("${{A}}", "followed by a name"),
    ("${A:}", "modifier `:}` is not supported"),
    ("${A:x}", "modifier `:x` is not supported"),
    ("${A^^}", "modifier `^` is not supported"),
    ("${A[0]}", "modifier `[` is not supported"),
    ("${A/b}", "`/` is missing"),
    ("${A/b/c", "`}` is missing"),
    ("${NOPE:?}", "NOPE: is not allowed to be unset"),
    ("${NOPE?}", "NOPE: is not allowed to be unset"),
    ("${EMPTY:?}", "EMPTY: is not allowed to be empty"),
    ("${EMPTY:?set $A}", "EMPTY: set a"),
    ("${A#a\\b}", "`\\b` is not an escape"),
];

#[test]
fn refused_words() {
    for &(text, part) in REFUSED {
        let message = expand(text).expect_err(text);
        assert!(message.contains(part), "{text}: {message}");
        assert!(message.contains(text), "{text}: {message}");
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    let text = "${A:-".repeat(10_000);
    assert!(expand(&text).unwrap_err().contains("nested too deep"));
    let fine = format!("{}x{}", "${N:-".repeat(90), "}".repeat(90));
    assert_eq!(expand(&fine).as_deref(), Ok("x"));
}

#[test]
fn the_escape_character_is_the_files() {
    let expander = Expander { escape: '`', lookup: &variable };
    assert_eq!(expander.expand(&word("`$A \\$A c:\\x \"`\"\"")).unwrap(), "$A \\a c:\\x \"");
}

#[test]
fn words_split_where_nothing_quotes() {
    let expander = Expander { escape: '\\', lookup: &variable };
    for (text, expected) in [
        ("a b", &["a", "b"][..]),
        (" a\t b ", &["a", "b"]),
        ("$TWO", &["x", "y"]),
        ("\"$TWO\"", &["x y"]),
        ("'a b'c\\ d e", &["a bc d", "e"]),
        ("1$TWO-2", &["1x", "y-2"]),
        ("$NOPE", &[]),
        ("'' a", &["a"]),
    ] {
        assert_eq!(expander.expand_words(&word(text)).unwrap(), expected, "{text}");
    }
}

#[test]
fn heredoc_bodies() {
    let expander = Expander { escape: '`', lookup: &variable };
    for (body, expected) in [
        ("it's \"$A\" ${NOPE:-d}\n", "it's \"a\" d\n"),
        ("\\$A \\\\ \\x '\\$'\n", "$A \\ x '$'\n"),
        ("a \\\nb\n", "a b\n"),
        ("`$A\n", "`a\n"),
        ("$ $. 5$\n", "$ $. 5$\n"),
    ] {
        assert_eq!(expander.expand_heredoc(&word(body)).unwrap(), expected, "{body}");
    }
    let error = expander.expand_heredoc(&word("${")).unwrap_err();
    assert!(error.help.unwrap().contains("<<'EOF'"));
}

#[test]
fn unset_variables() {
    let expander = Expander { escape: '\\', lookup: &variable };
    let names = expander.unset_variables(&word("$X ${Y} $A '$Z' \\$W ${D:-1} ${E+2} ${P#a} $X ${Q/a/$R}"));
    assert_eq!(names, ["X", "Y", "P", "R", "Q"]);
}

/// What a shell user would try, with the answers of the reference.
const MORE_EXPANSIONS: &[(&str, &str)] = &[
    // Quotes inside and around braces.
    ("\"${NOPE:-a b}\"", "a b"),
    ("${NOPE:-\"a  b\"}", "a  b"),
    ("${NOPE:-'$A'}", "$A"),
    ("${A:+\"x\"}", "x"),
    ("${A:+'x y'}", "x y"),
    ("\"${A:+x}y\"", "xy"),
    ("'${A}'", "${A}"),
    ("\"'$A'\"", "'a'"),
    ("'\"'$A'\"'", "\"a\""),
    ("a\"b\"c'd'e", "abcde"),
    ("\"\"", ""),
    ("x''y\"\"z", "xyz"),
    // Nesting.
    ("${NOPE:-${NOPE2:-${A}}}", "a"),
    ("${NOPE:-${A:+${TWO}}}", "x y"),
    ("${A:+${NOPE:-in}}", "in"),
    ("${NOPE-${EMPTY:-z}}", "z"),
    ("${NOPE:-${A}-${A}}", "a-a"),
    ("${NOPE:-$NOPE2}", ""),
    ("${A:-${NOPE:?not looked at is still read}}", "!"),
    ("${FILE#${A}}", "rchive.tar.gz"),
    ("${FILE%.${NOPE:-gz}}", "archive.tar"),
    ("${FILE/${A}/${STAR}}", "a*brchive.tar.gz"),
    // Signs that need no braces.
    ("$A.txt", "a.txt"),
    ("$A/$A", "a/a"),
    ("$A_b", ""),
    ("$A-b", "a-b"),
    ("$1A", "oneA"),
    ("$12", ""),
    ("${1}2", "one2"),
    ("$?x", "x"),
    ("$!x", "x"),
    ("$*x", "x"),
    ("$#x", "x"),
    ("$-x", "x"),
    ("$$x", "x"),
    ("$$", ""),
    ("a$", "a$"),
    ("$ A", "$ A"),
    ("$/A", "$/A"),
    ("$=", "$="),
    ("$\"A\"", "$A"),
    ("$'A'", "$A"),
    // Escapes.
    ("\\'", "'"),
    ("\\\"", "\""),
    ("\\\\", "\\"),
    ("\\ x", " x"),
    ("\\${A}", "${A}"),
    ("\\\\${A}", "\\a"),
    ("\\\\\\$A", "\\$A"),
    ("\"\\a\"", "\\a"),
    ("\"\\'\"", "\\'"),
    ("\"\\\\$A\"", "\\a"),
    ("'\\'", "\\"),
    ("'a\\'b", "a\\b"),
    ("\"a\nb\"", "a\nb"),
    ("${NOPE:-a\\}b}", "a}b"),
    ("${NOPE:-\\$A}", "$A"),
    ("${NOPE:-:}", ":"),
    ("${NOPE:--}", "-"),
    ("${NOPE-:x}", ":x"),
    ("${NOPE:-}", ""),
    ("${NOPE-}", ""),
    ("${A:+}", ""),
    ("${EMPTY:-}", ""),
    ("${NOPE:+d}x", "x"),
    ("${EMPTY+}", ""),
    ("${A?}", "a"),
    ("${A:?}", "a"),
    ("${EMPTY?}", ""),
    // Taking away from an end.
    ("${PATHS#/}", "usr/local/bin"),
    ("${PATHS##/*}", ""),
    ("${PATHS#*l}", "ocal/bin"),
    ("${PATHS##*l}", "/bin"),
    ("${PATHS%bin}", "/usr/local/"),
    ("${PATHS%%bin}", "/usr/local/"),
    ("${PATHS%?}", "/usr/local/bi"),
    ("${PATHS%%*}", ""),
    ("${PATHS%*}", "/usr/local/bin"),
    ("${PATHS#*}", "/usr/local/bin"),
    ("${PATHS##*}", ""),
    ("${PATHS:%/*}", "/usr/local"),
    ("${PATHS%%l*}", "/usr/"),
    ("${PATHS%l*}", "/usr/loca"),
    ("${EMPTY#a}", ""),
    ("${STAR%%\\*}", "a*b"),
    ("${FILE%.tar.gz}", "archive"),
    ("${FILE%[a-z]z}", "archive.tar.gz"),
    ("${FILE%.tar}", "archive.tar.gz"),
    // Replacing.
    ("${FILE/.tar/-x}", "archive-x.gz"),
    ("${FILE/./}", "archivetar.gz"),
    ("${FILE//./}", "archivetargz"),
    ("${FILE//a/\\/}", "\\/rchive.t\\/r.gz"),
    ("${FILE/?/X}", "Xrchive.tar.gz"),
    ("${FILE//*/X}", "X"),
    ("${STAR/\\*/+}", "a+b"),
    ("${STAR/*/+}", "+"),
    ("${PATHS//\\/l/_}", "/usr_ocal/bin"),
    ("${PATHS/usr/\"x y\"}", "/x y/local/bin"),
    ("${PATHS//o*/O}", "/usr/lO"),
];

#[test]
fn more_expansions() {
    for &(text, expected) in MORE_EXPANSIONS {
        match expected {
            // The alternative is expanded before it is known whether it is needed.
            "!" => assert!(expand(text).is_err(), "{text}"),
            _ => assert_eq!(expand(text).as_deref(), Ok(expected), "{text}"),
        }
    }
}

#[test]
fn more_refused_words() {
    for (text, part) in [
        ("a'b", "single quote"),
        ("a\"b", "double quote"),
        ("\"'", "double quote"),
        ("'\"", "single quote"),
        ("\"$A", "double quote"),
        ("\"${A}", "double quote"),
        ("\"${A\"", "modifier `\"` is not supported"),
        ("${A", "`}` is missing"),
        ("x${", "`}` is missing"),
        ("${A-${B}", "`}` is missing"),
        ("${A:", "`}` is missing"),
        ("${A:-'}", "missing"),
        ("${ A}", "modifier ` ` is not supported"),
        ("${A }", "modifier ` ` is not supported"),
        ("${A!}", "modifier `!` is not supported"),
        ("${A,,}", "modifier `,` is not supported"),
        ("${A=x}", "modifier `=` is not supported"),
        ("${A:=x}", "modifier `:=` is not supported"),
        ("${A:0:1}", "modifier `:0` is not supported"),
        ("${A%\\}", "missing"),
        ("${A//x}", "`/` is missing"),
        ("${NOPE:?say $TWO}", "NOPE: say x y"),
        ("${NOPE?'why'}", "NOPE: why"),
    ] {
        let message = expand(text).expect_err(text);
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn a_backtick_escapes_and_a_backslash_does_not() {
    let expander = Expander { escape: '`', lookup: &variable };
    for (text, expected) in [
        ("C:\\$A", "C:\\a"),
        ("C:`$A", "C:$A"),
        ("\"C:\\\\x\"", "C:\\\\x"),
        ("\"``$A`\"\"", "`a\""),
        ("'`'", "`"),
        ("a`", "a"),
        ("${NOPE:-a`}b}", "a}b"),
        // The patterns have the backslash for their escape in any case.
        ("${STAR#a\\*}", "b"),
    ] {
        assert_eq!(expander.expand(&word(text)).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn more_words_split() {
    let expander = Expander { escape: '\\', lookup: &variable };
    for (text, expected) in [
        ("a  b", &["a", "b"][..]),
        ("a\nb", &["a", "b"]),
        ("a\\ b", &["a b"]),
        ("\\a b", &["a", "b"]),
        ("'a 'b", &["a b"]),
        ("\" \"", &[" "]),
        ("$TWO$TWO", &["x", "yx", "y"]),
        ("'$TWO'", &["$TWO"]),
        ("${NOPE:-1 2} 3", &["1", "2", "3"]),
        ("\"${NOPE:-1 2}\" 3", &["1 2", "3"]),
        ("${NOPE:-'1 2'}", &["1", "2"]),
        ("\"\" \"\"", &[]),
        ("", &[]),
        ("$EMPTY", &[]),
    ] {
        assert_eq!(expander.expand_words(&word(text)).unwrap(), expected, "{text}");
    }
}

#[test]
fn more_heredoc_bodies() {
    let expander = Expander { escape: '\\', lookup: &variable };
    for (body, expected) in [
        ("${NOPE:-\"q\"} '${NOPE:-'s'}'\n", "\"q\" ''s''\n"),
        ("'\\\\' \"\\\"\"\n", "'\\' \"\"\"\n"),
        ("\\\\\n", "\\\n"),
        ("a\\\r\nb\n", "a\r\nb\n"),
        ("${FILE%.*}\n$NOPE.\n", "archive.tar\n.\n"),
        ("\t$TWO  \n\n", "\tx y  \n\n"),
        ("`date` $(date) $((1+1))\n", "`date` $(date) $((1+1))\n"),
        ("end\\", "end"),
    ] {
        assert_eq!(expander.expand_heredoc(&word(body)).as_deref(), Ok(expected), "{body}");
    }
}

#[test]
fn what_grows_without_bound_is_an_error() {
    let long = "a".repeat(1 << 19);
    let lookup = |name: &str| match name {
        "LONG" => Some(long.clone()),
        "TEN" => Some("a".repeat(10)),
        _ => None,
    };
    let expander = Expander { escape: '\\', lookup: &lookup };
    let fails = |text: &str| {
        let error = expander.expand(&word(text)).expect_err(text);
        assert!(error.message.contains("too long"), "{text}: {}", error.message);
    };
    // Ten to the ninetieth.
    let nested = format!("{}a{}", "${TEN//a/".repeat(90), "}".repeat(90));
    fails(&nested);
    fails(&format!("\"{nested}\""));
    fails("${LONG//a/$LONG}");
    fails("$LONG$LONG$LONG");
    fails("\"$LONG$LONG$LONG\"");
    fails("${NOPE:-$LONG$LONG$LONG}");
    fails("${LONG##$LONG}");
    fails("${LONG/$LONG/}");
    assert_eq!(expander.expand(&word("$LONG$LONG")).unwrap().len(), 1 << 20);
    // A long text of its own is none that grows.
    let body = "x".repeat(3 << 20);
    assert_eq!(expander.expand_heredoc(&word(&body)).unwrap().len(), 3 << 20);
}
