//! From the parts' errors to what a user is told: which sort it is, and what would help.

use std::error::Error;
use std::io;
use std::path::Path;

use super::diagnostics::snippet;
use super::error::io_hint;
use super::{CliError, Kind, Stop};
use crate::build::images::FindError;
use crate::build::run::RunError;
use crate::build::workshop::WorkshopError;
use crate::build::{BuildError, StepError};
use crate::dockerfile::ParseError;
use crate::dockerfile::ast::Span;
use crate::plan::PlanError;
use crate::progress::color_on_stderr;
use crate::rootfs::storage::RootfsError;
use crate::store::StoreError;

/// The Containerfile, to point into.
#[derive(Debug)]
pub(super) struct Source {
    /// As the user named it.
    pub(super) name: String,
    /// Its text.
    pub(super) text: String,
}

impl Source {
    fn snippet(&self, span: Span, label: Option<&str>) -> String {
        snippet(&self.name, &self.text, span, label, color_on_stderr())
    }

    /// Where a step failed: the word that is to blame, if there is one, else its first line.
    fn place(&self, span: Span, e: &StepError) -> String {
        let StepError::Select(e) = e else { return self.first_line(span) };
        let Some(word) = e.source_word() else { return self.first_line(span) };
        let written = self.text.get(span.range()).unwrap_or_default();
        // As a word of its own, and not the first one, which is the keyword.
        let found = written.match_indices(word).find(|(at, _)| {
            let before = written[..*at].chars().next_back();
            let after = written[at + word.len()..].chars().next();
            *at > 0
                && before.is_some_and(|c| c.is_whitespace() || matches!(c, '"' | '\''))
                && after.is_none_or(|c| c.is_whitespace() || matches!(c, '"' | '\'' | ','))
        });
        match found {
            Some((at, _)) => self.snippet(Span::new(span.start + at, span.start + at + word.len()), None),
            None => self.first_line(span),
        }
    }

    /// The same for one line only: a failed RUN may go over many.
    fn first_line(&self, span: Span) -> String {
        let text = self.text.get(span.range()).unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        self.snippet(Span::new(span.start, span.start + line.len()), None)
    }

    /// A Containerfile that says something wrong.
    pub(super) fn parse_error(&self, e: &ParseError) -> CliError {
        let error = CliError::usage(e.message.clone()).with_detail(self.snippet(e.span, e.label.as_deref()));
        with_hint(error, e.help.clone())
    }

    /// A build that cannot be planned.
    pub(super) fn plan_error(&self, e: &PlanError) -> CliError {
        match e {
            PlanError::Source(e) => self.parse_error(e),
            PlanError::Target { .. } => CliError::usage(e.to_string()),
            PlanError::Image { span, source } => {
                let error = CliError::failed(source.to_string()).with_detail(self.snippet(*span, None));
                let error = match source.downcast_ref::<FindError>() {
                    Some(FindError::Layout(_)) => error,
                    Some(FindError::NotInStore { .. }) => {
                        error.with_hint("`cooper import TAR NAME` makes an image from a root file system")
                    }
                    _ => error,
                };
                with_space_hint(error, source.as_ref(), Path::new("."))
            }
        }
    }

    /// A build that failed.
    pub(super) fn build_error(&self, e: BuildError, store: &Path) -> Stop {
        match e {
            BuildError::Interrupted { signal } => Stop::Signal(signal),
            BuildError::Step { text, span, source, .. } => {
                self.step_error(&text, span, &source, store).into()
            }
            BuildError::Workshop(WorkshopError::Enter(e)) => CliError::environment(e.to_string()).into(),
            BuildError::Workshop(WorkshopError::Storage(e @ RootfsError::Unavailable { .. })) => {
                CliError::environment(e.to_string()).into()
            }
            BuildError::Store(e) => self::store(&e).into(),
            other => general(&other, store).into(),
        }
    }

    fn step_error(&self, text: &str, span: Span, e: &StepError, store: &Path) -> CliError {
        let what = text.lines().next().unwrap_or_default();
        let keyword = what.split_whitespace().next().unwrap_or("the step").to_uppercase();
        let kind = match e {
            StepError::Rootfs(RootfsError::Mount { .. } | RootfsError::Unavailable { .. }) => {
                Kind::Environment
            }
            StepError::Run(RunError::Sandbox(_) | RunError::Id { .. } | RunError::Foreign { .. }) => {
                Kind::Environment
            }
            StepError::Remote { environment: true, .. } => Kind::Environment,
            _ => Kind::Failed,
        };
        let message = in_words(&format!("{keyword} failed: {e}"));
        let error = CliError::new(kind, message).with_detail(self.place(span, e));
        let error = match e {
            StepError::Run(RunError::Exit { tail, .. } | RunError::Signal { tail, .. }) => {
                let error = error.with_detail(format!("command: {}", text.trim()));
                if tail.is_empty() {
                    error.with_detail("it printed nothing")
                } else {
                    error.with_output(tail)
                }
            }
            _ => error,
        };
        with_space_hint(with_hint(error, step_hint(e)), e, store)
    }
}

/// A message without the numbers of the kernel's errors, which tell a user nothing that the words do not.
fn in_words(message: &str) -> String {
    let mut out = String::new();
    let mut rest = message;
    while let Some(at) = rest.find(" (os error ") {
        let after = &rest[at + " (os error ".len()..];
        let Some(end) = after.find(')').filter(|end| after[..*end].bytes().all(|b| b.is_ascii_digit()))
        else {
            break;
        };
        let (before, reason) = rest[..at].rsplit_once(": ").unwrap_or((&rest[..at], ""));
        let mut letters = reason.chars();
        out += before;
        if let Some(first) = letters.next() {
            out += ": ";
            out.extend(first.to_lowercase());
            out += letters.as_str();
        }
        rest = &after[end + 1..];
    }
    out + rest
}

fn step_hint(e: &StepError) -> Option<String> {
    let hint = match e {
        StepError::Run(RunError::Program { hint, .. }) if !hint.is_empty() => (*hint).to_owned(),
        StepError::Run(RunError::Id { .. }) => {
            "with `newuidmap` installed and a range for this user in /etc/subuid and /etc/subgid, all ids can be used"
                .to_owned()
        }
        StepError::Run(RunError::Sandbox(_)) => {
            "in a container, it must allow mounts in a user namespace, and /proc must not be masked (podman: \
             --security-opt unmask=ALL --security-opt seccomp=unconfined; docker: systempaths=unconfined for the first)"
                .to_owned()
        }
        StepError::Rootfs(RootfsError::Mount { .. }) => {
            "overlay needs Linux 5.11 and a file system that is no overlay itself; --root DIR puts the store elsewhere, \
             for example on a tmpfs or a volume"
                .to_owned()
        }
        StepError::Run(RunError::Foreign { .. }) => {
            "install an emulator: apt install qemu-user-static binfmt-support (on other systems: docker.io/tonistiigi/binfmt \
             --install all); or build that stage FROM --platform=$BUILDPLATFORM"
                .to_owned()
        }
        StepError::Remote { hint, .. } => return hint.clone(),
        StepError::Mount(e) => return e.hint(),
        StepError::NoContext { .. } => "name a directory as the last argument, or pass --build-context".to_owned(),
        StepError::User(_) => "make it in an earlier RUN step, or use a number".to_owned(),
        StepError::Select(e) => return e.hint(),
        _ => return None,
    };
    Some(hint)
}

/// A store that cannot be used.
pub(super) fn store(e: &StoreError) -> CliError {
    let path = match e {
        StoreError::Io { path, .. } => path.clone(),
        _ => std::path::PathBuf::new(),
    };
    let error = CliError::failed(e.to_string());
    let error = match e {
        StoreError::Format { .. } => {
            error.with_hint("use the cooper that made it, or another directory with --root DIR")
        }
        StoreError::NotAStore { .. } => error.with_hint("name an empty or new directory with --root DIR"),
        _ => error,
    };
    with_space_hint(error, e, &path)
}

/// Any other error.
pub(super) fn general(e: &(dyn Error + 'static), store: &Path) -> CliError {
    with_space_hint(CliError::failed(e.to_string()), e, store)
}

fn with_hint(error: CliError, hint: Option<String>) -> CliError {
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// A full disk hides at the bottom of many errors, and the advice is always the same.
fn with_space_hint(error: CliError, e: &(dyn Error + 'static), path: &Path) -> CliError {
    if error.hint.is_some() {
        return error;
    }
    let mut cause: Option<&(dyn Error + 'static)> = Some(e);
    while let Some(e) = cause {
        if let Some(io) = e.downcast_ref::<io::Error>() {
            return with_hint(error, io_hint(io, path));
        }
        cause = e.source();
    }
    error
}
