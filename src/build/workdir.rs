//! Carries out a `WORKDIR`, and gives new files their owners.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;

use cooper_runtime::in_root::{self, Walk};
use cooper_runtime::sys::fs::{self, FileKind};

use super::copy::OwnerSink;
use crate::rootfs::RecordedOwners;

/// Gives files the owners that an image wants: really where the id map has them, else on record.
pub struct Ownership<'a> {
    /// Where owners are recorded; `None` makes them.
    pub records: Option<&'a mut RecordedOwners>,
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
        match &mut self.records {
            None => fs::chown_at(dir, name, uid, gid),
            Some(owners) => {
                owners.insert(path.to_vec(), (uid, gid));
                Ok(())
            }
        }
    }

    fn linked(&mut self, from: &[u8], to: &[u8]) {
        let Some(owners) = &mut self.records else { return };
        match owners.get(from).copied() {
            Some(owner) => owners.insert(to.to_vec(), owner),
            None => owners.remove(to),
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
