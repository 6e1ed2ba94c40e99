//! `--secret`

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::super::CliError;
use crate::build::SecretSource;

/// Reads the values of `--secret`: `id=ID[,src=FILE|,env=NAME][,type=file|env]`, or `id` alone. Without a
/// source, the environment variable named like the secret is taken, else the file of that name.
pub(super) fn parse(values: &[String]) -> Result<BTreeMap<String, SecretSource>, CliError> {
    let mut secrets = BTreeMap::new();
    for value in values {
        let (id, source) = one(value)?;
        if secrets.insert(id.clone(), source).is_some() {
            return Err(
                CliError::usage(format!("--secret id={id} is given twice")).with_hint("keep one of them")
            );
        }
    }
    Ok(secrets)
}

fn one(value: &str) -> Result<(String, SecretSource), CliError> {
    let wrong = |what: String| {
        CliError::usage(format!("--secret `{value}`: {what}"))
            .with_hint("write it as id=NAME,src=FILE or id=NAME,env=VARIABLE")
    };
    let (mut id, mut file, mut env, mut kind) = (None, None, None, None);
    for field in value.split(',') {
        let (key, text) = match field.split_once('=') {
            Some((key, text)) => (key.to_ascii_lowercase(), text),
            None if !value.contains('=') => ("id".to_owned(), field),
            None => return Err(wrong(format!("`{field}` has no value"))),
        };
        match key.as_str() {
            "id" => id = Some(text.to_owned()),
            "source" | "src" => file = Some(text.to_owned()),
            "env" => env = Some(text.to_owned()),
            "type" if matches!(text, "file" | "env") => kind = Some(text.to_owned()),
            "type" => return Err(wrong(format!("there is no type `{text}`, only file and env"))),
            other => return Err(wrong(format!("there is no field `{other}`"))),
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| wrong("it has no id".to_owned()))?;
    if kind.as_deref() == Some("env") && env.is_none() {
        env = file.take();
    }
    let source = match (file, env) {
        (Some(_), Some(_)) => return Err(wrong("it has two sources".to_owned())),
        (Some(file), None) => SecretSource::File(PathBuf::from(file)),
        (None, Some(env)) => SecretSource::Env(env),
        (None, None) if kind.as_deref() != Some("file") && std::env::var_os(&id).is_some() => {
            SecretSource::Env(id.clone())
        }
        (None, None) if kind.as_deref() == Some("env") => SecretSource::Env(id.clone()),
        (None, None) => SecretSource::File(PathBuf::from(&id)),
    };
    // Now, so that a mistake costs no work.
    match &source {
        SecretSource::File(path) if path.is_dir() => Err(wrong(format!("{} is a directory", path.display()))),
        SecretSource::File(path) if !path.exists() => {
            Err(wrong(format!("there is no file {}", path.display())))
        }
        SecretSource::Env(name) if std::env::var_os(name).is_none() => {
            Err(wrong(format!("the environment has no variable {name}")))
        }
        _ => Ok((id, source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_come_from_files_and_variables() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "x").unwrap();
        let parsed = parse(&[format!("id=a,src={}", path.display()), "id=b,env=PATH".to_owned()]).unwrap();
        assert_eq!(parsed["a"], SecretSource::File(path));
        assert_eq!(parsed["b"], SecretSource::Env("PATH".to_owned()));
        assert_eq!(
            parse(&["id=c,type=env,src=PATH".to_owned()]).unwrap()["c"],
            SecretSource::Env("PATH".into())
        );
        for bad in
            ["src=/etc/passwd", "id=a,src=/no/such", "id=a,env=NO_SUCH_1", "id=a,mode=1", "id=a,type=x"]
        {
            assert_eq!(parse(&[bad.to_owned()]).unwrap_err().kind.exit_code(), 2, "{bad}");
        }
    }
}
