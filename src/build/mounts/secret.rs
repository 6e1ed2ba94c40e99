//! Secrets: read when a step needs them, mounted from memory, and never written anywhere.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::MountError;

/// Largest secret in bytes: BuildKit's limit.
pub const MAX_SECRET: u64 = 500 * 1024;

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file.
    File(PathBuf),
    /// A variable of cooper's own environment.
    Env(String),
}

/// The secret `id` among those that the user gave; `None` when it is not there and need not be. A variable
/// that is not set is a secret that was not given; a file that is not there is a mistake.
///
/// To be called before the user namespace is entered: inside it a file that is readable only through one
/// of the user's further groups no longer is.
///
/// # Errors
/// When a required one was not given, its file cannot be read, or it is larger than [`MAX_SECRET`].
pub fn secret(
    given: &BTreeMap<String, SecretSource>,
    id: &str,
    required: bool,
) -> Result<Option<Vec<u8>>, MountError> {
    let found = match given.get(id) {
        None => None,
        Some(SecretSource::Env(name)) => std::env::var_os(name).map(OsStringExt::into_vec),
        Some(SecretSource::File(path)) => {
            let mut bytes = Vec::new();
            File::open(path)
                .and_then(|file| file.take(MAX_SECRET + 1).read_to_end(&mut bytes))
                .map_err(|source| MountError::SecretFile { id: id.to_owned(), path: path.clone(), source })?;
            Some(bytes)
        }
    };
    match found {
        Some(bytes) if bytes.len() as u64 > MAX_SECRET => Err(MountError::LargeSecret { id: id.to_owned() }),
        None if required => Err(MountError::NoSecret { id: id.to_owned() }),
        other => Ok(other),
    }
}
