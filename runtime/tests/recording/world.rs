//! A user namespace with one id, a launcher in it, and root file systems to run steps in.

use std::cell::Cell;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cooper_runtime::launcher::Launcher;
use cooper_runtime::mountpoint::MountPoints;
use cooper_runtime::record::{Attributes, ByInode, Inode};
use cooper_runtime::recording::{Recording, Scope};
use cooper_runtime::step::{Outcome, Step};
use cooper_runtime::sys::{fs, mount};
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid, User};

pub(crate) struct World {
    launcher: Launcher,
    dir: PathBuf,
    roots: Cell<u32>,
}

/// A variable that `scripts/test` sets.
fn given(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run these tests by `scripts/test rootless`"))
}

impl World {
    /// Becomes the ordinary user, and root of a namespace in which there is nobody else.
    pub(crate) fn enter() -> World {
        let dir = Path::new(&given("COOPER_TEST_DIR")).join(format!("recording-{}", std::process::id()));
        if Uid::effective().is_root() {
            let user = User::from_name(&given("COOPER_TEST_USER")).unwrap().expect("the user is there");
            nix::unistd::setgroups(&[]).unwrap();
            nix::unistd::setresgid(user.gid, user.gid, user.gid).unwrap();
            nix::unistd::setresuid(user.uid, user.uid, user.uid).unwrap();
            // Else /proc/self belongs to root, and so do the files that the maps are written to.
            nix::sys::prctl::set_dumpable(true).unwrap();
        }
        let (uid, gid) = (Uid::effective(), Gid::effective());
        nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).unwrap();
        std::fs::write("/proc/self/setgroups", "deny").unwrap();
        std::fs::write("/proc/self/uid_map", format!("0 {uid} 1")).unwrap();
        std::fs::write("/proc/self/gid_map", format!("0 {gid} 1")).unwrap();
        mount::make_private().unwrap();
        cooper_runtime::recording::available().expect("seccomp notifications");
        let launcher = Launcher::start().unwrap();
        std::fs::create_dir(&dir).unwrap();
        World { launcher, dir, roots: Cell::new(0) }
    }

    /// A mounted root with busybox in it.
    pub(crate) fn busybox(&self) -> Root<'_> {
        self.root("busybox", &given("COOPER_TEST_BUSYBOX"))
    }

    /// A mounted root with a minimal Debian in it.
    pub(crate) fn debian(&self) -> Root<'_> {
        self.root("debian", &given("COOPER_TEST_DEBIAN"))
    }

    fn root(&self, name: &str, tar: &str) -> Root<'_> {
        let base = self.dir.join(name);
        if !base.exists() {
            std::fs::create_dir(&base).unwrap();
            let unpacked = Command::new("tar")
                .args([
                    "--extract",
                    "--preserve-permissions",
                    "--no-same-owner",
                    "--exclude=./dev/*",
                    "--file",
                    tar,
                ])
                .arg("--directory")
                .arg(&base)
                .status();
            assert!(unpacked.unwrap().success(), "{tar}");
        }
        let number = self.roots.replace(self.roots.get() + 1);
        let dir = self.dir.join(format!("root-{number}"));
        std::fs::create_dir(&dir).unwrap();
        let mut root = Root { world: self, dir, layers: vec![base], known: Vec::new(), mounted: false };
        root.mount();
        root
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Files without permissions are its own all the same.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A stack of layers, mounted as a build mounts them.
pub(crate) struct Root<'a> {
    world: &'a World,
    dir: PathBuf,
    /// Lowest first; the last but one is what the next is written over.
    layers: Vec<PathBuf>,
    /// By path from the root: what survives a mount.
    known: Vec<(PathBuf, Attributes)>,
    mounted: bool,
}

/// A step that has ended.
pub(crate) struct Ran {
    pub(crate) outcome: Outcome,
    /// What it wrote, to either stream.
    pub(crate) output: String,
    pub(crate) records: ByInode,
}

impl Root<'_> {
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join("merged")
    }

    fn mount(&mut self) {
        let upper = self.dir.join(format!("upper-{}", self.layers.len()));
        let work = self.dir.join(format!("work-{}", self.layers.len()));
        for dir in [&upper, &work, &self.path()] {
            let _ = std::fs::create_dir(dir);
        }
        let lower: Vec<&str> = self.layers.iter().rev().map(|l| l.to_str().unwrap()).collect();
        let options = format!(
            "userxattr,volatile,index=off,lowerdir={},upperdir={},workdir={}",
            lower.join(":"),
            upper.display(),
            work.display()
        );
        mount::mount_path("overlay", &self.path(), MsFlags::empty(), &options).unwrap();
        self.layers.push(upper);
        self.mounted = true;
    }

    /// Makes what was written so far a lower layer, and mounts a new one above.
    pub(crate) fn freeze(&mut self) {
        mount::detach(&self.path()).unwrap();
        self.mount();
    }

    /// Mounts the same layers once more: what the kernel remembered of them is gone. Later records of this
    /// root's files are found by [`Root::owned`] as before.
    pub(crate) fn forget(&mut self, ran: &mut Ran) {
        let device = |root: &Root<'_>| std::fs::metadata(root.path()).unwrap().dev();
        let old = device(self);
        mount::detach(&self.path()).unwrap();
        let upper = self.layers.pop().unwrap();
        let work = self.dir.join(format!("work-{}", self.layers.len()));
        // Mounted with `volatile`, it may not be mounted again before this is gone.
        std::fs::remove_dir_all(work).unwrap();
        self.mount();
        assert_eq!(self.layers.last(), Some(&upper));
        let new = device(self);
        let moved = |inode: Inode| if inode.dev == old { Inode { dev: new, ..inode } } else { inode };
        ran.records = ran.records.drain().map(|(inode, record)| (moved(inode), record)).collect();
    }

    fn inode(&self, path: &Path) -> Inode {
        let inside = path.strip_prefix("/").unwrap_or(path);
        let stat = std::fs::symlink_metadata(self.path().join(inside)).unwrap();
        Inode { dev: stat.dev(), ino: stat.ino() }
    }

    /// Runs a shell script as root, with everything recorded, and remembers the records for the next.
    pub(crate) fn run(&mut self, script: &str) -> Ran {
        self.run_as((0, 0, &[]), script)
    }

    pub(crate) fn run_as(&mut self, who: (u32, u32, &[u32]), script: &str) -> Ran {
        let known = self.known.iter().map(|(path, record)| (self.inode(path), record.clone())).collect();
        self.step(
            Some(Recording {
                scope: Scope::Everything,
                known,
                upper: self.layers.last().cloned(),
                settled: None,
                watch: false,
            }),
            who,
            script,
        )
    }

    /// Runs a shell script, which must succeed.
    pub(crate) fn step(
        &mut self,
        recording: Option<Recording>,
        who: (u32, u32, &[u32]),
        script: &str,
    ) -> Ran {
        let ran = self.try_step(recording, who, script);
        assert_eq!(ran.outcome, Outcome::Exited(0), "{script}\n{}", ran.output);
        ran
    }

    pub(crate) fn try_step(
        &mut self,
        recording: Option<Recording>,
        (uid, gid, groups): (u32, u32, &[u32]),
        script: &str,
    ) -> Ran {
        let step = Step {
            root: self.path(),
            argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned(), "LC_ALL=C".to_owned()],
            cwd: "/".to_owned(),
            uid,
            gid,
            groups: groups.to_vec(),
            hostname: "cooper".to_owned(),
            hosts: Vec::new(),
            resolv_conf: Vec::new(),
            mounts: Vec::new(),
            recording,
        };
        let root = fs::open_dir(&self.path()).unwrap();
        let mut points = MountPoints::prepare(std::os::fd::AsFd::as_fd(&root), &step.mounts).unwrap();
        let null: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        let (mut read, write) = std::io::pipe().unwrap();
        let errors = write.try_clone().unwrap();
        let running = self.world.launcher.spawn(&step, null, write.into(), errors.into()).unwrap();
        let mut output = Vec::new();
        read.read_to_end(&mut output).unwrap();
        let (outcome, records) = running.wait().unwrap();
        points.remove().unwrap();
        Ran { outcome, output: String::from_utf8_lossy(&output).into_owned(), records }
    }

    /// What is on record about a file after a step; an empty record when there is none.
    pub(crate) fn record(&self, ran: &Ran, path: &str) -> Attributes {
        ran.records.get(&self.inode(Path::new(path))).cloned().unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn owned(&self, ran: &Ran, path: &str, owner: (u32, u32)) {
        let recorded = self.record(ran, path).owner.unwrap_or((0, 0));
        assert_eq!(recorded, owner, "{path} in\n{:?}\n{}", ran.records, ran.output);
    }

    /// Has the next steps know what is on record about these files.
    pub(crate) fn remember(&mut self, ran: &Ran, paths: &[&str]) {
        for path in paths {
            let record = self.record(ran, path);
            assert!(!record.is_empty(), "{path} has no record");
            self.known.push((PathBuf::from(path), record));
        }
    }
}

impl Drop for Root<'_> {
    fn drop(&mut self) {
        if self.mounted {
            let _ = mount::detach(&self.path());
        }
    }
}

impl Ran {
    /// Asserts what the step has said, line for line.
    #[track_caller]
    pub(crate) fn says(&self, lines: &[&str]) -> &Ran {
        let said: Vec<&str> = self.output.lines().collect();
        assert_eq!(said, lines);
        self
    }

    /// Asserts how many files have a record.
    #[track_caller]
    pub(crate) fn count(&self, files: usize) -> &Ran {
        assert_eq!(self.records.len(), files, "{:?}", self.records);
        self
    }
}
