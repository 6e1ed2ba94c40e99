//! Cache mounts: directories that outlive the step, and the build.
//!
//! ```text
//! cache/mounts/<id map>/<key>/<n>/       the content of a cache mount
//! cache/mounts/<id map>/<key>/<n>.lock   held while a step has it mounted
//! ```
//!
//! `<key>` is the SHA-256 of the mount's id and of what its first content is made of, so that no id names a
//! path (CVE-2024-9675) and two images that a cache starts from do not mix. `<n>` counts from 0; there is
//! more than one only where steps that want the cache for themselves ran at the same time. Owners are those
//! of a user namespace, which is why each map of ids has caches of its own.
//!
//! A `shared` user holds the lock shared, a `private` or `locked` one alone. The content is made under
//! `work/` and appears by rename. [`prune`](mod@super::prune) takes the lock alone, moves the content to
//! `work/` and removes the lock file last; whoever got the lock of a file that has no name any more
//! starts again.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cooper_runtime::in_root::{self, Walk};
use cooper_runtime::step::MountSource;
use cooper_runtime::sys::fs::{self, FileKind};

use super::duplicate::duplicate;
use super::{MountError, io_error};
use crate::image::Digest;
use crate::plan::Sharing;
use crate::progress::{Event, Progress};
use crate::rootfs::unpack::Place;
use crate::store::StoreError;
use crate::store::layers::settle;

/// How often somebody who waits looks whether the lock is free: a wait in the kernel would not end when
/// the build is asked to stop.
const POLL: Duration = Duration::from_millis(50);

/// A cache mount as a step asks for it.
#[derive(Debug, Clone)]
pub struct CacheMount<'a> {
    /// Names it; any text.
    pub id: &'a str,
    /// What it holds when it is new; nothing without.
    pub initial: Option<Initial<'a>>,
    /// Permission bits of a new one, of which the nine count. 0755 without, or those of the initial directory.
    pub mode: Option<u32>,
    /// Owner of a new one. 0 without, or that of the initial directory.
    ///
    /// Where only one user id can be used, a cache belongs to it, which in the step is 0:0.
    pub uid: Option<u32>,
    /// Group of a new one.
    pub gid: Option<u32>,
    /// Who may have it at the same time.
    pub sharing: Sharing,
}

/// A directory that a new cache is a copy of.
#[derive(Debug, Clone)]
pub struct Initial<'a> {
    /// A trusted directory.
    pub root: &'a Path,
    /// A path below it, which links never lead out of.
    pub path: &'a str,
    /// Is equal only for equal content: a chain ID and the path, for example.
    pub identity: &'a str,
}

/// The cache mounts of one step. Dropped, they are given back.
#[derive(Debug)]
pub struct Caches<'a> {
    place: Place<'a>,
    held: BTreeMap<String, Held>,
}

#[derive(Debug)]
struct Held {
    dir: PathBuf,
    _lock: File,
}

impl<'a> Caches<'a> {
    /// None yet.
    pub fn new(place: Place<'a>) -> Caches<'a> {
        Caches { place, held: BTreeMap::new() }
    }

    /// Takes a cache, making it where there is none, and gives what is to be mounted. A step that has the
    /// same one on two targets has it once, as the first one asked for it. Waiting for a locked one is told
    /// once, and ends when `interrupted` says so.
    ///
    /// # Errors
    /// When it cannot be made: its initial content is no directory, its owner outside the id map.
    pub fn take(
        &mut self,
        wanted: &CacheMount<'_>,
        progress: &dyn Progress,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<MountSource, MountError> {
        let key = key(wanted);
        if !self.held.contains_key(&key) {
            let held = self.hold(&key, wanted, progress, interrupted)?;
            self.held.insert(key.clone(), held);
        }
        Ok(MountSource::Bind { root: self.held[&key].dir.clone(), path: String::new() })
    }

    fn hold(
        &self,
        key: &str,
        wanted: &CacheMount<'_>,
        progress: &dyn Progress,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Held, MountError> {
        let dir = self.place.store.cache_mounts(self.place.tag).join(key);
        let (number, lock) = match wanted.sharing {
            Sharing::Shared => first_free(&dir, File::try_lock_shared)?,
            Sharing::Private => first_free(&dir, File::try_lock)?,
            Sharing::Locked => (0, wait_for(&dir, wanted.id, progress, interrupted)?),
        };
        let path = dir.join(number.to_string());
        if !path.is_dir() {
            self.make(&path, wanted)?;
        }
        Ok(Held { dir: path, _lock: lock })
    }

    fn make(&self, path: &Path, wanted: &CacheMount<'_>) -> Result<(), MountError> {
        let fresh = self.place.work.fresh("cache-");
        let made = self.fill(&fresh, wanted).and_then(|()| {
            settle(&fresh, path).map_err(|e| StoreError::io("cannot move a cache mount to", path)(e).into())
        });
        // What is left of it, also where another step was faster.
        if let (Some(parent), Some(name)) = (fresh.parent(), fresh.file_name())
            && let Ok(parent) = fs::open_dir(parent)
        {
            let _ = fs::remove_tree_at(&parent, name);
        }
        made
    }

    fn fill(&self, fresh: &Path, wanted: &CacheMount<'_>) -> Result<(), MountError> {
        let failed = io_error("cannot make a cache mount");
        let (Some(parent), Some(name)) = (fresh.parent(), fresh.file_name()) else { return Ok(()) };
        let parent = fs::open_dir(parent).map_err(failed)?;
        match &wanted.initial {
            None => fs::make_dir_at(&parent, name, 0o755).map_err(io_error("cannot make a cache mount"))?,
            Some(initial) => self.copy(initial, parent.as_fd(), name)?,
        }
        let made = fs::stat_at(&parent, name).map_err(io_error("cannot make a cache mount"))?;
        let (uid, gid) = (wanted.uid.unwrap_or(made.uid), wanted.gid.unwrap_or(made.gid));
        if (uid, gid) != (made.uid, made.gid) && !self.place.single {
            fs::chown_at(&parent, name, uid, gid).map_err(|source| {
                let id = wanted.id.to_owned();
                MountError::Owner { id, uid, gid, source }
            })?;
        }
        fs::chmod_at(&parent, name, wanted.mode.map_or(made.mode, |mode| mode & 0o777))
            .map_err(io_error("cannot set the mode of a cache mount"))
    }

    fn copy(
        &self,
        initial: &Initial<'_>,
        to: std::os::fd::BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<(), MountError> {
        let wrong = |problem: String| MountError::Source { path: initial.path.to_owned(), problem };
        let root =
            fs::open_dir(initial.root).map_err(io_error("cannot open what a cache mount starts from"))?;
        let walk = Walk { follow_last: true, make_dir: None };
        let found = in_root::find(&root, initial.path.as_bytes(), walk)
            .map_err(|e| wrong(format!("cannot be found: {e}")))?;
        match found.stat {
            Some(s) if s.kind == FileKind::Directory => {}
            Some(_) => return Err(wrong("is not a directory, and a cache mount is one".to_owned())),
            None => return Err(wrong("does not exist".to_owned())),
        }
        duplicate(found.dir.as_fd(), &found.name, to, name, self.place.single)
            .map_err(|e| wrong(format!("cannot be copied: {e}")))
    }
}

fn key(wanted: &CacheMount<'_>) -> String {
    // The length keeps an id from imitating another one with an initial content.
    let mut text = format!("{}\n{}", wanted.id.len(), wanted.id).into_bytes();
    if let Some(initial) = &wanted.initial {
        text.push(b'\n');
        text.extend_from_slice(initial.identity.as_bytes());
    }
    Digest::of(&text).hex().to_owned()
}

/// Tries to lock a file.
type TryLock = fn(&File) -> Result<(), TryLockError>;

/// The first copy of a cache whose lock can be had.
fn first_free(dir: &Path, try_lock: TryLock) -> Result<(usize, File), MountError> {
    let mut number = 0;
    loop {
        if let Some(lock) = lock(dir, number, try_lock)? {
            return Ok((number, lock));
        }
        number += 1;
    }
}

fn wait_for(
    dir: &Path,
    id: &str,
    progress: &dyn Progress,
    interrupted: &dyn Fn() -> bool,
) -> Result<File, MountError> {
    let mut told = false;
    loop {
        if let Some(lock) = lock(dir, 0, File::try_lock)? {
            return Ok(lock);
        }
        if interrupted() {
            return Err(MountError::Interrupted);
        }
        if !told {
            told = true;
            let text = format!("waiting for the cache mount `{id}`, which another step has locked");
            progress.event(Event::Note { text });
        }
        std::thread::sleep(POLL);
    }
}

/// Locks the copy `number` of a cache; `None` when somebody else has it.
pub(super) fn lock(dir: &Path, number: usize, try_lock: TryLock) -> Result<Option<File>, StoreError> {
    let path = dir.join(format!("{number}.lock"));
    loop {
        std::fs::create_dir_all(dir).map_err(StoreError::io("cannot create", dir))?;
        let file = match File::options().create(true).append(true).open(&path) {
            // The directory was pruned in between.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(StoreError::io("cannot open", &path))?,
        };
        match try_lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(StoreError::io("cannot lock", &path)(e)),
        }
        // A file that was pruned between the two calls locks nothing.
        let ours = file.metadata().map_err(StoreError::io("cannot look at", &path))?;
        if std::fs::metadata(&path).is_ok_and(|named| named.ino() == ours.ino() && named.dev() == ours.dev())
        {
            return Ok(Some(file));
        }
    }
}
