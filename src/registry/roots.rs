//! The certificates that servers are believed by.
//!
//! Those of `SSL_CERT_FILE` and `SSL_CERT_DIR` where somebody chose them (either or both, several
//! directories with colons between), else those that the distribution installed, where OpenSSL's many
//! homes are looked through. Where there are none and nobody chose, the Mozilla ones compiled in: small
//! images have no bundle.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use ureq::tls::{Certificate, PemItem, RootCerts, parse_pem};

/// What was found, and what could not be read.
#[derive(Debug, Default)]
struct Found {
    /// In DER. A set, as bundles and directories of the same system overlap.
    certificates: BTreeSet<Vec<u8>>,
    problems: Vec<String>,
}

/// The certificates of this machine and this environment.
pub(super) fn roots() -> RootCerts {
    let (found, chosen) = find(|name| std::env::var_os(name).filter(|value| !value.is_empty()));
    for problem in &found.problems {
        tracing::warn!("certificates: {problem}");
    }
    if found.certificates.is_empty() && !chosen {
        tracing::debug!("no certificates on this machine, using those compiled in");
        return RootCerts::WebPki;
    }
    found.certificates.iter().map(|der| Certificate::from_der(der).to_owned()).into()
}

/// The certificates, and whether the environment chose them.
fn find(variable: impl Fn(&str) -> Option<OsString>) -> (Found, bool) {
    let file = variable("SSL_CERT_FILE").map(PathBuf::from);
    let dirs: Vec<PathBuf> = variable("SSL_CERT_DIR")
        .map(|text| std::env::split_paths(&text).filter(|p| !p.as_os_str().is_empty()).collect())
        .unwrap_or_default();
    let mut found = Found::default();
    let chosen = file.is_some() || !dirs.is_empty();
    if chosen {
        file.iter().for_each(|file| found.read_file(file));
        dirs.iter().for_each(|dir| found.read_dir(dir));
        return (found, true);
    }
    let probed = openssl_probe::probe();
    probed.cert_file.iter().for_each(|file| found.read_file(file));
    // A directory holds what the bundle holds, a file each: reading it as well takes many times as long.
    if found.certificates.is_empty() {
        probed.cert_dir.iter().for_each(|dir| found.read_dir(dir));
    }
    (found, false)
}

impl Found {
    fn read_file(&mut self, path: &Path) {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) => return self.problems.push(format!("cannot read {}: {e}", path.display())),
        };
        for item in parse_pem(&bytes) {
            match item {
                Ok(PemItem::Certificate(certificate)) => {
                    self.certificates.insert(certificate.der().to_vec());
                }
                // Keys lie beside certificates in some files.
                Ok(_) => {}
                Err(e) => self.problems.push(format!("{}: {e}", path.display())),
            }
        }
    }

    fn read_dir(&mut self, dir: &Path) {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) => return self.problems.push(format!("cannot read {}: {e}", dir.display())),
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            // Links by hash of subject, some of them stale, are what such directories are made of.
            if fs::metadata(&path).is_ok_and(|m| m.is_file()) {
                self.read_file(&path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PEM is base64 of DER: nobody looks into it before a server has to be believed.
    const ONE: &str = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n";
    const TWO: &str = "-----BEGIN CERTIFICATE-----\nMAMCAQI=\n-----END CERTIFICATE-----\n";

    fn with(file: Option<&Path>, dirs: Option<OsString>) -> (Found, bool) {
        find(|name| match name {
            "SSL_CERT_FILE" => file.map(|p| p.as_os_str().to_owned()),
            "SSL_CERT_DIR" => dirs.clone(),
            _ => None,
        })
    }

    #[test]
    fn the_environment_chooses_a_file_and_directories() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bundle.pem");
        fs::write(&file, format!("comment\n{ONE}{ONE}")).unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir(&a).unwrap();
        fs::create_dir(&b).unwrap();
        fs::write(a.join("0123abcd.0"), TWO).unwrap();
        std::os::unix::fs::symlink("/no/such/file", a.join("dead.0")).unwrap();
        fs::write(b.join("same.pem"), ONE).unwrap();

        let (found, chosen) = with(Some(&file), None);
        assert!(chosen && found.problems.is_empty(), "{found:?}");
        assert_eq!(found.certificates.len(), 1, "the same certificate twice is one");
        let both = std::env::join_paths([&a, &b]).unwrap();
        let (found, _) = with(None, Some(both.clone()));
        assert_eq!((found.certificates.len(), found.problems.len()), (2, 0), "{found:?}");
        let (found, _) = with(Some(&file), Some(both));
        assert_eq!(found.certificates.len(), 2);
    }

    #[test]
    fn what_was_chosen_and_is_missing_is_not_replaced_by_others() {
        let (found, chosen) = with(Some(Path::new("/no/such/bundle.pem")), None);
        assert!(chosen && found.certificates.is_empty());
        assert!(found.problems[0].contains("/no/such/bundle.pem"), "{found:?}");
    }

    #[test]
    fn without_a_choice_the_machine_is_looked_through() {
        let (_, chosen) = with(None, None);
        assert!(!chosen);
        let (_, chosen) = with(None, Some(OsString::from(":")));
        assert!(!chosen, "a list of nothing chooses nothing");
    }
}
