//! Which user and group ids this user may use, and how the kernel is told.
//!
//! An ordinary user may map itself and nobody else; `/etc/subuid` and `/etc/subgid` grant more, and
//! the set-user-id programs `newuidmap` and `newgidmap` (Debian: package `uidmap`) write the map that
//! they allow. Without them there is a map with a single id: everything belongs to one owner.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Pid, Uid, User};

/// `count` ids from `inside` in the namespace are those from `outside` in its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapLine {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// How much of the id space a map covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    /// All ids of the parent namespace, one to one: this process is privileged there.
    Whole,
    /// Root, and a range of subordinate ids.
    Range,
    /// Root alone.
    Single {
        /// Why there is no range, and what would give one.
        reason: String,
    },
}

/// The map of a user namespace to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    /// What it covers.
    pub extent: Extent,
    /// User ids.
    pub uids: Vec<MapLine>,
    /// Group ids.
    pub gids: Vec<MapLine>,
}

impl IdMap {
    /// A text that is equal for equal maps only.
    pub fn fingerprint(&self) -> String {
        format!("{}|{}", map_text(&self.uids), map_text(&self.gids))
    }

    /// How many ids from 0 on have a counterpart outside: of users, and of groups.
    pub fn counts(&self) -> (u32, u32) {
        // Lines follow one another without gaps, but for what a namespace around this one has left out.
        let end = |lines: &[MapLine]| {
            let mut sorted: Vec<_> = lines.iter().collect();
            sorted.sort_by_key(|l| l.inside);
            sorted.iter().fold(0u32, |end, l| if l.inside == end { end.saturating_add(l.count) } else { end })
        };
        (end(&self.uids), end(&self.gids))
    }

    /// Whether `uid` and `gid` both have a counterpart outside.
    pub fn covers(&self, uid: u32, gid: u32) -> bool {
        let within = |lines: &[MapLine], id: u32| {
            lines.iter().any(|l| id >= l.inside && u64::from(id) < u64::from(l.inside) + u64::from(l.count))
        };
        within(&self.uids, uid) && within(&self.gids, gid)
    }

    /// The best map that this process may have.
    ///
    /// # Errors
    /// When its own ids or `/proc/self/uid_map` cannot be read.
    pub fn discover() -> io::Result<IdMap> {
        // CAP_SETFCAP is asked of whoever maps id 0 into a child, since Linux 5.12.
        let needed =
            [caps::Capability::CAP_SETUID, caps::Capability::CAP_SETGID, caps::Capability::CAP_SETFCAP];
        let privileged = Uid::effective().is_root()
            && needed
                .into_iter()
                .all(|cap| caps::has_cap(None, caps::CapSet::Effective, cap).unwrap_or(false));
        if privileged {
            let whole = |file| Ok::<_, io::Error>(identity_of(&parse_map(&fs::read_to_string(file)?)));
            let (uids, gids) = (whole("/proc/self/uid_map")?, whole("/proc/self/gid_map")?);
            let one = |lines: &[MapLine]| lines.iter().map(|l| u64::from(l.count)).sum::<u64>() == 1;
            let extent = if one(&uids) || one(&gids) {
                Extent::Single { reason: "this user namespace itself has one id only".to_owned() }
            } else {
                Extent::Whole
            };
            return Ok(IdMap { extent, uids, gids });
        }
        let (uid, gid) = (Uid::effective(), nix::unistd::Gid::effective());
        match subordinate_ranges(uid) {
            Ok((uids, gids)) => Ok(IdMap {
                extent: Extent::Range,
                uids: with_root(uid.as_raw(), &uids),
                gids: with_root(gid.as_raw(), &gids),
            }),
            Err(reason) => Ok(IdMap::single(reason)),
        }
    }

    /// Root alone, mapped to the calling user.
    pub fn single(reason: String) -> IdMap {
        let (uid, gid) = (Uid::effective().as_raw(), nix::unistd::Gid::effective().as_raw());
        IdMap { extent: Extent::Single { reason }, uids: with_root(uid, &[]), gids: with_root(gid, &[]) }
    }
}

/// First id and count of each range granted.
type Ranges = Vec<(u32, u32)>;

/// Finds both ranges and both programs, or says what is missing.
fn subordinate_ranges(uid: Uid) -> Result<(Ranges, Ranges), String> {
    for program in ["newuidmap", "newgidmap"] {
        if find_program(program).is_none() {
            return Err(format!(
                "the program {program} is not installed (Debian and Ubuntu: apt install uidmap; \
                 Fedora: dnf install shadow-utils)"
            ));
        }
    }
    let name = User::from_uid(uid).ok().flatten().map(|u| u.name);
    let ranges = |file: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let found = parse_subordinate(&text, name.as_deref(), uid.as_raw());
        if found.is_empty() {
            let who = name.clone().unwrap_or_else(|| uid.to_string());
            let others = fs::read_to_string("/etc/subuid").unwrap_or_default()
                + &fs::read_to_string("/etc/subgid").unwrap_or_default();
            let first = first_free(&others);
            let last = first.saturating_add(65_535);
            return Err(format!(
                "{file} grants {who} no ids (as root: usermod --add-subuids {first}-{last} \
                 --add-subgids {first}-{last} {who})"
            ));
        }
        Ok(found)
    };
    Ok((ranges("/etc/subuid")?, ranges("/etc/subgid")?))
}

/// The ranges (first id, count) that a `subuid(5)` file grants a user, named or by number.
fn parse_subordinate(text: &str, name: Option<&str>, uid: u32) -> Vec<(u32, u32)> {
    let number = uid.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let who = fields.next()?;
            let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            let ours = Some(who) == name || who == number;
            (ours && count > 0).then_some((start, count))
        })
        .collect()
}

/// The first id above all that are granted already: ranges that overlap would give one user the files of
/// another.
fn first_free(text: &str) -> u32 {
    let end = |line: &str| {
        let mut fields = line.trim().split(':').skip(1).map(|n| n.parse::<u32>());
        fields.next()?.ok()?.checked_add(fields.next()?.ok()?)
    };
    text.lines().filter_map(end).max().unwrap_or(0).max(100_000)
}

fn with_root(root: u32, ranges: &[(u32, u32)]) -> Vec<MapLine> {
    let mut lines = vec![MapLine { inside: 0, outside: root, count: 1 }];
    let mut inside = 1u32;
    for &(outside, count) in ranges {
        let Some(next) = inside.checked_add(count) else { break };
        lines.push(MapLine { inside, outside, count });
        inside = next;
    }
    lines
}

/// Each range of this namespace, one to one: seen from inside, "outside" is what a child writes.
fn identity_of(lines: &[MapLine]) -> Vec<MapLine> {
    lines.iter().map(|l| MapLine { outside: l.inside, ..*l }).collect()
}

fn parse_map(text: &str) -> Vec<MapLine> {
    text.lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(|n| n.parse::<u32>());
            let mut next = || numbers.next()?.ok();
            Some(MapLine { inside: next()?, outside: next()?, count: next()? })
        })
        .collect()
}

fn map_text(lines: &[MapLine]) -> String {
    lines.iter().map(|l| format!("{} {} {}\n", l.inside, l.outside, l.count)).collect()
}

/// Gives the user namespace of `process` its map. Called from outside that namespace.
///
/// # Errors
/// A sentence that says which program or file refused, and what it said.
pub(crate) fn write_map(map: &IdMap, process: Pid) -> Result<(), String> {
    match map.extent {
        Extent::Whole => {
            write_proc(process, "uid_map", &map_text(&map.uids))?;
            write_proc(process, "gid_map", &map_text(&map.gids))
        }
        Extent::Range => {
            run_mapper("newuidmap", process, &map.uids)?;
            run_mapper("newgidmap", process, &map.gids)
        }
        Extent::Single { .. } => {
            // Group ids may be mapped without privilege only once setgroups(2) is given up: see
            // user_namespaces(7).
            write_proc(process, "setgroups", "deny")?;
            write_proc(process, "uid_map", &map_text(&map.uids))?;
            write_proc(process, "gid_map", &map_text(&map.gids))
        }
    }
}

fn write_proc(process: Pid, file: &str, text: &str) -> Result<(), String> {
    let path = format!("/proc/{process}/{file}");
    fs::write(&path, text).map_err(|e| format!("cannot write {path}: {e}"))
}

fn run_mapper(program: &str, process: Pid, lines: &[MapLine]) -> Result<(), String> {
    let path = find_program(program).ok_or_else(|| format!("{program} is gone"))?;
    let numbers = lines.iter().flat_map(|l| [l.inside, l.outside, l.count]).map(|n| n.to_string());
    let output = Command::new(path)
        .arg(process.to_string())
        .args(numbers)
        .output()
        .map_err(|e| format!("cannot run {program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} failed: {}", said.trim()))
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/bin")])
        .map(|d| d.join(name))
        .find(|p| is_program(p))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let text = "# comment\nann:100000:65536\nbob:200000:10\n1000:300000:5\nann:bad:1\nann:1:0\n";
        assert_eq!(parse_subordinate(text, Some("ann"), 1000), [(100_000, 65_536), (300_000, 5)]);
        assert_eq!(parse_subordinate(text, None, 7), []);
    }

    #[test]
    fn a_range_that_is_proposed_is_free() {
        assert_eq!(first_free(""), 100_000);
        assert_eq!(first_free("ann:100000:65536\nbad\nbob:165536:65536\n"), 231_072);
    }

    #[test]
    fn several_ranges_follow_one_another() {
        let lines = with_root(1000, &[(100_000, 10), (500_000, 5)]);
        let insides: Vec<_> = lines.iter().map(|l| (l.inside, l.outside, l.count)).collect();
        assert_eq!(insides, [(0, 1000, 1), (1, 100_000, 10), (11, 500_000, 5)]);
    }

    #[test]
    fn a_privileged_process_maps_what_it_has_one_to_one() {
        let lines = parse_map("         0     100000      65536\n     70000          5          1\n");
        assert_eq!(map_text(&identity_of(&lines)), "0 0 65536\n70000 70000 1\n");
    }

    #[test]
    fn a_map_knows_what_it_covers() {
        let map = IdMap { extent: Extent::Range, uids: with_root(5, &[(100, 10)]), gids: with_root(5, &[]) };
        assert_eq!(map.counts(), (11, 1));
        assert!(map.covers(0, 0) && map.covers(10, 0));
        assert!(!map.covers(11, 0) && !map.covers(1, 1));
    }
}
