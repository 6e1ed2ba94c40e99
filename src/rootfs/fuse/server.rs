//! The program that answers for a mount.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use cooper_runtime::sys::process;

/// What the program says; it lies beside its mount point.
const LOG: &str = "log";

/// A running fuse-overlayfs. Dropped, it is killed, and its mount answers nothing any more.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Has `program` answer what the kernel asks through `device`, which is mounted already, with these
    /// layers (topmost first), and with `writable` the directories `upper` and `work` of `dir`.
    ///
    /// Names could have any characters, some of which separate options: all but those two go as
    /// descriptors, and the device as the standard input, which libfuse takes as `/dev/fd/0`.
    pub(super) fn start(
        program: &Path,
        device: OwnedFd,
        layers: Vec<OwnedFd>,
        dir: &Path,
        writable: bool,
    ) -> io::Result<Server> {
        let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
        let lower = layers.iter().map(name).collect::<Vec<_>>().join(":");
        // Nothing of what is written has to survive anything, so nothing is synchronised.
        let upper = if writable { ",upperdir=upper,workdir=work" } else { ",ro" };
        let log = dir.join(LOG);
        let said = File::create(&log)?;
        let mut command = Command::new(program);
        command.arg("-f").arg("-o").arg(format!("volatile,lowerdir={lower}{upper}")).arg("/dev/fd/0");
        command.current_dir(dir).env_clear().stdin(device).stdout(said.try_clone()?).stderr(said);
        // The terminal's signals are for the builder: steps need their root while they end.
        command.process_group(0);
        process::inherit(&mut command, layers);
        process::end_with_us(&mut command);
        Ok(Server { child: command.spawn()?, log })
    }

    /// What it said before it ended.
    pub(super) fn last_words(mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let said = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&said).trim().replace('\n', "; ")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It writes nothing of its own accord; asked to end, it would first take its memory apart.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
