//! Every check, where it must speak and where it must not.

use std::fmt::Write;

use super::*;
use crate::dockerfile;
use crate::image::RuntimeConfig;

fn report(text: &str, options: &Options<'_>) -> Report {
    let file = dockerfile::parse(text).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
    check(text, &file, options).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// The findings as `Code: underlined text`.
fn found_with(text: &str, options: &Options<'_>) -> Vec<String> {
    let report = report(text, options);
    report
        .findings
        .iter()
        .map(|finding| {
            assert!(!finding.message.is_empty() && !finding.message.ends_with('.'), "{finding:?}");
            format!("{}: {}", finding.code.name(), &text[finding.span.range()])
        })
        .collect()
}

fn found(text: &str) -> Vec<String> {
    found_with(text, &Options::default())
}

/// A file on a base that is known to have nothing but these variables.
fn found_on(env: &[&str], text: &str) -> Vec<String> {
    let config = || ImageConfig {
        config: RuntimeConfig {
            env: env.iter().map(|line| (*line).to_owned()).collect(),
            user: "1000".to_owned(),
            ..RuntimeConfig::default()
        },
        ..ImageConfig::default()
    };
    found_with(text, &Options { bases: Some(&|_: &str| Some(config())), ..Options::default() })
}

/// Each text below `FROM debian:13`, and what is found in it.
fn cases(cases: &[(&str, &[&str])]) {
    let mut wrong = String::new();
    for (text, expected) in cases {
        let found = found(&format!("FROM debian:13\n{text}\n"));
        if found != *expected {
            writeln!(wrong, "{text}\n  found {found:?}\n  not   {expected:?}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// The same for whole files.
fn files(cases: &[(&str, &[&str])]) {
    for (text, expected) in cases {
        assert_eq!(found(text), *expected, "{text}");
    }
}

mod pages {
    use super::*;

    /// The text of the fenced blocks of a language, in order.
    fn blocks(page: &str, language: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut lines = page.lines();
        while let Some(line) = lines.next() {
            if line == format!("```{language}") {
                let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
                found.push(block.join("\n") + "\n");
            }
        }
        found
    }

    #[test]
    fn a_page_s_first_example_is_reported_for_its_code_only_and_its_second_for_none() {
        for code in Code::ALL {
            let page = code.page();
            assert!(page.starts_with(&format!("# {}\n", code.name())), "{}", code.name());
            let level = format!("{} Level: {}.", code.summary(), code.level().name());
            assert!(page.contains(&level), "{}: {level}", code.name());
            let ignore = blocks(page, "text").first().map(|text| IgnoreFile::parse(text).unwrap());
            let options = Options {
                has_ignore_file: Some(ignore.is_some()),
                // An example copies the whole context without more ado, unless that is its point.
                ignore: ignore.as_ref(),
                skip: [Code::MissingDockerignore].into_iter().filter(|skip| skip != code).collect(),
                ..Options::default()
            };
            let [bad, good] = &blocks(page, "dockerfile")[..] else { panic!("{}", code.name()) };
            let codes: BTreeSet<Code> = report(bad, &options).findings.iter().map(|f| f.code).collect();
            assert_eq!(codes.into_iter().collect::<Vec<_>>(), [*code], "{bad}");
            assert_eq!(found_with(good, &options), Vec::<String>::new(), "{}", code.name());
        }
    }

    #[test]
    fn the_book_lists_them_all() {
        let index = include_str!("../../docs/src/checks.md");
        for code in Code::ALL {
            let row = format!(
                "| [{0}](checks/{0}.md) | {1} | {2} |",
                code.name(),
                code.level().name(),
                code.summary()
            );
            assert!(index.contains(&row), "{row}");
        }
        for line in index.lines().filter_map(|line| line.strip_prefix("| [")) {
            let name = line.split(']').next().unwrap();
            assert!(Code::from_name(name).is_some(), "{name}");
        }
    }
}

#[test]
fn stage_names() {
    files(&[
        ("FROM debian:13 AS b-1\nFROM debian:13 AS b_2\n", &[]),
        ("FROM debian:13 AS B\nFROM debian:13 AS b\n", &["StageNameCasing: B", "DuplicateStageName: b"]),
        ("FROM debian:13 AS Context\n", &["StageNameCasing: Context", "ReservedStageName: Context"]),
        ("from debian:13 AS b\n", &["FromAsCasing: AS"]),
        ("FROM debian:13 As b\n", &["FromAsCasing: As"]),
        ("FROM debian:13 \\\n  # as\n  as \\\n b\n", &["FromAsCasing: as"]),
        ("from debian:13 as as\n", &[]),
        ("From debian:13 as b\n", &["ConsistentInstructionCasing: From"]),
    ]);
}

#[test]
fn keyword_case_is_that_of_the_majority() {
    files(&[
        ("from debian:13\nrun a\n", &[]),
        ("from debian:13\nrun a\nRUN b\n", &["ConsistentInstructionCasing: RUN"]),
        ("FROM debian:13\nrun a\n", &["ConsistentInstructionCasing: run"]),
        ("arg A=1\narg B=2\nFROM debian:13\nRUN a\n", &[]),
    ]);
}

#[test]
fn blank_lines_and_comments() {
    files(&[
        ("FROM debian:13\nRUN a \\\n\n\n  b\n", &["NoEmptyContinuation: \\"]),
        ("FROM debian:13\r\nRUN a \\ \r\n \r\n\r\n  b\r\n", &["NoEmptyContinuation: \\"]),
        ("FROM debian:13\nRUN a \\\n  # c\n  b\n\nRUN <<EOF\na \\\n\nEOF\n", &[]),
        ("FROM debian:13\nRUN a \\\n  # ü\n\n  b\n", &["NoEmptyContinuation: "]),
        ("FROM debian:13\n# b\nARG A\n", &[]),
    ]);
    let experimental = |text: &str| found(&format!("# check=experimental=all\n{text}"));
    assert_eq!(experimental("FROM debian:13 AS a\n"), [""; 0]);
    assert_eq!(experimental("\n# a is this\nFROM debian:13 AS A\n"), ["StageNameCasing: A"]);
    assert_eq!(experimental("# x\nFROM debian:13\n# b\n\nARG A\n"), [""; 0]);
    assert_eq!(
        experimental("# x\nARG A\n# y\nFROM debian:13 AS a\n# B this\nARG A B\n"),
        ["InvalidDefinitionDescription: x", "InvalidDefinitionDescription: y"]
    );
}

#[test]
fn bases() {
    files(&[
        ("FROM scratch\n", &[]),
        ("FROM debian:13 AS b\nFROM b\n", &[]),
        ("FROM localhost/mine\n", &[]),
        ("FROM oci:dir\n", &[]),
        ("FROM ghcr.io/a/b@sha256:0000000000000000000000000000000000000000000000000000000000000000\n", &[]),
        ("FROM localhost:5000/a/b\n", &["BaseImageUntagged: localhost:5000/a/b"]),
        ("ARG TAG=latest\nFROM debian:$TAG\n", &["BaseImageLatest: debian:$TAG"]),
        ("ARG IMAGE=debian\nFROM ${IMAGE}\n", &["BaseImageUntagged: ${IMAGE}"]),
        ("FROM debian:${TAG:-13}\n", &[]),
        ("FROM debian:${TAG}\n", &["UndefinedArgInFrom: ${TAG}"]),
        ("FROM --platform=$BUILDPLATFORM debian:13\n", &[]),
        ("FROM --platform=$BILDPLATFORM debian:13\n", &["UndefinedArgInFrom: $BILDPLATFORM"]),
        ("FROM --platform=${TARGETPLATFORM} debian:13\n", &["RedundantTargetPlatform: ${TARGETPLATFORM}"]),
        ("FROM --platform=linux/$TARGETARCH debian:13\n", &[]),
        ("FROM --platform=linux/arm64 debian:13 AS arm64-tools\n", &[]),
        ("FROM --platform=linux debian:13\n", &["FromPlatformFlagConstDisallowed: linux"]),
        ("ARG P=linux/arm64\nFROM --platform=$P debian:13\n", &[]),
        ("ARG NAME\nFROM $NAME\n", &["InvalidDefaultArgInFrom: $NAME"]),
        ("ARG NAME=Debian\nFROM $NAME:13\n", &["InvalidDefaultArgInFrom: $NAME:13"]),
    ]);
    // Build arguments do not mend a default that is none, as in the reference.
    let build_args = [("NAME".to_owned(), "debian".to_owned())].into();
    let options = Options { build_args, ..Options::default() };
    assert_eq!(
        found_with("ARG NAME\nFROM $NAME\n", &options),
        ["InvalidDefaultArgInFrom: $NAME", "BaseImageUntagged: $NAME"]
    );
}

#[test]
fn variables_where_the_base_is_not_known() {
    cases(&[
        ("ENV A=1\nENV B=$A$X${A}${A:-x} PATH=$PATH:/x", &[]),
        ("WORKDIR $HOME\nENV X=$JAVA_HOME/bin LD_LIBRARY_PATH=/a:$LD_LIBRARY_PATH", &[]),
        ("ENV VERSION=1\nLABEL v=$VERSOIN", &["UndefinedVar: $VERSOIN"]),
        ("LABEL v=${TARGETARCH}", &["UndefinedVar: ${TARGETARCH}"]),
        ("ARG TARGETARCH\nLABEL v=${TARGETARCH}", &[]),
        ("LABEL v=$A\nARG A", &["UndefinedVar: $A"]),
        ("LABEL v='$A' w=\\$A x=${A:-}\nARG A", &[]),
        ("RUN echo $A\nCMD [\"$A\"]\nUSER x\nARG A", &[]),
        ("ARG A=1 B=$A", &[]),
        ("COPY --chown=$B a$A /$C\nARG A B C", &["UndefinedVar: $B", "UndefinedVar: $A", "UndefinedVar: $C"]),
    ]);
    files(&[
        ("ARG V=1\nFROM debian:13\nLABEL v=$V\n", &["UndefinedVar: $V"]),
        ("FROM debian:13 AS a\nENV APP=1\nFROM a\nLABEL v=$APP\n", &[]),
        ("FROM debian:13 AS a\nARG APP=1\nFROM debian:13\nLABEL v=$APP\n", &[]),
    ]);
}

#[test]
fn variables_where_the_base_is_known() {
    assert_eq!(found_on(&["A=1"], "FROM b:1\nLABEL v=$A w=$PATH\n"), [""; 0]);
    assert_eq!(found_on(&["A=1"], "FROM b:1\nLABEL v=$B\n"), ["UndefinedVar: $B"]);
    assert_eq!(found_on(&["A=1"], "FROM b:1\nARG B\nLABEL v=$B\n"), [""; 0]);
    assert_eq!(found("FROM scratch\nLABEL v=$HOME w=$PATH\n"), ["UndefinedVar: $HOME"]);
    let report = report("FROM scratch\nENV VERSION=1\nLABEL v=$VERSOIN\n", &Options::default());
    assert_eq!(report.findings[0].help.as_deref(), Some("did you mean `$VERSION`?"));
}

#[test]
fn secrets() {
    cases(&[
        (
            "ENV password=x DB_PASSWD=y TokenX=z",
            &["SecretsUsedInArgOrEnv: password", "SecretsUsedInArgOrEnv: DB_PASSWD"],
        ),
        (
            "ARG GITHUB_TOKEN\nARG a_key_b=1",
            &["SecretsUsedInArgOrEnv: GITHUB_TOKEN", "SecretsUsedInArgOrEnv: a_key_b"],
        ),
        ("ENV PUBLIC_KEY=x TOKEN_FILE=y AUTH_VERSION=z KEYBOARD=a MONKEY=b", &[]),
    ]);
    assert_eq!(found("ARG TOKEN=13\nFROM debian:$TOKEN\n"), [""; 0]);
}

#[test]
fn forms_of_instructions() {
    cases(&[
        ("ENV A b c\nLABEL d e", &["LegacyKeyValueFormat: ENV A b c", "LegacyKeyValueFormat: LABEL d e"]),
        ("ENV A=b C=\nLABEL \"a b\"=c\nENV D= \\\n  E=f", &[]),
        ("USER x\nCMD a b", &["JSONArgsRecommended: CMD a b"]),
        ("USER x\nENTRYPOINT a && b", &["JSONArgsRecommended: ENTRYPOINT a && b"]),
        ("USER x\nSHELL [\"/bin/bash\", \"-c\"]\nCMD a b", &[]),
        ("HEALTHCHECK CMD a\nRUN a", &[]),
        ("WORKDIR /a\nWORKDIR b", &[]),
        ("WORKDIR a\nWORKDIR b", &["WorkdirRelativePath: a"]),
        ("WORKDIR $HOME/x\nWORKDIR b", &[]),
        ("ARG D=a\nWORKDIR $D", &["WorkdirRelativePath: $D"]),
        ("ARG D\nWORKDIR $D", &[]),
        ("EXPOSE 80 53/udp 8000-8010/tcp", &[]),
        ("ENV P=\"80/TCP 1:2\"\nEXPOSE $P", &["ExposeProtoCasing: $P", "ExposeInvalidFormat: $P"]),
        ("EXPOSE $UNKNOWN", &[]),
        ("USER x\nCMD []\nRUN a\nCMD []", &["MultipleInstructionsDisallowed: CMD"]),
        ("HEALTHCHECK NONE\nHEALTHCHECK CMD a", &["MultipleInstructionsDisallowed: HEALTHCHECK"]),
        ("USER x\nENTRYPOINT [\"a\"]\nCMD [\"b\"]", &[]),
        ("ONBUILD CMD a\nONBUILD RUN sudo b", &[]),
    ]);
    files(&[
        ("FROM debian:13 AS a\nUSER x\nWORKDIR /a\nCMD []\nFROM a\nWORKDIR b\nCMD []\n", &[]),
        ("FROM debian:13 AS a\nWORKDIR /a\nFROM debian:13\nWORKDIR b\n", &["WorkdirRelativePath: b"]),
    ]);
}

#[test]
fn the_json_form_is_offered_where_it_is_plain() {
    let help = |text: &str| report(text, &Options::default()).findings[0].help.clone().unwrap();
    assert_eq!(help("FROM a:1\nUSER x\nCMD a  -b\n"), "write `CMD [\"a\", \"-b\"]`");
    assert!(help("FROM a:1\nUSER x\nCMD ['a']\n").contains("double quotes"));
    assert!(help("FROM a:1\nUSER x\nCMD a $b\n").contains("sh"));
}

#[test]
fn users() {
    files(&[
        ("FROM debian:13\nRUN a\n", &[]),
        ("FROM debian:13\nCMD [\"a\"]\n", &["NoUser: FROM debian:13"]),
        ("FROM debian:13\nUSER a\nUSER 0:0\nCMD [\"a\"]\n", &["NoUser: 0:0"]),
        ("FROM debian:13\nUSER root\nRUN a\nUSER 1000\nCMD [\"a\"]\n", &[]),
        ("FROM debian:13\nUSER $WHO\nCMD [\"a\"]\n", &[]),
        ("FROM debian:13 AS a\nUSER b\nFROM a\nCMD [\"a\"]\n", &[]),
        ("FROM debian:13 AS a\nUSER b\nFROM debian:13\nCMD [\"a\"]\n", &["NoUser: FROM debian:13"]),
        ("FROM ghcr.io/a/static:nonroot\nCMD [\"a\"]\n", &[]),
        ("FROM debian:13\nCMD [\"gosu\", \"app\", \"a\"]\n", &[]),
        ("FROM $X\nCMD [\"a\"]\n", &["UndefinedArgInFrom: $X"]),
    ]);
    assert_eq!(found_on(&[], "FROM b:1\nCMD [\"a\"]\n"), [""; 0]);
    let text = "FROM debian:13 AS a\nCMD [\"x\"]\nFROM debian:13\nUSER y\nCMD [\"x\"]\n";
    assert_eq!(found(text), [""; 0]);
    for target in ["A", "0"] {
        let options = Options { target: Some(target.to_owned()), ..Options::default() };
        assert_eq!(found_with(text, &options), ["NoUser: FROM debian:13 AS a"]);
    }
}

#[test]
fn what_is_copied() {
    cases(&[
        ("ADD a b.conf /x/", &["AddInsteadOfCopy: ADD"]),
        ("ADD . /", &["AddInsteadOfCopy: ADD"]),
        ("ADD a.tar.gz /\nADD https://ghcr.io/x /\nADD git@ghcr.io:a/b /b\nADD a* /x/\nADD $X /", &[]),
        ("ADD *.conf /x/", &["AddInsteadOfCopy: ADD"]),
        ("ADD --checksum=sha256:0 a /", &[]),
        ("COPY . /", &[]),
    ]);
    let rules = IgnoreFile::parse("*.log\n/secret\n").unwrap();
    let options = Options { ignore: Some(&rules), has_ignore_file: Some(true), ..Options::default() };
    for (text, expected) in [
        (
            "COPY a.log ./secret/x /secret2 b /",
            &["CopyIgnoredFile: a.log", "CopyIgnoredFile: ./secret/x"][..],
        ),
        ("COPY --from=x a.log /", &[]),
        ("COPY . /\nCOPY sub/a.log /", &[]),
        ("ADD https://ghcr.io/a.log /", &[]),
    ] {
        assert_eq!(found_with(&format!("FROM debian:13\n{text}\n"), &options), expected, "{text}");
    }
    let rules = IgnoreFile::parse("*\n!src\n").unwrap();
    let options = Options { ignore: Some(&rules), ..Options::default() };
    assert_eq!(found_with("FROM debian:13\nCOPY a /\n", &options), [""; 0]);
    let options = Options { has_ignore_file: Some(false), ..Options::default() };
    for (text, expected) in [
        ("COPY . /a\nCOPY ./ /b", &["MissingDockerignore: ."][..]),
        ("COPY * /a/", &["MissingDockerignore: *"]),
        ("COPY src /a", &[]),
        ("COPY --from=x / /a", &[]),
    ] {
        assert_eq!(found_with(&format!("FROM debian:13\n{text}\n"), &options), expected, "{text}");
    }
}

#[test]
fn package_managers() {
    let kept = ["PackageListsKept: apt-get update"];
    cases(&[
        ("RUN apt-get update && apt-get install -y a", &kept),
        ("RUN apt-get update && apt-get install -y a && rm -rf /var/lib/apt/lists/*", &[]),
        ("RUN apt-get update; apt-get install a; rm -r /var/lib/apt", &[]),
        ("RUN apt-get update && apt-get install -y a\nRUN rm -rf /var/lib/apt/lists/*", &kept),
        ("RUN apt-get update && apt-get install -y a && rm -rf /tmp/x", &kept),
        ("RUN apt-get update && apt-get install -y a && rm -rf /var/cache/* /var/lib/{apt,dpkg}", &[]),
        (
            "RUN --mount=type=cache,target=/var/lib/apt,sharing=locked apt-get update && apt-get install a",
            &[],
        ),
        ("RUN --mount=type=cache,target=/var/cache/apt apt-get update && apt-get install a", &kept),
        ("RUN apt-get update && ./setup.sh", &[]),
        ("RUN <<EOF\napt-get update\napt-get install -y a\nrm -rf /var/lib/apt/lists/*\nEOF", &[]),
        ("RUN <<EOF\napt-get update\napt-get install -y a\nEOF", &kept),
        ("RUN echo apt-get update # apt-get update", &[]),
        ("RUN apt-get install -y a", &[]),
        ("RUN apk add a", &["PackageListsKept: apk add a"]),
        ("RUN apk add --no-cache a && apk --no-cache add b", &[]),
        ("RUN apk add a && rm -rf /var/cache/apk/*", &[]),
        ("RUN apk del a", &[]),
        ("RUN --mount=type=cache,target=/var/cache/apk apk add a", &[]),
        ("RUN dnf -y install a", &["PackageListsKept: dnf -y install a"]),
        ("RUN dnf -y install a && dnf clean all", &[]),
        ("RUN yum install -y a && rm -rf /var/cache/yum", &[]),
        ("RUN zypper in a", &["PackageListsKept: zypper in a"]),
    ]);
    let builder =
        "FROM debian:13 AS b\nRUN apt-get update && apt-get install a\nFROM debian:13\nCOPY --from=b /a /\n";
    assert_eq!(found(builder), [""; 0]);
    let options = Options { target: Some("b".to_owned()), ..Options::default() };
    assert_eq!(found_with(builder, &options), kept);
}

#[test]
fn lists_that_are_fetched_in_vain() {
    let builder = |run: &str| found(&format!("FROM debian:13 AS b\nRUN {run}\nFROM debian:13\n"));
    for run in
        ["apt-get update", "apt update -y && apt-get clean", "set -e; DEBIAN_FRONTEND=x apt-get -qq update"]
    {
        let found = builder(run);
        assert!(found.len() == 1 && found[0].starts_with("AptGetUpdateAlone: "), "{run}: {found:?}");
    }
    for run in [
        "apt-get update && apt-get install a",
        "apt-get update && apt-get -y upgrade",
        "apt-get update && ./install",
        "apt-get update && xargs apt-get install <list",
        "apt-get update && npx playwright install-deps",
        "--mount=type=cache,target=/var/lib/apt apt-get update",
        "apt-get update || true && bash -c 'apt-get install a'",
        "echo apt-get update",
    ] {
        assert_eq!(builder(run), [""; 0], "{run}");
    }
}

#[test]
fn sudo() {
    cases(&[
        ("RUN a && sudo -E b c", &["SudoUsed: sudo -E b c"]),
        ("RUN echo sudo; sudoedit x; apt-get install sudo", &[]),
        ("RUN sudo -u postgres psql", &[]),
        ("RUN echo 'x ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/x # sudo", &[]),
        ("RUN [\"sudo\", \"a\"]", &["SudoUsed: [\"sudo\", \"a\"]"]),
        ("RUN if true; then /usr/bin/sudo a; fi", &["SudoUsed: /usr/bin/sudo a"]),
    ]);
}

#[test]
fn directives() {
    let bad = "FROM debian:13 AS B\nCMD a\n";
    let codes = |directive: &str| {
        let report = report(&format!("{directive}\n{bad}"), &Options::default());
        (report.findings.iter().map(|f| (f.code, f.level)).collect::<Vec<_>>(), report.fails)
    };
    let (all, fails) = codes("#");
    assert_eq!(all.len(), 3);
    assert!(!fails);
    assert_eq!(
        codes("# check=skip=NoUser, JSONArgsRecommended"),
        (vec![(Code::StageNameCasing, Level::Warning)], false)
    );
    assert_eq!(codes("# check=skip=all"), (vec![], false));
    assert_eq!(codes("# check=skip=all;error=true"), (vec![], false));
    let (all, fails) = codes("# check=error=true");
    assert!(fails && all.iter().all(|(_, level)| *level == Level::Error));

    let text = format!("# check=skip=all\n{bad}");
    let with = |value: &str| Options {
        build_args: [(ARGUMENT.to_owned(), value.to_owned())].into(),
        ..Options::default()
    };
    assert_eq!(found_with(&text, &with("skip=NoUser,JSONArgsRecommended")), ["StageNameCasing: B"]);
    let file = dockerfile::parse(&text).unwrap();
    assert!(matches!(check(&text, &file, &with("skp=all")), Err(CheckError::Argument(_))));
    let text = "# check=skip=all;eror=true\nFROM a\n";
    let error = check(text, &dockerfile::parse(text).unwrap(), &Options::default()).unwrap_err();
    let CheckError::Directive(error) = error else { panic!("{error:?}") };
    assert_eq!(&text[error.span.range()], "eror=true");

    assert_eq!(found("# check=skip=Nope,NoUser\nFROM a:1\n"), ["UnknownCheck: Nope"]);
    let options = Options { skip: [Code::StageNameCasing].into(), ..Options::default() };
    assert_eq!(found_with("FROM a:1 AS B\n", &options), [""; 0]);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    /// Lines in which most of the checks have something to look at, and odd pieces between them.
    fn line() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "FROM ",
            "from ",
            "a",
            ":latest",
            " AS ",
            "B",
            "RUN ",
            "apt-get update",
            " && ",
            "sudo ",
            "\\\n",
            "\n",
            "\n\n",
            "\\",
            "'",
            "\"",
            "$(",
            "${",
            "}",
            ")",
            "$X",
            "ENV ",
            "ARG ",
            "X",
            "=",
            " ",
            "é",
            "#",
            "<<EOF",
            "\nEOF\n",
            "COPY ",
            "ADD ",
            ".",
            " /",
            "CMD ",
            "[",
            "]",
            "EXPOSE ",
            "1:2/TCP",
            "WORKDIR ",
            "USER ",
            "--platform=$TARGETPLATFORM ",
            "--mount=type=cache,target=/var/lib/apt ",
            "# check=skip=Y\n",
            "# x",
            "apk add ",
            ";",
            "|",
            "`",
            "\r\n",
            "\u{feff}",
        ]);
        prop::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn no_file_makes_a_check_panic_or_point_outside(lines in prop::collection::vec(line(), 0..6)) {
            let text = format!("FROM a:1\n{}", lines.join("\n"));
            if let Ok(file) = dockerfile::parse(&text) {
                let rules = IgnoreFile::parse("a\n").unwrap();
                let options = Options { ignore: Some(&rules), has_ignore_file: Some(false), ..Options::default() };
                if let Ok(report) = check(&text, &file, &options) {
                    for finding in report.findings {
                        prop_assert!(text.get(finding.span.range()).is_some(), "{finding:?} in {text:?}");
                    }
                }
            }
        }
    }
}
