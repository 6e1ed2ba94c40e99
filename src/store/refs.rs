//! `index.json`: which names lead to which manifests.
//!
//! A name is kept in the annotation `org.opencontainers.image.ref.name` of its descriptor, as the OCI
//! layout specification has it. Changes are made by whoever holds `index.lock`, and arrive by rename: after what
//! they name is on the disk, and after they are there themselves, since an empty file would be the end of all names.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;

use super::{Store, StoreError, replace_synced};
use crate::image::{Descriptor, ImageIndex};

/// The annotation that holds a name.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Reads the `index.json` of a layout directory.
///
/// # Errors
/// When it cannot be read or does not parse.
pub fn read_index(layout: &Path) -> Result<ImageIndex, StoreError> {
    let path = layout.join("index.json");
    let text = fs::read(&path).map_err(StoreError::io("cannot read", &path))?;
    serde_json::from_slice(&text).map_err(|e| StoreError::Damaged { path, reason: e.to_string() })
}

/// Writes `descriptor` under `name` into the `index.json` of a layout directory, in place of what the
/// name led to. Without a name it replaces an unnamed entry with the same digest. The new file is written in
/// `temporary` first, a directory on the same file system.
pub fn put_in_index(
    layout: &Path,
    temporary: &Path,
    name: Option<&str>,
    mut descriptor: Descriptor,
) -> Result<(), StoreError> {
    let mut index = read_index(layout)?;
    let mut annotations: HashMap<String, String> = descriptor.annotations().clone().unwrap_or_default();
    annotations.remove(REF_NAME);
    if let Some(name) = name {
        annotations.insert(REF_NAME.to_owned(), name.to_owned());
    }
    descriptor.set_annotations((!annotations.is_empty()).then_some(annotations));
    let mut manifests = index.manifests().clone();
    let digest = descriptor.digest().clone();
    let replaced = |d: &Descriptor| match name {
        Some(name) => name_of(d) == Some(name),
        None => name_of(d).is_none() && *d.digest() == digest,
    };
    let mut there = manifests.iter().filter(|d| replaced(d));
    if there.next() == Some(&descriptor) && there.next().is_none() {
        return Ok(());
    }
    manifests.retain(|d| !replaced(d));
    manifests.push(descriptor);
    index.set_manifests(manifests);
    let text = serde_json::to_vec(&index)
        .map_err(|e| StoreError::Damaged { path: layout.join("index.json"), reason: e.to_string() })?;
    replace_synced(temporary, &layout.join("index.json"), &text)
}

/// The name a descriptor carries.
pub fn name_of(descriptor: &Descriptor) -> Option<&str> {
    descriptor.annotations().as_ref()?.get(REF_NAME).map(String::as_str)
}

impl Store {
    /// What `name` leads to.
    pub fn find(&self, name: &str) -> Result<Option<Descriptor>, StoreError> {
        Ok(read_index(&self.root)?.manifests().iter().find(|d| name_of(d) == Some(name)).cloned())
    }

    /// Lets `name` lead to `descriptor`; does nothing when it does already. What the command has written before is
    /// on the disk by then ([`barrier`](Store::barrier)).
    pub fn set_name(&self, name: &str, descriptor: &Descriptor) -> Result<(), StoreError> {
        if let Some(found) = self.find(name)?
            && found.digest() == descriptor.digest()
        {
            return Ok(());
        }
        self.barrier()?;
        let path = self.root.join("index.lock");
        let lock = File::open(&path).map_err(StoreError::io("cannot open", &path))?;
        lock.lock().map_err(StoreError::io("cannot lock", &path))?;
        put_in_index(&self.root, &self.root.join("work"), Some(name), descriptor.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Digest, MediaType};

    #[test]
    fn names_are_replaced_not_repeated_and_none_is_lost_side_by_side() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let descriptor = |n: usize| {
            let digest: oci_spec::image::Digest = Digest::of(&[n as u8]).to_string().parse().unwrap();
            Descriptor::new(MediaType::ImageManifest, 1, digest)
        };
        std::thread::scope(|scope| {
            for n in 0..16 {
                let store = &store;
                scope.spawn(move || store.set_name(&format!("name-{}", n % 8), &descriptor(n)).unwrap());
            }
        });
        assert_eq!(read_index(dir.path()).unwrap().manifests().len(), 8);
        assert!(store.find("name-3").unwrap().is_some());
        assert!(store.find("name-9").unwrap().is_none());
    }
}
