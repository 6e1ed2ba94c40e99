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
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use scenario::Scenario;
use support::{Lab, given, is_root, run};

const BACKENDS: &[&str] = &["overlay"];
const IDENTITIES: &[&str] = &["range", "single"];
const USERS: &[&str] = &["COOPER_TEST_USER", "COOPER_TEST_USER2"];

/// Configurations that are built at the same time.
const AT_ONCE: usize = 2;

/// The files of scenarios.
const THEMES: &[&str] = &["content", "kinds", "directories", "links", "metadata", "names", "tools"];

/// One way to build.
#[derive(Debug, Clone, Copy)]
struct Configuration {
    backend: &'static str,
    identity: &'static str,
    user: &'static str,
}

fn configurations() -> Vec<Configuration> {
    let mut all = Vec::new();
    for &backend in BACKENDS {
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
    diff_ids: Vec<String>,
}

#[test]
fn every_change_is_one_layer_in_every_configuration() {
    assert!(is_root(), "two users need root: run scripts/test as root");
    let only = std::env::var("COOPER_MATRIX").unwrap_or_default();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/changes");
    let mut scenarios: Vec<Scenario> = THEMES
        .iter()
        .flat_map(|theme| scenario::parse(&directory.join(theme).with_extension("txt")))
        .collect();
    assert!(scenarios.len() >= 60, "{} scenarios", scenarios.len());
    scenarios.retain(|s| s.name.contains(&only));

    let calls = PathBuf::from(given("COOPER_TEST_DIR")).join(format!("call-{}", std::process::id()));
    run(Command::new("cc").args(["-static", "-O1", "-o"]).arg(&calls).arg(directory.join("call.c")))
        .succeeds();

    let configurations = configurations();
    let next = AtomicUsize::new(0);
    let built: Vec<Mutex<Option<Built>>> = configurations.iter().map(|_| Mutex::default()).collect();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(configuration) = configurations.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let at = configurations.iter().position(|c| std::ptr::eq(c, configuration)).unwrap();
                    *built[at].lock().unwrap() = Some(build(*configuration, &scenarios, &calls));
                }
            });
        }
    });
    let built: Vec<Built> = built.into_iter().map(|b| b.into_inner().unwrap().unwrap()).collect();

    let mut wrong = Vec::new();
    let first = &built[0];
    let steps = first.diff_ids.len() - scenarios.len();
    for (at, scenario) in scenarios.iter().enumerate() {
        let lines = first.layer(steps + at, scenario);
        if lines != scenario.layer {
            wrong.push(format!(
                "── {}: {}\n  {}\nexpected\n  {}",
                scenario.name,
                scenario.title,
                lines.join("\n  "),
                scenario.layer.join("\n  ")
            ));
        }
        for (other, configuration) in built.iter().zip(&configurations).skip(1) {
            if other.diff_ids[steps + at] != first.diff_ids[steps + at] {
                let lines = other.layer(steps + at, scenario);
                wrong.push(format!(
                    "── {}: another layer with {configuration:?}\n  {}",
                    scenario.name,
                    lines.join("\n  ")
                ));
            }
        }
    }
    for (other, configuration) in built.iter().zip(&configurations) {
        if other.diff_ids[..steps] != first.diff_ids[..steps] {
            wrong.push(format!("── the layers below are others with {configuration:?}"));
        }
    }
    println!("{} scenarios, {} configurations, {} wrong", scenarios.len(), built.len(), wrong.len());
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n\n"));
}

/// Builds all scenarios on top of each other.
fn build(configuration: Configuration, scenarios: &[Scenario], calls: &Path) -> Built {
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
    lab.build(&["--compression", "none", "-o", "oci:out:latest"]).succeeds();
    let (_, config) = lab.image("out");
    let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap();
    let diff_ids: Vec<String> = diff_ids.iter().map(|id| id.as_str().unwrap().to_owned()).collect();
    let history = config["history"].as_array().unwrap();
    let layers = history.iter().filter(|h| h["empty_layer"] != true).count();
    assert_eq!(layers, diff_ids.len());
    Built { lab, diff_ids }
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
    /// What layer number `at` holds.
    fn layer(&self, at: usize, scenario: &Scenario) -> Vec<String> {
        let digest = &self.lab.layers("out")[at];
        let blob = self.lab.dir.join("out/blobs").join(digest.replace(':', "/"));
        listing::list(fs::File::open(blob).unwrap(), &format!("s/{}", scenario.name))
    }
}
