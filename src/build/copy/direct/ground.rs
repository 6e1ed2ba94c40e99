//! The directories from the root to the destination, in a layer that is written directly.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use cooper_runtime::record::Attributes;
use cooper_runtime::sys::fs::{self, Stat, Time};

use super::tree::{self, Leaf, Place, Writer};
use super::{Chmod, Made, Rules};
use crate::context::select::{Item, Source};
use crate::layer::entry::{Entry, EntryKind, kept_xattr};
use crate::rootfs::describe::{describe, join};
use crate::rootfs::lower::MergedDir;
use crate::rootfs::storage::made_owner;
use crate::rootfs::way::Way;
use crate::rootfs::{Clamp, LayerDir};

/// The directories on the way, the destination's last; each is open and may be written to.
pub(super) struct Ground {
    dirs: Vec<Dir>,
    /// The name of the destination in the last directory, where it is no directory.
    name: Option<OsString>,
    /// Number of sources written, which tells their hard links apart.
    sources: u64,
}

struct Dir {
    name: OsString,
    path: Vec<u8>,
    fd: OwnedFd,
    /// What the layers below have there.
    below: Option<MergedDir>,
    entry: Entry,
    /// What the entry would be if nothing had happened; none of a new directory.
    before: Option<Entry>,
    /// Whether something in it is in the layer.
    left: bool,
    mtime: Time,
}

impl Ground {
    /// Makes them in the empty `root`: those that are there with the attributes that they have, others new.
    /// With `directory` the destination is one. `None` when it cannot be.
    pub(super) fn lay(
        root: OwnedFd,
        parents: &[LayerDir],
        way: Way,
        directory: bool,
        rules: &Rules<'_>,
        made: &mut Made,
    ) -> io::Result<Option<Ground>> {
        if directory && way.ends_in_other {
            return Ok(None);
        }
        let mode = own_root(&root, parents, rules.single)?;
        let Way { dirs, mut rest, .. } = way;
        let name = if directory { None } else { rest.pop() };
        let mut found = dirs.into_iter();
        let top = found.next().map(|(_, below)| below);
        let mut ground = Ground { dirs: Vec::new(), name, sources: 0 };
        // The root is not in the layer.
        let entry = new_directory(Vec::new(), mode, (0, 0));
        ground.dirs.push(Dir {
            name: OsString::from("."),
            path: Vec::new(),
            fd: root,
            below: top,
            entry,
            before: None,
            left: false,
            mtime: rules.now,
        });
        for (name, below) in found {
            let Some(dir) = ground.last().copy_up(name, below, rules.single, made)? else { return Ok(None) };
            ground.dirs.push(dir);
        }
        for name in rest {
            let last = ground.dirs.len() - 1;
            ground.dirs[last].mtime = rules.now;
            let dir = ground.last().make(name, rules, made)?;
            ground.dirs.push(dir);
        }
        Ok(Some(ground))
    }

    fn last(&self) -> &Dir {
        &self.dirs[self.dirs.len() - 1]
    }

    /// Whether the destination is a directory.
    pub(super) fn is_directory(&self) -> bool {
        self.name.is_none()
    }

    /// Writes a source that is no directory.
    pub(super) fn single(
        &mut self,
        source: &Source,
        item: &Item,
        rules: &Rules<'_>,
        made: &mut Made,
    ) -> io::Result<()> {
        let last = self.dirs.len() - 1;
        let dir = &mut self.dirs[last];
        let name = self.name.as_deref().unwrap_or(OsStr::from_bytes(&source.name));
        let path = join(&dir.path, name);
        let mut writer = Writer::default();
        let leaf = Leaf { dir: dir.fd.as_fd(), below: dir.below.as_ref(), name, path };
        dir.left |= writer.leaf(leaf, source, item, None, rules)?;
        writer.give(made);
        // Also where the same file was there before.
        dir.mtime = rules.now;
        Ok(())
    }

    /// Writes the content of a directory.
    pub(super) fn directory(
        &mut self,
        source: &Source,
        rules: &Rules<'_>,
        made: &mut Made,
    ) -> io::Result<()> {
        let Some(mut dir) = self.dirs.pop() else { return Ok(()) };
        let root = self.dirs.first().map_or(dir.fd.as_fd(), |root| root.fd.as_fd()).try_clone_to_owned()?;
        self.sources += 1;
        let place = Place::top(dir.fd, dir.path.clone(), dir.below);
        let place = tree::write(place, root.as_fd(), source, self.sources, rules, made)?;
        let left;
        (dir.fd, dir.below, left) = place.into_parts();
        dir.left |= left;
        dir.mtime = source.items.first().map_or(rules.now, |top| top.stat.mtime);
        self.dirs.push(dir);
        Ok(())
    }

    /// Gives the directories their modes and times, and takes those away that the layers below have just
    /// so.
    pub(super) fn end(mut self, clamp: Clamp, made: &mut Made) -> io::Result<()> {
        while let Some(mut dir) = self.dirs.pop() {
            dir.entry.mtime = dir.mtime.sec;
            let time = clamp.time(dir.mtime);
            let mut same = dir.before.as_ref() == Some(&dir.entry);
            dir.entry.mtime = time.sec;
            same |= dir.before.as_ref() == Some(&dir.entry);
            fs::chmod(&dir.fd, dir.entry.mode)?;
            fs::set_mtime(&dir.fd, time)?;
            let Some(parent) = self.dirs.last_mut() else { break };
            if same && !dir.left {
                fs::remove_dir_at(&parent.fd, &dir.name)?;
                continue;
            }
            parent.left = true;
            made.entries.push(dir.entry);
        }
        Ok(())
    }
}

impl Dir {
    /// Makes a directory that the layers below have in this one, as they have it. `None` when there is more
    /// to it than can be made.
    fn copy_up(
        &self,
        name: OsString,
        below: MergedDir,
        single: bool,
        made: &mut Made,
    ) -> io::Result<Option<Dir>> {
        let path = join(&self.path, &name);
        let found = self.below.as_ref().map(|here| here.lookup(&name, &path)).transpose()?.flatten();
        let Some(found) = found else { return Ok(None) };
        let disk = fs::stat_at(found.dir, &name)?;
        if let Some(record) = found.record {
            // What has an owner all the same was given away.
            if !single && (disk.uid, disk.gid) != (0, 0) {
                return Ok(None);
            }
            made.records.push((path.clone(), record.clone()));
        }
        let entry = describe(found.dir, &name, &found.stat, found.record, path.clone())?;
        let Some(fd) = inherit(found.dir, &name, &disk, self.fd.as_fd(), single)? else { return Ok(None) };
        let (before, mtime) = (Some(entry.clone()), found.stat.mtime);
        Ok(Some(Dir { name, path, fd, below: Some(below), entry, before, left: false, mtime }))
    }

    /// Makes a new directory on the way.
    fn make(&self, name: OsString, rules: &Rules<'_>, made: &mut Made) -> io::Result<Dir> {
        let path = join(&self.path, &name);
        fs::make_private_dir_at(&self.fd, &name)?;
        let fd = fs::open_dir_at(&self.fd, &name)?;
        own(self.fd.as_fd(), &name, &path, rules, &mut made.records)?;
        let mode = rules.chmod.and_then(Chmod::made_directory).unwrap_or(0o755);
        let entry = new_directory(path.clone(), mode, rules.chown);
        Ok(Dir { name, path, fd, below: None, entry, before: None, left: false, mtime: rules.now })
    }
}

/// Gives the layer's root, of which the layer does not speak, the owner that the layers below say, and gives
/// its mode.
pub(super) fn own_root(root: &OwnedFd, parents: &[LayerDir], single: bool) -> io::Result<u32> {
    let (mode, uid, gid) = MergedDir::root(parents)?.root_attributes()?;
    if !single && (uid, gid) != (0, 0) {
        made_owner(fs::chown_at(root, OsStr::new("."), uid, gid))?;
    }
    Ok(mode)
}

/// Makes `name` in `to` a directory with the owner and the extended attributes that it has in `from`, open
/// for ourselves. `None` when it has an access control list.
pub(super) fn inherit(
    from: BorrowedFd<'_>,
    name: &OsStr,
    stat: &Stat,
    to: BorrowedFd<'_>,
    single: bool,
) -> io::Result<Option<OwnedFd>> {
    if has_acl(from, name)? {
        return Ok(None);
    }
    fs::make_private_dir_at(to, name)?;
    for attr in fs::xattr_names_at(from, name)?.iter().filter(|attr| kept_xattr(attr.as_bytes())) {
        if let Some(value) = fs::xattr_at(from, name, attr)? {
            fs::set_xattr_at(to, name, attr, &value)?;
        }
    }
    if !single && (stat.uid, stat.gid) != (0, 0) {
        fs::chown_at(to, name, stat.uid, stat.gid)?;
    }
    fs::open_dir_at(to, name).map(Some)
}

/// Gives a new file its owner, or keeps a record of it. What we make is root's.
pub(super) fn own(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    path: &[u8],
    rules: &Rules<'_>,
    records: &mut Vec<(Vec<u8>, Attributes)>,
) -> io::Result<()> {
    if rules.chown == (0, 0) {
        return Ok(());
    }
    let (uid, gid) = rules.chown;
    if rules.single || !made_owner(fs::chown_at(dir, name, uid, gid))? {
        records.push((path.to_vec(), Attributes { owner: Some((uid, gid)), ..Attributes::default() }));
    }
    Ok(())
}

pub(super) fn not_plain(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("there is {what}"))
}

fn has_acl(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<bool> {
    let names = fs::xattr_names_at(dir, name)?;
    Ok(names.iter().any(|attr| attr.as_bytes().starts_with(b"system.posix_acl")))
}

fn new_directory(path: Vec<u8>, mode: u32, (uid, gid): (u32, u32)) -> Entry {
    Entry { path, kind: EntryKind::Directory, mode, uid, gid, mtime: 0, xattrs: Default::default() }
}
