//! `RUN` as it will be carried out.

use super::{PlanError, fail};
use crate::dockerfile::ast::{Command, Instruction, Run};

/// One `RUN`, all variables expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunStep {
    /// Program and arguments; empty when the instruction says nothing to run.
    pub argv: Vec<String>,
    /// `NAME=value`; what the key sees.
    pub env: Vec<String>,
    /// Proxy settings, which reach the step and are not part of its key.
    pub proxies: Vec<String>,
    /// `USER` at that point; empty for root.
    pub user: String,
    /// `WORKDIR` at that point, absolute.
    pub cwd: String,
}

/// What `RUN` executes, given the stage's shell.
///
/// # Errors
/// For flags and heredocs, which are parsed and refused until they can be honoured.
pub(super) fn argv(instruction: &Instruction, run: &Run, shell: &[String]) -> Result<Vec<String>, PlanError> {
    if let Some(flag) = run.flags.first() {
        let help = match flag.name.node.as_str() {
            "mount" => {
                "COPY what the step needs into a stage of its own, and COPY --from that stage what is to be kept"
            }
            "network" => "remove the flag: the step has the network of the machine",
            _ => "remove the flag",
        };
        let message = format!("RUN --{} is not there yet in this version of cooper", flag.name.node);
        return Err(fail(flag.name.span, message, help));
    }
    if let Some(heredoc) = run.heredocs.first() {
        let help = "write the commands with `&&` and line continuations, or COPY a script and run it";
        return Err(fail(
            heredoc.name.span,
            "here-documents are not there yet in this version of cooper",
            help,
        ));
    }
    let argv = command(&run.command, shell);
    if argv.iter().any(|a| a.contains('\0')) {
        return Err(fail(instruction.span, "a command cannot contain a NUL character", ""));
    }
    Ok(argv)
}

/// A command in either form, as a list of arguments.
pub(super) fn command(command: &Command, shell: &[String]) -> Vec<String> {
    match command {
        Command::Shell(text) if text.node.trim().is_empty() => Vec::new(),
        Command::Shell(text) => shell.iter().cloned().chain([text.node.clone()]).collect(),
        Command::Exec(list) => list.node.clone(),
    }
}
