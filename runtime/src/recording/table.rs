//! What is on record about files, by inode.

use std::collections::HashMap;

use crate::record::{Attributes, ByInode, Inode};
use crate::sys::memory::KernelStat;

/// The records of one step.
#[derive(Debug, Default)]
pub(super) struct Table {
    records: ByInode,
    /// Files without a name, made so or opened before they lost it. Their numbers come free unseen: what
    /// holds of them holds only while they have no name.
    nameless: ByInode,
    /// Numbers that stand for another: files that show two. The record is under the other.
    aliases: HashMap<Inode, Inode>,
    /// How many records have extended attributes: nearly always none, which saves looking.
    with_xattrs: usize,
}

impl Table {
    pub(super) fn new(known: Vec<(Inode, Attributes)>) -> Table {
        let mut table = Table::default();
        for (inode, record) in known {
            table.put(inode, 1, record);
        }
        table
    }

    pub(super) fn into_records(mut self) -> ByInode {
        for (alias, first) in self.aliases {
            if let Some(record) = self.records.get(&first).cloned() {
                self.records.insert(alias, record);
            }
        }
        self.records
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.nameless.is_empty()
    }

    pub(super) fn has_xattrs(&self) -> bool {
        self.with_xattrs > 0
    }

    /// What is on record about a file with this number and so many names.
    pub(super) fn get(&self, inode: Inode, links: u64) -> Option<&Attributes> {
        if links == 0 { self.nameless.get(&inode) } else { self.records.get(&self.canonical(inode)) }
    }

    /// Writes down all that is on record about a file from now on; nothing, when the record is empty.
    pub(super) fn put(&mut self, inode: Inode, links: u64, record: Attributes) {
        self.with_xattrs += usize::from(!record.xattrs.is_empty());
        let inode = if links == 0 { inode } else { self.canonical(inode) };
        let map = if links == 0 { &mut self.nameless } else { &mut self.records };
        let old = if record.is_empty() { map.remove(&inode) } else { map.insert(inode, record) };
        self.with_xattrs -= usize::from(old.is_some_and(|o| !o.xattrs.is_empty()));
    }

    /// Strikes a file off that is gone.
    pub(super) fn remove(&mut self, inode: Inode) {
        self.put(inode, 1, Attributes::default());
    }

    /// A file may have got another number, and what was known under the old one holds under the new.
    ///
    /// A file of a lower layer with several names is copied up under a number of its own, and its other names
    /// stay what they were.
    pub(super) fn copied_up(&mut self, from: (Inode, u64), to: (Inode, u64)) {
        if self.canonical(from.0) != self.canonical(to.0)
            && let Some(record) = self.get(from.0, from.1).cloned()
        {
            self.put(to.0, to.1, record);
        }
    }

    /// A file has got another name, under which it may show another number.
    ///
    /// overlayfs shows a file that it has copied up under its old number by its old name, and under its new one
    /// by a new name. The old one is a lower layer's, and nobody else's ever.
    pub(super) fn linked(&mut self, from: (Inode, u64), to: Inode) {
        if from.1 == 0
            && let Some(record) = self.nameless.remove(&from.0)
        {
            self.put(from.0, 1, record);
        }
        let first = self.canonical(from.0);
        if first != self.canonical(to) {
            self.remove(to);
            self.aliases.insert(to, first);
        }
    }

    /// A file is shown under a second number as well.
    pub(super) fn shown_as(&mut self, first: Inode, other: Inode) {
        let first = self.canonical(first);
        if first != other {
            self.records.remove(&other);
            self.aliases.insert(other, first);
        }
    }

    fn canonical(&self, inode: Inode) -> Inode {
        self.aliases.get(&inode).copied().unwrap_or(inode)
    }

    /// Whose a file is: as recorded, else as the kernel says.
    pub(super) fn owner(&self, stat: &KernelStat) -> (u32, u32) {
        let recorded = self.get(inode(stat), links(stat)).and_then(|r| r.owner);
        // Only what belongs to root is recorded: a file that has another owner got it from the kernel.
        recorded.filter(|_| (stat.st_uid, stat.st_gid) == (0, 0)).unwrap_or((stat.st_uid, stat.st_gid))
    }
}

/// A file's number.
pub(super) fn inode(stat: &KernelStat) -> Inode {
    Inode { dev: stat.st_dev, ino: stat.st_ino }
}

/// How many names a file has.
#[allow(clippy::unnecessary_cast, clippy::useless_conversion, reason = "32 bits wide on aarch64")]
pub(super) fn links(stat: &KernelStat) -> u64 {
    u64::from(stat.st_nlink)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Inode = Inode { dev: 1, ino: 1 };
    const B: Inode = Inode { dev: 1, ino: 2 };

    fn owned(uid: u32) -> Attributes {
        Attributes { owner: Some((uid, uid)), ..Attributes::default() }
    }

    #[test]
    fn records_are_put_replaced_and_struck_off() {
        let mut table = Table::new(vec![(A, owned(5))]);
        assert_eq!(table.get(A, 1), Some(&owned(5)));
        table.put(A, 2, owned(6));
        assert_eq!(table.get(A, 1), Some(&owned(6)));
        table.put(A, 1, Attributes::default());
        assert!(table.is_empty() && table.get(A, 1).is_none());
        let acl = Attributes { xattrs: [(b"a".to_vec(), vec![])].into(), ..owned(1) };
        table.put(A, 1, acl.clone());
        table.put(A, 1, acl);
        assert!(table.has_xattrs());
        table.remove(A);
        table.remove(A);
        assert!(!table.has_xattrs());
    }

    #[test]
    fn a_file_without_a_name_keeps_its_record_to_itself() {
        let mut table = Table::default();
        table.put(A, 0, owned(5));
        assert_eq!((table.get(A, 0), table.get(A, 1)), (Some(&owned(5)), None));
        table.linked((A, 0), A);
        assert_eq!((table.get(A, 0), table.get(A, 1)), (None, Some(&owned(5))));
    }

    #[test]
    fn a_file_that_is_copied_up_leaves_its_other_names_alone() {
        let mut table = Table::new(vec![(A, owned(5))]);
        table.copied_up((A, 2), (A, 2));
        table.copied_up((A, 2), (B, 1));
        table.put(B, 1, owned(6));
        assert_eq!((table.get(A, 1), table.get(B, 1)), (Some(&owned(5)), Some(&owned(6))));
    }

    #[test]
    fn a_file_with_two_numbers_has_one_record() {
        let mut table = Table::new(vec![(A, owned(5)), (B, owned(9))]);
        table.linked((A, 1), B);
        assert_eq!(table.get(B, 2), Some(&owned(5)));
        table.put(B, 2, owned(6));
        assert_eq!(table.get(A, 2), Some(&owned(6)));
        let records = table.into_records();
        assert_eq!((records.len(), &records[&A], &records[&B]), (2, &owned(6), &owned(6)));
    }

    #[test]
    fn a_real_owner_other_than_root_is_right() {
        let table = Table::new(vec![(A, owned(5))]);
        let mut stat = crate::sys::memory::stat(rustix::fs::CWD, c"/", 0).unwrap();
        (stat.st_dev, stat.st_ino, stat.st_nlink, stat.st_uid, stat.st_gid) = (1, 1, 1, 0, 0);
        assert_eq!(table.owner(&stat), (5, 5));
        stat.st_uid = 7;
        assert_eq!(table.owner(&stat), (7, 0));
    }
}
