//! Finds paths in a stack of layers that is not mounted.
//!
//! As in a mounted one, links are followed inside the root, also a dangling one and one in the last name.
//! What is not plain (a `..` below something that is missing, more links than the kernel follows, a name
//! below a file) gives `None`: whoever asks mounts the stack then, and is told there what is wrong.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;

use cooper_runtime::sys::fs::{self, FileKind};

use super::LayerDir;
use super::describe::join;
use super::lower::MergedDir;

/// As many links as the kernel follows in one path.
const LINK_LIMIT: usize = 40;

/// Where a path leads.
pub(crate) struct Way {
    /// The directories on it that are there, from the root (which has no name) on.
    pub(crate) dirs: Vec<(OsString, MergedDir)>,
    /// The names behind them: those of missing directories, and the last, which is missing or no directory.
    pub(crate) rest: Vec<OsString>,
    /// Whether the last name is there. All others of `rest` are not.
    pub(crate) ends_in_other: bool,
}

impl Way {
    /// Finds `path` in `layers`, lowest first.
    ///
    /// # Errors
    /// When the layers cannot be read.
    pub(crate) fn find(layers: &[LayerDir], path: &[u8]) -> io::Result<Option<Way>> {
        let mut todo = components(path);
        let mut way = Way {
            dirs: vec![(OsString::new(), MergedDir::root(layers)?)],
            rest: Vec::new(),
            ends_in_other: false,
        };
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if !way.rest.is_empty() {
                if name == ".." || way.ends_in_other {
                    return Ok(None);
                }
                way.rest.push(name);
                continue;
            }
            if name == ".." {
                way.dirs.truncate((way.dirs.len() - 1).max(1));
                continue;
            }
            let here = &way.dirs[way.dirs.len() - 1].1;
            let next = match here.lookup(&name, &join(&way.path(), &name))? {
                Some(found) if found.stat.kind == FileKind::Directory => Some(here.open(&name, &found)?),
                Some(found) if found.stat.kind == FileKind::Symlink => {
                    links += 1;
                    if links > LINK_LIMIT {
                        return Ok(None);
                    }
                    let target = fs::read_link_at(found.dir, &name)?;
                    if target.as_bytes().starts_with(b"/") {
                        way.dirs.truncate(1);
                    }
                    let mut rest = components(target.as_bytes());
                    rest.append(&mut todo);
                    todo = rest;
                    continue;
                }
                Some(_) => {
                    way.ends_in_other = true;
                    None
                }
                None => None,
            };
            match next {
                Some(next) => way.dirs.push((name, next)),
                None => way.rest.push(name),
            }
        }
        Ok(Some(way))
    }

    /// The path of the last directory that is there, from the root.
    fn path(&self) -> Vec<u8> {
        self.dirs.iter().skip(1).fold(Vec::new(), |path, (name, _)| join(&path, name))
    }
}

/// Reads the regular file at `path` if it is one and has at most `limit` bytes; `None` when there is no
/// such file.
///
/// # Errors
/// When it is larger, or cannot be read.
pub(crate) fn read_file(layers: &[LayerDir], path: &[u8], limit: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(way) = Way::find(layers, path)? else { return Ok(None) };
    let [name] = way.rest.as_slice() else { return Ok(None) };
    let found = way.dirs[way.dirs.len() - 1].1.lookup(name, &join(&way.path(), name))?;
    let Some(found) = found.filter(|found| found.stat.kind == FileKind::File) else { return Ok(None) };
    let mut bytes = Vec::new();
    fs::open_file_at(found.dir, name)?.take(limit + 1).read_to_end(&mut bytes)?;
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
