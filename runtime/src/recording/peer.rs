//! Who is at the other end of a local socket: `su postgres -c psql` lives on it.

use std::io;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

use super::notify::{Answer, Answered, Recorder, done};
use super::target::Target;

/// Bytes of `struct ucred`: process, user, group.
const SIZE: u32 = 12;

impl Recorder {
    /// `getsockopt` with `SO_PEERCRED`. The kernel remembers who connected or listened. What that process is on
    /// record is looked at only now, when it may have become somebody else; of one that is gone the kernel
    /// tells what it knows.
    pub(super) fn peer(&mut self, t: &Target) -> Answered {
        let [descriptor, _, _, value, length, _] = t.args;
        if t.read_u32s(length, 1)?[0] < SIZE {
            return Ok(Answer::Pass);
        }
        let number = |text: &str| text.split_whitespace().next_back().and_then(|n| n.parse::<i32>().ok());
        let missing = || io::Error::from_raw_os_error(libc::ESRCH);
        let process =
            number(&self.view.status(t.tid, "Tgid")?).and_then(Pid::from_raw).ok_or_else(missing)?;
        let process = rustix::process::pidfd_open(process, PidfdFlags::empty())?;
        let socket = rustix::process::pidfd_getfd(process, descriptor as i32, PidfdGetfdFlags::empty())?;
        let peer = u32::try_from(getsockopt(&socket, PeerCredentials)?.pid()).map_err(|_| missing())?;
        if peer == 0 {
            return Ok(Answer::Pass);
        }
        let credentials = self.credentials_of(peer)?;
        // Its number in the step, not here.
        let inside = number(&self.view.status(peer, "NSpid")?).ok_or_else(missing)?;
        self.check(t)?;
        let answer = [inside as u32, credentials.user.effective, credentials.group.effective];
        Ok(done(t.write_u32s(value, &answer).and_then(|()| t.write_u32s(length, &[SIZE]))))
    }
}
