//! Users and groups, as the image knows them.
//!
//! `USER` and `--chown` name them; `/etc/passwd` and `/etc/group` of the image say who is meant. Both
//! files are the image's own and not to be trusted: they are found inside its root and capped in size.

use std::io;
use std::os::fd::BorrowedFd;

use cooper_runtime::in_root;

use crate::rootfs::LayerDir;
use crate::rootfs::way::read_file;

/// Largest `passwd` or `group` file read.
const LIMIT: u64 = 16 << 20;

/// An image's files.
#[derive(Debug, Clone, Copy)]
pub enum Files<'a> {
    /// Its root file system.
    Root(BorrowedFd<'a>),
    /// Its layers, lowest first.
    Layers(&'a [LayerDir]),
}

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
    /// A name, and no image that could know it.
    #[error(
        "the name `{name}` cannot be looked up: there is no /etc/passwd or /etc/group with --link or in an empty image; use numbers"
    )]
    NoFiles {
        /// The name.
        name: String,
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
    let files = Files::Root(root);
    let accounts = accounts(files)?;
    let account = match user.parse::<u32>() {
        Ok(uid) => accounts.into_iter().find(|a| a.uid == uid),
        Err(_) => Some(accounts.into_iter().find(|a| a.name == user).ok_or_else(|| unknown_user(user))?),
    };
    let uid = account.as_ref().map_or_else(|| user.parse().unwrap_or(0), |a| a.uid);
    let (gid, others) = match group {
        // Named together with its group, a user has that group and no others.
        Some(group) => (group_id(files, group)?, Vec::new()),
        None => {
            let gid = account.as_ref().map_or(0, |a| a.gid);
            let name = account.as_ref().map(|a| a.name.as_str());
            let member = |g: &Group| g.gid != gid && name.is_some_and(|n| g.members.iter().any(|m| m == n));
            (gid, groups_of(files)?.iter().filter(|g| member(g)).map(|g| g.gid).collect::<Vec<_>>())
        }
    };
    // The primary group is among the supplementary ones as well: a program that changes its primary
    // group would lose it otherwise, and with it what a file's group bits deny (CVE-2022-2990).
    let groups = std::iter::once(gid).chain(others).collect();
    let home = account.map(|a| a.home).filter(|h| !h.is_empty()).unwrap_or_else(|| "/".to_owned());
    Ok(Identity { uid, gid, groups, home })
}

/// Who shall own what a `COPY --chown` or a `WORKDIR` makes: `user`, `user:group` or `:group`, each a name
/// or a number.
///
/// As in BuildKit, a number alone is the group's as well, whatever `passwd` says of it, a name that is not
/// found is root, and so is what is left empty beside a colon. `root` needs no file.
///
/// `missing` hears of names that were not found.
///
/// # Errors
/// When a file cannot be read; and for any other name when there is no file system to look into, which is
/// so with `--link` and for the first instruction on an empty image.
pub fn owner(
    files: Option<Files<'_>>,
    who: &str,
    missing: &mut dyn FnMut(UserError),
) -> Result<(u32, u32), UserError> {
    let (user, group) = match who.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (who, None),
    };
    let look_in = |name: &str| files.ok_or_else(|| UserError::NoFiles { name: name.to_owned() });
    let (uid, own_group) = match number(user) {
        Some(uid) => (uid, uid),
        None => {
            let account = accounts(look_in(user)?)?.into_iter().find(|a| a.name == user);
            if account.is_none() {
                missing(unknown_user(user));
            }
            account.map_or((0, 0), |a| (a.uid, a.gid))
        }
    };
    let gid = match group.map(|group| (group, number(group))) {
        None => own_group,
        Some((_, Some(gid))) => gid,
        Some((group, None)) => {
            let found = groups_of(look_in(group)?)?.into_iter().find(|g| g.name == group);
            if found.is_none() {
                missing(unknown_group(group));
            }
            found.map_or(own_group, |g| g.gid)
        }
    };
    Ok((uid, gid))
}

/// What an owner's name is without looking it up.
fn number(name: &str) -> Option<u32> {
    match name {
        "" | "root" => Some(0),
        name => name.parse::<i32>().ok().and_then(|id| u32::try_from(id).ok()),
    }
}

fn group_id(files: Files<'_>, group: &str) -> Result<u32, UserError> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    let found = groups_of(files)?.into_iter().find(|g| g.name == group).map(|g| g.gid);
    found.ok_or_else(|| unknown_group(group))
}

fn unknown_group(name: &str) -> UserError {
    UserError::Unknown { what: "group", name: name.to_owned(), file: "/etc/group" }
}

fn unknown_user(name: &str) -> UserError {
    UserError::Unknown { what: "user", name: name.to_owned(), file: "/etc/passwd" }
}

fn accounts(files: Files<'_>) -> Result<Vec<Account>, UserError> {
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
    Ok(read(files, "/etc/passwd")?.lines().filter_map(parse).collect())
}

fn groups_of(files: Files<'_>) -> Result<Vec<Group>, UserError> {
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
    Ok(read(files, "/etc/group")?.lines().filter_map(parse).collect())
}

fn read(files: Files<'_>, file: &'static str) -> Result<String, UserError> {
    let path = file.as_bytes();
    let read = match files {
        Files::Root(root) => in_root::read_file(root, path, LIMIT),
        Files::Layers(layers) => read_file(layers, path, LIMIT),
    };
    let bytes = read.map_err(|source| UserError::Read { file, source })?;
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
    }

    #[test]
    fn owners_are_found_and_who_is_not_is_root() {
        let (_dir, root) = image("app:x:1000:1001::/home/app:\n", "wheel:x:10:root,app\n");
        for (who, ids) in [
            ("app", (1000, 1001)),
            ("app:wheel", (1000, 10)),
            ("app:", (1000, 0)),
            ("app:nope", (1000, 1001)),
            (":wheel", (0, 10)),
            ("5", (5, 5)),
            ("1000", (1000, 1000)),
            ("5:wheel", (5, 10)),
            ("nope", (0, 0)),
            ("nope:wheel", (0, 10)),
            ("root:root", (0, 0)),
        ] {
            let mut missing = Vec::new();
            let found =
                owner(Some(Files::Root(root.as_fd())), who, &mut |e| missing.push(e.to_string())).unwrap();
            assert_eq!(found, ids, "{who}");
            assert_eq!(missing.len(), who.matches("nope").count(), "{who}");
        }
        let nowhere = |who: &str| owner(None, who, &mut |_| {});
        assert_eq!(nowhere("root:5").unwrap(), (0, 5));
        let message = nowhere("5:wheel").unwrap_err().to_string();
        assert!(message.starts_with("the name `wheel` cannot be looked up"), "{message}");
    }

    #[test]
    fn an_image_without_the_files_still_has_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::open_dir(dir.path()).unwrap();
        assert_eq!(identity(root.as_fd(), "").unwrap().home, "/");
        assert!(identity(root.as_fd(), "app").is_err());
    }
}
