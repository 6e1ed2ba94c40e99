//! Names that come and go: with the last name of a file its number comes free, and a record under it would be
//! another file's.
//!
//! Nothing is done here for files without a record. Else the supervisor does what was asked, and so knows
//! whether it happened. Linking and renaming also copy a file of a lower layer up, which may change its number.

use std::io;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, StatxFlags};

use super::notify::{Answer, Answered, Recorder, done};
use super::table::{inode, links};
use super::target::{Target, stat_handle};
use crate::sys::memory::{self, KernelStat};

/// A descriptor, and the number of the argument that is a path relative to it.
type Name = (i32, usize);

const NO_FOLLOW: i32 = libc::AT_SYMLINK_NOFOLLOW;

impl Recorder {
    /// `unlink`, and with `AT_REMOVEDIR` `rmdir`.
    pub(super) fn unlink(&mut self, t: &Target, fd: i32, path: usize, flags: i32) -> Answered {
        if self.table.is_empty() {
            return Ok(Answer::Pass);
        }
        let path = t.text(t.args[path])?;
        let place = self.view.place(t, fd, &path)?;
        let Some(stat) =
            Some(place.stat(NO_FOLLOW)?).filter(|s| self.table.get(inode(s), links(s)).is_some())
        else {
            return Ok(Answer::Pass);
        };
        if !self.listener.is_valid(t.id) || path.is_empty() {
            return Ok(Answer::Pass);
        }
        let flags = if flags & libc::AT_REMOVEDIR == 0 { AtFlags::empty() } else { AtFlags::REMOVEDIR };
        let removed = rustix::fs::unlinkat(place.dir, &place.path, flags).map_err(Into::into);
        if removed.is_ok() {
            self.lost_a_name(&stat);
        }
        Ok(done(removed))
    }

    /// Strikes a file off if that was its last name. A directory has one only, whatever its count says.
    fn lost_a_name(&mut self, before: &KernelStat) {
        if links(before) <= 1 || before.st_mode & libc::S_IFMT == libc::S_IFDIR {
            self.table.remove(inode(before));
        }
    }

    pub(super) fn rename(&mut self, t: &Target, from: Name, to: Name, flags: u32) -> Answered {
        if self.table.is_empty() && self.settled.is_none() {
            return Ok(Answer::Pass);
        }
        let (from_path, to_path) = (t.text(t.args[from.1])?, t.text(t.args[to.1])?);
        let exchanges = RenameFlags::from_bits_retain(flags).contains(RenameFlags::EXCHANGE);
        if self.is_settled(t, from, &from_path)? || (exchanges && self.is_settled(t, to, &to_path)?) {
            return Ok(Answer::Error(libc::EXDEV));
        }
        if self.table.is_empty() {
            return Ok(Answer::Pass);
        }
        let old = self.view.place(t, from.0, &from_path)?.stat(NO_FOLLOW)?;
        let replaced = self.view.place(t, to.0, &to_path)?.stat(NO_FOLLOW).ok();
        let known = |s: &KernelStat| self.table.get(inode(s), links(s)).is_some();
        let known_before = known(&old);
        if !known_before && !replaced.as_ref().is_some_and(known) {
            return Ok(Answer::Pass);
        }
        let (from_dir, from_name) = self.view.parent(t, from.0, &from_path)?;
        let (to_dir, to_name) = self.view.parent(t, to.0, &to_path)?;
        // A slash at the end asks for a directory.
        let must_be_dir = [&from_path, &to_path].iter().any(|p| p.ends_with(b"/"));
        if must_be_dir && old.st_mode & libc::S_IFMT != libc::S_IFDIR {
            return Ok(Answer::Pass);
        }
        self.check(t)?;
        let flags = RenameFlags::from_bits_retain(flags);
        let renamed = rustix::fs::renameat_with(&from_dir, &from_name, &to_dir, &to_name, flags);
        if renamed.is_ok() {
            let same = replaced.as_ref().is_some_and(|r| inode(r) == inode(&old));
            let exchanged = flags.contains(RenameFlags::EXCHANGE);
            if let Some(replaced) = replaced.as_ref().filter(|_| !exchanged && !same) {
                self.lost_a_name(replaced);
            }
            let now = |dir, name| memory::stat(std::os::fd::AsFd::as_fd(dir), name, NO_FOLLOW);
            if let Ok(new) = now(&to_dir, &to_name) {
                self.table.copied_up((inode(&old), links(&old)), (inode(&new), links(&new)));
                if known_before {
                    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let handle = rustix::fs::openat(&to_dir, &to_name, flags, Mode::empty());
                    let _ = handle.map_err(Into::into).and_then(|h| self.copied(&h));
                }
            }
            if let (true, Some(replaced), Ok(new)) = (exchanged, &replaced, now(&from_dir, &from_name)) {
                self.table.copied_up((inode(replaced), links(replaced)), (inode(&new), links(&new)));
            }
        }
        Ok(done(renamed.map_err(Into::into)))
    }

    /// Whether a name is a directory from before the step that is to stay where it is. One whose file system
    /// does not say when it was made may go.
    fn is_settled(&mut self, t: &Target, (fd, _): Name, path: &[u8]) -> io::Result<bool> {
        let Some(settled) = self.settled else { return Ok(false) };
        let place = self.view.place(t, fd, path)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat =
            match rustix::fs::statx(place.dir, &place.path, flags, StatxFlags::BTIME | StatxFlags::TYPE) {
                Err(rustix::io::Errno::NOENT) => return Ok(false),
                other => other?,
            };
        let known = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        let made = (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec);
        let directory = u32::from(stat.stx_mode) & libc::S_IFMT == libc::S_IFDIR;
        Ok(directory && known && made < settled)
    }

    pub(super) fn link(&mut self, t: &Target, from: Name, to: Name, flags: i32) -> Answered {
        if self.table.is_empty() {
            return Ok(Answer::Pass);
        }
        let from_path = t.text(t.args[from.1])?;
        if from_path.is_empty() && flags & libc::AT_EMPTY_PATH == 0 {
            return Ok(Answer::Pass);
        }
        let handle = self.view.handle(t, from.0, &from_path, flags & libc::AT_SYMLINK_FOLLOW != 0)?;
        let old = stat_handle(&handle)?;
        if self.table.get(inode(&old), links(&old)).is_none() {
            return Ok(Answer::Pass);
        }
        let to_path = t.text(t.args[to.1])?;
        let (dir, name) = self.view.parent(t, to.0, &to_path)?;
        if to_path.ends_with(b"/") {
            return Ok(Answer::Pass);
        }
        self.check(t)?;
        let linked = self.view.link(&handle, &dir, &name);
        if linked.is_ok() {
            let new = memory::stat(std::os::fd::AsFd::as_fd(&dir), &name, NO_FOLLOW)?;
            self.table.linked((inode(&old), links(&old)), inode(&new));
        }
        Ok(done(linked.map_err(Into::into)))
    }
}
