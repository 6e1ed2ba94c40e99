//! The value of `--chmod`.
//!
//! The grammar and its corners are those of the library that BuildKit uses, which descends from BSD's
//! `setmode(3)` and differs from GNU `chmod` in these points:
//!
//! - No umask: `+w` means `a+w`.
//! - `X` asks whether the mode *before all changes* lets anybody execute, and is nothing after `-`.
//! - `s` and `t` after `o` alone are nothing, and `=` without a letter before it leaves the sticky bit.
//! - After `t` without a letter before the sign, nothing but the sticky bit is changed: `+xt` is `+t`.

/// What `--chmod` asks for: a list of changes to a file's mode, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chmod(Vec<Change>);

/// A `--chmod` that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChmodError {
    /// A number that is no mode.
    #[error("`{0}` is no mode: expected octal digits up to 7777, such as 755")]
    Octal(String),
    /// Letters that are no mode.
    #[error(
        "`{text}` is no mode: {problem}; expected octal such as 755, or symbolic such as u=rwX,go=rX or go-w"
    )]
    Symbolic {
        /// The value as written.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Clear(u32),
    Set(u32),
    /// `X`: set in directories, and in files that somebody may execute.
    SetIfExecutable(u32),
    /// What one class may, for others.
    Copy {
        from: Class,
        to: u32,
        operator: Operator,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Assign,
}

/// User, group or others, by the number of bits that theirs are shifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Class(u32);

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
/// All that `a` speaks of.
const STANDARD: u32 = 0o6777;
const READ: u32 = 0o444;
const WRITE: u32 = 0o222;
const EXECUTE: u32 = 0o111;
const OTHERS: u32 = 0o007;

impl Chmod {
    /// Reads the value of `--chmod`: octal digits up to 7777, or symbolic clauses with commas between.
    ///
    /// # Errors
    /// For anything else.
    pub fn parse(text: &str) -> Result<Chmod, ChmodError> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let number = text.bytes().all(|b| b.is_ascii_digit()).then(|| u32::from_str_radix(text, 8).ok());
            return match number.flatten() {
                Some(mode) if mode <= 0o7777 => Ok(Chmod(vec![Change::Clear(0o7777), Change::Set(mode)])),
                _ => Err(ChmodError::Octal(text.to_owned())),
            };
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            clause_changes(clause, &mut changes)
                .map_err(|problem| ChmodError::Symbolic { text: text.to_owned(), problem })?;
        }
        Ok(Chmod(changes))
    }

    /// The mode of a directory that has to be made for a destination; `None` for what it would have anyway.
    /// As in BuildKit, that is the number, without its set-id and sticky bits; letters do not reach there.
    pub fn made_directory(&self) -> Option<u32> {
        match self.0[..] {
            [Change::Clear(0o7777), Change::Set(mode)] => Some(mode & 0o777),
            _ => None,
        }
    }

    /// What becomes of a file that has `mode` (`0o7777`).
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let executable = is_directory || mode & EXECUTE != 0;
        self.0.iter().fold(mode, |now, change| match *change {
            Change::Clear(bits) => now & !bits,
            Change::Set(bits) => now | bits,
            Change::SetIfExecutable(bits) if executable => now | bits,
            Change::SetIfExecutable(_) => now,
            Change::Copy { from, to, operator } => {
                let value = (((now >> from.0) & OTHERS) * EXECUTE) & to;
                match operator {
                    Operator::Add => now | value,
                    Operator::Remove => now & !value,
                    Operator::Assign => now & !to | value,
                }
            }
        })
    }
}

/// One clause: for whom, then one or more signs, each with what it gives or takes.
fn clause_changes(clause: &str, changes: &mut Vec<Change>) -> Result<(), String> {
    let start = clause.find(|c| !"ugoa".contains(c)).unwrap_or(clause.len());
    let (letters, mut rest) = clause.split_at(start);
    let mut whom = letters.bytes().fold(0, |whom, letter| {
        whom | match letter {
            b'u' => SETUID | 0o700,
            b'g' => SETGID | 0o070,
            b'o' => OTHERS,
            _ => STANDARD,
        }
    });
    loop {
        let mut chars = rest.chars();
        let operator = match chars.next() {
            Some('+') => Operator::Add,
            Some('-') => Operator::Remove,
            Some('=') => Operator::Assign,
            Some(other) => return Err(format!("`{other}` stands where `+`, `-` or `=` belongs")),
            None => return Err(format!("`{clause}` has no `+`, `-` or `=`")),
        };
        rest = chars.as_str();
        let end = rest.find(|c| !"rwxXstugo".contains(c)).unwrap_or(rest.len());
        let (what, after) = rest.split_at(end);
        rest = after;
        whom = operation(whom, operator, what, changes);
        if rest.is_empty() {
            return Ok(());
        }
        if !rest.starts_with(['+', '-', '=']) {
            let other = rest.chars().next().unwrap_or_default();
            return Err(format!("`{other}` is none of the letters r, w, x, X, s, t, u, g, o"));
        }
    }
}

/// What one sign and the letters after it change. Gives for whom the next sign in the clause counts.
fn operation(whom: u32, operator: Operator, what: &str, changes: &mut Vec<Change>) -> u32 {
    let mut pending = Pending { whom: whom & !STICKY, operator, bits: 0, if_executable: 0 };
    // `=` takes away what was there even if nothing follows it; a copy has done that by itself.
    let mut takes_away = operator == Operator::Assign;
    for letter in what.bytes() {
        // Set-id and sticky bits mean nothing to others alone.
        let special = pending.whom == 0 || pending.whom & !OTHERS != 0;
        match letter {
            b'r' => pending.bits |= READ,
            b'w' => pending.bits |= WRITE,
            b'x' => pending.bits |= EXECUTE,
            b'X' if operator != Operator::Remove => pending.if_executable = EXECUTE,
            b's' if special => pending.bits |= SETUID | SETGID,
            b't' if special => {
                pending.whom |= STICKY;
                pending.bits |= STICKY;
            }
            b'u' | b'g' | b'o' => {
                pending.flush(false, changes);
                takes_away = false;
                let from = Class(match letter {
                    b'u' => 6,
                    b'g' => 3,
                    _ => 0,
                });
                changes.push(Change::Copy { from, to: pending.classes(), operator });
            }
            _ => {}
        }
    }
    pending.flush(takes_away, changes);
    pending.whom
}

/// What the letters read so far give or take.
struct Pending {
    /// The bits that may be changed; 0 where no letter stands before the sign.
    whom: u32,
    operator: Operator,
    bits: u32,
    if_executable: u32,
}

impl Pending {
    fn flush(&mut self, takes_away: bool, changes: &mut Vec<Change>) {
        let of = if self.whom == 0 { u32::MAX } else { self.whom };
        if self.bits != 0 || takes_away {
            if self.operator == Operator::Assign {
                changes.push(Change::Clear(if self.whom == 0 { STANDARD } else { self.whom }));
            }
            changes.push(match self.operator {
                Operator::Remove => Change::Clear(self.bits & of),
                _ => Change::Set(self.bits & of),
            });
        }
        if self.if_executable != 0 {
            changes.push(Change::SetIfExecutable(self.if_executable & of));
        }
        (self.bits, self.if_executable) = (0, 0);
    }

    /// The read, write and execute bits of those whom it is about.
    fn classes(&self) -> u32 {
        match self.whom {
            0 => 0o777,
            whom => [0o700, 0o070, 0o007].into_iter().filter(|class| whom & class != 0).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn applied(text: &str, mode: u32) -> u32 {
        Chmod::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).apply(mode, false)
    }

    #[test]
    fn octal_modes_replace_all_bits() {
        for (text, mode) in [("755", 0o755), ("0644", 0o644), ("4755", 0o4755), ("0", 0), ("0007777", 0o7777)]
        {
            assert_eq!(applied(text, 0o6123), mode, "{text}");
            assert_eq!(Chmod::parse(text).unwrap().apply(0o7777, true), mode, "{text}");
        }
        for text in ["888", "10000", "0o755", "755 ", "7_55", "99999999999999999999"] {
            let message = Chmod::parse(text).unwrap_err().to_string();
            assert_eq!(
                message,
                format!("`{text}` is no mode: expected octal digits up to 7777, such as 755")
            );
        }
    }

    #[test]
    fn symbolic_modes_change_what_was_there() {
        for (text, before, after) in [
            ("go-w", 0o777, 0o755),
            ("u=rwx,go=rx", 0o000, 0o755),
            ("u=rwx,go=u-w", 0o000, 0o755),
            ("go=u-w", 0o370, 0o311),
            ("go=u", 0o640, 0o666),
            ("go=", 0o777, 0o700),
            ("=", 0o777, 0o000),
            ("=", 0o1777, 0o1000),
            ("+", 0o421, 0o421),
            ("a=r,ug=rw,u+x", 0o777, 0o764),
            ("a+rwx", 0o000, 0o777),
            ("+w", 0o444, 0o666),
            ("u=rw", 0o4755, 0o655),
            ("g=rw", 0o6755, 0o4765),
            ("u+s,g+s,+t", 0o755, 0o7755),
            ("-s", 0o6755, 0o755),
            ("a-t", 0o1777, 0o777),
            ("o+st", 0o755, 0o755),
            ("+xt", 0o644, 0o1644),
            ("u+go", 0o021, 0o321),
            ("u=gw", 0o742, 0o242),
            ("u=wg", 0o742, 0o442),
            ("-u", 0o111, 0o000),
            ("u+r-w=x", 0o600, 0o100),
            ("o+r,g+w,a+t,g-s,u+og", 0o2100, 0o1724),
        ] {
            assert_eq!(applied(text, before), after, "{text} on {before:o}");
        }
    }

    #[test]
    fn a_capital_x_asks_what_was_there_before_all_changes() {
        for (text, directory, before, after) in [
            ("+X", false, 0o644, 0o644),
            ("+X", false, 0o744, 0o755),
            ("+X", true, 0o644, 0o755),
            ("g+X", true, 0o600, 0o610),
            ("a-x,+X", false, 0o755, 0o755),
            ("u+x,g+X", false, 0o644, 0o744),
            ("=rw,+X", false, 0o766, 0o777),
            ("u=rwX,go=rX", true, 0o700, 0o755),
            ("u=rwX,go=rX", false, 0o600, 0o644),
            ("u=rwX,go=rX", false, 0o700, 0o755),
            ("u=X", false, 0o700, 0o100),
            ("-X", false, 0o755, 0o755),
        ] {
            assert_eq!(Chmod::parse(text).unwrap().apply(before, directory), after, "{text} on {before:o}");
        }
    }

    #[test]
    fn what_is_no_mode_is_told() {
        for (text, problem) in [
            ("", "`` has no `+`, `-` or `=`"),
            ("rwx", "`r` stands where `+`, `-` or `=` belongs"),
            ("u", "`u` has no `+`, `-` or `=`"),
            ("a+x,", "`` has no `+`, `-` or `=`"),
            ("u+q", "`q` is none of the letters r, w, x, X, s, t, u, g, o"),
            ("u+x 755", "` ` is none of the letters r, w, x, X, s, t, u, g, o"),
            ("+755", "`7` is none of the letters r, w, x, X, s, t, u, g, o"),
        ] {
            let message = Chmod::parse(text).unwrap_err().to_string();
            assert!(message.starts_with(&format!("`{text}` is no mode: {problem}; expected")), "{message}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_no_mode_leaves_its_bits(text in "[ugoarwxXst+=,0-9-]{0,12}", mode in 0u32..0o10000) {
            if let Ok(chmod) = Chmod::parse(&text) {
                prop_assert!(chmod.apply(mode, true) <= 0o7777);
                prop_assert!(chmod.apply(mode, false) <= 0o7777);
            }
        }

        /// For modes without the corners that the header lists, each class by itself says what it shall be.
        #[test]
        fn plain_assignments_need_no_order(user in 0u32..8, group in 0u32..8, others in 0u32..8, mode in 0u32..0o1000) {
            let letters = |bits: u32| {
                [(4, 'r'), (2, 'w'), (1, 'x')].iter().filter(|(b, _)| bits & b != 0).map(|(_, c)| *c).collect::<String>()
            };
            let [u, g, o] = [user, group, others].map(letters);
            let expected = user << 6 | group << 3 | others;
            for text in [format!("u={u},g={g},o={o}"), format!("o={o},u={u},g={g}"), format!("a=,u+{u},g+{g},o+{o}")] {
                prop_assert_eq!(applied(&text, mode), expected, "{}", text);
            }
        }
    }
}
