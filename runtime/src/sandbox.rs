//! Between `clone` and `execve`: a step's first process makes its world and becomes the program.
//!
//! It runs in new mount, PID, IPC and UTS namespaces, as root of the builder's user namespace, and
//! still sees the builder's mounts. In this order: mounts are made on handles inside the new root
//! (so that no link in the image can redirect them), the root is switched, capabilities outside
//! Docker's default set are dropped for good, and the step's user takes over.

mod mounts;

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use caps::{CapSet, Capability};
use nix::mount::MsFlags;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};

use crate::in_root::{self, Walk};
use crate::recording::{self, Scope};
use crate::step::{Part, SetupFailure, Step};
use crate::sys::{fs, mount, process};

/// What Docker leaves to root in a container; the bounding set of every step.
const CAPABILITIES: [Capability; 14] = [
    Capability::CAP_AUDIT_WRITE,
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_MKNOD,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_NET_RAW,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SETUID,
    Capability::CAP_SYS_CHROOT,
];

/// Device nodes of the builder's machine that a step may use.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// A failure with what was tried.
trait Context<T> {
    fn during(self, part: Part, what: &str) -> Result<T, SetupFailure>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn during(self, part: Part, what: &str) -> Result<T, SetupFailure> {
        self.map_err(|e| failure(part, what, &e.into()))
    }
}

fn failure(part: Part, what: &str, error: &io::Error) -> SetupFailure {
    SetupFailure { part, what: what.to_owned(), errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

/// Becomes the step. Returns only when something stood in the way. Where the step is recorded, the supervisor
/// gets the descriptor to serve it with through `handoff`.
pub(crate) fn become_step(step: &Step, handoff: Option<UnixStream>) -> SetupFailure {
    match prepare(step, handoff) {
        Ok(()) => execute(step),
        Err(failure) => failure,
    }
}

fn prepare(step: &Step, handoff: Option<UnixStream>) -> Result<(), SetupFailure> {
    // Whatever happens to the processes above: this one, and with it all of its PID namespace, goes
    // when its parent does.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .during(Part::Sandbox, "asking to die with the builder")?;
    nix::unistd::setsid().during(Part::Sandbox, "starting a session")?;
    nix::unistd::sethostname(&step.hostname).during(Part::Sandbox, "setting the host name")?;
    let root = mounted_root(&step.root).during(Part::Sandbox, "opening the root file system")?;
    mount_all(step, root.as_fd())?;
    std::env::set_current_dir(fs::proc_path(root.as_fd())).during(Part::Sandbox, "entering the root")?;
    drop(root);
    mount::pivot_to_current_dir().during(Part::Sandbox, "switching to the root file system")?;
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    drop_capabilities().during(Part::Identity, "dropping capabilities")?;
    // While this process is still allowed to: a filter without no_new_privs asks for CAP_SYS_ADMIN.
    if let (Some(recording), Some(handoff)) = (&step.recording, handoff) {
        recording::submit(recording)
            .and_then(|listener| process::hand_over(&handoff, &[listener.as_raw_fd()]))
            .during(Part::Recording, "having the supervisor asked about system calls")?;
    }
    become_user(step)?;
    // Cleared by the kernel when ids change.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .during(Part::Sandbox, "asking to die with the builder")?;
    process::leave_session_keyring();
    enter_cwd(&step.cwd)
        .during(Part::WorkingDirectory, &format!("entering the working directory {}", step.cwd))?;
    process::reset_signals().during(Part::Sandbox, "resetting signals")
}

/// Enters the working directory. By now the only descriptors are the standard streams and the pipe
/// that reports failures, so that no link in `/proc/self/fd` leads anywhere; that the directory lies
/// inside the root is checked all the same.
fn enter_cwd(cwd: &str) -> io::Result<()> {
    std::env::set_current_dir(Path::new(cwd))?;
    // The kernel says "(unreachable)" of a directory outside the root.
    match std::env::current_dir() {
        Ok(here) if here.is_absolute() => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::EXDEV)),
    }
}

/// Opens the root file system as a mount of its own, which only the step sees: a root may be a plain
/// directory, and `pivot_root(2)` wants a mount.
fn mounted_root(path: &Path) -> io::Result<OwnedFd> {
    mount::bind(path, fs::open_dir(path)?, false)?;
    // The handle from before shows what the mount covers.
    fs::open_dir(path)
}

fn mount_all(step: &Step, root: BorrowedFd<'_>) -> Result<(), SetupFailure> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let proc = point(root, "proc")?;
    mount::mount("proc", &proc, plain, "").during(Part::Sandbox, "mounting /proc")?;
    // A sysfs of its own would need a network namespace of its own; the builder's, read-only, with
    // all that is mounted in it, is what rootless containers have.
    let sys = point(root, "sys")?;
    mount::bind(Path::new("/sys"), &sys, true).during(Part::Sandbox, "mounting /sys")?;
    let sys = point(root, "sys")?;
    mount::make_read_only(&sys, true).during(Part::Sandbox, "making /sys read-only")?;
    mount_dev(root)?;
    mount_files(step, root)?;
    // Last, as BuildKit has them: a mount over /etc covers the two files as well.
    mounts::mount_all(&step.mounts, root)
}

fn mount_dev(root: BorrowedFd<'_>) -> Result<(), SetupFailure> {
    let on = point(root, "dev")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_STRICTATIME;
    mount::mount("tmpfs", &on, flags, "mode=755,size=64k").during(Part::Sandbox, "mounting /dev")?;
    // Opened again: the old handle is what the tmpfs now hides.
    let dev = fs::reopen_dir(point(root, "dev")?).during(Part::Sandbox, "opening /dev")?;
    for name in DEVICES {
        let source = Path::new("/dev").join(name);
        let name = OsStr::new(name);
        let what = format!("binding {}", source.display());
        fs::create_file_at(&dev, name).during(Part::Sandbox, &what)?;
        let on = fs::open_path_at(&dev, name).during(Part::Sandbox, &what)?;
        mount::bind(&source, &on, false).during(Part::Sandbox, &what)?;
    }
    for (name, target) in DEVICE_LINKS {
        fs::make_symlink_at(&dev, OsStr::new(name), OsStr::new(target))
            .during(Part::Sandbox, "making links in /dev")?;
    }
    for (name, kind, options) in [
        ("pts", "devpts", "newinstance,ptmxmode=0666,mode=0620"),
        ("shm", "tmpfs", "mode=1777,size=64m"),
        ("mqueue", "mqueue", ""),
    ] {
        let what = format!("mounting /dev/{name}");
        let name = OsStr::new(name);
        fs::make_dir_at(&dev, name, 0o755).during(Part::Sandbox, &what)?;
        let on = fs::open_path_at(&dev, name).during(Part::Sandbox, &what)?;
        let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        if kind != "devpts" {
            flags |= MsFlags::MS_NODEV;
        }
        mount::mount(kind, &on, flags, options).during(Part::Sandbox, &what)?;
    }
    Ok(())
}

/// `resolv.conf` and `hosts` come from a tmpfs that has no place of its own, so that the step's mount
/// table names no file of the builder's.
fn mount_files(step: &Step, root: BorrowedFd<'_>) -> Result<(), SetupFailure> {
    let tree = mount::detached_tmpfs(Some(1 << 20), 0o755, true).during(Part::Sandbox, "making a tmpfs")?;
    for (path, content) in [("etc/resolv.conf", &step.resolv_conf), ("etc/hosts", &step.hosts)] {
        let what = format!("mounting /{path}");
        let name = OsStr::new(path.rsplit('/').next().unwrap_or(path));
        let mut file: File = fs::create_file_at(&tree, name).during(Part::Sandbox, &what)?;
        file.write_all(content).during(Part::Sandbox, &what)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o644)).during(Part::Sandbox, &what)?;
        drop(file);
        let single = mount::detach_file(&tree, name).during(Part::Sandbox, &what)?;
        mount::make_read_only(&single, false).during(Part::Sandbox, &what)?;
        let on = point(root, path)?;
        mount::attach(&single, &on).during(Part::Sandbox, &what)?;
    }
    Ok(())
}

/// A handle on a mount point inside the root; `/proc`, `/sys` and `/dev` must be directories
/// themselves, files may be reached through links.
fn point(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, SetupFailure> {
    let find = || {
        let place = in_root::find(root, path.as_bytes(), Walk { follow_last: true, make_dir: None })?;
        fs::open_path_at(&place.dir, &place.name)
    };
    find().during(Part::Sandbox, &format!("finding /{path} in the root file system"))
}

fn drop_capabilities() -> Result<(), nix::errno::Errno> {
    let refused = |_| nix::errno::Errno::EPERM;
    // The kernel's own list: asking it to drop one that it does not know is an error.
    for capability in caps::runtime::procfs_all_supported(None).map_err(refused)? {
        if !CAPABILITIES.contains(&capability) {
            caps::drop(None, CapSet::Bounding, capability).map_err(refused)?;
        }
    }
    caps::clear(None, CapSet::Inheritable).map_err(refused)?;
    caps::clear(None, CapSet::Ambient).map_err(refused)
}

fn become_user(step: &Step) -> Result<(), SetupFailure> {
    // It is root whatever it is on record, and execve gives it no more than the bounding set has. Setting its
    // capabilities here would be answered already, for the user that it is on record.
    if step.recording.as_ref().is_some_and(|r| r.scope == Scope::Everything) {
        return Ok(());
    }
    let groups: Vec<Gid> = step.groups.iter().map(|g| Gid::from_raw(*g)).collect();
    match nix::unistd::setgroups(&groups) {
        Ok(()) => {}
        // Where the kernel allows no setgroups at all, the builder asks for none.
        Err(nix::errno::Errno::EPERM) if groups.is_empty() => {}
        Err(e) => return Err(e).during(Part::Identity, "setting supplementary groups"),
    }
    let (uid, gid) = (Uid::from_raw(step.uid), Gid::from_raw(step.gid));
    nix::unistd::setresgid(gid, gid, gid).during(Part::Identity, &format!("becoming group {}", step.gid))?;
    if uid.is_root() {
        // Root stays what it is, with no more than the set above, now and after execve.
        let allowed = CAPABILITIES.into_iter().collect();
        for set in [CapSet::Effective, CapSet::Permitted] {
            caps::set(None, set, &allowed).map_err(|_| {
                failure(Part::Identity, "limiting capabilities", &io::Error::from_raw_os_error(libc::EPERM))
            })?;
        }
        return Ok(());
    }
    nix::unistd::setresuid(uid, uid, uid).during(Part::Identity, &format!("becoming user {}", step.uid))
}

/// Root's capabilities in a step, a bit each.
pub(crate) fn capability_mask() -> u64 {
    CAPABILITIES.iter().map(Capability::bitmask).sum()
}

fn execute(step: &Step) -> SetupFailure {
    let program = step.argv.first().map_or("", String::as_str);
    let what = format!("executing {program}");
    let c_strings =
        |texts: &[String]| texts.iter().map(|t| CString::new(t.as_bytes())).collect::<Result<Vec<_>, _>>();
    let (Ok(argv), Ok(env)) = (c_strings(&step.argv), c_strings(&step.env)) else {
        return failure(Part::Program, &what, &io::Error::from_raw_os_error(libc::EINVAL));
    };
    // As execvpe(3) does: remember a file that may not be executed, but go on looking.
    let mut error = nix::errno::Errno::ENOENT;
    for path in candidates(program, &step.env) {
        let Ok(path) = CString::new(path) else { continue };
        let Err(errno) = nix::unistd::execve(&path, &argv, &env);
        match errno {
            nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR => {}
            nix::errno::Errno::EACCES => error = errno,
            other => {
                error = other;
                break;
            }
        }
    }
    failure(Part::Program, &what, &error.into())
}

fn candidates(program: &str, env: &[String]) -> Vec<String> {
    if program.contains('/') || program.is_empty() {
        return vec![program.to_owned()];
    }
    let path = env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or("/bin:/usr/bin");
    path.split(':')
        .map(|dir| if dir.is_empty() { program.to_owned() } else { format!("{dir}/{program}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_in_the_steps_own_path() {
        let env = ["A=1".to_owned(), "PATH=/x:/y".to_owned()];
        assert_eq!(candidates("ls", &env), ["/x/ls", "/y/ls"]);
        assert_eq!(candidates("./ls", &env), ["./ls"]);
        assert_eq!(candidates("ls", &[]), ["/bin/ls", "/usr/bin/ls"]);
    }
}
