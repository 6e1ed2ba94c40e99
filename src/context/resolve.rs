//! Source paths of COPY: which place in a tree each of them means.
//!
//! The walk is like that of `cooper_runtime::in_root`, with one thing more: at every name it asks whether
//! the ignore file left it out, so that a link which is left out leads nowhere.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use cooper_runtime::sys::fs::{self, FileKind, Stat};

use super::tree::{Cursor, SourceTree, join, split};
use crate::dockerfile::glob::{BadPattern, Glob, has_wildcard};

/// As many links as the kernel follows in one path.
const LINK_LIMIT: usize = 40;

/// Where a path leads.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// From the tree's root, without links; empty for the root.
    pub(super) path: Vec<u8>,
    /// What is there.
    pub(super) stat: Stat,
}

/// Why a path leads nowhere.
#[derive(Debug)]
pub(super) enum Lost {
    /// This path, without links, is not there.
    Missing(Vec<u8>),
    /// This path is there and left out by the ignore file.
    Excluded(Vec<u8>),
    /// The way goes through this path, which is no directory.
    NotADirectory(Vec<u8>),
    /// More links than the kernel would follow.
    Loop,
    /// This path cannot be read.
    Io(Vec<u8>, io::Error),
}

/// A source word cleaned as Go's `filepath.Join("/", word)` does it, by names alone: no slash at either
/// end, no `.`, and `..` only takes back the name before it and never leads out.
pub(super) fn clean(word: &[u8]) -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    for name in word.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            name => names.push(name.to_owned()),
        }
    }
    names
}

/// Whether a cleaned source has a wildcard.
pub(super) fn is_pattern(names: &[Vec<u8>]) -> bool {
    names.iter().any(|name| has_wildcard(name))
}

/// Follows `names` from the root of the tree, links included, and never out of it.
pub(super) fn resolve(tree: &SourceTree, names: &[Vec<u8>]) -> Result<Found, Lost> {
    let mut cursor = Cursor::new(tree.root());
    let mut todo: VecDeque<Vec<u8>> = names.iter().cloned().collect();
    let mut here: Vec<u8> = Vec::new();
    let mut stat = fs::stat(tree.root()).map_err(|e| Lost::Io(Vec::new(), e))?;
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if stat.kind != FileKind::Directory {
            return Err(Lost::NotADirectory(here));
        }
        if name == b".." {
            here = split(&here).0.to_owned();
            continue;
        }
        let path = join(&here, &name);
        let dir = cursor.dir(&here).map_err(|e| Lost::Io(here.clone(), e))?;
        stat = match fs::try_stat_at(dir, OsStr::from_bytes(&name)) {
            Ok(Some(stat)) => stat,
            Ok(None) => return Err(Lost::Missing(path)),
            Err(e) => return Err(Lost::Io(path, e)),
        };
        if tree.hides(&path, stat.kind) {
            return Err(Lost::Excluded(path));
        }
        if stat.kind != FileKind::Symlink {
            here = path;
            continue;
        }
        links += 1;
        if links > LINK_LIMIT {
            return Err(Lost::Loop);
        }
        let target = fs::read_link_at(dir, OsStr::from_bytes(&name)).map_err(|e| Lost::Io(path, e))?;
        let target = target.as_bytes();
        if target.starts_with(b"/") {
            here.clear();
        }
        let parts = target.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".");
        for part in parts.rev() {
            todo.push_front(part.to_owned());
        }
        // The link stood in a directory, and that is where its target is looked for.
        stat.kind = FileKind::Directory;
    }
    // After a link or `..` at the end, what is known is not of the place itself.
    if !here.is_empty() {
        let (dir, name) = cursor.parent(&here).map_err(|e| Lost::Io(here.clone(), e))?;
        stat = fs::stat_at(dir, name).map_err(|e| Lost::Io(here.clone(), e))?;
    } else {
        stat = fs::stat(tree.root()).map_err(|e| Lost::Io(Vec::new(), e))?;
    }
    Ok(Found { path: here, stat })
}

/// Makes sure that `names` lead from the directory `base` to something, through no link on the way.
pub(super) fn exists(tree: &SourceTree, base: &[u8], names: &[Vec<u8>]) -> Result<(), Lost> {
    let mut cursor = Cursor::new(tree.root());
    let mut here = base.to_owned();
    for (name, more) in names.iter().zip((0..names.len()).rev()) {
        let dir = cursor.dir(&here).map_err(|e| Lost::Io(here.clone(), e))?;
        let path = join(&here, name);
        let stat = match fs::try_stat_at(dir, OsStr::from_bytes(name)) {
            Ok(Some(stat)) => stat,
            Ok(None) => return Err(Lost::Missing(path)),
            Err(e) => return Err(Lost::Io(path, e)),
        };
        if tree.hides(&path, stat.kind) {
            return Err(Lost::Excluded(path));
        }
        if more > 0 && stat.kind != FileKind::Directory {
            return Err(Lost::NotADirectory(path));
        }
        here = path;
    }
    Ok(())
}

/// What can go wrong with a wildcard, other than matching nothing.
#[derive(Debug)]
pub(super) enum WildcardError {
    Pattern(BadPattern),
    Lost(Lost),
}

/// The paths that a cleaned source with wildcards matches, in order, as lists of names. Links in them are
/// not followed yet.
///
/// As in BuildKit, the names before the first wildcard may be links, and of those after it only real
/// directories are looked into.
pub(super) fn expand(tree: &SourceTree, names: &[Vec<u8>]) -> Result<Vec<Vec<Vec<u8>>>, WildcardError> {
    let plain = names.iter().take_while(|name| !has_wildcard(name)).count();
    let base = resolve(tree, &names[..plain]).map_err(WildcardError::Lost)?;
    if base.stat.kind != FileKind::Directory {
        return Err(WildcardError::Lost(Lost::NotADirectory(base.path)));
    }
    let mut cursor = Cursor::new(tree.root());
    let mut matches = vec![base.path];
    for (at, pattern) in (plain..).zip(&names[plain..]) {
        let glob = Glob::new(pattern).map_err(WildcardError::Pattern)?;
        let last = at + 1 == names.len();
        let mut next = Vec::new();
        for parent in &matches {
            let io = |path: &[u8]| {
                let path = path.to_owned();
                move |e| WildcardError::Lost(Lost::Io(path, e))
            };
            let dir = cursor.dir(parent).map_err(io(parent))?;
            let mut found: Vec<Vec<u8>> = Vec::new();
            for entry in fs::list(dir).map_err(io(parent))? {
                if !glob.matches(entry.name.as_bytes()) {
                    continue;
                }
                let path = join(parent, entry.name.as_bytes());
                let kind = match entry.kind {
                    Some(kind) => kind,
                    None => fs::stat_at(dir, &entry.name).map_err(io(&path))?.kind,
                };
                if (last || kind == FileKind::Directory) && !tree.hides(&path, kind) {
                    found.push(path);
                }
            }
            found.sort();
            next.append(&mut found);
        }
        matches = next;
    }
    let names = |path: Vec<u8>| path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect();
    Ok(matches.into_iter().map(names).collect())
}

/// A visible name beside the missing `path` that it may have been mistaken for.
pub(super) fn near_miss(tree: &SourceTree, path: &[u8]) -> Option<Vec<u8>> {
    let (parent, wanted) = split(path);
    let wanted = String::from_utf8_lossy(wanted.as_bytes()).into_owned();
    let mut cursor = Cursor::new(tree.root());
    let dir = cursor.dir(parent).ok()?;
    let allowed = (wanted.chars().count() / 3).clamp(1, 3);
    let mut best: Option<(usize, Vec<u8>)> = None;
    for entry in fs::list(dir).ok()? {
        let candidate = join(parent, entry.name.as_bytes());
        let name = entry.name.to_string_lossy();
        let far = distance(&wanted.to_lowercase(), &name.to_lowercase());
        let closer = best.as_ref().is_none_or(|(known, name)| (far, &candidate) < (*known, name));
        if far <= allowed && closer && !tree.hides(&candidate, entry.kind.unwrap_or(FileKind::File)) {
            best = Some((far, candidate));
        }
    }
    best.map(|(_, name)| name)
}

/// How many letters must be put in, taken out, replaced or swapped with the next to get from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut least = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_cleaned_by_names_and_stay_inside() {
        let cleaned = |word: &str| {
            clean(word.as_bytes()).iter().map(|n| String::from_utf8_lossy(n).into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(cleaned("/a//b/./c/"), ["a", "b", "c"]);
        assert_eq!(cleaned("../../etc/passwd"), ["etc", "passwd"]);
        assert_eq!(cleaned("a/../b"), ["b"]);
        assert!(cleaned(".").is_empty() && cleaned("/").is_empty() && cleaned("a/..").is_empty());
    }

    #[test]
    fn distance_counts_letters() {
        for (a, b, expected) in
            [("", "abc", 3), ("foo.txt", "foo.text", 1), ("ab", "ba", 1), ("same", "same", 0)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
