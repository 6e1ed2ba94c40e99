//! Bytes to lines, tails, widths and numbers.

use proptest::prelude::*;

use super::ms;
use crate::progress::Tail;
use crate::progress::lines::{Lines, MAX_LINE};
use crate::progress::text::{bytes, clock, cut, notice, one_line, seconds, title, width};

/// The lines of an output that is read in the given pieces.
fn lines(pieces: &[&[u8]]) -> Vec<String> {
    let (mut lines, mut out) = (Lines::default(), Vec::new());
    for piece in pieces {
        lines.push(piece, |line| out.push(line));
    }
    lines.finish(|line| out.push(line));
    out
}

#[test]
fn lines_end_at_newlines_and_with_the_output() {
    assert_eq!(lines(&[b"one\ntw", b"o\r\n\nlast"]), ["one", "two", "", "last"]);
    assert_eq!(lines(&[b"one\n"]), ["one"]);
    assert_eq!(lines(&[]), [""; 0]);
}

#[test]
fn a_bar_is_its_last_state() {
    // apt
    assert_eq!(lines(&[b"Reading... 0%\r", b"\rReading... 50%\r\rReading... Done\n"]), ["Reading... Done"]);
    // pip ends its bar with a newline, npm erases it
    assert_eq!(lines(&[b"\r   --- 1/9\r   \x1b[32m---\x1b[0m 9/9\n"]), ["   --- 9/9"]);
    assert_eq!(lines(&[b"[....] fetch\x1b[2K\x1b[1Gadded 3 packages\n"]), ["added 3 packages"]);
    assert_eq!(lines(&[b"\x1b[1G\x1b[0K[#] idle\x1b[1G\x1b[0Kup to date\n"]), ["up to date"]);
    // a spinner
    assert_eq!(lines(&[b"wait |\x08/\x08-\x08", "é\u{8}done\n".as_bytes()]), ["wait done"]);
    // one that the program leaves behind
    assert_eq!(lines(&[b"10%\r20%\r"]), ["20%"]);
}

#[test]
fn escape_sequences_go_and_the_text_stays() {
    assert_eq!(lines(&[b"\x1b[1;31mred\x1b[0m \x1b[38;5;12mblue\x1b[m\n"]), ["red blue"]);
    assert_eq!(lines(&[b"\x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\n"]), ["alink"]);
    assert_eq!(lines(&[b"\x1b(B\x1b[?25l\x1b=x\x1bP1$r\x1b\\y\x1bcz\n"]), ["xyz"]);
    assert_eq!(lines(&[b"\x1b[2J\x1b[10;3Hgone\x1b[5A\n"]), ["gone"]);
    // cut by reads at every place
    assert_eq!(lines(&[b"a\x1b", b"[", b"3", b"1", b"mb", b"\x1b]0;t", b"\x1b", b"\\c\n"]), ["abc"]);
    // C1 controls as UTF-8, and marks that turn the direction of text
    assert_eq!(lines(&["a\u{9b}2Jb \u{202e}c\u{2066}d\n".as_bytes()]), ["a2Jb cd"]);
    assert_eq!(lines(&[b"bell\x07 nul\0 del\x7f\ttab\n"]), ["bell nul del\ttab"]);
}

#[test]
fn a_sequence_that_never_ends_swallows_one_line_at_most() {
    assert_eq!(lines(&[b"\x1b]0;oops\nnext\n"]), ["", "next"]);
    assert_eq!(lines(&[b"\x1b[12\nnext\n"]), ["", "next"]);
    assert_eq!(lines(&[b"\x1b[1\xc3\xa4\n"]), ["ä"]);
    assert_eq!(lines(&[b"\x1b\xc3\xa4\n"]), ["ä"]);
}

#[test]
fn bytes_that_are_no_text_are_replaced() {
    assert_eq!(lines(&[b"caf\xe9 \xff\n"]), ["caf\u{fffd} \u{fffd}"]);
    assert_eq!(lines(&[b"\xe6\xbc", b"\xa2\n"]), ["漢"]);
}

#[test]
fn a_line_without_end_is_handed_out_in_pieces() {
    let long = "ä".repeat(MAX_LINE);
    let pieces = lines(&[b"x", long.as_bytes(), b"\n"]);
    assert!(pieces.len() > 1 && pieces.iter().all(|piece| piece.len() <= MAX_LINE));
    assert_eq!(pieces.concat(), format!("x{long}"));
}

proptest! {
    #[test]
    fn no_output_can_reach_the_terminal(
        pieces in prop::collection::vec(prop::collection::vec(
            prop_oneof![Just(0x1b), Just(b'['), Just(b'\r'), Just(b'\n'), Just(0xc2), Just(0x9b), any::<u8>()], 0..20), 0..20)
    ) {
        let whole = pieces.concat();
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let cut = lines(&pieces);
        prop_assert!(cut.iter().all(|line| !line.chars().any(|c| c.is_control() && c != '\t')), "{:?}", cut);
        prop_assert_eq!(cut, lines(&[&whole]), "where reads end must not matter");
    }

    #[test]
    fn cut_text_fits(text in "[a-c漢🦀é\u{301}\u{fe0f}\t]{0,30}", room in 0usize..40) {
        for more in ["…", "..."] {
            let short = cut(&text, room, more);
            prop_assert!(width(&short) <= room);
            prop_assert!(!short.contains('\t'));
        }
    }
}

#[test]
fn tail_keeps_the_end() {
    let mut tail = Tail::default();
    assert_eq!(tail.lines(), [""; 0]);
    for number in 0..100 {
        tail.push(format!("\x1b[33mline\x1b[0m {number}\r\n").as_bytes());
    }
    tail.push(b"begun");
    let lines = tail.lines();
    assert_eq!(lines.len(), Tail::LINES);
    assert_eq!((lines[0].as_str(), lines[18].as_str(), lines[19].as_str()), ("line 81", "line 99", "begun"));
}

#[test]
fn tail_is_limited_in_bytes_too() {
    let mut tail = Tail::new(10, 8);
    tail.push(b"abc\ndef\ngh\n");
    assert_eq!(tail.lines(), ["abc", "def", "gh"]);
    tail.push(b"i\n");
    assert_eq!(tail.lines(), ["def", "gh", "i"]);
    tail.push("xääää8".as_bytes());
    assert_eq!(tail.lines(), ["i", "äää8"], "the end of a line that is too long, and whole characters");
    tail.push(b"\n");
    assert_eq!(tail.lines(), ["i", "äää8"]);
}

#[test]
fn text_is_cut_by_columns() {
    assert_eq!(cut("plain", 5, "…"), "plain");
    assert_eq!(cut("plainer", 5, "…"), "plai…");
    assert_eq!(cut("plainer", 5, "..."), "pl...");
    assert_eq!(cut("漢字の行", 8, "…"), "漢字の行");
    assert_eq!(cut("漢字の行", 7, "…"), "漢字の…");
    assert_eq!(cut("漢字の行", 6, "…"), "漢字…", "half a character is no character");
    assert_eq!(cut("e\u{301}e\u{301}e\u{301}", 2, "…"), "e\u{301}…");
    assert_eq!(cut("a\tb", 20, "…"), "a       b");
    assert_eq!(cut("abc", 0, "…"), "");
}

#[test]
fn titles_are_one_harmless_line() {
    assert_eq!(title("[a 1/2]", "RUN one\n\ttwo\x1b[2J"), "[a 1/2] RUN one  two[2J");
    assert_eq!(title("", "sha256:abc"), "sha256:abc");
    assert_eq!(one_line("a\r\nb"), "a  b");
    assert_eq!(notice("warning", "one\ntwo\n"), ["warning: one", "  two"]);
    assert_eq!(notice("note", ""), ["note:"]);
}

#[test]
fn numbers() {
    assert_eq!(seconds(ms(75_349)), "75.3s");
    for (time, text) in [
        (0, "0.0s"),
        (1_250, "1.2s"),
        (59_999, "59.9s"),
        (60_000, "1m00s"),
        (754_000, "12m34s"),
        (7_384_000, "2h03m"),
    ] {
        assert_eq!(clock(ms(time)), text);
    }
    for (count, text) in [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (12_345_678, "12.3 MB"),
        (99_940_000, "99.9 MB"),
        (99_960_000, "100 MB"),
        (999_499_999, "999 MB"),
        (999_500_000, "1.0 GB"),
        (u64::MAX, "18.4 EB"),
    ] {
        assert_eq!(bytes(count), text);
    }
}
