//! `--output`: what it may say.

use std::path::PathBuf;

use crate::cli::CliError;
use crate::transport::oci::{self, OciName};

/// `--output`: where the layout lies, and what is said of `rewrite-timestamp`.
pub(super) fn parse(text: &str) -> Result<(OciName, Option<bool>), CliError> {
    if text.starts_with("oci:") {
        let name = oci::parse_oci(text).map_err(|e| CliError::usage(e.to_string()))?;
        return Ok((name, None));
    }
    if let Some(fields) = text.strip_prefix("type=oci,") {
        let mut dest = None;
        let mut tar = true;
        let mut rewrite = None;
        for field in fields.split(',') {
            match field.split_once('=') {
                Some(("dest", value)) => dest = Some(PathBuf::from(value)),
                Some(("tar", "false")) => tar = false,
                Some(("tar", "true")) => tar = true,
                Some(("rewrite-timestamp", "false")) => rewrite = Some(false),
                Some(("rewrite-timestamp", "true")) => rewrite = Some(true),
                Some(("source-date-epoch", _)) => {
                    return Err(CliError::usage(format!("--output: `{field}` is not there")).with_hint(
                        "all outputs are the same image; date it with --source-date-epoch SECONDS",
                    ));
                }
                _ => {
                    return Err(CliError::usage(format!("--output: `{field}` is not understood")).with_hint(
                        "write -o oci:DIR[:TAG], or -o type=oci,dest=DIR,tar=false[,rewrite-timestamp=true]",
                    ));
                }
            }
        }
        if let (Some(dir), false) = (dest, tar) {
            return Ok((OciName { dir, tag: None }, rewrite));
        }
    }
    Err(CliError::usage(format!("--output `{text}` is not there yet in this version of cooper")).with_hint(
        "write an OCI layout with -o oci:DIR[:TAG]; skopeo copies it into other forms, such as \
         `skopeo copy oci:DIR:TAG docker-archive:FILE`",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_layouts_or_refused() {
        let layout = |dir: &str, tag: Option<&str>, rewrite| {
            (OciName { dir: dir.into(), tag: tag.map(str::to_owned) }, rewrite)
        };
        assert_eq!(parse("oci:out:v1").unwrap(), layout("out", Some("v1"), None));
        let fields = |more: &str| parse(&format!("type=oci,dest=out,tar=false{more}")).unwrap();
        assert_eq!(fields(""), layout("out", None, None));
        assert_eq!(fields(",rewrite-timestamp=true"), layout("out", None, Some(true)));
        assert_eq!(fields(",rewrite-timestamp=false"), layout("out", None, Some(false)));
        for refused in [
            "out",
            "docker-archive:x",
            "type=oci,dest=x",
            "type=local,dest=x",
            "type=oci,tar=false",
            "type=oci,dest=x,tar=false,rewrite-timestamp",
            "type=oci,dest=x,tar=false,source-date-epoch=0",
        ] {
            assert_eq!(parse(refused).unwrap_err().kind.exit_code(), 2, "{refused}");
        }
    }
}
