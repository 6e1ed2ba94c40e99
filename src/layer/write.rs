//! Entries → the canonical tar.
//!
//! # The format
//!
//! A layer's tar is a function of its entries alone. It is POSIX.1-2001 pax interchange format, used
//! as sparingly as can be:
//!
//! 1. **Order.** Entries ascend by the bytes of their path, no path twice. A path is relative, without
//!    `./`, without a slash at either end; the root's is empty and so comes first. A whiteout stands
//!    where the name that it takes away would stand. Path order is over the whole path: `a`, `a-b`,
//!    `a/x` (0x2D is less than 0x2F).
//! 2. **An entry** is: a pax header where rule 5 asks for one, a ustar header, and for a regular file
//!    its content, filled up with NULs to a multiple of 512 bytes. No sparse encoding.
//! 3. **The ustar header**, 512 bytes; all that is not named here is NUL:
//!
//!    | offset | bytes | content |
//!    |---|---|---|
//!    | 0 | 100 | name: the path; `path/` for a directory, `./` for the root, `dir/.wh.name` for a whiteout. NUL-filled, cut off after 100 bytes |
//!    | 100 | 8 | mode & 07777, symbolic links always 0777 |
//!    | 108 | 8 | uid |
//!    | 116 | 8 | gid |
//!    | 124 | 12 | size: of a regular file's content; 0 for everything else |
//!    | 136 | 12 | mtime in seconds since 1970, rounded down |
//!    | 148 | 8 | checksum: the sum of the header's bytes with this field as eight spaces; six octal digits, NUL, space |
//!    | 156 | 1 | type: `0` file and whiteout, `1` hardlink, `2` symbolic link, `3` character device, `4` block device, `5` directory, `6` FIFO |
//!    | 157 | 100 | target of a hardlink (in the form of a path, rule 1) or a symbolic link (as it is), cut off after 100 bytes |
//!    | 257 | 8 | `ustar`, NUL, `00` |
//!    | 329 | 8 | major number of a device, else 0 |
//!    | 337 | 8 | minor number of a device, else 0 |
//!
//!    Numbers are octal, with leading zeros, one digit less than the field has bytes, then a NUL. A
//!    number that rule 5 puts into the pax header is 0 here. User and group names (265, 297) and the
//!    prefix (345) are never used.
//! 4. **A whiteout** is an empty regular file with mode, uid, gid and mtime 0 and no extended
//!    attributes, whatever was known of the name. **A hardlink**: of several names of one file the first in
//!    order is written as the file, and the others as hardlinks to that one, repeating its mode, uid, gid
//!    and mtime, without extended attributes.
//! 5. **The pax header** is there if it has at least one of these records:
//!
//!    | key | when | value |
//!    |---|---|---|
//!    | `SCHILY.xattr.NAME` | for each extended attribute | its bytes, raw |
//!    | `gid`, `uid` | greater than 2097151 | decimal |
//!    | `linkpath` | target longer than 100 bytes, or with a byte above 0x7F | the whole target, raw |
//!    | `mtime` | negative, or greater than 8589934591 | decimal, whole seconds |
//!    | `path` | header name longer than 100 bytes, or with a byte above 0x7F | the whole header name, raw |
//!    | `size` | greater than 8589934591 | decimal |
//!
//!    Records ascend by the bytes of their keys. One record is `LENGTH SP KEY = VALUE LF`, where LENGTH
//!    is the decimal number of bytes of the whole record, itself included. The records follow a ustar
//!    header of their own (name `PaxHeader`, mode 0644, type `x`, size their sum, other numbers 0) and
//!    are filled up with NULs to a multiple of 512 bytes.
//! 6. **The end** is 1024 NULs, with no padding to a larger record size.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use super::entry::{Entry, EntryKind, WHITEOUT_PREFIX};

const BLOCK: usize = 512;
const NAME_FIELD: usize = 100;
/// The greatest number that seven octal digits hold.
const MAX_ID: u32 = 0o7777777;
/// The greatest number that eleven octal digits hold: 8 GiB - 1.
const MAX_LONG: u64 = 0o77777777777;

/// Writes the canonical tar described in the [module](self).
pub struct TarWriter<W: Write> {
    out: W,
    buffer: Vec<u8>,
    last: Option<Vec<u8>>,
}

impl<W: Write> TarWriter<W> {
    /// Starts a tar on `out`, which should take large and small writes equally well.
    pub fn new(out: W) -> Self {
        Self { out, buffer: vec![0; 128 * 1024], last: None }
    }

    /// Writes one entry. `content` is read for regular files only and must yield exactly the entry's
    /// size; more or less is an error, as a file changed while it was read would give a layer that
    /// nobody can reproduce.
    ///
    /// Entries come in order (debug builds assert it). A path that is not in the form of [`Entry::path`], and a name that begins with `.wh.` (which
    /// every reader would take for a whiteout), are errors.
    pub fn append(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        check(entry)?;
        if cfg!(debug_assertions) {
            if let Some(last) = &self.last {
                assert!(*last < entry.path, "{} after {}", show(&entry.path), show(last));
            }
            if let EntryKind::Hardlink { target } = &entry.kind {
                assert!(*target < entry.path, "{} before its target {}", show(&entry.path), show(target));
            }
            self.last = Some(entry.path.clone());
        }
        self.header(entry)?;
        match entry.kind {
            EntryKind::File { size } => self.content(entry, size, content),
            _ => Ok(()),
        }
    }

    /// Writes the end mark and gives the output back, not flushed.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }

    fn header(&mut self, entry: &Entry) -> io::Result<()> {
        let whiteout = entry.kind == EntryKind::Whiteout;
        let name = header_name(entry);
        let target: &[u8] = match &entry.kind {
            EntryKind::Hardlink { target } | EntryKind::Symlink { target } => target,
            _ => b"",
        };
        let size = match entry.kind {
            EntryKind::File { size } => size,
            _ => 0,
        };
        let (mode, uid, gid, mtime) = match entry.kind {
            EntryKind::Whiteout => (0, 0, 0, 0),
            EntryKind::Symlink { .. } => (0o777, entry.uid, entry.gid, entry.mtime),
            _ => (entry.mode & 0o7777, entry.uid, entry.gid, entry.mtime),
        };

        let mut records: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        if !whiteout && !matches!(entry.kind, EntryKind::Hardlink { .. }) {
            for (key, value) in &entry.xattrs {
                records.insert([b"SCHILY.xattr.", key.as_slice()].concat(), value.clone());
            }
        }
        let mut fits = |key: &str, ok: bool, value: &dyn Fn() -> Vec<u8>| {
            if !ok {
                records.insert(key.into(), value());
            }
            ok
        };
        fits("path", fits_header(&name), &|| name.clone());
        fits("linkpath", fits_header(target), &|| target.to_vec());
        let uid = if fits("uid", uid <= MAX_ID, &|| uid.to_string().into()) { uid } else { 0 };
        let gid = if fits("gid", gid <= MAX_ID, &|| gid.to_string().into()) { gid } else { 0 };
        let size = if fits("size", size <= MAX_LONG, &|| size.to_string().into()) { size } else { 0 };
        let long_mtime = u64::try_from(mtime).ok().filter(|t| *t <= MAX_LONG);
        fits("mtime", long_mtime.is_some(), &|| mtime.to_string().into());

        if !records.is_empty() {
            self.pax(&records)?;
        }
        let device = match entry.kind {
            EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
                (major, minor)
            }
            _ => (0, 0),
        };
        let fields = Fields {
            name: &name,
            kind: type_flag(&entry.kind),
            target,
            mode,
            uid,
            gid,
            size,
            mtime: long_mtime.unwrap_or(0),
            device,
        };
        self.out.write_all(&fields.header())
    }

    fn pax(&mut self, records: &BTreeMap<Vec<u8>, Vec<u8>>) -> io::Result<()> {
        let mut body = Vec::new();
        for (key, value) in records {
            push_record(&mut body, key, value);
        }
        let fields = Fields {
            name: b"PaxHeader",
            kind: b'x',
            target: b"",
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: body.len() as u64,
            mtime: 0,
            device: (0, 0),
        };
        self.out.write_all(&fields.header())?;
        body.resize(body.len().next_multiple_of(BLOCK), 0);
        self.out.write_all(&body)
    }

    fn content(&mut self, entry: &Entry, size: u64, content: &mut dyn Read) -> io::Result<()> {
        let mut left = size;
        while left > 0 {
            let want = left.min(self.buffer.len() as u64) as usize;
            match content.read(&mut self.buffer[..want]) {
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        format!(
                            "{} ended after {} of its {size} bytes; it was changed while it was read",
                            show(&entry.path),
                            size - left
                        ),
                    ));
                }
                Ok(got) => {
                    self.out.write_all(&self.buffer[..got])?;
                    left -= got as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let mut more = [0];
        loop {
            match content.read(&mut more) {
                Ok(0) => break,
                Ok(_) => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!(
                            "{} has more than its {size} bytes; it was changed while it was read",
                            show(&entry.path)
                        ),
                    ));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let padding = (size.next_multiple_of(BLOCK as u64) - size) as usize;
        self.out.write_all(&[0; BLOCK][..padding])
    }
}

/// The values of one ustar header; all of them fit.
struct Fields<'a> {
    name: &'a [u8],
    kind: u8,
    target: &'a [u8],
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: u64,
    device: (u32, u32),
}

impl Fields<'_> {
    fn header(&self) -> [u8; BLOCK] {
        let mut header = tar::Header::new_ustar();
        let ustar = header.as_ustar_mut().expect("new_ustar makes a ustar header");
        fill(&mut ustar.name, self.name);
        fill(&mut ustar.linkname, self.target);
        ustar.typeflag = [self.kind];
        octal(&mut ustar.mode, self.mode.into());
        octal(&mut ustar.uid, self.uid.into());
        octal(&mut ustar.gid, self.gid.into());
        octal(&mut ustar.size, self.size);
        octal(&mut ustar.mtime, self.mtime);
        octal(&mut ustar.dev_major, self.device.0.into());
        octal(&mut ustar.dev_minor, self.device.1.into());
        ustar.cksum = *b"        ";
        let sum: u64 = header.as_bytes().iter().map(|b| u64::from(*b)).sum();
        let field = &mut header.as_ustar_mut().expect("still a ustar header").cksum;
        octal(&mut field[..7], sum);
        *header.as_bytes()
    }
}

fn fill(field: &mut [u8; NAME_FIELD], value: &[u8]) {
    let len = value.len().min(NAME_FIELD);
    field[..len].copy_from_slice(&value[..len]);
}

fn octal(field: &mut [u8], value: u64) {
    let width = field.len() - 1;
    let mut left = value;
    for digit in field[..width].iter_mut().rev() {
        *digit = b'0' + (left & 7) as u8;
        left >>= 3;
    }
    debug_assert_eq!(left, 0, "{value} does not fit {width} octal digits");
    field[width] = 0;
}

fn type_flag(kind: &EntryKind) -> u8 {
    match kind {
        EntryKind::File { .. } | EntryKind::Whiteout => b'0',
        EntryKind::Hardlink { .. } => b'1',
        EntryKind::Symlink { .. } => b'2',
        EntryKind::CharDevice { .. } => b'3',
        EntryKind::BlockDevice { .. } => b'4',
        EntryKind::Directory => b'5',
        EntryKind::Fifo => b'6',
    }
}

fn header_name(entry: &Entry) -> Vec<u8> {
    match entry.kind {
        EntryKind::Directory if entry.path.is_empty() => b"./".to_vec(),
        EntryKind::Directory => [&entry.path, b"/".as_slice()].concat(),
        EntryKind::Whiteout => {
            let at = entry.path.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
            [&entry.path[..at], WHITEOUT_PREFIX, &entry.path[at..]].concat()
        }
        _ => entry.path.clone(),
    }
}

fn fits_header(name: &[u8]) -> bool {
    name.len() <= NAME_FIELD && name.is_ascii()
}

/// `LENGTH SP KEY = VALUE LF`, where LENGTH counts its own digits.
fn push_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while rest + len.to_string().len() != len {
        len = rest + len.to_string().len();
    }
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Whether a layer can say what an entry says; [`TarWriter::append`] asks, too, but long after the entry
/// was made.
///
/// # Errors
/// When it cannot; the message names the path and says why.
pub fn check(entry: &Entry) -> io::Result<()> {
    let refuse = |why: &str| {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} cannot be written to a layer: {why}", show(&entry.path)),
        ))
    };
    if entry.path.is_empty() {
        return match entry.kind {
            EntryKind::Directory => Ok(()),
            _ => refuse("the root of a file system must be a directory"),
        };
    }
    for part in entry.path.split(|b| *b == b'/') {
        if part.is_empty() || part == b"." || part == b".." || part.contains(&0) {
            return refuse("the path is not made of plain names");
        }
        if part.starts_with(WHITEOUT_PREFIX) {
            return refuse(
                "in an image a name that begins with `.wh.` means that a file was removed; use another name, \
                 or delete it in the same step",
            );
        }
    }
    match &entry.kind {
        EntryKind::Symlink { target } | EntryKind::Hardlink { target }
            if target.is_empty() || target.contains(&0) =>
        {
            refuse("its link target is empty or holds a NUL byte")
        }
        EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor }
            if *major > MAX_ID || *minor > MAX_ID =>
        {
            refuse("its device number does not fit a tar header")
        }
        _ if entry.xattrs.keys().any(|k| k.is_empty() || k.contains(&b'=') || k.contains(&0)) => {
            refuse("the name of an extended attribute holds `=` or NUL, which a tar cannot carry")
        }
        _ => Ok(()),
    }
}

fn show(path: &[u8]) -> String {
    format!("`/{}`", path.escape_ascii())
}
