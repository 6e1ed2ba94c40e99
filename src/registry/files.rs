//! Finds and reads `registries.conf` and its drop-ins.
//!
//! `$CONTAINERS_REGISTRIES_CONF` names one file, and that alone is read. Else the main file is the
//! user's (`$XDG_CONFIG_HOME/containers/registries.conf`, or below `~/.config`) if it is there, with
//! the user's drop-ins; or `/etc/containers/registries.conf`, with the system's drop-ins and then the
//! user's. Drop-ins are the files `*.conf` in `registries.conf.d/` beside the main file, in the order
//! of their names; what comes later wins.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::config::{ConfigError, Registries};

const SYSTEM: &str = "/etc/containers";

/// The directories and files that decide, taken from the environment once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    /// `$CONTAINERS_REGISTRIES_CONF`.
    chosen: Option<PathBuf>,
    /// The user's `containers` configuration directory.
    user: Option<PathBuf>,
    /// The machine's.
    system: PathBuf,
}

impl Places {
    fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Places {
        let set = |name: &str| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        // The XDG specification lets relative paths count as not set.
        let config = set("XDG_CONFIG_HOME")
            .filter(|p| p.is_absolute())
            .or_else(|| set("HOME").map(|home| home.join(".config")));
        Places {
            chosen: set("CONTAINERS_REGISTRIES_CONF"),
            user: config.map(|c| c.join("containers")),
            system: PathBuf::from(SYSTEM),
        }
    }

    /// Reads everything that counts, in the order in which it counts.
    fn read(&self) -> Result<Vec<(PathBuf, String)>, ConfigError> {
        if let Some(chosen) = &self.chosen {
            // Somebody named it, so it must be there.
            let text = fs::read_to_string(chosen).map_err(|e| unreadable(chosen, &e))?;
            return Ok(vec![(chosen.clone(), text)]);
        }
        let mut files = Vec::new();
        let user = match &self.user {
            Some(dir) => read_if_there(&dir.join("registries.conf"))?,
            None => None,
        };
        if user.is_none() {
            files.extend(read_if_there(&self.system.join("registries.conf"))?);
            files.extend(drop_ins(&self.system.join("registries.conf.d"))?);
        }
        files.extend(user);
        if let Some(dir) = &self.user {
            files.extend(drop_ins(&dir.join("registries.conf.d"))?);
        }
        Ok(files)
    }
}

impl Registries {
    /// Reads this user's configuration; without any file the defaults hold. Fields that mean nothing
    /// to cooper are logged as warnings.
    ///
    /// # Errors
    /// When a file that is there cannot be read or does not parse.
    pub fn from_environment() -> Result<Registries, ConfigError> {
        Registries::from_places(&Places::from_environment(|name| std::env::var_os(name)))
    }

    fn from_places(places: &Places) -> Result<Registries, ConfigError> {
        let mut all = Registries::default();
        for (path, text) in places.read()? {
            let (registries, warnings) = Registries::parse(&path.display().to_string(), &text)?;
            warnings.iter().for_each(|w| tracing::warn!("{w}"));
            all.merge(registries);
        }
        Ok(all)
    }
}

fn drop_ins(dir: &Path) -> Result<Vec<(PathBuf, String)>, ConfigError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if absent(&e) => return Ok(Vec::new()),
        Err(e) => return Err(unreadable(dir, &e)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| unreadable(dir, &e))?.path();
        if path.extension().is_some_and(|e| e == "conf") && !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        files.extend(read_if_there(&path)?);
    }
    Ok(files)
}

fn read_if_there(path: &Path) -> Result<Option<(PathBuf, String)>, ConfigError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some((path.to_owned(), text))),
        Err(e) if absent(&e) => Ok(None),
        Err(e) => Err(unreadable(path, &e)),
    }
}

fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn unreadable(path: &Path, error: &io::Error) -> ConfigError {
    ConfigError::Read { file: path.display().to_string(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, host: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("unqualified-search-registries = [\"{host}\"]\n")).unwrap();
    }

    /// What a short name means with these places.
    #[track_caller]
    fn meaning(places: &Places) -> String {
        let registries = Registries::from_places(places).unwrap();
        registries.candidates(&"x/y".parse().unwrap())[0].registry.clone()
    }

    #[test]
    fn later_files_win_and_a_chosen_one_is_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (user, system) = (dir.path().join("user"), dir.path().join("system"));
        let mut places = Places { chosen: None, user: Some(user.clone()), system: system.clone() };
        assert_eq!(meaning(&places), "docker.io");
        write(&system.join("registries.conf"), "system.example");
        assert_eq!(meaning(&places), "system.example");
        write(&system.join("registries.conf.d/20.conf"), "second.example");
        write(&system.join("registries.conf.d/10.conf"), "first.example");
        write(&system.join("registries.conf.d/30.conf.bak"), "backup.example");
        assert_eq!(meaning(&places), "second.example");
        write(&user.join("registries.conf.d/00.conf"), "user-drop-in.example");
        assert_eq!(meaning(&places), "user-drop-in.example");
        fs::remove_dir_all(user.join("registries.conf.d")).unwrap();
        write(&user.join("registries.conf"), "user.example");
        assert_eq!(meaning(&places), "user.example", "the user's file hides the system's drop-ins");
        let chosen = dir.path().join("chosen.conf");
        places.chosen = Some(chosen.clone());
        assert!(matches!(Registries::from_places(&places), Err(ConfigError::Read { .. })));
        write(&chosen, "chosen.example");
        assert_eq!(meaning(&places), "chosen.example");
    }

    #[test]
    fn the_environment_says_where() {
        let with = |pairs: &'static [(&str, &str)]| {
            Places::from_environment(move |n| pairs.iter().find(|(k, _)| *k == n).map(|(_, v)| v.into()))
        };
        let user = |pairs| with(pairs).user.map(|p| p.display().to_string());
        assert_eq!(user(&[("HOME", "/h")]).as_deref(), Some("/h/.config/containers"));
        assert_eq!(user(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")]).as_deref(), Some("/x/containers"));
        assert_eq!(
            user(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "")]).as_deref(),
            Some("/h/.config/containers")
        );
        assert_eq!(user(&[("XDG_CONFIG_HOME", "x")]), None);
        assert_eq!(with(&[("CONTAINERS_REGISTRIES_CONF", "f")]).chosen, Some("f".into()));
    }
}
