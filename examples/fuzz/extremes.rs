//! Inputs that are large in one direction: what takes more than its share of time or stack shows here.

use crate::targets::Target;

/// Each with a name.
pub(crate) fn all() -> Vec<(&'static str, Target, String)> {
    const N: usize = 20_000;
    let file = |text: &str| format!("FROM a\n{text}");
    let chain = |n: usize| {
        let stage = |i: usize| format!("FROM s{} AS s{i}\n", i - 1);
        format!("FROM scratch AS s0\n{}", (1..n).map(stage).collect::<String>())
    };
    let from_each = |n: usize| {
        let stage = |i: usize| format!("FROM scratch AS s{i}\nCOPY --from=s{} / /\n", i - 1);
        format!("FROM scratch AS s0\n{}", (1..n).map(stage).collect::<String>())
    };
    let many = |line: &dyn Fn(usize) -> String, n: usize| (0..n).map(line).collect::<String>();
    let mut list = vec![
        ("an open brace, many times", Target::Word, "${A:-".repeat(N)),
        ("braces in braces", Target::Word, format!("{}{}", "${NOPE:-".repeat(N), "}".repeat(N))),
        (
            "replacement in replacement",
            Target::Word,
            format!("{}a{}", "${PATH//\\//".repeat(60), "}".repeat(60)),
        ),
        ("a pattern of stars", Target::Word, format!("${{PATH##{}x}}", "*a".repeat(N))),
        ("quotes", Target::Word, "'\"".repeat(N)),
        ("dollars", Target::Word, "$".repeat(N * 10)),
        ("one long line", Target::File, file(&format!("RUN {}", "a ".repeat(N * 20)))),
        ("continuations", Target::File, file(&format!("RUN {}x", "a \\\n".repeat(N * 5)))),
        ("blank continuations", Target::File, file(&format!("RUN a \\\n{}x", "\n".repeat(N * 5)))),
        ("comments", Target::File, format!("{}FROM a", "# c\n".repeat(N * 5))),
        ("flags", Target::File, file(&format!("RUN {}x", "--mount=a ".repeat(N)))),
        ("pairs", Target::Plan, file(&format!("ENV {}", many(&|i| format!("A{i}=b "), N / 20)))),
        ("instructions", Target::Plan, file(&many(&|i| format!("ENV A{} $A{i}\n", i + 1), N / 20))),
        ("a variable that doubles", Target::Plan, file(&format!("ENV A=aa\n{}", "ENV A=$A$A\n".repeat(60)))),
        (
            "an argument that doubles",
            Target::Plan,
            format!("ARG A=aa\n{}FROM a\n", "ARG A=$A$A\n".repeat(60)),
        ),
        (
            "a label that triples",
            Target::Plan,
            file(&format!("ENV A=aaaa\n{}", "ENV A=$A$A$A\nLABEL $A=$A\n".repeat(40))),
        ),
        ("ports", Target::Plan, file(&"EXPOSE 1-65535\n".repeat(20))),
        ("stages in a chain", Target::Plan, chain(N / 4)),
        ("stages that copy", Target::Plan, from_each(N / 4)),
        (
            "heredocs",
            Target::File,
            file(&format!(
                "RUN {}\n{}",
                many(&|i| format!("<<E{i} "), N / 4),
                many(&|i| format!("E{i}\n"), N / 4)
            )),
        ),
        (
            "files",
            Target::File,
            file(&format!(
                "COPY {}/d/\n{}",
                many(&|i| format!("<<E{i} "), N / 20),
                many(&|i| format!("E{i}\n"), N / 20)
            )),
        ),
        ("a heredoc that does not end", Target::File, file(&format!("RUN <<E\n{}", "x\n".repeat(N * 5)))),
        ("brackets", Target::File, file(&format!("RUN {}", "[".repeat(N)))),
        ("triggers of triggers", Target::File, file(&format!("{} x", "ONBUILD ".repeat(N)))),
        ("stars and letters", Target::Pattern, format!("{}b\n{}", "a*".repeat(200), "a".repeat(2000))),
        ("double stars", Target::Pattern, format!("{}b\n{}a", "**/".repeat(200), "a/".repeat(1000))),
        ("double stars that end", Target::Pattern, format!("{}b\n{}a", "**a".repeat(100), "a/".repeat(500))),
        ("question marks", Target::Pattern, format!("{}*b\n{}", "*?".repeat(500), "a".repeat(2000))),
        ("classes", Target::Pattern, format!("*[{}]x\n{}", "a-z".repeat(2000), "b".repeat(500))),
        ("exceptions", Target::Pattern, format!("{}{}a", "*\n!**/a\n".repeat(500), "a/".repeat(100))),
        ("mount options", Target::Flag, "target=/a,".repeat(N)),
        ("quotes in mount options", Target::Flag, format!("\"target={}\"", "\"\"".repeat(N))),
    ];
    for nothing in ["", "\u{feff}", "\0", "\\", "\n"] {
        list.extend(Target::ALL.map(|target| ("nearly nothing", target, nothing.to_owned())));
    }
    list
}
