//! Fetches Git repositories, with the `git` program.
//!
//! [`Git::resolve`] asks which commit is meant, which is all that a cached step needs to know;
//! [`Git::checkout`] brings its files below the command's work directory, to be removed with it.
//!
//! **What the program is told.** It gets an environment of its own: no variable but those named in
//! [`KEPT`], no system or user configuration, no hooks, templates, filters and credential helpers, no
//! prompts, and only the transport that the address says. Names are never in a place where they could be
//! options. What a user names on the command line is fetched with what that user has: `~/.netrc`, an SSH
//! agent, the keys and known hosts of `~/.ssh`. What a Containerfile names is fetched with nothing of the
//! user's, and not by SSH ([`Credentials`]).
//!
//! **What comes out** depends on the commit only: files are 0644 or 0755 and directories 0755, all with the
//! commit's own time, where `git` would leave the umask's modes and the time of day.
//!
//! A repository may hold any links. The directory that an address names is found without leaving the
//! repository, and what is below it is untrusted like every context.

mod error;
mod settle;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cooper_runtime::sys::fs::Time;
use cooper_runtime::sys::process::end_with_us;

use super::git_url::{GitRef, Transport, redacted};
use crate::store::WorkDir;
pub use error::GitError;
use settle::settle;

/// Variables of cooper's environment that `git` sees: where programs are, and how the network is reached.
pub const KEPT: &[&str] = &[
    "PATH",
    "TMPDIR",
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];
/// Those that it sees as well when the user has named the repository.
const KEPT_FOR_USER: &[&str] =
    &["HOME", "USER", "LOGNAME", "SSH_AUTH_SOCK", "XDG_RUNTIME_DIR", "GIT_SSH", "GIT_SSH_COMMAND"];

/// Read as the user's own configuration, in place of it. A file and not `-c`, as that would not reach
/// the program that serves a repository of this machine.
const CONFIGURATION: &str = "\
[core]
	hooksPath = /dev/null
	attributesFile = /dev/null
	excludesFile = /dev/null
	fsmonitor = false
	autocrlf = false
	logAllRefUpdates = false
[init]
	defaultBranch = master
	templateDir =
[credential]
	helper =
[fetch]
	recurseSubmodules = false
	writeCommitGraph = false
[submodule]
	recurse = false
[gc]
	auto = 0
[maintenance]
	auto = false
[protocol]
	version = 2
[http]
	lowSpeedLimit = 1
	lowSpeedTime = 60
";

/// Whose rights a repository is fetched with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credentials {
    /// The user's own: it was named on the command line.
    User,
    /// Nobody's: it was named by a Containerfile, which others may have written.
    None,
}

/// A commit, as a repository has named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its full id: 40 hexadecimal digits, or 64 where the repository uses SHA-256.
    pub id: String,
    /// The branch or tag that led to it, in full: `refs/heads/main`.
    pub name: Option<String>,
}

/// What a checkout consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkout {
    /// Whether `.git` stays. Only for a whole repository: with a directory of one it goes.
    pub keep_git_dir: bool,
    /// Whether submodules are fetched, and theirs.
    pub submodules: bool,
}

impl Checkout {
    /// What an address says; `keep_git_dir` is for where it says nothing of `.git`.
    pub fn of(from: &GitRef, keep_git_dir: bool) -> Checkout {
        Checkout {
            keep_git_dir: from.keep_git_dir.unwrap_or(keep_git_dir) && from.subdir.is_none(),
            submodules: from.submodules.unwrap_or(true),
        }
    }
}

/// Runs `git` for one command of cooper.
#[derive(Debug)]
pub struct Git<'a> {
    work: &'a WorkDir,
    credentials: Credentials,
    program: OsString,
}

impl<'a> Git<'a> {
    /// Fetches below `work`.
    pub fn new(work: &'a WorkDir, credentials: Credentials) -> Git<'a> {
        Git { work, credentials, program: OsString::from("git") }
    }

    /// Asks which commit is meant. No files are fetched; for a full id nobody is asked at all.
    ///
    /// # Errors
    /// When the repository cannot be reached, does not have it, or has another than `checksum` says.
    pub fn resolve(&self, from: &GitRef) -> Result<Commit, GitError> {
        let job = Job::new(self, from)?;
        let (commit, tag) = job.resolve()?;
        match &from.checksum {
            // An annotated tag is an object of its own, and may be what somebody wrote down.
            Some(expected)
                if ![Some(&commit.id), tag.as_ref()].iter().flatten().any(|id| id.starts_with(expected)) =>
            {
                Err(GitError::Checksum {
                    repository: redacted(&from.remote),
                    expected: expected.clone(),
                    found: commit.id,
                })
            }
            _ => Ok(commit),
        }
    }

    /// Fetches a commit's files, and gives the directory that the address means.
    ///
    /// # Errors
    /// When the commit or a submodule cannot be fetched, or the directory is not there or leads out of the
    /// repository.
    pub fn checkout(&self, from: &GitRef, commit: &Commit, options: Checkout) -> Result<PathBuf, GitError> {
        let job = Job::new(self, from)?;
        let dir = self.work.fresh("git-");
        fs::create_dir(&dir).map_err(GitError::io("cannot create", &dir))?;
        job.fetch(&dir, commit, options.keep_git_dir)?;
        job.git(&dir, "check out", &["checkout", "--quiet", "--force", "--detach", &commit.id])?;
        let submodules =
            options.submodules && fs::symlink_metadata(dir.join(".gitmodules")).is_ok_and(|m| m.is_file());
        if submodules {
            job.submodules(&dir)?;
        }
        let time = job.git(&dir, "read the commit of", &["log", "-1", "--format=%ct", &commit.id, "--"])?;
        let time = Time { sec: time.trim().parse().unwrap_or(0), nsec: 0 };
        if options.keep_git_dir {
            job.clean_git_dir(&dir, submodules)?;
        }
        settle(&dir, options.keep_git_dir, time).map_err(GitError::io("cannot prepare", &dir))?;
        job.subdirectory(&dir)
    }
}

/// One repository, being asked.
struct Job<'a> {
    from: &'a GitRef,
    /// The address without user and password, which would otherwise be seen in lists of processes, and
    /// stay in a `.git` that is kept.
    remote: String,
    /// User and password, for the host of the address.
    user: Option<String>,
    /// As messages call it.
    repository: String,
    program: &'a OsStr,
    by_user: bool,
    work: &'a Path,
    environment: Vec<(OsString, OsString)>,
}

impl<'a> Job<'a> {
    fn new(git: &'a Git<'_>, from: &'a GitRef) -> Result<Job<'a>, GitError> {
        let repository = redacted(&from.remote);
        if git.credentials == Credentials::None && from.transport == Transport::Ssh {
            return Err(GitError::Ssh { repository });
        }
        let work = git.work.path();
        let (remote, user) = without_user(&from.remote);
        let mut job = Job {
            from,
            remote,
            user,
            repository,
            program: &git.program,
            by_user: git.credentials == Credentials::User,
            work,
            environment: environment(git.credentials, work),
        };
        // One for each: several repositories may be fetched at once.
        let configuration = git.work.fresh("gitconfig-");
        let mut text = CONFIGURATION.to_owned();
        if let (Some(user), Some((scheme, rest))) = (&job.user, job.remote.split_once("://")) {
            let host = rest.split('/').next().unwrap_or_default();
            let (with, without) = (format!("{scheme}://{user}@{host}/"), format!("{scheme}://{host}/"));
            text += &format!("[url {}]\n\tinsteadOf = {}\n", quoted(&with), quoted(&without));
        }
        if from.transport == Transport::File && git.credentials == Credentials::User {
            text += &job.trusted_directories();
        }
        let file = File::options().write(true).create_new(true).mode(0o600).open(&configuration);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(GitError::io("cannot write", &configuration))?;
        job.environment.push(("GIT_CONFIG_GLOBAL".into(), configuration.into()));
        Ok(job)
    }

    /// The user's own word on whose repositories may be read, which is for this machine's ones only.
    fn trusted_directories(&self) -> String {
        let mut text = String::new();
        for scope in ["--global", "--system"] {
            let output = Command::new(self.program)
                .args(["config", scope, "--includes", "--null", "--get-all", "safe.directory"])
                .current_dir(self.work)
                .stdin(Stdio::null())
                .output();
            for dir in output.iter().flat_map(|output| output.stdout.split(|b| *b == 0)) {
                let dir = String::from_utf8_lossy(dir);
                if !dir.is_empty() && !dir.contains(['\n', '\r']) {
                    text += &format!("[safe]\n\tdirectory = {}\n", quoted(&dir));
                }
            }
        }
        text
    }

    fn resolve(&self) -> Result<(Commit, Option<String>), GitError> {
        let Some(reference) = &self.from.reference else {
            let listing = self.ask(&["HEAD"])?;
            let head = listing.iter().find(|(_, name)| name == "HEAD");
            let (id, _) = head.ok_or_else(|| GitError::Empty { repository: self.repository.clone() })?;
            return Ok((Commit { id: id.clone(), name: None }, None));
        };
        if is_full_id(reference) {
            return Ok((Commit { id: reference.clone(), name: None }, None));
        }
        // In the order of `git checkout`, for names that several kinds have.
        let full = |prefix: &str| format!("{prefix}{}", reference.strip_prefix(prefix).unwrap_or(reference));
        let names = [full("refs/"), full("refs/heads/"), full("refs/tags/")];
        let peeled = names.each_ref().map(|name| format!("{name}^{{}}"));
        let patterns: Vec<&str> = names.iter().chain(&peeled).map(String::as_str).collect();
        let listing = self.ask(&patterns)?;
        let find = |wanted: &str| listing.iter().find(|(_, name)| name == wanted).map(|(id, _)| id.clone());
        for (name, peeled) in names.iter().zip(&peeled) {
            let Some(object) = find(name) else { continue };
            let commit = |id| Commit { id, name: Some(name.clone()) };
            return Ok(match find(peeled) {
                Some(id) => (commit(id), Some(object)),
                None => (commit(object), None),
            });
        }
        let short = (7..40).contains(&reference.len());
        if short && reference.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok((Commit { id: self.expand(reference)?, name: None }, None));
        }
        Err(self.no_reference())
    }

    fn no_reference(&self) -> GitError {
        let reference = self.from.reference.clone().unwrap_or_default();
        GitError::NoReference { repository: self.repository.clone(), reference }
    }

    /// Id and name of what the repository has under these names.
    fn ask(&self, patterns: &[&str]) -> Result<Vec<(String, String)>, GitError> {
        let arguments = [&["ls-remote", "--quiet", "--", &self.remote], patterns].concat();
        let listing = self.git(self.work, "read", &arguments)?;
        let lines = listing.lines().filter_map(|line| line.split_once('\t'));
        Ok(lines.filter(|(id, _)| is_full_id(id)).map(|(i, n)| (i.to_owned(), n.to_owned())).collect())
    }

    /// The commit whose id begins so. Nobody but the repository's whole history knows; its files stay
    /// where they are.
    fn expand(&self, short: &str) -> Result<String, GitError> {
        let dir = tempfile::tempdir_in(self.work).map_err(GitError::io("cannot write in", self.work))?;
        let dir = dir.path();
        self.git(dir, "look through", &["init", "--quiet"])?;
        let fetch =
            ["fetch", "--quiet", "--no-tags", "--filter=tree:0", "--", &self.remote, "+refs/*:refs/all/*"];
        self.git(dir, "look through", &fetch)?;
        let commit = format!("{short}^{{commit}}");
        match self.git(
            dir,
            "look through",
            &["rev-parse", "--verify", "--quiet", "--end-of-options", &commit],
        ) {
            Ok(id) => Ok(id.trim().to_owned()),
            Err(GitError::Failed { .. }) => Err(self.no_reference()),
            Err(e) => Err(e),
        }
    }

    /// Brings a commit, and no history where that can be, into a new repository at `dir`.
    fn fetch(&self, dir: &Path, commit: &Commit, keep: bool) -> Result<(), GitError> {
        let format = if commit.id.len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
        self.git(dir, "make room for", &["init", "--quiet", format])?;
        // Submodules whose address is relative need to know relative to what.
        self.git(dir, "make room for", &["remote", "add", "--", "origin", &self.remote])?;
        let has_it = || {
            let commit = format!("{}^{{commit}}", commit.id);
            self.git(dir, "find the commit in", &["cat-file", "-e", &commit]).is_ok()
        };
        let shallow = ["fetch", "--quiet", "--no-tags", "--depth=1", "--update-head-ok", "--", &self.remote];
        // What stays should know its own name, as a program that asks `git describe` will want to.
        let by_name = commit.name.as_ref().map(|name| format!("+{name}:{name}"));
        let first = by_name.as_deref().filter(|_| keep).unwrap_or(&commit.id);
        for refspec in [Some(first), by_name.as_deref()].into_iter().flatten() {
            if self.git(dir, "fetch", &[&shallow[..], &[refspec]].concat()).is_ok() && has_it() {
                return Ok(());
            }
        }
        // A server may refuse to be asked for an id, or know nothing of shallow histories.
        let all = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
        let unshallow: &[&str] = if dir.join(".git/shallow").exists() { &["--unshallow"] } else { &[] };
        let deep = [&["fetch", "--quiet"], unshallow, &["--", &self.remote], &all].concat();
        self.git(dir, "fetch", &deep)?;
        if has_it() { Ok(()) } else { Err(self.no_reference()) }
    }

    fn submodules(&self, dir: &Path) -> Result<(), GitError> {
        let what = "fetch the submodules of";
        let update = ["submodule", "--quiet", "update", "--init", "--recursive"];
        // A server that does not give single commits gives the whole history.
        match self.git(dir, what, &[&update[..], &["--depth=1"]].concat()) {
            Ok(_) => Ok(()),
            Err(_) => self.git(dir, what, &update).map(drop),
        }
    }

    /// What stays is as it would be after a clone.
    fn clean_git_dir(&self, dir: &Path, submodules: bool) -> Result<(), GitError> {
        match fs::remove_file(dir.join(".git/FETCH_HEAD")) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(GitError::io("cannot remove", dir)(e));
            }
            _ => {}
        }
        // The index remembers inode numbers and times of the files that were checked out. One that is read
        // from the commit does not, and Git looks at the files when it is next asked.
        self.git(dir, "prepare the index of", &["read-tree", "HEAD"])?;
        if submodules {
            let each = ["submodule", "--quiet", "foreach", "--recursive", "git read-tree HEAD"];
            self.git(dir, "prepare the index of", &each)?;
        }
        Ok(())
    }

    fn subdirectory(&self, dir: &Path) -> Result<PathBuf, GitError> {
        let Some(subdir) = &self.from.subdir else { return Ok(dir.to_owned()) };
        let wrong = |reason| GitError::Subdirectory {
            repository: self.repository.clone(),
            subdir: subdir.clone(),
            reason,
        };
        // Nobody else writes here, so what the path means now it will mean later.
        let root = dir.canonicalize().map_err(GitError::io("cannot open", dir))?;
        let found = root.join(subdir).canonicalize().map_err(|_| wrong("it is not there"))?;
        if !found.starts_with(&root) {
            return Err(wrong("a symbolic link leads out of the repository"));
        }
        if found.strip_prefix(&root).is_ok_and(|inside| inside.starts_with(".git")) {
            return Err(wrong("a symbolic link leads into `.git`"));
        }
        if !found.is_dir() {
            return Err(wrong("it is not a directory"));
        }
        Ok(found)
    }

    /// Runs `git` and gives what it printed. `what` is a verb, for messages.
    fn git(&self, dir: &Path, what: &'static str, arguments: &[&str]) -> Result<String, GitError> {
        // Submodules come from wherever the repository says, but for this machine's own files.
        let protocols = match (self.from.transport, arguments[0]) {
            (_, "submodule") if self.by_user => "https:http:git:ssh",
            (_, "submodule") => "https:http:git",
            (Transport::Https, _) => "https",
            (Transport::Http, _) => "http:https",
            (Transport::Git, _) => "git",
            (Transport::Ssh, _) => "ssh",
            (Transport::File, _) => "file",
        };
        let mut command = Command::new(self.program);
        command
            .args(arguments)
            .current_dir(dir)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("GIT_ALLOW_PROTOCOL", protocols)
            .stdin(Stdio::null());
        // A server that never answers would keep it for ever.
        end_with_us(&mut command);
        match command.output() {
            Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr);
                let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
                let last = lines[lines.len().saturating_sub(6)..].join("\n");
                let reason = if last.is_empty() { output.status.to_string() } else { last };
                let reason = match &self.user {
                    Some(user) => reason.replace(&format!("{user}@"), ""),
                    None => reason,
                };
                Err(GitError::Failed { what, repository: self.repository.clone(), reason })
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(GitError::Missing { repository: self.repository.clone() })
            }
            Err(source) => {
                Err(GitError::Io { what: "cannot start", path: PathBuf::from(self.program), source })
            }
        }
    }
}

fn environment(credentials: Credentials, work: &Path) -> Vec<(OsString, OsString)> {
    let mut environment: Vec<(OsString, OsString)> = Vec::new();
    let mut set = |name: &str, value: &OsStr| environment.push((name.into(), value.to_owned()));
    let more: &[&str] = if credentials == Credentials::User { KEPT_FOR_USER } else { &[] };
    for name in KEPT.iter().chain(more) {
        if let Some(value) = std::env::var_os(name) {
            set(name, &value);
        }
    }
    // git knows these under names of its own.
    for (name, theirs) in [("SSL_CERT_FILE", "GIT_SSL_CAINFO"), ("SSL_CERT_DIR", "GIT_SSL_CAPATH")] {
        if let Some(value) = std::env::var_os(name) {
            set(theirs, &value);
        }
    }
    if credentials == Credentials::None {
        set("HOME", OsStr::new("/nonexistent"));
    } else if std::env::var_os("GIT_SSH_COMMAND").is_none() && std::env::var_os("GIT_SSH").is_none() {
        // Nobody is asked anything: a build does not stand still for a password.
        set("GIT_SSH_COMMAND", OsStr::new("ssh -o BatchMode=yes"));
    }
    for (name, value) in [
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_ATTR_NOSYSTEM", "1"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_OPTIONAL_LOCKS", "0"),
        ("LC_ALL", "C"),
    ] {
        set(name, OsStr::new(value));
    }
    // The store may lie inside some repository, which is none of ours.
    set("GIT_CEILING_DIRECTORIES", work.parent().unwrap_or(work).as_os_str());
    environment
}

/// An address without user and password, and these, where a web server is to know them. By SSH the user
/// is part of where the repository is.
fn without_user(address: &str) -> (String, Option<String>) {
    if let Some((scheme @ ("http" | "https"), rest)) = address.split_once("://") {
        let end = rest.find('/').unwrap_or(rest.len());
        if let Some((user, host)) = rest[..end].rsplit_once('@') {
            return (format!("{scheme}://{host}{}", &rest[end..]), Some(user.to_owned()));
        }
    }
    (address.to_owned(), None)
}

/// A string as Git's configuration has it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn is_full_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests;
