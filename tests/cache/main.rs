//! What makes a step run again, and what does not: the scenes of testdata/cache, held against the real
//! program as an ordinary user runs it.
//!
//! A test for each directory, so that its scenes share a store. `COOPER_CACHE=text` runs only the scenes
//! with the text in their names. testdata/cache/README.md describes the scenes, docs/src/cache.md the rules.

#![allow(unreachable_pub, reason = "a test is a crate that nothing uses")]

mod scene;

#[path = "../support/mod.rs"]
mod support;
#[path = "../conformance/web.rs"]
mod web;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use scene::{Edit, Row, Scene, Surroundings, in_place, replace_once};
use support::{Lab, Said, files, given, run};

macro_rules! themes {
    ($($test:ident $theme:literal)*) => {
        $(#[test] fn $test() { theme($theme) })*
        const THEMES: &[&str] = &[$($theme),*];
    };
}

themes! {
    add "add"
    arguments "arguments"
    bases "bases"
    configuration "configuration"
    copy "copy"
    copy_from "copy-from"
    options "options"
    run_mounts "run-mounts"
    runs "run"
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/cache")
}

fn scene_files(theme: &str) -> Vec<PathBuf> {
    let directory = root().join(theme);
    let listed = fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut files: Vec<PathBuf> = listed.map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn there_are_enough_changes_and_each_scene_has_a_test() {
    let entries = fs::read_dir(root()).unwrap().map(|e| e.unwrap());
    let found: BTreeSet<String> = entries
        .filter(|e| e.file_type().unwrap().is_dir())
        .map(|e| e.file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, THEMES.iter().map(|t| (*t).to_owned()).collect());
    let parsed = |path: &PathBuf| scene::parse("", path, &str::to_owned).unwrap();
    let scenes: Vec<Scene> = THEMES.iter().flat_map(|t| scene_files(t)).map(|p| parsed(&p)).collect();
    let rows = || scenes.iter().flat_map(|s| &s.rows);
    let (all, hits) = (rows().count(), rows().filter(|row| row.runs.is_empty()).count());
    println!("{} scenes, {hits} changes that run nothing, {} that do", scenes.len(), all - hits);
    assert!(all >= 300 && hits >= 120, "{all} changes, {hits} of which run nothing");
}

/// Runs the scenes of one directory and panics with all that is wrong.
fn theme(theme: &str) {
    let lab = Lab::with_busybox();
    let port = web::serve(lab.dir.clone());
    let only = std::env::var("COOPER_CACHE").unwrap_or_default();
    let mut failures = Vec::new();
    for path in scene_files(theme) {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if !format!("{theme}/{name}").contains(&only) {
            continue;
        }
        let dir = lab.dir.join(&name);
        let replace = |text: &str| {
            text.replace("@HTTP@", &format!("http://127.0.0.1:{port}/{name}"))
                .replace("@DIR@", dir.to_str().unwrap())
        };
        match scene::parse(&name, &path, &replace) {
            Err(why) => failures.push(format!("── {theme}/{name} is malformed: {why}")),
            Ok(scene) => {
                let mut play = |row: Option<&Row>| {
                    let wrong = try_row(&lab, &scene, &dir, row).err();
                    let what = row.map_or("as it is at first", |row| &row.reason);
                    failures.extend(wrong.map(|why| format!("── {theme}/{}: {what}\n{why}", scene.name)));
                };
                play(None);
                for row in &scene.rows {
                    play(Some(row));
                }
            }
        }
    }
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n\n"));
}

/// Builds a scene as it is, from files that were just made, and then changed in place by a row.
fn try_row(lab: &Lab, scene: &Scene, dir: &Path, row: Option<&Row>) -> Result<(), String> {
    let _ = fs::remove_dir_all(dir);
    let context = dir.join("ctx");
    fs::create_dir_all(&context).unwrap();
    files::write(&scene.files, &context, dir)?;
    if let Some(setup) = &scene.setup {
        files::script(lab, setup, &context).map_err(|e| format!("setup: {e}"))?;
    }
    // What is copied has its times in the layer. Only what a row changes is to be another one.
    let old = ["-exec", "touch", "-h", "-d", "@1500000000", "{}", "+"];
    run(lab.command("find").arg(dir).args(old)).succeeds();
    let mut file = scene.containerfile.clone();
    let mut bases = scene.bases.clone();
    let mut around = scene.surroundings.clone();
    let said = build(lab, dir, &file, &bases, &around)?;
    let Some(row) = row else {
        return match steps(&said).is_empty() {
            true => Err(format!("there are no steps\n{}", said.stderr)),
            false => Ok(()),
        };
    };
    let again = ran(&said);
    if !again.is_empty() {
        return Err(format!("the same from other files of equal content runs {again:?}\n{}", said.stderr));
    }
    for edit in &row.edits {
        match edit {
            Edit::Text { base: None, old, new } => file = replace_once(&file, old, new)?,
            Edit::Text { base: Some(name), old, new } => {
                let base = bases.iter_mut().find(|(n, _)| n == name).ok_or(format!("no base {name}"))?;
                base.1 = replace_once(&base.1, old, new)?;
            }
            Edit::File(file) => {
                if !in_place(file) {
                    let _ = fs::remove_file(context.join(&file.path));
                }
                // Nothing but this file changes its change time.
                files::write(std::slice::from_ref(file), &context, &context.join(&file.path))?;
            }
            Edit::Remove(path) => fs::remove_file(context.join(path)).map_err(|e| format!("{path}: {e}"))?,
            Edit::Script(script) => files::script(lab, script, &context)?,
            Edit::Args(args) => around.args.clone_from(args),
            Edit::Env(name, value) => around.env.push((name.clone(), value.clone())),
        }
    }
    let said = build(lab, dir, &file, &bases, &around)?;
    let ran = ran(&said);
    match ran == row.runs {
        true => Ok(()),
        false => Err(format!("runs {ran:?}, not {:?}\n{}", row.runs, said.stderr)),
    }
}

fn build(
    lab: &Lab,
    dir: &Path,
    file: &str,
    bases: &[(String, String)],
    around: &Surroundings,
) -> Result<Said, String> {
    let cooper = |file: &str, more: &[&str], around: &Surroundings| {
        let path = dir.join("Containerfile");
        fs::write(&path, file).unwrap();
        let mut command = lab.command("timeout");
        command.arg("60").arg(given("COOPER_TEST_BIN")).current_dir(dir);
        command.args(["--progress=plain", "build", "-f"]).arg(path).args(more).args(&around.args).arg("ctx");
        command.envs(around.env.iter().map(|(name, value)| (name, value)));
        let said = run(&mut command);
        match said.status.success() {
            true => Ok(said),
            false => Err(format!("{:?}\n{}", said.status, said.stderr)),
        }
    };
    for (name, text) in bases {
        cooper(text, &["-t", name], &Surroundings::default()).map_err(|e| format!("the base {name}: {e}"))?;
    }
    cooper(file, &[], around)
}

/// The steps of a build, and whether each was run.
fn steps(said: &Said) -> Vec<(String, bool)> {
    let mut labels = BTreeMap::new();
    let mut steps = Vec::new();
    for line in said.stderr.lines() {
        let Some((number, rest)) = line.strip_prefix('#').and_then(|l| l.split_once(' ')) else { continue };
        if let Some((stage, at)) = rest.strip_prefix('[').and_then(|r| r.split_once(']')?.0.split_once(' ')) {
            let at = at.split('/').next().unwrap_or_default();
            labels.insert(number, format!("{stage}.{at}"));
        } else if let Some(label) = labels.get(number) {
            match rest.split(' ').next() {
                Some("CACHED") => steps.push((label.clone(), false)),
                Some("DONE") => steps.push((label.clone(), true)),
                _ => {}
            }
        }
    }
    steps
}

/// The labels of the steps that were run; where there is one stage, without its name.
fn ran(said: &Said) -> BTreeSet<String> {
    let steps = steps(said);
    let stage = |label: &str| label.split('.').next().unwrap_or_default().to_owned();
    let stages: BTreeSet<String> = steps.iter().map(|(label, _)| stage(label)).collect();
    let short = |label: String| match stages.len() {
        1 => label.split('.').nth(1).unwrap_or_default().to_owned(),
        _ => label,
    };
    steps.into_iter().filter(|(_, ran)| *ran).map(|(label, _)| short(label)).collect()
}
