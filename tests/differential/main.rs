//! The same images with the cache and without.
//!
//! Random Containerfiles and contexts are changed a few times, and each version is built again and again in
//! a random order in one store, whose cache therefore knows parts of it, and loses parts of what it knows.
//! Whatever it finds there, a build has to give the image that a build in an empty store gives, with
//! another storage backend, too. Times are rewritten, for they are the one licensed difference.
//!
//! `COOPER_DIFFERENTIAL=N[:FIRST]` tries N seeds, from FIRST on. What fails is made smaller before it is
//! printed, with all that it takes to see it again.

#![allow(unreachable_pub, reason = "a test is a crate that nothing uses")]

mod generate;
#[path = "../../examples/fuzz/random.rs"]
#[allow(dead_code, reason = "not all of it is wanted here")]
mod random;
#[path = "../support/mod.rs"]
mod support;
mod world;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use generate::Generator;
use random::Random;
use support::{Lab, given, is_root};
use world::World;

/// What CI has time for.
const SEEDS: usize = 6;
/// Seeds that run at the same time.
const AT_ONCE: usize = 2;
/// How long a failure is made smaller.
const SHRINKING: Duration = Duration::from_secs(120);

/// One build in the store that is used again and again.
#[derive(Debug, Clone)]
struct Visit {
    /// Which version.
    version: usize,
    /// How many of the cache's records are removed before: one in so many, none with 0.
    forgets: usize,
    /// Another version that is built at the same time from a directory of its own.
    beside: Option<usize>,
}

/// Versions of a world, and the order in which they are built.
#[derive(Debug, Clone)]
struct History {
    versions: Vec<World>,
    visits: Vec<Visit>,
}

/// The image's digest, or the exit code.
type Outcome = Result<String, Option<i32>>;

/// What was not as it has to be.
struct Wrong {
    visit: usize,
    version: usize,
    /// How the build that differs was done.
    how: String,
    expected: Outcome,
    got: Outcome,
    log: String,
}

fn history(seed: usize) -> History {
    let mut generator = Generator::new(Random::of(seed as u64, 0));
    let mut versions = vec![generator.world()];
    for _ in 0..2 + generator.random.below(3) {
        let from = generator.random.below(versions.len());
        let version = generator.changed(&versions[from]);
        versions.push(version);
    }
    let random = &mut generator.random;
    let mut visits: Vec<Visit> = (0..versions.len() * 2)
        .map(|_| Visit {
            version: random.below(versions.len()),
            forgets: if random.once_in(4) { 1 + random.below(3) } else { 0 },
            beside: random.once_in(6).then(|| random.below(versions.len())),
        })
        .collect();
    // Each once at least, and once when all is known.
    visits.extend((0..versions.len()).map(|version| Visit { version, forgets: 0, beside: None }));
    History { versions, visits }
}

/// The stores and contexts of one history.
struct Place {
    lab: Lab,
    owner: (u32, u32),
    /// What lies in the contexts.
    contexts: [Option<World>; 2],
    /// More arguments of some of the builds.
    jobs: bool,
}

impl Place {
    fn new() -> Place {
        let lab = Lab::new();
        let user = nix::unistd::User::from_name(&given("COOPER_TEST_USER")).unwrap().unwrap();
        let help = lab.cooper(&["build", "--help"]);
        let place = Place {
            owner: (user.uid.as_raw(), user.gid.as_raw()),
            contexts: [None, None],
            jobs: help.stdout.contains("--jobs"),
            lab,
        };
        for store in ["warm", "cold"] {
            place.lab.cooper(&["--root", store, "import", &given("COOPER_TEST_BUSYBOX"), "bare"]).succeeds();
            place.lab.containerfile(
                "FROM bare\nRUN mkdir -p /out/d /srv/d /log && echo a > /out/a && echo d > /srv/d/a \\\n\
                 && chmod 777 /out /out/d /srv /log && echo app:x:1000:1000::/home/app:/bin/sh >> /etc/passwd \\\n\
                 && printf 'app:x:1000:\\nstaff:x:50:app\\n' >> /etc/group\n",
            );
            let said = place.lab.cooper(&[
                "--root",
                store,
                "build",
                "-t",
                generate::BASE,
                "--timestamp",
                "1",
                "ctx",
            ]);
            said.succeeds();
        }
        place
    }

    fn command(&self, store: &str, directory: usize, world: &World, more: &[&str]) -> Command {
        let file = self.lab.dir.join(format!("{directory}.Containerfile"));
        fs::write(&file, world.containerfile()).unwrap();
        let mut command = self.lab.command("timeout");
        command
            .arg("120")
            .arg(given("COOPER_TEST_BIN"))
            .args(["--root", store, "--progress=plain"])
            .args(more);
        command.args(["build", "--source-date-epoch", "0", "--rewrite-timestamp", "-f"]).arg(&file);
        for (name, value) in &world.args {
            command.arg("--build-arg").arg(format!("{name}={value}"));
        }
        command
    }

    fn write(&mut self, directory: usize, world: &World) -> PathBuf {
        let dir = self.lab.dir.join(format!("context{directory}"));
        world.write(self.contexts[directory].as_ref(), &dir, self.owner);
        self.contexts[directory] = Some(world.clone());
        // What is younger than a tick of the clock is taken for what may still change.
        std::thread::sleep(Duration::from_millis(25));
        dir
    }

    fn build(&mut self, store: &str, world: &World, global: &[&str], more: &[&str]) -> (Outcome, String) {
        let dir = self.write(0, world);
        let said = support::run(self.command(store, 0, world, global).args(more).arg(dir));
        outcome(&said)
    }

    /// Removes some of what the cache knows.
    fn forget(&self, random: &mut Random, one_in: usize) {
        let Ok(steps) = fs::read_dir(self.lab.dir.join("warm/cache/steps")) else { return };
        let mut steps: Vec<PathBuf> = steps.map(|e| e.unwrap().path()).collect();
        steps.sort();
        for step in steps {
            if random.once_in(one_in) {
                fs::remove_dir_all(step).unwrap();
            }
        }
    }
}

fn outcome(said: &support::Said) -> (Outcome, String) {
    let outcome = match said.status.success() {
        true => Ok(said.stdout.trim().to_owned()),
        false => Err(said.status.code()),
    };
    (outcome, said.stderr.clone())
}

/// Lives through a history.
fn live(history: &History, seed: usize, counts: &Counts) -> Option<Wrong> {
    let mut place = Place::new();
    if is_root() {
        chown(&place.lab.dir, Some(place.owner.0), Some(place.owner.1)).unwrap();
    }
    let mut random = Random::of(seed as u64, 1);
    let mut expected: HashMap<usize, Outcome> = HashMap::new();
    for (at, visit) in history.visits.iter().enumerate() {
        let world = &history.versions[visit.version];
        let wrong = |version, how: &str, expected: &Outcome, (got, log): (Outcome, String)| {
            counts.builds.fetch_add(1, Ordering::Relaxed);
            let cached = log.lines().filter(|line| line.ends_with(" CACHED")).count();
            counts.cached.fetch_add(cached, Ordering::Relaxed);
            let how = how.to_owned();
            let expected = expected.clone();
            (got != expected).then_some(Wrong { visit: at, version, how, expected, got, log })
        };
        if visit.forgets > 0 {
            place.forget(&mut random, visit.forgets);
        }
        for version in [Some(visit.version), visit.beside].into_iter().flatten() {
            if expected.contains_key(&version) {
                continue;
            }
            let world = &history.versions[version];
            // One step after the other, and nothing done ahead of its turn.
            let (cold, _) = place.build("cold", world, &[], &["--no-cache", "--jobs", "1"]);
            counts.builds.fetch_add(1, Ordering::Relaxed);
            counts.worlds.fetch_add(1, Ordering::Relaxed);
            counts.failing.fetch_add(usize::from(cold.is_err()), Ordering::Relaxed);
            let storage = *random.one_of(&[&["--storage", "copy"], &["--storage", "fuse"]]);
            let other = place.build("cold", world, &storage, &["--no-cache"]);
            if let Some(wrong) = wrong(version, &format!("{} --no-cache", storage.join(" ")), &cold, other) {
                return Some(wrong);
            }
            expected.insert(version, cold);
        }
        let jobs = if place.jobs && random.once_in(2) {
            vec!["--jobs", random.one_of(&["1", "2", "7"])]
        } else {
            Vec::new()
        };
        let how = format!("warm {}", jobs.join(" "));
        let Some(beside) = visit.beside else {
            let got = place.build("warm", world, &[], &jobs);
            if let Some(wrong) = wrong(visit.version, &how, &expected[&visit.version], got) {
                return Some(wrong);
            }
            continue;
        };
        let other = &history.versions[beside];
        let dirs = [place.write(0, world), place.write(1, other)];
        let mut commands = [place.command("warm", 0, world, &[]), place.command("warm", 1, other, &[])];
        let saids = std::thread::scope(|scope| {
            let mut running = Vec::new();
            for (command, dir) in commands.iter_mut().zip(&dirs) {
                command.args(&jobs).arg(dir);
                running.push(scope.spawn(|| support::run(command)));
            }
            running.into_iter().map(|r| r.join().unwrap()).collect::<Vec<_>>()
        });
        for (version, said) in [visit.version, beside].into_iter().zip(&saids) {
            let how = format!("{how}, beside another build");
            if let Some(wrong) = wrong(version, &how, &expected[&version], outcome(said)) {
                return Some(wrong);
            }
        }
    }
    None
}

/// What was done, over all seeds.
#[derive(Default)]
struct Counts {
    builds: AtomicUsize,
    cached: AtomicUsize,
    worlds: AtomicUsize,
    failing: AtomicUsize,
}

/// A history that goes wrong and has as little in it as can be found in the time.
fn smaller(mut history: History, seed: usize, wrong: Wrong) -> (History, Wrong) {
    let until = Instant::now() + SHRINKING;
    history.visits.truncate(wrong.visit + 1);
    let mut last = wrong;
    let mut attempt = |history: &mut History, candidate: History| {
        if Instant::now() > until {
            return false;
        }
        match live(&candidate, seed, &Counts::default()) {
            Some(wrong) => {
                *history = candidate;
                history.visits.truncate(wrong.visit + 1);
                last = wrong;
                true
            }
            None => false,
        }
    };
    let mut at = 0;
    while at < history.visits.len() {
        let mut candidate = history.clone();
        candidate.visits.remove(at);
        if !attempt(&mut history, candidate) {
            at += 1;
        }
    }
    let mut numbers: Vec<usize> = Vec::new();
    for step in history.versions.iter().flat_map(|w| &w.stages).flat_map(|s| &s.steps) {
        if !numbers.contains(&step.number) {
            numbers.push(step.number);
        }
    }
    for number in numbers.into_iter().rev() {
        let mut candidate = history.clone();
        for stage in candidate.versions.iter_mut().flat_map(|w| &mut w.stages) {
            stage.steps.retain(|step| step.number != number);
        }
        attempt(&mut history, candidate);
    }
    (history, last)
}

fn report(history: &History, seed: usize, wrong: &Wrong) -> String {
    let Wrong { visit, version, how, expected, got, log } = wrong;
    let mut text = format!(
        "── seed {seed} (COOPER_DIFFERENTIAL=1:{seed}): at visit {visit}, version {version} ({how})\n\
         gives {got:?}\nnot   {expected:?}, as --no-cache does in another store\n"
    );
    for (at, visit) in history.visits.iter().enumerate() {
        text.push_str(&format!("visit {at}: {visit:?}\n"));
    }
    let shown =
        |v: &usize| history.visits.iter().any(|visit| visit.version == *v || visit.beside == Some(*v));
    for version in (0..history.versions.len()).filter(shown) {
        text.push_str(&format!("\nversion {version}: {}", history.versions[version].describe()));
    }
    text + "\n" + log
}

#[test]
fn a_cached_build_gives_what_a_fresh_one_gives() {
    let given = std::env::var("COOPER_DIFFERENTIAL").unwrap_or_default();
    let (count, first) = given.split_once(':').unwrap_or((&given, "1"));
    let count = if count.is_empty() { SEEDS } else { count.parse().expect("COOPER_DIFFERENTIAL=N[:FIRST]") };
    let first: usize = first.parse().expect("COOPER_DIFFERENTIAL=N[:FIRST]");
    let (next, failures, counts) = (AtomicUsize::new(first), Mutex::new(Vec::new()), Counts::default());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    let history = history(seed);
                    if let Some(wrong) = live(&history, seed, &counts) {
                        eprintln!("seed {seed} goes wrong at visit {}; it is made smaller", wrong.visit);
                        let (history, wrong) = smaller(history, seed, wrong);
                        failures.lock().unwrap().push(report(&history, seed, &wrong));
                    }
                }
            });
        }
    });
    let Counts { builds, cached, worlds, failing } = &counts;
    let number = |n: &AtomicUsize| n.load(Ordering::Relaxed);
    let (worlds, failing) = (number(worlds), number(failing));
    println!(
        "{count} seeds, {worlds} versions of which {failing} fail, {} builds, {} steps from the cache",
        number(builds),
        number(cached)
    );
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n\n"));
    if count < SEEDS {
        return;
    }
    assert!(failing * 4 <= worlds, "too many versions fail to say anything: {failing} of {worlds}");
    assert!(number(cached) > number(builds), "hardly anything was cached");
}
