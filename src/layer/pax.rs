//! The records of pax extended headers.

use std::collections::BTreeMap;

use super::read::TarError;

/// The records of one header: key to value, a later record of a key over an earlier one.
pub(super) type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// Splits `body` into records, `LENGTH SP KEY = VALUE LF`, by their lengths: a value may hold anything,
/// newlines too. `repeated` is handed every record in order; the sparse formats 0.0 and 0.1 say things
/// by order.
pub(super) fn parse(
    body: &[u8],
    records: &mut Records,
    mut repeated: impl FnMut(&[u8], &[u8]),
) -> Option<()> {
    let mut rest = body;
    // Some writers fill up with NULs inside the announced size.
    while !rest.is_empty() && rest[0] != 0 {
        let space = rest.iter().take(21).position(|b| *b == b' ')?;
        let length = usize::try_from(decimal(&rest[..space])?).ok()?;
        if length <= space + 1 || length > rest.len() || rest[length - 1] != b'\n' {
            return None;
        }
        let record = &rest[space + 1..length - 1];
        let equals = record.iter().position(|b| *b == b'=')?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if key.is_empty() {
            return None;
        }
        repeated(key, value);
        records.insert(key.to_vec(), value.to_vec());
        rest = &rest[length..];
    }
    Some(())
}

/// A number of digits alone.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with an optional fraction, as whole seconds and nanoseconds; `-0.5` is -1 s and 500,000,000 ns.
pub(super) fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|b| *b == b'.') {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, b"".as_slice()),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let sec = i64::try_from(decimal(whole)?).ok()?;
    let nsec = (0..9).fold(0, |n, i| n * 10 + fraction.get(i).map_or(0, |d| u32::from(d - b'0')));
    match (negative, nsec) {
        (false, _) => Some((sec, nsec)),
        (true, 0) => Some((-sec, 0)),
        (true, _) => Some((-sec - 1, 1_000_000_000 - nsec)),
    }
}

/// What records say of one entry; a missing one says nothing.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    pub(super) path: Option<Vec<u8>>,
    pub(super) linkpath: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Overrides {
    /// Reads the global records and over them the entry's own. An empty value takes a key back to what
    /// the header says, as POSIX has it; an extended attribute can be empty.
    pub(super) fn new(global: &Records, local: &Records) -> Result<Self, TarError> {
        let mut merged: BTreeMap<&[u8], &[u8]> = BTreeMap::new();
        for (key, value) in global.iter().chain(local) {
            merged.insert(key, value);
        }
        let mut found = Self::default();
        for (key, value) in merged {
            let bad = || TarError::PaxValue {
                key: key.escape_ascii().to_string(),
                value: value[..value.len().min(40)].escape_ascii().to_string(),
            };
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                found.xattrs.insert(name.to_vec(), value.to_vec());
                continue;
            }
            if value.is_empty() {
                continue;
            }
            let number = || decimal(value).ok_or_else(bad);
            match key {
                b"path" => found.path = Some(value.to_vec()),
                b"linkpath" => found.linkpath = Some(value.to_vec()),
                b"size" => found.size = Some(number()?),
                b"uid" => found.uid = Some(number()?),
                b"gid" => found.gid = Some(number()?),
                b"mtime" => found.mtime = Some(time(value).ok_or_else(bad)?),
                _ => {}
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(body: &[u8]) -> Option<Records> {
        let mut records = Records::new();
        parse(body, &mut records, |_, _| {}).map(|()| records)
    }

    #[test]
    fn values_may_hold_newlines_and_records() {
        let found = records(b"27 user.a=x\n13 linkpath=/e\n11 path=ab\n").unwrap();
        assert_eq!(found[b"user.a".as_slice()], b"x\n13 linkpath=/e");
        assert_eq!(found[b"path".as_slice()], b"ab");
        assert!(!found.contains_key(b"linkpath".as_slice()));
    }

    #[test]
    fn broken_records_are_refused() {
        for bad in [
            "5 a=b",
            "6 a=bc",
            "7 a=b\n",
            "0 a=b\n",
            "99 a=b\n",
            "x a=b\n",
            "-6 a=b\n",
            "5 =b\n",
            "99999999999999999999999 a=b\n",
            "3 \n",
        ] {
            assert_eq!(records(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn times_round_down() {
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"-0.25"), Some((-1, 750_000_000)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        assert_eq!(time(b"7.1234567899"), Some((7, 123_456_789)));
        assert_eq!(time(b"1.x"), None);
        assert_eq!(time(b""), None);
        assert_eq!(time(b"--1"), None);
    }
}
