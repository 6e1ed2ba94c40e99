//! The live view for a person at a terminal: a [`Screen`], the thread that keeps its clocks running, and
//! the rules by which that thread comes and goes.

use std::io::stderr;
use std::path::Path;
#[cfg(test)]
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::screen::{Look, Screen, TICK};
use super::{Event, Progress};

/// The view and its ticker.
pub(super) struct Tty {
    shared: Arc<Shared>,
    ticker: Mutex<Ticker>,
    start: Instant,
}

struct Shared {
    screen: Mutex<Screen>,
    /// Told when a task starts and when the ticker is to end.
    wake: Condvar,
}

/// The thread that keeps the clocks running. Its lock is taken before the screen's.
struct Ticker {
    thread: Option<JoinHandle<()>>,
    allowed: bool,
}

impl Tty {
    /// The view on stderr.
    pub(super) fn on_stderr() -> Tty {
        let size = || {
            terminal_size::terminal_size_of(stderr())
                .map_or((80, 24), |(columns, rows)| (columns.0.into(), rows.0.into()))
        };
        Tty::new(Screen::new(Box::new(stderr()), Box::new(size), Look::of_environment()))
    }

    pub(super) fn new(screen: Screen) -> Tty {
        Tty {
            shared: Arc::new(Shared { screen: Mutex::new(screen), wake: Condvar::new() }),
            ticker: Mutex::new(Ticker { thread: None, allowed: true }),
            start: Instant::now(),
        }
    }

    fn ticker(&self) -> MutexGuard<'_, Ticker> {
        self.ticker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ticker as the kernel knows it, below `/proc`.
    #[cfg(test)]
    pub(super) fn thread(&self) -> Option<PathBuf> {
        let ticker = self.ticker();
        ticker.thread.as_ref()?;
        while self.shared.screen().thread.is_none() {
            thread::sleep(Duration::from_millis(1));
        }
        self.shared.screen().thread.clone()
    }

    /// Starts the ticker if it is allowed and there is none.
    fn tick(&self) {
        let mut ticker = self.ticker();
        if !ticker.allowed || ticker.thread.is_some() {
            return;
        }
        self.shared.screen().ticking = true;
        let (shared, start) = (Arc::clone(&self.shared), self.start);
        // Without it the view only moves when something happens, which is no reason to fail.
        ticker.thread = thread::Builder::new().name("progress".into()).spawn(move || shared.run(start)).ok();
    }

    /// Ends the ticker and waits until the kernel has forgotten its thread.
    fn stop(&self, ticker: &mut Ticker) {
        ticker.allowed = false;
        let Some(thread) = ticker.thread.take() else { return };
        self.shared.screen().ticking = false;
        self.shared.wake.notify_all();
        // join() returns when the thread has freed its stack, a moment before it leaves the thread group;
        // unshare(CLONE_NEWUSER) in that moment fails with EINVAL. Rare, one join in ten thousand, but seen.
        let _ = thread.join();
        let task = self.shared.screen().thread.take();
        let patience = Instant::now();
        while task.as_ref().is_some_and(|task| task.exists()) && patience.elapsed() < Duration::from_secs(1) {
            thread::sleep(Duration::from_micros(100));
        }
    }
}

impl Shared {
    fn screen(&self) -> MutexGuard<'_, Screen> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ticker: draws while anything runs.
    fn run(&self, start: Instant) {
        let thread = std::fs::read_link("/proc/thread-self").map(|link| Path::new("/proc").join(link));
        let mut screen = self.screen();
        screen.thread = thread.ok();
        while screen.ticking {
            screen = if screen.is_busy() {
                self.wake.wait_timeout(screen, TICK).unwrap_or_else(PoisonError::into_inner).0
            } else {
                self.wake.wait(screen).unwrap_or_else(PoisonError::into_inner)
            };
            if screen.ticking && screen.is_busy() {
                screen.draw(start.elapsed());
            }
        }
    }
}

impl Progress for Tty {
    fn event(&self, event: Event) {
        let starts = matches!(event, Event::Started { .. });
        self.shared.screen().event(event, self.start.elapsed());
        if starts {
            self.tick();
            self.shared.wake.notify_all();
        }
    }

    fn finish(&self) {
        self.stop(&mut self.ticker());
        self.shared.screen().finish();
    }

    fn pause(&self) {
        self.stop(&mut self.ticker());
    }

    fn resume(&self) {
        self.ticker().allowed = true;
        if self.shared.screen().is_busy() {
            self.tick();
        }
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        self.finish();
    }
}
