use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;
use crate::context::git_url::parse_git;
use crate::registry::testing::{Server, reply};
use crate::store::Store;

/// A repository that a test has made, a store's work directory, and what is said to `git` about them.
struct Scene {
    dir: tempfile::TempDir,
    _store: Store,
    work: WorkDir,
}

/// The commits' time.
const TIME: i64 = 1_600_000_000;

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let work = store.work_dir().unwrap();
        let scene = Scene { dir, _store: store, work };
        fs::create_dir(scene.repo()).unwrap();
        scene.run(&["init", "--quiet", "--initial-branch=main"]);
        scene
    }

    fn repo(&self) -> PathBuf {
        self.dir.path().join("r.git")
    }

    #[track_caller]
    fn run_in(&self, dir: &Path, arguments: &[&str]) -> String {
        let date = format!("{TIME} +0000");
        let output = Command::new("git")
            .args(["-c", "protocol.file.allow=always"])
            .args(arguments)
            .current_dir(dir)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs([("GIT_AUTHOR_DATE", date.as_str()), ("GIT_COMMITTER_DATE", &date)])
            .envs(
                ["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"]
                    .map(|n| (n, "x")),
            )
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        self.run_in(&self.repo(), arguments)
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.repo().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Commits all there is and gives the id.
    fn commit(&self) -> String {
        self.run(&["add", "--all"]);
        self.run(&["commit", "--quiet", "--allow-empty", "--message", "x"]);
        self.run(&["rev-parse", "HEAD"])
    }

    fn git(&self) -> Git<'_> {
        Git::new(&self.work, Credentials::User)
    }

    fn at(&self, rest: &str) -> GitRef {
        parse_git(&format!("git+file://{}{rest}", self.repo().display())).unwrap().unwrap()
    }

    fn resolve(&self, rest: &str) -> Result<String, GitError> {
        Ok(self.git().resolve(&self.at(rest))?.id)
    }

    fn checkout_with(&self, rest: &str, keep_git_dir: bool) -> Result<PathBuf, GitError> {
        let from = self.at(rest);
        let commit = self.git().resolve(&from)?;
        self.git().checkout(&from, &commit, Checkout::of(&from, keep_git_dir))
    }

    fn checkout(&self, rest: &str) -> Result<PathBuf, GitError> {
        self.checkout_with(rest, false)
    }
}

#[test]
fn every_way_to_name_a_commit() {
    let scene = Scene::new();
    scene.write("f", "1");
    let one = scene.commit();
    scene.run(&["tag", "light"]);
    scene.run(&["tag", "--annotate", "--message", "x", "heavy"]);
    let tag_object = scene.run(&["rev-parse", "heavy"]);
    scene.run(&["branch", "both"]);
    scene.run(&["update-ref", "refs/pull/7/head", &one]);
    scene.write("f", "2");
    let two = scene.commit();
    scene.run(&["tag", "both"]);
    scene.run(&["branch", "dir/v1"]);

    for (rest, expected) in [
        ("", &two),
        ("#main", &two),
        ("#light", &one),
        ("#heavy", &one),
        ("#refs/tags/heavy", &one),
        ("?tag=heavy", &one),
        ("?branch=main", &two),
        ("#pull/7/head", &one),
        ("#dir/v1", &two),
        // A branch comes before a tag, unless it is said which.
        ("#both", &one),
        ("?tag=both", &two),
    ] {
        assert_eq!(scene.resolve(rest).unwrap(), *expected, "{rest}");
        let dir = scene.checkout(rest).unwrap();
        let content = if *expected == one { "1" } else { "2" };
        assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), content, "{rest}");
    }
    // A commit that no name leads to directly, in full and abbreviated.
    assert_eq!(scene.resolve(&format!("#{one}")).unwrap(), one);
    let dir = scene.checkout(&format!("#{}", &one[..9])).unwrap();
    assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "1");
    for missing in ["#v1", "#none", "#abcdef0", "?tag=main", "?branch=light"] {
        let error = scene.resolve(missing).unwrap_err();
        assert!(matches!(error, GitError::NoReference { .. }), "{missing}: {error}");
    }
    let unknown = "0123456789012345678901234567890123456789";
    assert!(scene.checkout(&format!("#{unknown}")).is_err());

    // What was announced is compared.
    for (rest, fits) in [
        (format!("?checksum={one}#light"), true),
        (format!("?checksum={}#light", &one[..7]), true),
        (format!("?checksum={tag_object}#heavy"), true),
        (format!("?checksum={}#heavy", &one[..12]), true),
        (format!("?checksum={two}#light"), false),
        (format!("?checksum={}#{two}", &one[..12]), false),
    ] {
        let result = scene.resolve(&rest);
        assert_eq!(matches!(result, Err(GitError::Checksum { .. })), !fits, "{rest}: {result:?}");
        assert_eq!(result.is_ok(), fits, "{rest}");
    }
}

#[test]
fn a_checkout_depends_on_the_commit_only() {
    let scene = Scene::new();
    scene.write("a/plain", "x");
    scene.write("a/program", "x");
    fs::set_permissions(scene.repo().join("a/program"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink("plain", scene.repo().join("a/link")).unwrap();
    scene.commit();
    let dir = scene.checkout("").unwrap();
    let look = |name: &str| {
        let meta = fs::symlink_metadata(dir.join(name)).unwrap();
        (meta.permissions().mode() & 0o7777, meta.mtime(), meta.mtime_nsec())
    };
    assert_eq!(look("."), (0o755, TIME, 0));
    assert_eq!(look("a"), (0o755, TIME, 0));
    assert_eq!(look("a/plain"), (0o644, TIME, 0));
    assert_eq!(look("a/program"), (0o755, TIME, 0));
    assert_eq!(look("a/link").1, TIME);
    assert_eq!(fs::read_link(dir.join("a/link")).unwrap(), Path::new("plain"));
    assert!(!dir.join(".git").exists());
}

#[test]
fn the_git_directory_stays_when_it_is_wanted() {
    let scene = Scene::new();
    scene.commit();
    scene.write("s/f", "x");
    scene.commit();
    scene.run(&["tag", "--annotate", "--message", "x", "v1"]);
    let dir = scene.checkout_with("#v1", true).unwrap();
    let again = scene.checkout_with("#v1", true).unwrap();
    let index = |dir: &Path| fs::read(dir.join(".git/index")).unwrap();
    assert_eq!(index(&dir), index(&again), "nothing of inodes and times");
    assert_eq!(scene.run_in(&dir, &["rev-list", "--count", "HEAD"]), "1", "no history is fetched");
    assert_eq!(scene.run_in(&dir, &["describe", "--always"]), "v1");
    assert_eq!(scene.run_in(&dir, &["status", "--porcelain"]), "");
    assert_eq!(scene.run_in(&dir, &["remote", "get-url", "origin"]), scene.at("").remote);
    assert!(!dir.join(".git/hooks").exists() && !dir.join(".git/logs").exists());
    assert!(!scene.checkout_with("?keep-git-dir=false", true).unwrap().join(".git").exists());
    let part = scene.checkout_with("#v1:s", true).unwrap();
    assert!(part.join("f").exists() && !part.join("../.git").exists());
}

#[test]
fn directories_are_found_and_none_outside() {
    let scene = Scene::new();
    scene.write("a/b/f", "x");
    let outside = scene.dir.path().join("outside");
    fs::create_dir_all(&outside).unwrap();
    for (link, target) in [
        ("absolute", outside.to_str().unwrap()),
        ("up", "../.."),
        ("etc", "/etc"),
        ("inside", "a/b"),
        ("round", "a/../a/b"),
        ("meta", ".git"),
    ] {
        symlink(target, scene.repo().join(link)).unwrap();
    }
    symlink("../../../..", scene.repo().join("a/deep")).unwrap();
    scene.commit();
    for subdir in ["a/b", "inside", "round", "/a/b/"] {
        let dir = scene.checkout(&format!("#:{subdir}")).unwrap();
        assert!(dir.join("f").exists(), "{subdir}");
    }
    for subdir in ["absolute", "up", "etc", "a/deep", "etc/ssl", "none", "a/b/f", "meta"] {
        let error = scene.checkout_with(&format!("?keep-git-dir=false#:{subdir}"), true).unwrap_err();
        assert!(matches!(error, GitError::Subdirectory { .. }), "{subdir}: {error}");
    }
}

#[test]
fn submodules_of_this_machine_are_not_fetched() {
    let scene = Scene::new();
    let secret = scene.dir.path().join("secret");
    fs::create_dir(&secret).unwrap();
    scene.run_in(&secret, &["init", "--quiet"]);
    scene.run_in(&secret, &["commit", "--quiet", "--allow-empty", "--message", "x"]);
    scene.write("f", "x");
    scene.run(&["submodule", "--quiet", "add", "--", secret.to_str().unwrap(), "sub"]);
    scene.commit();
    let error = scene.checkout("").unwrap_err();
    assert!(error.to_string().contains("transport 'file' not allowed"), "{error}");
    assert!(error.hint().unwrap().contains("submodules=false"));
    let dir = scene.checkout("?submodules=false").unwrap();
    assert!(dir.join("f").exists() && fs::read_dir(dir.join("sub")).unwrap().next().is_none());
}

#[test]
fn a_server_that_knows_files_only_and_submodules_of_submodules() {
    let scene = Scene::new();
    for (name, module) in [("inner", None), ("outer", Some("../inner"))] {
        let dir = scene.dir.path().join(name);
        fs::create_dir(&dir).unwrap();
        scene.run_in(&dir, &["init", "--quiet", "--initial-branch=main"]);
        fs::write(dir.join(name), "x").unwrap();
        if let Some(module) = module {
            scene.run_in(&dir, &["remote", "add", "origin", dir.to_str().unwrap()]);
            scene.run_in(&dir, &["submodule", "--quiet", "add", module, "below"]);
        }
        scene.run_in(&dir, &["add", "--all"]);
        scene.run_in(&dir, &["commit", "--quiet", "--message", "x"]);
    }
    scene.run(&["remote", "add", "origin", scene.repo().to_str().unwrap()]);
    scene.run(&["submodule", "--quiet", "add", "../outer", "sub"]);
    let first = scene.commit();
    scene.write("f", "x");
    scene.commit();
    // As a web server has them that knows nothing of Git: no shallow histories, no commits by id.
    let web = scene.dir.path().join("web");
    for name in ["inner", "outer", "r.git"] {
        let bare = web.join(name);
        let from = scene.dir.path().join(name);
        scene.run_in(
            scene.dir.path(),
            &["clone", "--quiet", "--bare", from.to_str().unwrap(), bare.to_str().unwrap()],
        );
        scene.run_in(&bare, &["update-server-info"]);
    }
    let server = Server::start(move |seen| {
        if seen.header("authorization") != Some("Basic dTpzZWNyZXQ=") {
            return reply(401, "").with("WWW-Authenticate", "Basic realm=\"x\"");
        }
        let path = seen.line.trim_start_matches("GET /").split('?').next().unwrap_or_default();
        fs::read(web.join(path)).map_or_else(|_| reply(404, ""), |content| reply(200, content))
    });
    let checkout = |rest: &str, credentials| {
        let from = parse_git(&format!("http://u:secret@{}/r.git{rest}", server.host)).unwrap().unwrap();
        let git = Git::new(&scene.work, credentials);
        git.checkout(&from, &git.resolve(&from)?, Checkout::of(&from, false))
    };
    for credentials in [Credentials::User, Credentials::None] {
        let dir = checkout("", credentials).unwrap();
        assert!(
            dir.join("f").exists() && dir.join("sub/outer").exists() && dir.join("sub/below/inner").exists()
        );
        for git_dir in [".git", "sub/.git", "sub/below/.git"] {
            assert!(!dir.join(git_dir).exists(), "{git_dir}");
        }
    }
    let dir = checkout(&format!("#{first}"), Credentials::None).unwrap();
    assert!(!dir.join("f").exists() && dir.join("sub/below/inner").exists());
    assert!(
        server
            .seen()
            .iter()
            .all(|seen| seen.header("authorization").is_none_or(|v| v == "Basic dTpzZWNyZXQ="))
    );
    let dir = checkout("?submodules=0", Credentials::None).unwrap();
    assert!(!dir.join("sub/outer").exists());
    // What stays knows the way back, and no password, nor do submodules.
    let dir = checkout("?keep-git-dir=1", Credentials::None).unwrap();
    assert!(dir.join("sub/below/.git").exists());
    let module = fs::read_to_string(dir.join(".git/modules/sub/config")).unwrap();
    assert!(module.contains("/outer") && !module.contains("secret"), "{module}");
    let kept = fs::read_to_string(dir.join(".git/config")).unwrap();
    assert!(kept.contains(&format!("http://{}/r.git", server.host)) && !kept.contains("secret"), "{kept}");
    let gone = parse_git(&format!("http://u:secret@{}/none.git", server.host)).unwrap().unwrap();
    let error = Git::new(&scene.work, Credentials::User).resolve(&gone).unwrap_err().to_string();
    assert!(error.contains("none.git") && !error.contains("secret"), "{error}");
}

#[test]
fn nothing_of_the_repository_or_the_surroundings_is_run() {
    let scene = Scene::new();
    let proof = scene.dir.path().join("proof");
    // A filter, and a hook beside the work directory's parents, as far as a repository can bring them.
    scene.write(".gitattributes", "* filter=x\n");
    scene.write("f", "x");
    scene.commit();
    scene.run(&["config", "filter.x.smudge", &format!("touch {}", proof.display())]);
    let hook = scene.repo().join(".git/hooks/post-checkout");
    fs::create_dir_all(hook.parent().unwrap()).unwrap();
    fs::write(&hook, format!("#!/bin/sh\ntouch {}\n", proof.display())).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    scene.checkout_with("", true).unwrap();
    assert!(!proof.exists());
}

#[test]
fn the_environment_is_ours() {
    let dir = tempfile::tempdir().unwrap();
    let names = |credentials| -> Vec<String> {
        environment(credentials, dir.path()).into_iter().map(|(n, _)| n.into_string().unwrap()).collect()
    };
    let allowed = [KEPT, KEPT_FOR_USER].concat();
    for name in names(Credentials::User).iter().filter(|n| !n.starts_with("GIT_") && *n != "LC_ALL") {
        assert!(allowed.contains(&name.as_str()), "{name}");
    }
    let nobody = environment(Credentials::None, dir.path());
    assert!(nobody.contains(&("HOME".into(), "/nonexistent".into())));
    assert!(!nobody.iter().any(|(n, _)| n == "SSH_AUTH_SOCK" || n == "GIT_SSH_COMMAND"));
}

#[test]
fn what_cannot_be_had_is_said() {
    let scene = Scene::new();
    assert!(matches!(scene.resolve("").unwrap_err(), GitError::Empty { .. }));
    let gone = parse_git("git+file:///no/such/repository").unwrap().unwrap();
    let error = scene.git().resolve(&gone).unwrap_err();
    assert!(error.to_string().starts_with("git cannot read file:///no/such/repository: "), "{error}");

    let ssh = parse_git("git@localhost:r").unwrap().unwrap();
    let error = Git::new(&scene.work, Credentials::None).resolve(&ssh).unwrap_err();
    assert!(matches!(error, GitError::Ssh { .. }) && error.hint().unwrap().contains("--build-context"));

    let missing = Git { program: "/no/such/git".into(), ..scene.git() };
    let error = missing.resolve(&scene.at("")).unwrap_err();
    assert!(error.is_environment() && error.hint().unwrap().contains("install git"), "{error}");
}
