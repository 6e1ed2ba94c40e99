//! Extended attributes of names in a directory.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{is_errno, proc_path};

/// All extended attributes of a name that this user namespace may see, links not followed. A file
/// system without them has none.
pub fn xattrs_at(dir: impl AsFd, name: &OsStr) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let path = proc_path(dir.as_fd()).join(name);
    let mut found = BTreeMap::new();
    let names = match xattr::list(&path) {
        Ok(names) => names,
        Err(e) if is_errno(&e, rustix::io::Errno::OPNOTSUPP) => return Ok(found),
        Err(e) => return Err(e),
    };
    for attr in names {
        // A value that is gone between the two calls, or a name listed but not readable here
        // (trusted.* in a user namespace), is not an attribute we can speak of.
        if let Some(value) = xattr::get(&path, &attr)? {
            found.insert(attr, value);
        }
    }
    Ok(found)
}

/// The names of all extended attributes of a name, links not followed.
pub fn xattr_names_at(dir: impl AsFd, name: &OsStr) -> io::Result<Vec<OsString>> {
    if let Some(names) = list_xattrs_at(dir.as_fd(), name)? {
        return Ok(names);
    }
    match xattr::list(proc_path(dir.as_fd()).join(name)) {
        Ok(names) => Ok(names.collect()),
        Err(e) if is_errno(&e, rustix::io::Errno::OPNOTSUPP) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// The same by `listxattrat(2)`, Linux 6.13: every file of a layer is asked, and to go by way of /proc takes
/// twice the time. `None` where it does not do.
fn list_xattrs_at(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Vec<OsString>>> {
    /// The same on all architectures.
    const LISTXATTRAT: libc::c_long = 465;
    static MISSING: AtomicBool = AtomicBool::new(false);
    if MISSING.load(Ordering::Relaxed) {
        return Ok(None);
    }
    let (name, mut names) = (CString::new(name.as_bytes())?, [0u8; 1024]);
    // SAFETY: the name is a C string, and the kernel writes no more than the buffer's size into it.
    let got = unsafe {
        let (dir, flags) = (dir.as_raw_fd(), libc::AT_SYMLINK_NOFOLLOW);
        libc::syscall(LISTXATTRAT, dir, name.as_ptr(), flags, names.as_mut_ptr(), names.len())
    };
    let Ok(length) = usize::try_from(got) else {
        let e = io::Error::last_os_error();
        return match e.raw_os_error() {
            Some(libc::EOPNOTSUPP) => Ok(Some(Vec::new())),
            // More than fits, or gone.
            Some(libc::ERANGE | libc::ENOENT) => Ok(None),
            // Not there, or not allowed, and it will not be.
            _ => {
                MISSING.store(true, Ordering::Relaxed);
                Ok(None)
            }
        };
    };
    let names = names[..length].split(|b| *b == 0).filter(|name| !name.is_empty());
    Ok(Some(names.map(|name| OsStr::from_bytes(name).to_owned()).collect()))
}

/// One extended attribute of a name, links not followed; `None` where there is none.
pub fn xattr_at(dir: impl AsFd, name: &OsStr, attr: &OsStr) -> io::Result<Option<Vec<u8>>> {
    match xattr::get(proc_path(dir.as_fd()).join(name), attr) {
        Err(e) if is_errno(&e, rustix::io::Errno::OPNOTSUPP) => Ok(None),
        other => other,
    }
}

/// Sets an extended attribute, links not followed.
pub fn set_xattr_at(dir: impl AsFd, name: &OsStr, attr: &OsStr, value: &[u8]) -> io::Result<()> {
    xattr::set(proc_path(dir.as_fd()).join(name), attr, value)
}

/// Removes an extended attribute, links not followed.
pub fn remove_xattr_at(dir: impl AsFd, name: &OsStr, attr: &OsStr) -> io::Result<()> {
    xattr::remove(proc_path(dir.as_fd()).join(name), attr)
}

#[cfg(test)]
mod tests {
    use super::super::{create_file_at, make_symlink_at, open_dir};
    use super::*;

    #[test]
    fn names_of_attributes_are_the_same_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let root = open_dir(dir.path()).unwrap();
        let file = OsStr::new("file");
        drop(create_file_at(&root, file).unwrap());
        make_symlink_at(&root, OsStr::new("link"), file).unwrap();
        for count in [0usize, 1, 2, 30] {
            for attr in 0..count {
                // Thirty of these are more than a kilobyte.
                let attr = format!("user.a-name-as-long-as-they-hardly-ever-are-{attr}");
                set_xattr_at(&root, file, attr.as_ref(), b"").unwrap();
            }
            let sorted = |mut names: Vec<OsString>| {
                names.sort();
                names
            };
            let by_path = xattr::list(proc_path(root.as_fd()).join(file)).unwrap().collect();
            let found = sorted(xattr_names_at(&root, file).unwrap());
            assert_eq!(found, sorted(by_path));
            assert!(found.len() >= count);
            assert!(
                !xattr_names_at(&root, OsStr::new("link"))
                    .unwrap()
                    .iter()
                    .any(|n| n.as_bytes().starts_with(b"user."))
            );
        }
        assert_eq!(xattr_names_at(&root, OsStr::new("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
