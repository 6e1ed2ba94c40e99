//! Threads for work that is worth them, and none left afterwards: a process can enter a user namespace only while
//! it has a single one.

use std::thread;

use cooper_runtime::sys::process::processors;

/// More than that fight for the same locks of the kernel.
const LIMIT: usize = 8;

/// How many threads so many pieces of work are worth.
pub(super) fn of(pieces: usize) -> usize {
    processors().min(LIMIT).min(pieces).max(1)
}

/// Does `work` on as many threads, of which this one is the first; they are gone when it returns. A panic in one
/// is a panic here.
pub(super) fn scoped(threads: usize, work: impl Fn() + Sync) {
    if threads <= 1 {
        return work();
    }
    let before = running();
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(&work)).collect();
        work();
        for other in others {
            if let Err(panic) = other.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    wait_until_gone(before);
}

/// How many threads the kernel counts in this process.
fn running() -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    Some(std::fs::metadata("/proc/self/task").ok()?.nlink())
}

/// A joined thread is done with our memory, but the kernel may count it for a moment longer, and in that
/// moment `unshare(CLONE_NEWUSER)` fails. So wait for it; other threads of the process may come and go
/// meanwhile, hence not for long.
fn wait_until_gone(before: Option<u64>) {
    let Some(before) = before else { return };
    for _ in 0..200 {
        if running().is_none_or(|now| now <= before) {
            break;
        }
        thread::sleep(std::time::Duration::from_micros(50));
    }
}
