//! What a COPY or ADD copies: source words → files.
//!
//! A [`Selection`] is a list of [`Source`]s, one for each source word or match of a wildcard. How a source
//! is written depends on what is at the destination by then: the first of two may make it a directory. So
//! a selection only says what is copied, and `build::copy` decides where it goes.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::vec;

use cooper_runtime::sys::fs::{self, DirEntry, FileKind, Stat};

use super::directory::IgnoreLine;
use super::resolve::{self, Found, Lost, WildcardError};
use super::tree::{Cursor, SourceTree, join};
use crate::dockerfile::glob::BadPattern;
use crate::dockerfile::ignore::Above;

/// What a COPY or ADD copies. Ends up in no particular place until it is written.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Where from.
    pub tree: SourceTree,
    /// One for each source word or match of a wildcard, in order. Empty when wildcards matched nothing.
    pub sources: Vec<Source>,
    /// Whether the destination was written as a directory: with a slash at its end, or as `.`.
    pub dest_is_directory: bool,
}

/// A file, or the content of a directory.
#[derive(Debug, Clone)]
pub struct Source {
    /// The last name of the source as it was written or matched; empty for the root of the tree. A single
    /// file gets this name when it is put into a directory.
    pub name: Vec<u8>,
    /// Where it lies: from the tree's root, without links.
    pub location: Vec<u8>,
    /// The source itself, path empty; then, if it is a directory, all below it: each directory before
    /// what it holds, names in the order of their bytes.
    pub items: Vec<Item>,
}

/// One file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Relative to the source, without slash at either end; empty for the source itself.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: ItemKind,
    /// Mode, size, times and owner.
    pub stat: Stat,
    /// The value of `security.capability`, from stages and images only.
    pub capability: Option<Vec<u8>>,
}

/// What an item is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// Another name for the regular file at this index of the source's items.
    Hardlink(usize),
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
    /// A socket of a build context; it is written as an empty file.
    Socket,
    /// A named pipe.
    Fifo,
    /// A character device: major and minor number.
    CharDevice(u32, u32),
    /// A block device: major and minor number.
    BlockDevice(u32, u32),
}

impl Source {
    /// Whether it is a directory, whose content is copied.
    pub fn is_directory(&self) -> bool {
        self.items.first().is_some_and(|item| item.kind == ItemKind::Directory)
    }

    /// Where an item lies in the tree.
    pub fn location_of(&self, item: &Item) -> Vec<u8> {
        join(&self.location, &item.path)
    }
}

impl Selection {
    /// How many items there are, directories included.
    pub fn len(&self) -> usize {
        self.sources.iter().map(|source| source.items.len()).sum()
    }

    /// Whether nothing is copied.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Bytes of content.
    pub fn bytes(&self) -> u64 {
        let items = self.sources.iter().flat_map(|source| &source.items);
        items.filter(|item| item.kind == ItemKind::File).map(|item| item.stat.size).sum()
    }
}

/// Why sources could not be selected or read.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// A source that is not there. [`SelectError::hint`] may know more.
    #[error("\"{source_word}\" not found in {tree}")]
    NotFound {
        /// The source as it was written.
        source_word: String,
        /// How the tree is called.
        tree: String,
        /// What may explain it.
        why: Option<Hint>,
    },
    /// The way to a source goes through something that is no directory.
    #[error("\"{source_word}\" not found in {tree}: \"{path}\" is not a directory")]
    NotADirectory {
        /// The source as it was written.
        source_word: String,
        /// How the tree is called.
        tree: String,
        /// What is in the way.
        path: String,
    },
    /// A source leads through links that lead to each other.
    #[error("\"{source_word}\" in {tree} leads through too many symbolic links")]
    Loop {
        /// The source as it was written.
        source_word: String,
        /// How the tree is called.
        tree: String,
    },
    /// A wildcard that is none.
    #[error("\"{source_word}\": {source}")]
    Pattern {
        /// The source as it was written.
        source_word: String,
        /// What is wrong.
        source: BadPattern,
    },
    /// Several sources and one destination.
    #[error("several sources need a directory as destination: write `{dest}/` instead of `{dest}`")]
    SeveralToOne {
        /// The destination as it was written.
        dest: String,
    },
    /// Something cannot be read.
    #[error("cannot read \"{path}\" in {tree}: {source}")]
    Io {
        /// Its path in the tree.
        path: String,
        /// How the tree is called.
        tree: String,
        /// Why.
        source: io::Error,
    },
    /// A file was written to while it was read.
    #[error("\"{path}\" in {tree} changed while it was being read; build again when it is complete")]
    Changed {
        /// Its path in the tree.
        path: String,
        /// How the tree is called.
        tree: String,
    },
}

/// What may explain that a source was not found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// The ignore file leaves it out.
    Excluded(IgnoreLine),
    /// A name like it is there.
    DidYouMean(String),
    /// It is a link, and this place, where it leads, is not there.
    DanglingLink(String),
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hint::Excluded(line) => {
                write!(f, "it is excluded by line {} of {}, `{}`", line.number, line.file, line.pattern)
            }
            Hint::DidYouMean(name) => write!(f, "did you mean \"{name}\"?"),
            Hint::DanglingLink(target) => {
                write!(f, "it is or leads through a symbolic link to \"{target}\", which is not there")
            }
        }
    }
}

impl SelectError {
    /// What may explain the error, for a line of its own.
    pub fn hint(&self) -> Option<String> {
        match self {
            SelectError::NotFound { why, .. } => why.as_ref().map(Hint::to_string),
            SelectError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("make it readable for the user who builds, or list it in .dockerignore".to_owned())
            }
            _ => None,
        }
    }

    pub(super) fn io(tree: &SourceTree, path: &[u8], source: io::Error) -> SelectError {
        if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
            || source.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32)
        {
            // It was there when its directory was listed.
            return SelectError::Changed { path: shown(path), tree: tree.name().to_owned() };
        }
        SelectError::Io { path: shown(path), tree: tree.name().to_owned(), source }
    }
}

fn shown(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { String::from_utf8_lossy(path).into_owned() }
}

/// Whether a destination, as it was written, means a directory whatever is there.
pub fn names_directory(dest: &[u8]) -> bool {
    matches!(dest.rsplit(|b| *b == b'/').next(), None | Some(b"" | b"." | b".."))
}

/// Finds out what the `sources` of a COPY or ADD to `dest` mean in `tree`. Both are as they were written,
/// with variables expanded.
///
/// # Errors
/// When a source that is no wildcard is missing or left out, when something cannot be read, or when
/// several sources go to a destination that is not written as a directory.
pub fn select<S: AsRef<[u8]>>(
    tree: &SourceTree,
    sources: &[S],
    dest: &[u8],
) -> Result<Selection, SelectError> {
    let dest_is_directory = names_directory(dest);
    if sources.len() > 1 && !dest_is_directory {
        return Err(SelectError::SeveralToOne { dest: String::from_utf8_lossy(dest).into_owned() });
    }
    let mut selected = Vec::new();
    for word in sources {
        let word = word.as_ref();
        let names = resolve::clean(word);
        if !resolve::is_pattern(&names) {
            let found = resolve::resolve(tree, &names).map_err(|lost| not_found(tree, word, &names, lost))?;
            let source = collect(tree, &names, found)?;
            // A directory that is left out, and into which no exception reached.
            if source.items.is_empty() {
                return Err(not_found(tree, word, &names, Lost::Excluded(source.location)));
            }
            selected.push(source);
            continue;
        }
        let matches = resolve::expand(tree, &names).map_err(|error| match error {
            WildcardError::Pattern(source) => {
                SelectError::Pattern { source_word: String::from_utf8_lossy(word).into_owned(), source }
            }
            WildcardError::Lost(lost) => not_found(tree, word, &names, lost),
        })?;
        for names in matches {
            let found = resolve::resolve(tree, &names).map_err(|lost| {
                let word = names.join(&b'/');
                not_found(tree, &word, &names, lost)
            })?;
            let source = collect(tree, &names, found)?;
            if !source.items.is_empty() {
                selected.push(source);
            }
        }
    }
    Ok(Selection { tree: tree.clone(), sources: selected, dest_is_directory })
}

/// Explains why `word`, which cleaned is `names`, leads nowhere.
fn not_found(tree: &SourceTree, word: &[u8], names: &[Vec<u8>], lost: Lost) -> SelectError {
    let source_word = String::from_utf8_lossy(word).into_owned();
    let tree_name = tree.name().to_owned();
    let why = match lost {
        Lost::Loop => return SelectError::Loop { source_word, tree: tree_name },
        Lost::NotADirectory(path) => {
            return SelectError::NotADirectory { source_word, tree: tree_name, path: shown(&path) };
        }
        Lost::Io(path, source) => return SelectError::io(tree, &path, source),
        Lost::Excluded(path) => {
            tree.ignore().and_then(|rules| rules.line_excluding(&path)).map(Hint::Excluded)
        }
        Lost::Missing(path) if !names.join(&b'/').starts_with(&path) => {
            Some(Hint::DanglingLink(shown(&path)))
        }
        Lost::Missing(path) => resolve::near_miss(tree, &path).map(|name| Hint::DidYouMean(shown(&name))),
    };
    SelectError::NotFound { source_word, tree: tree_name, why }
}

/// A directory whose entries are being gone through.
struct Frame {
    /// Relative to the source.
    path: Vec<u8>,
    entries: vec::IntoIter<DirEntry>,
    /// What its entries have to know of the ignore rules.
    above: Above,
    /// Where its item is, if the directory is left out and stays only if something below it does.
    doubtful: Option<usize>,
}

/// All that a source consists of; without items when the source is a directory that is left out with
/// all below it.
fn collect(tree: &SourceTree, names: &[Vec<u8>], found: Found) -> Result<Source, SelectError> {
    let name = names.last().cloned().unwrap_or_default();
    let mut source = Source { name, location: found.path, items: Vec::new() };
    let mut walk = Walk { tree, cursor: Cursor::new(tree.root()), links: HashMap::new() };
    let Some(item) = walk.item(&source.location, Vec::new(), found.stat, 0)? else { return Ok(source) };
    source.items.push(item);
    if !source.is_directory() {
        return Ok(source);
    }
    let (excluded, above) = walk.rules_at(&source.location);
    let entries = walk.list(&source.location)?;
    let mut frames = vec![Frame { path: Vec::new(), entries, above, doubtful: excluded.then_some(0) }];
    while let Some(frame) = frames.last_mut() {
        let Some(entry) = frame.entries.next() else {
            if frame.doubtful.is_some_and(|at| at + 1 == source.items.len()) {
                source.items.pop();
            }
            frames.pop();
            continue;
        };
        let path = join(&frame.path, entry.name.as_bytes());
        let location = join(&source.location, &path);
        let (excluded, above) = walk.check(&frame.above, &location);
        // Whether it is a directory has to be known before it may be passed over.
        let reaches_below = excluded && walk.may_hold_exceptions(&location);
        let passed_over = |kind| excluded && !(kind == FileKind::Directory && reaches_below);
        if entry.kind.is_some_and(passed_over) {
            continue;
        }
        let stat = walk.stat(&location)?;
        if passed_over(stat.kind) {
            continue;
        }
        let at = source.items.len();
        let Some(item) = walk.item(&location, path.clone(), stat, at)? else { continue };
        source.items.push(item);
        if stat.kind == FileKind::Directory {
            let entries = walk.list(&location)?;
            frames.push(Frame { path, entries, above, doubtful: excluded.then_some(at) });
        }
    }
    Ok(source)
}

struct Walk<'t> {
    tree: &'t SourceTree,
    cursor: Cursor<'t>,
    /// Files with several names: device and inode to the index of the first.
    links: HashMap<(u64, u64), usize>,
}

impl Walk<'_> {
    /// The rules as they stand at a directory, asked from the root down.
    fn rules_at(&self, location: &[u8]) -> (bool, Above) {
        let mut state = (false, Above::default());
        if location.is_empty() {
            return state;
        }
        let slashes = (0..location.len()).filter(|&at| location[at] == b'/');
        for end in slashes.chain([location.len()]) {
            state = self.check(&state.1, &location[..end]);
        }
        state
    }

    fn check(&self, above: &Above, location: &[u8]) -> (bool, Above) {
        match self.tree.ignore() {
            Some(rules) => rules.patterns().check(above, location),
            None => (false, Above::default()),
        }
    }

    fn may_hold_exceptions(&self, location: &[u8]) -> bool {
        self.tree.ignore().is_some_and(|rules| rules.patterns().exception_below(location))
    }

    fn stat(&mut self, location: &[u8]) -> Result<Stat, SelectError> {
        let stat = self.cursor.parent(location).and_then(|(dir, name)| fs::stat_at(dir, name));
        stat.map_err(|e| SelectError::io(self.tree, location, e))
    }

    fn list(&mut self, location: &[u8]) -> Result<vec::IntoIter<DirEntry>, SelectError> {
        let entries = self.cursor.dir(location).and_then(fs::list);
        let mut entries = entries.map_err(|e| SelectError::io(self.tree, location, e))?;
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries.into_iter())
    }

    /// The item for what lies at `location`; `None` for what is not copied.
    fn item(
        &mut self,
        location: &[u8],
        path: Vec<u8>,
        stat: Stat,
        index: usize,
    ) -> Result<Option<Item>, SelectError> {
        let mut capability = None;
        let kind = match stat.kind {
            FileKind::Directory => ItemKind::Directory,
            FileKind::Fifo => ItemKind::Fifo,
            FileKind::CharDevice => ItemKind::CharDevice(stat.rdev.0, stat.rdev.1),
            FileKind::BlockDevice => ItemKind::BlockDevice(stat.rdev.0, stat.rdev.1),
            FileKind::Socket if self.tree.is_context() => ItemKind::Socket,
            // A layer cannot hold one.
            FileKind::Socket => return Ok(None),
            FileKind::Symlink => {
                let target = self.cursor.parent(location).and_then(|(dir, name)| fs::read_link_at(dir, name));
                let target = target.map_err(|e| SelectError::io(self.tree, location, e))?;
                ItemKind::Symlink(target.as_bytes().to_owned())
            }
            FileKind::File => {
                let first = match stat.nlink {
                    0 | 1 => index,
                    _ => *self.links.entry((stat.dev, stat.ino)).or_insert(index),
                };
                if first == index { ItemKind::File } else { ItemKind::Hardlink(first) }
            }
        };
        if kind == ItemKind::File && !self.tree.is_context() {
            let attribute = OsStr::new("security.capability");
            let value =
                self.cursor.parent(location).and_then(|(dir, name)| fs::xattr_at(dir, name, attribute));
            capability = value.map_err(|e| SelectError::io(self.tree, location, e))?;
        }
        Ok(Some(Item { path, kind, stat, capability }))
    }
}

#[cfg(test)]
mod tests;
