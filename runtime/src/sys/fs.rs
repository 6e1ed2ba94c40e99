//! Files, always named by an open directory and one name in it.
//!
//! No function here follows a symbolic link in its last component, and apart from
//! [`open_in_root`] none accepts more than one component from an untrusted source: whoever walks a
//! tree holds a descriptor per directory, so that a directory swapped for a link under way is noticed
//! by the kernel and not followed.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, StatxFlags, Timespec,
    Timestamps, Uid,
};

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

/// How deep [`remove_tree_at`] goes before it moves what is below to the top: a descriptor is open for each
/// level, and of these a process may have 1024.
const REMOVE_DEPTH: usize = 64;

/// Removes a name and all below it, however deep that is. A name that is not there is success, also when it
/// goes in the meantime: another thread may be removing the same. Directories without permission bits are
/// opened up first.
pub fn remove_tree_at(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    remove_some_at(dir, name, u64::MAX).map(drop)
}

/// The same, but leaves off after so many names. Says whether all is gone.
pub fn remove_some_at(dir: impl AsFd, name: &OsStr, most: u64) -> io::Result<bool> {
    let dir = dir.as_fd();
    let Some(top) = remove_or_open(dir, name)? else { return Ok(true) };
    let (mut moved, mut left) = (0, most);
    loop {
        let before = moved;
        if !empty(top.as_fd(), top.as_fd(), 0, &mut moved, &mut left)? {
            return Ok(false);
        }
        if moved == before {
            return gone(remove_dir_at(dir, name)).map(|()| true);
        }
    }
}

/// What is not there any more need not be removed.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes what is not a directory; opens what is one, for reading and writing in it.
fn remove_or_open(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<OwnedFd>> {
    match gone(unlink_at(dir, name)) {
        Ok(()) => return Ok(None),
        Err(e) if is_errno(&e, rustix::io::Errno::ISDIR) || is_errno(&e, rustix::io::Errno::PERM) => {}
        Err(e) => return Err(e),
    }
    let opened = match open_dir_at(dir, name) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            chmod_at(dir, name, 0o700).and_then(|()| open_dir_at(dir, name))
        }
        other => other,
    };
    match opened {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Removes all in `here`, if that is no more than `left` names; directories that are too deep go to `top`,
/// `moved` counting them. Says whether all is gone.
fn empty(
    top: BorrowedFd<'_>,
    here: BorrowedFd<'_>,
    depth: usize,
    moved: &mut u64,
    left: &mut u64,
) -> io::Result<bool> {
    let entries = match list(here) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        other => other?,
    };
    for entry in entries {
        if *left == 0 {
            return Ok(false);
        }
        *left -= 1;
        let found = match remove_or_open(here, &entry.name) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                chmod(here, 0o700)?;
                remove_or_open(here, &entry.name)?
            }
            other => other?,
        };
        let Some(inner) = found else { continue };
        if depth >= REMOVE_DEPTH {
            // To a directory that is moved, the kernel writes the new `..`.
            chmod(&inner, 0o700)?;
            loop {
                let new = format!(".removed-{moved}");
                *moved += 1;
                match gone(rename_new_at(here, &entry.name, top, OsStr::new(&new))) {
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                    other => break other?,
                }
            }
            continue;
        }
        if !empty(top, inner.as_fd(), depth + 1, moved, left)? {
            return Ok(false);
        }
        match gone(remove_dir_at(here, &entry.name)) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                chmod(here, 0o700)?;
                gone(remove_dir_at(here, &entry.name))?;
            }
            other => other?,
        }
    }
    Ok(true)
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

/// All extended attributes of a name that this user namespace may see, links not followed. A file
/// system without them has none.
pub fn xattrs_at(dir: impl AsFd, name: &OsStr) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let path = proc_path(dir.as_fd()).join(name);
    let mut found = BTreeMap::new();
    let names = match xattr::list(&path) {
        Ok(names) => names,
        Err(e) if is_errno(&e, rustix::io::Errno::OPNOTSUPP) => return Ok(found),
        Err(e) => return Err(e),
    };
    for attr in names {
        // A value that is gone between the two calls, or a name listed but not readable here
        // (trusted.* in a user namespace), is not an attribute we can speak of.
        if let Some(value) = xattr::get(&path, &attr)? {
            found.insert(attr, value);
        }
    }
    Ok(found)
}

/// The names of all extended attributes of a name, links not followed.
pub fn xattr_names_at(dir: impl AsFd, name: &OsStr) -> io::Result<Vec<OsString>> {
    if let Some(names) = list_xattrs_at(dir.as_fd(), name)? {
        return Ok(names);
    }
    match xattr::list(proc_path(dir.as_fd()).join(name)) {
        Ok(names) => Ok(names.collect()),
        Err(e) if is_errno(&e, rustix::io::Errno::OPNOTSUPP) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// The same by `listxattrat(2)`, Linux 6.13: every file of a layer is asked, and to go by way of /proc takes
/// twice the time. `None` where it does not do.
fn list_xattrs_at(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Vec<OsString>>> {
    /// The same on all architectures.
    const LISTXATTRAT: libc::c_long = 465;
    static MISSING: AtomicBool = AtomicBool::new(false);
    if MISSING.load(Ordering::Relaxed) {
        return Ok(None);
    }
    let (name, mut names) = (CString::new(name.as_bytes())?, [0u8; 1024]);
    // SAFETY: the name is a C string, and the kernel writes no more than the buffer's size into it.
    let got = unsafe {
        let (dir, flags) = (dir.as_raw_fd(), libc::AT_SYMLINK_NOFOLLOW);
        libc::syscall(LISTXATTRAT, dir, name.as_ptr(), flags, names.as_mut_ptr(), names.len())
    };
    let Ok(length) = usize::try_from(got) else {
        let e = io::Error::last_os_error();
        return match e.raw_os_error() {
            Some(libc::EOPNOTSUPP) => Ok(Some(Vec::new())),
            // More than fits, or gone.
            Some(libc::ERANGE | libc::ENOENT) => Ok(None),
            // Not there, or not allowed, and it will not be.
            _ => {
                MISSING.store(true, Ordering::Relaxed);
                Ok(None)
            }
        };
    };
    let names = names[..length].split(|b| *b == 0).filter(|name| !name.is_empty());
    Ok(Some(names.map(|name| OsStr::from_bytes(name).to_owned()).collect()))
}

/// One extended attribute of a name, links not followed; `None` where there is none.
pub fn xattr_at(dir: impl AsFd, name: &OsStr, attr: &OsStr) -> io::Result<Option<Vec<u8>>> {
    match xattr::get(proc_path(dir.as_fd()).join(name), attr) {
        Err(e) if is_errno(&e, rustix::io::Errno::OPNOTSUPP) => Ok(None),
        other => other,
    }
}

/// Sets an extended attribute, links not followed.
pub fn set_xattr_at(dir: impl AsFd, name: &OsStr, attr: &OsStr, value: &[u8]) -> io::Result<()> {
    xattr::set(proc_path(dir.as_fd()).join(name), attr, value)
}

/// Removes an extended attribute, links not followed.
pub fn remove_xattr_at(dir: impl AsFd, name: &OsStr, attr: &OsStr) -> io::Result<()> {
    xattr::remove(proc_path(dir.as_fd()).join(name), attr)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_removed_however_deep_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let root = open_dir(dir.path()).unwrap();
        let names = |dir: &OwnedFd| list(dir).unwrap().len();
        for depth in [0, 1, REMOVE_DEPTH, REMOVE_DEPTH + 1, 3000] {
            make_dir_at(&root, OsStr::new("top"), 0o755).unwrap();
            let mut here = open_dir_at(&root, OsStr::new("top")).unwrap();
            for level in 0..depth {
                // A name that the removal itself would take for what it moves.
                let name = OsStr::new(if level % 2 == 0 { "d" } else { ".removed-0" });
                drop(create_file_at(&here, OsStr::new("file")).unwrap());
                make_dir_at(&here, name, 0o755).unwrap();
                let next = open_dir_at(&here, name).unwrap();
                chmod(&here, if level % 3 == 0 { 0o000 } else { 0o500 }).unwrap();
                here = next;
            }
            // With little stack, and so not by luck.
            let root = &root;
            std::thread::scope(|scope| {
                let small = std::thread::Builder::new().stack_size(1 << 20);
                small
                    .spawn_scoped(scope, move || remove_tree_at(root, OsStr::new("top")).unwrap())
                    .unwrap()
                    .join()
                    .unwrap();
            });
            assert_eq!(names(root), 0, "{depth}");
        }
        assert!(check_depth(DEPTH_LIMIT).is_ok() && check_depth(DEPTH_LIMIT + 1).is_err());
    }

    #[test]
    fn names_of_attributes_are_the_same_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let root = open_dir(dir.path()).unwrap();
        let file = OsStr::new("file");
        drop(create_file_at(&root, file).unwrap());
        make_symlink_at(&root, OsStr::new("link"), file).unwrap();
        for count in [0usize, 1, 2, 30] {
            for attr in 0..count {
                // Thirty of these are more than a kilobyte.
                let attr = format!("user.a-name-as-long-as-they-hardly-ever-are-{attr}");
                set_xattr_at(&root, file, attr.as_ref(), b"").unwrap();
            }
            let sorted = |mut names: Vec<OsString>| {
                names.sort();
                names
            };
            let by_path = xattr::list(proc_path(root.as_fd()).join(file)).unwrap().collect();
            let found = sorted(xattr_names_at(&root, file).unwrap());
            assert_eq!(found, sorted(by_path));
            assert!(found.len() >= count);
            assert!(
                !xattr_names_at(&root, OsStr::new("link"))
                    .unwrap()
                    .iter()
                    .any(|n| n.as_bytes().starts_with(b"user."))
            );
        }
        assert_eq!(xattr_names_at(&root, OsStr::new("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        let names = list_xattrs_at(root.as_fd(), OsStr::new("."));
        assert!(names.is_ok());
    }

    #[test]
    fn two_may_remove_the_same_tree() {
        let dir = tempfile::tempdir().unwrap();
        let root = open_dir(dir.path()).unwrap();
        let top = OsStr::new("top");
        for _ in 0..50 {
            for branch in 0..8 {
                for twig in 0..8 {
                    let twig = dir.path().join(format!("top/{branch}/{twig}"));
                    std::fs::create_dir_all(&twig).unwrap();
                    std::fs::write(twig.join("leaf"), "").unwrap();
                }
            }
            let started = std::sync::Barrier::new(3);
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        started.wait();
                        remove_tree_at(&root, top).unwrap();
                    });
                }
            });
            assert_eq!(list(&root).unwrap(), []);
        }
    }
}
