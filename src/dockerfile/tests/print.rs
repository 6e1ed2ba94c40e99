//! Printing.

use super::*;

/// Reads, prints, reads again; gives what was printed.
fn printed(text: &str) -> String {
    let first = file(text);
    let printed = print(&first);
    let again = parse(&printed).unwrap_or_else(|error| panic!("{error:?}\n{text}\n{printed}"));
    assert!(same(&first, &again), "{text}\n{printed}\n{first:#?}\n{again:#?}");
    printed
}

/// The same of one instruction.
fn line(text: &str) -> String {
    let printed = printed(&format!("FROM a\n{text}"));
    printed.strip_prefix("FROM a\n").unwrap().to_owned()
}

#[test]
fn a_whole_file() {
    let text = "\u{feff}# Escape = `\n#syntax=docker/dockerfile:1\n\n# V the version\narg V=1 \"W=x y\"\nfrom --platform='$P' a:$V as Base\n\n run `\n  # gone\n  x `\n  && y\n# why\nonbuild  copy  <<-E  /x \n\ta\n\tE\ncmd [ \"a\",\"b\\u0041\" ]\n";
    let expected = "# syntax=docker/dockerfile:1\n# escape=`\n\n# V the version\nARG V=1 \"W=x y\"\nFROM --platform=$P a:$V AS Base\nRUN x   && y\n# why\nONBUILD copy  <<-E  /x \n\ta\nE\nCMD [\"a\",\"bA\"]\n";
    assert_eq!(printed(text), expected);
}

#[test]
fn forms_that_are_kept_and_forms_that_change() {
    for (text, expected) in [
        ("ENV a b  c", "ENV a b  c\n"),
        ("ENV a b", "ENV a=b\n"),
        ("ENV a=b  c='d  e'", "ENV a=b c='d  e'\n"),
        ("LABEL a b=c", "LABEL a=b=c\n"),
        ("LABEL \"a b\" c", "LABEL \"a b\" c\n"),
        ("COPY [\"a\", \"b\"]", "COPY a b\n"),
        ("COPY [\"a b\", \"c\"]", "COPY [\"a b\",\"c\"]\n"),
        ("COPY [\"\", \"c\"]", "COPY [\"\",\"c\"]\n"),
        ("COPY [\"[a\", \"c\"]", "COPY [\"[a\",\"c\"]\n"),
        ("COPY [\"<<a\", \"c\"]", "COPY [\"<<a\",\"c\"]\n"),
        ("COPY [\"--a\", \"c\"]", "COPY -- --a c\n"),
        ("VOLUME /a  /b", "VOLUME /a /b\n"),
        ("VOLUME [\"/a b\"]", "VOLUME [\"/a b\"]\n"),
        (
            "COPY --chown='a b' --link --exclude=\"q\\\"\" x y",
            "COPY --chown=\"a b\" --link --exclude=\"q\\\"\" x y\n",
        ),
        ("COPY --chown=\\a x y", "COPY --chown=a x y\n"),
        ("COPY --chown= x y", "COPY --chown= x y\n"),
        ("RUN -- --x", "RUN -- --x\n"),
        ("RUN --network=none", "RUN --network=none\n"),
        ("RUN", "RUN\n"),
        ("RUN []", "RUN []\n"),
        ("CMD [\"a\"] # b", "CMD [\"a\"] # b\n"),
        ("HEALTHCHECK  --retries=2  cmd  x  y", "HEALTHCHECK --retries=2 CMD x  y\n"),
        ("healthcheck none", "HEALTHCHECK NONE\n"),
        ("EXPOSE 1\t2", "EXPOSE 1 2\n"),
        ("RUN x \\\\", "RUN x \\\\\n"),
        ("RUN x \\\u{a0}", "RUN x \\\u{b}\n"),
        ("ENV \\  a=b c", "ENV \\  a=b c\n"),
        ("ARG A=x\\ \\\u{a0}", "ARG A=x\\ \\\u{b}\n"),
        ("ENV A=\"x \\\u{a0}", "ENV A=\"x \\\u{b}\n"),
        ("ONBUILD RUN x\\ \\", "ONBUILD RUN x\\ \\\n"),
    ] {
        assert_eq!(line(text), expected, "{text}");
    }
}

#[test]
fn heredocs() {
    for (text, expected) in [
        ("RUN <<EOF\n  a\n\tb\nEOF", "RUN <<EOF\n  a\n\tb\nEOF\n"),
        ("RUN cat <<A 3<<-'B'\na\nA\n\tb\n\tB", "RUN cat <<A 3<<-'B'\na\nA\nb\nB\n"),
        ("COPY <<\"a\" 5<<-b x /d/\n1\na\n\t2\nb", "COPY <<'a' 5<<-b x /d/\n1\na\n2\nb\n"),
        ("COPY << E\\'F /x\ny\nE'F", "COPY <<E\\'F /x\ny\nE'F\n"),
        ("COPY <<\"E'F\" /x\ny\nE'F", "COPY <<\"E'F\" /x\ny\nE'F\n"),
        ("COPY <<$E /x\n$E", "COPY <<\\$E /x\n$E\n"),
        ("COPY <<-E <<E /d/\n\ta\n\tE\n\tE\nE", "COPY <<-E <<E /d/\nE\n\tE\nE\n"),
        ("COPY x\\  <<E /d/\nE", "COPY x\\  <<E  /d/\nE\n"),
        ("COPY <<\"E\" ' <<\"E\" '\nx\nE", "COPY <<'E' ' <<'E' '\nx\nE\n"),
        ("RUN <<E\r\na\r\nE\r\n", "RUN <<E\na\r\nE\n"),
    ] {
        assert_eq!(line(text), expected, "{text}");
    }
}

#[test]
fn comments_that_look_like_directives() {
    assert_eq!(printed("#syntax= \nFROM a"), "# syntax= \nFROM a\n");
    let text = "\n# escape=`\nFROM a\n# check=x\nUSER u\n";
    assert_eq!(printed(text), text);
}

#[test]
fn what_differs_is_not_the_same() {
    let base = file("# note\nFROM a AS b\nRUN --network=none x\nCOPY <<E /x\n1\nE\nONBUILD RUN x");
    for other in [
        "# note\nFROM a AS c\nRUN --network=none x\nCOPY <<E /x\n1\nE\nONBUILD RUN x",
        "# note\nFROM a AS b\nRUN --network=host x\nCOPY <<E /x\n1\nE\nONBUILD RUN x",
        "# note\nFROM a AS b\nRUN --network=none x\nCOPY <<E /x\n2\nE\nONBUILD RUN x",
        "# note\nFROM a AS b\nRUN --network=none x\nCOPY <<'E' /x\n1\nE\nONBUILD RUN x",
        "# note\nFROM a AS b\nRUN --network=none x\nCOPY <<E /x\n1\nE\nONBUILD RUN  x",
        "FROM a AS b\nRUN --network=none x\nCOPY <<E /x\n1\nE\nONBUILD RUN x",
    ] {
        assert!(!same(&base, &file(other)), "{other}");
    }
    let laid_out = "# note\n\nfrom  a as b\nrun --network='none' \\\n x\nCOPY << E /x\n1\nE\nonbuild RUN x";
    assert!(same(&base, &file(laid_out)));
}
