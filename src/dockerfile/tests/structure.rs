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

#[test]
fn comments_above_an_instruction() {
    let text = "# syntax=x\n# V  the version\n\nARG V=1 W\n# nobody's\n#\n  # Base what all stages need \n\nFROM a AS Base\n# in between \\\nRUN x \\\n# inside\n y\nRUN z\n";
    let file = file(text);
    let arg = &file.global_args[0];
    assert_eq!(texts(&arg.comments), ["V  the version"]);
    assert_eq!(&text[arg.comments[0].span.range()], "V  the version");
    assert_eq!(arg.description("V"), Some("the version"));
    assert_eq!(arg.description("W"), None);
    let stage = &file.stages[0];
    assert_eq!(texts(&stage.from.comments), ["Base what all stages need"]);
    // The stage's name is in small letters by then.
    assert_eq!(stage.from.description(), None);
    assert_eq!(texts(&stage.instructions[0].comments), ["in between \\"]);
    assert_eq!(texts(&stage.instructions[1].comments), Vec::<&str>::new());
    let small = parse("# base all of it\nFROM a AS Base").unwrap();
    assert_eq!(small.stages[0].from.description(), Some("all of it"));
    let nameless = parse("# base all of it\nFROM a").unwrap();
    assert_eq!(nameless.stages[0].from.description(), None);
}

#[test]
fn comments_do_not_reach_past_a_heredoc() {
    let file = file("FROM a\nRUN <<E\n# of the script\nE\n# of the user\nUSER u");
    assert_eq!(texts(&file.stages[0].instructions[1].comments), ["of the user"]);
}

#[test]
fn blank_lines_in_continuations_are_noted() {
    let text = "FROM a \\\n\n\n# fine\n  as b\nRUN x \\\n# fine\n \t\r\n  y\n\nRUN z \\\n\n";
    let file = file(text);
    let places: Vec<(usize, &str)> = file
        .empty_continuations
        .iter()
        .map(|span| (line_col(text, span.start).0, &text[span.range()]))
        .collect();
    assert_eq!(places, [(2, ""), (3, ""), (8, " \t"), (12, "")]);
    assert!(parse("FROM a\n\nRUN x\n\n").unwrap().empty_continuations.is_empty());
}

#[test]
fn places_in_a_trigger() {
    let text = "copy --chown=u:g \\\n  a <<E /d/\nx\nE";
    let instruction = parse_trigger(text).unwrap();
    assert_eq!(&text[instruction.keyword.range()], "copy");
    assert_eq!(&text[instruction.span.range()], text);
    let Kind::Copy(copy) = &instruction.kind else { panic!() };
    assert_eq!(&text[copy.flags[0].value.as_ref().unwrap().span.range()], "u:g");
    assert_eq!(&text[copy.dest.span.range()], "/d/");
    let [Source::Path(path), Source::Heredoc(heredoc)] = &copy.sources[..] else { panic!() };
    assert_eq!(&text[path.span.range()], "a");
    assert_eq!(&text[heredoc.body.span.range()], "x\n");
}

#[test]
fn white_space_around_and_between() {
    let file = file(" \tFROM\t \ta \u{b}AS\tb  \n\t RUN \t x  y \t\n\u{c}USER\u{c}u\n  # c\n\tCMD\n");
    assert_eq!(file.stages[0].from.name.as_ref().unwrap().node, "b");
    let texts: Vec<&str> = file.stages[0].instructions.iter().map(|i| i.text.as_str()).collect();
    assert_eq!(texts, ["RUN \t x  y", "USER\u{c}u", "CMD"]);
    let Kind::Run(Run { command: Command::Shell(command), .. }) = &file.stages[0].instructions[0].kind else {
        panic!()
    };
    assert_eq!(command.node, "x  y");
}

#[test]
fn windows_paths_behind_a_backtick() {
    let file = file("# escape=`\nFROM a\nCOPY x C:\\dir\\\nRUN dir C:\\ `\n  && echo `` \nENV P=C:\\x\\\n");
    let texts: Vec<&str> = file.stages[0].instructions.iter().map(|i| i.text.as_str()).collect();
    assert_eq!(texts, ["COPY x C:\\dir\\", "RUN dir C:\\   && echo ``", "ENV P=C:\\x\\"]);
}

#[test]
fn a_sign_of_comment_counts_only_at_a_lines_start() {
    let run = one("RUN a \\\n  b # c \\\n  d \\\n  #e\n  f");
    assert_eq!(run.text, "RUN a   b # c   d   f");
    // A line that is not continued ends, whatever stands below it.
    let file = file("FROM a\nRUN x # y\n# z\nUSER u");
    assert_eq!(file.stages[0].instructions.len(), 2);
}

#[test]
fn a_very_long_line() {
    let words = "word ".repeat(200_000);
    let run = one(&format!("RUN {words}"));
    assert_eq!(run.text.len(), words.len() + 3);
    let lines = "  && x \\\n".repeat(100_000);
    assert_eq!(one(&format!("RUN a \\\n{lines} b")).text.matches('x').count(), 100_000);
}
