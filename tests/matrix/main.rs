//! A step's layer does not depend on how layers are stacked, which ids can be mapped, or who builds.
//!
//! The scenarios of `testdata/changes/` are built one after the other, in every configuration there is:
//! each backend, with a range of ids and with one, by either of two users. The diff IDs of each have to
//! be the same everywhere, and its layer what the scenario says.

mod listing;
mod scenario;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use scenario::Scenario;
use support::{Lab, given, is_root, run};

const BACKENDS: &[&str] = &["overlay", "fuse", "copy"];
const IDENTITIES: &[&str] = &["range", "single"];
const USERS: &[&str] = &["COOPER_TEST_USER", "COOPER_TEST_USER2"];

/// Configurations that are built at the same time.
const AT_ONCE: usize = 2;

/// The files of scenarios.
const THEMES: &[&str] = &["content", "kinds", "directories", "links", "metadata", "names", "owners", "tools"];

/// One way to build.
#[derive(Debug, Clone, Copy)]
struct Configuration {
    backend: &'static str,
    identity: &'static str,
    user: &'static str,
}

fn configurations(backends: &[&'static str]) -> Vec<Configuration> {
    let mut all = Vec::new();
    for &backend in backends {
        for &identity in IDENTITIES {
            for &user in USERS {
                all.push(Configuration { backend, identity, user });
            }
        }
    }
    all
}

/// What came out of one of them.
struct Built {
    lab: Lab,
    /// The diff IDs of what was there before the changes.
    below: Vec<String>,
    /// And one for each change.
    changes: Vec<String>,
}

#[test]
fn every_change_is_one_layer_in_every_configuration() {
    assert!(hold(THEMES, BACKENDS) >= 60);
}

#[test]
fn what_fuse_overlayfs_cannot_do_the_others_can() {
    // The program keeps paths as strings that end at 4096 bytes, and puts `.wh.` before names. What a
    // directory hands down to new entries it leaves out.
    hold(&["lengths", "inherited"], &["overlay", "copy"]);
}

/// Builds the scenarios of some themes with some backends, and panics with all that is wrong; gives their
/// number.
fn hold(themes: &[&str], backends: &[&'static str]) -> usize {
    assert!(is_root(), "two users need root: run scripts/test as root");
    let only = std::env::var("COOPER_MATRIX").unwrap_or_default();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/changes");
    let mut scenarios: Vec<Scenario> = themes
        .iter()
        .flat_map(|theme| scenario::parse(&directory.join(theme).with_extension("txt")))
        .collect();
    let count = scenarios.len();
    scenarios.retain(|s| s.name.contains(&only));

    let calls =
        PathBuf::from(given("COOPER_TEST_DIR")).join(format!("call-{}-{}", themes[0], std::process::id()));
    run(Command::new("cc").args(["-static", "-O1", "-o"]).arg(&calls).arg(directory.join("call.c")))
        .succeeds();

    let configurations = configurations(backends);
    let next = AtomicUsize::new(0);
    let built: Vec<OnceLock<Result<Built, String>>> =
        configurations.iter().map(|_| OnceLock::new()).collect();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(configuration) = configurations.get(at) else { return };
                    let _ = built[at].set(build(*configuration, &scenarios, &calls));
                }
            });
        }
    });

    let mut wrong = Vec::new();
    let mut first: Option<&Built> = None;
    for (configuration, built) in configurations.iter().zip(built.iter().filter_map(OnceLock::get)) {
        match (built, first) {
            (Err(said), _) => wrong.push(format!("── {configuration:?}: the build fails\n{said}")),
            (Ok(built), None) => {
                first = Some(built);
                wrong.extend(scenarios.iter().enumerate().filter_map(|(at, s)| built.unlike_written(at, s)));
            }
            (Ok(built), Some(first)) => {
                let unlike = scenarios.iter().enumerate().filter_map(|(at, s)| built.unlike(first, at, s));
                wrong.extend(unlike.map(|text| format!("── {configuration:?}: {text}")));
                if built.below != first.below {
                    wrong.push(format!("── {configuration:?}: the layers below are others"));
                }
            }
        }
    }
    println!("{} scenarios, {} configurations, {} wrong", scenarios.len(), built.len(), wrong.len());
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n\n"));
    count
}

/// Builds all scenarios on top of each other.
fn build(configuration: Configuration, scenarios: &[Scenario], calls: &Path) -> Result<Built, String> {
    let mut lab = Lab::of(&given(configuration.user)).storage(configuration.backend);
    if configuration.identity == "single" {
        lab = lab.single_id();
    }
    lab.cooper(&["import", &given("COOPER_TEST_BUSYBOX"), "busybox"]).succeeds();
    fs::copy(calls, lab.dir.join("ctx/call")).unwrap();
    lab.containerfile(&containerfile(scenarios));
    for scenario in scenarios {
        if let Some(script) = &scenario.context {
            let dir = lab.dir.join("ctx").join(&scenario.name);
            fs::create_dir(&dir).unwrap();
            lab.hand_over();
            run(lab.command("sh").args(["-euc", script]).current_dir(&dir)).succeeds();
        }
    }
    let date = format!("@{}", listing::NEW);
    let mut touch = Command::new("find");
    run(touch.arg(lab.dir.join("ctx")).args(["-exec", "touch", "-h", "-d", &date, "{}", "+"])).succeeds();
    let said = lab.build(&["--compression", "none", "-o", "oci:out:latest"]);
    if !said.status.success() {
        return Err(said.error().to_owned());
    }
    let (_, config) = lab.image("out");
    let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap();
    let diff_ids: Vec<String> = diff_ids.iter().map(|id| id.as_str().unwrap().to_owned()).collect();
    let (below, changes) = diff_ids.split_at(diff_ids.len() - scenarios.len());
    Ok(Built { lab, below: below.to_vec(), changes: changes.to_vec() })
}

/// The lower layers of all scenarios first, then a layer for each change.
fn containerfile(scenarios: &[Scenario]) -> String {
    let mut text = "FROM busybox\nCOPY --chmod=755 call /bin/\n".to_owned();
    let depth = scenarios.iter().map(|s| s.before.len()).max().unwrap_or(0);
    for level in 0..depth {
        text += "RUN <<'END'\nset -eu\n";
        for scenario in scenarios {
            let script = scenario.before.get(level).map_or("", String::as_str);
            text += &format!("mkdir -p /s/{0}\n(cd /s/{0}\n{script}\n)\n", scenario.name);
        }
        text += "call settle /s\nEND\n";
    }
    for scenario in scenarios {
        text += &scenario.change;
        text += "\n";
    }
    text
}

impl Built {
    /// What the layer of change number `at` holds.
    fn layer(&self, at: usize, scenario: &Scenario) -> Vec<String> {
        let digest = &self.lab.layers("out")[self.below.len() + at];
        let blob = self.lab.dir.join("out/blobs").join(digest.replace(':', "/"));
        listing::list(fs::File::open(blob).unwrap(), &format!("s/{}", scenario.name))
    }

    /// How a layer differs from what the scenario says, if it does.
    fn unlike_written(&self, at: usize, scenario: &Scenario) -> Option<String> {
        let lines = self.layer(at, scenario);
        let Scenario { name, title, layer, .. } = scenario;
        let text = || format!("── {name}: {title}\n{}", differences(layer, &lines));
        (lines != *layer).then(text)
    }

    /// How it differs from that of another configuration.
    fn unlike(&self, other: &Built, at: usize, scenario: &Scenario) -> Option<String> {
        let text = || {
            let (these, those) = (self.layer(at, scenario), other.layer(at, scenario));
            format!("another layer of {}\n{}", scenario.name, differences(&those, &these))
        };
        (self.changes[at] != other.changes[at]).then(text)
    }
}

/// Lines that are in one of them only, expected ones with a minus.
fn differences(expected: &[String], found: &[String]) -> String {
    let lacking = expected.iter().filter(|l| !found.contains(l)).map(|l| format!("  - {l}"));
    let added = found.iter().filter(|l| !expected.contains(l)).map(|l| format!("  + {l}"));
    lacking.chain(added).collect::<Vec<_>>().join("\n")
}
