//! What the commands of a `RUN` do: package managers and `sudo`.

use super::Checker;
use super::rules::Code;
use super::shell::{self, Simple};
use crate::dockerfile::ast::Run;

pub(super) fn check(checker: &mut Checker<'_>, run: &Run, in_image: bool) {
    let commands = shell::commands(checker.text, checker.file, run);
    sudo(checker, &commands);
    let alone = update_alone(checker, run, &commands);
    // What stays in a stage that only others copy from is in no image.
    if in_image && !alone {
        lists_kept(checker, run, &commands);
    }
}

fn sudo(checker: &mut Checker<'_>, commands: &[Simple]) {
    for command in commands.iter().filter(|command| command.name() == "sudo") {
        // Becoming somebody else than root is another thing.
        if command.arguments().iter().any(|word| word.starts_with("-u") || word.starts_with("--user")) {
            continue;
        }
        let message = "`sudo` is of no use in a build, and of little good in an image";
        let help =
            "steps are root until a USER says otherwise: put `USER root` before, and the other one behind";
        checker.advise(Code::SudoUsed, command.span, message, help);
    }
}

/// Without `sudo` and its options.
fn bare(command: &Simple) -> Simple {
    if command.name() != "sudo" {
        return command.clone();
    }
    let words: Vec<String> =
        command.words[1..].iter().skip_while(|word| word.starts_with('-')).cloned().collect();
    match words.is_empty() {
        true => command.clone(),
        false => Simple { words, span: command.span },
    }
}

fn is_apt(command: &Simple) -> bool {
    matches!(command.name(), "apt-get" | "apt" | "aptitude")
}

/// The verb of `apt-get`, which may stand behind options that take a value.
fn apt_verb(command: &Simple) -> Option<&str> {
    let verbs = [
        "update",
        "install",
        "upgrade",
        "dist-upgrade",
        "full-upgrade",
        "build-dep",
        "download",
        "source",
        "satisfy",
        "reinstall",
        "clean",
        "autoclean",
        "autoremove",
        "remove",
        "purge",
        "distclean",
        "changelog",
    ];
    if !is_apt(command) {
        return None;
    }
    command.arguments().iter().map(String::as_str).find(|word| verbs.contains(word))
}

/// Commands that certainly install nothing.
const HARMLESS: [&str; 34] = [
    "set",
    "echo",
    "printf",
    "true",
    ":",
    "cd",
    "export",
    "sed",
    "cat",
    "tee",
    "mkdir",
    "rm",
    "cp",
    "mv",
    "ln",
    "chmod",
    "chown",
    "touch",
    "test",
    "[",
    "grep",
    "dpkg",
    "curl",
    "wget",
    "gpg",
    "add-apt-repository",
    "apt-key",
    "date",
    "ls",
    "sleep",
    "umask",
    "mktemp",
    "install",
    "tr",
];

/// `apt-get update` in a step that does nothing with what it has fetched; whether there was one.
fn update_alone(checker: &mut Checker<'_>, run: &Run, commands: &[Simple]) -> bool {
    let commands: Vec<Simple> = commands.iter().map(bare).collect();
    let Some(update) = commands.iter().find(|command| apt_verb(command) == Some("update")) else {
        return false;
    };
    let uses_nothing = commands.iter().all(|command| match is_apt(command) {
        true => {
            matches!(apt_verb(command), Some("update" | "clean" | "autoclean" | "distclean" | "autoremove"))
        }
        false => HARMLESS.contains(&command.name()) && !command.words[0].contains('/'),
    });
    if !uses_nothing || mounts_over(run, "/var/lib/apt") {
        return false;
    }
    let message = "the lists of this step are cached, and will be too old for a later step that installs";
    let help = format!("install in the same RUN: `{} && apt-get install -y PACKAGE`", update.words.join(" "));
    checker.advise(Code::AptGetUpdateAlone, update.span, message, help);
    true
}

/// What a package manager leaves behind in the step, unless it is told not to.
struct Manager {
    /// Its programs.
    names: &'static [&'static str],
    /// Verbs that leave something behind.
    verbs: &'static [&'static str],
    /// Where it is left; the first is what a mount must cover.
    places: &'static [&'static str],
    /// Verbs that remove it again.
    clean: &'static [&'static str],
    /// Options that prevent it.
    options: &'static [&'static str],
    /// What to do.
    help: &'static str,
}

const MANAGERS: [Manager; 4] = [
    Manager {
        names: &["apt-get", "apt", "aptitude"],
        verbs: &["update"],
        places: &["/var/lib/apt"],
        clean: &["distclean"],
        options: &[],
        help: "end the RUN with `&& rm -rf /var/lib/apt/lists/*`, or keep the lists out of the image with \
               `--mount=type=cache,target=/var/lib/apt`",
    },
    Manager {
        names: &["apk"],
        verbs: &["add", "update", "upgrade"],
        places: &["/var/cache/apk", "/etc/apk/cache"],
        clean: &[],
        options: &["--no-cache"],
        help: "write `apk add --no-cache …`",
    },
    Manager {
        names: &["dnf", "yum", "microdnf", "dnf5", "tdnf"],
        verbs: &["install", "update", "upgrade", "localinstall", "groupinstall", "reinstall"],
        places: &["/var/cache/dnf", "/var/cache/yum", "/var/cache/libdnf5", "/var/cache/tdnf"],
        clean: &["clean"],
        options: &[],
        help: "end the RUN with `&& dnf clean all` (or that of the program it is)",
    },
    Manager {
        names: &["zypper"],
        verbs: &["install", "in", "update", "up", "dist-upgrade", "dup", "refresh", "ref"],
        places: &["/var/cache/zypp"],
        clean: &["clean", "cc"],
        options: &[],
        help: "end the RUN with `&& zypper clean --all`",
    },
];

fn lists_kept(checker: &mut Checker<'_>, run: &Run, commands: &[Simple]) {
    let commands: Vec<Simple> = commands.iter().map(bare).collect();
    // A script of the image's own may do anything.
    if commands.iter().any(|command| {
        command.words[0].starts_with(['.', '/', '$'])
            && command.words[0].contains('/')
            && !command.words[0].contains("bin/")
    }) {
        return;
    }
    for manager in &MANAGERS {
        let is_it = |command: &&Simple| manager.names.contains(&command.name());
        let does = |command: &Simple, verbs: &[&str]| {
            command.arguments().iter().any(|word| verbs.contains(&word.as_str()))
        };
        let leaves = |command: &&Simple| {
            does(command, manager.verbs) && !manager.options.iter().any(|option| command.has(option))
        };
        let Some(leaving) = commands.iter().filter(is_it).find(leaves) else { continue };
        let cleaned = commands.iter().filter(is_it).any(|command| does(command, manager.clean));
        let removed = commands.iter().any(|command| removes(command, manager.places));
        if cleaned || removed || manager.places.iter().any(|place| mounts_over(run, place)) {
            continue;
        }
        let what = if manager.names[0] == "apk" || manager.verbs == ["update"] { "lists" } else { "cache" };
        let message = format!("the package {what} of `{}` stay in the image", leaving.name());
        let message = if what == "cache" { message.replace("stay", "stays") } else { message };
        checker.advise(Code::PackageListsKept, leaving.span, message, manager.help);
    }
}

/// Whether a command removes something in, or above, one of the places; a name with a variable or a brace may be it.
fn removes(command: &Simple, places: &[&str]) -> bool {
    if !matches!(command.name(), "rm" | "find" | "shred" | "mv" | "xargs" | "eval") {
        return false;
    }
    command.arguments().iter().any(|word| {
        let path = word.trim_end_matches(['*', '/']);
        word.contains(['$', '{', '`'])
            || places.iter().any(|place| word.starts_with(place) || (path.len() > 1 && is_below(place, path)))
    })
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a mount that leaves no trace covers the directory, or what a package manager writes in it.
fn mounts_over(run: &Run, dir: &str) -> bool {
    run.flags.iter().filter(|flag| flag.name.node == "mount").any(|flag| {
        let value = flag.value.as_ref().map(|word| word.node.as_str()).unwrap_or_default();
        let fields: Vec<(&str, &str)> = value.split(',').filter_map(|field| field.split_once('=')).collect();
        let get = |names: &[&str]| {
            fields.iter().find(|(name, _)| names.contains(&name.trim())).map(|(_, value)| value.trim())
        };
        let kind = get(&["type"]).unwrap_or("bind");
        let Some(target) = get(&["target", "dst", "destination"]) else { return false };
        let target = target.trim_end_matches('/');
        matches!(kind, "cache" | "tmpfs")
            && (target.contains('$') || is_below(dir, target) || is_below(target, dir))
    })
}
