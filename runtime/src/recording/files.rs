//! Owners and device nodes, set by `chown` and shown by `stat`.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Gid, Uid};

use super::Scope;
use super::credentials::{CAP_CHOWN, Credentials};
use super::notify::{Answer, Answered, Recorder, done};
use super::table::{inode, links};
use super::target::{Target, stat_handle};
use crate::record::{Attributes, Node};
use crate::sys::memory::{self, Bytes, KernelStat};

/// An id that is to stay what it is.
const KEEP: u32 = u32::MAX;

/// `st_rdev` as the kernel writes it: `new_encode_dev` of `linux/kdev_t.h`.
fn encode_device(node: Node) -> u64 {
    u64::from((node.minor & 0xff) | (node.major << 8) | ((node.minor & !0xff) << 12))
}

/// Type bits of a device node.
fn type_bits(node: Node) -> u32 {
    if node.block { libc::S_IFBLK } else { libc::S_IFCHR }
}

impl Recorder {
    /// Anything that fills a `struct stat`. `path` and `buffer` are the numbers of the arguments.
    pub(super) fn stat(&mut self, t: &Target, fd: i32, path: usize, flags: i32, buffer: usize) -> Answered {
        if self.table.is_empty() {
            return Ok(Answer::Pass);
        }
        let path = self.stat_path(t, t.args[path], flags)?;
        let Some(path) = path else { return Ok(Answer::Pass) };
        let follow = if path.is_empty() { 0 } else { flags & libc::AT_SYMLINK_NOFOLLOW };
        let stat = self.view.place(t, fd, &path)?.stat(follow)?;
        self.show(t, stat, t.args[buffer])
    }

    pub(super) fn fstat(&mut self, t: &Target) -> Answered {
        if self.table.is_empty() || t.fd(0) < 0 {
            return Ok(Answer::Pass);
        }
        let stat = self.view.place(t, t.fd(0), b"")?.stat(0)?;
        self.show(t, stat, t.args[1])
    }

    fn show(&self, t: &Target, mut stat: KernelStat, address: u64) -> Answered {
        let Some(record) = self.table.get(inode(&stat), links(&stat)) else { return Ok(Answer::Pass) };
        (stat.st_uid, stat.st_gid) = self.table.owner(&stat);
        if let Some(node) = record.node {
            stat.st_mode = (stat.st_mode & !libc::S_IFMT) | type_bits(node);
            stat.st_rdev = encode_device(node);
        }
        self.check(t)?;
        Ok(done(t.write(address, stat.bytes())))
    }

    /// The path of a `stat`, empty for the descriptor itself; `None` where it is an error.
    fn stat_path(&self, t: &Target, address: u64, flags: i32) -> io::Result<Option<Vec<u8>>> {
        let of_descriptor = flags & libc::AT_EMPTY_PATH != 0;
        // Linux 6.11 takes no path at all for an empty one.
        let path = if of_descriptor && address == 0 { Vec::new() } else { t.text(address)? };
        Ok((of_descriptor || !path.is_empty()).then_some(path))
    }

    pub(super) fn statx(&mut self, t: &Target) -> Answered {
        if self.table.is_empty() {
            return Ok(Answer::Pass);
        }
        let flags = t.fd(2);
        let Some(path) = self.stat_path(t, t.args[1], flags)? else { return Ok(Answer::Pass) };
        let keep = if path.is_empty() { !(libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW) } else { !0 };
        let place = self.view.place(t, t.fd(0), &path)?;
        // The same file as a plain stat: its numbers and its names are not in every statx.
        let stat = place.stat(flags & keep & libc::AT_SYMLINK_NOFOLLOW)?;
        if self.table.get(inode(&stat), links(&stat)).is_none() {
            return Ok(Answer::Pass);
        }
        let mut long = memory::statx(place.dir, &place.path, flags & keep, t.arg32(3))?;
        (long.stx_uid, long.stx_gid) = self.table.owner(&stat);
        if let Some(node) = self.table.get(inode(&stat), links(&stat)).and_then(|r| r.node) {
            long.stx_mode = (long.stx_mode & !(libc::S_IFMT as u16)) | type_bits(node) as u16;
            (long.stx_rdev_major, long.stx_rdev_minor) = (node.major, node.minor);
        }
        self.check(t)?;
        Ok(done(t.write(t.args[4], long.bytes())))
    }

    /// `chown` of a path. Its argument's number is `path`; ids of -1 stay what they are.
    pub(super) fn chown(
        &mut self,
        t: &Target,
        fd: i32,
        path: usize,
        ids: (u32, u32),
        flags: i32,
    ) -> Answered {
        let Some(path) = self.stat_path(t, t.args[path], flags)? else { return Ok(Answer::Pass) };
        let handle = self.view.handle(t, fd, &path, flags & libc::AT_SYMLINK_NOFOLLOW == 0)?;
        self.chown_handle(t, &handle, ids)
    }

    pub(super) fn fchown(&mut self, t: &Target) -> Answered {
        if t.fd(0) < 0 {
            return Ok(Answer::Pass);
        }
        let handle = self.view.handle(t, t.fd(0), b"", true)?;
        self.chown_handle(t, &handle, (t.arg32(1), t.arg32(2)))
    }

    fn chown_handle(&mut self, t: &Target, handle: &OwnedFd, ids: (u32, u32)) -> Answered {
        let before = stat_handle(handle)?;
        if let Scope::Beyond { uids, gids } = self.scope
            && (ids.0 == KEEP || ids.0 < uids)
            && (ids.1 == KEEP || ids.1 < gids)
            && self.table.get(inode(&before), links(&before)).is_none_or(|r| r.owner.is_none())
        {
            return Ok(Answer::Pass);
        }
        let old = self.table.owner(&before);
        if !may_chown(&self.credentials_of(t.tid)?, old, ids) {
            return Ok(Answer::Error(libc::EPERM));
        }
        self.check(t)?;
        let or = |id: u32, old: u32| if id == KEEP { old } else { id };
        let new = (or(ids.0, old.0), or(ids.1, old.1));
        // A real one, to root where the map does not have the ids: it copies the file up, dates it, and takes
        // from a program what must not survive a change of owner.
        let (uid, gid) = match self.scope {
            Scope::Beyond { uids, gids } if new.0 < uids && new.1 < gids => new,
            _ => (0, 0),
        };
        let (user, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        if let Err(e) = rustix::fs::chownat(handle, c"", user, group, AtFlags::EMPTY_PATH) {
            return Ok(Answer::Error(e.raw_os_error()));
        }
        let after = stat_handle(handle)?;
        self.table.copied_up((inode(&before), links(&before)), (inode(&after), links(&after)));
        self.record_owner(&after, new);
        self.copied(handle)?;
        Ok(Answer::Value(0))
    }

    /// Writes down whose a file is, and keeps what else is on record about it.
    fn record_owner(&mut self, stat: &KernelStat, owner: (u32, u32)) {
        let known = self.table.get(inode(stat), links(stat)).cloned();
        if known.is_none() && owner == (0, 0) {
            return;
        }
        // That it is root's now has to be said of a file that was somebody else's in a layer below.
        let mut record = known.unwrap_or_default();
        record.owner = Some(owner);
        self.table.put(inode(stat), links(stat), record);
    }

    /// Writes down all there is about a new file. Its number may have been another's.
    pub(super) fn record_new(&mut self, stat: &KernelStat, owner: (u32, u32), node: Option<Node>) {
        let record = Attributes { owner: recorded(owner), node, ..Attributes::default() };
        self.table.put(inode(stat), links(stat), record);
    }
}

/// Root needs no record.
fn recorded(owner: (u32, u32)) -> Option<(u32, u32)> {
    (owner != (0, 0)).then_some(owner)
}

/// `setattr_prepare` of `fs/attr.c`.
fn may_chown(c: &Credentials, old: (u32, u32), ids: (u32, u32)) -> bool {
    let owns = c.user.fs == old.0;
    c.can(CAP_CHOWN)
        || ((ids.0 == KEEP || (owns && ids.0 == old.0))
            && (ids.1 == KEEP || (owns && (ids.1 == old.1 || c.in_group(ids.1)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_may_give_a_file_to_its_own_groups_only() {
        let user = Credentials::new(7, 7, &[50], u64::MAX);
        assert!(may_chown(&user, (7, 7), (KEEP, 50)));
        assert!(may_chown(&user, (7, 7), (7, 7)));
        assert!(may_chown(&user, (0, 0), (KEEP, KEEP)));
        assert!(!may_chown(&user, (7, 7), (KEEP, 51)));
        assert!(!may_chown(&user, (7, 7), (8, KEEP)));
        assert!(!may_chown(&user, (0, 0), (KEEP, 7)));
        assert!(may_chown(&Credentials::new(0, 0, &[], u64::MAX), (7, 7), (8, 9)));
    }

    #[test]
    fn devices_are_numbered_as_the_kernel_does() {
        for (major, minor) in [(1, 3), (8, 300), (259, 0xf_ffff)] {
            let node = Node { block: false, major, minor };
            assert_eq!(encode_device(node), rustix::fs::makedev(major, minor) & 0xffff_ffff);
        }
    }
}
