//! `cooper prune`

use std::io::Write;
use std::path::Path;

use clap::Args;

use super::failure::general;
use super::{CliError, Global, Stop};
use crate::build::mounts::{PruneError, Pruned, prune};

/// Empty the cache mounts of RUN --mount=type=cache
///
/// Removes the directories that `RUN --mount=type=cache` keeps between builds, and what killed commands have
/// left behind in the store. Images, their layers and the cache of steps stay as they are: they cannot be pruned
/// yet in this version of cooper. A cache mount that a running build uses stays, too.
#[derive(Debug, Args)]
pub struct Arguments {}

/// Runs the command.
pub fn run(global: &Global, _: Arguments) -> Result<(), Stop> {
    let store = global.open_store()?;
    let pruned = prune(&store).map_err(|e| match e {
        PruneError::Enter(e) => CliError::environment(e.to_string()),
        PruneError::Store(e) => general(&e, store.root()),
    })?;
    match write!(std::io::stdout(), "{}", report(&pruned)) {
        // Whoever reads it has had enough; the work is done.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other
            .map_err(|e| CliError::io("cannot write the result to", Path::new("standard output"), &e))?),
    }
}

fn report(pruned: &Pruned) -> String {
    let mounts = |n: u64| if n == 1 { "1 cache mount".to_owned() } else { format!("{n} cache mounts") };
    let mut text = format!("removed {}, {} bytes\n", mounts(pruned.removed), pruned.bytes);
    if pruned.in_use > 0 {
        text.push_str(&format!("kept {} that a running build uses\n", mounts(pruned.in_use)));
    }
    if pruned.foreign > 0 {
        let kept = mounts(pruned.foreign);
        text.push_str(&format!("cannot remove {kept} made with user ids that cannot be used now\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said() {
        let pruned = Pruned { removed: 1, bytes: 12, in_use: 0, foreign: 0 };
        assert_eq!(report(&pruned), "removed 1 cache mount, 12 bytes\n");
        let pruned = Pruned { removed: 0, bytes: 0, in_use: 2, foreign: 1 };
        let text = "removed 0 cache mounts, 0 bytes\nkept 2 cache mounts that a running build uses\n\
                    cannot remove 1 cache mount made with user ids that cannot be used now\n";
        assert_eq!(report(&pruned), text);
    }
}
