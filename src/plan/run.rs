//! `RUN` as it will be carried out.

use super::mount::{self, MountOptions, MountType, Sharing};
use super::origin::{ContextName, Origin};
use super::stage::Planner;
use super::variables::Variables;
use super::{Images, PlanError, fail};
use crate::dockerfile::ast::{Command, Flag, Instruction, Run, Span, Word};
use crate::image::Platform;
use crate::plan::copy::clean;

/// One `RUN`, all variables expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunStep<I> {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// `NAME=value`; what the key sees.
    pub env: Vec<String>,
    /// Proxy settings, which reach the step and are not part of its key.
    pub proxies: Vec<String>,
    /// `USER` at that point; empty for root.
    pub user: String,
    /// `WORKDIR` at that point, absolute.
    pub cwd: String,
    /// In the order in which they are mounted.
    pub mounts: Vec<RunMount<I>>,
    /// What the programs in it are for.
    pub platform: Platform,
}

/// Something that a `RUN` has mounted while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunMount<I> {
    /// Absolute and clean. Of a secret that is only a variable, empty.
    pub target: String,
    /// What it is.
    pub kind: MountKind<I>,
    /// The flag.
    pub span: Span,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind<I> {
    /// `type=bind`
    Bind {
        /// Where from.
        from: Origin<I>,
        /// A path there; a slash means all of it.
        source: String,
        /// Otherwise what is written is thrown away afterwards.
        read_only: bool,
    },
    /// `type=cache`
    Cache {
        /// Caches with equal ids are one.
        id: String,
        /// What it holds at first, if not nothing.
        from: Option<Origin<I>>,
        /// A path there.
        source: String,
        /// What happens when two steps want it at once.
        sharing: Sharing,
        /// Permission bits of a new one.
        mode: Option<u32>,
        /// Owner of a new one.
        uid: Option<u32>,
        /// Group of a new one.
        gid: Option<u32>,
        /// `ro`
        read_only: bool,
    },
    /// `type=tmpfs`
    Tmpfs {
        /// Bytes it may hold.
        size: Option<u64>,
    },
    /// `type=secret`
    Secret {
        /// As `--secret id=` has it.
        id: String,
        /// Whether a file shows it, at the target.
        file: bool,
        /// The variable that holds it.
        env: Option<String>,
        /// Otherwise a step without it runs too.
        required: bool,
        /// Mode of the file.
        mode: u32,
        /// Owner of the file.
        owner: (u32, u32),
    },
    /// The script of a heredoc that says which program interprets it.
    Script {
        /// What is in it.
        content: String,
    },
}

impl<I> RunMount<I> {
    /// Where its content comes from.
    pub fn origin(&self) -> Option<&Origin<I>> {
        match &self.kind {
            MountKind::Bind { from, .. } => Some(from),
            MountKind::Cache { from, .. } => from.as_ref(),
            MountKind::Tmpfs { .. } | MountKind::Secret { .. } | MountKind::Script { .. } => None,
        }
    }
}

/// Where the scripts of heredocs are mounted; BuildKit's place, which scripts can see.
const SCRIPTS: &str = "/dev/pipes";

/// The command line of a `RUN`, and the script that has to be mounted for it.
pub(super) struct CommandLine {
    pub(super) argv: Vec<String>,
    pub(super) script: Option<(String, String)>,
}

/// What `RUN` executes, given the stage's shell.
pub(super) fn command_line(
    instruction: &Instruction,
    run: &Run,
    shell: &[String],
) -> Result<CommandLine, PlanError> {
    let mut script = None;
    let argv = match (&run.command, run.heredocs.as_slice(), run.script()) {
        (command, [], _) => self::command(command, shell),
        // The body is the command.
        (_, _, Some(only)) => {
            if only.body.node.starts_with("#!") {
                let path = format!("{SCRIPTS}/{}", only.name.node);
                script = Some((path.clone(), only.body.node.clone()));
                vec![path]
            } else {
                with_shell(shell, only.body.node.clone())
            }
        }
        // The shell reads them itself.
        (Command::Shell(text), several, None) => {
            let mut whole = text.node.clone();
            for heredoc in several {
                whole.push('\n');
                whole.push_str(&heredoc.body.node);
                whole.push_str(&heredoc.name.node);
            }
            with_shell(shell, whole)
        }
        (Command::Exec(_), [heredoc, ..], None) => {
            let help = "write the command without brackets";
            return Err(fail(heredoc.name.span, "a command in JSON form cannot have here-documents", help));
        }
    };
    if argv.iter().any(|a| a.contains('\0')) {
        return Err(fail(instruction.span, "a command cannot contain a NUL character", ""));
    }
    Ok(CommandLine { argv, script })
}

fn with_shell(shell: &[String], text: String) -> Vec<String> {
    shell.iter().cloned().chain([text]).collect()
}

/// A command in either form, as a list of arguments.
pub(super) fn command(command: &Command, shell: &[String]) -> Vec<String> {
    match command {
        // Also when there is no text: the shell is given an empty one.
        Command::Shell(text) => with_shell(shell, text.node.clone()),
        Command::Exec(list) => list.node.clone(),
    }
}

impl<M: Images> Planner<'_, M> {
    /// The flags of a `RUN`: its mounts; what cannot be honoured is refused.
    pub(super) fn run_flags(
        &mut self,
        run: &Run,
        variables: &Variables,
        escape: char,
        cwd: &str,
        number: usize,
    ) -> Result<Vec<RunMount<M::Image>>, PlanError> {
        let mut mounts = Vec::new();
        for flag in &run.flags {
            let Some(value) = &flag.value else {
                return Err(fail(flag.name.span, format!("--{} needs a value", flag.name.node), ""));
            };
            match flag.name.node.as_str() {
                "mount" => {
                    let expand = |word: &Word| variables.expand(escape, word);
                    let options = mount::parse(value, &expand)?;
                    mounts.push(self.mount(options, cwd, number, value.span)?);
                }
                "network" => refuse_unless_default(
                    flag,
                    mount::network(value)? == mount::Network::Default,
                    "the step has the network of the machine",
                )?,
                "security" => refuse_unless_default(
                    flag,
                    mount::security(value)? == mount::Security::Sandbox,
                    "a step never has more than the default privileges",
                )?,
                _ => {
                    mount::device(value)?;
                    let message = "RUN --device is not there yet in this version of cooper";
                    return Err(fail(flag.name.span, message, "remove the flag"));
                }
            }
        }
        Ok(mounts)
    }

    fn mount(
        &mut self,
        options: MountOptions,
        cwd: &str,
        number: usize,
        span: Span,
    ) -> Result<RunMount<M::Image>, PlanError> {
        let target = options.target.as_deref().filter(|t| !t.is_empty());
        let absolute = |target: &str| {
            if target.starts_with('/') { clean(target) } else { clean(&format!("{cwd}/{target}")) }
        };
        let from = match options.from.as_ref().filter(|name| !name.is_empty()) {
            Some(name) => Some(self.origin(name, span, number)?),
            None => None,
        };
        let source = clean(options.source.as_deref().unwrap_or("/"));
        let owner = (options.uid.unwrap_or(0), options.gid.unwrap_or(0));
        let (target, kind) = match options.kind {
            MountType::Bind => {
                let from = from.unwrap_or(Origin::Context(ContextName::Main));
                (
                    absolute(target.unwrap_or(".")),
                    MountKind::Bind { from, source, read_only: options.read_only },
                )
            }
            MountType::Cache => {
                let target = target.unwrap_or_default();
                // Of the target as it is written, so that a relative one is the same cache everywhere.
                let id = options.id.filter(|id| !id.is_empty()).unwrap_or_else(|| relative_clean(target));
                let kind = MountKind::Cache {
                    id,
                    from,
                    source,
                    sharing: options.sharing.unwrap_or(Sharing::Shared),
                    mode: options.mode,
                    uid: options.uid,
                    gid: options.gid,
                    read_only: options.read_only,
                };
                (absolute(target), kind)
            }
            MountType::Tmpfs => (absolute(target.unwrap_or(".")), MountKind::Tmpfs { size: options.size }),
            MountType::Secret => {
                let id = options.source.or(options.id).filter(|id| !id.is_empty());
                let last =
                    |path: &str| path.trim_end_matches('/').rsplit('/').next().unwrap_or(path).to_owned();
                let id = id.unwrap_or_else(|| last(target.unwrap_or_default()));
                let file = target.is_some() || options.env.is_none();
                let place = match target {
                    Some(target) => absolute(target),
                    None if file => format!("/run/secrets/{}", last(&id)),
                    None => String::new(),
                };
                let (env, required) = (options.env, options.required);
                let mode = options.mode.unwrap_or(0o400);
                (place, MountKind::Secret { id, file, env, required, mode, owner })
            }
            MountType::Ssh => {
                let message = "RUN --mount=type=ssh is not there yet in this version of cooper";
                let help = "pass a key as a secret: --mount=type=secret,id=key,target=/root/.ssh/id_ed25519";
                return Err(fail(span, message, help));
            }
        };
        if target == "/" {
            return Err(fail(
                span,
                "a mount cannot take the place of the root directory",
                "name a directory below it with target=",
            ));
        }
        Ok(RunMount { target, kind, span })
    }
}

fn refuse_unless_default(flag: &Flag, is_default: bool, instead: &str) -> Result<(), PlanError> {
    if is_default {
        return Ok(());
    }
    let value = flag.value.as_ref().map_or("", |v| v.node.as_str());
    let message = format!("RUN --{}={value} is not there yet in this version of cooper", flag.name.node);
    Err(fail(flag.name.span, message, format!("remove the flag: {instead}")))
}

/// A path without empty, `.` and `..` components, absolute only if it was.
fn relative_clean(path: &str) -> String {
    let cleaned = clean(path);
    if path.starts_with('/') { cleaned } else { cleaned.trim_start_matches('/').to_owned() }
}
