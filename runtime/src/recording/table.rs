//! What is on record about files, by inode.

use crate::record::{Attributes, ByInode, Inode};
use crate::sys::memory::KernelStat;

/// The records of one step.
#[derive(Debug, Default)]
pub(super) struct Table {
    records: ByInode,
    /// Files without a name, made so or opened before they lost it. Their numbers come free unseen: what
    /// holds of them holds only while they have no name.
    nameless: ByInode,
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

    pub(super) fn into_records(self) -> ByInode {
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
        if links == 0 { self.nameless.get(&inode) } else { self.records.get(&inode) }
    }

    /// Writes down all that is on record about a file from now on; nothing, when the record is empty.
    pub(super) fn put(&mut self, inode: Inode, links: u64, record: Attributes) {
        self.with_xattrs += usize::from(!record.xattrs.is_empty());
        let map = if links == 0 { &mut self.nameless } else { &mut self.records };
        let old = if record.is_empty() { map.remove(&inode) } else { map.insert(inode, record) };
        self.with_xattrs -= usize::from(old.is_some_and(|o| !o.xattrs.is_empty()));
    }

    /// Strikes a file off that is gone.
    pub(super) fn remove(&mut self, inode: Inode) {
        self.put(inode, 1, Attributes::default());
    }

    /// Moves a record when a file's number has changed, or when it has got its first name: a file of a
    /// lower layer that was copied up, or one made without a name and linked.
    pub(super) fn renumber(&mut self, from: (Inode, u64), to: (Inode, u64)) {
        let same = from.0 == to.0 && (from.1 == 0) == (to.1 == 0);
        if let Some(record) = self.get(from.0, from.1).filter(|_| !same).cloned() {
            self.put(from.0, from.1, Attributes::default());
            self.put(to.0, to.1, record);
        }
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
        table.renumber((A, 0), (A, 1));
        assert_eq!((table.get(A, 0), table.get(A, 1)), (None, Some(&owned(5))));
        table.renumber((A, 1), (A, 2));
        table.renumber((A, 2), (B, 1));
        assert_eq!(table.into_records().into_iter().collect::<Vec<_>>(), [(B, owned(5))]);
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
