//! What each instruction that makes no layer does to the image's configuration.

use serde_json::json;

use super::copy::clean;
use super::run::command;
use super::variables::Variables;
use super::{PlanError, fail};
use crate::dockerfile::ast::{Command, Flag, Healthcheck, Instruction, Kind, Word};
use crate::image::{HealthcheckConfig, ImageConfig};

/// A stage while its instructions are walked.
pub(super) struct State {
    pub(super) config: ImageConfig,
    /// `ENV` and `ARG` together.
    pub(super) variables: Variables,
    /// Arguments declared in this stage that have a value, for the history of `RUN`.
    args: Vec<(String, String)>,
    /// Whether this stage has said `CMD`: `ENTRYPOINT` then leaves it alone.
    cmd_set: bool,
}

impl State {
    pub(super) fn new(config: ImageConfig, variables: Variables) -> State {
        State { config, variables, args: Vec::new(), cmd_set: false }
    }

    pub(super) fn shell(&self) -> Vec<String> {
        match self.config.config.shell.as_slice() {
            [] => vec!["/bin/sh".to_owned(), "-c".to_owned()],
            shell => shell.to_vec(),
        }
    }

    /// The working directory, absolute and clean.
    pub(super) fn cwd(&self) -> String {
        clean(&self.config.config.working_dir)
    }

    /// Sets `WORKDIR`; gives the path as the configuration keeps it.
    pub(super) fn set_workdir(&mut self, path: &str) -> String {
        // BuildKit leaves the directory as it is.
        if path.is_empty() {
            return self.cwd();
        }
        // An absolute path is kept as written, its trailing slash too; a relative one is joined.
        let path =
            if path.starts_with('/') { path.to_owned() } else { clean(&format!("{}/{path}", self.cwd())) };
        self.config.config.working_dir.clone_from(&path);
        path
    }

    pub(super) fn set_arg(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.variables.set(name, value);
            self.args.retain(|(n, _)| n != name);
            self.args.push((name.to_owned(), value.to_owned()));
        }
    }

    /// `|2 A=1 B=2 ` before a command, as Docker's history shows the arguments that it ran with.
    pub(super) fn args_in_history(&self) -> String {
        if self.args.is_empty() {
            return String::new();
        }
        let shown: Vec<String> = self.args.iter().map(|(n, v)| format!("{n}={v}")).collect();
        format!("|{} {} ", shown.len(), shown.join(" "))
    }
}

/// Carries out an instruction that only changes the configuration; gives its line in the history.
pub(super) fn apply(instruction: &Instruction, escape: char, state: &mut State) -> Result<String, PlanError> {
    let expand = |word: &Word| state.variables.expand(escape, word);
    let said = match &instruction.kind {
        Kind::Env(pairs) => {
            // All values see the variables from before the instruction.
            let pairs = expand_pairs(pairs, &expand)?;
            let mut env = Variables::from_env(&state.config.config.env);
            for (name, value) in &pairs {
                if name.is_empty() {
                    return Err(fail(
                        instruction.span,
                        "an ENV name is empty once its variables are expanded",
                        "",
                    ));
                }
                state.variables.set(name, value);
                env.set(name, value);
            }
            state.config.config.env = env.to_env();
            format!("ENV {}", join_pairs(&pairs))
        }
        Kind::Label(pairs) => {
            let pairs = expand_pairs(pairs, &expand)?;
            state.config.config.labels.extend(pairs.iter().cloned());
            format!("LABEL {}", join_pairs(&pairs))
        }
        Kind::User(word) => {
            let user = expand(word)?;
            if user.is_empty() {
                return Err(fail(word.span, "the user is empty once its variables are expanded", ""));
            }
            let said = format!("USER {user}");
            state.config.config.user = user;
            said
        }
        Kind::Expose(words) => {
            let mut ports = Vec::new();
            for word in words {
                for text in state.variables.expand_words(escape, word)? {
                    ports.extend(expose(&text).map_err(|why| {
                        fail(
                            word.span,
                            format!("`{text}` is not a port: {why}"),
                            "write PORT, PORT/udp or FIRST-LAST/tcp",
                        )
                    })?);
                }
            }
            let said = format!("EXPOSE {}", ports.join(" "));
            state.config.config.exposed_ports.extend(ports.into_iter().map(|p| (p, json!({}))));
            said
        }
        Kind::Volume(words) => {
            let mut volumes = Vec::new();
            for word in words {
                let volume = expand(word)?;
                if volume.trim().is_empty() {
                    return Err(fail(word.span, "a volume's path is empty", ""));
                }
                volumes.push(volume);
            }
            let said = format!("VOLUME {}", volumes.join(" "));
            state.config.config.volumes.extend(volumes.into_iter().map(|v| (v, json!({}))));
            said
        }
        Kind::Cmd(cmd) => {
            let argv = command(cmd, &state.shell());
            state.cmd_set = true;
            let said = format!("CMD {}", json!(argv));
            state.config.config.cmd = Some(argv).filter(|argv| !argv.is_empty());
            // As BuildKit does, whatever the form.
            state.config.config.args_escaped = true;
            said
        }
        Kind::Entrypoint(cmd) => {
            let argv = command(cmd, &state.shell());
            if !state.cmd_set {
                state.config.config.cmd = None;
            }
            let said = format!("ENTRYPOINT {}", json!(argv));
            state.config.config.entrypoint = Some(argv).filter(|argv| !argv.is_empty());
            said
        }
        Kind::Shell(shell) => {
            state.config.config.shell.clone_from(shell);
            format!("SHELL {}", json!(shell))
        }
        Kind::Stopsignal(word) => {
            let signal = expand(word)?;
            if !is_signal(&signal) {
                return Err(fail(
                    word.span,
                    format!("`{signal}` is not a signal"),
                    "write a name such as SIGTERM, or a number",
                ));
            }
            let said = format!("STOPSIGNAL {signal}");
            state.config.config.stop_signal = Some(signal);
            said
        }
        Kind::Healthcheck(check) => {
            let check = healthcheck(check)?;
            let said = format!("HEALTHCHECK {}", json!(check.test));
            state.config.config.healthcheck = Some(check);
            said
        }
        Kind::Maintainer(word) => {
            // As it stands: this one is never expanded.
            let name = word.node.clone();
            let said = format!("MAINTAINER {name}");
            state.config.author = Some(name);
            said
        }
        Kind::Onbuild(inner) => {
            state.config.config.on_build.push(inner.text.clone());
            format!("ONBUILD {}", inner.text)
        }
        Kind::Run(_) | Kind::Copy(_) | Kind::Add(_) | Kind::Workdir(_) | Kind::Arg(_) => String::new(),
    };
    Ok(said)
}

type Expanded = Vec<(String, String)>;

fn expand_pairs(
    pairs: &[(Word, Word)],
    expand: &dyn Fn(&Word) -> Result<String, crate::dockerfile::ParseError>,
) -> Result<Expanded, PlanError> {
    pairs.iter().map(|(name, value)| Ok((expand(name)?, expand(value)?))).collect()
}

fn join_pairs(pairs: &[(String, String)]) -> String {
    pairs.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(" ")
}

/// The ports that one word of `EXPOSE` means: `[ip:[host:]]port[-last][/protocol]`.
fn expose(text: &str) -> Result<Vec<String>, &'static str> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_lowercase() };
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err("the protocol is neither tcp, udp nor sctp");
    }
    let ports = ports.rsplit(':').next().unwrap_or(ports);
    let number = |s: &str| s.parse::<u16>().map_err(|_| "ports are numbers from 0 to 65535");
    let (first, last) = match ports.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(ports)?, number(ports)?),
    };
    if first > last {
        return Err("the range ends before it begins");
    }
    Ok((first..=last).map(|p| format!("{p}/{protocol}")).collect())
}

fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<u32>() {
        return (1..=64).contains(&number);
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |prefix| {
        name.strip_prefix(prefix).is_some_and(|rest| match rest.strip_prefix(['+', '-']) {
            Some(offset) => offset.parse::<u32>().is_ok(),
            None => rest.is_empty(),
        })
    };
    const NAMES: [&str; 33] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
        "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
        "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU",
    ];
    NAMES.contains(&name) || name == "XFSZ" || real_time("RTMIN") || real_time("RTMAX")
}

fn healthcheck(check: &Healthcheck) -> Result<HealthcheckConfig, PlanError> {
    let Healthcheck::Cmd { flags, command: cmd } = check else {
        return Ok(HealthcheckConfig { test: vec!["NONE".to_owned()], ..HealthcheckConfig::default() });
    };
    let mut config = HealthcheckConfig {
        test: match cmd {
            Command::Exec(list) => {
                std::iter::once("CMD".to_owned()).chain(list.node.iter().cloned()).collect()
            }
            // Docker keeps the stage's shell only for images that changed it; the text goes to the
            // container's shell either way.
            Command::Shell(text) => vec!["CMD-SHELL".to_owned(), text.node.clone()],
        },
        ..HealthcheckConfig::default()
    };
    for flag in flags {
        match flag.name.node.as_str() {
            "interval" => config.interval = duration_flag(flag)?,
            "timeout" => config.timeout = duration_flag(flag)?,
            "start-period" => config.start_period = duration_flag(flag)?,
            "start-interval" => config.start_interval = duration_flag(flag)?,
            "retries" => {
                let text = flag.value.as_ref().map_or("", |w| w.node.as_str());
                config.retries =
                    text.parse::<i32>().ok().filter(|n| *n >= 0).map(i64::from).ok_or_else(|| {
                        fail(
                            flag.name.span,
                            format!("--retries `{text}` is not a number of tries"),
                            "write a number such as 3",
                        )
                    })?;
            }
            other => return Err(fail(flag.name.span, format!("HEALTHCHECK has no flag --{other}"), "")),
        }
    }
    Ok(config)
}

fn duration_flag(flag: &Flag) -> Result<i64, PlanError> {
    let text = flag.value.as_ref().map_or("", |w| w.node.as_str());
    let bad = |why: &str| {
        fail(
            flag.name.span,
            format!("--{} `{text}` is not a duration: {why}", flag.name.node),
            "write it like 30s, 1m30s or 500ms",
        )
    };
    let nanoseconds = duration(text).ok_or_else(|| bad("it has no number with a unit"))?;
    if nanoseconds != 0 && nanoseconds < 1_000_000 {
        return Err(bad("it is shorter than a millisecond"));
    }
    Ok(nanoseconds)
}

/// A duration in Go's notation, in nanoseconds.
fn duration(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 6e10,
                "h" => 3.6e12,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    (!text.is_empty() && total < 9e18).then_some(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_normalised() {
        assert_eq!(expose("80").unwrap(), ["80/tcp"]);
        assert_eq!(expose("53/UDP").unwrap(), ["53/udp"]);
        assert_eq!(expose("8000-8002").unwrap(), ["8000/tcp", "8001/tcp", "8002/tcp"]);
        assert_eq!(expose("127.0.0.1:90:90").unwrap(), ["90/tcp"]);
        for bad in ["http", "70000", "5-4", "80/icmp", ""] {
            assert!(expose(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(duration("1m30s"), Some(90_000_000_000));
        assert_eq!(duration("1.5h"), Some(5_400_000_000_000));
        assert_eq!(duration("0"), Some(0));
        for bad in ["", "5", "s", "5x", "-1s", "1s5"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn signals_are_names_or_numbers() {
        for good in ["SIGTERM", "term", "9", "SIGRTMIN+3", "RTMAX-1", "SIGXFSZ"] {
            assert!(is_signal(good), "{good}");
        }
        for bad in ["", "0", "65", "SIGNOPE", "SIGRTMIN+x", "SIGRTMINé", "RTMINx3", "RTMIN3"] {
            assert!(!is_signal(bad), "{bad}");
        }
    }
}
