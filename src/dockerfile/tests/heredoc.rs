//! Heredocs.

use super::*;

fn run(text: &str) -> Run {
    match one(text).kind {
        Kind::Run(run) => run,
        Kind::Onbuild(inner) => match inner.kind {
            Kind::Run(run) => run,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn bodies(run: &Run) -> Vec<(&str, &str)> {
    run.heredocs.iter().map(|h| (h.name.node.as_str(), h.body.node.as_str())).collect()
}

#[test]
fn a_script() {
    let text = "FROM a\nRUN <<EOF\n  set -e\n\n# kept \\\n\tx\nEOF\nUSER u\n";
    let file = file(text);
    let [instruction, user] = &file.stages[0].instructions[..] else { panic!() };
    let Kind::Run(run) = &instruction.kind else { panic!() };
    assert_eq!(bodies(run), [("EOF", "  set -e\n\n# kept \\\n\tx\n")]);
    assert_eq!(run.command, Command::Shell(Word { node: "<<EOF".into(), span: Span::new(11, 16) }));
    assert_eq!(instruction.text, "RUN <<EOF");
    assert!(text[instruction.span.range()].ends_with("x\nEOF"));
    assert_eq!(&text[run.heredocs[0].body.span.range()], run.heredocs[0].body.node);
    assert_eq!(user.line, 8);
}

#[test]
fn several_with_descriptors_behind_a_continuation() {
    let run = run("RUN cat <<A 3<<-B \\\n  | tr <<C\na\nA\n\tb\n\tB\nC");
    assert_eq!(bodies(&run), [("A", "a\n"), ("B", "b\n"), ("C", "")]);
    let fds: Vec<Option<u32>> = run.heredocs.iter().map(|h| h.fd).collect();
    assert_eq!(fds, [None, Some(3), None]);
    let chomps: Vec<bool> = run.heredocs.iter().map(|h| h.chomp).collect();
    assert_eq!(chomps, [false, true, false]);
}

#[test]
fn quoted_delimiters_do_not_expand() {
    for (word, name, expand) in [
        ("<<EOF", "EOF", true),
        ("<<'EOF'", "EOF", false),
        ("<<\"EOF\"", "EOF", false),
        ("<<E\"O\"F", "EOF", false),
        ("<<$EOF", "$EOF", true),
        ("<<\\EOF", "EOF", true),
        ("<<'a b'", "a b", false),
        ("<< EOF", "EOF", true),
        ("<<  'EOF'", "EOF", false),
    ] {
        let run = run(&format!("RUN {word}\nx\n{name}\n"));
        assert_eq!(bodies(&run), [(name, "x\n")], "{word}");
        assert_eq!(run.heredocs[0].expand, expand, "{word}");
    }
}

#[test]
fn what_is_no_heredoc() {
    for text in [
        "cat<<EOF",
        "cat <<<EOF",
        "echo '<<EOF'",
        "echo \"<<EOF\"",
        "echo $((1<<2))",
        "cat <<",
        "cat <<- EOF",
        "echo it's <<EOF",
        "echo ${a[0]} <<EOF",
        "cat \\<<EOF",
    ] {
        let run = run(&format!("RUN {text}"));
        assert!(run.heredocs.is_empty(), "{text}");
    }
    assert!(run("RUN [\"<<EOF\"]").heredocs.is_empty());
}

#[test]
fn in_onbuild() {
    assert_eq!(bodies(&run("ONBUILD RUN <<E\nx\nE")), [("E", "x\n")]);
}

#[test]
fn windows_line_ends_stay_in_the_body() {
    assert_eq!(bodies(&run("RUN <<E\r\nx\r\nE\r\n")), [("E", "x\r\n")]);
}

#[test]
fn chomp_takes_tabs_only() {
    assert_eq!(bodies(&run("RUN <<-E\n\t\ta\n \tb\n\t\n\tE")), [("E", "a\n \tb\n\n")]);
    // Without it a terminator must not be indented.
    assert_eq!(bodies(&run("RUN <<E\n\tE\nE")), [("E", "\tE\n")]);
}

#[test]
fn files_of_copy() {
    let Kind::Copy(copy) = one("COPY --chmod=600 <<a.txt x <<-'b' /d/\n$A\na.txt\n\t$B\nb").kind else {
        panic!()
    };
    let [Source::Heredoc(a), Source::Path(x), Source::Heredoc(b)] = &copy.sources[..] else { panic!() };
    assert_eq!((a.name.node.as_str(), a.body.node.as_str(), a.expand), ("a.txt", "$A\n", true));
    assert_eq!(x.node, "x");
    assert_eq!((b.name.node.as_str(), b.body.node.as_str(), b.expand), ("b", "$B\n", false));
    assert_eq!(copy.dest.node, "/d/");
}

#[test]
fn blanks_before_the_delimiter_of_copy() {
    let Kind::Add(add) = one("ADD << EOF /x\ny\nEOF").kind else { panic!() };
    let [Source::Heredoc(heredoc)] = &add.sources[..] else { panic!() };
    assert_eq!(heredoc.name.node, "EOF");
    assert_eq!(heredoc.body.node, "y\n");
}

#[test]
fn of_two_with_one_name_the_last_counts() {
    let Kind::Copy(copy) = one("COPY <<E <<E /d/\na\nE\nb\nE").kind else { panic!() };
    for source in &copy.sources {
        let Source::Heredoc(heredoc) = source else { panic!() };
        assert_eq!(heredoc.body.node, "b\n");
    }
}

#[test]
fn unterminated() {
    let (error, place) = refused("FROM a\nRUN x <<EOF\ny\n  EOF\n");
    assert_eq!(error.message, "the heredoc `EOF` does not end");
    assert_eq!(place, "<<EOF");
    assert_eq!(error.help.unwrap(), "line 4 has white space around `EOF`: remove it");
    assert!(parse("FROM a\nCOPY <<A <<B /x/\nA\n").is_err());
}

#[test]
fn misplaced_in_copy() {
    let (error, place) = refused("FROM a\nCOPY x <<EOF\ny\nEOF");
    assert_eq!(error.message, "COPY cannot write to a heredoc");
    assert_eq!(place, "<<EOF");
    let (error, place) = refused("FROM a\nCOPY <<'a b' /x\ny\na b");
    assert_eq!(error.message, "this heredoc is not a source of the COPY");
    assert_eq!(place, "<<'a b'");
}

#[test]
fn a_heredoc_that_is_the_command() {
    for text in ["<<EOF", "<<-EOF", "  <<'EOF'  ", "3<<EOF", "--network=none <<EOF", "<< EOF"] {
        let run = run(&format!("RUN {text}\nx\nEOF"));
        assert_eq!(run.script().map(|h| h.body.node.as_str()), Some("x\n"), "{text}");
    }
    for text in ["cat <<EOF", "<<EOF cat", "<<EOF > /x", "<<'EOF' | sh"] {
        let run = run(&format!("RUN {text}\nx\nEOF"));
        assert_eq!((run.script(), run.heredocs.len()), (None, 1), "{text}");
    }
    assert_eq!(run("RUN <<A <<B\nA\nB").script(), None);
    assert_eq!(run("RUN x").script(), None);
    assert_eq!(run("RUN [\"<<EOF\"]").script(), None);
}

#[test]
fn several_files_and_several_kinds() {
    let Kind::Add(add) = one("ADD <<a 4<<-\"b\" <<'c' /d/\n1\na\n\t2\n\tb\n$3\nc").kind else { panic!() };
    let files: Vec<(&str, &str, Option<u32>, bool, bool)> = add
        .sources
        .iter()
        .map(|source| match source {
            Source::Heredoc(h) => (h.name.node.as_str(), h.body.node.as_str(), h.fd, h.expand, h.chomp),
            Source::Path(word) => panic!("{word:?}"),
        })
        .collect();
    assert_eq!(
        files,
        [
            ("a", "1\n", None, true, false),
            ("b", "2\n", Some(4), false, true),
            ("c", "$3\n", None, false, false)
        ]
    );
}

#[test]
fn behind_onbuild() {
    let Kind::Onbuild(inner) = one("onbuild COPY <<E <<'F' /d/\r\na\r\nE\r\nb\r\nF\r\n").kind else {
        panic!()
    };
    assert_eq!(inner.text, "COPY <<E <<'F' /d/\na\r\nE\nb\r\nF");
    let again = parse_trigger(&inner.text).unwrap();
    let (Kind::Copy(again), Kind::Copy(copy)) = (again.kind, &inner.kind) else { panic!() };
    for (again, source) in again.sources.iter().zip(&copy.sources) {
        let (Source::Heredoc(again), Source::Heredoc(source)) = (again, source) else { panic!() };
        assert_eq!((&again.body.node, again.expand), (&source.body.node, source.expand));
    }
}
