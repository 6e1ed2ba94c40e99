use super::*;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use cooper_runtime::step::MountSource;

use super::prune::remove_all;
use crate::plan::Sharing;
use crate::progress::{Event, Progress};
use crate::rootfs::storage::{Backend, Storage};
use crate::rootfs::unpack::Place;
use crate::store::layers::MapTag;
use crate::store::{Store, WorkDir};

/// A store in which one id can be used, so that no test needs privilege.
struct Lab {
    dir: tempfile::TempDir,
    store: Store,
    work: Arc<WorkDir>,
    tag: MapTag,
}

impl Lab {
    fn new() -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let work = Arc::new(store.work_dir().unwrap());
        Lab { dir, store, work, tag: MapTag::of("a map") }
    }

    fn storage(&self) -> Storage {
        Storage::open(Some(Backend::Copy), self.work.clone(), true).unwrap()
    }

    fn caches(&self) -> Caches<'_> {
        Caches::new(Place { store: &self.store, work: &self.work, tag: &self.tag, single: true })
    }

    fn take(&self, caches: &mut Caches<'_>, wanted: &CacheMount<'_>) -> PathBuf {
        place_of(&caches.take(wanted, &Notes::default(), &|| false).unwrap())
    }

    /// What lies below `cache/mounts/<id map>`, two levels.
    fn on_disk(&self) -> Vec<String> {
        let mut found = Vec::new();
        let top = self.store.cache_mounts(&self.tag);
        for key in std::fs::read_dir(&top).into_iter().flatten().flatten() {
            for entry in std::fs::read_dir(key.path()).unwrap().flatten() {
                found.push(entry.file_name().into_string().unwrap());
            }
        }
        found.sort();
        found
    }
}

fn place_of(source: &MountSource) -> PathBuf {
    let MountSource::Bind { root, path } = source else { panic!("{source:?}") };
    root.join(path)
}

fn cache(id: &str, sharing: Sharing) -> CacheMount<'_> {
    CacheMount { id, initial: None, mode: None, uid: None, gid: None, sharing }
}

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Progress for Notes {
    fn event(&self, event: Event) {
        let Event::Note { text } = event else { panic!("{event:?}") };
        self.0.lock().unwrap().push(text);
    }

    fn finish(&self) {}
}

#[test]
fn a_cache_is_made_once_and_found_again() {
    let lab = Lab::new();
    let path = lab.take(&mut lab.caches(), &cache("/root/.cache", Sharing::Shared));
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o755);
    std::fs::write(path.join("f"), "kept").unwrap();
    for sharing in [Sharing::Shared, Sharing::Private, Sharing::Locked] {
        let mut caches = lab.caches();
        let again =
            lab.take(&mut caches, &CacheMount { mode: Some(0o700), ..cache("/root/.cache", sharing) });
        assert_eq!(again, path);
        // On two targets of one step.
        assert_eq!(lab.take(&mut caches, &cache("/root/.cache", Sharing::Locked)), path);
    }
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o755, "the mode of a new one only");
    let other =
        lab.take(&mut lab.caches(), &CacheMount { mode: Some(0o1770), ..cache("x", Sharing::Shared) });
    assert_ne!(other, path);
    assert_eq!(std::fs::metadata(&other).unwrap().mode() & 0o7777, 0o770);
}

#[test]
fn no_id_names_a_path() {
    let lab = Lab::new();
    let top = lab.store.cache_mounts(&lab.tag);
    for id in ["../../x", "/etc", "..", "", ".", "a/b", "\0"] {
        let path = lab.take(&mut lab.caches(), &cache(id, Sharing::Shared));
        let below = path.strip_prefix(&top).unwrap();
        assert_eq!(below.components().count(), 2, "{id:?}: {}", below.display());
        assert_eq!(below.parent().unwrap().as_os_str().len(), 64);
    }
    assert_eq!(std::fs::read_dir(&top).unwrap().count(), 7);
}

#[test]
fn sharing_is_what_it_says() {
    let lab = Lab::new();
    let (mut first, mut second, mut third) = (lab.caches(), lab.caches(), lab.caches());
    let a = lab.take(&mut first, &cache("c", Sharing::Shared));
    assert_eq!(lab.take(&mut second, &cache("c", Sharing::Shared)), a);
    let b = lab.take(&mut third, &cache("c", Sharing::Private));
    assert_ne!(b, a, "somebody has the first one");
    drop((first, second, third));
    let mut first = lab.caches();
    assert_eq!(lab.take(&mut first, &cache("c", Sharing::Private)), a);
    let mut second = lab.caches();
    assert_eq!(lab.take(&mut second, &cache("c", Sharing::Private)), b, "and the second one is used again");
    assert_eq!(lab.on_disk(), ["0", "0.lock", "1", "1.lock"]);
}

#[test]
fn who_wants_it_locked_waits_and_says_so() {
    let lab = Lab::new();
    let mut first = lab.caches();
    let path = lab.take(&mut first, &cache("c", Sharing::Locked));
    let notes = Notes::default();
    let released = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut second = lab.caches();
            let source = second.take(&cache("c", Sharing::Locked), &notes, &|| false).unwrap();
            assert!(released.load(Ordering::SeqCst), "it did not wait");
            place_of(&source)
        });
        while notes.0.lock().unwrap().is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        std::thread::sleep(std::time::Duration::from_millis(120));
        released.store(true, Ordering::SeqCst);
        drop(first);
        assert_eq!(waiting.join().unwrap(), path);
    });
    assert_eq!(
        *notes.0.lock().unwrap(),
        ["waiting for the cache mount `c`, which another step has locked"],
        "told once"
    );
    let mut first = lab.caches();
    lab.take(&mut first, &cache("c", Sharing::Locked));
    let stopped = lab.caches().take(&cache("c", Sharing::Locked), &Notes::default(), &|| true);
    assert!(matches!(stopped, Err(MountError::Interrupted)));
}

/// A tree with what copies get wrong.
fn tree(dir: &Path) {
    std::fs::create_dir_all(dir.join("d/deep")).unwrap();
    std::fs::write(dir.join("d/f"), "content").unwrap();
    std::fs::set_permissions(dir.join("d/f"), PermissionsExt::from_mode(0o4711)).unwrap();
    std::fs::hard_link(dir.join("d/f"), dir.join("d/deep/peer")).unwrap();
    symlink("/etc/passwd", dir.join("d/link")).unwrap();
    symlink("/", dir.join("up")).unwrap();
    symlink("/d", dir.join("alias")).unwrap();
    std::fs::set_permissions(dir.join("d"), PermissionsExt::from_mode(0o2750)).unwrap();
}

#[test]
fn a_new_cache_can_start_from_a_directory() {
    let lab = Lab::new();
    let from = lab.dir.path().join("from");
    tree(&from);
    let initial = |path, identity| Some(Initial { root: &from, path, identity });
    let wanted = CacheMount { initial: initial("alias", "1"), ..cache("c", Sharing::Shared) };
    let path = lab.take(&mut lab.caches(), &wanted);
    assert_eq!(std::fs::read_to_string(path.join("deep/peer")).unwrap(), "content");
    let (file, peer) = (path.join("f").metadata().unwrap(), path.join("deep/peer").metadata().unwrap());
    assert_eq!((file.ino(), file.mode() & 0o7777), (peer.ino(), 0o4711));
    assert_ne!(file.ino(), from.join("d/f").metadata().unwrap().ino());
    assert_eq!(file.mtime_nsec(), from.join("d/f").metadata().unwrap().mtime_nsec());
    assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o2750);
    assert_eq!(std::fs::read_link(path.join("link")).unwrap(), Path::new("/etc/passwd"));
    // What is in it stays, and another beginning is another cache.
    std::fs::write(path.join("f"), "mine").unwrap();
    assert_eq!(lab.take(&mut lab.caches(), &wanted), path);
    assert_eq!(std::fs::read_to_string(path.join("f")).unwrap(), "mine");
    let other = CacheMount { initial: initial("d", "2"), ..wanted.clone() };
    assert_ne!(lab.take(&mut lab.caches(), &other), path);
    // Links lead nowhere but into the source.
    let up = CacheMount { initial: initial("up/../../d", "3"), ..wanted.clone() };
    assert!(lab.take(&mut lab.caches(), &up).join("f").is_file());
    let refused = |path| {
        let wanted = CacheMount { initial: initial(path, path), ..wanted.clone() };
        lab.caches().take(&wanted, &Notes::default(), &|| false).unwrap_err().to_string()
    };
    assert_eq!(refused("d/f"), "the mount's source d/f is not a directory, and a cache mount is one");
    assert_eq!(refused("no"), "the mount's source no does not exist");
    assert_eq!(refused("d/link"), "the mount's source d/link cannot be found: entity not found");
}

#[test]
fn nothing_written_to_a_throwaway_reaches_its_source() {
    let lab = Lab::new();
    let from = lab.dir.path().join("from");
    tree(&from);
    let single = throwaway(&lab.storage(), &from, "d/deep/peer").unwrap();
    let dir = throwaway(&lab.storage(), &from, "alias").unwrap();
    let (file, copy) = (place_of(&single.source), place_of(&dir.source));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "content");
    assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o4711);
    std::fs::write(&file, "changed").unwrap();
    std::fs::write(copy.join("deep/new"), "new").unwrap();
    std::fs::remove_file(copy.join("f")).unwrap();
    assert_eq!(copy.metadata().unwrap().mode() & 0o7777, 0o2750);
    assert_eq!(std::fs::read_to_string(from.join("d/f")).unwrap(), "content");
    assert!(!from.join("d/deep/new").exists());
    drop((single, dir));
    let left: Vec<_> = std::fs::read_dir(lab.work.path()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["lock"]);
    let error = throwaway(&lab.storage(), &from, "nothing").unwrap_err();
    assert_eq!(error.to_string(), "the mount's source nothing does not exist");
}

#[test]
fn only_caches_that_nobody_has_are_pruned() {
    let lab = Lab::new();
    let write = |path: PathBuf, bytes: usize| {
        std::fs::create_dir_all(path.join("below")).unwrap();
        std::fs::write(path.join("below/f"), vec![0u8; bytes]).unwrap();
        std::fs::hard_link(path.join("below/f"), path.join("again")).unwrap();
    };
    let mut held = lab.caches();
    write(lab.take(&mut held, &cache("used", Sharing::Shared)), 1);
    write(lab.take(&mut lab.caches(), &cache("used", Sharing::Private)), 20);
    write(lab.take(&mut lab.caches(), &cache("unused", Sharing::Shared)), 300);
    let pruned = remove_all(&lab.store, &lab.work).unwrap();
    assert_eq!(pruned, Pruned { removed: 2, bytes: 320, in_use: 1, foreign: 0 });
    assert_eq!(lab.on_disk(), ["0", "0.lock"]);
    // Whoever comes now begins anew.
    assert!(!lab.take(&mut lab.caches(), &cache("unused", Sharing::Shared)).join("again").exists());
    drop(held);
    assert_eq!(remove_all(&lab.store, &lab.work).unwrap().removed, 2);
    assert!(!lab.store.cache_mounts(&lab.tag).exists());
    assert_eq!(remove_all(&lab.store, &lab.work).unwrap(), Pruned::default());
}

#[test]
fn secrets_are_read_and_capped() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, size: u64| {
        let path = dir.path().join(name);
        std::fs::write(&path, vec![b'x'; usize::try_from(size).unwrap()]).unwrap();
        SecretSource::File(path)
    };
    let given = BTreeMap::from([
        ("empty".to_owned(), file("empty", 0)),
        ("full".to_owned(), file("full", secret::MAX_SECRET)),
        ("large".to_owned(), file("large", secret::MAX_SECRET + 1)),
        ("gone".to_owned(), SecretSource::File(dir.path().join("gone"))),
        ("env".to_owned(), SecretSource::Env("PATH".to_owned())),
        ("unset".to_owned(), SecretSource::Env("COOPER_NO_SUCH_VARIABLE".to_owned())),
    ]);
    assert_eq!(secret(&given, "empty", true).unwrap().unwrap(), b"");
    assert_eq!(secret(&given, "full", true).unwrap().unwrap().len() as u64, secret::MAX_SECRET);
    let path = std::env::var("PATH").unwrap();
    assert_eq!(secret(&given, "env", true).unwrap().unwrap(), path.as_bytes());
    for id in ["unset", "other"] {
        assert_eq!(secret(&given, id, false).unwrap(), None);
        let error = secret(&given, id, true).unwrap_err();
        assert_eq!(error.to_string(), format!("the secret `{id}` is required and was not given"));
        assert!(error.hint().unwrap().contains(&format!("--secret id={id},src=FILE")));
    }
    let large = secret(&given, "large", false).unwrap_err().to_string();
    assert_eq!(large, "the secret `large` is larger than 512000 bytes");
    assert!(
        secret(&given, "gone", false).unwrap_err().to_string().starts_with("cannot read the secret `gone`")
    );
}

#[test]
fn mounts_are_made_from_the_outside_in() {
    let tmpfs = |target: &str, size| Mount {
        target: target.to_owned(),
        source: MountSource::Tmpfs { size: Some(size) },
        read_only: false,
    };
    let mut mounts = [tmpfs("/a/b", 1), tmpfs("/a", 2), tmpfs("/a-b", 3), tmpfs("/a", 4)];
    in_order(&mut mounts);
    let order = mounts.each_ref().map(|m| match m.source {
        MountSource::Tmpfs { size } => (m.target.as_str(), size.unwrap()),
        _ => unreachable!(),
    });
    assert_eq!(order, [("/a", 2), ("/a", 4), ("/a-b", 3), ("/a/b", 1)]);
}
