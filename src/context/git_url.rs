//! Addresses of Git repositories, as contexts and as sources of ADD. Reads text only.
//!
//! | written | is |
//! |---|---|
//! | `https://host/path.git`, `http://…` | a repository if the path ends in `.git`, else a file |
//! | `git://host/path`, `ssh://user@host/path`, `user@host:path` | a repository |
//! | `github.com/owner/name` | a repository, for contexts only, unless there is a directory of that name |
//! | `file:///path.git`, `git+file:///path` | a repository of this machine, for contexts only |
//!
//! After `#` come a branch, tag or commit, and after a colon the directory in it. The same can be said
//! in a query, with more: `ref`, `branch`, `tag`, `commit` (also `checksum`), `subdir`, `keep-git-dir`,
//! `submodules`. All of this is as BuildKit has it, but for the repositories of this machine.

use std::fmt;

/// How a repository is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// `https://`
    Https,
    /// `http://`: nobody vouches for what comes.
    Http,
    /// `git://`: nobody vouches for what comes.
    Git,
    /// `ssh://` and `user@host:path`.
    Ssh,
    /// A directory of this machine.
    File,
}

/// A repository, and what of it is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GitRef {
    /// What `git` is told: the address without query and fragment. May hold a password; see the
    /// `Display` of this type for one that can be shown.
    pub remote: String,
    /// The last part of the path, without `.git`.
    pub short_name: String,
    /// Branch, tag or commit; the default branch where there is none.
    pub reference: Option<String>,
    /// What the commit's id must begin with: 7 to 64 lower-case hexadecimal digits.
    pub checksum: Option<String>,
    /// The directory in it, relative, with plain components only.
    pub subdir: Option<String>,
    /// Whether `.git` stays, where the address says it.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are fetched, where the address says it.
    pub submodules: Option<bool>,
    /// How the repository is reached.
    pub transport: Transport,
}

/// A text that names a repository, wrongly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a usable Git address: {reason}")]
pub struct GitUrlError {
    text: String,
    reason: String,
    hint: Option<&'static str>,
}

impl GitUrlError {
    /// What would help.
    pub fn hint(&self) -> Option<&'static str> {
        self.hint
    }
}

impl fmt::Display for GitRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted(&self.remote))?;
        if self.reference.is_some() || self.subdir.is_some() {
            write!(f, "#{}", self.reference.as_deref().unwrap_or_default())?;
        }
        match &self.subdir {
            Some(subdir) => write!(f, ":{subdir}"),
            None => Ok(()),
        }
    }
}

/// An address without its password, for messages.
pub(super) fn redacted(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.rsplit_once('@').and_then(|(user, _)| user.split_once(':')) {
        Some((user, password)) => {
            format!("{scheme}://{user}:…{}", &rest[user.len() + 1 + password.len()..])
        }
        None => address.to_owned(),
    }
}

/// Reads a context's address. `None` when it names no repository at all; whether there is a directory of
/// that name is for the caller to ask first.
///
/// # Errors
/// When it names one, with something wrong in it.
pub fn parse_git(text: &str) -> Option<Result<GitRef, GitUrlError>> {
    if let Some(path) = text.strip_prefix("github.com/") {
        let remote = format!("https://github.com/{path}");
        return Some(Parser { text }.finish(&remote, Transport::Https));
    }
    parse(text)
}

/// Reads a source of ADD: what [`parse_git`] reads, without the forms that a path in the context may have.
///
/// # Errors
/// When it names a repository with something wrong in the address, or one of this machine: a
/// Containerfile has no business there.
pub fn parse_git_add(text: &str) -> Option<Result<GitRef, GitUrlError>> {
    let parsed = parse(text)?;
    Some(parsed.and_then(|git| {
        match git.transport {
            Transport::File => Err(Parser { text }
                .error("ADD takes nothing from this machine but from contexts")
                .with_hint("hand it in with --build-context NAME=ADDRESS, and use COPY --from=NAME")),
            _ => Ok(git),
        }
    }))
}

/// Checks what a commit's id shall begin with, as in `--checksum`.
///
/// # Errors
/// When it is not 7 to 64 hexadecimal digits.
pub fn check_commit(text: &str) -> Result<(), GitUrlError> {
    let fits = (7..=64).contains(&text.len());
    if fits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(());
    }
    Err(GitUrlError {
        text: text.to_owned(),
        reason: "a commit is named by 7 to 64 lower-case hexadecimal digits".to_owned(),
        hint: Some("`git rev-parse HEAD` prints that of the current commit"),
    })
}

fn parse(text: &str) -> Option<Result<GitRef, GitUrlError>> {
    let parser = Parser { text };
    if let Some((scheme, rest)) = text.split_once("://") {
        let scheme = scheme.to_ascii_lowercase();
        let path = rest.split(['?', '#']).next().unwrap_or_default();
        let transport = match scheme.as_str() {
            // The server's own name may end so as well: only a path makes a repository.
            "https" if names_repository(path) => Transport::Https,
            "http" if names_repository(path) => Transport::Http,
            "git" => Transport::Git,
            "ssh" => Transport::Ssh,
            "file" if names_repository(path) => Transport::File,
            "git+file" => Transport::File,
            _ => return None,
        };
        let scheme = if transport == Transport::File { "file" } else { &scheme };
        return Some(parser.finish(&format!("{scheme}://{rest}"), transport));
    }
    scp_style(text).then(|| parser.finish(text, Transport::Ssh))
}

/// Whether the path of `host/path` ends in `.git`.
fn names_repository(address: &str) -> bool {
    let path = address.find('/').map(|slash| &address[slash..]).and_then(|path| decode(path, false));
    path.is_some_and(|path| path.ends_with(".git"))
}

/// Whether a text has the form `user@host:path`.
fn scp_style(text: &str) -> bool {
    let Some((user, rest)) = text.split_once('@') else { return false };
    let Some((host, _)) = rest.split_once(':') else { return false };
    let plain = |part: &str, more: &[u8]| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || more.contains(&b))
    };
    plain(user, b"_") && plain(host, b".")
}

struct Parser<'a> {
    text: &'a str,
}

impl GitUrlError {
    fn with_hint(mut self, hint: &'static str) -> GitUrlError {
        self.hint = Some(hint);
        self
    }
}

impl Parser<'_> {
    fn error(&self, reason: impl Into<String>) -> GitUrlError {
        GitUrlError { text: redacted(self.text), reason: reason.into(), hint: None }
    }

    fn finish(&self, address: &str, transport: Transport) -> Result<GitRef, GitUrlError> {
        if address.bytes().any(|b| b.is_ascii_control() || b == b' ') {
            return Err(self.error("it has blanks or control characters"));
        }
        let (address, fragment) = address.split_once('#').unwrap_or((address, ""));
        let (remote, query) = address.split_once('?').unwrap_or((address, ""));
        self.check_host(remote, transport)?;
        let bad_escape = || self.error("a `%` in it is not followed by two hexadecimal digits");
        let fragment = decode(fragment, false).ok_or_else(bad_escape)?;
        let (reference, subdir) = fragment.split_once(':').unwrap_or((&fragment, ""));
        let mut git = GitRef {
            remote: remote.to_owned(),
            short_name: short_name(remote).to_owned(),
            reference: Some(reference.to_owned()).filter(|r| !r.is_empty()),
            checksum: None,
            subdir: Some(subdir.to_owned()).filter(|s| !s.is_empty()),
            keep_git_dir: None,
            submodules: None,
            transport,
        };
        self.query(&mut git, query)?;
        if let Some(reference) = &git.reference {
            self.check_reference(reference)?;
        }
        git.subdir = match git.subdir {
            Some(subdir) => self.clean(&subdir)?,
            None => None,
        };
        Ok(git)
    }

    fn check_host(&self, remote: &str, transport: Transport) -> Result<(), GitUrlError> {
        let Some((_, rest)) = remote.split_once("://") else {
            // `user@host:path`, of which all is checked but the path.
            return match remote.split_once(':') {
                Some((_, path)) if !path.is_empty() => self.check_dash(remote),
                _ => Err(self.error("it has no path")),
            };
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if transport == Transport::File {
            return match (authority, path.len()) {
                ("" | "localhost", 2..) => Ok(()),
                _ => {
                    Err(self
                        .error("the path of a repository on this machine is absolute, after three slashes"))
                }
            };
        }
        if path.len() < 2 {
            return Err(self.error("it has no path"));
        }
        let host = authority.rsplit('@').next().unwrap_or_default();
        if host.is_empty() || host.starts_with(':') {
            return Err(self.error("it has no host"));
        }
        authority.split('@').try_for_each(|part| self.check_dash(part))
    }

    /// Programs that git starts would take such a name for an option.
    fn check_dash(&self, name: &str) -> Result<(), GitUrlError> {
        let host = name.split_once('@').map_or(name, |(_, host)| host);
        if name.starts_with('-') || host.starts_with('-') {
            return Err(self.error("a user or host begins with `-`"));
        }
        Ok(())
    }

    fn query(&self, git: &mut GitRef, query: &str) -> Result<(), GitUrlError> {
        let (mut tag, mut branch) = (None, None);
        let mut seen = Vec::new();
        for field in query.split('&').filter(|field| !field.is_empty()) {
            let (key, value) = field.split_once('=').unwrap_or((field, ""));
            let bad_escape = || self.error("a `%` in it is not followed by two hexadecimal digits");
            let key = decode(key, true).ok_or_else(bad_escape)?;
            let value = decode(value, true).ok_or_else(bad_escape)?;
            if seen.contains(&key) {
                return Err(self.error(format!("`{key}` is given twice")));
            }
            let agree = |slot: &mut Option<String>, value: String| match slot {
                Some(old) if *old != value => {
                    Err(self.error(format!("it says both `{old}` and `{value}` for `{key}`")))
                }
                _ => {
                    *slot = Some(value);
                    Ok(())
                }
            };
            match key.as_str() {
                "keep-git-dir" => git.keep_git_dir = Some(self.truth(&key, &value)?),
                "submodules" => git.submodules = Some(self.truth(&key, &value)?),
                "ref" | "tag" | "branch" | "subdir" | "checksum" | "commit" if value.is_empty() => {
                    return Err(self.error(format!("`{key}` has no value")));
                }
                "ref" => agree(&mut git.reference, value)?,
                "subdir" => agree(&mut git.subdir, value)?,
                "tag" => tag = Some(with_prefix("refs/tags/", value)),
                "branch" => branch = Some(with_prefix("refs/heads/", value)),
                "checksum" | "commit" => {
                    check_commit(&value).map_err(|e| self.error(format!("`{key}`: {}", e.reason)))?;
                    agree(&mut git.checksum, value)?;
                }
                _ => {
                    return Err(self.error(format!("`{key}` in its query is not known")).with_hint(
                        "a query may have ref, branch, tag, commit, checksum, subdir, keep-git-dir and submodules",
                    ));
                }
            }
            seen.push(key);
        }
        if tag.is_some() && branch.is_some() {
            return Err(self.error("it says both a tag and a branch"));
        }
        if let Some(full) = tag.or(branch) {
            match &git.reference {
                Some(other) if *other != full => {
                    return Err(self.error(format!("it says both `{other}` and `{full}`")));
                }
                _ => git.reference = Some(full),
            }
        }
        if git.reference.is_none() {
            git.reference.clone_from(&git.checksum);
        }
        Ok(())
    }

    fn truth(&self, key: &str, value: &str) -> Result<bool, GitUrlError> {
        match value {
            "" | "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
            "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
            _ => Err(self.error(format!("`{key}` is `{value}`, expected true or false"))),
        }
    }

    /// By the rules of `git check-ref-format`, as far as something else than a name could come of it.
    fn check_reference(&self, name: &str) -> Result<(), GitUrlError> {
        let bad = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
        if name.starts_with(['-', '+', '/'])
            || name.contains("..")
            || name.contains("@{")
            || name.contains(bad)
        {
            return Err(self.error(format!("`{name}` cannot be a branch, tag or commit")));
        }
        Ok(())
    }

    /// Takes out what `.` and `..` mean; `None` for the repository's root.
    fn clean(&self, subdir: &str) -> Result<Option<String>, GitUrlError> {
        let mut parts = Vec::new();
        for part in subdir.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    if parts.pop().is_none() {
                        return Err(self.error(format!("the directory `{subdir}` is outside the repository")));
                    }
                }
                part if part.contains('\0') => return Err(self.error("its directory has a NUL")),
                part => parts.push(part),
            }
        }
        if parts.iter().any(|part| part.eq_ignore_ascii_case(".git")) {
            return Err(self.error("the directory is inside `.git`"));
        }
        Ok(Some(parts.join("/")).filter(|clean| !clean.is_empty()))
    }
}

fn with_prefix(prefix: &str, name: String) -> String {
    if name.starts_with(prefix) { name } else { format!("{prefix}{name}") }
}

fn short_name(remote: &str) -> &str {
    let last = remote.rsplit('/').next().unwrap_or(remote);
    last.strip_suffix(".git").unwrap_or(last)
}

/// Undoes percent-encoding, and in a query also `+` for a blank; `None` for a broken escape, or when no
/// UTF-8 comes of it.
pub(super) fn decode(text: &str, query: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                let digits = std::str::from_utf8(&digits).ok().filter(|d| !d.starts_with('+'))?;
                out.push(u8::from_str_radix(digits, 16).ok()?);
            }
            b'+' if query => out.push(b' '),
            other => out.push(other),
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests;
