//! Errors: what they say and where they point.

use super::*;

/// Text, what is underlined, message, and help (or a part of it).
const CASES: &[(&str, &str, &str, &str)] = &[
    ("", "", "the file has no instructions", "FROM IMAGE"),
    ("# only\n\n  \n", "", "the file has no instructions", "FROM IMAGE"),
    ("ARG A\n", "ARG A", "the file has no stage to build", "FROM IMAGE"),
    ("RUN x\nFROM a", "RUN", "RUN stands before the first FROM", "only ARG may"),
    ("FORM a", "FORM", "unknown instruction: FORM", "did you mean `FROM`?"),
    ("FROM a\nrnu x", "rnu", "unknown instruction: rnu", "did you mean `RUN`?"),
    ("FROM a\nENTRYPIONT x", "ENTRYPIONT", "unknown instruction: ENTRYPIONT", "did you mean `ENTRYPOINT`?"),
    ("FROM a\n  && x", "&&", "unknown instruction: &&", "escape character"),
    ("FROM a\nRUN\u{a0}x", "RUN\u{a0}x", "unknown instruction: RUN\u{a0}x", "ordinary blank"),
    ("FROM a\n\\\n", "", "a line continues with nothing", "remove"),
    ("FROM", "FROM", "FROM requires either one or three arguments", "FROM scratch"),
    ("FROM a b", "a b", "FROM requires either one or three arguments", "AS NAME"),
    ("FROM a AS", "a AS", "FROM requires either one or three arguments", "AS NAME"),
    ("FROM a is b", "a is b", "FROM requires either one or three arguments", "AS NAME"),
    (
        "FROM a --platform=b",
        "a --platform=b",
        "FROM requires either one or three arguments",
        "before the image",
    ),
    ("FROM a # x", "a # x", "FROM requires either one or three arguments", "line of its own"),
    ("FROM a AS 1b", "1b", "invalid name for a build stage: 1b", "begin with a letter"),
    ("FROM a AS b/c", "b/c", "invalid name for a build stage: b/c", "begin with a letter"),
    ("FROM a\nRUN [1, 2]", "[1, 2]", "the JSON form takes strings only", "double quotes"),
    ("FROM a\nSHELL bash -c", "bash -c", "SHELL requires its arguments in JSON form", "SHELL ["),
    ("FROM a\nSHELL []", "SHELL", "SHELL requires at least one argument", "SHELL ["),
    ("FROM a\nSHELL", "SHELL", "SHELL requires at least one argument", "SHELL ["),
    ("FROM a\nENV", "ENV", "ENV requires at least one argument", "ENV KEY=VALUE"),
    ("FROM a\nENV A", "A", "ENV must have two arguments", "ENV KEY=VALUE"),
    ("FROM a\nENV A=b c", "c", "`c` has no `=`", "quotes"),
    ("FROM a\nLABEL =b", "=b", "LABEL names cannot be blank", ""),
    ("FROM a\nARG", "ARG", "ARG requires at least one argument", "ARG NAME"),
    ("FROM a\nARG A =b", "=b", "ARG names cannot be blank", ""),
    ("FROM a\nCOPY", "COPY", "COPY requires at least two arguments", "COPY SOURCE DESTINATION"),
    ("FROM a\nCOPY x", "x", "COPY requires at least two arguments, but has one", "COPY SOURCE DESTINATION"),
    ("FROM a\nADD [\"x\"]", "[\"x\"]", "ADD requires at least two arguments, but has one", "ADD SOURCE"),
    ("FROM a\nCOPY []", "[]", "COPY requires at least two arguments, but has one", "COPY SOURCE"),
    ("FROM a\nWORKDIR", "WORKDIR", "WORKDIR requires exactly one argument", "WORKDIR /app"),
    ("FROM a\nUSER ", "USER", "USER requires exactly one argument", "USER app"),
    ("FROM a\nSTOPSIGNAL", "STOPSIGNAL", "STOPSIGNAL requires exactly one argument", "SIGTERM"),
    ("FROM a\nMAINTAINER", "MAINTAINER", "MAINTAINER requires exactly one argument", ""),
    ("FROM a\nEXPOSE", "EXPOSE", "EXPOSE requires at least one argument", "EXPOSE 8080"),
    ("FROM a\nVOLUME []", "VOLUME", "VOLUME requires at least one argument", "VOLUME /data"),
    ("FROM a\nVOLUME [\"/a\", \" \"]", "\" \"", "a volume cannot be an empty string", ""),
    ("FROM a\nHEALTHCHECK", "HEALTHCHECK", "HEALTHCHECK requires at least one argument", "NONE"),
    ("FROM a\nHEALTHCHECK curl x", "curl", "unknown type of HEALTHCHECK: curl", "HEALTHCHECK CMD"),
    ("FROM a\nHEALTHCHECK NONE x", "x", "HEALTHCHECK NONE takes no arguments", ""),
    ("FROM a\nHEALTHCHECK CMD", "CMD", "the command after HEALTHCHECK CMD is missing", ""),
    ("FROM a\nHEALTHCHECK CMD []", "CMD", "the command after HEALTHCHECK CMD is missing", ""),
    ("FROM a\nONBUILD", "ONBUILD", "ONBUILD requires an instruction", "ONBUILD RUN"),
    ("FROM a\nONBUILD from b", "from", "FROM is not allowed behind ONBUILD", ""),
    ("FROM a\nONBUILD ONBUILD RUN x", "ONBUILD", "ONBUILD is not allowed behind ONBUILD", ""),
    ("FROM a\nONBUILD MAINTAINER x", "MAINTAINER", "MAINTAINER is not allowed behind ONBUILD", ""),
    ("FROM a\nONBUILD COPYY . /", "COPYY", "unknown instruction: COPYY", "did you mean `COPY`?"),
    ("FROM a\nCOPY --form=b x y", "--form", "COPY has no flag `--form`", "did you mean `--from`?"),
    ("FROM a\nRUN --from=b x", "--from", "RUN has no flag `--from`", "that is a flag of COPY"),
    ("FROM a\nCOPY --frobnicate x y", "--frobnicate", "COPY has no flag `--frobnicate`", "COPY has --from"),
    ("FROM a\nCMD --version", "--version", "CMD has no flag `--version`", "CMD -- --version"),
    ("FROM a\nSTOPSIGNAL --x 9", "--x", "STOPSIGNAL has no flag `--x`", "has no flags"),
    ("FROM a\nCOPY --=x y z", "--=x", "COPY has no flag `--`", ""),
    ("FROM a\nCOPY --chown=1 --chown=2 x y", "--chown", "`--chown` is given twice", "keep one"),
    ("FROM a\nCOPY --chown x y", "--chown", "`--chown` needs a value", "--chown=VALUE"),
    ("FROM a\nCOPY --link=maybe x y", "maybe", "`--link` is either true or false", "--link=false"),
    ("FROM a\nCOPY --link= x y", "", "`--link` is either true or false", "--link=false"),
    ("# escape=x\nFROM a", "x", "`x` cannot be the escape character", "backtick"),
    ("# escape=`\n# escape=`\nFROM a", "escape", "the parser directive `escape` is given twice", "keep one"),
    ("# syntax=a\n# Syntax=b\nFROM a", "Syntax", "the parser directive `syntax` is given twice", "keep one"),
];

#[test]
fn messages_places_and_help() {
    for &(text, place, message, help) in CASES {
        let (error, underlined) = refused(text);
        assert_eq!(error.message, message, "{text:?}");
        assert_eq!(underlined, place, "{text:?}");
        assert!(error.help.clone().unwrap_or_default().contains(help), "{text:?}: {error:?}");
    }
}

#[test]
fn repeatable_flags_repeat_and_booleans_have_two_forms() {
    for text in [
        "RUN --mount=a --mount=b --device=c --device=d x",
        "COPY --exclude=a --exclude=b --link=TRUE --parents=false x y",
        "ADD --keep-git-dir --unpack=false --checksum=sha256:1 x y",
        "HEALTHCHECK --interval=1s --timeout=1s --start-period=1s --start-interval=1s --retries=1 CMD x",
        "HEALTHCHECK --interval=1s CMD x",
        "COPY --chown= x y",
    ] {
        one(text);
    }
}

#[test]
fn only_near_words_are_suggested() {
    use super::super::error::closest;
    let words = ["from", "chown", "chmod"];
    assert_eq!(closest("chonw", &words), Some("chown"));
    assert_eq!(closest("CHMD", &words), Some("chmod"));
    assert_eq!(closest("frob", &words), Some("from"));
    assert_eq!(closest("mount", &words), None);
    assert_eq!(closest("", &words), None);
}
