//! Mounts, through descriptors where the kernel lets us.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use super::fs::proc_path;

/// Stops mounts from spreading between this namespace and the one it came from.
pub fn make_private() -> io::Result<()> {
    Ok(nix::mount::mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )?)
}

/// Mounts a file system of `kind` on an open directory.
pub fn mount(kind: &str, on: impl AsFd, flags: MsFlags, options: &str) -> io::Result<()> {
    Ok(nix::mount::mount(Some(kind), &proc_path(on.as_fd()), Some(kind), flags, Some(options))?)
}

/// Mounts a file system of `kind` on a trusted path.
pub fn mount_path(kind: &str, on: &Path, flags: MsFlags, options: &str) -> io::Result<()> {
    Ok(nix::mount::mount(Some(kind), on, Some(kind), flags, Some(options))?)
}

/// Makes `from` visible on `on`; with `recursive`, with all that is mounted below it.
pub fn bind(from: &Path, on: impl AsFd, recursive: bool) -> io::Result<()> {
    let flags = if recursive { MsFlags::MS_BIND | MsFlags::MS_REC } else { MsFlags::MS_BIND };
    Ok(nix::mount::mount(Some(from), &proc_path(on.as_fd()), None::<&str>, flags, None::<&str>)?)
}

/// Makes the mount at a handle, and with `recursive` all below it, read-only.
///
/// Rests on `mount_setattr(2)`, Linux 5.12.
pub fn make_read_only(at: impl AsFd, recursive: bool) -> io::Result<()> {
    let attributes =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let empty = CString::default();
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, which with AT_EMPTY_PATH names the open descriptor; the
    // structure is alive for the call and its true size is passed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at.as_fd().as_raw_fd(),
            empty.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A new tmpfs that is mounted nowhere: with a limit in bytes, and with the mode of its root directory. No
/// devices and no set-user-id programs in it; with `noexec` no programs at all.
pub fn detached_tmpfs(size: Option<u64>, mode: u32, noexec: bool) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, "source", "tmpfs")?;
    if let Some(size) = size {
        rustix::mount::fsconfig_set_string(&context, "size", size.to_string())?;
    }
    rustix::mount::fsconfig_set_string(&context, "mode", format!("{mode:o}"))?;
    rustix::mount::fsconfig_create(&context)?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    if noexec {
        attributes |= MountAttrFlags::MOUNT_ATTR_NOEXEC;
    }
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A copy, mounted nowhere yet, of what is visible at a handle, with all that is mounted below it.
///
/// With all, because a part of a tree that another user namespace has put together may not be shown
/// without the mounts that cover it: mount_namespaces(7), "locked".
pub fn detach_tree(at: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(rustix::mount::open_tree(at, "", flags)?)
}

/// A mount of the one file `name` in a mounted or detached tree, mounted nowhere yet.
pub fn detach_file(tree: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    Ok(rustix::mount::open_tree(tree, name, flags)?)
}

/// Mounts a detached tree on a handle.
pub fn attach(tree: impl AsFd, on: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree, "", on, "", flags)?)
}

/// Takes a mount away as soon as nobody uses it any more.
pub fn detach(at: &Path) -> io::Result<()> {
    Ok(nix::mount::umount2(at, MntFlags::MNT_DETACH)?)
}

/// Makes the mounted tree at the current directory the root, and drops the old one.
pub fn pivot_to_current_dir() -> io::Result<()> {
    // Both arguments the same: the old root ends up mounted over the new one, and is taken off it.
    // pivot_root(2) describes the idiom; it needs no directory inside the new root.
    nix::unistd::pivot_root(".", ".")?;
    nix::mount::umount2(".", MntFlags::MNT_DETACH)?;
    Ok(nix::unistd::chdir("/")?)
}
