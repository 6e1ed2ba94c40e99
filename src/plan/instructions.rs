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
    /// Arguments declared up to here, in this stage and those it is built on, for the history of `RUN`.
    pub(super) args: Vec<String>,
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
        }
        if !self.args.iter().any(|known| known == name) {
            self.args.push(name.to_owned());
        }
    }

    /// `|2 A=1 B=2 ` before a command, as Docker's history shows the arguments that it ran with.
    pub(super) fn args_in_history(&self) -> String {
        if self.args.is_empty() {
            return String::new();
        }
        let shown: Vec<String> =
            self.args.iter().map(|n| format!("{n}={}", self.variables.get(n).unwrap_or_default())).collect();
        format!("|{} {} ", shown.len(), shown.join(" "))
    }
}

/// Carries out an instruction that only changes the configuration; gives its line in the history, if it has one.
pub(super) fn apply(
    instruction: &Instruction,
    escape: char,
    state: &mut State,
) -> Result<Option<String>, PlanError> {
    let expand = |word: &Word| state.variables.expand(escape, word);
    let said = match &instruction.kind {
        Kind::Env(pairs) => {
            // All values see the variables from before the instruction.
            let pairs = expand_pairs(pairs, &expand)?;
            for (name, value) in &pairs {
                // The name may have expanded to nothing; only a RUN minds.
                state.variables.set(name, value);
                set_env(&mut state.config.config.env, name, value);
            }
            format!("ENV {}", join_pairs(&pairs))
        }
        Kind::Label(pairs) => {
            let pairs = expand_pairs(pairs, &expand)?;
            state.config.config.labels.extend(pairs.iter().cloned());
            format!("LABEL {}", join_pairs(&pairs))
        }
        Kind::User(word) => {
            // Nothing means root again.
            let user = expand(word)?;
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
                if volume.is_empty() {
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
            // The one instruction of which the history says nothing.
            state.config.config.on_build.push(inner.text.clone());
            return Ok(None);
        }
        Kind::Run(_) | Kind::Copy(_) | Kind::Add(_) | Kind::Workdir(_) | Kind::Arg(_) => String::new(),
    };
    Ok(Some(said))
}

/// Sets a variable in a list of `NAME=value` as an image has it: the first of its name is replaced where it
/// stands, all else stays as it is.
fn set_env(env: &mut Vec<String>, name: &str, value: &str) {
    let line = format!("{name}={value}");
    match env.iter_mut().find(|e| e.split('=').next() == Some(name)) {
        Some(old) => *old = line,
        None => env.push(line),
    }
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

/// The ports that one word of `EXPOSE` means: `[ip:[host:]]port[-last][/protocol]`. What stands before the
/// port has no effect, but has to make sense.
fn expose(text: &str) -> Result<Vec<String>, &'static str> {
    let (before, port) = text.rsplit_once(':').unwrap_or(("", text));
    let (ip, host) = before.rsplit_once(':').unwrap_or(("", before));
    let (ports, protocol) = port.split_once('/').unwrap_or((port, ""));
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_lowercase() };
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err("the protocol is neither tcp, udp nor sctp");
    }
    let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
    if !bare.is_empty() && bare.parse::<std::net::IpAddr>().is_err() {
        return Err("what stands before the ports is not an IP address");
    }
    let (first, last) = port_range(ports)?;
    if !host.is_empty() {
        let (host_first, host_last) = port_range(host)?;
        if first != last && last - first != host_last - host_first {
            return Err("the two ranges are not of the same length");
        }
    }
    Ok((first..=last).map(|p| format!("{p}/{protocol}")).collect())
}

fn port_range(text: &str) -> Result<(u16, u16), &'static str> {
    let number = |s: &str| {
        let digits = s.bytes().all(|b| b.is_ascii_digit());
        s.parse::<u16>().ok().filter(|_| digits).ok_or("ports are numbers from 0 to 65535")
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err("the range ends before it begins");
    }
    Ok((first, last))
}

/// Whether BuildKit takes a text for a signal: any number but 0, or a name it knows.
fn is_signal(text: &str) -> bool {
    const NAMES: [&str; 36] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
        "PIPE", "POLL", "PROF", "PWR", "QUIT", "RTMAX", "RTMIN", "SEGV", "STKFLT", "STOP", "SYS", "TERM",
        "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
    ];
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    // The real-time signals, counted from whichever end is nearer.
    let nth = |prefix: &str, most: u32| {
        (1..=most).any(|n| name.strip_prefix(prefix).is_some_and(|rest| rest == n.to_string()))
    };
    NAMES.contains(&name) || nth("RTMIN+", 15) || nth("RTMAX-", 14)
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
                if text.is_empty() {
                    continue;
                }
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
    if text.is_empty() {
        return Ok(0);
    }
    let nanoseconds = duration(text).ok_or_else(|| bad("it has no number with a unit"))?;
    if nanoseconds != 0 && nanoseconds < 1_000_000 {
        return Err(bad("it is shorter than a millisecond"));
    }
    Ok(nanoseconds)
}

/// A duration in Go's notation, in nanoseconds. What is less than one of them is dropped, number by number.
fn duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0u64;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = after.strip_prefix('.').map_or(("", after), digits);
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let unit: u64 = match &after[..end] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        rest = &after[end..];
        let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
        // Nine digits are a billionth; finer ones matter for hours and minutes only, and there to nobody.
        let mut nanos = whole.checked_mul(unit)?;
        let (mut scaled, mut scale) = (0u64, 1u64);
        for digit in fraction.bytes().take(9) {
            scaled = scaled * 10 + u64::from(digit - b'0');
            scale *= 10;
        }
        let part = u128::from(scaled) * u128::from(unit) / u128::from(scale);
        nanos = nanos.checked_add(u64::try_from(part).ok()?)?;
        total = total.checked_add(nanos)?;
    }
    let total = i64::try_from(total).ok()?;
    Some(if negative { -total } else { total })
}

/// The digits at the start of a text, and what follows them.
fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
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
        assert_eq!(expose("[::1]:1-2:90-91/udp").unwrap(), ["90/udp", "91/udp"]);
        assert_eq!(expose("8000-8002:80/").unwrap(), ["80/tcp"]);
        for bad in
            ["http", "70000", "5-4", "80/icmp", "", "+80", "1-2-3", "host:80:80", "x:80", "1-3:5-6", "/tcp"]
        {
            assert!(expose(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(duration("1m30s"), Some(90_000_000_000));
        assert_eq!(duration("1.5h"), Some(5_400_000_000_000));
        assert_eq!(duration("0"), Some(0));
        assert_eq!(duration("+1.001s"), Some(1_001_000_000));
        assert_eq!(duration(".5s5.ms3μs"), Some(505_003_000));
        assert_eq!(duration("-1s"), Some(-1_000_000_000));
        for bad in ["", "5", "s", "5x", "1s5", ".s", "-", "9999999h", "1e3s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn signals_are_names_or_numbers() {
        for good in
            ["SIGTERM", "term", "9", "65", "-1", "SIGRTMIN+3", "rtmin+15", "RTMAX-14", "SIGXFSZ", "RTMAX"]
        {
            assert!(is_signal(good), "{good}");
        }
        for bad in [
            "",
            "0",
            "RTMIN+16",
            "RTMAX-15",
            "RTMIN-1",
            "RTMIN+01",
            "SIGNOPE",
            "SIGRTMIN+x",
            "SIGRTMINé",
            "RTMINx3",
            "RTMIN3",
        ] {
            assert!(!is_signal(bad), "{bad}");
        }
    }
}
