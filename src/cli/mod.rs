//! The command line: one file a command, its arguments and one function that runs it.
//!
//! Raw arguments become validated options here and nowhere else, and errors of the parts become a
//! [`CliError`] here and nowhere else.

pub mod build;
pub mod diagnostics;
pub mod error;
mod failure;
mod findings;
pub mod import;
pub mod lint;
mod log;
mod print;
pub mod prune;
pub mod push;

use std::path::PathBuf;
use std::time::Instant;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::progress;
use crate::rootfs::storage::Backend;
use crate::store::Store;
pub use error::{CliError, Kind};

/// Builds container images with no daemon and no root
#[derive(Debug, Parser)]
#[command(
    name = "cooper",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command takes, before or after its name.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Common options")]
pub struct Global {
    /// Where images and caches are kept [default: $COOPER_ROOT, else ~/.local/share/cooper; for root
    /// /var/lib/cooper]
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// How steps are kept apart from this machine
    #[arg(
        long,
        global = true,
        value_name = "MODE",
        default_value = "auto",
        hide_possible_values = true,
        help = "How steps are kept apart from this machine [possible values: auto, namespaces]"
    )]
    pub isolation: Isolation,
    /// How layers are stacked
    #[arg(long, global = true, value_name = "MODE", default_value = "auto")]
    pub storage: Storage,
    /// How progress is shown
    #[arg(long, global = true, value_name = "MODE", default_value = "auto")]
    pub progress: progress::Mode,
    /// Which log messages are shown
    #[arg(long, global = true, value_name = "LEVEL", default_value = "warn")]
    pub log_level: LogLevel,
}

/// `--isolation`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Isolation {
    /// The best that works
    Auto,
    /// User and mount namespaces
    Namespaces,
    /// Refused: not there yet
    Chroot,
    /// Refused: not there yet
    Ptrace,
}

/// `--storage`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Storage {
    /// The best that works; --log-level info says which and why
    Auto,
    /// The kernel's overlay; needs Linux 5.11
    Overlay,
    /// The program fuse-overlayfs; needs /dev/fuse
    Fuse,
    /// Plain directories, compared by what stat says; needs no mount
    Copy,
}

impl Storage {
    /// The backend asked for; `None` for the best that works.
    pub fn backend(self) -> Option<Backend> {
        match self {
            Storage::Auto => None,
            Storage::Overlay => Some(Backend::Overlay),
            Storage::Fuse => Some(Backend::Fuse),
            Storage::Copy => Some(Backend::Copy),
        }
    }
}

/// `--log-level`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Errors only
    Error,
    /// And warnings
    Warn,
    /// And what happens
    Info,
    /// And how
    Debug,
    /// Everything
    Trace,
}

#[derive(Debug, Subcommand)]
enum Command {
    Build(Box<build::Arguments>),
    Import(import::Arguments),
    Lint(lint::Arguments),
    Prune(prune::Arguments),
    Push(push::Arguments),
}

/// Runs the program; gives its exit code.
pub fn main() -> u8 {
    let began = Instant::now();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage_error(&e),
    };
    let for_programs = cli.global.progress == progress::Mode::Json;
    let result = cli.global.check().and_then(|()| match cli.command {
        Command::Build(arguments) => build::run(&cli.global, *arguments),
        Command::Import(arguments) => import::run(&cli.global, arguments),
        Command::Lint(arguments) => lint::run(&arguments),
        Command::Prune(arguments) => prune::run(&cli.global, arguments),
        Command::Push(arguments) => push::run(&cli.global, arguments),
    });
    match result {
        Ok(()) => 0,
        Err(Stop::Error(e)) => {
            let code = e.kind.exit_code();
            match for_programs {
                true => eprint!("{}", e.to_json(code, began.elapsed())),
                false => eprint!("{}", e.render(progress::color_on_stderr())),
            }
            code
        }
        Err(Stop::Findings) => Kind::Failed.exit_code(),
        // As a shell reports it.
        Err(Stop::Signal(signal)) => {
            let code = u8::try_from(128 + signal).unwrap_or(1);
            match for_programs {
                true => eprint!("{}", CliError::failed("interrupted").to_json(code, began.elapsed())),
                false => eprintln!("interrupted"),
            }
            code
        }
    }
}

/// Why a command stopped before its end.
#[derive(Debug)]
pub enum Stop {
    /// It failed.
    Error(CliError),
    /// It has done its work, and what it has found and said is reason to fail.
    Findings,
    /// A signal with this number asked it to.
    Signal(i32),
}

impl From<CliError> for Stop {
    fn from(e: CliError) -> Self {
        Stop::Error(e)
    }
}

impl Global {
    /// Refuses what is spelled right and not there yet, and starts the log.
    fn check(&self) -> Result<(), Stop> {
        if matches!(self.isolation, Isolation::Chroot | Isolation::Ptrace) {
            let message =
                "--isolation=chroot and --isolation=ptrace are not there yet in this version of cooper";
            return Err(CliError::usage(message).with_hint("use --isolation=namespaces").into());
        }
        let level = match self.log_level {
            LogLevel::Error => tracing::Level::ERROR,
            LogLevel::Warn => tracing::Level::WARN,
            LogLevel::Info => tracing::Level::INFO,
            LogLevel::Debug => tracing::Level::DEBUG,
            LogLevel::Trace => tracing::Level::TRACE,
        };
        // Nobody else sets one: this is called once, by `main`.
        let _ = tracing::subscriber::set_global_default(log::StderrLog { max: level });
        Ok(())
    }

    /// Opens the store.
    pub fn open_store(&self) -> Result<Store, CliError> {
        let root = self.store_root()?;
        Store::open(&root).map_err(|e| failure::store(&e))
    }

    fn store_root(&self) -> Result<PathBuf, CliError> {
        let from_env = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        if let Some(root) = self.root.clone().or_else(|| from_env("COOPER_ROOT")) {
            return Ok(root);
        }
        if nix::unistd::Uid::effective().is_root() {
            return Ok(PathBuf::from("/var/lib/cooper"));
        }
        // The XDG specification has relative paths ignored.
        if let Some(data) = from_env("XDG_DATA_HOME").filter(|p| p.is_absolute()) {
            return Ok(data.join("cooper"));
        }
        from_env("HOME").map(|home| home.join(".local/share/cooper")).ok_or_else(|| {
            CliError::environment("there is no place for the store: HOME is not set")
                .with_hint("pass --root DIR, or set COOPER_ROOT")
        })
    }
}

/// Prints what a command has made on standard output.
fn print_result(digest: crate::image::Digest) -> Result<(), CliError> {
    print_text(&format!("{digest}\n"))
}

/// Prints what was asked for on standard output.
fn print_text(text: &str) -> Result<(), CliError> {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever reads it has had enough; the work is done.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(e) => Err(CliError::io("cannot write to", std::path::Path::new("standard output"), &e)),
        Ok(()) => Ok(()),
    }
}

/// Flags of Docker's builder that users will try, and what there is instead.
const KNOWN_ELSEWHERE: [(&str, &str); 17] = [
    ("--ssh", "SSH forwarding is not there yet"),
    ("--cache-from", "the cache is in the store; sharing it is not there yet"),
    ("--cache-to", "the cache is in the store; sharing it is not there yet"),
    ("--network", "steps have the network of this machine"),
    ("--add-host", "write the address where the step needs it"),
    ("--label", "write LABEL into the Containerfile"),
    ("--squash", "copy what is needed into a final stage"),
    ("--quiet", "use --progress=quiet"),
    ("-q", "use --progress=quiet"),
    ("--load", "leave it out: the image is in the store, with -t under that name"),
    ("--memory", "run cooper inside a cgroup with the limit"),
    ("--cpus", "run cooper inside a cgroup with the limit"),
    ("--rm", "leave it out: nothing is left behind"),
    ("--force-rm", "leave it out: nothing is left behind"),
    ("--layers", "leave it out: every step is a layer and is cached"),
    ("--format", "leave it out: images are in OCI format"),
    ("--tls-verify", "say `insecure = true` of the registry in registries.conf"),
];

fn usage_error(error: &clap::Error) -> u8 {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = error.print();
        return 0;
    }
    if let (ErrorKind::UnknownArgument, Some(ContextValue::String(argument))) =
        (error.kind(), error.get(ContextKind::InvalidArg))
    {
        let name = argument.split('=').next().unwrap_or(argument);
        if let Some((_, instead)) = KNOWN_ELSEWHERE.iter().find(|(flag, _)| *flag == name) {
            // clap would propose the flag that is spelt most alike: --push for --ssh.
            let error = CliError::usage(format!("there is no {name} here")).with_hint(*instead);
            eprint!("{}", error.render(progress::color_on_stderr()));
            return error.kind.exit_code();
        }
    }
    let _ = error.print();
    Kind::Usage.exit_code()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn flags_said_to_be_missing_are_missing() {
        let command = super::Cli::command();
        let build = command.find_subcommand("build").unwrap();
        for (flag, _) in super::KNOWN_ELSEWHERE {
            let has = build.get_arguments().any(|a| match flag.strip_prefix("--") {
                Some(long) => a.get_long() == Some(long),
                None => a.get_short() == flag.chars().nth(1),
            });
            assert!(!has, "{flag}");
        }
    }
}
