//! What a file ought to be and could not be made, kept on record instead.
//!
//! A user namespace with a single id cannot hold other owners; none can hold device nodes
//! (`mknod(2)` asks for `CAP_MKNOD` in the first namespace), or ids outside its map. The file is made
//! as well as the kernel allows, owned by root or empty, and what is missing is written down: in a
//! layer's record by path, while a step runs by inode.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What is on record about one file. Empty, there is nothing on record: it is what the file system says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// User and group id, as the image's users see them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<(u32, u32)>,
    /// The device node that an empty regular file stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Node>,
    /// Extended attributes that the kernel refused: access control lists that name ids outside the map.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", with = "pairs")]
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Whether it is a block device; else it is a character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl Attributes {
    /// Whether nothing is on record.
    pub fn is_empty(&self) -> bool {
        *self == Attributes::default()
    }
}

/// Names a file while it is there, whatever its names: what `stat(2)` says of it in the mounted root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Inode {
    /// The file system's device number, `st_dev`.
    pub dev: u64,
    /// The inode's number, `st_ino`.
    pub ino: u64,
}

/// What is on record while a step runs.
pub type ByInode = std::collections::HashMap<Inode, Attributes>;

/// Records of files as they travel: numbers without names, since a step can have very many of them.
pub(crate) mod entries {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Attributes, Inode, Node};

    type Entry = (u64, u64, Option<(u32, u32)>, Option<(bool, u32, u32)>, Vec<(Vec<u8>, Vec<u8>)>);

    pub(crate) fn serialize<S: Serializer>(
        records: &[(Inode, Attributes)],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(records.iter().map(|(inode, record)| {
            let node = record.node.map(|n| (n.block, n.major, n.minor));
            let xattrs: Vec<_> = record.xattrs.iter().collect();
            (inode.dev, inode.ino, record.owner, node, xattrs)
        }))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<(Inode, Attributes)>, D::Error> {
        let records = Vec::<Entry>::deserialize(from)?.into_iter();
        Ok(records
            .map(|(dev, ino, owner, node, xattrs)| {
                let node = node.map(|(block, major, minor)| Node { block, major, minor });
                (Inode { dev, ino }, Attributes { owner, node, xattrs: xattrs.into_iter().collect() })
            })
            .collect())
    }
}

/// JSON has text for keys only, and the names of attributes are bytes.
mod pairs {
    use super::BTreeMap;
    use serde::{Deserialize, Deserializer, Serializer};

    type Map = BTreeMap<Vec<u8>, Vec<u8>>;

    pub(super) fn serialize<S: Serializer>(map: &Map, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(map)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Map, D::Error> {
        Ok(Vec::<(Vec<u8>, Vec<u8>)>::deserialize(from)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_json() {
        let node = Some(Node { block: true, major: 8, minor: 1 });
        let xattrs = BTreeMap::from([(b"user.\xff".to_vec(), vec![0, 255])]);
        let full = Attributes { owner: Some((1, u32::MAX - 1)), node, xattrs };
        for record in [full, Attributes::default()] {
            let text = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<Attributes>(&text).unwrap(), record);
            assert_eq!(record.is_empty(), text == "{}");
            let entries = vec![(Inode { dev: u64::MAX, ino: 7 }, record)];
            let mut text = Vec::new();
            super::entries::serialize(&entries, &mut serde_json::Serializer::new(&mut text)).unwrap();
            let back = super::entries::deserialize(&mut serde_json::Deserializer::from_slice(&text));
            assert_eq!(back.unwrap(), entries);
        }
    }
}
