//! Gives the parsers and the planner millions of generated inputs: none may make them panic, overflow the stack
//! or take long.
//!
//!     scripts/test fuzz [--inputs N] [--seed N] [--from N] [--threads N] [--only TARGET] [--show]
//!
//! Every input follows from the seed and its number, so a failure can be had again: with the `--seed` and
//! `--from` that are printed, and `--inputs 1`. `--only` takes one of file, trigger, word, pattern, flag, plan;
//! `--show` prints inputs instead of trying them. The default number of inputs is `COOPER_FUZZ_INPUTS`, or
//! 200,000. Before them come a few that are very large.
//!
//! This lies among the examples because those are neither in the program nor in its tests, but are compiled and
//! checked with both. It is built with the profile `fuzz`: optimised, and with arithmetic checked.

mod extremes;
mod generate;
mod plan;
mod random;
mod targets;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::exit;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use targets::Target;

/// Inputs that one thread, named after them, tries. The name is what is left to read after a stack overflow.
const BATCH: u64 = 10_000;

/// Failures after which no more are looked for.
const ENOUGH: u64 = 5;

/// How long an input may take. What is generated takes microseconds, but the machine may be busy.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// How long one of the large inputs may take.
const EXTREME_LIMIT: Duration = Duration::from_secs(30);

/// Half of what the main thread of a program usually has.
const STACK: usize = 4 << 20;

struct Options {
    inputs: u64,
    seed: u64,
    from: u64,
    threads: usize,
    only: Option<Target>,
    show: bool,
}

impl Options {
    /// The options that have the same inputs made again.
    fn again(&self, from: u64, inputs: u64) -> String {
        let only = self.only.map(|target| format!(" --only {target:?}").to_lowercase()).unwrap_or_default();
        format!("--seed {} --from {from} --inputs {inputs}{only}", self.seed)
    }
}

fn usage(problem: &str) -> ! {
    eprintln!("fuzz: {problem}");
    eprintln!("usage: fuzz [--inputs N] [--seed N] [--from N] [--threads N] [--only TARGET] [--show]");
    exit(2)
}

fn options() -> Options {
    let number = |text: &str| -> u64 {
        let digits = text.replace(['_', ','], "");
        digits.parse().unwrap_or_else(|_| usage(&format!("`{text}` is not a number")))
    };
    let inputs = std::env::var("COOPER_FUZZ_INPUTS").map_or(200_000, |text| number(&text));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options { inputs, seed: 1, from: 0, threads, only: None, show: false };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--show" {
            options.show = true;
            continue;
        }
        let value = args.next().unwrap_or_else(|| usage(&format!("{arg} needs a value")));
        match arg.as_str() {
            "--inputs" => options.inputs = number(&value),
            "--seed" => options.seed = number(&value),
            "--from" => options.from = number(&value),
            "--threads" => options.threads = number(&value).max(1) as usize,
            "--only" => {
                let named = |target: &Target| format!("{target:?}").eq_ignore_ascii_case(&value);
                let found = Target::ALL.into_iter().find(named);
                options.only = Some(found.unwrap_or_else(|| usage(&format!("no target `{value}`"))));
            }
            _ => usage(&format!("no option `{arg}`")),
        }
    }
    options
}

thread_local! {
    /// What the last panic of this thread said.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Tries one text; what the panic said if there was one.
fn attempt(target: Target, text: &str) -> Result<(), String> {
    match catch_unwind(AssertUnwindSafe(|| target.check(text))) {
        Ok(()) => Ok(()),
        Err(_) => Err(PANIC.take()),
    }
}

/// A shorter text that fails as well, found by leaving out more and more shorter stretches.
fn shortened(target: Target, text: &str) -> String {
    let mut best: Vec<char> = text.chars().collect();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut length = best.len().div_ceil(2);
    while length > 0 {
        let mut start = 0;
        while start < best.len() && Instant::now() < deadline {
            let end = (start + length).min(best.len());
            let without: String = best[..start].iter().chain(&best[end..]).collect();
            if attempt(target, &without).is_err() {
                best = without.chars().collect();
            } else {
                start = end;
            }
        }
        length /= 2;
    }
    best.into_iter().collect()
}

fn report(options: &Options, input: u64, target: Target, text: &str, said: &str) {
    eprintln!("FAILED: {target:?}: {said}");
    eprintln!("  again with: {}", options.again(input, 1));
    eprintln!("  input:     {text:?}");
    eprintln!("  shortened: {:?}", shortened(target, text));
}

/// What a worker is at, for the watchdog.
#[derive(Default)]
struct Work {
    input: AtomicU64,
    /// When it began, in milliseconds since the start and never 0; 0 when there is none.
    since: AtomicU64,
}

/// The extremes, one after the other; true if all is well.
fn extremes_pass() -> bool {
    let mut well = true;
    for (name, target, text) in extremes::all() {
        let began = Instant::now();
        let thread_name = format!("the input '{name}' for {target:?}");
        let run =
            thread::Builder::new().name(thread_name).stack_size(STACK).spawn(move || attempt(target, &text));
        let run = run.expect("a thread can be started");
        while !run.is_finished() && began.elapsed() < EXTREME_LIMIT {
            thread::sleep(Duration::from_millis(1));
        }
        let said = if run.is_finished() {
            run.join().unwrap_or_else(|_| Err("the thread panicked".to_owned())).err()
        } else {
            Some(format!("still busy after {} s", EXTREME_LIMIT.as_secs()))
        };
        if let Some(said) = said {
            eprintln!("FAILED: {name}, {target:?}: {said}");
            well = false;
        } else if began.elapsed() > Duration::from_secs(1) {
            eprintln!("slow: {name}, {target:?}: {:.1} s", began.elapsed().as_secs_f64());
        }
    }
    well
}

fn main() {
    let options = options();
    let end = options.from + options.inputs;
    if options.show {
        for input in options.from..end {
            let (target, text) = Target::input(options.seed, input, options.only);
            println!("--- {input} {target:?}\n{text}");
        }
        return;
    }
    std::panic::set_hook(Box::new(|info| {
        PANIC.with(|said| *said.borrow_mut() = info.to_string());
    }));
    if !extremes_pass() {
        exit(1);
    }

    let began = Instant::now();
    let next = AtomicU64::new(options.from);
    let failures = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let slowest = Mutex::new((Duration::ZERO, 0));
    let works: Vec<Work> = (0..options.threads).map(|_| Work::default()).collect();
    thread::scope(|scope| {
        let workers: Vec<_> = works
            .iter()
            .map(|work| {
                let (options, next, failures, slowest) = (&options, &next, &failures, &slowest);
                scope.spawn(move || {
                    while failures.load(Ordering::Relaxed) < ENOUGH {
                        let start = next.fetch_add(BATCH, Ordering::Relaxed);
                        if start >= end {
                            return;
                        }
                        let stop = (start + BATCH).min(end);
                        let name =
                            format!("--seed {} --from {start} --inputs {}", options.seed, stop - start);
                        let builder = thread::Builder::new().name(name).stack_size(STACK);
                        let run = builder.spawn_scoped(scope, move || {
                            batch(options, start..stop, work, began, failures, slowest);
                        });
                        let _ = run.expect("a thread can be started").join();
                    }
                })
            })
            .collect();
        scope.spawn(|| watch(&options, &works, began, &done));
        for worker in workers {
            let _ = worker.join();
        }
        done.store(true, Ordering::Relaxed);
    });

    let seconds = began.elapsed().as_secs_f64();
    let failed = failures.load(Ordering::Relaxed);
    let (longest, which) = *slowest.lock().expect("no thread panics with it");
    let tried = next.load(Ordering::Relaxed).min(end) - options.from;
    println!(
        "{tried} inputs in {seconds:.1} s with {} threads, {:.0} a second and thread; the slowest, {which}, took {:.1} ms; {failed} failed",
        options.threads,
        tried as f64 / seconds / options.threads as f64,
        longest.as_secs_f64() * 1000.0,
    );
    exit(i32::from(failed > 0));
}

fn batch(
    options: &Options,
    inputs: std::ops::Range<u64>,
    work: &Work,
    began: Instant,
    failures: &AtomicU64,
    slowest: &Mutex<(Duration, u64)>,
) {
    let mut longest = (Duration::ZERO, 0);
    let mut last = Instant::now();
    for input in inputs {
        let (target, text) = Target::input(options.seed, input, options.only);
        work.input.store(input, Ordering::Relaxed);
        work.since.store((last - began).as_millis() as u64 + 1, Ordering::Relaxed);
        if let Err(said) = attempt(target, &text) {
            report(options, input, target, &text, &said);
            failures.fetch_add(1, Ordering::Relaxed);
        }
        let now = Instant::now();
        if now - last > longest.0 {
            longest = (now - last, input);
        }
        last = now;
    }
    work.since.store(0, Ordering::Relaxed);
    let mut slowest = slowest.lock().expect("no thread panics with it");
    *slowest = longest.max(*slowest);
}

/// Ends the program when an input takes too long: a thread cannot be stopped.
fn watch(options: &Options, works: &[Work], began: Instant, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(50));
        for work in works {
            let since = work.since.load(Ordering::Relaxed);
            if since == 0 || began.elapsed() < Duration::from_millis(since) + TIME_LIMIT {
                continue;
            }
            let input = work.input.load(Ordering::Relaxed);
            let (target, text) = Target::input(options.seed, input, options.only);
            eprintln!("FAILED: {target:?}: still busy after {} s", TIME_LIMIT.as_secs());
            eprintln!("  again with: {}", options.again(input, 1));
            eprintln!("  input:     {text:?}");
            exit(1);
        }
    }
}
