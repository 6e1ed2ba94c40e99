//! The options about times, and what they come to.

use std::collections::BTreeMap;

use clap::Args;

use crate::build::{Times, assemble};
use crate::cli::CliError;

/// The variable, and the build argument that BuildKit's clients make of it.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

#[derive(Debug, Args)]
pub(super) struct TimeArguments {
    /// Date the image, and the files that its steps write, so: seconds since 1970 [default: $SOURCE_DATE_EPOCH]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds)]
    source_date_epoch: Option<i64>,
    /// Set all that is newer than the epoch in new layers to it; base layers stay as they are
    #[arg(long)]
    rewrite_timestamp: bool,
    /// Date the image, and everything in new layers, so: seconds since 1970
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds,
          conflicts_with_all = ["source_date_epoch", "rewrite_timestamp"])]
    timestamp: Option<i64>,
}

/// A time on the command line.
pub(in crate::cli) fn seconds(text: &str) -> Result<i64, String> {
    let seconds = text.parse().map_err(|_| "not a number of seconds since 1970".to_owned())?;
    match assemble::rfc3339(seconds) {
        Ok(_) => Ok(seconds),
        Err(_) => Err("not a time between the years 1 and 9999".to_owned()),
    }
}

/// `SOURCE_DATE_EPOCH` in the environment. Empty is as if it was not set.
pub(in crate::cli) fn of_environment() -> Result<Option<i64>, CliError> {
    let value = std::env::var_os(EPOCH).unwrap_or_default();
    epoch(EPOCH, &value.to_string_lossy())
}

fn epoch(name: &str, text: &str) -> Result<Option<i64>, CliError> {
    if text.is_empty() {
        return Ok(None);
    }
    seconds(text).map(Some).map_err(|why| {
        CliError::usage(format!("{name} is `{text}`, which is {why}"))
            .with_hint("`git log -1 --format=%ct` prints the time of the last commit")
    })
}

/// What all of it comes to. `outputs` is what each `--output` says of `rewrite-timestamp`.
///
/// Without a build argument of that name, an epoch becomes one: `ARG SOURCE_DATE_EPOCH` has its value.
pub(super) fn settle(
    arguments: &TimeArguments,
    outputs: &[Option<bool>],
    build_args: &mut BTreeMap<String, String>,
) -> Result<Times, CliError> {
    let rewrite = arguments.rewrite_timestamp || outputs.contains(&Some(true));
    if rewrite && outputs.contains(&Some(false)) {
        let message = "one output asks for rewrite-timestamp=false, and what is written is rewritten";
        return Err(CliError::usage(message)
            .with_hint("all outputs are the same image: take rewrite-timestamp=false away, or build twice"));
    }
    let given = build_args.get(EPOCH);
    if let Some(time) = arguments.timestamp {
        let other = match (rewrite, given) {
            (true, _) => "rewrite-timestamp=true",
            (_, Some(text)) if !text.is_empty() => "--build-arg SOURCE_DATE_EPOCH",
            _ => return Ok(Times::Exactly(time)),
        };
        return Err(CliError::usage(format!("--timestamp cannot be used with {other}")).with_hint(
            "--timestamp sets every time to one; use --source-date-epoch instead, or leave the other out",
        ));
    }
    let epoch = match (arguments.source_date_epoch, given) {
        (Some(epoch), _) => Some(epoch),
        (None, Some(text)) => epoch("--build-arg SOURCE_DATE_EPOCH", text)?,
        (None, None) => of_environment()?,
    };
    let Some(epoch) = epoch else {
        if rewrite {
            return Err(CliError::usage("there is no time to rewrite timestamps to").with_hint(
                "give --source-date-epoch SECONDS, or set SOURCE_DATE_EPOCH in the environment; \
                 `git log -1 --format=%ct` prints the time of the last commit",
            ));
        }
        return Ok(Times::Inputs);
    };
    build_args.entry(EPOCH.to_owned()).or_insert_with(|| epoch.to_string());
    Ok(Times::Epoch { epoch, rewrite })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_whole_and_within_what_can_be_written() {
        assert_eq!(seconds("0"), Ok(0));
        assert_eq!(seconds("-62135596800"), Ok(-62_135_596_800));
        for wrong in ["", " 1", "1.5", "now", "0x10", "9223372036854775808", "-62135596801", "253402300800"] {
            assert!(seconds(wrong).is_err(), "{wrong:?}");
        }
    }
}
