//! Carries out a `WORKDIR`, and gives new files their owners.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;

use cooper_runtime::in_root::{self, Walk};
use cooper_runtime::sys::fs::{self, FileKind};

use super::copy::OwnerSink;
use crate::rootfs::Records;
use crate::rootfs::storage::made_owner;

/// Gives files the owners that an image wants: really where the id map has them, else on record.
pub struct Ownership<'a> {
    /// Where owners are recorded that cannot be made.
    pub records: &'a mut Records,
    /// Whether there is one id, so that none can.
    pub single: bool,
}

impl OwnerSink for Ownership<'_> {
    fn set_owner(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &[u8],
        uid: u32,
        gid: u32,
    ) -> io::Result<()> {
        let made = !self.single && made_owner(fs::chown_at(dir, name, uid, gid))?;
        if !made && !self.single {
            // A record is of a file of root's, but in a set-group-ID directory it came with another group.
            fs::chown_at(dir, name, 0, 0)?;
        }
        // A name that was used before may have a record.
        self.records.remove(path);
        if !made {
            self.records.entry(path.to_vec()).or_default().owner = Some((uid, gid));
        }
        Ok(())
    }

    fn linked(&mut self, from: &[u8], to: &[u8]) {
        match self.records.get(from).cloned() {
            Some(record) => self.records.insert(to.to_vec(), record),
            None => self.records.remove(to),
        };
    }
}

/// Makes the directory and its missing parents, owned by `owner`.
pub fn make(
    root: BorrowedFd<'_>,
    path: &str,
    owner: (u32, u32),
    ownership: &mut Ownership<'_>,
) -> io::Result<()> {
    let mut make_dir = |dir: BorrowedFd<'_>, name: &OsStr, at: &[u8]| {
        fs::make_dir_at(dir, name, 0o755)?;
        if owner == (0, 0) { Ok(()) } else { ownership.set_owner(dir, name, at, owner.0, owner.1) }
    };
    let walk = Walk { follow_last: true, make_dir: Some(&mut make_dir) };
    let place = in_root::find(root, path.as_bytes(), walk)?;
    match place.stat {
        Some(s) if s.kind == FileKind::Directory => Ok(()),
        Some(_) => Err(io::Error::from(io::ErrorKind::NotADirectory)),
        None => make_dir(std::os::fd::AsFd::as_fd(&place.dir), &place.name, &place.path),
    }
}
