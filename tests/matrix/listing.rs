//! What an archive says, a line for each entry, read without any of cooper's code.

use std::collections::BTreeMap;
use std::io::Read;

/// The time of what a step has made itself: that of the newest input.
pub(crate) const NEW: i64 = 1_600_000_000;
/// The time of what was there before.
const OLD: i64 = 1_000_000_000;

/// Where the scenarios' directories are.
const PARENT: &str = "s";

/// The entries of an uncompressed layer. Paths are relative to `dir`, others begin with a slash.
pub(crate) fn list(layer: impl Read, dir: &str) -> Vec<String> {
    // Raw: the archive reader's own idea of pax records ends at a value with a newline.
    let mut archive = tar::Archive::new(layer);
    let mut lines = Vec::new();
    let mut records = BTreeMap::new();
    for entry in archive.entries().unwrap().raw(true) {
        let mut entry = entry.unwrap();
        if entry.header().entry_type() == tar::EntryType::XHeader {
            let mut text = Vec::new();
            entry.read_to_end(&mut text).unwrap();
            records = pax(&text);
        } else {
            lines.push(line(&mut entry, &std::mem::take(&mut records), dir));
        }
    }
    // Every directory on the way is there, which is of no scenario's interest.
    lines.retain(|line| *line != format!("/{PARENT} dir old"));
    if lines.len() > 40 {
        let between = 1..lines.len() - 2;
        lines.splice(between.clone(), [format!("({} entries)", between.len())]);
    }
    lines
}

/// `LENGTH KEY=VALUE` and a newline each, the length being that of all of it.
fn pax(mut text: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut records = BTreeMap::new();
    while !text.is_empty() {
        let blank = text.iter().position(|b| *b == b' ').unwrap();
        let length: usize = std::str::from_utf8(&text[..blank]).unwrap().parse().unwrap();
        let (record, rest) = text.split_at(length);
        let record = record[blank + 1..].strip_suffix(b"\n").unwrap();
        let equals = record.iter().position(|b| *b == b'=').unwrap();
        let earlier = records.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
        assert!(earlier.is_none(), "two records {}", record.escape_ascii());
        text = rest;
    }
    records
}

fn line(entry: &mut tar::Entry<'_, impl Read>, pax: &BTreeMap<Vec<u8>, Vec<u8>>, dir: &str) -> String {
    let number = |key: &str| {
        let value = pax.get(key.as_bytes())?;
        Some(std::str::from_utf8(value).unwrap().parse::<i64>().unwrap())
    };
    let bytes = |key: &str, field: &[u8]| match pax.get(key.as_bytes()) {
        Some(value) => value.clone(),
        None => field.to_vec(),
    };
    let mut xattrs = String::new();
    for (key, value) in pax {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            let hex: String = value.iter().map(|b| format!("{b:02x}")).collect();
            xattrs += &format!(" {}={}", text(name), if hex.is_empty() { "empty" } else { &hex });
        }
    }
    let header = entry.header();
    let mode = header.mode().unwrap() & 0o7777;
    let uid = number("uid").unwrap_or_else(|| header.uid().unwrap() as i64);
    let gid = number("gid").unwrap_or_else(|| header.gid().unwrap() as i64);
    let mtime = number("mtime").unwrap_or_else(|| header.mtime().unwrap() as i64);
    let path = bytes("path", &header.path_bytes());
    let link = bytes("linkpath", &header.link_name_bytes().unwrap_or_default());
    let kind = header.entry_type();
    let device = (header.device_major(), header.device_minor());
    let (parent, name) = match path.iter().rposition(|b| *b == b'/') {
        Some(slash) if slash + 1 < path.len() => path.split_at(slash + 1),
        _ => (&b""[..], &path[..]),
    };
    if let Some(gone) = name.strip_prefix(b".wh.") {
        let all = (mode, uid, gid, mtime, xattrs.len());
        assert_eq!(all, (0, 0, 0, 0, 0), "whiteouts have no attributes");
        return format!("{} gone", relative(&[parent, gone].concat(), dir));
    }
    let mut usual = 0o644;
    let what = match kind {
        tar::EntryType::Directory => {
            usual = 0o755;
            "dir".to_owned()
        }
        tar::EntryType::Symlink => {
            usual = 0o777;
            format!("link {}", text(&link))
        }
        tar::EntryType::Link => format!("also {}", relative(&link, dir)),
        tar::EntryType::Fifo => "fifo".to_owned(),
        tar::EntryType::Char | tar::EntryType::Block => {
            let letter = if kind == tar::EntryType::Char { "char" } else { "block" };
            format!("{letter} {}:{}", device.0.unwrap().unwrap(), device.1.unwrap().unwrap())
        }
        tar::EntryType::Regular => {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            match content.len() {
                0 => "file".to_owned(),
                1..=40 => format!("file \"{}\"", content.escape_ascii()),
                size => format!("file {size} bytes, {} NUL", content.iter().filter(|b| **b == 0).count()),
            }
        }
        other => panic!("an entry of type {other:?}"),
    };
    let mut line = format!("{} {what}", relative(&path, dir));
    if mode != usual {
        line += &format!(" {mode:04o}");
    }
    if (uid, gid) != (0, 0) {
        line += &format!(" {uid}:{gid}");
    }
    match mtime {
        NEW => {}
        OLD => line += " old",
        other => line += &format!(" @{other}"),
    }
    line + &xattrs
}

/// A path from a scenario's directory, or from the root with a slash.
fn relative(path: &[u8], dir: &str) -> String {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    match path.strip_prefix(dir.as_bytes()) {
        Some([]) => ".".to_owned(),
        Some([b'/', rest @ ..]) => text(rest),
        _ => format!("/{}", text(path)),
    }
}

/// Bytes as printable text without blanks; `x` four hundred times is `x{400}`.
fn text(bytes: &[u8]) -> String {
    let mut components: Vec<(String, usize)> = Vec::new();
    for component in bytes.split(|b| *b == b'/') {
        let short = repeated(component);
        match components.last_mut() {
            Some((last, times)) if *last == short => *times += 1,
            _ => components.push((short, 1)),
        }
    }
    let shown = components.into_iter().map(|(component, times)| match times {
        1 => component,
        2 => format!("{component}/{component}"),
        times => format!("({component}){{{times}}}"),
    });
    shown.collect::<Vec<_>>().join("/")
}

fn repeated(component: &[u8]) -> String {
    let mut shown = String::new();
    for run in component.chunk_by(|a, b| a == b) {
        let one = run[0].escape_ascii().to_string().replace(' ', "\\x20");
        match run.len() {
            1..=20 => shown += &one.repeat(run.len()),
            times => shown += &format!("{one}{{{times}}}"),
        }
    }
    shown
}
