//! What a layer says about one name.

use std::collections::BTreeMap;

/// The prefix of a name that says another name is gone.
pub const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// The name that says a directory hides all that lower layers have in it.
pub const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
/// The prefix of names AUFS kept for itself; apart from [`OPAQUE_MARKER`] they carry nothing.
pub const AUFS_PREFIX: &[u8] = b".wh..wh.";

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative, no slash at either end, components plain names; empty for the root. A whiteout's is
    /// the path of the name that is gone.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky (`0o7777`).
    pub mode: u32,
    /// Owner, as the image's users see it.
    pub uid: u32,
    /// Group, as the image's users see it.
    pub gid: u32,
    /// Modification time, whole seconds since 1970; negative before.
    pub mtime: i64,
    /// Extended attributes, only those that [`kept_xattr`] keeps, in the form of [`normalise_xattr`].
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Bytes of content.
        size: u64,
    },
    /// Another name for a file of this layer.
    Hardlink {
        /// Path of the other name, in the form of [`Entry::path`].
        target: Vec<u8>,
    },
    /// A symbolic link.
    Symlink {
        /// What the link says, taken literally.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A name that lower layers have and this one takes away.
    Whiteout,
}

/// Whether layers speak of this extended attribute: file capabilities, POSIX ACLs, and what users set.
///
/// Left out are the labels of the machine (`security.selinux`, `security.ima` and their like),
/// `trusted.*`, and the two families that are bookkeeping on disk, overlay's and our own. A layer that
/// could set `user.overlay.*` could redirect directories of the file system it is mounted in.
pub fn kept_xattr(name: &[u8]) -> bool {
    match name {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        _ => {
            name.len() > b"user.".len()
                && name.starts_with(b"user.")
                && !name.starts_with(b"user.overlay.")
                && !name.starts_with(b"user.cooper.")
        }
    }
}

/// The form in which a layer carries the value of an attribute.
///
/// File capabilities written inside a user namespace come back as version 3, which names the host id
/// of that namespace's root (`capabilities(7)`): another value on every machine. A layer has version 2,
/// the same without that id. Other attributes and malformed capabilities are passed on as they are.
pub fn normalise_xattr(name: &[u8], mut value: Vec<u8>) -> Vec<u8> {
    // struct vfs_ns_cap_data (linux/capability.h), little endian: the revision is the highest byte of
    // the first word, and version 3 appends one word to version 2.
    const V2_LEN: usize = 20;
    const V3_LEN: usize = 24;
    if name == b"security.capability" && value.len() == V3_LEN && value[3] == 3 {
        value[3] = 2;
        value.truncate(V2_LEN);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_and_bookkeeping_attributes_stay_out() {
        for kept in ["security.capability", "user.x", "user.overlayx", "system.posix_acl_access"] {
            assert!(kept_xattr(kept.as_bytes()), "{kept}");
        }
        for left in [
            "security.selinux",
            "trusted.overlay.opaque",
            "user.overlay.redirect",
            "user.cooper.root",
            "user.",
        ] {
            assert!(!kept_xattr(left.as_bytes()), "{left}");
        }
    }

    #[test]
    fn capabilities_lose_their_root_id() {
        let v3 = [1, 0, 0, 3, 0, 4, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0xa0, 0x86, 1, 0].to_vec();
        let v2 = [1, 0, 0, 2, 0, 4, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0].to_vec();
        assert_eq!(normalise_xattr(b"security.capability", v3.clone()), v2);
        assert_eq!(normalise_xattr(b"security.capability", v2.clone()), v2);
        assert_eq!(normalise_xattr(b"user.v3", v3.clone()), v3);
    }
}
