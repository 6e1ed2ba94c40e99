//! `layers/<id map>/<diff ID>/`: unpacked layers.
//!
//! Each is one lower directory as the kernel's overlay (mounted with `userxattr`) stacks them:
//! whiteouts are character devices 0:0, and `user.overlay.opaque` marks an opaque directory. Owners
//! are those of the user namespace that unpacked it, which is why another map of ids has another set.
//! What could not be made there (owners where there is one id, devices) stands in `<diff ID>.records`.
//! A directory appears by rename when it is whole and is never changed after.
//!
//! **After a loss of power** it may be there without the contents of its files. Syncing tens of thousands of them
//! would take longer than making them again, so a layer is only trusted as long as one of these empty files lies
//! beside it, made before it appeared:
//!
//! - `<diff ID>.boot-<boot ID>`: it was made since the kernel started, which knows what the disk does not have.
//!   Another boot takes it away and unpacks it again from its blob.
//! - `<diff ID>.synced`: all of it was on the disk when the mark got this name. A command that runs for a while
//!   sees to that with `syncfs(2)`, for layers that are a minute old: the kernel has written them by then, and so
//!   there is little to wait for.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cooper_runtime::sys::fs as sysfs;

use super::{Store, StoreError, WorkDir};
use crate::image::{ChainId, DiffId, Digest};

/// Where the kernel tells a random number of each of its starts (`random(4)`).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// How marks of layers begin that are not known to be on the disk.
const BOOT: &str = "boot-";
/// The mark of those that are.
const SYNCED: &str = "synced";
/// As old is a layer before somebody waits for the disk to have it. The kernel begins to write what is older than
/// 30 seconds (`vm.dirty_expire_centisecs`).
const WRITTEN_BY_NOW: Duration = Duration::from_secs(60);
/// As long has a command run before it waits for the disk.
const BEGIN_AFTER: Duration = Duration::from_secs(5);

/// The form of the records beside unpacked layers. With another number there is another set of them.
const RECORDS: u32 = 2;

/// Names a set of unpacked layers: a short hash of the id map they were unpacked under.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MapTag(String);

impl MapTag {
    /// The tag of an id map, described by any text that is equal for equal maps only.
    pub fn of(map: &str) -> MapTag {
        MapTag(Digest::of(format!("{RECORDS}\n{map}").as_bytes()).hex()[..8].to_owned())
    }
}

impl Store {
    /// Where the cache mounts of all id maps lie.
    pub fn cache_mounts_dir(&self) -> PathBuf {
        self.root.join("cache/mounts")
    }

    /// Where the cache mounts of one id map lie: files in them have owners, like those of layers.
    pub fn cache_mounts(&self, tag: &MapTag) -> PathBuf {
        self.cache_mounts_dir().join(&tag.0)
    }

    /// Where the unpacked layers of one id map lie.
    pub fn layers_dir(&self, tag: &MapTag) -> PathBuf {
        self.root.join("layers").join(&tag.0)
    }

    /// Where an unpacked layer lies, or would.
    pub fn layer_path(&self, tag: &MapTag, layer: DiffId) -> PathBuf {
        self.layers_dir(tag).join(layer.0.hex())
    }

    /// Where a layer lies that could only be unpacked knowing what is below it (a hard link to a file
    /// of a lower layer): under its chain ID, since with other layers below it is another tree.
    pub fn chained_layer_path(&self, tag: &MapTag, chain: ChainId) -> PathBuf {
        self.layers_dir(tag).join(format!("chain-{}", chain.0.hex()))
    }
}

impl Store {
    /// Whether a layer lies unpacked at `path`, one of those that [`layer_path`](Store::layer_path) and
    /// [`chained_layer_path`](Store::chained_layer_path) give. One that a loss of power may have damaged is moved
    /// into `work`.
    ///
    /// # Errors
    /// When such a one cannot be moved.
    pub fn has_layer(&self, work: &WorkDir, path: &Path) -> Result<bool, StoreError> {
        if !path.is_dir() {
            return Ok(false);
        }
        if self.is_trusted(path) {
            return Ok(true);
        }
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Ok(false) };
        // Two commands that find it take turns: the second must not take away what the first has made again.
        let lock = File::open(dir).map_err(StoreError::io("cannot open", dir))?;
        lock.lock().map_err(StoreError::io("cannot lock", dir))?;
        if !path.is_dir() || self.is_trusted(path) {
            return Ok(path.is_dir());
        }
        tracing::info!(
            "{} was made before the last start of the kernel; it is unpacked again",
            path.display()
        );
        let away = work.fresh("old-layer-");
        fs::rename(path, &away).map_err(StoreError::io("cannot move", path))?;
        let of_layer = [name.as_bytes(), b"."].concat();
        for entry in fs::read_dir(dir).map_err(StoreError::io("cannot read", dir))?.flatten() {
            if entry.file_name().as_bytes().starts_with(&of_layer) {
                let beside = entry.path();
                fs::remove_file(&beside).map_err(StoreError::io("cannot remove", &beside))?;
            }
        }
        Ok(false)
    }

    /// Moves a finished layer to its place, as [`settle`] does, and marks it as one of this boot. Only after
    /// [`has_layer`](Store::has_layer) has said that there is none: else the mark would be that of an older one.
    ///
    /// # Errors
    /// As for [`settle`], and when the mark cannot be made.
    pub fn settle_layer(&self, from: &Path, to: &Path) -> io::Result<()> {
        File::create(to.with_extension(self.boot_mark()))?;
        settle(from, to)
    }

    /// From now on, and as long as this command runs, has layers that were made since the kernel started marked as
    /// being on the disk. That happens on a thread which nobody waits for.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn watch_layers(&self) -> io::Result<()> {
        let (layers, mark) = (self.root.join("layers"), self.boot_mark());
        let watch = move || {
            // The end of a command waits for a sync that has begun: those that are soon over begin none.
            std::thread::sleep(BEGIN_AFTER);
            loop {
                if let Err(e) = mark_synced(&layers, &mark, WRITTEN_BY_NOW) {
                    tracing::info!("unpacked layers are not marked as being on the disk: {e}");
                }
                std::thread::sleep(WRITTEN_BY_NOW / 2);
            }
        };
        std::thread::Builder::new().name("layers".to_owned()).spawn(watch).map(drop)
    }

    fn is_trusted(&self, layer: &Path) -> bool {
        let marked = |mark: &str| layer.with_extension(mark).symlink_metadata().is_ok();
        marked(SYNCED) || marked(&self.boot_mark())
    }

    fn boot_mark(&self) -> String {
        let read =
            || fs::read_to_string(BOOT_ID).map_or_else(|_| "unknown".to_owned(), |t| t.trim().to_owned());
        format!("{BOOT}{}", self.boot.get_or_init(read))
    }
}

/// Marks layers below `layers` as synced that have `mark` for at least `age`, once they are.
fn mark_synced(layers: &Path, mark: &str, age: Duration) -> io::Result<()> {
    let mut due = Vec::new();
    for map in fs::read_dir(layers)? {
        for entry in fs::read_dir(map?.path())? {
            let entry = entry?;
            let path = entry.path();
            let old = || Some(entry.metadata().ok()?.modified().ok()?.elapsed().ok()? >= age);
            if path.extension() == Some(&OsString::from(mark)) && old() == Some(true) {
                due.push(path);
            }
        }
    }
    if due.is_empty() {
        return Ok(());
    }
    sysfs::sync(File::open(layers)?)?;
    for path in due {
        match fs::rename(&path, path.with_extension(SYNCED)) {
            // Another command was faster.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

/// Moves a finished directory to its place; when another command was faster, its copy is as good.
///
/// # Errors
/// What `rename(2)` says, other than that the place is taken.
pub fn settle(from: &Path, to: &Path) -> std::io::Result<()> {
    let (Some(from_dir), Some(from_name)) = (from.parent(), from.file_name()) else { return Ok(()) };
    let (Some(to_dir), Some(to_name)) = (to.parent(), to.file_name()) else { return Ok(()) };
    let (from_dir, to_dir) = (sysfs::open_dir(from_dir)?, sysfs::open_dir(to_dir)?);
    // Never onto what is there: a plain rename would replace an empty directory, which the layer
    // without any change is.
    match sysfs::rename_new_at(&from_dir, from_name, &to_dir, to_name) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lab() -> (tempfile::TempDir, Store, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let tag = MapTag::of("a map");
        fs::create_dir_all(store.layers_dir(&tag)).unwrap();
        let path = store.layer_path(&tag, DiffId(Digest::of(b"a layer")));
        (dir, store, path)
    }

    fn made(store: &Store, work: &WorkDir, path: &Path) {
        let fresh = work.fresh("unpack-");
        fs::create_dir(&fresh).unwrap();
        fs::write(fresh.join("file"), "content").unwrap();
        store.settle_layer(&fresh, path).unwrap();
    }

    /// As another boot would find it.
    fn reboot(store: &Store, path: &Path) {
        let mark = path.with_extension(store.boot_mark());
        fs::rename(&mark, path.with_extension("boot-another")).unwrap();
    }

    #[test]
    fn a_layer_of_another_boot_is_taken_away_with_what_lies_beside_it() {
        let (_dir, store, path) = lab();
        let work = store.work_dir().unwrap();
        assert!(!store.has_layer(&work, &path).unwrap());
        made(&store, &work, &path);
        assert!(store.has_layer(&work, &path).unwrap());
        fs::write(path.with_extension("records"), "[").unwrap();
        reboot(&store, &path);
        assert!(!store.has_layer(&work, &path).unwrap());
        let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        made(&store, &work, &path);
        assert!(store.has_layer(&work, &path).unwrap() && path.join("file").exists());
    }

    #[test]
    fn a_layer_that_is_on_the_disk_outlives_a_boot() {
        let (dir, store, path) = lab();
        let work = store.work_dir().unwrap();
        made(&store, &work, &path);
        let layers = dir.path().join("layers");
        mark_synced(&layers, &store.boot_mark(), WRITTEN_BY_NOW).unwrap();
        assert!(!path.with_extension(SYNCED).exists(), "too young");
        mark_synced(&layers, "boot-another", Duration::ZERO).unwrap();
        assert!(!path.with_extension(SYNCED).exists(), "of another boot");
        mark_synced(&layers, &store.boot_mark(), Duration::ZERO).unwrap();
        assert!(path.with_extension(SYNCED).exists() && !path.with_extension(store.boot_mark()).exists());
        assert!(store.has_layer(&work, &path).unwrap());
    }

    #[test]
    fn a_layer_without_a_mark_is_not_trusted() {
        let (_dir, store, path) = lab();
        let work = store.work_dir().unwrap();
        fs::create_dir(&path).unwrap();
        assert!(!store.has_layer(&work, &path).unwrap());
    }
}
