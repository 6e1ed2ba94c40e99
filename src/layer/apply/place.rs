//! Making the files of a layer, each in a directory already found.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, FileTimes, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, fchown};
use std::time::{Duration, SystemTime};

use cooper_runtime::record::Node;
use cooper_runtime::sys::fs::{self, FileKind, Time};

use super::super::entry::{EntryKind, normalise_xattr};
use super::super::read::{RawEntry, TarReader};
use super::content::fill;
use super::{
    Applier, ApplyError, Dir, OPAQUE_XATTR, Owners, ROOT_XATTR, Step, dir_of, kept_xattr, make_whiteout,
    names,
};

impl Applier<'_> {
    /// One step on the way to a parent: into a directory, or to where a link leads.
    pub(super) fn step(&mut self, depth: usize, name: &[u8], entry: &[u8]) -> Result<Step, ApplyError> {
        let Err(e) = self.tree.enter(depth, name) else { return Ok(Step::Into) };
        let path = self.tree.path(depth, name);
        let dir = if e.kind() == io::ErrorKind::NotFound {
            match self.below(depth, name)? {
                Some(below) => match below.kind {
                    EntryKind::Directory => Dir {
                        mode: below.mode,
                        owner: (below.uid, below.gid),
                        mtime: Time { sec: below.mtime, nsec: 0 },
                        xattrs: below.xattrs,
                        opaque: false,
                    },
                    EntryKind::Symlink { target } => return Ok(Step::Link(target)),
                    _ => Dir::IMPLIED,
                },
                None => Dir::IMPLIED,
            }
        } else {
            let at = self.at(depth, name, "open")?;
            let stat = fs::stat_at(at, os(name)).map_err(io_error(&path, "examine"))?;
            match stat.kind {
                FileKind::Directory => return Err(io_error(&path, "open")(e)),
                FileKind::Symlink => {
                    let target = fs::read_link_at(at, os(name)).map_err(io_error(&path, "read the link"))?;
                    return Ok(Step::Link(target.as_bytes().to_vec()));
                }
                _ if stat.is_whiteout() => {
                    self.clear(depth, name)?;
                    Dir { opaque: true, ..Dir::IMPLIED }
                }
                _ => return Err(ApplyError::NotADirectory { path: entry.to_vec(), parent: path }),
            }
        };
        fs::make_dir_at(self.at(depth, name, "make")?, os(name), 0o700).map_err(io_error(&path, "make"))?;
        self.record(&path, &dir.owner);
        self.record(&path, &dir.owner);
        self.tree.enter(depth, name).map_err(io_error(&path, "open"))?;
        self.dirs.insert(path, dir);
        Ok(Step::Into)
    }

    pub(super) fn make_opaque(&mut self, depth: usize) {
        let mut path = self.tree.path(depth, b"");
        path.pop();
        match path.is_empty() {
            true => self.out.opaque_root = true,
            false => self.dirs.entry(path).or_insert(Dir::IMPLIED).opaque = true,
        }
    }

    pub(super) fn whiteout(&mut self, depth: usize, name: &[u8]) -> Result<(), ApplyError> {
        let path = self.tree.path(depth, name);
        let at = self.at(depth, name, "open")?;
        match make_whiteout(at, os(name)) {
            Ok(()) => {
                self.whiteouts.insert(path);
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if let Some(dir) = self.dirs.get_mut(&path) {
                    dir.opaque = true;
                }
                Ok(())
            }
            Err(e) => Err(io_error(&path, "make the whiteout of")(e)),
        }
    }

    pub(super) fn directory(
        &mut self,
        depth: usize,
        name: &[u8],
        entry: &RawEntry,
    ) -> Result<(), ApplyError> {
        let path = self.tree.path(depth, name);
        let mut dir = dir_of(entry);
        if let Err(e) = fs::make_dir_at(self.at(depth, name, "open")?, os(name), 0o700) {
            if e.kind() != io::ErrorKind::AlreadyExists {
                return Err(io_error(&path, "make")(e));
            }
            match self.dirs.get(&path) {
                Some(before) => dir.opaque = before.opaque,
                None => {
                    // A whiteout or a file: either hid what lay below, so the directory starts empty.
                    dir.opaque = true;
                    self.clear(depth, name)?;
                    fs::make_dir_at(self.at(depth, name, "open")?, os(name), 0o700)
                        .map_err(io_error(&path, "make"))?;
                }
            }
        }
        self.record(&path, &dir.owner);
        self.dirs.insert(path, dir);
        Ok(())
    }

    pub(super) fn file<R: Read>(
        &mut self,
        depth: usize,
        name: &[u8],
        entry: &RawEntry,
        size: u64,
        content: &mut TarReader<R>,
    ) -> Result<(), ApplyError> {
        let file = self.make(depth, name, |dir, name| fs::create_file_at(dir, name))?;
        let path = self.tree.path(depth, name);
        fill(&file, content, entry.extents.as_deref(), size, &mut self.buffer)
            .map_err(io_error(&path, "write"))?;
        self.file_attributes(depth, name, path, &file, entry)
    }

    fn file_attributes(
        &mut self,
        depth: usize,
        name: &[u8],
        path: Vec<u8>,
        file: &File,
        entry: &RawEntry,
    ) -> Result<(), ApplyError> {
        let owner = (entry.uid, entry.gid);
        self.record(&path, &owner);
        if self.must_chown(owner, file.as_fd(), &path)? {
            let made = fchown(file, Some(owner.0), Some(owner.1));
            self.made_owner(&path, owner, made)?;
        }
        // After the owner, which takes capabilities away, and before the mode: the user's own
        // attributes need leave to write.
        if !entry.xattrs.is_empty() {
            self.xattrs(depth, name, &path, &entry.xattrs)?;
        }
        if entry.mode != 0o600 {
            file.set_permissions(Permissions::from_mode(entry.mode))
                .map_err(io_error(&path, "set the mode of"))?;
        }
        if let Some(time) = system_time(entry.mtime) {
            file.set_times(FileTimes::new().set_accessed(time).set_modified(time))
                .map_err(io_error(&path, "set the time of"))?;
        }
        Ok(())
    }

    pub(super) fn symlink(
        &mut self,
        depth: usize,
        name: &[u8],
        entry: &RawEntry,
        target: &[u8],
    ) -> Result<(), ApplyError> {
        self.make(depth, name, |dir, name| fs::make_symlink_at(dir, name, os(target)))?;
        let path = self.tree.path(depth, name);
        self.chown_at(depth, name, &path, (entry.uid, entry.gid))?;
        let at = self.at(depth, name, "open")?;
        fs::set_mtime_at(at, os(name), entry.mtime).map_err(io_error(&path, "set the time of"))
    }

    /// A device or a FIFO.
    pub(super) fn node(&mut self, depth: usize, name: &[u8], entry: &RawEntry) -> Result<(), ApplyError> {
        let path = self.tree.path(depth, name);
        let (kind, rdev) = match entry.kind {
            EntryKind::CharDevice { major, minor } => (FileKind::CharDevice, (major, minor)),
            EntryKind::BlockDevice { major, minor } => (FileKind::BlockDevice, (major, minor)),
            _ => (FileKind::Fifo, (0, 0)),
        };
        let device = kind != FileKind::Fifo;
        let make = |dir: BorrowedFd<'_>, name: &OsStr| fs::make_node_at(dir, name, kind, rdev);
        let made = match device && self.options.owners == Owners::Record {
            true => false,
            // In a user namespace nobody may make a device: an empty file takes its place.
            false => match self.make(depth, name, make) {
                Err(ApplyError::Io { source, .. })
                    if device && source.kind() == io::ErrorKind::PermissionDenied =>
                {
                    false
                }
                other => other.map(|()| true)?,
            },
        };
        if !made {
            let file = self.make(depth, name, |dir, name| fs::create_file_at(dir, name))?;
            self.file_attributes(depth, name, path.clone(), &file, entry)?;
            let node = Node { block: kind == FileKind::BlockDevice, major: rdev.0, minor: rdev.1 };
            self.out.records.entry(path).or_default().node = Some(node);
            return Ok(());
        }
        self.chown_at(depth, name, &path, (entry.uid, entry.gid))?;
        let kept = entry.xattrs.iter().filter(|(k, _)| !k.starts_with(b"user."));
        let kept: BTreeMap<_, _> = kept.map(|(k, v)| (k.clone(), v.clone())).collect();
        self.xattrs(depth, name, &path, &kept)?;
        let at = self.at(depth, name, "open")?;
        fs::chmod_at(at, os(name), entry.mode).map_err(io_error(&path, "set the mode of"))?;
        fs::set_mtime_at(at, os(name), entry.mtime).map_err(io_error(&path, "set the time of"))
    }

    pub(super) fn hardlink(
        &mut self,
        entry: &[u8],
        parents: &[&[u8]],
        name: &[u8],
        target: &[u8],
    ) -> Result<(), ApplyError> {
        let refuse = |found| ApplyError::Hardlink { path: entry.to_vec(), target: target.to_vec(), found };
        let target_names = names(target, entry)?;
        let Some((target_name, target_parents)) = target_names.split_last() else {
            return Err(refuse("the image's root"));
        };
        let depth = self.parent(target_parents, entry)?;
        let target_path = self.tree.path(depth, target_name);
        let at = self.at(depth, target_name, "open")?;
        match fs::try_stat_at(at, os(target_name)).map_err(io_error(&target_path, "examine"))? {
            None => self.copy_up(depth, target_name, &target_path, &refuse)?,
            Some(stat) if stat.is_whiteout() => return Err(refuse("removed by this layer")),
            Some(stat) if stat.kind == FileKind::Directory => return Err(refuse("a directory")),
            Some(_) => {}
        }
        let from = self.at(depth, target_name, "open")?.try_clone_to_owned();
        let from = from.map_err(io_error(&target_path, "open"))?;

        let depth = self.parent(parents, entry)?;
        let path = self.tree.path(depth, name);
        if path == target_path {
            return Ok(());
        }
        self.make(depth, name, |dir, name| fs::link_at(&from, os(target_name), dir, name))?;
        // Names of one inode have one owner: what was said of the one holds for the other.
        if let Some(record) = self.out.records.get(&target_path).cloned() {
            self.out.records.insert(path, record);
        }
        Ok(())
    }

    /// Copies a file of a lower layer into this one, as overlay does before it gives it another name.
    fn copy_up(
        &mut self,
        depth: usize,
        name: &[u8],
        path: &[u8],
        refuse: &dyn Fn(&'static str) -> ApplyError,
    ) -> Result<(), ApplyError> {
        let below = self.below(depth, name)?.ok_or_else(|| refuse("not in the image"))?;
        let EntryKind::File { .. } = below.kind else {
            return Err(refuse("in a lower layer and no regular file"));
        };
        let Some(parents) = self.options.parents else { return Err(refuse("not in the image")) };
        let from =
            parents.open(path).map_err(|source| ApplyError::Parents { path: path.to_vec(), source })?;
        let file = self.make(depth, name, |dir, name| fs::create_file_at(dir, name))?;
        fs::copy_contents(&from, &file).map_err(io_error(path, "copy"))?;
        let entry = RawEntry {
            path: path.to_vec(),
            kind: below.kind,
            mode: below.mode,
            uid: below.uid,
            gid: below.gid,
            mtime: Time { sec: below.mtime, nsec: 0 },
            xattrs: below.xattrs,
            extents: None,
        };
        self.file_attributes(depth, name, path.to_vec(), &file, &entry)
    }

    /// Makes something under a name, out of the way of what is there.
    fn make<T>(
        &mut self,
        depth: usize,
        name: &[u8],
        make: impl Fn(BorrowedFd<'_>, &OsStr) -> io::Result<T>,
    ) -> Result<T, ApplyError> {
        let at = self.at(depth, name, "open")?;
        match make(at, os(name)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                self.clear(depth, name)?;
                make(self.at(depth, name, "open")?, os(name))
            }
            other => other,
        }
        .map_err(|e| io_error(&self.tree.path(depth, name), "make")(e))
    }

    /// Takes away what this layer has under a name, and what was noted of it.
    fn clear(&mut self, depth: usize, name: &[u8]) -> Result<(), ApplyError> {
        let path = self.tree.path(depth, name);
        self.tree.forget(depth, name);
        fs::remove_tree_at(self.at(depth, name, "open")?, os(name)).map_err(io_error(&path, "replace"))?;
        self.out.records.remove(&path);
        self.whiteouts.remove(&path);
        if self.dirs.remove(&path).is_some() {
            // All paths that begin with `path/`; the byte after the slash is `0`.
            let (from, to) = ([&path, b"/".as_slice()].concat(), [&path, b"0".as_slice()].concat());
            let inside = |key: &Vec<u8>| *key >= from && *key < to;
            self.out.records.retain(|key, _| !inside(key));
            self.dirs.retain(|key, _| !inside(key));
            self.whiteouts.retain(|key| !inside(key));
        }
        Ok(())
    }

    /// Gives directories their attributes, and takes away whiteouts that hide nothing.
    pub(super) fn finish(&mut self) -> Result<(), ApplyError> {
        // In a directory that is not merged with another overlay lists whiteouts as if they were
        // files (of which a lookup then says that they do not exist).
        if self.out.opaque_root || self.dirs.values().any(|dir| dir.opaque) {
            for path in std::mem::take(&mut self.whiteouts) {
                let (parent, name) = split(&path);
                let depth = self.tree.go(parent).map_err(io_error(&path, "open"))?;
                if self.covered(depth) {
                    fs::unlink_at(self.at(depth, name, "open")?, os(name))
                        .map_err(io_error(&path, "remove"))?;
                }
            }
        }
        // Descending, a directory comes after all that lies in it.
        for (path, dir) in std::mem::take(&mut self.dirs).into_iter().rev() {
            let depth = self.tree.go(&path).map_err(io_error(&path, "open"))?;
            let (parent, name) = match split(&path) {
                (_, b"") => (0, b".".as_slice()),
                (_, name) => (depth - 1, name),
            };
            let owners = self.options.owners;
            let handle = self.at(depth, b"", "open")?;
            let birth = fs::stat(handle).map_err(io_error(&path, "examine"))?;
            if owners == Owners::Make && dir.owner != (birth.uid, birth.gid) {
                let made = fchown(handle, Some(dir.owner.0), Some(dir.owner.1));
                self.made_owner(&path, dir.owner, made)?;
            }
            self.xattrs(parent, name, &path, &dir.xattrs)?;
            for (on, xattr, value) in [(dir.opaque, OPAQUE_XATTR, b"y"), (path.is_empty(), ROOT_XATTR, b"1")]
            {
                if on {
                    self.set_xattr(parent, name, &path, xattr.as_bytes(), value)?;
                }
            }
            fs::chmod(self.at(depth, b"", "open")?, dir.mode).map_err(io_error(&path, "set the mode of"))?;
            let at = self.at(parent, name, "open")?;
            fs::set_mtime_at(at, os(name), dir.mtime).map_err(io_error(&path, "set the time of"))?;
        }
        Ok(())
    }

    fn xattrs(
        &mut self,
        depth: usize,
        name: &[u8],
        path: &[u8],
        xattrs: &BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Result<(), ApplyError> {
        for (key, value) in xattrs.iter().filter(|(key, _)| kept_xattr(key)) {
            let value = normalise_xattr(key, value.clone());
            self.set_xattr(depth, name, path, key, &value)?;
        }
        Ok(())
    }

    fn set_xattr(
        &mut self,
        depth: usize,
        name: &[u8],
        path: &[u8],
        key: &[u8],
        value: &[u8],
    ) -> Result<(), ApplyError> {
        let at = self.at(depth, name, "open")?;
        let Err(source) = fs::set_xattr_at(at, os(name), os(key), value) else { return Ok(()) };
        // Capabilities need a namespace to be root of, ACLs one that has the ids they name.
        let ours_to_set = key.starts_with(b"user.");
        let refused = matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput);
        let recorded = self.options.owners == Owners::Record || key.starts_with(b"system.posix_acl_");
        if recorded && refused && !ours_to_set {
            let record = self.out.records.entry(path.to_vec()).or_default();
            record.xattrs.insert(key.to_vec(), value.to_vec());
            return Ok(());
        }
        Err(ApplyError::Xattr { path: path.to_vec(), name: key.to_vec(), source })
    }

    /// Forgets what was noted of the name before, and notes the owner if it is not to be made.
    fn record(&mut self, path: &[u8], owner: &(u32, u32)) {
        self.out.records.remove(path);
        if self.options.owners == Owners::Record && *owner != (0, 0) {
            self.note_owner(path, *owner);
        }
    }

    fn note_owner(&mut self, path: &[u8], owner: (u32, u32)) {
        self.out.records.entry(path.to_vec()).or_default().owner = Some(owner);
    }

    /// Whether an owner was made. One that the id map does not have the kernel calls invalid: it is noted.
    fn made_owner(&mut self, path: &[u8], owner: (u32, u32), made: io::Result<()>) -> Result<(), ApplyError> {
        match made {
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                self.note_owner(path, owner);
                Ok(())
            }
            other => other.map_err(io_error(path, "set the owner of")),
        }
    }

    fn must_chown(
        &mut self,
        owner: (u32, u32),
        born: BorrowedFd<'_>,
        path: &[u8],
    ) -> Result<bool, ApplyError> {
        if self.options.owners == Owners::Record {
            return Ok(false);
        }
        let birth = match self.birth_owner {
            Some(birth) => birth,
            None => {
                let stat = fs::stat(born).map_err(io_error(path, "examine"))?;
                *self.birth_owner.insert((stat.uid, stat.gid))
            }
        };
        Ok(owner != birth)
    }

    fn chown_at(
        &mut self,
        depth: usize,
        name: &[u8],
        path: &[u8],
        owner: (u32, u32),
    ) -> Result<(), ApplyError> {
        self.record(path, &owner);
        if self.options.owners == Owners::Record || self.birth_owner == Some(owner) {
            return Ok(());
        }
        let at = self.at(depth, name, "open")?;
        let made = fs::chown_at(at, os(name), owner.0, owner.1);
        self.made_owner(path, owner, made)
    }

    fn at(&mut self, depth: usize, name: &[u8], action: &'static str) -> Result<BorrowedFd<'_>, ApplyError> {
        if let Err(source) = self.tree.reopen(depth) {
            return Err(ApplyError::Io { path: self.tree.path(depth, name), action, source });
        }
        Ok(self.tree.dir(depth))
    }
}

fn system_time(time: Time) -> Option<SystemTime> {
    let seconds = Duration::from_secs(time.sec.unsigned_abs());
    let whole = match time.sec < 0 {
        true => SystemTime::UNIX_EPOCH.checked_sub(seconds),
        false => SystemTime::UNIX_EPOCH.checked_add(seconds),
    };
    whole?.checked_add(Duration::from_nanos(time.nsec.into()))
}

/// A path's parent and its last name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

fn io_error(path: &[u8], action: &'static str) -> impl Fn(io::Error) -> ApplyError {
    move |source| ApplyError::Io { path: path.to_vec(), action, source }
}
