//! Lines, directives, stages, spans.

use super::*;

#[test]
fn lines_and_columns_count_from_one() {
    let text = "ab\nä c\n";
    assert_eq!(line_col(text, 0), (1, 1));
    assert_eq!(line_col(text, 2), (1, 3));
    assert_eq!(line_col(text, 3), (2, 1));
    // Inside a character and behind it.
    assert_eq!(line_col(text, 4), (2, 1));
    assert_eq!(line_col(text, 5), (2, 2));
    assert_eq!(line_col(text, 99), (3, 1));
    assert_eq!(line_col("\u{feff}FROM", 3), (1, 1));
}

#[test]
fn stages_and_global_arguments() {
    let file = file(
        "ARG V=1\nARG W\nFROM a:$V AS one\nRUN x\nFROM --platform=$P b\nCOPY --from=one /x /y\nUSER u\n",
    );
    assert_eq!(file.global_args.len(), 2);
    assert_eq!(file.stages.len(), 2);
    let [one, two] = &file.stages[..] else { unreachable!() };
    assert_eq!(one.from.image.node, "a:$V");
    assert_eq!(one.from.name.as_ref().unwrap().node, "one");
    assert_eq!(one.from.line, 3);
    assert_eq!(two.from.platform.as_ref().unwrap().node, "$P");
    assert_eq!(two.from.name, None);
    assert_eq!(one.instructions.len(), 1);
    assert_eq!(two.instructions.len(), 2);
    assert_eq!(two.instructions[1].line, 7);
}

#[test]
fn a_stage_name_keeps_its_case() {
    let file = file("from a As Build-1.x_y");
    assert_eq!(file.stages[0].from.name.as_ref().unwrap().node, "Build-1.x_y");
    assert_eq!(file.stages[0].from.text, "from a As Build-1.x_y");
}

#[test]
fn comments_and_blank_lines_vanish_inside_a_continuation() {
    let run = one("RUN a \\\n  # comment\n\n \t\n  && b \\ \t\n# more \\\n  && c\nRUN d"
        .strip_suffix("\nRUN d")
        .unwrap());
    let Kind::Run(Run { command: Command::Shell(word), .. }) = &run.kind else { panic!() };
    assert_eq!(word.node, "a   && b   && c");
    assert_eq!(run.text, "RUN a   && b   && c");
    assert_eq!(run.line, 2);
}

#[test]
fn a_comment_sign_inside_a_line_is_text() {
    let run = one("RUN echo # not a comment");
    assert_eq!(run.text, "RUN echo # not a comment");
}

#[test]
fn a_doubled_escape_does_not_continue() {
    let file = file("FROM a\nRUN x \\\\\nRUN y\n");
    assert_eq!(file.stages[0].instructions.len(), 2);
    assert_eq!(file.stages[0].instructions[0].text, "RUN x \\\\");
}

#[test]
fn an_escape_alone_on_its_line_continues() {
    let file = file("FROM a\nRUN x \\\n\\\n y\n\\\nUSER z\nRUN w \\");
    let texts: Vec<&str> = file.stages[0].instructions.iter().map(|i| i.text.as_str()).collect();
    assert_eq!(texts, ["RUN x  y", "USER z", "RUN w"]);
}

#[test]
fn a_keyword_may_be_continued() {
    let file = file("FR\\\nOM a");
    assert_eq!(file.stages[0].from.image.node, "a");
}

#[test]
fn windows_line_ends_and_a_byte_order_mark() {
    let text = "\u{feff}# escape=`\r\nFROM a\r\nRUN x `\r\n  y\r\n";
    let file = file(text);
    assert_eq!(file.directives.escape, '`');
    let run = &file.stages[0].instructions[0];
    assert_eq!(run.text, "RUN x   y");
    assert_eq!(&text[run.keyword.range()], "RUN");
    assert_eq!(&text[run.span.range()], "RUN x `\r\n  y");
}

#[test]
fn directives() {
    let file = file("#syntax=docker/dockerfile:1\n# Check = skip=all;error=true \n#ESCAPE=`\nFROM a");
    assert_eq!(file.directives.syntax.unwrap().node, "docker/dockerfile:1");
    assert_eq!(file.directives.check.unwrap().node, "skip=all;error=true");
    assert_eq!(file.directives.escape, '`');
}

#[test]
fn a_directive_counts_only_at_the_top() {
    for above in ["\n", "# a comment\n", "# unknown=1\n", "ARG X\n", "#!/bin/cooper\n"] {
        let file = file(&format!("{above}# escape=`\n# escape=wrong\nFROM a"));
        assert_eq!(file.directives.escape, '\\', "{above:?}");
    }
}

#[test]
fn directive_values_have_places() {
    let text = "\u{feff}  #  syntax =  x y \nFROM a";
    let syntax = file(text).directives.syntax.unwrap();
    assert_eq!(&text[syntax.span.range()], "x y");
}

#[test]
fn spans_lead_back_over_continuations() {
    let text = "FROM a\nENV A=1 \\\n    # comment\n    BÄ=\"x\\\ny\" C=3\n";
    let Kind::Env(pairs) = &file(text).stages[0].instructions[0].kind.clone() else { panic!() };
    let [_, second, third] = &pairs[..] else { panic!() };
    assert_eq!(second.1.node, "\"xy\"");
    assert_eq!(&text[second.0.span.range()], "BÄ");
    assert_eq!(&text[second.1.span.range()], "\"x\\\ny\"");
    assert_eq!(&text[third.1.span.range()], "3");
}

#[test]
fn onbuild_keeps_the_text_of_the_trigger() {
    let text = "FROM a\nONBUILD  run  <<-E cat \\\n > /x  \n\ta\n\tE\nUSER u";
    let instructions = file(text).stages[0].instructions.clone();
    let Kind::Onbuild(inner) = &instructions[0].kind else { panic!() };
    // As BuildKit stores it: blanks at the end and tabs still there.
    assert_eq!(inner.text, "run  <<-E cat  > /x  \n\ta\nE");
    assert_eq!(instructions[0].text, "ONBUILD  run  <<-E cat  > /x");
    let Kind::Run(run) = &inner.kind else { panic!() };
    assert_eq!(run.heredocs[0].body.node, "a\n");
    assert_eq!(&text[inner.keyword.range()], "run");
    assert_eq!(&text[instructions[0].span.range()], &text[7..text.len() - 7]);
    assert!(matches!(instructions[1].kind, Kind::User(_)));
    // And what is stored can be read again.
    let again = parse_trigger(&inner.text).unwrap();
    let Kind::Run(again) = again.kind else { panic!() };
    assert_eq!(again.heredocs[0].body.node, "a\n");
}

#[test]
fn triggers() {
    assert!(matches!(parse_trigger("COPY . /x").unwrap().kind, Kind::Copy(_)));
    for text in ["", "FROM a", "from a", "ONBUILD RUN x", "MAINTAINER m", "RUN a\nRUN b", "NONSENSE"] {
        assert!(parse_trigger(text).is_err(), "{text}");
    }
}
