//! What a COPY or ADD copies: source words → files.
//!
//! A [`Selection`] is a list of [`Source`]s, one for each source word or match of a wildcard. How a source
//! is written depends on what is at the destination by then: the first of two may make it a directory. So
//! a selection only says what is copied, and `build::copy` decides where it goes.

mod error;

use std::io;
use std::sync::Arc;

use cooper_runtime::sys::fs::{self, FileKind, Stat, Time};

use super::resolve::{self, Found, Lost, WildcardError};
use super::tree::{Cursor, SourceTree, join};
use super::walk::collect;
use super::wanted::Wanted;
pub use error::{Hint, SelectError};

/// How a COPY or ADD selects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SelectOptions {
    /// `--parents`: what is copied keeps its path below the destination, as far as it was written behind
    /// a `/./`; and `**` spans directories.
    pub parents: bool,
    /// `--exclude`: patterns as in an ignore file, for paths below each directory that is copied. A source
    /// that is no directory is copied whatever they say, as BuildKit does it; see
    /// [`Selection::not_excluded`].
    pub excludes: Vec<Vec<u8>>,
}

/// What a COPY or ADD copies. Ends up in no particular place until it is written.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// One for each source word or match of a wildcard, in order. Empty when wildcards matched nothing.
    pub sources: Vec<Source>,
    /// Whether the destination is a directory whatever is there: because it was written with a slash at
    /// its end, or as `.`, or because of `--parents`.
    pub dest_is_directory: bool,
    /// Sources that are no directories and that a pattern of `--exclude` would match by their name. They
    /// are copied; whoever wrote this may not expect it.
    pub not_excluded: Vec<String>,
}

/// Where a source's content is.
#[derive(Debug, Clone)]
pub enum Origin {
    /// In a file or directory of this tree.
    Tree(SourceTree),
    /// Here: the text of a here-document.
    Text(Arc<[u8]>),
}

/// A file, or the content of a directory.
#[derive(Debug, Clone)]
pub struct Source {
    /// Where from.
    pub origin: Origin,
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
    /// Whether this is a directory that is copied only because something below it is. Where there is one
    /// at the destination already, that one keeps its owner.
    pub on_the_way: bool,
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

    /// The same, in place of what `location` holds: for whoever asks of many.
    pub(super) fn locate(&self, item: &Item, location: &mut Vec<u8>) {
        location.clear();
        location.extend_from_slice(&self.location);
        if !location.is_empty() && !item.path.is_empty() {
            location.push(b'/');
        }
        location.extend_from_slice(&item.path);
    }
}

impl Selection {
    /// A text that is written as a file called `name`, mode 0644: a here-document.
    pub fn inline(name: impl Into<Vec<u8>>, content: impl Into<Vec<u8>>) -> Selection {
        let content: Vec<u8> = content.into();
        let never = Time::default();
        let stat = Stat {
            kind: FileKind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: content.len() as u64,
            mtime: never,
            ctime: never,
            dev: 0,
            ino: 0,
            nlink: 1,
            rdev: (0, 0),
        };
        let item = Item { path: Vec::new(), kind: ItemKind::File, stat, capability: None, on_the_way: false };
        let origin = Origin::Text(content.into());
        let source = Source { origin, name: name.into(), location: Vec::new(), items: vec![item] };
        Selection { sources: vec![source], ..Selection::default() }
    }

    /// The regular file at `path` of `tree` alone, to be written under `name`. It is ours to change, as a
    /// file that was downloaded, and is given `mode` and `mtime` first.
    ///
    /// # Errors
    /// When it is no regular file, or cannot be changed.
    pub fn single_file(
        tree: &SourceTree,
        path: &[u8],
        name: impl Into<Vec<u8>>,
        mode: u32,
        mtime: Time,
    ) -> Result<Selection, SelectError> {
        let io = |e| SelectError::io(tree, path, e);
        let mut cursor = Cursor::new(tree.root());
        let (dir, file) = cursor.parent(path).map_err(io)?;
        let kind = fs::stat_at(dir, file).map_err(io)?.kind;
        if kind != FileKind::File {
            return Err(io(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
        }
        fs::chmod_at(dir, file, mode).and_then(|()| fs::set_mtime_at(dir, file, mtime)).map_err(io)?;
        let stat = fs::stat_at(dir, file).map_err(io)?;
        let item = Item { path: Vec::new(), kind: ItemKind::File, stat, capability: None, on_the_way: false };
        let origin = Origin::Tree(tree.clone());
        let source = Source { origin, name: name.into(), location: path.to_owned(), items: vec![item] };
        Ok(Selection { sources: vec![source], ..Selection::default() })
    }

    /// Adds what another selection has, to be written after what is there.
    pub fn append(&mut self, mut other: Selection) {
        self.sources.append(&mut other.sources);
        self.dest_is_directory |= other.dest_is_directory;
        self.not_excluded.append(&mut other.not_excluded);
    }

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

    /// The newest modification time of all that brings one, seconds since 1970: here-documents do not.
    pub fn newest_mtime(&self) -> Option<i64> {
        let in_trees = self.sources.iter().filter(|source| matches!(source.origin, Origin::Tree(_)));
        in_trees.flat_map(|source| &source.items).map(|item| item.stat.mtime.sec).max()
    }

    /// The paths of sockets, which are written as empty files: there is no other way to have them in an
    /// image, and hardly anybody wants them there.
    pub fn sockets(&self) -> Vec<String> {
        let of = |source: &Source| {
            let sockets = source.items.iter().filter(|item| item.kind == ItemKind::Socket);
            sockets.map(|item| shown(&source.location_of(item))).collect::<Vec<_>>()
        };
        self.sources.iter().flat_map(of).collect()
    }
}

fn shown(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { String::from_utf8_lossy(path).into_owned() }
}

/// Whether a destination, as it was written, means a directory whatever is there.
pub fn names_directory(dest: &[u8]) -> bool {
    matches!(dest.rsplit(|b| *b == b'/').next(), None | Some(b"" | b"." | b".."))
}

/// Finds out what the `sources` of a COPY or ADD to `dest` mean in `tree`. All are as they were written,
/// with variables expanded.
///
/// # Errors
/// When a source that is no wildcard is missing or left out, when something cannot be read, when a pattern
/// is none, or when several sources go to a destination that is not written as a directory.
pub fn select<S: AsRef<[u8]>>(
    tree: &SourceTree,
    sources: &[S],
    dest: &[u8],
    options: &SelectOptions,
) -> Result<Selection, SelectError> {
    let dest_is_directory = names_directory(dest);
    if sources.len() > 1 && !dest_is_directory {
        return Err(SelectError::SeveralToOne { dest: String::from_utf8_lossy(dest).into_owned() });
    }
    let wanted = Wanted::excluding(&options.excludes)?;
    let mut selection =
        Selection { dest_is_directory: dest_is_directory || options.parents, ..Selection::default() };
    for word in sources {
        match options.parents {
            true => select_with_parents(tree, word.as_ref(), &wanted, &mut selection)?,
            false => select_word(tree, word.as_ref(), &wanted, &mut selection)?,
        }
    }
    Ok(selection)
}

/// One source word, without `--parents`.
fn select_word(
    tree: &SourceTree,
    word: &[u8],
    wanted: &Wanted,
    selection: &mut Selection,
) -> Result<(), SelectError> {
    let names = resolve::clean(word);
    let wildcard = resolve::is_pattern(&names);
    for (names, found) in places(tree, word, &names)? {
        let source = collect(tree, &names, found, wanted)?;
        // A directory that is left out, and into which no exception reached.
        if source.items.is_empty() {
            match wildcard {
                true => continue,
                false => return Err(not_found(tree, word, &names, Lost::Excluded(source.location))),
            }
        }
        if !source.is_directory() && wanted.excludes(&source.name) {
            selection.not_excluded.push(shown(&source.location));
        }
        selection.sources.push(source);
    }
    Ok(())
}

/// One source word of `COPY --parents`. What stands before a `/./`, or else the root, is a directory of
/// which only that is copied which the rest of the word matches, as a pattern; and the directories on the
/// way to it, as they are there.
fn select_with_parents(
    tree: &SourceTree,
    word: &[u8],
    wanted: &Wanted,
    selection: &mut Selection,
) -> Result<(), SelectError> {
    let pivot = word.windows(3).position(|three| three == b"/./");
    let (base, rest) = pivot.map_or((&b""[..], word), |at| (&word[..at], &word[at + 3..]));
    let (base, rest) = (resolve::clean(base), resolve::clean(rest));
    let pattern = rest.join(&b'/');
    let wanted = wanted.clone().including(&pattern).map_err(|source| SelectError::Pattern {
        source_word: String::from_utf8_lossy(word).into_owned(),
        source,
    })?;
    let plain = !resolve::is_pattern(&base) && !resolve::is_pattern(&rest) && !pattern.contains(&b'\\');
    for (names, found) in places(tree, word, &base)? {
        // A file that a wildcard before the pivot matches is copied by itself.
        if found.stat.kind != FileKind::Directory && !resolve::is_pattern(&base) {
            return Err(not_found(tree, word, &names, Lost::NotADirectory(found.path)));
        }
        if plain {
            let there = resolve::exists(tree, &found.path, &rest);
            there.map_err(|lost| not_found(tree, word, &[&names[..], &rest].concat(), lost))?;
        }
        let source = collect(tree, &names, found, &wanted)?;
        if !source.items.is_empty() {
            selection.sources.push(source);
        }
    }
    Ok(())
}

/// A path, name by name.
type Names = Vec<Vec<u8>>;

/// The places that a cleaned path means, links followed: one, or as many as a wildcard matches. `word` is
/// what messages call it.
fn places(tree: &SourceTree, word: &[u8], names: &Names) -> Result<Vec<(Names, Found)>, SelectError> {
    if !resolve::is_pattern(names) {
        let found = resolve::resolve(tree, names).map_err(|lost| not_found(tree, word, names, lost))?;
        return Ok(vec![(names.clone(), found)]);
    }
    let matches = resolve::expand(tree, names).map_err(|error| match error {
        WildcardError::Pattern(source) => {
            SelectError::Pattern { source_word: String::from_utf8_lossy(word).into_owned(), source }
        }
        WildcardError::Lost(lost) => not_found(tree, word, names, lost),
    })?;
    let follow = |names: Names| match resolve::resolve(tree, &names) {
        Ok(found) => Ok((names, found)),
        Err(lost) => Err(not_found(tree, &names.join(&b'/'), &names, lost)),
    };
    matches.into_iter().map(follow).collect()
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
        Lost::Missing(_) if word.starts_with(b"../") && tree.is_context() => Some(Hint::Above),
        Lost::Missing(path) if !names.join(&b'/').starts_with(&path) => {
            Some(Hint::DanglingLink(shown(&path)))
        }
        Lost::Missing(path) => resolve::near_miss(tree, &path).map(|name| Hint::DidYouMean(shown(&name))),
    };
    SelectError::NotFound { source_word, tree: tree_name, why }
}

#[cfg(test)]
mod tests;
