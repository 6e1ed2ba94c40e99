//! All that is wanted of one source: a file, or a directory with what lies below it.
//!
//! Most of the time goes into asking the kernel about each file. So first directories are read, each for itself
//! and in a large tree by several threads, and then what was found is put in order, as one walk would have met it:
//! the order, which of several names of a file is its first, and which error is told depend on the tree only.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::vec;

use cooper_runtime::sys::fs::{self, FileKind, Stat};

use super::resolve::Found;
use super::select::{Item, ItemKind, Origin, SelectError, Source};
use super::threads;
use super::tree::{Cursor, SourceTree, join};
use super::wanted::{Wanted, Way};
use crate::dockerfile::ignore::Above;

/// As many entries are looked at before others are asked to help: starting a thread takes as long as some dozen.
const ALONE: usize = 512;

/// All that is wanted of a source; without items when the source is a directory that is left out with all
/// below it.
///
/// Threads that are started for it are gone when it returns.
///
/// # Errors
/// When something cannot be read.
pub(super) fn collect(
    tree: &SourceTree,
    names: &[Vec<u8>],
    found: Found,
    wanted: &Wanted,
) -> Result<Source, SelectError> {
    let name = names.last().cloned().unwrap_or_default();
    let origin = Origin::Tree(tree.clone());
    let mut source = Source { origin, name, location: found.path, items: Vec::new() };
    let rules = Rules { tree, wanted, location: &source.location };
    let mut cursor = Cursor::new(tree.root());
    let item = cursor
        .parent(&source.location)
        .and_then(|(dir, name)| item(tree, dir, name, Vec::new(), found.stat))
        .map_err(|e| SelectError::io(tree, &source.location, e))?;
    let Some(item) = item else { return Ok(source) };
    if item.kind != ItemKind::Directory {
        source.items.push(item);
        return Ok(source);
    }
    let (hidden, above) = rules.at_source();
    let survey = Survey { rules, shared: Mutex::default(), changed: Condvar::new() };
    let listings = survey.read(Job { id: 0, path: Vec::new(), above, way: Way::default() }, cursor);
    source.items = in_order(item, !hidden, listings)?;
    Ok(source)
}

/// What decides whether something is wanted.
#[derive(Clone, Copy)]
struct Rules<'a> {
    tree: &'a SourceTree,
    wanted: &'a Wanted,
    /// Where the source lies in the tree.
    location: &'a [u8],
}

impl Rules<'_> {
    /// Whether all is wanted whatever it is called, so that nobody needs to ask.
    fn none(&self) -> bool {
        self.tree.ignore().is_none() && self.wanted.is_all()
    }

    /// The ignore rules as they stand at the source, asked from the root down.
    fn at_source(&self) -> (bool, Above) {
        let mut state = (false, Above::default());
        if self.location.is_empty() {
            return state;
        }
        let slashes = (0..self.location.len()).filter(|&at| self.location[at] == b'/');
        for end in slashes.chain([self.location.len()]) {
            state = self.check(&state.1, &self.location[..end]);
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
}

/// A directory to read.
struct Job {
    /// Where its listing goes.
    id: usize,
    /// Relative to the source.
    path: Vec<u8>,
    /// What its entries have to know of the ignore rules.
    above: Above,
    /// The same of what is wanted.
    way: Way,
}

/// What was found in a directory: in order, and up to the first error.
type Listing = Vec<Result<Entry, SelectError>>;

/// Something in a directory that is wanted, or may hold what is.
struct Entry {
    item: Item,
    /// Whether it is wanted itself.
    taken: bool,
    /// The number of its own listing, if it is a directory.
    listing: Option<usize>,
}

/// Reads directories, with as many threads as are worth it.
struct Survey<'a> {
    rules: Rules<'a>,
    shared: Mutex<Shared>,
    /// There is more to do, or nothing any more.
    changed: Condvar,
}

#[derive(Default)]
struct Shared {
    /// The last is taken first, which keeps the walk within one directory and this list short.
    jobs: Vec<Job>,
    /// By number.
    listings: Vec<Option<Listing>>,
    /// How many threads are reading a directory, which may bring more of them.
    reading: usize,
    /// How many wait for one.
    waiting: usize,
}

impl Survey<'_> {
    /// All listings from `first` down.
    fn read(self, first: Job, mut cursor: Cursor<'_>) -> Vec<Option<Listing>> {
        let mut seen = 0;
        {
            let mut shared = self.lock();
            shared.listings.push(None);
            shared.jobs.push(first);
        }
        // Alone, as long as that may be all.
        while seen < ALONE {
            let Some(job) = self.take() else { break };
            seen += self.done(job, &mut cursor);
        }
        let left = self.lock().jobs.len();
        if left > 0 {
            threads::scoped(threads::of(left + 1), || {
                let mut own = Cursor::new(self.rules.tree.root());
                while let Some(job) = self.take() {
                    self.done(job, &mut own);
                }
            });
        }
        self.shared.into_inner().unwrap_or_else(PoisonError::into_inner).listings
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next directory to read; waits for it as long as others may find one.
    fn take(&self) -> Option<Job> {
        let mut shared = self.lock();
        loop {
            if let Some(job) = shared.jobs.pop() {
                shared.reading += 1;
                return Some(job);
            }
            if shared.reading == 0 {
                return None;
            }
            shared.waiting += 1;
            shared = self.changed.wait(shared).unwrap_or_else(PoisonError::into_inner);
            shared.waiting -= 1;
        }
    }

    /// Reads a directory; says how many entries it looked at.
    fn done(&self, job: Job, cursor: &mut Cursor<'_>) -> usize {
        let (mut listing, mut below) = (Listing::new(), Vec::new());
        if let Err(error) = self.list(&job, cursor, &mut listing, &mut below) {
            listing.push(Err(error));
        }
        let seen = listing.len();
        let mut shared = self.lock();
        let first = shared.listings.len();
        shared.listings.resize_with(first + below.len(), || None);
        for entry in listing.iter_mut().flatten() {
            entry.listing = entry.listing.map(|n| first + n);
        }
        // Backwards, as the last is taken first.
        shared.jobs.extend(below.into_iter().rev().map(|job: Job| Job { id: first + job.id, ..job }));
        shared.listings[job.id] = Some(listing);
        shared.reading -= 1;
        if shared.waiting > 0 && (!shared.jobs.is_empty() || shared.reading == 0) {
            self.changed.notify_all();
        }
        seen
    }

    /// Goes through the entries of a directory. Those below are numbered from 0.
    fn list(
        &self,
        job: &Job,
        cursor: &mut Cursor<'_>,
        listing: &mut Listing,
        below: &mut Vec<Job>,
    ) -> Result<(), SelectError> {
        let Rules { tree, wanted, location } = self.rules;
        let here = join(location, &job.path);
        let mut entries = cursor.list(&here).map_err(|e| SelectError::io(tree, &here, e))?;
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let dir = cursor.dir(&here).map_err(|e| SelectError::io(tree, &here, e))?;
        let anything = self.rules.none();
        for entry in entries {
            let path = join(&job.path, entry.name.as_bytes());
            let io = |e| SelectError::io(tree, &join(&here, entry.name.as_bytes()), e);
            let (mut taken, mut want, mut above, mut way) = (true, true, Above::default(), Way::default());
            let mut reaches_below = true;
            if !anything {
                let location = join(location, &path);
                let hidden;
                (hidden, above) = self.rules.check(&job.above, &location);
                (want, way) = wanted.check(&job.way, &path);
                taken = !hidden && want;
                reaches_below = (!hidden || self.rules.may_hold_exceptions(&location))
                    && (want || wanted.may_want_below(&way, &path));
            }
            // Whether it is a directory has to be known before it may be passed over.
            let passed_over = |kind| !(taken || kind == FileKind::Directory && reaches_below);
            if entry.kind.is_some_and(passed_over) {
                continue;
            }
            let stat = fs::stat_at(dir, &entry.name).map_err(io)?;
            if passed_over(stat.kind) {
                continue;
            }
            let Some(mut item) = item(tree, dir, &entry.name, path, stat).map_err(io)? else { continue };
            let mut listing_of = None;
            if stat.kind == FileKind::Directory {
                item.on_the_way = !want;
                listing_of = Some(below.len());
                below.push(Job { id: below.len(), path: item.path.clone(), above, way });
            }
            listing.push(Ok(Entry { item, taken, listing: listing_of }));
        }
        Ok(())
    }
}

/// The item for a name; `None` for what is not copied. Of a file with several names all are taken for files.
fn item(
    tree: &SourceTree,
    dir: BorrowedFd<'_>,
    name: &OsStr,
    path: Vec<u8>,
    stat: Stat,
) -> std::io::Result<Option<Item>> {
    let mut capability = None;
    let kind = match stat.kind {
        FileKind::Directory => ItemKind::Directory,
        FileKind::Fifo => ItemKind::Fifo,
        FileKind::CharDevice => ItemKind::CharDevice(stat.rdev.0, stat.rdev.1),
        FileKind::BlockDevice => ItemKind::BlockDevice(stat.rdev.0, stat.rdev.1),
        FileKind::Socket if tree.is_context() => ItemKind::Socket,
        // A layer cannot hold one.
        FileKind::Socket => return Ok(None),
        FileKind::Symlink => ItemKind::Symlink(fs::read_link_at(dir, name)?.as_bytes().to_owned()),
        FileKind::File => {
            if !tree.is_context() {
                capability = fs::xattr_at(dir, name, OsStr::new("security.capability"))?;
            }
            ItemKind::File
        }
    };
    Ok(Some(Item { path, kind, stat, capability, on_the_way: false }))
}

/// A directory whose entries are being gone through.
struct Frame {
    entries: vec::IntoIter<Result<Entry, SelectError>>,
    /// Its item, as long as it is copied only if something below it is, and nothing was found there yet.
    pending: Option<Item>,
}

/// The items of a source: each directory before what it holds. `top` is its own, `taken` whether it is wanted
/// itself.
fn in_order(top: Item, taken: bool, mut listings: Vec<Option<Listing>>) -> Result<Vec<Item>, SelectError> {
    let mut entries = |number: usize| {
        let listing = listings.get_mut(number).and_then(Option::take);
        listing.unwrap_or_default().into_iter()
    };
    // Files with several names: device and inode to the index of the first.
    let mut links = HashMap::new();
    let mut items = Vec::new();
    let mut frames = vec![Frame { entries: entries(0), pending: Some(top) }];
    if taken {
        settle(&mut frames, &mut items);
    }
    while let Some(frame) = frames.last_mut() {
        let Some(entry) = frame.entries.next() else {
            frames.pop();
            continue;
        };
        let Entry { mut item, taken, listing } = entry?;
        if let Some(listing) = listing {
            frames.push(Frame { entries: entries(listing), pending: Some(item) });
            if taken {
                settle(&mut frames, &mut items);
            }
            continue;
        }
        settle(&mut frames, &mut items);
        if item.kind == ItemKind::File && item.stat.nlink > 1 {
            let first = *links.entry((item.stat.dev, item.stat.ino)).or_insert(items.len());
            if first != items.len() {
                item.kind = ItemKind::Hardlink(first);
                item.capability = None;
            }
        }
        items.push(item);
    }
    Ok(items)
}

/// Takes the directories that were waiting for something below them.
fn settle(frames: &mut [Frame], items: &mut Vec<Item>) {
    items.extend(frames.iter_mut().filter_map(|frame| frame.pending.take()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::select::{SelectOptions, select};
    use crate::context::{DirectoryContext, IgnoreRules};

    /// More than one thread reads alone: `top/<a>/<b>/<file>`, every tenth file another name of the first.
    fn tree(root: &std::path::Path) -> Vec<Vec<Vec<u8>>> {
        let mut paths = vec![Vec::new()];
        for a in 0..12 {
            paths.push(vec![format!("{a}").into_bytes()]);
            for b in 0..8 {
                let dir = root.join(format!("top/{a}/d.{b}"));
                std::fs::create_dir_all(&dir).unwrap();
                paths.push(vec![format!("{a}").into_bytes(), format!("d.{b}").into_bytes()]);
                for file in 0..20 {
                    let path = dir.join(format!("f{file}"));
                    match file % 10 == 3 && (a, b) != (0, 0) {
                        true => std::fs::hard_link(root.join("top/0/d.0/f0"), &path).unwrap(),
                        false => std::fs::write(&path, "x").unwrap(),
                    }
                    let names = [format!("{a}"), format!("d.{b}"), format!("f{file}")];
                    paths.push(names.map(String::into_bytes).to_vec());
                }
            }
        }
        paths.sort();
        paths
    }

    #[test]
    fn what_several_threads_find_is_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let expected = tree(dir.path());
        for _ in 0..5 {
            let context = DirectoryContext::open(dir.path(), IgnoreRules::none()).unwrap();
            let selection = select(context.tree(), &["top"], b"/", &SelectOptions::default()).unwrap();
            let items = &selection.sources[0].items;
            let paths: Vec<Vec<Vec<u8>>> = items
                .iter()
                .map(|i| i.path.split(|b| *b == b'/').filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect())
                .collect();
            assert_eq!(paths, expected);
            let first = items.iter().position(|i| i.path == b"0/d.0/f0").unwrap();
            for item in items {
                let another = item.path.ends_with(b"f3") || item.path.ends_with(b"f13");
                let expected = match another && !item.path.starts_with(b"0/d.0/") {
                    true => ItemKind::Hardlink(first),
                    false if item.path.rsplit(|b| *b == b'/').next().unwrap().starts_with(b"f") => {
                        ItemKind::File
                    }
                    false => ItemKind::Directory,
                };
                assert_eq!(item.kind, expected, "{}", String::from_utf8_lossy(&item.path));
            }
        }
    }

    #[test]
    fn several_threads_pass_over_what_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        tree(dir.path());
        let rules = IgnoreRules::parse(".dockerignore", "top/*/d.*\n!top/7/d.3/f1*\n").unwrap();
        let context = DirectoryContext::open(dir.path(), rules).unwrap();
        let selection = select(context.tree(), &["top"], b"/", &SelectOptions::default()).unwrap();
        let mut paths: Vec<_> = selection.sources[0].items.iter().map(|i| i.path.clone()).collect();
        paths.retain(|path| path.starts_with(b"7/") || path.iter().filter(|b| **b == b'/').count() > 0);
        let mut expected = vec![b"7/d.3".to_vec(), b"7/d.3/f1".to_vec()];
        expected.extend((10..20).map(|n| format!("7/d.3/f{n}").into_bytes()));
        assert_eq!(paths, expected);
    }
}
