//! Access control lists that name ids which the kernel does not have: it refuses them with `EINVAL`.
//!
//! Such a list is kept on record whole. What the kernel makes of a list besides is made as well: the owner's,
//! the mask's and the others' permissions become the file's. All other attributes are the kernel's business.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::Mode;

use super::Scope;
use super::filter::{SYS_GETXATTRAT, SYS_REMOVEXATTRAT, SYS_SETXATTRAT};
use super::notify::{Answer, Answered, Recorder, done};
use super::table::{inode, links};
use super::target::{Target, stat_handle};

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";

/// `XATTR_SIZE_MAX`.
const VALUE_LIMIT: usize = 65_536;

/// Tags of `linux/posix_acl.h`.
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// `POSIX_ACL_XATTR_VERSION`.
const VERSION: u32 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

/// What a call is about.
struct Call {
    what: What,
    handle: OwnedFd,
    name: Vec<u8>,
    /// Where a value is or goes, and how long it is or may be.
    value: u64,
    size: usize,
    flags: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Set,
    Get,
    Remove,
}

impl Recorder {
    /// Any call that sets, shows or removes an extended attribute.
    pub(super) fn xattr(&mut self, t: &Target) -> Answered {
        if what(t.number) != What::Set && !self.table.has_xattrs() {
            return Ok(Answer::Pass);
        }
        let Some(call) = self.xattr_call(t)? else { return Ok(Answer::Pass) };
        if call.what != What::Get {
            self.before_copy(t, &call.handle)?;
        }
        if call.name != ACCESS && call.name != DEFAULT {
            return Ok(Answer::Pass);
        }
        let stat = stat_handle(&call.handle)?;
        let key = (inode(&stat), links(&stat));
        let mut record = self.table.get(key.0, key.1).cloned().unwrap_or_default();
        let recorded = record.xattrs.get(&call.name);
        match (call.what, recorded) {
            (What::Get, Some(value)) => {
                self.check(t)?;
                Ok(match call.size {
                    0 => Answer::Value(value.len() as i64),
                    room if room < value.len() => Answer::Error(libc::ERANGE),
                    _ => match t.write(call.value, value) {
                        Ok(()) => Answer::Value(value.len() as i64),
                        Err(_) => Answer::Error(libc::EFAULT),
                    },
                })
            }
            (What::Remove, Some(_)) => {
                self.check(t)?;
                record.xattrs.remove(&call.name);
                self.table.put(key.0, key.1, record);
                Ok(Answer::Value(0))
            }
            (What::Set, recorded) => {
                let mut value = vec![0; call.size];
                t.read(call.value, &mut value)?;
                let entries = parse(&value).filter(|e| is_valid(e) && names_ids(e, self.scope));
                let flags = rustix::fs::XattrFlags::from_bits_retain(call.flags);
                if recorded.is_some() && flags.contains(rustix::fs::XattrFlags::CREATE) {
                    return Ok(Answer::Error(libc::EEXIST));
                }
                self.check(t)?;
                let Some(entries) = entries else {
                    // One that the kernel can keep takes the place of one that it could not.
                    if recorded.is_some() {
                        record.xattrs.remove(&call.name);
                        self.table.put(key.0, key.1, record);
                    }
                    return Ok(Answer::Pass);
                };
                if call.name == ACCESS {
                    let mode = (stat.st_mode & 0o7000) | mode_of(&entries);
                    if let Err(e) = self.view.chmod(&call.handle, Mode::from_bits_retain(mode)) {
                        return Ok(done(Err(e)));
                    }
                }
                record.xattrs.insert(call.name, value);
                let now = stat_handle(&call.handle)?;
                self.table.put(inode(&now), links(&now), record);
                self.copied(&call.handle)?;
                Ok(Answer::Value(0))
            }
            _ => Ok(Answer::Pass),
        }
    }

    /// `None` for what shows another attribute than an access control list.
    fn xattr_call(&mut self, t: &Target) -> io::Result<Option<Call>> {
        let at = matches!(t.number, SYS_SETXATTRAT | SYS_GETXATTRAT | SYS_REMOVEXATTRAT);
        let name = t.text(t.args[if at { 3 } else { 1 }])?;
        if what(t.number) == What::Get && name != ACCESS && name != DEFAULT {
            return Ok(None);
        }
        let handle = match t.number {
            _ if at => {
                let flags = t.fd(2);
                let path = t.text(t.args[1])?;
                if path.is_empty() && flags & libc::AT_EMPTY_PATH == 0 {
                    return Ok(None);
                }
                self.view.handle(t, t.fd(0), &path, flags & libc::AT_SYMLINK_NOFOLLOW == 0)?
            }
            libc::SYS_fsetxattr | libc::SYS_fgetxattr | libc::SYS_fremovexattr => {
                if t.fd(0) < 0 {
                    return Ok(None);
                }
                self.view.handle(t, t.fd(0), b"", true)?
            }
            number => {
                let path = t.text(t.args[0])?;
                if path.is_empty() {
                    return Ok(None);
                }
                let links = [libc::SYS_lsetxattr, libc::SYS_lgetxattr, libc::SYS_lremovexattr];
                self.view.handle(t, libc::AT_FDCWD, &path, !links.contains(&number))?
            }
        };
        let (value, size, flags) = match (at, what(t.number)) {
            (_, What::Remove) => (0, 0, 0),
            (false, _) => (t.args[2], t.args[3], t.arg32(4)),
            // struct xattr_args: the value's address, its size, flags.
            (true, _) => {
                let words = t.read_u32s(t.args[4], 4)?;
                (u64::from(words[0]) | u64::from(words[1]) << 32, words[2].into(), words[3])
            }
        };
        let size = usize::try_from(size).map_err(io::Error::other)?;
        if size > VALUE_LIMIT && what(t.number) == What::Set {
            return Ok(None);
        }
        Ok(Some(Call { what: what(t.number), handle, name, value, size, flags }))
    }
}

fn what(number: i64) -> What {
    match number {
        libc::SYS_setxattr | libc::SYS_lsetxattr | libc::SYS_fsetxattr | SYS_SETXATTRAT => What::Set,
        libc::SYS_removexattr | libc::SYS_lremovexattr | libc::SYS_fremovexattr | SYS_REMOVEXATTRAT => {
            What::Remove
        }
        _ => What::Get,
    }
}

/// The entries of a list as it lies in an attribute; `None` for what is none.
fn parse(value: &[u8]) -> Option<Vec<Entry>> {
    let (version, rest) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != VERSION || rest.len() % 8 != 0 {
        return None;
    }
    let entry = |e: &[u8]| Entry {
        tag: u16::from_le_bytes([e[0], e[1]]),
        permissions: u16::from_le_bytes([e[2], e[3]]),
        id: u32::from_le_bytes([e[4], e[5], e[6], e[7]]),
    };
    Some(rest.chunks_exact(8).map(entry).collect())
}

/// What `posix_acl_valid` of the kernel asks for: the tags in their order, one each of the three that are the
/// file's mode, and a mask where anybody is named.
fn is_valid(entries: &[Entry]) -> bool {
    let count = |tag| entries.iter().filter(|e| e.tag == tag).count();
    let named = count(USER) + count(GROUP);
    entries.is_sorted_by_key(|e| e.tag)
        && entries.iter().all(|e| e.permissions & !0o7 == 0)
        && [USER_OBJ, GROUP_OBJ, OTHER].into_iter().all(|tag| count(tag) == 1)
        && count(MASK) <= 1
        && (named == 0 || count(MASK) == 1)
        && count(USER_OBJ) + count(GROUP_OBJ) + count(OTHER) + count(MASK) + named == entries.len()
}

/// Whether somebody is named whom the kernel does not know: with one id, all but root.
fn names_ids(entries: &[Entry], scope: Scope) -> bool {
    let (uids, gids) = match scope {
        Scope::Everything => (1, 1),
        Scope::Beyond { uids, gids } => (uids, gids),
    };
    entries.iter().any(|e| (e.tag == USER && e.id >= uids) || (e.tag == GROUP && e.id >= gids))
}

/// The permission bits that a file has with a list: its group's are the mask's.
fn mode_of(entries: &[Entry]) -> u32 {
    let bits = |tag| entries.iter().find(|e| e.tag == tag).map(|e| u32::from(e.permissions));
    let group = bits(MASK).or(bits(GROUP_OBJ)).unwrap_or(0);
    bits(USER_OBJ).unwrap_or(0) << 6 | group << 3 | bits(OTHER).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            value.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
            value.extend(id.to_le_bytes());
        }
        value
    }

    const NONE: u32 = u32::MAX;

    #[test]
    fn a_list_is_read_and_becomes_the_mode() {
        let value = list(&[
            (USER_OBJ, 7, NONE),
            (USER, 6, 5),
            (GROUP_OBJ, 0, NONE),
            (MASK, 6, NONE),
            (OTHER, 1, NONE),
        ]);
        let entries = parse(&value).unwrap();
        assert!(is_valid(&entries) && names_ids(&entries, Scope::Everything));
        assert_eq!(mode_of(&entries), 0o761);
        let plain = parse(&list(&[(USER_OBJ, 6, NONE), (GROUP_OBJ, 4, NONE), (OTHER, 4, NONE)])).unwrap();
        assert!(is_valid(&plain) && !names_ids(&plain, Scope::Everything));
        assert_eq!(mode_of(&plain), 0o644);
    }

    #[test]
    fn what_the_kernel_would_refuse_is_left_to_it() {
        assert_eq!(parse(b"\x02\0\0"), None);
        assert_eq!(parse(b"\x03\0\0\0"), None);
        assert_eq!(parse(&list(&[(USER_OBJ, 7, NONE)])[..9]), None);
        let cases: [&[(u16, u16, u32)]; 5] = [
            &[],
            &[(USER_OBJ, 7, NONE), (USER, 6, 5), (GROUP_OBJ, 0, NONE), (OTHER, 1, NONE)],
            &[(GROUP_OBJ, 0, NONE), (USER_OBJ, 7, NONE), (OTHER, 1, NONE)],
            &[(USER_OBJ, 8, NONE), (GROUP_OBJ, 0, NONE), (OTHER, 1, NONE)],
            &[(USER_OBJ, 7, NONE), (GROUP_OBJ, 0, NONE), (OTHER, 1, NONE), (0x40, 1, 5)],
        ];
        for case in cases {
            assert!(!is_valid(&parse(&list(case)).unwrap()), "{case:?}");
        }
    }
}
