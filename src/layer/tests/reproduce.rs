//! The archive of entries that are hard to write down, made a second time by a program that was written from
//! the book's page on layers alone.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;

use super::*;

/// An archive as text: a line for each block, and one for each run of blocks of NULs.
#[derive(Default)]
struct Shown {
    text: String,
    partial: Vec<u8>,
    run: u64,
}

impl Shown {
    fn block(&mut self, block: &[u8]) {
        if block == [0; 512] {
            self.run += 1;
            return;
        }
        self.flush_run();
        self.text.extend(block.iter().map(|byte| format!("{byte:02x}")));
        self.text.push('\n');
    }

    fn flush_run(&mut self) {
        if self.run > 0 {
            self.text.push_str(&format!("NUL {}\n", self.run));
        }
        self.run = 0;
    }
}

impl Write for Shown {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        static ZEROS: [u8; 128 * 1024] = [0; 128 * 1024];
        // Gigabytes of zeros in pieces of whole blocks.
        if self.partial.is_empty() && bytes.len().is_multiple_of(512) && bytes == &ZEROS[..bytes.len()] {
            self.run += bytes.len() as u64 / 512;
            return Ok(bytes.len());
        }
        self.partial.extend_from_slice(bytes);
        let whole = std::mem::take(&mut self.partial);
        let (blocks, rest) = whole.as_chunks::<512>();
        blocks.iter().for_each(|block| self.block(block));
        self.partial = rest.to_vec();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn described(entry: &Entry, content: &[u8]) -> serde_json::Value {
    let mut described = json!({
        "path": hex(&entry.path), "mode": entry.mode, "uid": entry.uid, "gid": entry.gid, "mtime": entry.mtime,
        "xattrs": entry.xattrs.iter().map(|(k, v)| (hex(k), json!(hex(v)))).collect::<serde_json::Map<_, _>>(),
    });
    let mut set = |key: &str, value: serde_json::Value| described[key] = value;
    let kind = match &entry.kind {
        EntryKind::Directory => "directory",
        EntryKind::File { size } => {
            match content.len() as u64 == *size {
                true => set("content", json!(hex(content))),
                false => set("size", json!(size)),
            }
            "file"
        }
        EntryKind::Hardlink { target } => {
            set("target", json!(hex(target)));
            "hardlink"
        }
        EntryKind::Symlink { target } => {
            set("target", json!(hex(target)));
            "symlink"
        }
        EntryKind::CharDevice { major, minor } => {
            set("device", json!([major, minor]));
            "char"
        }
        EntryKind::BlockDevice { major, minor } => {
            set("device", json!([major, minor]));
            "block"
        }
        EntryKind::Fifo => "fifo",
        EntryKind::Whiteout => "whiteout",
    };
    set("kind", json!(kind));
    described
}

/// What a third party makes of a description.
fn reproduced(description: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reproduce_layer.py");
    let mut input = tempfile::tempfile().unwrap();
    input.write_all(description.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut input).unwrap();
    let out = Command::new("python3")
        .arg(script)
        .arg("entries")
        .stdin(Stdio::from(input))
        .output()
        .unwrap_or_else(|e| panic!("python3 is needed for this test: {e}"));
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn hard_entries() -> Vec<(Entry, Vec<u8>)> {
    let mut all: Vec<(Entry, Vec<u8>)> = Vec::new();
    let mut add = |entry: Entry| {
        let content = match entry.kind {
            EntryKind::File { size } if size < 1 << 20 => (0..size).map(|i| (i * 7 % 251) as u8).collect(),
            _ => vec![],
        };
        all.push((entry, content));
    };
    add(Entry { mode: 0o1777, mtime: 0, ..dir("") });
    // Order by bytes of the whole path; upper case and what is above 0x7F included.
    for name in ["a-b", "a.b", "A", "b", "a0"] {
        add(file(name, 5));
    }
    add(Entry { mode: 0o2755, ..dir("a") });
    add(file("a/x", 512));
    add(file("a/y", 513));
    add(file("a/empty", 0));
    // Names: not UTF-8, UTF-8, newlines, as long as can be, and where the header ends.
    add(file(b"latin-\xe9\xff", 1));
    add(file("umlaut-\u{fc}", 1));
    add(file("new\nline 9 path=x\n", 1));
    add(file([b'n'; 255], 1));
    for length in [98, 99, 100, 101] {
        add(file(vec![b'f'; length], 1));
        add(dir(vec![b'd'; length]));
        add(symlink(
            [b"s".as_slice(), &[b's'; 5], length.to_string().as_bytes()].concat(),
            vec![b't'; length],
        ));
        add(entry([b"w/".as_slice(), &vec![b'w'; length - 6]].concat(), EntryKind::Whiteout));
    }
    // Where the record's length gains a digit by being counted.
    for length in 985..=995 {
        add(file(vec![b'p'; length], 0));
    }
    // More than a path may have in one call.
    let mut deep = vec![b'q'; 250];
    for _ in 0..20 {
        add(dir(&deep));
        deep.push(b'/');
        deep.extend_from_slice(&[b'q'; 250]);
    }
    add(file(&deep, 3));
    add(hardlink([&deep, b"-link".as_slice()].concat(), &deep));
    // Numbers where they stop to fit.
    for (number, id) in [2_097_151, 2_097_152, u32::MAX - 1].into_iter().enumerate() {
        add(Entry { uid: id, gid: 0, ..file(format!("uid{number}"), 0) });
        add(Entry { uid: 0, gid: id, ..dir(format!("gid{number}")) });
    }
    let times = [0, -1, -8_589_934_592, 2_147_483_648, 8_589_934_591, 8_589_934_592, i64::from(u32::MAX) + 1];
    for (number, mtime) in times.into_iter().enumerate() {
        add(Entry { mtime, ..file(format!("time{number}"), 0) });
    }
    add(file("large0", (8 << 30) - 1));
    add(file("large1", 8 << 30));
    // Extended attributes with any bytes.
    let xattrs: BTreeMap<Vec<u8>, Vec<u8>> = [
        (b"user.bytes".to_vec(), (0..=255).collect()),
        (b"user.empty".to_vec(), vec![]),
        (b"user.records".to_vec(), b"x\n26 linkpath=/etc/passwd\n".to_vec()),
        (b"user.\xff\n ".to_vec(), vec![b'v'; 5000]),
        (b"security.capability".to_vec(), vec![1, 0, 0, 2, 0, 4, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0]),
    ]
    .into();
    add(Entry { xattrs: xattrs.clone(), mode: 0o6755, uid: 3_000_000, mtime: -5, ..file("xattr", 9) });
    add(Entry { xattrs: xattrs.clone(), ..dir("xdir") });
    // Names of one file, and everything else.
    add(Entry { mode: 0o4711, uid: 3_000_000, mtime: -5, xattrs, ..hardlink("xattr2", "xattr") });
    add(hardlink("\u{fc}", "umlaut-\u{fc}"));
    add(symlink("zlink", "../\u{fc}\n"));
    add(hardlink("zlink2", "zlink"));
    add(Entry { mode: 0o622, ..entry("zpipe", EntryKind::Fifo) });
    add(entry("ztty", EntryKind::CharDevice { major: 4, minor: 2_097_151 }));
    add(entry("zdisk", EntryKind::BlockDevice { major: 259, minor: 0 }));
    add(entry("zgone", EntryKind::Whiteout));
    add(Entry { mode: 0o644, uid: 9, mtime: -9, ..entry("a/zgone", EntryKind::Whiteout) });
    all.sort_by(|a, b| a.0.path.cmp(&b.0.path));
    all
}

#[test]
fn the_book_says_enough_to_make_the_same_archive() {
    let entries = hard_entries();
    let mut writer = TarWriter::new(Shown::default());
    for (entry, content) in &entries {
        match entry.kind {
            EntryKind::File { size } if size != content.len() as u64 => {
                writer.append(entry, &mut std::io::repeat(0).take(size)).unwrap();
            }
            _ => writer.append(entry, &mut &content[..]).unwrap(),
        }
    }
    let mut ours = writer.finish().unwrap();
    assert!(ours.partial.is_empty(), "an archive is made of blocks");
    ours.flush_run();
    // Backwards, as order is for the page to say.
    let lines = entries.iter().rev().map(|(entry, content)| format!("{}\n", described(entry, content)));
    let theirs = reproduced(&lines.collect::<String>());
    for (number, (ours, theirs)) in ours.text.lines().zip(theirs.lines()).enumerate() {
        assert_eq!(ours, theirs, "line {number}");
    }
    assert_eq!(ours.text.lines().count(), theirs.lines().count());
    assert!(ours.text.lines().count() > 200);
}
