//! The cases of testdata/conformance, held against the real program as an ordinary user runs it.
//!
//! A test for each directory, so that its cases share a store. `COOPER_CONFORMANCE=text` runs only the
//! cases with the text in their names. testdata/conformance/README.md describes the cases.

#![allow(unreachable_pub, reason = "a test is a crate that nothing uses")]

mod case;
mod compare;
mod tree;
mod web;

#[path = "../support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use case::Case;
use support::{Lab, Said, files, given, run};

macro_rules! themes {
    ($($test:ident $theme:literal)*) => {
        $(#[test] fn $test() { theme($theme) })*
        const THEMES: &[&str] = &[$($theme),*];
    };
}

themes! {
    add "add"
    arguments "arg"
    checks "check"
    config "config"
    contexts "context"
    copy "copy"
    copy_flags "copy-flags"
    destinations "copy-dest"
    environment "env"
    errors "errors"
    from "from"
    healthcheck "healthcheck"
    heredocs "heredoc"
    ignore "ignore"
    labels "label"
    onbuild "onbuild"
    platforms "platform"
    ports "expose"
    run_mounts "run-mount"
    runs "run"
    syntax "syntax"
    times "times"
    users "user"
    volumes "volume"
    words "words"
    workdirs "workdir"
}

/// Cases of one directory that run at the same time.
const AT_ONCE: usize = 2;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/conformance")
}

fn case_files(theme: &str) -> Vec<PathBuf> {
    let directory = root().join(theme);
    let listed = fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut files: Vec<PathBuf> = listed.map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn there_are_enough_cases_and_each_has_a_test() {
    let entries = fs::read_dir(root()).unwrap().map(|e| e.unwrap());
    let found: BTreeSet<String> = entries
        .filter(|e| e.file_type().unwrap().is_dir())
        .map(|e| e.file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, THEMES.iter().map(|t| (*t).to_owned()).collect());
    let count: usize = THEMES.iter().map(|t| case_files(t).len()).sum();
    println!("{count} cases");
    assert!(count >= 250, "{count} cases");
}

/// Runs the cases of one directory and panics with all that is wrong.
fn theme(theme: &str) {
    let lab = Lab::with_busybox();
    fs::write(lab.dir.join("plain.Containerfile"), "FROM busybox\n").unwrap();
    lab.cooper(&["build", "-f", "plain.Containerfile", "-o", "oci:plain:latest", "ctx"]).succeeds();
    let port = web::serve(lab.dir.clone());
    let only = std::env::var("COOPER_CONFORMANCE").unwrap_or_default();
    let mut cases = Vec::new();
    let mut failures = Vec::new();
    let mut bases = BTreeMap::new();
    for path in case_files(theme) {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if !format!("{theme}/{name}").contains(&only) {
            continue;
        }
        let dir = lab.dir.join(&name);
        let replace = |text: &str| {
            text.replace("@HTTP@", &format!("http://127.0.0.1:{port}/{name}"))
                .replace("@DIR@", dir.to_str().unwrap())
        };
        match case::parse(&name, &path, &replace) {
            Ok(case) => {
                for (name, text) in &case.bases {
                    // One store for all: a name means one thing.
                    let earlier = bases.insert(name.clone(), text.clone());
                    assert!(earlier.is_none_or(|e| e == *text), "{}: two bases are called {name}", case.name);
                }
                cases.push(case);
            }
            Err(why) => failures.push(format!("── {theme}/{name} is malformed: {why}")),
        }
    }
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(failures));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let plain = tree::read_image(&lab.dir.join("plain"), "").unwrap();
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let wrong = try_case(&lab, case, &plain);
                    if !wrong.is_empty() {
                        let text = format!("── {theme}/{}: {}\n{}", case.name, case.title, wrong.join("\n"));
                        failures.lock().unwrap().push(text);
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    println!("{theme}: {} cases, {} wrong", cases.len(), failures.len());
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n\n"));
}

/// What is wrong with one case, nothing if all is well.
fn try_case(lab: &Lab, case: &Case, plain: &tree::Image) -> Vec<String> {
    let dir = lab.dir.join(&case.name);
    if let Err(why) = prepare(lab, case, &dir) {
        return vec![why];
    }
    for (name, text) in &case.bases {
        let file = format!("{name}.base");
        fs::write(dir.join(&file), text).unwrap();
        let built = cooper(lab, case, &dir, &["build", "-t", name, "-f", &file, "nothing"]);
        if !built.status.success() {
            return vec![format!("the base {name}: {}", built.stderr)];
        }
    }
    let mut arguments: Vec<&str> = vec!["--progress=plain"];
    let looks = case.args.iter().any(|a| a == "--check" || a.starts_with("--print"));
    match &case.command {
        Some(command) => arguments.extend(command.iter().map(String::as_str)),
        None => {
            arguments.push("build");
            if !looks {
                arguments.extend(["-o", "oci:out:latest"]);
            }
            // What a step prints is seen only when it runs.
            if case.expect.output.is_some() {
                arguments.push("--no-cache");
            }
            arguments.extend(case.args.iter().map(String::as_str));
            arguments.push(&case.context);
        }
    }
    let said = cooper(lab, case, &dir, &arguments);
    compare::compare(case, &said, &dir, plain, case.command.is_none() && !looks)
}

fn cooper(lab: &Lab, case: &Case, dir: &Path, arguments: &[&str]) -> Said {
    let mut command = lab.command("timeout");
    command.arg("60").arg(given("COOPER_TEST_BIN")).args(arguments).current_dir(dir);
    command.envs(case.env.iter().map(|(k, v)| (k, v)));
    if let Some(file) = &case.stdin {
        command.stdin(fs::File::open(dir.join(file)).unwrap());
    }
    run(&mut command)
}

/// Writes the context, as the ordinary user's.
fn prepare(lab: &Lab, case: &Case, dir: &Path) -> Result<(), String> {
    let context = dir.join("ctx");
    fs::create_dir_all(&context).unwrap();
    fs::create_dir_all(dir.join("nothing")).unwrap();
    files::write(&case.files, &context, dir)?;
    let Some(script) = &case.setup else { return Ok(()) };
    files::script(lab, script, &context).map_err(|e| format!("setup: {e}"))
}
