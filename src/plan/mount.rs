//! The values of `RUN`'s flags: `--mount`, `--network`, `--security` and `--device`.
//!
//! The rules are those of BuildKit's `instructions` package, with one addition: a key that would mean
//! nothing for the type of mount (`id` of a bind mount, `source` of a tmpfs) is refused instead of ignored.
//! Options are read in order, so `type=` has to stand before the keys that only that type has.
//!
//! What is read here is not yet what is mounted. Left to the caller, who knows the stage:
//!
//! - `target` is relative to the working directory, and is the working directory when there is none; the
//!   root itself is no target;
//! - the id of a `cache` without one is its target, cleaned;
//! - the id of a `secret` without one is its `source`, else the last name of its target; its target, when it
//!   has neither that nor `env`, is `/run/secrets/` and the last name of its id; its mode is 0400 unless given;
//! - the id of an `ssh` without one is `default`.

use super::size;
use crate::dockerfile::ParseError;
use crate::dockerfile::ast::{Span, Word};
use crate::dockerfile::error::closest;

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MountType {
    /// Files of the context, of a stage or of an image. The default.
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// An empty directory in memory.
    Tmpfs,
    /// A secret, as a file or in the environment.
    Secret,
    /// The socket of an SSH agent.
    Ssh,
}

impl MountType {
    /// All of them.
    pub const ALL: [MountType; 5] =
        [MountType::Bind, MountType::Cache, MountType::Tmpfs, MountType::Secret, MountType::Ssh];

    /// As it is written after `type=`.
    pub fn name(self) -> &'static str {
        match self {
            MountType::Bind => "bind",
            MountType::Cache => "cache",
            MountType::Tmpfs => "tmpfs",
            MountType::Secret => "secret",
            MountType::Ssh => "ssh",
        }
    }

    /// The keys that mean something for it, in the words of the documentation.
    pub fn keys(self) -> &'static [&'static str] {
        match self {
            MountType::Bind => &["type", "from", "source", "target", "readonly", "readwrite"],
            MountType::Cache => &[
                "type",
                "id",
                "from",
                "source",
                "target",
                "readonly",
                "readwrite",
                "sharing",
                "mode",
                "uid",
                "gid",
            ],
            MountType::Tmpfs => &["type", "target", "size", "readonly", "readwrite"],
            MountType::Secret => {
                &["type", "id", "source", "target", "env", "required", "readonly", "mode", "uid", "gid"]
            }
            MountType::Ssh => &["type", "id", "target", "required", "readonly", "mode", "uid", "gid"],
        }
    }
}

/// Who else may use a cache at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// Everybody. The default.
    Shared,
    /// Nobody: another step that comes meanwhile gets a directory of its own.
    Private,
    /// Nobody: another step that comes meanwhile waits.
    Locked,
}

impl Sharing {
    const ALL: [Sharing; 3] = [Sharing::Shared, Sharing::Private, Sharing::Locked];

    /// As it is written after `sharing=`.
    pub fn name(self) -> &'static str {
        match self {
            Sharing::Shared => "shared",
            Sharing::Private => "private",
            Sharing::Locked => "locked",
        }
    }
}

/// One `--mount`, with its variables expanded. A text that was given as empty is as if it was not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// `type`.
    pub kind: MountType,
    /// `from`: a stage, an image or a named context; of `bind` and `cache` only.
    pub from: Option<String>,
    /// `source`: a path in what is mounted, of `bind` and `cache`; the id of a `secret`.
    pub source: Option<String>,
    /// `target`: where it is mounted, as written.
    pub target: Option<String>,
    /// Whether nothing can be written to it. Unless said otherwise: `cache` and `tmpfs` can be written to,
    /// all others not. What is written to a `bind` mount is thrown away.
    pub read_only: bool,
    /// Whether a `secret` or `ssh` that the caller does not provide is an error.
    pub required: bool,
    /// `size` of a `tmpfs` in bytes; never zero.
    pub size: Option<u64>,
    /// `id` of a `cache`, `secret` or `ssh`.
    pub id: Option<String>,
    /// `sharing` of a `cache`.
    pub sharing: Option<Sharing>,
    /// `mode` of a `cache`'s directory, a `secret`'s file or an `ssh`'s socket.
    pub mode: Option<u32>,
    /// `uid` of its owner.
    pub uid: Option<u32>,
    /// `gid` of its group.
    pub gid: Option<u32>,
    /// `env` of a `secret`: the variable that holds it.
    pub env: Option<String>,
    /// The whole value, in the Containerfile.
    pub span: Span,
}

/// All keys, in the words of the documentation; aliases are in [`canonical`].
const KEYS: [&str; 14] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "readwrite",
    "required",
    "size",
    "id",
    "sharing",
    "mode",
    "uid",
    "gid",
    "env",
];

/// Reads the value of one `--mount`. `expand` expands the variables of one option's value.
///
/// # Errors
/// For anything that BuildKit would refuse, and for keys that mean nothing for the type of the mount; and
/// whatever `expand` refuses.
pub fn parse(
    value: &Word,
    expand: &dyn Fn(&Word) -> Result<String, ParseError>,
) -> Result<MountOptions, ParseError> {
    let mut mount = MountOptions {
        kind: MountType::Bind,
        from: None,
        source: None,
        target: None,
        read_only: true,
        required: false,
        size: None,
        id: None,
        sharing: None,
        mode: None,
        uid: None,
        gid: None,
        env: None,
        span: value.span,
    };
    let mut read_only = None;
    let mut given = Vec::new();
    for field in fields(value)? {
        let option = Opt::of(&field)?;
        let key = option.key;
        let Some(raw) = &option.value else {
            match key {
                "readonly" => read_only = Some(true),
                "readwrite" => read_only = Some(false),
                _ => {
                    option.only_of(mount.kind)?;
                    mount.required = true;
                }
            }
            given.push((key, field.span));
            continue;
        };
        if key == "from" && takes_variable(&raw.node) {
            return Err(ParseError::new("`from` of a mount takes no variables", raw.span).with_help(
                "give the image a stage of its own, `FROM $NAME AS name`, and write `from=name`",
            ));
        }
        let text = expand(raw)?;
        let filled = (!text.is_empty()).then(|| text.clone());
        match key {
            "type" => mount.kind = mount_type(&text, raw.span)?,
            "from" => mount.from = filled,
            "source" => mount.source = filled,
            "target" => mount.target = filled,
            "readonly" => read_only = Some(option.boolean(&text, raw.span)?),
            "readwrite" => read_only = Some(!option.boolean(&text, raw.span)?),
            "required" => {
                option.only_of(mount.kind)?;
                mount.required = option.boolean(&text, raw.span)?;
            }
            "size" => {
                option.only_of(mount.kind)?;
                let bytes = size::bytes(&text).ok_or_else(|| {
                    ParseError::new(format!("`{text}` is not a size"), raw.span)
                        .with_help("write bytes, or a number with k, m or g: `size=64m`")
                })?;
                mount.size = (bytes > 0).then_some(bytes);
            }
            "id" => mount.id = filled,
            "sharing" => mount.sharing = Some(sharing(&text, raw.span)?),
            "mode" => {
                mount.mode = Some(number(&text, 8).ok_or_else(|| {
                    ParseError::new(format!("`{text}` is not a mode"), raw.span)
                        .with_help("write it in octal: `mode=0755`")
                })?);
            }
            "uid" | "gid" => {
                let id = number(&text, 10).ok_or_else(|| {
                    ParseError::new(format!("`{text}` is not a number"), raw.span)
                        .with_help(format!("{key} takes the number, not a name: `{key}=1000`"))
                })?;
                *(if key == "uid" { &mut mount.uid } else { &mut mount.gid }) = Some(id);
            }
            _ => mount.env = filled,
        }
        given.push((key, field.span));
    }
    for (key, span) in given {
        meaningful(mount.kind, key, span)?;
    }
    mount.read_only = read_only.unwrap_or(!matches!(mount.kind, MountType::Cache | MountType::Tmpfs));
    complete(&mount)?;
    Ok(mount)
}

/// Refuses a key that means nothing for the type.
fn meaningful(kind: MountType, key: &str, span: Span) -> Result<(), ParseError> {
    if kind.keys().contains(&key) {
        return Ok(());
    }
    let name = kind.name();
    let help = match (kind, key) {
        (MountType::Secret, "from") => "a secret comes from the command line: `--secret id=…`".to_owned(),
        (MountType::Secret | MountType::Ssh, "readwrite") => {
            "remove it: the step cannot write to this mount".to_owned()
        }
        _ => format!("a {name} mount has {}", kind.keys().join(", ")),
    };
    Err(ParseError::new(format!("`{key}` means nothing for a mount of type {name}"), span).with_help(help))
}

/// Refuses what lacks something.
fn complete(mount: &MountOptions) -> Result<(), ParseError> {
    if mount.kind != MountType::Secret {
        return Ok(());
    }
    if mount.id.is_none() && mount.source.is_none() && mount.target.is_none() {
        return Err(ParseError::new("a secret mount needs to say which secret", mount.span)
            .with_help("write `--mount=type=secret,id=NAME`"));
    }
    if mount.id.is_some() && mount.source.is_some() {
        return Err(ParseError::new("a secret mount has both `id` and `source`", mount.span)
            .with_help("they mean the same: keep `id`"));
    }
    Ok(())
}

fn mount_type(text: &str, span: Span) -> Result<MountType, ParseError> {
    let lower = text.to_lowercase();
    if let Some(kind) = MountType::ALL.into_iter().find(|kind| kind.name() == lower) {
        return Ok(kind);
    }
    let names = MountType::ALL.map(MountType::name);
    Err(unknown(format!("`{text}` is not a type of mount"), text, &names, span))
}

fn sharing(text: &str, span: Span) -> Result<Sharing, ParseError> {
    let lower = text.to_lowercase();
    if let Some(sharing) = Sharing::ALL.into_iter().find(|sharing| sharing.name() == lower) {
        return Ok(sharing);
    }
    let names = Sharing::ALL.map(Sharing::name);
    Err(unknown(format!("`{text}` is not a way of sharing"), text, &names, span))
}

/// An error about a word that is none of `known`.
fn unknown(message: String, word: &str, known: &[&str], span: Span) -> ParseError {
    let error = ParseError::new(message, span);
    match closest(word, known) {
        Some(near) => error.with_help(format!("did you mean `{near}`?")),
        None => error.with_help(format!("it is one of {}", known.join(", "))),
    }
}

/// Digits of `base` only, no sign.
fn number(text: &str, base: u32) -> Option<u32> {
    let digits = !text.is_empty() && text.chars().all(|c| c.is_digit(base));
    digits.then(|| u32::from_str_radix(text, base).ok()).flatten()
}

/// A dollar sign that something follows. BuildKit looks no closer either.
fn takes_variable(text: &str) -> bool {
    text.find('$').is_some_and(|at| at + 1 < text.len())
}

/// `key` or `key=value`, the key by its canonical name.
struct Opt {
    key: &'static str,
    written: String,
    value: Option<Word>,
    span: Span,
}

impl Opt {
    fn of(field: &Word) -> Result<Opt, ParseError> {
        let (written, value) = match field.node.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field.node.as_str(), None),
        };
        let lower = written.to_lowercase();
        let span = field.span;
        let Some(key) = canonical(&lower) else { return Err(unknown_key(&lower, field)) };
        if value.is_none() && !matches!(key, "readonly" | "readwrite" | "required") {
            let error = ParseError::new(format!("`{written}` needs a value"), span);
            return Err(error.with_help(format!("write `{lower}=…`")));
        }
        let value = value.map(|value| {
            // Where the field stands in the file as it is, so does its value.
            let exact = span.end - span.start == field.node.len();
            let start = if exact { span.end - value.len() } else { span.start };
            Word { node: value.to_owned(), span: Span::new(start, span.end) }
        });
        Ok(Opt { key, written: written.to_owned(), value, span })
    }

    /// Refuses a key that counts only once its type is known.
    fn only_of(&self, kind: MountType) -> Result<(), ParseError> {
        if kind.keys().contains(&self.key) {
            return Ok(());
        }
        let kinds: Vec<&str> = MountType::ALL
            .iter()
            .filter(|kind| kind.keys().contains(&self.key))
            .map(|kind| kind.name())
            .collect();
        let message = format!("`{}` means nothing for a mount of type {}", self.written, kind.name());
        let kinds = kinds.join(" or ");
        Err(ParseError::new(message, self.span).with_help(format!("write `type=` before it: {kinds}")))
    }

    /// A truth value in one of Go's spellings.
    fn boolean(&self, text: &str, span: Span) -> Result<bool, ParseError> {
        boolean(text).ok_or_else(|| {
            ParseError::new(format!("`{}` is either true or false", self.written), span)
                .with_help(format!("write `{0}`, or `{0}=false`", self.written))
        })
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// The one name of a key that may have several.
fn canonical(key: &str) -> Option<&'static str> {
    Some(match key {
        "src" => "source",
        "dst" | "destination" => "target",
        "ro" => "readonly",
        "rw" => "readwrite",
        key => KEYS.into_iter().find(|known| *known == key)?,
    })
}

fn unknown_key(key: &str, field: &Word) -> ParseError {
    if key.is_empty() {
        return ParseError::new("a mount option is empty", field.span)
            .with_help("write `key=value` with one comma between options");
    }
    let error = ParseError::new(format!("a mount has no option `{key}`"), field.span);
    match key {
        // Anything that changes how mounts spread could let a step reach out of its own.
        "propagation" | "bind-propagation" | "bind-nonrecursive" | "shared" | "rshared" | "slave"
        | "rslave" | "private" | "rprivate" => {
            error.with_help("remove it: no mount of a step is ever seen outside of it")
        }
        "z" | "relabel" => error.with_help("remove it: mounts carry no SELinux labels here"),
        "u" | "chown" | "idmap" => error.with_help("remove it: files keep the owners that they have"),
        _ => {
            let aliases = ["src", "dst", "destination", "ro", "rw"];
            let known: Vec<&str> = KEYS.into_iter().chain(aliases).collect();
            match closest(key, &known) {
                Some(near) => error.with_help(format!("did you mean `{near}`?")),
                None => error.with_help(format!("it has {}", KEYS.join(", "))),
            }
        }
    }
}

/// The fields of a value: separated by commas, and as in CSV a field may stand in double quotes, in which a
/// doubled quote is one quote. (The quotes have to be protected from the flag itself, which removes them.)
fn fields(value: &Word) -> Result<Vec<Word>, ParseError> {
    let text = value.node.as_str();
    if text.is_empty() {
        return Err(ParseError::new("the flag has no options", value.span)
            .with_help("write them as `key=value`, with commas between them"));
    }
    // Quotes and line ends that were taken away in between leave no way to tell where a field stood.
    let exact = value.span.end - value.span.start == text.len();
    let place = |start: usize, end: usize| match exact {
        true => Span::new(value.span.start + start, value.span.start + end),
        false => value.span,
    };
    let bad = |what: &str, start: usize, end: usize| {
        Err(ParseError::new(what.to_owned(), place(start, end))
            .with_help("put quotes around a whole option, and double the quotes inside: `\"key=a\"\"b\"`"))
    };
    let mut found = Vec::new();
    let mut start = 0;
    loop {
        let rest = &text[start..];
        let (node, end) = if let Some(quoted) = rest.strip_prefix('"') {
            let mut node = String::new();
            let mut at = 0;
            loop {
                let Some(quote) = quoted[at..].find('"') else {
                    return bad("the closing double quote is missing", start, text.len());
                };
                node.push_str(&quoted[at..at + quote]);
                at += quote + 1;
                if !quoted[at..].starts_with('"') {
                    break;
                }
                node.push('"');
                at += 1;
            }
            let end = start + 1 + at;
            if !(end == text.len() || text[end..].starts_with(',')) {
                return bad("a comma must follow the closing double quote", start, end);
            }
            (node, end)
        } else {
            let end = start + rest.find(',').unwrap_or(rest.len());
            let node = &text[start..end];
            if node.contains('"') {
                return bad("a double quote stands inside an option", start, end);
            }
            (node.to_owned(), end)
        };
        found.push(Word { node, span: place(start, end) });
        if end == text.len() {
            return Ok(found);
        }
        start = end + 1;
    }
}

/// `--network` of a `RUN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// What the builder gives every step.
    Default,
    /// No network.
    None,
    /// The machine's own.
    Host,
}

/// Reads the value of `--network`.
///
/// # Errors
/// When it is none of `default`, `none` and `host`, spelt just so.
pub fn network(value: &Word) -> Result<Network, ParseError> {
    match value.node.as_str() {
        "default" => Ok(Network::Default),
        "none" => Ok(Network::None),
        "host" => Ok(Network::Host),
        other => {
            let message = format!("`{other}` is not a network of a RUN");
            Err(unknown(message, other, &["default", "none", "host"], value.span))
        }
    }
}

/// `--security` of a `RUN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// As every step.
    Sandbox,
    /// With all privileges of the builder.
    Insecure,
}

/// Reads the value of `--security`.
///
/// # Errors
/// When it is neither `sandbox` nor `insecure`, spelt just so.
pub fn security(value: &Word) -> Result<Security, ParseError> {
    match value.node.as_str() {
        "sandbox" => Ok(Security::Sandbox),
        "insecure" => Ok(Security::Insecure),
        other => {
            let message = format!("`{other}` is not a security mode of a RUN");
            Err(unknown(message, other, &["sandbox", "insecure"], value.span))
        }
    }
}

/// `--device` of a `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// A name as the Container Device Interface has them, `vendor.com/class=name`, or a class of them.
    pub name: String,
    /// Whether a machine without it cannot run the step.
    pub required: bool,
}

/// Reads the value of `--device`: `NAME[,required]` or `name=NAME[,required=BOOL]`, in any order.
///
/// # Errors
/// When there is no name or more than one, or for any other option.
pub fn device(value: &Word) -> Result<Device, ParseError> {
    let mut name: Option<String> = None;
    let mut required = false;
    for field in fields(value)? {
        let (key, option) = match field.node.split_once('=') {
            Some((key, option)) => (key.to_lowercase(), Some(option)),
            None => (field.node.to_lowercase(), None),
        };
        let twice = || {
            ParseError::new("the device has two names", field.span).with_help("write a `--device` for each")
        };
        match (key.as_str(), option) {
            ("required", None) => required = true,
            ("required", Some(option)) => {
                required = boolean(option).ok_or_else(|| {
                    ParseError::new("`required` is either true or false", field.span)
                        .with_help("write `required`, or `required=false`")
                })?;
            }
            ("name", Some(option)) if name.is_none() => name = Some(option.to_owned()),
            ("name", Some(_)) => return Err(twice()),
            // A name has an equals sign of its own: `vendor.com/class=name`.
            _ if name.is_none() => name = Some(field.node.clone()),
            (key, _) => {
                return Err(match closest(key, &["name", "required"]) {
                    Some(near) => ParseError::new(format!("a device has no option `{key}`"), field.span)
                        .with_help(format!("did you mean `{near}`?")),
                    None => twice(),
                });
            }
        }
    }
    match name.filter(|name| !name.is_empty()) {
        Some(name) => Ok(Device { name, required }),
        None => Err(ParseError::new("the device has no name", value.span)
            .with_help("write `--device=vendor.com/class=name`")),
    }
}

#[cfg(test)]
mod tests;
