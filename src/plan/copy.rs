//! `COPY` and `ADD` as they will be carried out.

use super::origin::{ContextName, Origin};
use super::variables::Variables;
use super::{PlanError, fail};
use crate::dockerfile::ParseError;
use crate::dockerfile::ast::{Copy, Flag, Heredoc, Source, Span, Word};

/// One `COPY` or `ADD`, all variables expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyStep<I> {
    /// Where the paths among the sources are.
    pub from: Origin<I>,
    /// What is copied, in the order in which it is written.
    pub sources: Vec<CopySource>,
    /// Absolute; a slash at the end says that it is a directory.
    pub dest: String,
    /// `--chown`: names or numbers, to be found in the image.
    pub chown: Option<String>,
    /// `--chmod`, as written.
    pub chmod: Option<String>,
    /// `--parents`: sources keep the directories that they are written with.
    pub parents: bool,
    /// `--exclude`, patterns as in `.dockerignore`.
    pub excludes: Vec<String>,
    /// `--link`: the layer depends on nothing below it.
    pub link: bool,
    /// `ADD`, and what it does beyond copying; `None` for `COPY`.
    pub add: Option<Add>,
}

/// What an `ADD` does beyond copying.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Add {
    /// `--unpack`: whether archives are extracted. By default those that are local are, and those from
    /// elsewhere are not.
    pub unpack: Option<bool>,
    /// `--checksum`, which the one remote source must have.
    pub checksum: Option<(String, Span)>,
    /// `--keep-git-dir`
    pub keep_git_dir: bool,
}

/// One thing to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    /// A path or wildcard.
    Path(String),
    /// A file that stands in the Containerfile.
    Inline {
        /// Its name.
        name: String,
        /// What is in it.
        content: String,
    },
    /// A file to download, by its URL.
    Http(String),
    /// A Git repository.
    Git(String),
}

/// The flags and words of a `COPY` or `ADD`, before it is known where `--from` leads.
pub(super) struct Words {
    pub(super) from: Option<(String, Span)>,
    pub(super) step: CopyStep<std::convert::Infallible>,
}

pub(super) fn words(
    copy: &Copy,
    add: bool,
    variables: &Variables,
    escape: char,
    cwd: &str,
) -> Result<Words, PlanError> {
    let keyword = if add { "ADD" } else { "COPY" };
    let mut from = None;
    let mut step = CopyStep {
        from: Origin::Context(ContextName::Main),
        sources: Vec::new(),
        dest: String::new(),
        chown: None,
        chmod: None,
        parents: false,
        excludes: Vec::new(),
        link: false,
        add: add.then(Add::default),
    };
    let mut git_dir_flag = None;
    for flag in &copy.flags {
        let value = || -> Result<String, PlanError> {
            let Some(word) = &flag.value else {
                return Err(fail(flag.name.span, format!("--{} needs a value", flag.name.node), ""));
            };
            Ok(variables.expand(escape, word)?)
        };
        let adding = step.add.as_mut();
        match (flag.name.node.as_str(), adding) {
            // Taken as it stands: BuildKit expands no variables here either. `--from=` is as good as none.
            ("from", _) => {
                from = flag.value.as_ref().filter(|w| !w.node.is_empty()).map(|w| (w.node.clone(), w.span));
            }
            ("chown", _) => step.chown = Some(value()?).filter(|v| !v.is_empty()),
            ("chmod", _) => {
                step.chmod = Some(value()?).filter(|v| !v.is_empty());
                if let (Some(mode), Some(word)) = (&step.chmod, &flag.value) {
                    check_mode(mode, word)?;
                }
            }
            ("link", _) => step.link = is_true(flag),
            ("parents", _) => step.parents = is_true(flag),
            ("exclude", _) => step.excludes.push(value()?),
            ("unpack", Some(add)) => add.unpack = Some(is_true(flag)),
            ("keep-git-dir", Some(add)) => {
                add.keep_git_dir = is_true(flag);
                git_dir_flag = Some(flag);
            }
            ("checksum", Some(add)) => add.checksum = Some((value()?, flag_span(flag))),
            (other, _) => {
                let message = format!("{keyword} --{other} is not there yet in this version of cooper");
                return Err(fail(flag.name.span, message, "remove the flag, or do it in a RUN step"));
            }
        }
    }
    let mut inline = Vec::new();
    for source in &copy.sources {
        match source {
            Source::Path(word) => step.sources.push(path_source(add, variables, escape, word)?),
            Source::Heredoc(heredoc) => inline.push(heredoc_source(heredoc, variables, escape)?),
        }
    }
    // Files that stand in the Containerfile come last, whatever the order on the line: so it is in BuildKit.
    step.sources.append(&mut inline);
    if let Some(add) = &step.add {
        check_remote(copy, &step.sources, add, git_dir_flag)?;
    }
    let dest = variables.expand(escape, &copy.dest)?;
    if step.sources.len() > 1 && !is_directory(&dest) {
        let help = format!("write `{dest}/`");
        let message =
            format!("{keyword} with several sources needs a directory as destination, ending with a slash");
        return Err(fail(copy.dest.span, message, help));
    }
    if is_directory(&dest) {
        check_names(copy, &step.sources)?;
    }
    step.dest = absolute(cwd, &dest);
    Ok(Words { from, step })
}

fn is_true(flag: &Flag) -> bool {
    flag.value.as_ref().is_none_or(|v| v.node.eq_ignore_ascii_case("true"))
}

fn flag_span(flag: &Flag) -> Span {
    flag.value.as_ref().map_or(flag.name.span, |v| v.span)
}

fn check_mode(mode: &str, word: &Word) -> Result<(), PlanError> {
    crate::dockerfile::mode::Chmod::parse(mode).map(drop).map_err(|e| {
        fail(
            word.span,
            format!("--chmod: {e}"),
            "write an octal mode such as 0755, or a symbolic one such as u=rwX,go=rX",
        )
    })
}

fn path_source(add: bool, variables: &Variables, escape: char, word: &Word) -> Result<CopySource, PlanError> {
    let path = variables.expand(escape, word)?;
    let source = match remote(&path) {
        Some(source) => source,
        None => return Ok(CopySource::Path(path)),
    };
    if !add {
        let message = format!("COPY takes no URLs: `{path}`");
        return Err(fail(word.span, message, "use ADD"));
    }
    Ok(source)
}

/// What a source of `ADD` is, if it is not a path.
///
/// As in BuildKit: a repository is told by its scheme, by `git@host:path`, or by a path that ends in
/// `.git`; anything else over HTTP is a file.
fn remote(source: &str) -> Option<CopySource> {
    let own = source.to_owned();
    if ["git://", "ssh://", "git+ssh://", "git+file://", "git+http://", "git+https://"]
        .iter()
        .any(|p| source.starts_with(p))
    {
        return Some(CopySource::Git(own));
    }
    if source.starts_with("git@") && source.contains(':') {
        return Some(CopySource::Git(own));
    }
    let rest = source.strip_prefix("http://").or(source.strip_prefix("https://"))?;
    let path = rest.split(['?', '#']).next().unwrap_or(rest);
    Some(if path.ends_with(".git") { CopySource::Git(own) } else { CopySource::Http(own) })
}

fn heredoc_source(heredoc: &Heredoc, variables: &Variables, escape: char) -> Result<CopySource, ParseError> {
    let content = match heredoc.expand {
        true => variables.expand_heredoc(escape, &heredoc.body)?,
        false => heredoc.body.node.clone(),
    };
    Ok(CopySource::Inline { name: heredoc.name.node.clone(), content })
}

/// `--checksum` and `--keep-git-dir` speak of remote sources, and must find one.
fn check_remote(
    copy: &Copy,
    sources: &[CopySource],
    add: &Add,
    git_dir: Option<&Flag>,
) -> Result<(), PlanError> {
    let is_git = |s: &CopySource| matches!(s, CopySource::Git(_));
    if let Some((_, span)) = &add.checksum {
        match sources {
            [CopySource::Http(_) | CopySource::Git(_)] => {}
            [_] => {
                let help = "remove the flag: files of the build context need none";
                return Err(fail(*span, "--checksum is for a URL or a Git repository", help));
            }
            _ => {
                let help = "write an ADD for each source";
                return Err(fail(*span, "--checksum can be given for a single source only", help));
            }
        }
    }
    match git_dir {
        Some(flag) if add.keep_git_dir && !sources.iter().any(is_git) => {
            let span = flag.name.span.to(copy.dest.span);
            Err(fail(span, "--keep-git-dir is for Git repositories", "remove the flag"))
        }
        _ => Ok(()),
    }
}

/// A file that is downloaded into a directory gets its name from its URL, which must have one.
fn check_names(copy: &Copy, sources: &[CopySource]) -> Result<(), PlanError> {
    for source in sources {
        let CopySource::Http(url) = source else { continue };
        let path = url.split(['?', '#']).next().unwrap_or(url);
        let path = path.split_once("://").map_or(path, |(_, rest)| rest);
        if path.split_once('/').is_none_or(|(_, path)| path.is_empty() || path.ends_with('/')) {
            let message = format!("{url} does not say what the file is called");
            let help = "name the file in the destination, or in the URL";
            return Err(fail(copy.dest.span, message, help));
        }
    }
    Ok(())
}

fn is_directory(dest: &str) -> bool {
    dest.ends_with('/') || matches!(dest, "." | "..") || dest.ends_with("/.") || dest.ends_with("/..")
}

impl<I> CopyStep<I> {
    /// All that lies in a place, into the root.
    pub(super) fn everything(from: Origin<I>) -> CopyStep<I> {
        CopyStep {
            from,
            sources: vec![CopySource::Path("/".to_owned())],
            dest: "/".to_owned(),
            chown: None,
            chmod: None,
            parents: false,
            excludes: Vec::new(),
            link: false,
            add: None,
        }
    }

    /// Whether something is copied from where `--from` says.
    pub fn has_paths(&self) -> bool {
        self.sources.iter().any(|s| matches!(s, CopySource::Path(_)))
    }

    /// As the image's history tells it.
    pub(super) fn said(&self) -> String {
        let mut words = vec![if self.add.is_some() { "ADD" } else { "COPY" }.to_owned()];
        words.extend(self.chown.iter().map(|v| format!("--chown={v}")));
        words.extend(self.chmod.iter().map(|v| format!("--chmod={v}")));
        words.extend(self.link.then(|| "--link".to_owned()));
        words.extend(self.parents.then(|| "--parents".to_owned()));
        words.extend(self.excludes.iter().map(|v| format!("--exclude={v}")));
        for source in &self.sources {
            words.push(match source {
                CopySource::Path(text) | CopySource::Http(text) | CopySource::Git(text) => text.clone(),
                CopySource::Inline { name, .. } => format!("<<{name}"),
            });
        }
        words.push(self.dest.clone());
        words.join(" ")
    }

    /// The same with its files from elsewhere.
    pub(super) fn with_origin<J>(self, from: Origin<J>) -> CopyStep<J> {
        let CopyStep { from: _, sources, dest, chown, chmod, parents, excludes, link, add } = self;
        CopyStep { from, sources, dest, chown, chmod, parents, excludes, link, add }
    }
}

/// `path` seen from `cwd`, cleaned; a trailing slash, or a last component `.`, keeps the meaning
/// "a directory" by a slash at the end.
pub(super) fn absolute(cwd: &str, path: &str) -> String {
    let joined = if path.starts_with('/') { path.to_owned() } else { format!("{cwd}/{path}") };
    let clean = clean(&joined);
    if is_directory(path) && clean != "/" { clean + "/" } else { clean }
}

/// An absolute path without empty, `.` and `..` components.
pub(super) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_keep_whether_they_are_directories() {
        assert_eq!(absolute("/app", "x"), "/app/x");
        assert_eq!(absolute("/app", "x/"), "/app/x/");
        assert_eq!(absolute("/app", "."), "/app/");
        assert_eq!(absolute("/app", "../y/./z/.."), "/y/");
        assert_eq!(absolute("/", "."), "/");
        assert_eq!(absolute("/app", "/a//b"), "/a/b");
    }

    #[test]
    fn remote_sources_are_told_from_paths() {
        let git = |s: &str| matches!(remote(s), Some(CopySource::Git(_)));
        let http = |s: &str| matches!(remote(s), Some(CopySource::Http(_)));
        assert!(git("https://localhost/a.git") && git("https://localhost/a.git#v1:sub"));
        assert!(
            git("https://localhost/a.git?ref=v1") && git("git@localhost:a/b") && git("git://localhost/a")
        );
        assert!(http("https://localhost/a.tar.gz") && http("http://localhost/?x=.git"));
        for path in ["a.git", "http:/x", "git", "dir/https://x"] {
            assert_eq!(remote(path), None, "{path}");
        }
    }
}
