//! Users and groups, as the image knows them.
//!
//! `USER` and `--chown` name them; `/etc/passwd` and `/etc/group` of the image say who is meant. Both
//! files are the image's own and not to be trusted: they are found inside its root and capped in size.

use std::io;
use std::os::fd::BorrowedFd;

use cooper_runtime::in_root;

/// Largest `passwd` or `group` file read.
const LIMIT: u64 = 16 << 20;

/// Who a step runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups, the primary one first.
    pub groups: Vec<u32>,
    /// `HOME`.
    pub home: String,
}

/// A user that cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such name.
    #[error("the image's {file} has no {what} `{name}`")]
    Unknown {
        /// `user` or `group`.
        what: &'static str,
        /// The name.
        name: String,
        /// Which file was searched.
        file: &'static str,
    },
    /// The file cannot be read.
    #[error("cannot read the image's {file}: {source}")]
    Read {
        /// Which file.
        file: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// One line of `passwd`.
struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// One line of `group`.
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Who `USER` means: `name`, `uid`, either with `:group` or `:gid`; empty for root.
pub fn identity(root: BorrowedFd<'_>, user: &str) -> Result<Identity, UserError> {
    let (user, group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let accounts = accounts(root)?;
    let account = match user.parse::<u32>() {
        Ok(uid) => accounts.into_iter().find(|a| a.uid == uid),
        Err(_) => Some(accounts.into_iter().find(|a| a.name == user).ok_or_else(|| unknown_user(user))?),
    };
    let uid = account.as_ref().map_or_else(|| user.parse().unwrap_or(0), |a| a.uid);
    let (gid, others) = match group {
        // Named together with its group, a user has that group and no others.
        Some(group) => (group_id(root, group)?, Vec::new()),
        None => {
            let gid = account.as_ref().map_or(0, |a| a.gid);
            let name = account.as_ref().map(|a| a.name.as_str());
            let member = |g: &Group| g.gid != gid && name.is_some_and(|n| g.members.iter().any(|m| m == n));
            (gid, groups_of(root)?.iter().filter(|g| member(g)).map(|g| g.gid).collect::<Vec<_>>())
        }
    };
    // The primary group is among the supplementary ones as well: a program that changes its primary
    // group would lose it otherwise, and with it what a file's group bits deny (CVE-2022-2990).
    let groups = std::iter::once(gid).chain(others).collect();
    let home = account.map(|a| a.home).filter(|h| !h.is_empty()).unwrap_or_else(|| "/".to_owned());
    Ok(Identity { uid, gid, groups, home })
}

/// Whom `--chown=user[:group]` means. Without a group, the group has the number of the user's primary
/// group, or the user's number where `passwd` does not know it.
pub fn owner(root: BorrowedFd<'_>, chown: &str) -> Result<(u32, u32), UserError> {
    let (user, group) = match chown.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (chown, None),
    };
    let (uid, own_group) = match user.parse::<u32>() {
        Ok(uid) => (uid, uid),
        Err(_) if user.is_empty() => (0, 0),
        Err(_) => {
            let account = accounts(root)?.into_iter().find(|a| a.name == user);
            let account = account.ok_or_else(|| unknown_user(user))?;
            (account.uid, account.gid)
        }
    };
    match group {
        Some(group) if !group.is_empty() => Ok((uid, group_id(root, group)?)),
        _ => Ok((uid, own_group)),
    }
}

fn group_id(root: BorrowedFd<'_>, group: &str) -> Result<u32, UserError> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    let found = groups_of(root)?.into_iter().find(|g| g.name == group).map(|g| g.gid);
    found.ok_or_else(|| UserError::Unknown { what: "group", name: group.to_owned(), file: "/etc/group" })
}

fn unknown_user(name: &str) -> UserError {
    UserError::Unknown { what: "user", name: name.to_owned(), file: "/etc/passwd" }
}

fn accounts(root: BorrowedFd<'_>) -> Result<Vec<Account>, UserError> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, ..] = fields.as_slice() else { return None };
        Some(Account {
            name: (*name).to_owned(),
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: fields.get(5).copied().unwrap_or_default().to_owned(),
        })
    };
    Ok(read(root, "/etc/passwd")?.lines().filter_map(parse).collect())
}

fn groups_of(root: BorrowedFd<'_>) -> Result<Vec<Group>, UserError> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, ..] = fields.as_slice() else { return None };
        let members = fields.get(3).copied().unwrap_or_default();
        Some(Group {
            name: (*name).to_owned(),
            gid: gid.parse().ok()?,
            members: members.split(',').map(|m| m.trim().to_owned()).collect(),
        })
    };
    Ok(read(root, "/etc/group")?.lines().filter_map(parse).collect())
}

fn read(root: BorrowedFd<'_>, file: &'static str) -> Result<String, UserError> {
    let bytes = in_root::read_file(root, file.as_bytes(), LIMIT)
        .map_err(|source| UserError::Read { file, source })?;
    Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cooper_runtime::sys::fs;
    use std::os::fd::AsFd;

    fn image(passwd: &str, group: &str) -> (tempfile::TempDir, std::os::fd::OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(dir.path().join("etc/group"), group).unwrap();
        let fd = fs::open_dir(dir.path()).unwrap();
        (dir, fd)
    }

    #[test]
    fn names_and_numbers_are_found() {
        let (_dir, root) = image(
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:\nbroken\n",
            "root:x:0:\nwheel:x:10:root,app\napp:x:1001:\nextra:x:50:app\n",
        );
        let who = |user: &str| identity(root.as_fd(), user).unwrap();
        let app = Identity { uid: 1000, gid: 1001, groups: vec![1001, 10, 50], home: "/home/app".into() };
        assert_eq!(who("app"), app);
        assert_eq!(who("1000"), app);
        assert_eq!(who("").home, "/root");
        assert_eq!(who("app:wheel"), Identity { gid: 10, groups: vec![10], ..app.clone() });
        assert_eq!(who("7"), Identity { uid: 7, gid: 0, groups: vec![0], home: "/".into() });
        let error = identity(root.as_fd(), "nobody").unwrap_err();
        assert_eq!(error.to_string(), "the image's /etc/passwd has no user `nobody`");
        assert_eq!(owner(root.as_fd(), "app").unwrap(), (1000, 1001));
        assert_eq!(owner(root.as_fd(), "5").unwrap(), (5, 5));
        assert_eq!(owner(root.as_fd(), "5:wheel").unwrap(), (5, 10));
        assert!(owner(root.as_fd(), "app:nope").is_err());
    }

    #[test]
    fn an_image_without_the_files_still_has_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::open_dir(dir.path()).unwrap();
        assert_eq!(identity(root.as_fd(), "").unwrap().home, "/");
        assert!(identity(root.as_fd(), "app").is_err());
    }
}
