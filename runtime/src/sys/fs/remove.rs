//! Removes trees, whatever they are like.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{chmod, chmod_at, is_errno, list, open_dir_at, remove_dir_at, rename_new_at, unlink_at};

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

#[cfg(test)]
mod tests {
    use super::super::{DEPTH_LIMIT, check_depth, create_file_at, make_dir_at, open_dir};
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
