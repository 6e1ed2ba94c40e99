//! Properties that hold for every input.

use proptest::prelude::*;

use super::*;

/// Texts that look enough like a Containerfile to get deep into the parser.
fn texts_of_pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "FROM",
        "from ",
        "RUN ",
        "COPY ",
        "ADD",
        "ENV ",
        "ARG ",
        "LABEL ",
        "ONBUILD ",
        "HEALTHCHECK ",
        "CMD ",
        "SHELL ",
        "VOLUME ",
        "EXPOSE ",
        "USER",
        "WORKDIR ",
        "NONE",
        " ",
        "  ",
        "\t",
        "\n",
        "\n",
        "\r\n",
        "\\\n",
        "`\n",
        "\\",
        "`",
        "# escape=`\n",
        "# syntax=x\n",
        "#",
        "a",
        "ä",
        "€\u{1f600}",
        "\u{a0}",
        "\u{feff}",
        "scratch\n",
        "<<",
        "<<EOF",
        "<<-",
        "EOF\n",
        "\nEOF\n",
        "'",
        "\"",
        "[",
        "]",
        "[\"a\",\"b\"]",
        ",",
        "$A",
        "${A",
        ":-",
        "}",
        "=",
        "A=b",
        "--",
        "--from=",
        "--mount=",
        " AS ",
        "b",
        "/",
        "*",
        "!",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// Every span in a file, with whether it is a keyword's.
fn check_spans(text: &str, instruction: &Instruction) {
    let keyword = &text[instruction.keyword.range()];
    // A keyword may be continued over lines; otherwise its place is its text.
    if !keyword.contains('\n') {
        let written = instruction.text.split_whitespace().next().unwrap();
        assert_eq!(keyword, written, "{text:?}");
    }
    let whole = &text[instruction.span.range()];
    assert!(whole.starts_with(keyword), "{text:?}: {whole:?}");
    let within = |span: Span| {
        let _ = &text[span.range()];
        assert!(
            instruction.span.start <= span.start && span.end <= instruction.span.end,
            "{text:?}: {span:?}"
        );
    };
    let command = |command: &Command| match command {
        Command::Shell(word) => {
            if !word.node.is_empty() {
                within(word.span);
            }
        }
        Command::Exec(words) => within(words.span),
    };
    match &instruction.kind {
        Kind::Run(run) => {
            command(&run.command);
            for heredoc in &run.heredocs {
                within(heredoc.name.span);
                within(heredoc.body.span);
            }
        }
        Kind::Copy(copy) | Kind::Add(copy) => {
            within(copy.dest.span);
            for source in &copy.sources {
                match source {
                    Source::Path(word) => within(word.span),
                    Source::Heredoc(heredoc) => within(heredoc.body.span),
                }
            }
        }
        Kind::Env(pairs) | Kind::Label(pairs) => {
            for (key, value) in pairs {
                within(key.span);
                within(value.span);
            }
        }
        Kind::Arg(args) => args.iter().for_each(|arg| within(arg.name.span)),
        Kind::Expose(words) | Kind::Volume(words) => words.iter().for_each(|word| within(word.span)),
        Kind::Workdir(word) | Kind::User(word) | Kind::Stopsignal(word) | Kind::Maintainer(word) => {
            within(word.span);
        }
        Kind::Cmd(c) | Kind::Entrypoint(c) => command(c),
        Kind::Onbuild(inner) => {
            within(inner.keyword);
            check_spans(text, inner);
        }
        Kind::Shell(_) | Kind::Healthcheck(_) => {}
    }
}

fn check_parse(text: &str) {
    match parse(text) {
        Ok(file) => {
            for instruction in file.global_args.iter().chain(file.stages.iter().flat_map(|s| &s.instructions))
            {
                check_spans(text, instruction);
            }
            for stage in &file.stages {
                assert!(text[stage.from.image.span.range()].len() >= stage.from.image.node.len());
            }
        }
        Err(error) => {
            let _ = &text[error.span.range()];
            assert!(line_col(text, error.span.start).0 >= 1);
            assert!(!error.message.is_empty());
        }
    }
}

/// What is printed is read again, as the same, and printed as the same text.
fn check_print(text: &str) {
    let Ok(file) = parse(text) else { return };
    let printed = print(&file);
    let again = parse(&printed).unwrap_or_else(|error| panic!("{error:?}\n{text:?}\n{printed:?}"));
    assert!(same(&file, &again), "{text:?}\n{printed:?}\n{file:#?}\n{again:#?}");
    assert_eq!(print(&again), printed, "{text:?}");
}

/// `PROPTEST_CASES` makes a run longer; nothing is written beside the sources.
fn config() -> ProptestConfig {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let set = std::env::var_os("PROPTEST_CASES").is_some();
    if set { config } else { ProptestConfig { cases: 2000, ..config } }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        check_parse(&text);
    }

    #[test]
    fn any_pieces_are_read_or_refused(text in texts_of_pieces()) {
        check_parse(&text);
        check_parse(&format!("FROM a\n{text}"));
        let _ = parse_trigger(&text);
    }

    #[test]
    fn what_is_printed_reads_the_same(text in texts_of_pieces(), tail in texts_of_pieces()) {
        check_print(&text);
        check_print(&format!("FROM a\n{text}"));
        for keyword in ["RUN", "COPY", "ENV", "ONBUILD RUN", "VOLUME", "LABEL a", "HEALTHCHECK CMD", "ADD --link"] {
            check_print(&format!("FROM a\n{keyword} {tail}"));
            check_print(&format!("# escape=`\nFROM a\n{keyword} {tail}\nEOF\n{text}"));
        }
    }

    #[test]
    fn any_word_expands_or_is_refused(text in "[\\PC\n]*", tail in texts_of_pieces()) {
        let lookup = |name: &str| (!name.contains('B')).then(|| format!("<{name} \"$'>"));
        for escape in ['\\', '`'] {
            let expander = Expander { escape, lookup: &lookup };
            for text in [text.clone(), tail.clone(), format!("${{A/{text}/{tail}}}"), format!("${{A##{tail}}}")] {
                let word = Word { node: text, span: Span::new(0, 0) };
                let _ = expander.expand(&word);
                let _ = expander.expand_words(&word);
                let _ = expander.expand_heredoc(&word);
                let _ = expander.unset_variables(&word);
            }
        }
    }

    #[test]
    fn plain_text_expands_to_itself(text in "[a-zA-Z0-9 /.:ä€-]*") {
        let expander = Expander { escape: '\\', lookup: &|_| None };
        let word = Word { node: text.clone(), span: Span::new(0, text.len()) };
        prop_assert_eq!(expander.expand(&word).unwrap(), text.clone());
        prop_assert_eq!(expander.expand_words(&word).unwrap().join(" "), text.split_whitespace().collect::<Vec<_>>().join(" "));
    }

    #[test]
    fn suffix_and_prefix_agree_with_trying_all(value in "[ab/]{0,8}", pattern in "[ab/?*]{0,5}") {
        let lookup = |_: &str| Some(value.clone());
        let expander = Expander { escape: '\\', lookup: &lookup };
        let expand = |operator: &str| {
            let text = format!("${{V{operator}{pattern}}}");
            expander.expand(&Word { node: text, span: Span::new(0, 0) }).unwrap()
        };
        let chars: Vec<char> = value.chars().collect();
        let wanted: Vec<char> = pattern.chars().collect();
        let ends: Vec<usize> = (0..=chars.len()).filter(|&i| model::shell(&wanted, &chars[..i])).collect();
        let starts: Vec<usize> = (0..=chars.len()).filter(|&i| model::shell(&wanted, &chars[i..])).collect();
        let from = |i: Option<&usize>| chars[*i.unwrap_or(&0)..].iter().collect::<String>();
        let to = |i: Option<&usize>| chars[..*i.unwrap_or(&chars.len())].iter().collect::<String>();
        prop_assert_eq!(expand("##"), from(ends.last()));
        prop_assert_eq!(expand("%"), to(starts.last()));
        prop_assert_eq!(expand("%%"), to(starts.first()));
        prop_assert_eq!(expand(":#"), from(ends.first()));
    }

    #[test]
    fn ignoring_agrees_with_a_slow_model(
        patterns in prop::collection::vec("!?(\\*\\*/?|[abc?*/]|\\[ab\\]){1,5}", 0..5),
        path in "[abc]{1,2}(/[abc]{1,2}){0,3}",
    ) {
        let text = patterns.join("\n");
        if let Ok(ignore) = IgnoreFile::parse(&text) {
            let excluded = ignore.matches(path.as_bytes());
            prop_assert_eq!(excluded, model::excluded(&patterns, &path), "{:?} {}", patterns, path);
            if !excluded {
                for (at, _) in path.match_indices('/') {
                    let dir = &path[..at];
                    prop_assert!(ignore.may_descend(dir.as_bytes()), "{:?} {} {}", patterns, dir, path);
                }
            }
        }
    }

    #[test]
    fn any_ignore_file_is_read_or_refused(text in any::<Vec<u8>>(), path in any::<Vec<u8>>()) {
        if let Ok(ignore) = IgnoreFile::parse(&text) {
            ignore.matches(&path);
            ignore.may_descend(&path);
        }
        if let Ok(glob) = super::super::glob::Glob::new(&text) {
            glob.matches(&path);
        }
    }
}

/// The same things said as plainly as possible, without regard to time.
mod model {
    /// `?` and `*` of the shell patterns.
    pub(super) fn shell(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            (['*', rest @ ..], _) => (0..=text.len()).any(|i| shell(rest, &text[i..])),
            (['?', rest @ ..], [_, text @ ..]) => shell(rest, text),
            ([c, rest @ ..], [d, text @ ..]) => c == d && shell(rest, text),
            _ => false,
        }
    }

    /// A cleaned `.dockerignore` pattern.
    fn ignore(pattern: &str, path: &str) -> bool {
        let suffix = pattern.strip_prefix("**").filter(|rest| !rest.starts_with('/'));
        if let Some(suffix) = suffix.filter(|rest| !rest.contains(['*', '?', '['])) {
            return path.ends_with(suffix);
        }
        ignore_from(pattern, path)
    }

    /// The same without the special case at the start.
    fn ignore_from(pattern: &str, path: &str) -> bool {
        if let Some(rest) = pattern.strip_prefix("**") {
            let rest = rest.strip_prefix('/').unwrap_or(rest);
            return rest.is_empty()
                || ignore_from(rest, path)
                || path.match_indices('/').any(|(at, _)| ignore_from(rest, &path[at + 1..]));
        }
        if let Some(rest) = pattern.strip_prefix('*') {
            let name = path.find('/').unwrap_or(path.len());
            return (0..=name).any(|i| ignore_from(rest, &path[i..]));
        }
        if let Some(rest) = pattern.strip_prefix('?') {
            return !path.is_empty() && !path.starts_with('/') && ignore_from(rest, &path[1..]);
        }
        if let Some(rest) = pattern.strip_prefix("[ab]") {
            return path.starts_with(['a', 'b']) && ignore_from(rest, &path[1..]);
        }
        match (pattern.chars().next(), path.chars().next()) {
            (None, None) => true,
            (Some(c), Some(d)) => c == d && ignore_from(&pattern[1..], &path[1..]),
            _ => false,
        }
    }

    /// Judges every directory on the way, each with what its parent's judgement has looked at.
    pub(super) fn excluded(patterns: &[String], path: &str) -> bool {
        let patterns: Vec<(bool, String)> = patterns
            .iter()
            .map(|pattern| match pattern.strip_prefix('!') {
                Some(rest) => (true, clean(rest)),
                None => (false, clean(pattern)),
            })
            .collect();
        let mut known = vec![false; patterns.len()];
        let mut out = false;
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            out = false;
            for (known, (exception, pattern)) in known.iter_mut().zip(&patterns) {
                if !*known {
                    *known = *exception == out && ignore(pattern, &path[..end]);
                }
                if *known {
                    out = !exception;
                }
            }
        }
        out
    }

    fn clean(pattern: &str) -> String {
        pattern.split('/').filter(|name| !name.is_empty()).collect::<Vec<_>>().join("/")
    }
}
