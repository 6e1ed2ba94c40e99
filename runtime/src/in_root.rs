//! Paths inside a root file system.
//!
//! An image may hold any links: absolute ones, ones with too many `..`, ones that dangle. All of them
//! mean places inside the image's root. The walk here goes component by component over directory
//! descriptors and never hands the kernel a path, so it stays inside whatever is swapped under it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use crate::sys::fs::{self, FileKind, Stat};

/// As many links as the kernel follows in one path.
const LINK_LIMIT: usize = 40;

/// Where a path leads: a directory inside the root, and one name in it.
#[derive(Debug)]
pub struct Place {
    /// The directory.
    pub dir: OwnedFd,
    /// The name in it; `.` when the path leads to the root itself.
    pub name: OsString,
    /// The same place as a path from the root, without links, without leading slash; empty for the
    /// root itself.
    pub path: Vec<u8>,
    /// What is there; `None` when the name is free.
    pub stat: Option<Stat>,
}

/// Makes a missing directory (`name` in `dir`) that the walk wants to go through; the last argument is
/// its path from the root.
pub type MakeDir<'a> = &'a mut dyn FnMut(BorrowedFd<'_>, &OsStr, &[u8]) -> io::Result<()>;

/// How a walk treats what it meets.
pub struct Walk<'a> {
    /// Whether a link in the last component is followed; a dangling one then leads to the free name
    /// that it points to.
    pub follow_last: bool,
    /// How directories missing on the way are made; without it they are an error.
    pub make_dir: Option<MakeDir<'a>>,
}

/// Finds `path` below `root`.
///
/// # Errors
/// `NotFound` when a directory on the way is missing and may not be made, `NotADirectory` when
/// something else is in its place, `ELOOP` after 40 links; or what the kernel says.
pub fn find(root: impl AsFd, path: &[u8], mut walk: Walk<'_>) -> io::Result<Place> {
    let mut todo: VecDeque<OsString> = components(path);
    let mut links = 0;
    // The directories from the root to where the walk is, and the names that led there.
    let mut dirs: Vec<OwnedFd> = vec![fs::open_dir_at(&root, OsStr::new("."))?];
    let mut names: Vec<OsString> = Vec::new();
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            if names.pop().is_some() {
                dirs.pop();
            }
            continue;
        }
        let here = dirs[dirs.len() - 1].as_fd();
        let last = todo.is_empty();
        let stat = fs::try_stat_at(here, &name)?;
        match stat {
            Some(s) if s.kind == FileKind::Symlink && (!last || walk.follow_last) => {
                links += 1;
                if links > LINK_LIMIT {
                    return Err(io::Error::from(nix::errno::Errno::ELOOP));
                }
                let target = fs::read_link_at(here, &name)?;
                if target.as_bytes().starts_with(b"/") {
                    dirs.truncate(1);
                    names.clear();
                }
                let mut rest = components(target.as_bytes());
                rest.append(&mut todo);
                todo = rest;
            }
            _ if last => {
                let mut path = join(&names);
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name.as_bytes());
                return Ok(Place { dir: dirs.swap_remove(dirs.len() - 1), name, path, stat });
            }
            Some(s) if s.kind == FileKind::Directory => {
                let next = fs::open_dir_at(here, &name)?;
                dirs.push(next);
                names.push(name);
            }
            Some(_) => return Err(io::Error::from(io::ErrorKind::NotADirectory)),
            None => {
                let Some(make) = walk.make_dir.as_mut() else {
                    return Err(io::Error::from(io::ErrorKind::NotFound));
                };
                names.push(name);
                make(here, &names[names.len() - 1], &join(&names))?;
                let next = fs::open_dir_at(here, &names[names.len() - 1])?;
                dirs.push(next);
            }
        }
    }
    // The path was empty, or ended in `..` or in a link to a directory already walked into: the
    // place is that directory, told by its parent and name where it has one.
    let path = join(&names);
    let Some(name) = names.pop() else {
        let root = dirs.swap_remove(0);
        let stat = fs::stat(&root)?;
        return Ok(Place { dir: root, name: OsString::from("."), path, stat: Some(stat) });
    };
    let parent = dirs.swap_remove(dirs.len() - 2);
    let stat = fs::try_stat_at(&parent, &name)?;
    Ok(Place { dir: parent, name, path, stat })
}

/// Finds `path` below `root` and opens it if it is a regular file of at most `limit` bytes; `None`
/// when there is no such file. Links are followed inside the root.
///
/// # Errors
/// When the file is larger, or cannot be read.
pub fn read_file(root: impl AsFd, path: &[u8], limit: u64) -> io::Result<Option<Vec<u8>>> {
    use std::io::Read;
    let place = match find(root, path, Walk { follow_last: true, make_dir: None }) {
        Ok(place) => place,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    let Some(Stat { kind: FileKind::File, size, .. }) = place.stat else { return Ok(None) };
    let mut bytes = Vec::with_capacity(size.min(limit) as usize + 1);
    fs::open_file_at(&place.dir, &place.name)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes")));
    }
    Ok(Some(bytes))
}

fn components(path: &[u8]) -> VecDeque<OsString> {
    path.split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(|part| OsStr::from_bytes(part).to_owned())
        .collect()
}

fn join(names: &[OsString]) -> Vec<u8> {
    names.iter().map(|n| n.as_bytes()).collect::<Vec<_>>().join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn open(dir: &tempfile::TempDir) -> OwnedFd {
        fs::open_dir(dir.path()).unwrap()
    }

    fn path_of(root: &OwnedFd, path: &str) -> io::Result<(String, bool)> {
        let place = find(root, path.as_bytes(), Walk { follow_last: true, make_dir: None })?;
        Ok((String::from_utf8(place.path).unwrap(), place.stat.is_some()))
    }

    #[test]
    fn links_never_lead_outside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), "inside").unwrap();
        symlink("/etc", dir.path().join("a/abs")).unwrap();
        symlink("../../../../../etc/passwd", dir.path().join("a/b/up")).unwrap();
        symlink("/", dir.path().join("slash")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        let root = open(&dir);
        assert_eq!(path_of(&root, "/a/abs/passwd").unwrap(), ("etc/passwd".into(), true));
        assert_eq!(path_of(&root, "a/b/up").unwrap(), ("etc/passwd".into(), true));
        assert_eq!(path_of(&root, "slash").unwrap(), ("".into(), true));
        assert_eq!(path_of(&root, "slash/../../etc").unwrap(), ("etc".into(), true));
        assert_eq!(path_of(&root, "../..").unwrap(), ("".into(), true));
        assert_eq!(path_of(&root, "a/b/..").unwrap(), ("a".into(), true));
        assert_eq!(path_of(&root, "loop").unwrap_err().raw_os_error(), Some(40));
        assert_eq!(read_file(&root, b"a/abs/passwd", 100).unwrap().unwrap(), b"inside");
        assert!(read_file(&root, b"a/abs/passwd", 3).is_err());
    }

    #[test]
    fn a_dangling_link_leads_to_the_free_name_and_missing_parents_are_made() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/x/y/target", dir.path().join("link")).unwrap();
        let root = open(&dir);
        assert_eq!(path_of(&root, "link").unwrap_err().kind(), io::ErrorKind::NotFound);
        let mut made = Vec::new();
        let mut make = |d: BorrowedFd<'_>, name: &OsStr, path: &[u8]| {
            made.push(String::from_utf8(path.to_vec()).unwrap());
            fs::make_dir_at(d, name, 0o755)
        };
        let walk = Walk { follow_last: true, make_dir: Some(&mut make) };
        let place = find(&root, b"link", walk).unwrap();
        assert_eq!((place.path.as_slice(), place.stat), (&b"x/y/target"[..], None));
        assert_eq!(made, ["x", "x/y"]);
        assert!(dir.path().join("x/y").is_dir());
    }

    #[test]
    fn a_file_on_the_way_is_said_to_be_no_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "").unwrap();
        assert_eq!(path_of(&open(&dir), "f/x").unwrap_err().kind(), io::ErrorKind::NotADirectory);
    }
}
