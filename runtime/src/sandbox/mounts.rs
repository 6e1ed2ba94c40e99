//! The mounts that a step has besides those that every step has.
//!
//! Sources are taken and targets found by descriptors, each inside its own root: a link in the source
//! leads to another place of the source and never to the builder's files (CVE-2024-1753), a link in the
//! image to another place of the image. Each source is first a tree that is mounted nowhere, gets its
//! attributes there, and only then appears in the step. Bound directories keep set-user-id bits and
//! programs: what comes from another stage is there to be executed.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use crate::in_root::{self, Walk};
use crate::mountpoint::{Mounted, NEW_TMPFS_MODE, check_target, open_source};
use crate::step::{Mount, MountSource, Part, SetupFailure};
use crate::sys::fs::{self, FileKind};
use crate::sys::mount;

/// Makes them all, in their order.
pub(super) fn mount_all(mounts: &[Mount], root: BorrowedFd<'_>) -> Result<(), SetupFailure> {
    let mut mounted = Mounted::with_every_steps();
    for one in mounts {
        let path = mount_one(one, root, &mounted)?;
        mounted.add(one.target.as_bytes(), path);
    }
    Ok(())
}

/// Gives the place that the target led to, as a path from the root.
fn mount_one(one: &Mount, root: BorrowedFd<'_>, mounted: &Mounted) -> Result<Vec<u8>, SetupFailure> {
    let target = &one.target;
    let during = |what: String| {
        move |e: io::Error| SetupFailure {
            part: Part::Mount,
            what,
            errno: e.raw_os_error().unwrap_or(libc::EIO),
        }
    };
    let doing = |what: &str| during(format!("mount on {target}: {what}"));
    let (tree, is_dir) = match &one.source {
        MountSource::Bind { root, path } => {
            let source = fs::open_dir(root).and_then(|root| open_source(root, path));
            let source = source.map_err(doing("finding the source"))?;
            let kind = fs::stat(&source).map_err(doing("looking at the source"))?.kind;
            let tree = mount::detach_tree(&source).map_err(doing("taking the source"))?;
            (Some(tree), kind == FileKind::Directory)
        }
        MountSource::File { content, mode, uid, gid } => {
            let file = secret(content, *mode, (*uid, *gid)).map_err(doing("making the file"))?;
            (Some(file), false)
        }
        MountSource::Tmpfs { .. } => (None, true),
    };
    let (on, path, mode) =
        place(root, target, is_dir, mounted).map_err(doing("finding or making a place for it"))?;
    let tree = match (tree, &one.source) {
        (Some(tree), _) => tree,
        (None, MountSource::Tmpfs { size }) => {
            mount::detached_tmpfs(*size, mode, false).map_err(doing("making a tmpfs"))?
        }
        (None, _) => return Err(doing("no source")(io::Error::from_raw_os_error(libc::EINVAL))),
    };
    if one.read_only {
        mount::make_read_only(&tree, true).map_err(doing("making it read-only"))?;
    }
    mount::attach(&tree, &on).map_err(doing("mounting it"))?;
    Ok(path)
}

/// A handle on where a target leads, its path from the root, and its mode. What is missing was made before
/// the step ([`crate::mountpoint`]), unless it lies in another mount: only there it is made now.
fn place(
    root: BorrowedFd<'_>,
    target: &str,
    is_dir: bool,
    mounted: &Mounted,
) -> io::Result<(OwnedFd, Vec<u8>, u32)> {
    let missing = || io::Error::from_raw_os_error(libc::ENOENT);
    let mut make_dir = |dir: BorrowedFd<'_>, name: &OsStr, path: &[u8]| {
        if mounted.covers(path) { fs::make_dir_at(dir, name, 0o755) } else { Err(missing()) }
    };
    let walk = Walk { follow_last: true, make_dir: Some(&mut make_dir) };
    let place = in_root::find(root, target.as_bytes(), walk).map_err(|e| match e.kind() {
        io::ErrorKind::NotADirectory => io::Error::from_raw_os_error(libc::ENOTDIR),
        _ => e,
    })?;
    check_target(&place.path).map_err(|_| io::Error::from_raw_os_error(libc::EPERM))?;
    match place.stat {
        Some(s) if (s.kind == FileKind::Directory) != is_dir => {
            let errno = if is_dir { libc::ENOTDIR } else { libc::EISDIR };
            return Err(io::Error::from_raw_os_error(errno));
        }
        Some(_) => {}
        None if !mounted.covers(&place.path) => return Err(missing()),
        None if is_dir => {
            // Under a tmpfs this mode is what shows; under anything else it does not.
            fs::make_dir_at(place.dir.as_fd(), &place.name, NEW_TMPFS_MODE)?;
        }
        None => fs::create_file_at(place.dir.as_fd(), &place.name).map(drop)?,
    }
    let on = fs::open_path_at(&place.dir, &place.name)?;
    let mode = fs::stat(&on)?.mode;
    Ok((on, place.path, mode))
}

/// A mount of a single file from a tmpfs that has no place of its own.
fn secret(content: &[u8], mode: u32, owner: (u32, u32)) -> io::Result<OwnedFd> {
    // A page more than the content fills, and one each for the directory and the file.
    let size = (content.len() as u64).next_multiple_of(64 << 10) + (256 << 10);
    let tree = mount::detached_tmpfs(Some(size), 0o755, mode & 0o111 == 0)?;
    let name = OsStr::new("secret");
    let mut file = fs::create_file_at(&tree, name)?;
    file.write_all(content)?;
    if owner != (0, 0) {
        fs::chown_at(tree.as_fd(), name, owner.0, owner.1)?;
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    drop(file);
    mount::detach_file(&tree, name)
}
