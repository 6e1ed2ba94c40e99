//! `COPY` and `ADD` as they will be carried out.

use super::variables::Variables;
use super::{ImageSource, PlanError, fail};
use crate::dockerfile::ast::{Copy, Flag, Source, Span};

/// One `COPY` or `ADD`, all variables expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyStep<I> {
    /// Where the sources are.
    pub from: CopyFrom<I>,
    /// Paths and wildcards, with the place of each in the file.
    pub sources: Vec<(String, Span)>,
    /// Absolute; a slash at the end says that it is a directory.
    pub dest: String,
    /// `--chown`: names or numbers, to be found in the image.
    pub chown: Option<(String, Span)>,
    /// `--chmod`, as written.
    pub chmod: Option<(String, Span)>,
    /// Whether it is `ADD`, which treats archives differently.
    pub add: bool,
}

/// Where a `COPY` copies from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyFrom<I> {
    /// The build context.
    Context,
    /// Another stage: its position in the plan.
    Stage(usize),
    /// An image.
    Image(I),
}

/// The flags and words of a `COPY` or `ADD`, before it is known where `--from` leads.
pub(super) struct Words {
    pub(super) from: Option<(String, Span)>,
    pub(super) sources: Vec<(String, Span)>,
    pub(super) dest: String,
    pub(super) chown: Option<(String, Span)>,
    pub(super) chmod: Option<(String, Span)>,
}

pub(super) fn words(
    copy: &Copy,
    add: bool,
    variables: &Variables,
    escape: char,
    cwd: &str,
) -> Result<Words, PlanError> {
    let keyword = if add { "ADD" } else { "COPY" };
    let mut words = Words { from: None, sources: Vec::new(), dest: String::new(), chown: None, chmod: None };
    for flag in &copy.flags {
        let value = |flag: &Flag| -> Result<(String, Span), PlanError> {
            let Some(word) = &flag.value else {
                return Err(fail(flag.name.span, format!("--{} needs a value", flag.name.node), ""));
            };
            Ok((variables.expand(escape, word)?, word.span))
        };
        match flag.name.node.as_str() {
            // Taken as it stands: BuildKit expands no variables here either.
            "from" => words.from = flag.value.as_ref().map(|w| (w.node.clone(), w.span)),
            "chown" => words.chown = Some(value(flag)?),
            "chmod" => {
                let (mode, span) = value(flag)?;
                let octal = (1..=5).contains(&mode.len()) && mode.bytes().all(|b| (b'0'..=b'7').contains(&b));
                if !octal {
                    let message = format!("--chmod `{mode}`: modes other than octal ones are not there yet");
                    return Err(fail(span, message, "write an octal mode such as 755"));
                }
                words.chmod = Some((mode, span));
            }
            other => {
                let message = format!("{keyword} --{other} is not there yet in this version of cooper");
                let help = match other {
                    "link" => "remove the flag: the image has the same files without it",
                    "parents" => "name the directories in the destination",
                    "exclude" => "leave the files out with .dockerignore",
                    _ => "remove the flag, or do it in a RUN step",
                };
                return Err(fail(flag.name.span, message, help));
            }
        }
    }
    for source in &copy.sources {
        match source {
            Source::Path(word) => {
                let path = variables.expand(escape, word)?;
                if add && is_remote(&path) {
                    let help = "download it in a RUN step, or COPY a file that was downloaded before";
                    let message = "ADD of a URL or Git repository is not there yet in this version of cooper";
                    return Err(fail(word.span, message, help));
                }
                words.sources.push((path, word.span));
            }
            Source::Heredoc(heredoc) => {
                let help = "put the text into a file of the build context and COPY that";
                let message = "here-documents are not there yet in this version of cooper";
                return Err(fail(heredoc.name.span, message, help));
            }
        }
    }
    let dest = variables.expand(escape, &copy.dest)?;
    if dest.is_empty() {
        return Err(fail(
            copy.dest.span,
            format!("the destination of {keyword} is empty"),
            "use `.` for the working directory",
        ));
    }
    if words.sources.len() > 1 && !is_directory(&dest) {
        let help = format!("write `{dest}/`");
        let message =
            format!("{keyword} with several sources needs a directory as destination, ending with a slash");
        return Err(fail(copy.dest.span, message, help));
    }
    words.dest = absolute(cwd, &dest);
    Ok(words)
}

fn is_remote(source: &str) -> bool {
    ["http://", "https://", "git://", "git@", "ssh://"].iter().any(|p| source.starts_with(p))
}

fn is_directory(dest: &str) -> bool {
    dest.ends_with('/') || matches!(dest, "." | "..") || dest.ends_with("/.") || dest.ends_with("/..")
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

/// What `--from` or `FROM` may name besides stages.
///
/// # Errors
/// When the name is no image name.
pub(super) fn image_source(name: &str, span: Span) -> Result<ImageSource, PlanError> {
    if let Some(layout) = name.strip_prefix("oci:") {
        return Ok(ImageSource::OciLayout(layout.to_owned()));
    }
    for (prefix, instead) in [
        ("docker-archive:", "`cooper` reads OCI layouts: skopeo copy docker-archive:FILE oci:DIR"),
        ("oci-archive:", "unpack it: mkdir DIR && tar -xf FILE -C DIR, then use oci:DIR"),
        ("docker://", "leave `docker://` out"),
    ] {
        if name.starts_with(prefix) {
            return Err(fail(
                span,
                format!("`{prefix}` is not there yet in this version of cooper"),
                instead,
            ));
        }
    }
    name.parse().map(ImageSource::Name).map_err(|e| fail(span, format!("{e}"), ""))
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
}
