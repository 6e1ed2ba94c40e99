//! `cache/`: what earlier builds have found out. All of it can be deleted at any time.
//!
//! `steps/<instruction>/<key>` holds the layer that a step made, as JSON; the two-level name lets a
//! build know that an instruction was never run at all without knowing on what it would run.
//! `contents/<question>/<chain>` tells what files a `COPY` takes from the layers of a chain, or a mount shows.
//! `layers/<diff ID>/<compression>` tells of a blob that holds a layer in another compression,
//! `diff-ids/<digest>` what a blob unpacks to, `images/…` when an image was first made, and `context/…`
//! the hashes of a build context's files. `mounts/…` has directories that steps keep between builds: see
//! `src/build/mounts/cache.rs`.

use std::fs;
use std::path::PathBuf;

use serde::{Serialize, de::DeserializeOwned};

use super::{Store, StoreError};

impl Store {
    /// Reads a cached record; one that is not there or does not parse (an older program's, or torn by
    /// a loss of power) is `None`.
    pub fn cached<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&fs::read(self.cache_path(name)).ok()?).ok()
    }

    /// Keeps a record under `name` (relative, `/` between its parts).
    pub fn remember<T: Serialize>(&self, name: &str, record: &T) -> Result<(), StoreError> {
        let path = self.cache_path(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(StoreError::io("cannot create", parent))?;
        }
        let text = serde_json::to_vec(record)
            .map_err(|e| StoreError::Damaged { path: path.clone(), reason: e.to_string() })?;
        self.replace(&path, &text)
    }

    /// Where a record lies.
    pub fn cache_path(&self, name: &str) -> PathBuf {
        self.root.join("cache").join(name)
    }
}
