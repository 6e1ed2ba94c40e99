//! Directories of a build context that are written before the turn of their `COPY` has come.
//!
//! Whether they are what the copy writes is told when its turn is there: each of them is taken as it is when
//! all that it was made of is still the same, by the rule by which hashes are trusted, and nothing of its
//! name lies below. So it depends on nothing that may be different then.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use cooper_runtime::sys::fs::{self, Time};

use super::ground::not_plain;
use super::tree::{self, Place, lies_in};
use super::{Made, Rules, umask};
use crate::context::select::{Item, ItemKind, Source};
use crate::context::stat_cache::settled;
use crate::layer::entry::Entry;
use crate::rootfs::Clamp;
use crate::rootfs::storage::{Storage, discard};

/// The directories at the top of one source, as far as they were written. Dropped, what nobody took is gone.
#[derive(Debug)]
pub struct Staged {
    pub(super) path: PathBuf,
    root: OwnedFd,
    source: Source,
    /// Where they belong, from the layer's root.
    base: Vec<u8>,
    clamp: Clamp,
    single: bool,
    umask: u32,
    /// How many there were.
    made: usize,
    /// Those left, by name.
    dirs: Mutex<HashMap<Vec<u8>, Dir>>,
}

#[derive(Debug)]
struct Dir {
    /// Of the source's items.
    items: Range<usize>,
    entries: Vec<Entry>,
}

impl Staged {
    /// Writes those of a source whose files cannot have been changed since `when`, a moment before, without
    /// their times showing it. What is made belongs to root, at `base` in the layer.
    ///
    /// # Errors
    /// When there is none, they cannot be written, or `over` becomes true; with the source.
    pub fn write(
        storage: &Storage,
        source: Source,
        base: &[u8],
        clamp: Clamp,
        when: Time,
        over: &AtomicBool,
    ) -> Result<Staged, (Source, io::Error)> {
        let tops = tops(&source.items, when);
        if tops.is_empty() || source.items.iter().any(|item| matches!(item.kind, ItemKind::Hardlink(_))) {
            return Err((source, not_plain("nothing to write, or a hard link")));
        }
        let (path, root) = match storage.empty_layer() {
            Ok(made) => made,
            Err(e) => return Err((source, e)),
        };
        let (single, umask) = (storage.single_id(), umask());
        let rules =
            Rules { chown: (0, 0), chmod: None, clamp, now: Time::default(), single, umask, staged: &[] };
        let first: HashSet<usize> = tops.iter().map(|top| top.start).collect();
        let mut made = Made::default();
        let written = root.try_clone().and_then(|root| {
            let place = Place::top(root, base.to_vec(), None);
            tree::write_some(place, &source, &first, &rules, over, &mut made)
        });
        if let Err(e) = written {
            discard(&path);
            return Err((source, e));
        }
        let (base, made_dirs, dirs) = (base.to_vec(), tops.len(), Mutex::default());
        let mut staged = Staged { path, root, source, base, clamp, single, umask, made: made_dirs, dirs };
        staged.share_out(tops, made.entries);
        Ok(staged)
    }

    /// What it was written of.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Where it belongs, from the layer's root.
    pub fn base(&self) -> &[u8] {
        &self.base
    }

    /// Gives each directory its entries.
    fn share_out(&mut self, tops: Vec<Range<usize>>, entries: Vec<Entry>) {
        let dirs = self.dirs.get_mut().unwrap_or_else(PoisonError::into_inner);
        for items in tops {
            dirs.insert(self.source.items[items.start].path.clone(), Dir { items, entries: Vec::new() });
        }
        for entry in entries {
            let below = &entry.path[self.base.len()..];
            let mut names = below.split(|b| *b == b'/').filter(|name| !name.is_empty());
            if let Some(dir) = names.next().and_then(|top| dirs.get_mut(top)) {
                dir.entries.push(entry);
            }
        }
    }

    /// Moves the directory that is the first of `items` to where a copy by `rules` would write it: to the
    /// directory `to`, which is `path` in the layer. Gives its entries; `None` when it is another one.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub(super) fn take(
        &self,
        items: &[Item],
        to: BorrowedFd<'_>,
        path: &[u8],
        rules: &Rules<'_>,
    ) -> io::Result<Option<Vec<Entry>>> {
        let Some(name) = items.first().map(|top| &top.path) else { return Ok(None) };
        let plain = rules.chown == (0, 0) && rules.chmod.is_none();
        if !plain || (rules.single, rules.umask) != (self.single, self.umask) || path != self.base {
            return Ok(None);
        }
        let at_the_same_time = |item: &Item| {
            let time = item.stat.mtime;
            self.clamp.time(time) == rules.clamp.time(time)
        };
        let mut dirs = self.dirs.lock().unwrap_or_else(PoisonError::into_inner);
        let same = dirs.get(name).is_some_and(|dir| self.source.items[dir.items.clone()] == *items);
        if !same || !items.iter().all(at_the_same_time) {
            return Ok(None);
        }
        let dir = dirs.remove(name);
        drop(dirs);
        let name = OsStr::from_bytes(name);
        fs::rename_new_at(&self.root, name, to, name)?;
        Ok(dir.map(|dir| dir.entries))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let left = self.dirs.get_mut().unwrap_or_else(PoisonError::into_inner).len();
        tracing::debug!(
            "{}: {} directories were written ahead, {left} are of no use",
            self.base.escape_ascii(),
            self.made
        );
        discard(&self.path);
    }
}

/// The directories at the top of a source of which each file is settled, and what is in each.
fn tops(items: &[Item], when: Time) -> Vec<Range<usize>> {
    let mut tops = Vec::new();
    let mut at = 1;
    while at < items.len() {
        let inside = |item: &Item| lies_in(&item.path, &items[at].path);
        let end = at + 1 + items[at + 1..].iter().take_while(|item| inside(item)).count();
        let moving = |item: &Item| item.kind == ItemKind::File && !settled(&item.stat, when);
        if items[at].kind == ItemKind::Directory && !items[at..end].iter().any(moving) {
            tops.push(at..end);
        }
        at = end;
    }
    tops
}
