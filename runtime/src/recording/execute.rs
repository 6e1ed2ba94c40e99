//! Programs with the set-user-ID and set-group-ID bits.

use std::io::{self, Read};

use rustix::fs::OFlags;

use super::credentials::Credentials;
use super::notify::{Answer, Answered, Recorder};
use super::target::{Target, stat_handle};
use crate::sys::memory::KernelStat;

impl Recorder {
    /// `execve`: the kernel does it; what the task is afterwards is put on record before. `path` is the
    /// number of an argument.
    ///
    /// Of a program that cannot be executed in the end nobody hears before it is too late; what is looked at
    /// is what nearly all of them fail for.
    pub(super) fn execute(&mut self, t: &Target, fd: i32, path: usize, flags: i32) -> Answered {
        let old = self.credentials_of(t.tid)?;
        let path = t.text(t.args[path])?;
        if path.is_empty() && flags & libc::AT_EMPTY_PATH == 0 {
            return Ok(Answer::Pass);
        }
        let stat = self.view.place(t, fd, &path)?.stat(0)?;
        let mode = stat.st_mode;
        if mode & libc::S_IFMT != libc::S_IFREG || mode & 0o111 == 0 {
            return Ok(Answer::Pass);
        }
        let (mut user, mut group) = (None, None);
        if mode & (libc::S_ISUID | libc::S_ISGID) != 0 && self.bits_count(t, fd, &path)? {
            let owner = self.table.owner(&stat);
            user = Some(owner.0).filter(|_| mode & libc::S_ISUID != 0);
            group = Some(owner.1).filter(|_| sets_group(&stat));
        }
        let mut new: Credentials = old.clone();
        new.execute(user, group, self.bounding);
        if new != old {
            self.check(t)?;
            self.set_credentials(t.tid, new)?;
        }
        Ok(Answer::Pass)
    }

    /// Whether the bits of a file do what they say: of a script they do not, nor on a mount with `nosuid`, nor
    /// for a task with `no_new_privs`.
    fn bits_count(&mut self, t: &Target, fd: i32, path: &[u8]) -> io::Result<bool> {
        let handle = self.view.handle(t, fd, path, true)?;
        // Looked at again: only a regular file can be opened without waiting for anything.
        if stat_handle(&handle)?.st_mode & libc::S_IFMT != libc::S_IFREG {
            return Ok(false);
        }
        let mut head = [0; 4];
        let mut file = std::fs::File::from(self.view.reopen(&handle, OFlags::RDONLY)?);
        let elf = file.read_exact(&mut head).is_ok() && head == *b"\x7fELF";
        let allowed = !rustix::fs::fstatvfs(&handle)?.f_flag.contains(rustix::fs::StatVfsMountFlags::NOSUID);
        Ok(elf && allowed && self.view.status(t.tid, "NoNewPrivs")? == "0")
    }
}

/// Without permission to execute for the group the bit means something else: mandatory locking, once.
fn sets_group(stat: &KernelStat) -> bool {
    let both = libc::S_ISGID | libc::S_IXGRP;
    stat.st_mode & both == both
}
