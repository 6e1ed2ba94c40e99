//! The system calls of a command, as `strace` tells them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::support::{Lab, Said, given, run};

const UNSTEADY: [&str; 11] = [
    "brk",
    "mmap",
    "munmap",
    "mremap",
    "mprotect",
    "madvise",
    "futex",
    "sched_yield",
    "nanosleep",
    "clock_nanosleep",
    "rt_sigprocmask",
];

/// What a command has asked of the kernel, in order.
pub(crate) struct Calls(Vec<Call>);

/// One system call.
pub(crate) struct Call {
    /// Its name.
    pub(crate) name: String,
    /// The whole line; descriptors come with the paths they lead to, as in `3</etc/passwd>`.
    pub(crate) line: String,
}

/// Runs cooper under `strace`, following threads and processes.
pub(crate) fn traced(lab: &Lab, arguments: &[&str]) -> (Said, Calls) {
    let mut command = lab.command("strace");
    // Whole paths: a digest alone is longer than what is shown by default.
    command.args(["-f", "-y", "-s", "4096", "-o", "trace"]).arg(given("COOPER_TEST_BIN")).args(arguments);
    let said = run(&mut command);
    let text = std::fs::read(lab.dir.join("trace")).unwrap();
    (said, Calls::parse(&String::from_utf8_lossy(&text)))
}

impl Calls {
    /// Reads lines of `PID name(…) = result`. A call that waited for another thread stands on two lines:
    /// `PID name(… <unfinished ...>` and, further down, `PID <... name resumed>…) = result`.
    fn parse(text: &str) -> Calls {
        let mut calls: Vec<Call> = Vec::new();
        let mut waiting = HashMap::new();
        for line in text.lines() {
            let Some((pid, rest)) = line.split_once(' ') else { continue };
            let rest = rest.trim_start();
            if let Some((_, end)) = rest.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>")) {
                if let Some(at) = waiting.remove(pid) {
                    let call: &mut Call = &mut calls[at];
                    call.line.push_str(end);
                }
                continue;
            }
            let Some((name, _)) = rest.split_once('(') else { continue };
            if name.is_empty() || !name.chars().all(|c: char| c.is_ascii_alphanumeric() || c == '_') {
                continue;
            }
            let begun = rest.strip_suffix(" <unfinished ...>");
            if begun.is_some() {
                waiting.insert(pid, calls.len());
            }
            calls.push(Call { name: name.to_owned(), line: begun.unwrap_or(rest).to_owned() });
        }
        let calls = Calls(calls);
        assert!(calls.count("execve") > 0, "nothing was traced:\n{text}");
        calls
    }

    /// How many there were, less those about memory and about waiting for threads: of these there are some more
    /// or less in each run.
    pub(crate) fn len(&self) -> usize {
        let counts = |call: &&Call| !UNSTEADY.contains(&call.name.as_str());
        self.0.iter().filter(counts).count()
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Call> {
        self.0.iter()
    }

    /// How many there were of this name.
    pub(crate) fn count(&self, name: &str) -> usize {
        self.0.iter().filter(|call| call.name == name).count()
    }

    /// Those of these names.
    pub(crate) fn named(&self, names: &[&str]) -> Vec<&str> {
        let found = self.0.iter().filter(|call| names.contains(&call.name.as_str()));
        found.map(|call| call.line.as_str()).collect()
    }

    /// What was opened, by the paths that the descriptors lead to.
    pub(crate) fn opened(&self) -> Vec<PathBuf> {
        let opens = self.0.iter().filter(|c| c.name.starts_with("open"));
        opens.filter_map(|call| call.result_path()).collect()
    }
}

impl Call {
    /// The path that the descriptor in the result leads to.
    fn result_path(&self) -> Option<PathBuf> {
        // A failure has no descriptor.
        let (_, result) = self.line.rsplit_once(") = ").or_else(|| self.line.rsplit_once(" = "))?;
        let (_, path) = result.split_once('<')?;
        Some(Path::new(path.trim_end().strip_suffix('>')?).to_owned())
    }
}
