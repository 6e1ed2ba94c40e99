//! Files, always named by an open directory and one name in it.
//!
//! No function here follows a symbolic link in its last component, and apart from
//! [`open_in_root`] none accepts more than one component from an untrusted source: whoever walks a
//! tree holds a descriptor per directory, so that a directory swapped for a link under way is noticed
//! by the kernel and not followed.

mod remove;
mod xattrs;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

pub use remove::{remove_some_at, remove_tree_at};
use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, StatxFlags, Timespec,
    Timestamps, Uid,
};
pub use xattrs::{remove_xattr_at, set_xattr_at, xattr_at, xattr_names_at, xattrs_at};

/// What a name in a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// A point in time: seconds and nanoseconds since 1970, seconds negative before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Whole seconds.
    pub sec: i64,
    /// 0 to 999,999,999.
    pub nsec: u32,
}

/// What `stat` says of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Its type.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky (`0o7777`).
    pub mode: u32,
    /// Owner, as seen in this user namespace.
    pub uid: u32,
    /// Group, as seen in this user namespace.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Time,
    /// Change time.
    pub ctime: Time,
    /// Device the inode lies on.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Number of names.
    pub nlink: u64,
    /// Major and minor number of a device node.
    pub rdev: (u32, u32),
}

impl Stat {
    /// A kernel overlay whiteout: a character device 0:0.
    pub fn is_whiteout(&self) -> bool {
        self.kind == FileKind::CharDevice && self.rdev == (0, 0)
    }

    #[allow(clippy::useless_conversion, reason = "the number of names is 32 bits wide on aarch64")]
    fn from_rustix(s: &rustix::fs::Stat) -> Stat {
        let kind = kind_of(FileType::from_raw_mode(s.st_mode));
        Stat {
            kind,
            mode: s.st_mode & 0o7777,
            uid: s.st_uid,
            gid: s.st_gid,
            size: s.st_size as u64,
            mtime: Time { sec: s.st_mtime, nsec: s.st_mtime_nsec as u32 },
            ctime: Time { sec: s.st_ctime, nsec: s.st_ctime_nsec as u32 },
            dev: s.st_dev,
            ino: s.st_ino,
            nlink: u64::from(s.st_nlink),
            rdev: (rustix::fs::major(s.st_rdev), rustix::fs::minor(s.st_rdev)),
        }
    }
}

fn kind_of(t: FileType) -> FileKind {
    match t {
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        _ => FileKind::File,
    }
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, never `.` or `..`.
    pub name: OsString,
    /// Its type, where the file system tells it with the name.
    pub kind: Option<FileKind>,
}

/// Opens a directory by a trusted path, following links.
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens a directory below `dir`; a symbolic link is `ENOTDIR` or `ELOOP`.
pub fn open_dir_at(dir: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// A handle (`O_PATH`) on whatever `name` is, links included.
pub fn open_path_at(dir: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Opens a regular file for reading; a FIFO does not block.
pub fn open_file_at(dir: impl AsFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?))
}

/// Creates a regular file that must not exist, mode 0600, open for reading and writing.
pub fn create_file_at(dir: impl AsFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(dir, name, flags, Mode::from(0o600))?))
}

/// Creates a regular file that must not exist, open for writing, with those of the permission bits `mode`
/// that the umask leaves.
pub fn create_file_with_mode_at(dir: impl AsFd, name: &OsStr, mode: u32) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(mode))?))
}

/// Opens `path` (any number of components) as if `root` were `/`: absolute links and `..` stay
/// inside, links through `/proc` are refused. A handle (`O_PATH`); `follow_last` decides about a link
/// in the last component.
///
/// Rests on `openat2(2)` with `RESOLVE_IN_ROOT`, Linux 5.6.
pub fn open_in_root(root: impl AsFd, path: &OsStr, follow_last: bool) -> io::Result<OwnedFd> {
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    if !follow_last {
        flags |= OFlags::NOFOLLOW;
    }
    let path = if path.is_empty() { OsStr::new(".") } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // EAGAIN: a rename elsewhere made the kernel unsure about `..`; it asks to be called again.
    for _ in 0..64 {
        match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
            Err(rustix::io::Errno::AGAIN) => continue,
            other => return Ok(other?),
        }
    }
    Err(io::Error::from(rustix::io::Errno::AGAIN))
}

/// Turns a handle on a directory into one that can be listed.
pub fn reopen_dir(handle: impl AsFd) -> io::Result<OwnedFd> {
    open_dir_at(handle, OsStr::new("."))
}

/// Turns a handle on a regular file into one that can be read.
pub fn reopen_file(handle: impl AsFd) -> io::Result<File> {
    let path = proc_path(handle.as_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// `stat` of a name, not following a link.
pub fn stat_at(dir: impl AsFd, name: &OsStr) -> io::Result<Stat> {
    Ok(Stat::from_rustix(&rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?))
}

/// Like [`stat_at`], with `None` for a name that is not there.
pub fn try_stat_at(dir: impl AsFd, name: &OsStr) -> io::Result<Option<Stat>> {
    match stat_at(dir, name) {
        Ok(s) => Ok(Some(s)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// `stat` of an open file or handle.
pub fn stat(fd: impl AsFd) -> io::Result<Stat> {
    Ok(Stat::from_rustix(&rustix::fs::fstat(fd)?))
}

/// When the inode of a name was made, where the file system keeps that (`statx(2)`).
pub fn birth_at(dir: impl AsFd, name: &OsStr) -> io::Result<Option<Time>> {
    let stat = rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME)?;
    let known = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    Ok(known.then_some(Time { sec: stat.stx_btime.tv_sec, nsec: stat.stx_btime.tv_nsec }))
}

/// The modification time of a name, and nothing else: the kernel asks a file system that is not in the kernel
/// only if it does not know it. With `remembered` not even then (`AT_STATX_DONT_SYNC`): it says what it was told
/// last.
pub fn mtime_at(dir: impl AsFd, name: &OsStr, remembered: bool) -> io::Result<Time> {
    let asking = if remembered { AtFlags::STATX_DONT_SYNC } else { AtFlags::empty() };
    let stat = rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW | asking, StatxFlags::MTIME)?;
    Ok(Time { sec: stat.stx_mtime.tv_sec, nsec: stat.stx_mtime.tv_nsec })
}

/// Has the file system that `fd` is on write out what it keeps in memory, and waits for it (`syncfs(2)`).
pub fn sync(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::syncfs(fd)?)
}

/// Has the kernel begin to write out `length` bytes of a file from `offset` on, and does not wait for it
/// (`sync_file_range(2)` with `SYNC_FILE_RANGE_WRITE`). This promises nothing: it gives a later `fdatasync` less
/// to wait for. A length of 0 reaches to the file's end.
///
/// # Errors
/// Where the file system or a seccomp filter does not know the call.
pub fn start_writing_out(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let signed = |n: u64| libc::off64_t::try_from(n).map_err(|_| io::ErrorKind::InvalidInput);
    let (offset, length) = (signed(offset)?, signed(length)?);
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the call takes no pointer.
    let done =
        unsafe { libc::sync_file_range(file.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The names in an open directory, in the file system's order.
pub fn list(dir: impl AsFd) -> io::Result<Vec<DirEntry>> {
    let mut names = Vec::new();
    visit(dir, |name, kind| {
        names.push(DirEntry { name: name.to_owned(), kind });
        Ok(())
    })?;
    Ok(names)
}

/// The same of a directory that nobody else reads at this time: its description is used as it is, and so needs
/// no other one to be opened.
pub fn list_own(dir: &OwnedFd) -> io::Result<Vec<DirEntry>> {
    rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0))?;
    let mut names = Vec::new();
    read_names(dir, &mut |name, kind| {
        names.push(DirEntry { name: name.to_owned(), kind });
        Ok(())
    })?;
    Ok(names)
}

/// Gives each name in an open directory, and its type where the file system tells it with the name, to
/// `each`, in the file system's order. Nothing is kept, however large the directory.
///
/// # Errors
/// What the file system says, and what `each` says first.
pub fn visit(
    dir: impl AsFd,
    mut each: impl FnMut(&OsStr, Option<FileKind>) -> io::Result<()>,
) -> io::Result<()> {
    // A fresh description: the offset of a shared one would be moved by other readers.
    read_names(&open_dir_at(dir, OsStr::new("."))?, &mut each)
}

fn read_names(
    dir: &OwnedFd,
    each: &mut dyn FnMut(&OsStr, Option<FileKind>) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => None,
            t => Some(kind_of(t)),
        };
        each(OsStr::from_bytes(name), kind)?;
    }
    Ok(())
}

/// Makes a directory with exactly this mode, whatever the umask.
pub fn make_dir_at(dir: impl AsFd, name: &OsStr, mode: u32) -> io::Result<()> {
    rustix::fs::mkdirat(&dir, name, Mode::from(0o700))?;
    chmod_at(dir, name, mode)
}

/// Makes a directory that nobody but its owner may use: mode 0700, less the umask.
pub fn make_private_dir_at(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    Ok(rustix::fs::mkdirat(&dir, name, Mode::from(0o700))?)
}

/// Makes a symbolic link.
pub fn make_symlink_at(dir: impl AsFd, name: &OsStr, target: &OsStr) -> io::Result<()> {
    Ok(rustix::fs::symlinkat(target, dir, name)?)
}

/// Makes a FIFO or a device node, mode 0600. A character device 0:0 (a whiteout) needs no privilege
/// since Linux 5.8; others need it in the initial user namespace.
pub fn make_node_at(dir: impl AsFd, name: &OsStr, kind: FileKind, rdev: (u32, u32)) -> io::Result<()> {
    let (file_type, dev): (FileType, Dev) = match kind {
        FileKind::Fifo => (FileType::Fifo, 0),
        FileKind::CharDevice => (FileType::CharacterDevice, rustix::fs::makedev(rdev.0, rdev.1)),
        FileKind::BlockDevice => (FileType::BlockDevice, rustix::fs::makedev(rdev.0, rdev.1)),
        _ => return Err(io::Error::from(io::ErrorKind::InvalidInput)),
    };
    Ok(rustix::fs::mknodat(dir, name, file_type, Mode::from(0o600), dev)?)
}

/// Makes another name for an inode; a symbolic link is linked, not followed.
pub fn link_at(from_dir: impl AsFd, from: &OsStr, to_dir: impl AsFd, to: &OsStr) -> io::Result<()> {
    Ok(rustix::fs::linkat(from_dir, from, to_dir, to, AtFlags::empty())?)
}

/// Renames, replacing what the new name held.
pub fn rename_at(from_dir: impl AsFd, from: &OsStr, to_dir: impl AsFd, to: &OsStr) -> io::Result<()> {
    Ok(rustix::fs::renameat(from_dir, from, to_dir, to)?)
}

/// Renames to a name that must be free (`EEXIST` otherwise).
pub fn rename_new_at(from_dir: impl AsFd, from: &OsStr, to_dir: impl AsFd, to: &OsStr) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(from_dir, from, to_dir, to, RenameFlags::NOREPLACE)?)
}

/// Removes a name that is not a directory.
pub fn unlink_at(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?)
}

/// Removes an empty directory.
pub fn remove_dir_at(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

/// How deep directories may lie in each other wherever a tree is walked by recursion: far deeper than any
/// path that programs can name (4096 bytes), and not so deep that the stack ends first.
pub const DEPTH_LIMIT: usize = 1000;

/// Refuses a directory at this depth if that is beyond [`DEPTH_LIMIT`].
///
/// # Errors
/// Then.
pub fn check_depth(depth: usize) -> io::Result<()> {
    if depth <= DEPTH_LIMIT {
        return Ok(());
    }
    let what = format!("directories lie in each other more than {DEPTH_LIMIT} deep");
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

/// Sets the permission bits of a name that is not a symbolic link.
pub fn chmod_at(dir: impl AsFd, name: &OsStr, mode: u32) -> io::Result<()> {
    // fchmodat follows links and has no working flag against it before Linux 6.6, so a link put here
    // in the meantime is caught by going through a handle.
    let handle = open_path_at(dir, name)?;
    chmod(&handle, mode)
}

/// Sets the permission bits of a handle.
pub fn chmod(handle: impl AsFd, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmod(proc_path(handle.as_fd()), Mode::from_raw_mode(mode))?)
}

/// Sets owner and group of a name, links included. Clears setuid and setgid: set the mode afterwards.
pub fn chown_at(dir: impl AsFd, name: &OsStr, uid: u32, gid: u32) -> io::Result<()> {
    Ok(rustix::fs::chownat(
        dir,
        name,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Sets the modification time (and the access time to the same), links included.
pub fn set_mtime_at(dir: impl AsFd, name: &OsStr, mtime: Time) -> io::Result<()> {
    let t = Timespec { tv_sec: mtime.sec, tv_nsec: mtime.nsec.into() };
    let times = Timestamps { last_access: t, last_modification: t };
    Ok(rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Sets the modification time of an open file or directory (and the access time to the same).
pub fn set_mtime(fd: impl AsFd, mtime: Time) -> io::Result<()> {
    let t = Timespec { tv_sec: mtime.sec, tv_nsec: mtime.nsec.into() };
    Ok(rustix::fs::futimens(fd, &Timestamps { last_access: t, last_modification: t })?)
}

/// The target of a symbolic link.
pub fn read_link_at(dir: impl AsFd, name: &OsStr) -> io::Result<OsString> {
    let target = rustix::fs::readlinkat(dir, name, Vec::new())?;
    Ok(OsString::from_vec(target.into_bytes()))
}

/// Copies all of `from`, from its start, into the empty `to`: a reflink where the file system can,
/// `copy_file_range` else, with holes kept as holes.
pub fn copy_contents(from: &File, to: &File) -> io::Result<u64> {
    let size = from.metadata()?.len();
    if size == 0 {
        return Ok(0);
    }
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(size);
    }
    to.set_len(size)?;
    let mut position = 0u64;
    while position < size {
        let Some(data) = next_data(from, position, size) else { break };
        copy_range(from, to, data.start, data.end)?;
        position = data.end;
    }
    Ok(size)
}

/// Where the next data of a file of `size` bytes lies, at or after `position` and up to the hole behind it;
/// `None` when nothing but a hole is left. Where the file system does not know of holes, all is data.
/// Moves the position of `file` (`lseek(2)`, `SEEK_DATA`).
pub fn next_data(file: &File, position: u64, size: u64) -> Option<Range<u64>> {
    use rustix::fs::{SeekFrom, seek};
    let start = match seek(file, SeekFrom::Data(position)) {
        Ok(at) if at < size => at,
        Ok(_) | Err(rustix::io::Errno::NXIO) => return None,
        Err(_) => position,
    };
    let end = seek(file, SeekFrom::Hole(start)).map_or(size, |at| at.min(size));
    Some(start..end.max(start + 1))
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let want = (end - read_at).min(1 << 30) as usize;
        match rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), want) {
            // The file shrank while it was read.
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            Ok(_) => continue,
            Err(_) => break,
        }
    }
    let mut buffer = vec![0u8; 128 * 1024];
    while read_at < end {
        let want = (end - read_at).min(buffer.len() as u64) as usize;
        let got = from.read_at(&mut buffer[..want], read_at)?;
        if got == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        to.write_all_at(&buffer[..got], read_at)?;
        read_at += got as u64;
    }
    Ok(())
}

/// Bytes that this user may still write to the file system of an open directory.
pub fn free_space(dir: impl AsFd) -> io::Result<u64> {
    let stat = rustix::fs::fstatvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Where an open descriptor can be named by those calls that know paths only.
pub fn proc_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Whether two paths name the same inode.
pub fn same_inode(a: &Path, b: &Path) -> io::Result<bool> {
    let (a, b) =
        (rustix::fs::statat(CWD, a, AtFlags::empty())?, rustix::fs::statat(CWD, b, AtFlags::empty())?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

fn is_errno(e: &io::Error, errno: rustix::io::Errno) -> bool {
    e.raw_os_error() == Some(errno.raw_os_error())
}

/// Whether a name is a single, real component: not empty, `.`, `..`, nor with a slash or NUL.
pub fn is_plain_name(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    !bytes.is_empty() && bytes != b"." && bytes != b".." && !bytes.contains(&b'/') && !bytes.contains(&0)
}
