//! Each instruction's arguments.

use super::*;

fn shell_text(command: &Command) -> &str {
    match command {
        Command::Shell(word) => &word.node,
        Command::Exec(words) => panic!("exec form: {words:?}"),
    }
}

fn exec_words(command: &Command) -> Vec<&str> {
    match command {
        Command::Shell(word) => panic!("shell form: {word:?}"),
        Command::Exec(words) => words.node.iter().map(String::as_str).collect(),
    }
}

fn run(text: &str) -> Run {
    let Kind::Run(run) = one(text).kind else { panic!("{text}") };
    run
}

fn copy(text: &str) -> Copy {
    match one(text).kind {
        Kind::Copy(copy) | Kind::Add(copy) => copy,
        other => panic!("{other:?}"),
    }
}

fn paths(copy: &Copy) -> Vec<&str> {
    copy.sources
        .iter()
        .map(|source| match source {
            Source::Path(word) => word.node.as_str(),
            Source::Heredoc(heredoc) => panic!("{heredoc:?}"),
        })
        .collect()
}

#[test]
fn shell_and_exec_form() {
    assert_eq!(shell_text(&run("run  echo  'a  b'  ").command), "echo  'a  b'");
    assert_eq!(exec_words(&run(r#"RUN ["a", "b\tc", "\u00e4"]"#).command), ["a", "b\tc", "ä"]);
    assert_eq!(exec_words(&run("RUN []").command), [""; 0]);
    assert_eq!(shell_text(&run("RUN").command), "");
}

#[test]
fn exec_form_that_is_no_json_is_shell_form() {
    for text in ["['a']", "[\"a\"", "[\"a\",]", "[\"a\"] # comment", "[ -f x ] && y", "[\"a\" \"b\"]"] {
        assert_eq!(shell_text(&run(&format!("RUN {text}")).command), text);
    }
}

#[test]
fn exec_form_continues_over_lines() {
    let text = "RUN [ \\\n \"a\", \\\n# comment\n \"b\" ]";
    assert_eq!(exec_words(&run(text).command), ["a", "b"]);
}

#[test]
fn cmd_and_entrypoint() {
    let Kind::Cmd(cmd) = one(r#"CMD ["x"]"#).kind else { panic!() };
    assert_eq!(exec_words(&cmd), ["x"]);
    let Kind::Entrypoint(entrypoint) = one("ENTRYPOINT x $Y").kind else { panic!() };
    assert_eq!(shell_text(&entrypoint), "x $Y");
    let Kind::Entrypoint(reset) = one("ENTRYPOINT []").kind else { panic!() };
    assert_eq!(exec_words(&reset), [""; 0]);
    // Heredocs are for RUN, COPY and ADD.
    let Kind::Cmd(cmd) = one("CMD cat <<EOF").kind else { panic!() };
    assert_eq!(shell_text(&cmd), "cat <<EOF");
}

#[test]
fn run_flags_come_first_and_keep_their_values_raw() {
    let text = "FROM a\nRUN --mount=type=cache,target=/c --mount='type=tmpfs,target=/a b' \\\n --network=none x --mount=y\n";
    let file = file(text);
    let Kind::Run(run) = &file.stages[0].instructions[0].kind else { panic!() };
    let flags: Vec<(&str, &str)> =
        run.flags.iter().map(|f| (f.name.node.as_str(), f.value.as_ref().unwrap().node.as_str())).collect();
    assert_eq!(
        flags,
        [("mount", "type=cache,target=/c"), ("mount", "type=tmpfs,target=/a b"), ("network", "none")]
    );
    assert_eq!(&text[run.flags[1].value.as_ref().unwrap().span.range()], "'type=tmpfs,target=/a b'");
    assert_eq!(&text[run.flags[0].name.span.range()], "--mount");
    assert_eq!(shell_text(&run.command), "x --mount=y");
}

#[test]
fn two_dashes_end_the_flags() {
    assert_eq!(shell_text(&run("RUN -- --x").command), "--x");
    assert_eq!(shell_text(&run("RUN --network=host -- --x").command), "--x");
    assert_eq!(shell_text(&run("RUN -x").command), "-x");
}

#[test]
fn copy_plain_and_json() {
    let plain = copy("COPY --chown=1:2 --link a  b\tc/");
    assert_eq!(paths(&plain), ["a", "b"]);
    assert_eq!(plain.dest.node, "c/");
    assert_eq!(plain.flags.len(), 2);
    assert_eq!(plain.flags[1].value, None);
    let json = copy(r#"ADD ["a b", "c d"]"#);
    assert_eq!(paths(&json), ["a b"]);
    assert_eq!(json.dest.node, "c d");
    // Quotes do not hold a plain source together.
    assert_eq!(paths(&copy("COPY \"a b\" c")), ["\"a", "b\""]);
}

#[test]
fn json_words_have_places() {
    let text = "FROM a\nCOPY [\"x\\\"y\", \\\n  \"z\"]\n";
    let Kind::Copy(copy) = &file(text).stages[0].instructions[0].kind.clone() else { panic!() };
    let Source::Path(source) = &copy.sources[0] else { panic!() };
    assert_eq!(source.node, "x\"y");
    assert_eq!(&text[source.span.range()], r#""x\"y""#);
    assert_eq!(&text[copy.dest.span.range()], r#""z""#);
}

#[test]
fn env_and_label_new_form() {
    let Kind::Env(env) = one(r#"ENV A=1 B="x y" C=a\ b D='it"s' E= F=a=b "G H"=i"#).kind else { panic!() };
    assert_eq!(
        pairs(&env),
        [
            ("A", "1"),
            ("B", "\"x y\""),
            ("C", "a\\ b"),
            ("D", "'it\"s'"),
            ("E", ""),
            ("F", "a=b"),
            ("\"G H\"", "i")
        ]
    );
    let Kind::Label(label) = one("LABEL a.b=c \\\n  d=e").kind else { panic!() };
    assert_eq!(pairs(&label), [("a.b", "c"), ("d", "e")]);
}

#[test]
fn env_old_form() {
    let Kind::Env(env) = one("ENV KEY  the rest = \"of it\"  ").kind else { panic!() };
    assert_eq!(pairs(&env), [("KEY", "the rest = \"of it\"")]);
}

#[test]
fn the_escape_directive_rules_words_too() {
    let file = file("# escape=`\nFROM a\nENV A=b` c D=e\\ F=`\"");
    let Kind::Env(env) = &file.stages[0].instructions[0].kind else { panic!() };
    assert_eq!(pairs(env), [("A", "b` c"), ("D", "e\\"), ("F", "`\"")]);
}

#[test]
fn an_escape_at_the_end_of_words_is_dropped() {
    // Three of them: no continuation, since the last is itself escaped; then a pair and a loose end.
    let Kind::Env(env) = one(r"ENV A=b C=d\\\").kind else { panic!() };
    assert_eq!(pairs(&env), [("A", "b"), ("C", r"d\\")]);
    let Kind::Env(env) = one(r#"ENV A="b\\\"#).kind else { panic!() };
    assert_eq!(pairs(&env), [("A", r#""b\\"#)]);
    let Kind::Env(env) = one(r"ENV A=b C=d \").kind else { panic!() };
    assert_eq!(pairs(&env), [("A", "b"), ("C", "d")]);
}

#[test]
fn arg() {
    let Kind::Arg(args) = one("ARG A B=1 C= D=\"x y\"").kind else { panic!() };
    let seen: Vec<(&str, Option<&str>)> =
        args.iter().map(|a| (a.name.node.as_str(), a.default.as_ref().map(|d| d.node.as_str()))).collect();
    assert_eq!(seen, [("A", None), ("B", Some("1")), ("C", Some("")), ("D", Some("\"x y\""))]);
}

#[test]
fn single_argument_instructions_take_the_whole_line() {
    let Kind::Workdir(dir) = one("WORKDIR /a b/ ").kind else { panic!() };
    assert_eq!(dir.node, "/a b/");
    let Kind::User(user) = one("USER a:b").kind else { panic!() };
    assert_eq!(user.node, "a:b");
    let Kind::Stopsignal(signal) = one("STOPSIGNAL 9").kind else { panic!() };
    assert_eq!(signal.node, "9");
    let Kind::Maintainer(name) = one("MAINTAINER A B <c@d>").kind else { panic!() };
    assert_eq!(name.node, "A B <c@d>");
}

#[test]
fn expose_and_volume() {
    let Kind::Expose(ports) = one("EXPOSE 80  53/udp $P").kind else { panic!() };
    assert_eq!(texts(&ports), ["80", "53/udp", "$P"]);
    let Kind::Volume(plain) = one("VOLUME /a /b").kind else { panic!() };
    assert_eq!(texts(&plain), ["/a", "/b"]);
    let Kind::Volume(json) = one("VOLUME [\"/a b\", \" /c \"]").kind else { panic!() };
    assert_eq!(texts(&json), ["/a b", "/c"]);
}

#[test]
fn shell_and_healthcheck() {
    let Kind::Shell(shell) = one("SHELL [\"/bin/bash\", \"-c\"]").kind else { panic!() };
    assert_eq!(shell, ["/bin/bash", "-c"]);
    assert!(matches!(one("HEALTHCHECK none").kind, Kind::Healthcheck(Healthcheck::None)));
    let check = one("HEALTHCHECK --interval=5s --retries=3 cmd curl x || exit 1").kind;
    let Kind::Healthcheck(Healthcheck::Cmd { flags, command }) = check else { panic!() };
    assert_eq!(flags.len(), 2);
    assert_eq!(shell_text(&command), "curl x || exit 1");
    let check = one("HEALTHCHECK CMD [\"a\"]").kind;
    let Kind::Healthcheck(Healthcheck::Cmd { command, .. }) = check else { panic!() };
    assert_eq!(exec_words(&command), ["a"]);
}

#[test]
fn healthchecks_with_and_without_flags() {
    let Kind::Healthcheck(Healthcheck::Cmd { flags, command }) =
        one("HEALTHCHECK --interval=5s --retries=3 cmd curl -f x || exit 1").kind
    else {
        panic!()
    };
    assert_eq!(flags.len(), 2);
    assert!(matches!(command, Command::Shell(text) if text.node == "curl -f x || exit 1"));
    assert!(matches!(one("healthcheck none").kind, Kind::Healthcheck(Healthcheck::None)));
    let (error, place) = refused("FROM a\nHEALTHCHECK --interval=5s NONE");
    assert_eq!(error.message, "HEALTHCHECK NONE has no flag `--interval`");
    assert_eq!(place, "--interval");
    for text in [
        "HEALTHCHECK",
        "HEALTHCHECK CMD",
        "HEALTHCHECK CMD []",
        "HEALTHCHECK NONE x",
        "HEALTHCHECK --retries=1",
    ] {
        assert!(parse(&format!("FROM a\n{text}")).is_err(), "{text}");
    }
}

#[test]
fn commands_with_nothing_in_them() {
    let empty_shell = |command: &Command| matches!(command, Command::Shell(text) if text.node.is_empty());
    let empty_exec = |command: &Command| matches!(command, Command::Exec(words) if words.node.is_empty());
    for text in ["RUN", "RUN --network=none", "RUN --network=none --"] {
        let Kind::Run(run) = one(text).kind else { panic!() };
        assert!(empty_shell(&run.command), "{text}");
    }
    let Kind::Run(run) = one("RUN [ ]").kind else { panic!() };
    assert!(empty_exec(&run.command));
    let (Kind::Cmd(cmd), Kind::Entrypoint(entrypoint)) = (one("CMD []").kind, one("ENTRYPOINT").kind) else {
        panic!()
    };
    assert!(empty_exec(&cmd) && empty_shell(&entrypoint));
}

#[test]
fn what_is_almost_json_is_text() {
    for text in [
        "[\"a\", \"b\"] # why",
        "['a', 'b']",
        "[\"a\",]",
        "[\"a\" \"b\"]",
        "[a]",
        "[\"a\"",
        "[\"C:\\dir\"]",
        "[\"a\"] && b",
    ] {
        let Kind::Cmd(Command::Shell(word)) = one(&format!("CMD {text}")).kind else { panic!("{text}") };
        assert_eq!(word.node, text);
    }
    for text in ["[1]", "[\"a\", null]", "[[\"a\"]]", "[true]"] {
        assert_eq!(refused(&format!("FROM a\nCMD {text}")).0.message, "the JSON form takes strings only");
    }
    let Kind::Cmd(Command::Exec(words)) = one("CMD  [ \"a\\u00e4\\n\" , \"\" ] ").kind else { panic!() };
    assert_eq!(words.node, ["aä\n", ""]);
}

#[test]
fn the_text_of_names_is_kept_for_expansion() {
    let Kind::Env(env) = one("ENV \"A\"=1 $B=2 C\\ D=3").kind else { panic!() };
    assert_eq!(pairs(&env), [("\"A\"", "1"), ("$B", "2"), ("C\\ D", "3")]);
    let Kind::Arg(args) = one("ARG 'A'=1 $B \"C=x y\"").kind else { panic!() };
    let names: Vec<(&str, Option<&str>)> = args
        .iter()
        .map(|arg| (arg.name.node.as_str(), arg.default.as_ref().map(|d| d.node.as_str())))
        .collect();
    assert_eq!(names, [("'A'", Some("1")), ("$B", None), ("\"C", Some("x y\""))]);
}
