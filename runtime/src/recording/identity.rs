//! `setuid` and its relatives: what a task is, set and shown.

use std::io;

use super::credentials::{Credentials, Errno, GROUPS_LIMIT, Kind};
use super::notify::{Answer, Answered, Recorder};
use super::target::{Target, View};

/// `_LINUX_CAPABILITY_VERSION_1`, which has 32 bits, and the two that have 64: see capget(2).
const CAPABILITY_VERSIONS: [(u32, usize); 3] = [(0x1998_0330, 1), (0x2007_1026, 2), (0x2008_0522, 2)];

impl Recorder {
    /// Any call about the ids, groups and capabilities of the calling task.
    pub(super) fn identity(&mut self, t: &Target) -> Answered {
        let old = self.credentials_of(t.tid)?;
        if let Some(answer) = show(t, &self.view, &old)? {
            return Ok(answer);
        }
        let mut new = old.clone();
        let said = match change(t, &self.view, &mut new)? {
            Ok(said) => said,
            Err(errno) => return Ok(Answer::Error(errno)),
        };
        self.check(t)?;
        if new != old && self.set_credentials(t.tid, new).is_err() {
            // It would believe that it had changed.
            return Ok(Answer::Error(libc::EPERM));
        }
        Ok(said)
    }
}

/// Calls that show something.
fn show(t: &Target, view: &View, c: &Credentials) -> io::Result<Option<Answer>> {
    let id = |id: u32| Ok(Some(Answer::Value(id.into())));
    match t.number {
        libc::SYS_getuid => id(c.user.real),
        libc::SYS_geteuid => id(c.user.effective),
        libc::SYS_getgid => id(c.group.real),
        libc::SYS_getegid => id(c.group.effective),
        libc::SYS_getresuid | libc::SYS_getresgid => {
            let ids = if t.number == libc::SYS_getresuid { c.user } else { c.group };
            for (index, id) in [ids.real, ids.effective, ids.saved].into_iter().enumerate() {
                if t.write_u32s(t.args[index], &[id]).is_err() {
                    return Ok(Some(Answer::Error(libc::EFAULT)));
                }
            }
            id(0)
        }
        libc::SYS_getgroups => {
            let (room, count) = (t.fd(0), c.groups.len());
            if room != 0 {
                if usize::try_from(room).is_ok_and(|room| room >= count) {
                    if count > 0 && t.write_u32s(t.args[1], &c.groups).is_err() {
                        return Ok(Some(Answer::Error(libc::EFAULT)));
                    }
                } else {
                    return Ok(Some(Answer::Error(libc::EINVAL)));
                }
            }
            id(count as u32)
        }
        libc::SYS_capget => {
            let Some(words) = capability_words(t, view)? else { return Ok(Some(Answer::Pass)) };
            let data: Vec<u32> = (0..words)
                .flat_map(|word| [c.effective, c.permitted, 0].map(|set| (set >> (32 * word)) as u32))
                .collect();
            t.write_u32s(t.args[1], &data)?;
            id(0)
        }
        _ => Ok(None),
    }
}

/// Calls that change something: the credentials after it and what the call returns, or its error.
fn change(t: &Target, view: &View, c: &mut Credentials) -> io::Result<Result<Answer, Errno>> {
    let (a, b) = (t.arg32(0), t.arg32(1));
    let three = [a, b, t.arg32(2)];
    let done = match t.number {
        libc::SYS_setuid => c.set(Kind::User, a),
        libc::SYS_setgid => c.set(Kind::Group, a),
        libc::SYS_setreuid => c.set_real_effective(Kind::User, a, b),
        libc::SYS_setregid => c.set_real_effective(Kind::Group, a, b),
        libc::SYS_setresuid => c.set_three(Kind::User, three),
        libc::SYS_setresgid => c.set_three(Kind::Group, three),
        libc::SYS_setfsuid => return Ok(Ok(Answer::Value(c.set_fs(Kind::User, a).into()))),
        libc::SYS_setfsgid => return Ok(Ok(Answer::Value(c.set_fs(Kind::Group, a).into()))),
        libc::SYS_setgroups => match usize::try_from(t.fd(0)).ok().filter(|n| *n <= GROUPS_LIMIT) {
            Some(count) => c.set_groups(t.read_u32s(t.args[1], count)?),
            None => Err(libc::EINVAL),
        },
        // The task's real capabilities shrink as well: they are never fewer than the recorded ones.
        libc::SYS_capset => {
            let Some(words) = capability_words(t, view)? else { return Ok(Ok(Answer::Pass)) };
            let data = t.read_u32s(t.args[1], 3 * words)?;
            let set = |which: usize| (0..words).map(|w| u64::from(data[3 * w + which]) << (32 * w)).sum();
            return Ok(c.set_capabilities(set(1), set(0)).map(|()| Answer::Pass));
        }
        libc::SYS_prctl => {
            c.keep_capabilities = b == 1;
            return Ok(Ok(Answer::Pass));
        }
        _ => return Ok(Ok(Answer::Pass)),
    };
    Ok(done.map(|()| Answer::Value(0)))
}

/// How many words the sets have in a `capget` or `capset` of the calling task; `None` for what the kernel
/// itself answers.
fn capability_words(t: &Target, view: &View) -> io::Result<Option<usize>> {
    let header = t.read_u32s(t.args[0], 2)?;
    let words =
        CAPABILITY_VERSIONS.iter().find(|(version, _)| *version == header[0]).map(|(_, words)| *words);
    // A question for the version has no room for sets. A task may name itself, as it is in its own namespace:
    // libcap-ng does.
    let own =
        || Ok::<_, io::Error>(view.status(t.tid, "NSpid")?.split_whitespace().next_back().map(str::parse));
    let mine = header[1] == 0 || own()? == Some(Ok(header[1]));
    Ok(words.filter(|_| mine && t.args[1] != 0))
}
