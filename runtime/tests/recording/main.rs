//! Steps in a namespace with a single id, and what is on record about them.
//!
//! `scripts/test rootless` prepares what these need and says where it is. Each case runs real steps, and holds
//! what programs in the step see against the table that comes out of it.

#![allow(clippy::print_stdout, reason = "it is its own harness")]

mod devices;
mod files;
mod ids;
mod layers;
mod limits;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use world::World;

type Case = (&'static str, fn(&World));

/// What `cargo nextest` and `cargo test` ask of a harness: `--list`, and names to run.
fn main() -> ExitCode {
    let cases: Vec<Case> = [files::CASES, ids::CASES, devices::CASES, layers::CASES, limits::CASES].concat();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|a| a == flag);
    if has("--list") {
        if !has("--ignored") {
            cases.iter().for_each(|(name, _)| println!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = arguments.iter().filter(|a| !a.starts_with("--")).collect();
    let chosen: Vec<&Case> = cases
        .iter()
        .filter(|(name, _)| {
            let matches = |w: &&&String| if has("--exact") { **w == name } else { name.contains(w.as_str()) };
            wanted.is_empty() || wanted.iter().any(|w| matches(&w))
        })
        .collect();
    let world = World::enter();
    let failed: Vec<&str> = chosen
        .iter()
        .filter(|(name, case)| {
            let passed = catch_unwind(AssertUnwindSafe(|| case(&world))).is_ok();
            println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
            !passed
        })
        .map(|(name, _)| *name)
        .collect();
    println!("{} passed, {} failed {failed:?}", chosen.len() - failed.len(), failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
