//! Becoming root in a user namespace of one's own.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid, getpid};

use crate::identity::{self, Extent, IdMap};
use crate::sys::{mount, process};

/// Why this process cannot be root in a namespace.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The kernel or its configuration refuses user namespaces.
    #[error("this environment does not allow user namespaces{}: {hint}", said(source))]
    Forbidden {
        /// What the kernel said.
        source: io::Error,
        /// What would help.
        hint: String,
    },
    /// The map could not be written.
    #[error("cannot map user ids into the namespace: {reason}")]
    Map {
        /// What refused, and why.
        reason: String,
    },
    /// Another step failed.
    #[error("cannot enter the user namespace: {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// What the kernel said; of `ENOSPC`, which is its word for "too many namespaces", nothing: "no space
/// left on device" would send people looking for a full disk.
fn said(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::StorageFull => String::new(),
        _ => format!(" ({source})"),
    }
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> EnterError {
    move |source| EnterError::Io { what, source }
}

/// Moves this process into a new user namespace, as its root, and into a new mount namespace whose
/// mounts nobody outside sees. Gives the map of ids that it got.
///
/// With `newuidmap` refused (not installed set-user-id, or `no_new_privs` is on) it falls back to a
/// single-id map; the map's [`Extent`] then says why.
///
/// # Errors
/// [`EnterError::Forbidden`] where the environment has no user namespaces. Must be called while the
/// process has one thread (`unshare(2)` refuses otherwise).
pub fn enter() -> Result<IdMap, EnterError> {
    process::settle_to_one_thread().map_err(io_error("waiting for other threads to end"))?;
    let map = IdMap::discover().map_err(io_error("reading this user's ids"))?;
    let (mut go_read, mut go_write) = io::pipe().map_err(io_error("making a pipe"))?;
    let (mut said_read, mut said_write) = io::pipe().map_err(io_error("making a pipe"))?;
    let target = getpid();

    // Only a process outside the new namespace may write a map with more than one id, and this
    // process cannot be outside and inside: a copy made before stays behind and does it.
    let (_, helper) = process::fork(|| {
        // With its own copy of the other end open, it would wait for ever where the caller gives up.
        let _ = nix::unistd::close(go_write.as_raw_fd());
        if go_read.read_exact(&mut [0]).is_err() {
            return 1;
        }
        match identity::write_map(&map, target) {
            Ok(()) => 0,
            Err(reason) => {
                let _ = said_write.write_all(reason.as_bytes());
                1
            }
        }
    })
    .map_err(io_error("starting the helper that maps ids"))?;
    drop(said_write);

    let unshared = nix::sched::unshare(CloneFlags::CLONE_NEWUSER);
    if let Err(errno) = unshared {
        drop(go_write);
        let _ = process::wait(&helper);
        return Err(EnterError::Forbidden { source: errno.into(), hint: forbidden_hint() });
    }
    go_write.write_all(&[1]).map_err(io_error("waking the helper"))?;
    drop(go_write);
    let mut reason = String::new();
    said_read.read_to_string(&mut reason).map_err(io_error("hearing from the helper"))?;
    let mapped = process::wait(&helper).map_err(io_error("waiting for the helper"))?;

    let map = if mapped == process::Ended::Exited(0) {
        map
    } else if map.extent == Extent::Range && still_unmapped() {
        let single = IdMap::single(reason);
        identity::write_map(&outside_of(&map, single.clone()), target)
            .map_err(|reason| EnterError::Map { reason })?;
        outside_of(&map, single)
    } else {
        return Err(EnterError::Map { reason });
    };

    let denied = |what| move |e: nix::errno::Errno| EnterError::Io { what, source: e.into() };
    nix::unistd::setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))
        .map_err(denied("becoming group 0"))?;
    nix::unistd::setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0))
        .map_err(denied("becoming user 0"))?;
    match nix::unistd::setgroups(&[]) {
        // Given up for a single-id map, here or in a namespace above: user_namespaces(7).
        Ok(()) | Err(nix::errno::Errno::EPERM) => {}
        Err(e) => return Err(denied("dropping supplementary groups")(e)),
    }
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|e| EnterError::Forbidden { source: e.into(), hint: forbidden_hint() })?;
    mount::make_private().map_err(|source| EnterError::Forbidden { source, hint: forbidden_hint() })?;
    Ok(map)
}

/// `single` was made inside the namespace, where ids have no names yet; `map` knows what they were.
fn outside_of(map: &IdMap, mut single: IdMap) -> IdMap {
    single.uids[0].outside = map.uids[0].outside;
    single.gids[0].outside = map.gids[0].outside;
    single
}

fn still_unmapped() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|text| text.trim().is_empty())
}

/// Looks at the switches that distributions have, and names the one that is off.
fn forbidden_hint() -> String {
    let setting = |name: &str| {
        fs::read_to_string(format!("/proc/sys/{name}")).ok().and_then(|t| t.trim().parse::<u64>().ok())
    };
    if setting("user/max_user_namespaces") == Some(0) {
        return "they are switched off; as root: sysctl -w user.max_user_namespaces=15000".to_owned();
    }
    if setting("kernel/unprivileged_userns_clone") == Some(0) {
        return "they are switched off for ordinary users; as root: sysctl -w kernel.unprivileged_userns_clone=1"
            .to_owned();
    }
    if setting("kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return "AppArmor restricts them; as root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, \
                or give cooper an AppArmor profile with `userns,`"
            .to_owned();
    }
    "a container's seccomp profile or a security module forbids them; run the container with a profile that \
     allows unshare(CLONE_NEWUSER) and mount, or ask the administrator"
        .to_owned()
}
