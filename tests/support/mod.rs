//! What the tests of the rootless tier share: the program as an ordinary user runs it.
//!
//! `scripts/test rootless` prepares everything and says where it is; a variable that is missing is a
//! failure with that advice, never a skipped test.

#![allow(dead_code, unreachable_pub, reason = "each test file is a crate that uses its own part")]

pub mod files;

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A variable that `scripts/test` sets.
pub fn given(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run these tests by `scripts/test rootless`"))
}

pub fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

/// A place of its own for one test: a store, a context, and whatever it writes.
pub struct Lab {
    pub dir: PathBuf,
    /// Whose it is.
    user: String,
    /// Options for `setpriv` besides the user.
    privileges: Vec<String>,
    /// What `--storage` says.
    storage: Option<String>,
}

/// What a command has said and returned.
#[derive(Debug)]
pub struct Said {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Lab {
    /// An empty one.
    pub fn new() -> Lab {
        Lab::of(&given("COOPER_TEST_USER"))
    }

    /// An empty one of this user's.
    pub fn of(user: &str) -> Lab {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = Path::new(&given("COOPER_TEST_DIR")).join(format!("lab-{}-{number}", std::process::id()));
        let lab = Lab { dir, user: user.to_owned(), privileges: Vec::new(), storage: None };
        std::fs::create_dir_all(lab.dir.join("ctx")).unwrap();
        lab.hand_over();
        lab
    }

    /// One with the busybox base as `busybox`, which also knows a user `app` (1000:1000, in the group
    /// `staff`, 50).
    pub fn with_busybox() -> Lab {
        let lab = Lab::new();
        lab.cooper(&["import", &given("COOPER_TEST_BUSYBOX"), "bare"]).succeeds();
        lab.file(
            "Containerfile",
            "FROM bare\nRUN echo app:x:1000:1000::/home/app:/bin/sh >> /etc/passwd \\
              && printf 'app:x:1000:\\nstaff:x:50:app\\n' >> /etc/group\n",
        );
        // Dated, so that it is the same image in every lab.
        lab.build(&["-t", "busybox", "--source-date-epoch", "1600000000"]).succeeds();
        lab
    }

    /// One with the Debian base imported as `debian`.
    pub fn with_debian() -> Lab {
        let lab = Lab::new();
        lab.cooper(&["import", &given("COOPER_TEST_DEBIAN"), "debian"]).succeeds();
        lab
    }

    /// The same place, for a program that may not gain privileges: `newuidmap` does not work then, as
    /// in many containers, and there is one id.
    pub fn single_id(mut self) -> Lab {
        self.privileges.push("--no-new-privs".to_owned());
        self
    }

    /// The same place, for a program that stacks layers with this backend.
    pub fn storage(mut self, backend: &str) -> Lab {
        self.storage = Some(backend.to_owned());
        self
    }

    /// Writes a file of the build context, parents made.
    pub fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Lab {
        let path = self.dir.join("ctx").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    /// Writes the Containerfile.
    pub fn containerfile(&self, text: &str) -> &Lab {
        self.file("Containerfile", text)
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    /// Everything written so far belongs to the ordinary user.
    pub fn hand_over(&self) {
        if is_root() {
            let user = &self.user;
            run(Command::new("chown").args(["-R", &format!("{user}:")]).arg(self.dir.join("ctx"))).succeeds();
            run(Command::new("chown").arg(format!("{user}:")).arg(&self.dir)).succeeds();
        }
    }

    /// A command as the ordinary user, with a small environment.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        if is_root() {
            let user = &self.user;
            command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--init-groups"]);
        }
        command.args(&self.privileges).arg("--").arg(program);
        command.current_dir(&self.dir).env_clear().stdin(Stdio::null());
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
        command.env("HOME", &self.dir).env("COOPER_ROOT", self.dir.join("store"));
        command
    }

    /// cooper itself.
    pub fn cooper_command(&self, arguments: &[&str]) -> Command {
        self.hand_over();
        let mut command = self.command(&given("COOPER_TEST_BIN"));
        if let Some(storage) = &self.storage {
            command.args(["--storage", storage]);
        }
        command.args(arguments);
        command
    }

    pub fn cooper(&self, arguments: &[&str]) -> Said {
        run(&mut self.cooper_command(arguments))
    }

    /// `cooper build`, plain progress, of the context; more arguments go before it.
    pub fn build(&self, arguments: &[&str]) -> Said {
        let all = [&["--progress=plain", "build"], arguments, &["ctx"]].concat();
        self.cooper(&all)
    }

    /// Builds a Containerfile into the layout `out:latest`.
    pub fn build_out(&self, containerfile: &str) -> Said {
        self.containerfile(containerfile);
        let said = self.build(&["-o", "oci:out:latest"]);
        said.succeeds();
        said
    }

    /// Parses `out`'s manifest and configuration, for `latest`.
    pub fn image(&self, layout: &str) -> (serde_json::Value, serde_json::Value) {
        let read = |path: PathBuf| -> serde_json::Value {
            serde_json::from_slice(
                &std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())),
            )
            .unwrap()
        };
        let layout = self.dir.join(layout);
        let blob = |digest: &serde_json::Value| {
            layout.join("blobs").join(digest.as_str().unwrap().replace(':', "/"))
        };
        let index = read(layout.join("index.json"));
        let manifest = read(blob(&index["manifests"][0]["digest"]));
        let config = read(blob(&manifest["config"]["digest"]));
        (manifest, config)
    }

    /// The digests of the layers of a layout's image.
    pub fn layers(&self, layout: &str) -> Vec<String> {
        let (manifest, _) = self.image(layout);
        let layers = manifest["layers"].as_array().unwrap();
        layers.iter().map(|l| l["digest"].as_str().unwrap().to_owned()).collect()
    }

    /// The lines of `tar -tv` of a layout's topmost layer.
    pub fn top_layer(&self, layout: &str) -> Vec<String> {
        let digest = self.layers(layout).pop().unwrap();
        let blob = self.dir.join(layout).join("blobs").join(digest.replace(':', "/"));
        let listed = run(Command::new("tar").args(["--numeric-owner", "-tvf"]).arg(blob));
        listed.succeeds();
        listed.stdout.lines().map(str::to_owned).collect()
    }

    /// The names in a layout's topmost layer.
    pub fn top_names(&self, layout: &str) -> Vec<String> {
        let digest = self.layers(layout).pop().unwrap();
        let blob = self.dir.join(layout).join("blobs").join(digest.replace(':', "/"));
        let listed = run(Command::new("tar").arg("-tf").arg(blob));
        listed.succeeds();
        listed.stdout.lines().map(str::to_owned).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Unpacked layers belong to subordinate ids; the directory above is swept by scripts/test too.
        if is_root() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

impl Said {
    #[track_caller]
    pub fn succeeds(&self) -> &Said {
        assert!(self.status.success(), "{:?}\n{}\n{}", self.status, self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn fails(&self, code: i32) -> &Said {
        assert_eq!(self.status.code(), Some(code), "{:?}\n{}\n{}", self.status, self.stdout, self.stderr);
        self
    }

    /// What came after the progress: the error.
    pub fn error(&self) -> &str {
        self.stderr.find("error: ").map_or("", |at| &self.stderr[at..])
    }

    /// The output of RUN steps, without numbers and times.
    pub fn output(&self) -> Vec<&str> {
        self.stderr
            .lines()
            .filter(|l| l.starts_with('#'))
            .filter_map(|l| {
                let mut parts = l.splitn(3, ' ');
                let time = parts.nth(1)?;
                time.parse::<f64>().ok()?;
                Some(parts.next().unwrap_or(""))
            })
            .collect()
    }

    #[track_caller]
    pub fn prints(&self, line: &str) -> &Said {
        assert!(self.output().contains(&line), "no line {line:?} in\n{}", self.stderr);
        self
    }

    #[track_caller]
    pub fn says(&self, text: &str) -> &Said {
        // Messages are wrapped at 80 columns.
        let flat = |t: &str| t.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat(&self.stderr).contains(&flat(text)), "no {text:?} in\n{}", self.stderr);
        self
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Said {
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    Said {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Reads what a child writes to its standard error until it contains `text`.
pub fn wait_for(child: &mut Child, text: &str) {
    let mut seen = String::new();
    let mut byte = [0u8; 256];
    let stderr = child.stderr.as_mut().unwrap();
    while !seen.contains(text) {
        let got = stderr.read(&mut byte).unwrap();
        assert!(got > 0, "it ended before it said {text:?}:\n{seen}");
        seen.push_str(&String::from_utf8_lossy(&byte[..got]));
    }
}

/// Processes whose command line contains `text`; zombies have none.
pub fn processes(text: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).replace('\0', " ").contains(text)
            && pid != std::process::id() as i32
        {
            found.push(pid);
        }
    }
    found
}

/// Tries for ten seconds.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..200 {
        if holds() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("not within ten seconds: {what}");
}

/// The signal that ended a process.
pub fn signal_of(status: ExitStatus) -> Option<i32> {
    status.signal()
}
