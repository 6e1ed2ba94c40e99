//! The ids that a task would have if it could: the kernel's rules for changing them.
//!
//! credentials(7), setuid(2) and its relatives, capabilities(7). No I/O: what a call does to a set of
//! credentials, and what the kernel would say.

/// `EPERM`, or whatever else the kernel would answer.
pub(super) type Errno = i32;

/// Real, effective, saved and file-system id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ids {
    pub(super) real: u32,
    pub(super) effective: u32,
    pub(super) saved: u32,
    pub(super) fs: u32,
}

/// Whose ids a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    User,
    Group,
}

/// What one task is, on record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Credentials {
    pub(super) user: Ids,
    pub(super) group: Ids,
    pub(super) groups: Vec<u32>,
    /// Capabilities, a bit each.
    pub(super) permitted: u64,
    pub(super) effective: u64,
    /// `PR_SET_KEEPCAPS`.
    pub(super) keep_capabilities: bool,
}

pub(super) const CAP_CHOWN: u32 = 0;
pub(super) const CAP_SETGID: u32 = 6;
pub(super) const CAP_SETUID: u32 = 7;
pub(super) const CAP_MKNOD: u32 = 27;

/// What goes and comes with the file-system user id: `CAP_FS_SET` of the kernel.
const OF_FILES: u64 = 1 << CAP_CHOWN | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 9 | 1 << CAP_MKNOD | 1 << 32;

/// An argument that asks for no change.
const KEEP: u32 = u32::MAX;

/// `NGROUPS_MAX`.
pub(super) const GROUPS_LIMIT: usize = 65_536;

impl Ids {
    pub(super) fn all(id: u32) -> Ids {
        Ids { real: id, effective: id, saved: id, fs: id }
    }

    fn has(&self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }
}

impl Credentials {
    /// As a program starts. `bounding` is what root may have.
    pub(super) fn new(uid: u32, gid: u32, groups: &[u32], bounding: u64) -> Credentials {
        let capabilities = if uid == 0 { bounding } else { 0 };
        let mut new = Credentials {
            user: Ids::all(uid),
            group: Ids::all(gid),
            groups: groups.to_vec(),
            permitted: capabilities,
            effective: capabilities,
            keep_capabilities: false,
        };
        new.groups.sort_unstable();
        new
    }

    /// Whether a capability is in force.
    pub(super) fn can(&self, capability: u32) -> bool {
        self.effective & 1 << capability != 0
    }

    /// Whether a file's group is one of this task's.
    pub(super) fn in_group(&self, gid: u32) -> bool {
        self.group.fs == gid || self.groups.contains(&gid)
    }

    fn ids(&self, kind: Kind) -> Ids {
        match kind {
            Kind::User => self.user,
            Kind::Group => self.group,
        }
    }

    fn privileged(&self, kind: Kind) -> bool {
        self.can(match kind {
            Kind::User => CAP_SETUID,
            Kind::Group => CAP_SETGID,
        })
    }

    fn become_ids(&mut self, kind: Kind, new: Ids) {
        match kind {
            Kind::User => {
                let old = std::mem::replace(&mut self.user, new);
                if old.has(0) && !new.has(0) && !self.keep_capabilities {
                    self.permitted = 0;
                    self.effective = 0;
                }
                match (old.effective, new.effective) {
                    (0, 1..) => self.effective = 0,
                    (1.., 0) => self.effective = self.permitted,
                    _ => {}
                }
            }
            Kind::Group => self.group = new,
        }
    }

    /// `setuid`, `setgid`.
    pub(super) fn set(&mut self, kind: Kind, id: u32) -> Result<(), Errno> {
        if id == KEEP {
            return Err(libc::EINVAL);
        }
        let old = self.ids(kind);
        let new = if self.privileged(kind) {
            Ids::all(id)
        } else if id == old.real || id == old.saved {
            Ids { effective: id, fs: id, ..old }
        } else {
            return Err(libc::EPERM);
        };
        self.become_ids(kind, new);
        Ok(())
    }

    /// `setreuid`, `setregid`.
    pub(super) fn set_real_effective(&mut self, kind: Kind, real: u32, effective: u32) -> Result<(), Errno> {
        let (old, privileged) = (self.ids(kind), self.privileged(kind));
        let mut new = old;
        if real != KEEP {
            if !privileged && real != old.real && real != old.effective {
                return Err(libc::EPERM);
            }
            new.real = real;
        }
        if effective != KEEP {
            if !privileged && !old.has(effective) {
                return Err(libc::EPERM);
            }
            new.effective = effective;
        }
        if real != KEEP || (effective != KEEP && effective != old.real) {
            new.saved = new.effective;
        }
        new.fs = new.effective;
        self.become_ids(kind, new);
        Ok(())
    }

    /// `setresuid`, `setresgid`: real, effective, saved.
    pub(super) fn set_three(&mut self, kind: Kind, ids: [u32; 3]) -> Result<(), Errno> {
        let old = self.ids(kind);
        if !self.privileged(kind) && ids.iter().any(|id| *id != KEEP && !old.has(*id)) {
            return Err(libc::EPERM);
        }
        let or = |id, old| if id == KEEP { old } else { id };
        let effective = or(ids[1], old.effective);
        let new = Ids { real: or(ids[0], old.real), effective, saved: or(ids[2], old.saved), fs: effective };
        self.become_ids(kind, new);
        Ok(())
    }

    /// `setfsuid`, `setfsgid`: never fails, and gives the id before.
    pub(super) fn set_fs(&mut self, kind: Kind, id: u32) -> u32 {
        let old = self.ids(kind);
        if id != KEEP && (old.has(id) || id == old.fs || self.privileged(kind)) {
            match kind {
                Kind::User => {
                    self.user.fs = id;
                    match (old.fs, id) {
                        (0, 1..) => self.effective &= !OF_FILES,
                        (1.., 0) => self.effective |= self.permitted & OF_FILES,
                        _ => {}
                    }
                }
                Kind::Group => self.group.fs = id,
            }
        }
        old.fs
    }

    /// `setgroups`.
    pub(super) fn set_groups(&mut self, groups: Vec<u32>) -> Result<(), Errno> {
        if !self.can(CAP_SETGID) {
            return Err(libc::EPERM);
        }
        if groups.len() > GROUPS_LIMIT || groups.contains(&KEEP) {
            return Err(libc::EINVAL);
        }
        self.groups = groups;
        // The kernel keeps them in order, and getgroups shows it.
        self.groups.sort_unstable();
        Ok(())
    }

    /// `capset`, as far as a task may shrink and raise within what it has.
    pub(super) fn set_capabilities(&mut self, permitted: u64, effective: u64) -> Result<(), Errno> {
        if permitted & !self.permitted != 0 || effective & !permitted != 0 {
            return Err(libc::EPERM);
        }
        (self.permitted, self.effective) = (permitted, effective);
        Ok(())
    }

    /// `execve` of a program that changes the effective ids to these, where it has the bits for it.
    pub(super) fn execute(&mut self, set_user: Option<u32>, set_group: Option<u32>, bounding: u64) {
        self.user.effective = set_user.unwrap_or(self.user.effective);
        self.group.effective = set_group.unwrap_or(self.group.effective);
        for ids in [&mut self.user, &mut self.group] {
            ids.saved = ids.effective;
            ids.fs = ids.effective;
        }
        self.keep_capabilities = false;
        let root = self.user.effective == 0;
        self.permitted = if root || self.user.real == 0 { bounding } else { 0 };
        self.effective = if root { self.permitted } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = 0xa804_25fb;

    fn root() -> Credentials {
        Credentials::new(0, 0, &[0, 5], ALL)
    }

    fn ids(c: &Credentials) -> [u32; 4] {
        [c.user.real, c.user.effective, c.user.saved, c.user.fs]
    }

    #[test]
    fn root_gives_itself_away_for_good_with_setuid() {
        let mut c = root();
        c.set(Kind::User, 7).unwrap();
        assert_eq!(ids(&c), [7; 4]);
        assert_eq!((c.permitted, c.effective), (0, 0));
        assert_eq!(c.set(Kind::User, 0), Err(libc::EPERM));
        assert_eq!(c.set(Kind::Group, 8), Err(libc::EPERM));
        assert_eq!(c.set_groups(vec![]), Err(libc::EPERM));
        assert_eq!(c.set(Kind::User, 7), Ok(()));
        assert_eq!(c.set(Kind::User, u32::MAX), Err(libc::EINVAL));
    }

    #[test]
    fn an_effective_id_can_be_lent_and_taken_back() {
        let mut c = root();
        c.set_three(Kind::User, [KEEP, 7, KEEP]).unwrap();
        assert_eq!(ids(&c), [0, 7, 0, 7]);
        assert!(!c.can(CAP_CHOWN) && c.permitted == ALL);
        assert_eq!(c.set_three(Kind::User, [9, KEEP, KEEP]), Err(libc::EPERM));
        c.set_three(Kind::User, [KEEP, 0, KEEP]).unwrap();
        assert!(c.can(CAP_CHOWN));
    }

    #[test]
    fn setreuid_swaps_and_saves() {
        let mut c = Credentials::new(5, 5, &[], ALL);
        c.user = Ids { real: 5, effective: 6, saved: 6, fs: 6 };
        c.set_real_effective(Kind::User, 6, 5).unwrap();
        assert_eq!(ids(&c), [6, 5, 5, 5]);
        assert_eq!(c.set_real_effective(Kind::User, KEEP, 7), Err(libc::EPERM));
        // The saved id may become the effective one, but not the real one.
        c.user = Ids { real: 5, effective: 6, saved: 7, fs: 6 };
        assert_eq!(c.set_real_effective(Kind::User, 7, KEEP), Err(libc::EPERM));
        c.set_real_effective(Kind::User, KEEP, 5).unwrap();
        assert_eq!(ids(&c), [5, 5, 7, 5], "an effective id equal to the real one leaves the saved one");
    }

    #[test]
    fn the_file_system_id_follows_and_can_be_set_alone() {
        let mut c = root();
        assert_eq!(c.set_fs(Kind::User, 9), 0);
        assert_eq!(ids(&c), [0, 0, 0, 9]);
        assert!(!c.can(CAP_CHOWN) && c.can(CAP_SETUID));
        assert_eq!(c.set_fs(Kind::User, 0), 9);
        assert!(c.can(CAP_CHOWN));
        let mut c = Credentials::new(7, 7, &[], ALL);
        assert_eq!(c.set_fs(Kind::Group, 0), 7);
        assert_eq!(c.group.fs, 7, "refused without an error");
    }

    #[test]
    fn capabilities_survive_when_asked() {
        let mut c = root();
        c.keep_capabilities = true;
        c.set(Kind::User, 7).unwrap();
        assert_eq!((c.permitted, c.effective), (ALL, 0));
        c.set_capabilities(ALL, 1 << CAP_SETGID).unwrap();
        c.set(Kind::Group, 7).unwrap();
        c.set_groups(vec![9, 3]).unwrap();
        assert_eq!(c.groups, [3, 9]);
        assert_eq!(c.set_capabilities(ALL | 1 << 21, 0), Err(libc::EPERM));
        c.execute(None, None, ALL);
        assert_eq!((c.permitted, c.effective), (0, 0));
    }

    #[test]
    fn programs_with_the_bits_change_the_effective_ids() {
        let mut c = Credentials::new(7, 8, &[], ALL);
        c.execute(Some(0), None, ALL);
        assert_eq!(ids(&c), [7, 0, 0, 0]);
        assert!(c.can(CAP_SETUID) && c.group == Ids::all(8));
        c.set(Kind::User, 7).unwrap();
        assert_eq!(ids(&c), [7; 4]);
        c.execute(None, Some(42), ALL);
        assert_eq!(c.group, Ids { real: 8, effective: 42, saved: 42, fs: 42 });
        assert!(!c.can(CAP_SETUID));
    }
}
