//! Which system calls the supervisor is asked about: a program for seccomp.
//!
//! What a step does most is left alone: reading, writing, opening what is there. Numbers that the program
//! does not name are allowed whatever their arguments, and the kernel remembers that (Linux 5.11): they
//! cost nothing. Calls of another architecture (32-bit programs) are allowed as well, and so not recorded.

use super::Scope;
use crate::sys::seccomp::Instruction;

/// When the supervisor is asked about a call. Arguments are counted from 0; only their low 32 bits are
/// looked at, as the kernel looks at them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    /// One of these bits is set.
    AnyBit {
        argument: u32,
        bits: u32,
    },
    /// Two arguments have these values; the same one twice where one is meant.
    Equal([(u32, u32); 2]),
    /// One of two ids is outside the map, and not -1.
    Beyond {
        first: u32,
        uids: u32,
        gids: u32,
    },
    /// The mode names a character or block device.
    Device {
        mode: u32,
    },
    /// Never: the kernel answers at once, with this error number (0 is success).
    Answer {
        errno: u32,
    },
    /// The kernel answers at once where an argument has a value.
    AnswerEqual {
        argument: u32,
        value: u32,
        errno: u32,
    },
}

/// `AUDIT_ARCH_…` of this machine's own system calls.
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const fn argument(index: u32) -> u32 {
    // Little-endian on both machines: the low half comes first.
    16 + 8 * index
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const IF_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const NOTIFY: Instruction = Instruction { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_USER_NOTIF };
const ALLOW: Instruction = Instruction { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };

/// `O_CREAT`, and the bit that tells `O_TMPFILE` from `O_DIRECTORY`.
pub(super) const CREATES: u32 = libc::O_CREAT as u32 | (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;

/// System calls younger than the C library's list: their numbers are the same everywhere.
pub(super) const SYS_FCHMODAT2: i64 = 452;
pub(super) const SYS_SETXATTRAT: i64 = 463;
pub(super) const SYS_GETXATTRAT: i64 = 464;
pub(super) const SYS_REMOVEXATTRAT: i64 = 466;

/// The program for a scope. `known` says whether something is on record, or soon will be, `settled` whether
/// directories from before the step are to stay where they are.
pub(super) fn program(scope: Scope, known: bool, settled: bool) -> Vec<Instruction> {
    let mut rules = match scope {
        Scope::Everything => everything(known),
        Scope::Beyond { uids, gids } => beyond(uids, gids, known),
    };
    if settled && !rules.iter().any(|(number, _)| *number == libc::SYS_renameat2) {
        rules.extend(renames());
    }
    assemble(&rules)
}

type Rule = (i64, When);

/// Answered with file attributes.
fn stat_family() -> Vec<Rule> {
    let mut rules = vec![(libc::SYS_newfstatat, When::Always), (libc::SYS_statx, When::Always)];
    rules.push((libc::SYS_fstat, When::Always));
    #[cfg(target_arch = "x86_64")]
    rules.extend([(libc::SYS_stat, When::Always), (libc::SYS_lstat, When::Always)]);
    rules
}

fn beyond(uids: u32, gids: u32, known: bool) -> Vec<Rule> {
    let ids = |first| When::Beyond { first, uids, gids };
    let mut rules = vec![
        (libc::SYS_fchownat, ids(2)),
        (libc::SYS_fchown, ids(1)),
        (libc::SYS_mknodat, When::Device { mode: 2 }),
    ];
    #[cfg(target_arch = "x86_64")]
    rules.extend([
        (libc::SYS_chown, ids(1)),
        (libc::SYS_lchown, ids(1)),
        (libc::SYS_mknod, When::Device { mode: 1 }),
    ]);
    rules.extend(set_xattrs());
    if known {
        rules.extend(other_xattrs());
        rules.extend(stat_family());
        rules.extend(names());
        rules.extend(changes());
        // Back to an id that the map has, too.
        rules.extend([(libc::SYS_fchownat, When::Always), (libc::SYS_fchown, When::Always)]);
        #[cfg(target_arch = "x86_64")]
        rules.extend([(libc::SYS_chown, When::Always), (libc::SYS_lchown, When::Always)]);
        rules.push((libc::SYS_openat, When::AnyBit { argument: 2, bits: WRITES }));
        #[cfg(target_arch = "x86_64")]
        rules.push((libc::SYS_open, When::AnyBit { argument: 1, bits: WRITES }));
    }
    rules
}

/// Which attribute is meant lies in memory.
fn set_xattrs() -> impl Iterator<Item = Rule> {
    let calls = [libc::SYS_setxattr, libc::SYS_lsetxattr, libc::SYS_fsetxattr, SYS_SETXATTRAT];
    calls.into_iter().map(|n| (n, When::Always))
}

fn other_xattrs() -> impl Iterator<Item = Rule> {
    let calls = [
        libc::SYS_getxattr,
        libc::SYS_lgetxattr,
        libc::SYS_fgetxattr,
        SYS_GETXATTRAT,
        libc::SYS_removexattr,
        libc::SYS_lremovexattr,
        libc::SYS_fremovexattr,
        SYS_REMOVEXATTRAT,
    ];
    calls.into_iter().map(|n| (n, When::Always))
}

/// Calls by which a name comes to stand for another file, or a file loses one.
fn names() -> Vec<Rule> {
    let mut calls = vec![libc::SYS_unlinkat, libc::SYS_linkat];
    #[cfg(target_arch = "x86_64")]
    calls.extend([libc::SYS_unlink, libc::SYS_rmdir, libc::SYS_link]);
    calls.into_iter().map(|n| (n, When::Always)).chain(renames()).collect()
}

fn renames() -> Vec<Rule> {
    let mut calls = vec![libc::SYS_renameat2, libc::SYS_renameat];
    #[cfg(target_arch = "x86_64")]
    calls.push(libc::SYS_rename);
    calls.into_iter().map(|n| (n, When::Always)).collect()
}

/// Calls that copy a file of a lower layer up, but for those that open.
fn changes() -> Vec<Rule> {
    let mut calls = vec![libc::SYS_fchmod, libc::SYS_fchmodat, SYS_FCHMODAT2];
    calls.extend([libc::SYS_utimensat, libc::SYS_truncate]);
    #[cfg(target_arch = "x86_64")]
    calls.extend([libc::SYS_chmod, libc::SYS_utime, libc::SYS_utimes, libc::SYS_futimesat]);
    calls.into_iter().map(|n| (n, When::Always)).collect()
}

/// Flags with which a file that is there is copied up.
const WRITES: u32 = (libc::O_ACCMODE | libc::O_TRUNC) as u32;

fn everything(known: bool) -> Vec<Rule> {
    let creates = |argument| When::AnyBit { argument, bits: CREATES | if known { WRITES } else { 0 } };
    let mut rules = stat_family();
    if known {
        rules.extend(changes());
    }
    rules.push((libc::SYS_openat, creates(2)));
    #[cfg(target_arch = "x86_64")]
    rules.push((libc::SYS_open, creates(1)));
    rules.extend(names());
    let always = [
        // The flags lie in memory, where a filter cannot look.
        libc::SYS_openat2,
        libc::SYS_mkdirat,
        libc::SYS_mknodat,
        libc::SYS_symlinkat,
        libc::SYS_fchownat,
        libc::SYS_fchown,
        libc::SYS_execve,
        libc::SYS_execveat,
        // Nothing is done about these, but other paths lead elsewhere afterwards.
        libc::SYS_chroot,
        libc::SYS_pivot_root,
        libc::SYS_setns,
        libc::SYS_clone3,
        libc::SYS_setuid,
        libc::SYS_setgid,
        libc::SYS_setreuid,
        libc::SYS_setregid,
        libc::SYS_setresuid,
        libc::SYS_setresgid,
        libc::SYS_setfsuid,
        libc::SYS_setfsgid,
        libc::SYS_setgroups,
        libc::SYS_getuid,
        libc::SYS_geteuid,
        libc::SYS_getgid,
        libc::SYS_getegid,
        libc::SYS_getresuid,
        libc::SYS_getresgid,
        libc::SYS_getgroups,
        libc::SYS_capset,
        libc::SYS_capget,
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let with_paths = [];
    #[cfg(target_arch = "x86_64")]
    let with_paths = [
        libc::SYS_creat,
        libc::SYS_mkdir,
        libc::SYS_mknod,
        libc::SYS_symlink,
        libc::SYS_chown,
        libc::SYS_lchown,
    ];
    rules.extend(always.into_iter().chain(with_paths).map(|number| (number, When::Always)));
    rules.extend(set_xattrs().chain(other_xattrs()));
    // A mount namespace has other mounts under the same paths.
    let mounts = When::AnyBit { argument: 0, bits: libc::CLONE_NEWNS as u32 };
    rules.extend([(libc::SYS_unshare, mounts), (libc::SYS_clone, mounts)]);
    let keep = (0, libc::PR_SET_KEEPCAPS as u32);
    let slack = libc::PR_SET_TIMERSLACK as u32;
    let peer = [(1, libc::SOL_SOCKET as u32), (2, libc::SO_PEERCRED as u32)];
    rules.extend([
        // Carries the number of a task's credentials; a program that sets it wants to be woken late, no more.
        (libc::SYS_prctl, When::AnswerEqual { argument: 0, value: slack, errno: 0 }),
        (libc::SYS_prctl, When::Equal([keep, keep])),
        (libc::SYS_getsockopt, When::Equal(peer)),
        // It opens, makes and removes files past any filter. Whoever uses it can do without.
        (libc::SYS_io_uring_setup, When::Answer { errno: libc::ENOSYS as u32 }),
    ]);
    rules
}

fn assemble(rules: &[Rule]) -> Vec<Instruction> {
    let load = |k| Instruction { code: LOAD, jt: 0, jf: 0, k };
    let mut program =
        vec![load(ARCHITECTURE), Instruction { code: IF_EQUAL, jt: 1, jf: 0, k: NATIVE }, ALLOW];
    program.push(load(NUMBER));
    for (number, when) in rules {
        let block = block(*when);
        let skip = block.len() as u8;
        program.push(Instruction { code: IF_EQUAL, jt: 0, jf: skip, k: *number as u32 });
        program.extend(block);
    }
    program.push(ALLOW);
    program
}

/// What follows where the number is right. It ends in an answer, or past its end with the number loaded.
fn block(when: When) -> Vec<Instruction> {
    let load = |index| Instruction { code: LOAD, jt: 0, jf: 0, k: argument(index) };
    let test = |code, jt, jf, k| Instruction { code, jt, jf, k };
    let errno = |errno| Instruction { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | errno };
    let number = Instruction { code: LOAD, jt: 0, jf: 0, k: NUMBER };
    match when {
        When::Always => vec![NOTIFY],
        When::Answer { errno: code } => vec![errno(code)],
        When::AnyBit { argument, bits } => {
            vec![load(argument), test(IF_ANY_BIT, 0, 1, bits), NOTIFY, ALLOW]
        }
        When::Equal([(first, a), (second, b)]) => vec![
            load(first),
            test(IF_EQUAL, 0, 3, a),
            load(second),
            test(IF_EQUAL, 0, 1, b),
            NOTIFY,
            // There may be another rule for the same number.
            number,
        ],
        When::AnswerEqual { argument, value, errno: code } => {
            vec![load(argument), test(IF_EQUAL, 0, 1, value), errno(code), number]
        }
        When::Device { mode } => vec![
            load(mode),
            test(AND, 0, 0, libc::S_IFMT),
            test(IF_EQUAL, 1, 0, libc::S_IFCHR),
            test(IF_EQUAL, 0, 1, libc::S_IFBLK),
            NOTIFY,
            ALLOW,
        ],
        When::Beyond { first, uids, gids } => vec![
            load(first),
            test(IF_EQUAL, 1, 0, u32::MAX),
            test(IF_AT_LEAST, 3, 0, uids),
            load(first + 1),
            test(IF_EQUAL, 2, 0, u32::MAX),
            test(IF_AT_LEAST, 0, 1, gids),
            NOTIFY,
            ALLOW,
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program says about a call: the machine of `Documentation/networking/filter.rst`, as far as it
    /// is used here.
    fn run(program: &[Instruction], arch: u32, number: i64, args: [u64; 6]) -> u32 {
        let mut data = [0u8; 64];
        data[0..4].copy_from_slice(&(number as u32).to_le_bytes());
        data[4..8].copy_from_slice(&arch.to_le_bytes());
        for (slot, argument) in data[16..].chunks_mut(8).zip(args) {
            slot.copy_from_slice(&argument.to_le_bytes());
        }
        let (mut at, mut a) = (0, 0u32);
        loop {
            let i = program[at];
            at += 1;
            let jump = |holds: bool| usize::from(if holds { i.jt } else { i.jf });
            match i.code {
                LOAD => a = u32::from_le_bytes(data[i.k as usize..][..4].try_into().unwrap()),
                AND => a &= i.k,
                IF_EQUAL => at += jump(a == i.k),
                IF_AT_LEAST => at += jump(a >= i.k),
                IF_ANY_BIT => at += jump(a & i.k != 0),
                RETURN => return i.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    const ASK: u32 = libc::SECCOMP_RET_USER_NOTIF;
    const LET: u32 = libc::SECCOMP_RET_ALLOW;

    fn args(index: usize, value: u64) -> [u64; 6] {
        let mut args = [0; 6];
        args[index] = value;
        args
    }

    #[test]
    fn only_opens_that_may_create_are_asked_about() {
        let p = program(Scope::Everything, false, false);
        let open = |flags: i32| run(&p, NATIVE, libc::SYS_openat, args(2, flags as u64));
        assert_eq!(open(libc::O_RDWR | libc::O_CLOEXEC | libc::O_TRUNC), LET);
        assert_eq!(open(libc::O_DIRECTORY), LET);
        assert_eq!(open(libc::O_WRONLY | libc::O_CREAT), ASK);
        assert_eq!(open(libc::O_TMPFILE | libc::O_RDWR), ASK);
        assert_eq!(run(&p, NATIVE, libc::SYS_openat2, [0; 6]), ASK);
        // Where something is on record already, it may be about to be copied up.
        let p = program(Scope::Everything, true, false);
        let open = |flags: i32| run(&p, NATIVE, libc::SYS_openat, args(2, flags as u64));
        assert_eq!([open(libc::O_RDWR), open(libc::O_TRUNC), open(libc::O_DIRECTORY)], [ASK, ASK, LET]);
    }

    #[test]
    fn several_rules_for_one_number_are_all_tried() {
        let p = program(Scope::Everything, false, false);
        let prctl = |option: i32| run(&p, NATIVE, libc::SYS_prctl, args(0, option as u64));
        assert_eq!(prctl(libc::PR_SET_TIMERSLACK), libc::SECCOMP_RET_ERRNO);
        assert_eq!(prctl(libc::PR_SET_KEEPCAPS), ASK);
        assert_eq!(prctl(libc::PR_SET_NAME), LET);
        let get =
            |level, option| run(&p, NATIVE, libc::SYS_getsockopt, [3, level as u64, option as u64, 0, 0, 0]);
        assert_eq!(get(libc::SOL_SOCKET, libc::SO_PEERCRED), ASK);
        assert_eq!(get(libc::SOL_SOCKET, libc::SO_ERROR), LET);
        assert_eq!(get(libc::IPPROTO_TCP, libc::SO_PEERCRED), LET);
        assert_eq!(
            run(&p, NATIVE, libc::SYS_io_uring_setup, [0; 6]),
            libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32
        );
    }

    #[test]
    fn a_full_range_is_asked_about_only_outside_of_it() {
        let p = program(Scope::Beyond { uids: 65_537, gids: 1001 }, false, false);
        let chown = |uid: u32, gid: u32| {
            // The upper half of a register may hold anything.
            let high = 0xdead_beef_0000_0000;
            run(&p, NATIVE, libc::SYS_fchownat, [0, 0, high | u64::from(uid), high | u64::from(gid), 0, 0])
        };
        for (uid, gid, said) in [
            (0, 0, LET),
            (65_536, 1000, LET),
            (65_537, 0, ASK),
            (0, 1001, ASK),
            (u32::MAX, u32::MAX, LET),
            (u32::MAX, 1001, ASK),
            (u32::MAX - 1, u32::MAX, ASK),
            (u32::MAX, 5, LET),
            (5, u32::MAX, LET),
        ] {
            assert_eq!(chown(uid, gid), said, "{uid}:{gid}");
        }
        let mknod = |mode: u32| run(&p, NATIVE, libc::SYS_mknodat, args(2, mode.into()));
        assert_eq!(mknod(libc::S_IFBLK | 0o600), ASK);
        assert_eq!(mknod(libc::S_IFCHR), ASK);
        assert_eq!(mknod(libc::S_IFIFO | 0o644), LET);
        assert_eq!(mknod(libc::S_IFREG), LET);
        assert_eq!(run(&p, NATIVE, libc::SYS_setuid, args(0, 1)), LET);
        assert_eq!(run(&p, NATIVE, libc::SYS_newfstatat, [0; 6]), LET);
        let p = program(Scope::Beyond { uids: 65_537, gids: 1001 }, true, false);
        assert_eq!(run(&p, NATIVE, libc::SYS_newfstatat, [0; 6]), ASK);
    }

    #[test]
    fn other_architectures_are_left_alone() {
        let p = program(Scope::Everything, true, false);
        assert_eq!(run(&p, NATIVE, libc::SYS_setuid, [0; 6]), ASK);
        assert_eq!(run(&p, 0x4000_0003, libc::SYS_setuid, [0; 6]), LET);
        assert_eq!(run(&p, NATIVE, libc::SYS_setuid | 0x4000_0000, [0; 6]), LET, "x32");
        assert_eq!(run(&p, NATIVE, libc::SYS_read, [0; 6]), LET);
        assert!(p.len() < libc::BPF_MAXINSNS as usize);
    }
}
