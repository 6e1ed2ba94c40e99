//! The task that waits for an answer: its memory, its paths, what it is.
//!
//! Paths are looked up by the kernel, with the supervisor in the task's root directory, as the task would:
//! links, `..` and mounts lead it where they lead the task. Only `/proc/self` means somebody else.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};

use super::copy_up::as_path;
use crate::sys::memory::{self, KernelStat};
use crate::sys::{fs, seccomp::Notification};

/// Longest path that the kernel takes, with its end.
const PATH_LIMIT: usize = 4096;
const SHORT_PATH: usize = 256;

/// The supervisor's view of its tasks.
#[derive(Debug)]
pub(super) struct View {
    /// `/proc` of the supervisor's own PID namespace: once its root is the step's there is no other way.
    proc: OwnedFd,
    /// The current root.
    root: Option<Root>,
    /// Whether tasks may have different roots: until one asks for another, they all have the first's.
    roots_differ: bool,
    /// The root of the step's first task.
    first_root: Option<OwnedFd>,
}

/// Mount and inode of a root directory: another mount namespace has the same inode on another mount.
type Root = (u64, u64);

/// A task that waits, and what it asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) id: u64,
    pub(super) tid: u32,
    pub(super) number: i64,
    pub(super) args: [u64; 6],
}

/// A path as the supervisor has to give it to the kernel.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) dir: BorrowedFd<'a>,
    pub(super) path: CString,
}

impl Target {
    pub(super) fn new(n: &Notification) -> io::Result<Target> {
        if n.tid == 0 {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(Target { id: n.id, tid: n.tid, number: n.number, args: n.args })
    }

    /// An argument that is an `int` or an id.
    pub(super) fn arg32(&self, index: usize) -> u32 {
        self.args[index] as u32
    }

    /// An argument that is a descriptor, or `AT_FDCWD`.
    pub(super) fn fd(&self, index: usize) -> i32 {
        self.args[index] as i32
    }

    /// Reads exactly so many bytes.
    pub(super) fn read(&self, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        match memory::read(self.tid, address, buffer)? {
            got if got == buffer.len() => Ok(()),
            _ => Err(fault()),
        }
    }

    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> io::Result<()> {
        memory::write(self.tid, address, bytes)
    }

    pub(super) fn read_u32s(&self, address: u64, count: usize) -> io::Result<Vec<u32>> {
        let mut bytes = vec![0; 4 * count];
        self.read(address, &mut bytes)?;
        Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    pub(super) fn write_u32s(&self, address: u64, numbers: &[u32]) -> io::Result<()> {
        self.write(address, &numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>())
    }

    /// A text that ends with a zero byte, without it.
    pub(super) fn text(&self, address: u64) -> io::Result<Vec<u8>> {
        // Nearly all are short, and a page is dear to copy.
        for size in [SHORT_PATH, PATH_LIMIT] {
            let mut buffer = vec![0; size];
            let got = memory::read(self.tid, address, &mut buffer)?;
            if let Some(end) = buffer[..got].iter().position(|b| *b == 0) {
                buffer.truncate(end);
                return Ok(buffer);
            }
            if got < size {
                return Err(fault());
            }
        }
        Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG))
    }
}

fn fault() -> io::Error {
    io::Error::from_raw_os_error(libc::EFAULT)
}

impl View {
    /// With `one_root` [`View::roots_differ`] will be called before a task changes its root.
    pub(super) fn new(one_root: bool) -> io::Result<View> {
        let proc = fs::open_dir(Path::new("/proc"))?;
        Ok(View { proc, root: None, roots_differ: !one_root, first_root: None })
    }

    /// From now on each task is asked for its root.
    pub(super) fn roots_differ(&mut self) {
        self.roots_differ = true;
    }

    /// Makes the task's root directory the supervisor's, if it is not.
    fn enter_root(&mut self, tid: u32) -> io::Result<()> {
        if !self.roots_differ && self.root.is_some() {
            return Ok(());
        }
        let path = c_string(format!("{tid}/root").into_bytes())?;
        if Some(root_of(&self.proc, &path, AtFlags::empty())?) != self.root {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::openat(&self.proc, path, flags, Mode::empty())?;
            self.change_root(&root)?;
            self.first_root.get_or_insert(root);
        }
        Ok(())
    }

    fn change_root(&mut self, root: &OwnedFd) -> io::Result<()> {
        let now = root_of(root, c"", AtFlags::EMPTY_PATH)?;
        rustix::process::fchdir(root)?;
        rustix::process::chroot(".")?;
        self.root = Some(now);
        Ok(())
    }

    /// The path of a handle from the step's own root.
    ///
    /// # Errors
    /// `ENOENT` for what has been removed or lies elsewhere.
    pub(super) fn path_of(&mut self, handle: &OwnedFd) -> io::Result<CString> {
        // The kernel tells paths from the root of whoever asks.
        if let Some(root) = self.first_root.take() {
            if Some(root_of(&root, c"", AtFlags::EMPTY_PATH)?) != self.root {
                self.change_root(&root)?;
            }
            self.first_root = Some(root);
        }
        let path = format!("self/fd/{}", handle.as_raw_fd());
        as_path(rustix::fs::readlinkat(&self.proc, path, Vec::new())?)
    }

    /// Where a path of the task's leads. An empty path means the descriptor itself: only for calls that
    /// were told so.
    ///
    /// # Errors
    /// `ENAMETOOLONG` where the way through `/proc` makes it too long.
    pub(super) fn place(&mut self, target: &Target, fd: i32, path: &[u8]) -> io::Result<Place<'_>> {
        let tid = target.tid;
        let base = || match fd {
            libc::AT_FDCWD => format!("{tid}/cwd"),
            fd => format!("{tid}/fd/{fd}"),
        };
        // Absolute links lead from the root, whatever a path begins with.
        self.enter_root(tid)?;
        let through = match (path, own_link(path)) {
            (b"", _) => base().into_bytes(),
            (_, Some(rest)) => [format!("{tid}/").as_bytes(), rest].concat(),
            ([b'/', ..], None) => return Ok(Place { dir: CWD, path: c_string(path.to_vec())? }),
            _ => [base().as_bytes(), b"/", path].concat(),
        };
        Ok(Place { dir: self.proc.as_fd(), path: c_string(through)? })
    }

    /// A handle (`O_PATH`) on what a path leads to.
    pub(super) fn handle(
        &mut self,
        target: &Target,
        fd: i32,
        path: &[u8],
        follow: bool,
    ) -> io::Result<OwnedFd> {
        // The way through /proc is a link itself.
        let no_follow = if follow || path.is_empty() { OFlags::empty() } else { OFlags::NOFOLLOW };
        let place = self.place(target, fd, path)?;
        let flags = OFlags::PATH | OFlags::CLOEXEC | no_follow;
        Ok(rustix::fs::openat(place.dir, &place.path, flags, Mode::empty())?)
    }

    /// A handle on the directory in which a path's last name is, and that name.
    ///
    /// # Errors
    /// `EINVAL` where the last name is none: `.`, `..`, or nothing.
    pub(super) fn parent(&mut self, target: &Target, fd: i32, path: &[u8]) -> io::Result<(OwnedFd, CString)> {
        let (dir, name) = split(path).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        let dir = if dir.is_empty() { b"." } else { dir };
        Ok((self.handle(target, fd, dir, true)?, c_string(name.to_vec())?))
    }

    /// Reads a small file of the task's directory in `/proc`.
    pub(super) fn read_proc(&self, tid: u32, file: &str) -> io::Result<String> {
        use std::io::Read;
        let fd = self.open_proc(tid, file, OFlags::RDONLY)?;
        let mut text = String::new();
        std::fs::File::from(fd).read_to_string(&mut text)?;
        Ok(text)
    }

    pub(super) fn open_proc(&self, tid: u32, file: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let path = format!("{tid}/{file}");
        Ok(rustix::fs::openat(&self.proc, path, flags | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Opens what a handle is on. Not for anything but regular files: a FIFO would block.
    pub(super) fn reopen(&self, handle: &OwnedFd, access: OFlags) -> io::Result<OwnedFd> {
        let path = format!("self/fd/{}", handle.as_raw_fd());
        let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        Ok(rustix::fs::openat(&self.proc, path, flags, Mode::empty())?)
    }

    /// Sets the mode of what a handle is on. By its descriptor alone only Linux 6.6 can.
    pub(super) fn chmod(&self, handle: &OwnedFd, mode: Mode) -> io::Result<()> {
        let path = format!("self/fd/{}", handle.as_raw_fd());
        Ok(rustix::fs::chmodat(&self.proc, path, mode, AtFlags::empty())?)
    }

    /// Gives what a handle is on another name. By its descriptor alone the kernel would ask for more
    /// privilege than a user namespace has.
    pub(super) fn link(&self, handle: &OwnedFd, dir: &OwnedFd, name: &CString) -> rustix::io::Result<()> {
        let path = format!("self/fd/{}", handle.as_raw_fd());
        rustix::fs::linkat(&self.proc, path, dir, name, AtFlags::SYMLINK_FOLLOW)
    }

    /// A field of `/proc/TID/status`.
    pub(super) fn status(&self, tid: u32, field: &str) -> io::Result<String> {
        let text = self.read_proc(tid, "status")?;
        let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(":"));
        line.map(|l| l.trim().to_owned()).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// The task's `umask`.
    pub(super) fn umask(&self, tid: u32) -> io::Result<u32> {
        u32::from_str_radix(&self.status(tid, "Umask")?, 8).map_err(io::Error::other)
    }
}

impl Place<'_> {
    pub(super) fn stat(&self, flags: i32) -> io::Result<KernelStat> {
        memory::stat(self.dir, &self.path, flags)
    }
}

fn root_of(dir: &OwnedFd, path: &CStr, flags: AtFlags) -> io::Result<Root> {
    let stat = rustix::fs::statx(dir, path, flags, StatxFlags::MNT_ID | StatxFlags::INO)?;
    Ok((stat.stx_mnt_id, stat.stx_ino))
}

/// `stat` of a handle.
pub(super) fn stat_handle(handle: impl AsFd) -> io::Result<KernelStat> {
    memory::stat(handle.as_fd(), c"", libc::AT_EMPTY_PATH)
}

pub(super) fn c_string(bytes: Vec<u8>) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// What follows `/proc/self/` where that is a link into the task's own world. All else there lies in the
/// supervisor's `/proc`, from which `..` leads out of the step: such a path is left to the kernel.
fn own_link(path: &[u8]) -> Option<&[u8]> {
    let rest = [&b"/proc/self/"[..], b"/proc/thread-self/"].iter().find_map(|p| path.strip_prefix(*p))?;
    let mut names = rest.split(|b| *b == b'/');
    let jumps = match names.next()? {
        b"cwd" | b"root" | b"exe" => true,
        b"fd" => names.next().is_some_and(|n| !n.is_empty() && n.iter().all(u8::is_ascii_digit)),
        _ => false,
    };
    jumps.then_some(rest)
}

/// Directory and last name of a path. Slashes after the name do not count; a directory that is the root
/// keeps its slash.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = path.iter().rposition(|b| *b != b'/')? + 1;
    let start = path[..end].iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
    let name = &path[start..end];
    fs::is_plain_name(OsStr::from_bytes(name)).then_some((&path[..start], name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_of_the_task_itself_go_through_the_supervisors_proc() {
        for (path, rest) in [
            ("/proc/self/cwd/../x", Some("cwd/../x")),
            ("/proc/self/exe", Some("exe")),
            ("/proc/thread-self/fd/12/x", Some("fd/12/x")),
            ("/proc/self/../../home", None),
            ("/proc/self/fd/../../..", None),
            ("/proc/self/fd//../..", None),
            ("/proc/self/fd/", None),
            ("/proc/self/fd/1x", None),
            ("/proc/self//cwd", None),
            ("/proc/self/task/../../1/root", None),
            ("/proc/self/cwdx/..", None),
            ("/proc/1/root", None),
        ] {
            assert_eq!(own_link(path.as_bytes()), rest.map(str::as_bytes), "{path}");
        }
    }

    #[test]
    fn paths_are_split_at_their_last_name() {
        let parts = |path: &'static str| split(path.as_bytes());
        let some = |dir: &'static str, name: &'static str| Some((dir.as_bytes(), name.as_bytes()));
        assert_eq!(parts("a"), some("", "a"));
        assert_eq!(parts("/a"), some("/", "a"));
        assert_eq!(parts("/a/b//"), some("/a/", "b"));
        assert_eq!(parts("../a"), some("../", "a"));
        for none in ["", "/", "a/..", ".", "a/./"] {
            assert_eq!(parts(none), None, "{none}");
        }
    }
}
