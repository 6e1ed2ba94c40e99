//! What steps do to a tree.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use cooper_runtime::sys::fs::{self, FileKind, Time};
use proptest::prelude::*;

use crate::rootfs::describe::join;

/// Few, so that a step often meets what another has made.
const NAMES: [&[u8]; 8] = [b"a", b"b", b"c", b"d", b"\xff\n", b"...", b"e", b"long name, with a space"];

/// Names are chosen by number from those that there are.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Write {
        at: usize,
        name: usize,
        content: Vec<u8>,
    },
    /// Same size, and the old modification time.
    Rewrite {
        at: usize,
        byte: u8,
    },
    Append {
        at: usize,
    },
    MakeDir {
        at: usize,
        name: usize,
    },
    Symlink {
        at: usize,
        name: usize,
        to: usize,
    },
    Fifo {
        at: usize,
        name: usize,
    },
    /// A character device 0:0.
    Null {
        at: usize,
        name: usize,
    },
    Link {
        from: usize,
        at: usize,
        name: usize,
    },
    Rename {
        from: usize,
        at: usize,
        name: usize,
    },
    /// Away and back again.
    Shuffle {
        at: usize,
    },
    Remove {
        at: usize,
    },
    Mode {
        at: usize,
        mode: u32,
    },
    Owner {
        at: usize,
        uid: u32,
        gid: u32,
    },
    Touch {
        at: usize,
        sec: i64,
        nsec: u32,
    },
    Attribute {
        at: usize,
        name: usize,
        value: Vec<u8>,
    },
    NoAttribute {
        at: usize,
        name: usize,
    },
    /// What is made in the directory afterwards gets an access control list.
    DefaultAcl {
        at: usize,
    },
}

pub(super) fn changes() -> impl Strategy<Value = Vec<Change>> {
    let at = || 0usize..64;
    let name = || 0..NAMES.len();
    let content = proptest::collection::vec(any::<u8>(), 0..6);
    let change = prop_oneof![
        6 => (at(), name(), content.clone()).prop_map(|(at, name, content)| Change::Write { at, name, content }),
        4 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Rewrite { at, byte }),
        2 => at().prop_map(|at| Change::Append { at }),
        6 => (at(), name()).prop_map(|(at, name)| Change::MakeDir { at, name }),
        2 => (at(), name(), name()).prop_map(|(at, name, to)| Change::Symlink { at, name, to }),
        1 => (at(), name()).prop_map(|(at, name)| Change::Fifo { at, name }),
        1 => (at(), name()).prop_map(|(at, name)| Change::Null { at, name }),
        3 => (at(), at(), name()).prop_map(|(from, at, name)| Change::Link { from, at, name }),
        4 => (at(), at(), name()).prop_map(|(from, at, name)| Change::Rename { from, at, name }),
        2 => at().prop_map(|at| Change::Shuffle { at }),
        4 => at().prop_map(|at| Change::Remove { at }),
        2 => (at(), 0u32..=0o7777).prop_map(|(at, mode)| Change::Mode { at, mode }),
        2 => (at(), 0u32..3, 0u32..3).prop_map(|(at, uid, gid)| Change::Owner { at, uid, gid }),
        2 => (at(), -5i64..5, 0u32..1_000_000_000).prop_map(|(at, sec, nsec)| Change::Touch { at, sec, nsec }),
        2 => (at(), 0usize..3, content).prop_map(|(at, name, value)| Change::Attribute { at, name, value }),
        1 => (at(), 0usize..3).prop_map(|(at, name)| Change::NoAttribute { at, name }),
        1 => at().prop_map(|at| Change::DefaultAcl { at }),
    ];
    proptest::collection::vec(change, 0..14)
}

/// `u::rwx,u:0:r,g::rx,m::rwx,o::` as the kernel writes it (linux/posix_acl_xattr.h).
const ACL: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 4, 0, 0, 0, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255, 16,
    0, 7, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];

fn attribute(number: usize) -> &'static OsStr {
    OsStr::from_bytes([b"user.a".as_slice(), b"user.\xfe", b"user.overlay.opaque"][number])
}

/// Carries them out. What the file system refuses (a file over a directory, a directory into itself) is
/// not done.
pub(super) fn apply(root: BorrowedFd<'_>, changes: &[Change]) {
    for change in changes {
        let _ = carry_out(root, change);
    }
}

fn carry_out(root: BorrowedFd<'_>, change: &Change) -> io::Result<()> {
    let is_root = nix::unistd::Uid::effective().is_root();
    match change {
        Change::Write { at, name, content } => {
            let (dir, name) = (directory(root, *at)?, named(*name));
            remove(&dir, name)?;
            fs::create_file_at(&dir, name)?.write_all(content)
        }
        Change::Rewrite { at, byte } => {
            let (dir, name) = pick(root, *at)?;
            let stat = fs::stat_at(&dir, &name)?;
            if stat.kind != FileKind::File {
                return Ok(());
            }
            std::fs::write(fs::proc_path(dir.as_fd()).join(&name), vec![*byte; stat.size as usize])?;
            fs::set_mtime_at(&dir, &name, stat.mtime)
        }
        Change::Append { at } => {
            let (dir, name) = pick(root, *at)?;
            if fs::stat_at(&dir, &name)?.kind != FileKind::File {
                return Ok(());
            }
            let path = fs::proc_path(dir.as_fd()).join(&name);
            std::fs::File::options().append(true).open(path)?.write_all(b"+")
        }
        Change::MakeDir { at, name } => {
            let (dir, name) = (directory(root, *at)?, named(*name));
            remove(&dir, name)?;
            fs::make_dir_at(&dir, name, 0o755)
        }
        Change::Symlink { at, name, to } => {
            let (dir, name) = (directory(root, *at)?, named(*name));
            remove(&dir, name)?;
            fs::make_symlink_at(&dir, name, named(*to))
        }
        Change::Fifo { at, name } => {
            let (dir, name) = (directory(root, *at)?, named(*name));
            fs::make_node_at(&dir, name, FileKind::Fifo, (0, 0))
        }
        Change::Null { at, name } => {
            let (dir, name) = (directory(root, *at)?, named(*name));
            remove(&dir, name)?;
            fs::make_node_at(&dir, name, FileKind::CharDevice, (0, 0))
        }
        Change::Link { from, at, name } => {
            let ((from, old), dir) = (pick(root, *from)?, directory(root, *at)?);
            fs::link_at(&from, &old, &dir, named(*name))
        }
        Change::Rename { from, at, name } => {
            let ((from, old), dir) = (pick(root, *from)?, directory(root, *at)?);
            fs::rename_at(&from, &old, &dir, named(*name))
        }
        Change::Shuffle { at } => {
            let (dir, name) = pick(root, *at)?;
            fs::rename_at(&dir, &name, root, OsStr::new("elsewhere"))?;
            fs::rename_at(root, OsStr::new("elsewhere"), &dir, &name)
        }
        Change::Remove { at } => {
            let (dir, name) = pick(root, *at)?;
            remove(&dir, &name)
        }
        Change::Mode { at, mode } => {
            let (dir, name) = pick(root, *at)?;
            // Only root can look at what nobody may.
            fs::chmod_at(&dir, &name, if is_root { *mode } else { mode | 0o700 })
        }
        Change::Owner { at, uid, gid } => {
            let (dir, name) = pick(root, *at)?;
            fs::chown_at(&dir, &name, *uid, *gid)
        }
        Change::Touch { at, sec, nsec } => {
            let (dir, name) = pick(root, *at)?;
            fs::set_mtime_at(&dir, &name, Time { sec: *sec, nsec: *nsec })
        }
        Change::Attribute { at, name, value } => {
            let (dir, file) = pick(root, *at)?;
            fs::set_xattr_at(dir.as_fd(), &file, attribute(*name), value)
        }
        Change::NoAttribute { at, name } => {
            let (dir, file) = pick(root, *at)?;
            fs::remove_xattr_at(dir.as_fd(), &file, attribute(*name))
        }
        Change::DefaultAcl { at } => {
            let dir = directory(root, *at)?;
            fs::set_xattr_at(dir.as_fd(), OsStr::new("."), OsStr::new("system.posix_acl_default"), &ACL)
        }
    }
}

fn named(number: usize) -> &'static OsStr {
    OsStr::from_bytes(NAMES[number])
}

fn remove(dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
    fs::remove_tree_at(dir, name)
}

/// The directories, and all other names, sorted.
fn walk(root: BorrowedFd<'_>, path: &[u8], dirs: &mut Vec<Vec<u8>>, names: &mut Vec<Vec<u8>>) {
    dirs.push(path.to_vec());
    let dir = open(root, path).unwrap();
    let mut entries: Vec<_> = fs::list(&dir).unwrap().into_iter().map(|e| e.name).collect();
    entries.sort();
    for name in entries {
        let below = join(path, &name);
        names.push(below.clone());
        if fs::stat_at(&dir, &name).unwrap().kind == FileKind::Directory {
            walk(root, &below, dirs, names);
        }
    }
}

fn open(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let mut dir = fs::reopen_dir(root)?;
    for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
        dir = fs::open_dir_at(&dir, OsStr::from_bytes(name))?;
    }
    Ok(dir)
}

fn directory(root: BorrowedFd<'_>, at: usize) -> io::Result<OwnedFd> {
    let (mut dirs, mut names) = (Vec::new(), Vec::new());
    walk(root, &[], &mut dirs, &mut names);
    open(root, &dirs[at % dirs.len()])
}

fn pick(root: BorrowedFd<'_>, at: usize) -> io::Result<(OwnedFd, std::ffi::OsString)> {
    let (mut dirs, mut names) = (Vec::new(), Vec::new());
    walk(root, &[], &mut dirs, &mut names);
    if names.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let path = &names[at % names.len()];
    let slash = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
    Ok((open(root, &path[..slash])?, OsStr::from_bytes(&path[slash..]).to_owned()))
}
