//! Tar as anybody writes it → entries.
//!
//! Read: v7, ustar with its prefix, GNU (long names and links, base-256 numbers, old sparse files), pax
//! with local and global headers (and GNU's three sparse formats in it), star's prefix. What one entry
//! says is put together in the order that Go's `archive/tar` uses, since that is what wrote and reads
//! most layers: the header, pax records over it, GNU long names over those.
//!
//! The archive is not trusted: no input makes this panic, recurse, or hold more than
//! [`MAX_EXTENSION`] bytes for one entry's extensions and [`MAX_GLOBAL`] for those of all. Names come out as they are written: what they
//! mean, and where they may lead, is for [`apply`](mod@super::apply) to say.
//!
//! An archive ends with two blocks of NULs. Some writers leave them out, and other readers let them, so the
//! end of the input between two entries is taken for the end too; [`TarReader::end_marker`] tells which
//! it was. The end anywhere else is an error.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};

use cooper_runtime::sys::fs::{DEPTH_LIMIT, Time};

use super::entry::EntryKind;
use super::pax::{self, Overrides, Records};
use super::sparse;
pub use super::sparse::Extent;

pub(super) const BLOCK: usize = 512;
/// The most bytes that the pax headers of one entry, or a GNU long name, may have.
pub const MAX_EXTENSION: u64 = 1 << 20;
/// The most bytes of records that may hold for all entries that follow. Each entry has to look at them.
pub const MAX_GLOBAL: u64 = 64 << 10;

/// Why a tar cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The input failed.
    #[error("reading the tar failed: {0}")]
    Io(#[from] io::Error),
    /// The input ended inside an entry.
    #[error("the tar ends in the middle of {0}; it was cut off")]
    Truncated(&'static str),
    /// Not a tar header.
    #[error("no tar header at byte {offset}: the checksum is wrong; this is no tar, or it is damaged")]
    Checksum {
        /// Where in the tar.
        offset: u64,
    },
    /// One block of NULs, and no second.
    #[error("the tar has half of an end mark before byte {offset}, and goes on; it is damaged")]
    AfterEnd {
        /// Where it goes on.
        offset: u64,
    },
    /// A header field is no number, or one that means nothing.
    #[error("the {field} of tar entry `{path}` is no valid number")]
    Number {
        /// The header's name of the entry.
        path: String,
        /// Which field.
        field: &'static str,
    },
    /// A pax header is not made of records.
    #[error("the pax header at byte {offset} is malformed")]
    Pax {
        /// Where in the tar.
        offset: u64,
    },
    /// A pax record has a value of the wrong form.
    #[error("the pax record `{key}` has the value `{value}`, which is malformed")]
    PaxValue {
        /// The key.
        key: String,
        /// The beginning of its value.
        value: String,
    },
    /// An extension is too large to be one.
    #[error("{what} of {size} bytes at byte {offset}; at most {max} are accepted")]
    TooLarge {
        /// Pax header or long name.
        what: &'static str,
        /// What it says.
        size: u64,
        /// How many are accepted.
        max: u64,
        /// Where in the tar.
        offset: u64,
    },
    /// A name below more directories than anything walks. An archive of a few bytes could otherwise have
    /// hundreds of thousands made.
    #[error("a tar entry lies more than {DEPTH_LIMIT} directories deep; its name begins with `{0}`")]
    Deep(String),
    /// A sparse map that does not describe a file.
    #[error("the sparse map of tar entry `{0}` is malformed")]
    Sparse(String),
    /// A type that only a backup program would know what to do with.
    #[error("tar entry `{path}` has type `{kind}`, which no image layer can contain")]
    Type {
        /// The entry.
        path: String,
        /// The type byte.
        kind: String,
    },
    /// A name or link target that no file system can have.
    #[error("tar entry `{0}` has an empty name or link target, or one with a NUL byte")]
    Name(String),
}

/// One entry as the archive has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawEntry {
    /// The name as written: perhaps absolute, with `./` or `..`, or ending in slashes.
    pub path: Vec<u8>,
    /// What it is; never [`EntryKind::Whiteout`]. Link targets as written.
    pub kind: EntryKind,
    /// Permission bits (`0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Time,
    /// All extended attributes, kept ones and others.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Of a sparse file, where its stored bytes belong, ascending; the rest is holes.
    pub extents: Option<Vec<Extent>>,
}

/// Reads a tar entry by entry. Between two calls of [`next`](Self::next) the reader itself yields the
/// content of the entry that the first one gave; what is left of it is skipped.
pub struct TarReader<R: Read> {
    input: BufReader<R>,
    /// Bytes taken from the input.
    offset: u64,
    /// Bytes of the current entry's stored content not yet read.
    stored: u64,
    /// NULs between it and the next header.
    padding: u64,
    /// The current entry if it is sparse.
    expansion: Option<sparse::Expansion>,
    global: Records,
    end: Option<bool>,
}

impl<R: Read> TarReader<R> {
    /// A reader of the tar that `input` yields, uncompressed.
    pub fn new(input: R) -> Self {
        Self {
            input: BufReader::with_capacity(64 * 1024, input),
            offset: 0,
            stored: 0,
            padding: 0,
            expansion: None,
            global: Records::new(),
            end: None,
        }
    }

    /// Whether the tar ended with a block of NULs, once [`next`](Self::next) has given `None`.
    pub fn end_marker(&self) -> Option<bool> {
        self.end
    }

    /// The input, which stands where the last call of this reader left it or up to 64 KiB further.
    pub fn into_inner(self) -> R {
        self.input.into_inner()
    }

    /// Reads the input to its end, past the tar's, so that checksums behind it are checked.
    pub fn drain(&mut self) -> io::Result<u64> {
        io::copy(&mut self.input, &mut io::sink())
    }

    /// The next entry, or `None` at the end. After an error the reader is of no further use.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<RawEntry>, TarError> {
        if self.end.is_some() {
            return Ok(None);
        }
        self.skip(self.stored + self.padding, "a file's content")?;
        (self.stored, self.padding, self.expansion) = (0, 0, None);

        let mut local = Records::new();
        let mut sparse_records = sparse::Records::default();
        let mut extended = 0;
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let at = self.offset;
            let mut header = tar::Header::new_old();
            if !self.block(header.as_mut_bytes())? {
                if extended > 0 || long_name.is_some() || long_link.is_some() {
                    return Err(TarError::Truncated("an entry: its header is missing"));
                }
                self.end = Some(false);
                return Ok(None);
            }
            if header.as_bytes().iter().all(|b| *b == 0) {
                self.rest_is_no_entry()?;
                self.end = Some(true);
                return Ok(None);
            }
            if !checksum_holds(header.as_bytes()) {
                return Err(TarError::Checksum { offset: at });
            }
            match header.as_old().linkflag[0] {
                b'x' | b'X' => {
                    let body = self.extension(&header, "a pax header", at)?;
                    // Several for one entry are merged: each may be small.
                    extended += (body.len() as u64).max(1);
                    if extended > MAX_EXTENSION {
                        let what = "pax headers of one entry";
                        return Err(TarError::TooLarge {
                            what,
                            size: extended,
                            max: MAX_EXTENSION,
                            offset: at,
                        });
                    }
                    pax::parse(&body, &mut local, |k, v| sparse_records.push(k, v))
                        .ok_or(TarError::Pax { offset: at })?;
                }
                b'g' => {
                    let body = self.extension(&header, "a pax header", at)?;
                    pax::parse(&body, &mut self.global, |_, _| {}).ok_or(TarError::Pax { offset: at })?;
                    let size = self.global.iter().map(|(k, v)| (k.len() + v.len()) as u64).sum();
                    if size > MAX_GLOBAL {
                        let what = "global pax records";
                        return Err(TarError::TooLarge { what, size, max: MAX_GLOBAL, offset: at });
                    }
                }
                b'L' => long_name = Some(until_nul(&self.extension(&header, "a long name", at)?).to_vec()),
                b'K' => long_link = Some(until_nul(&self.extension(&header, "a long name", at)?).to_vec()),
                // A volume's label, which names no file.
                b'V' => {
                    let size = number(&header.as_old().size).ok_or_else(|| bad(&header, "size"))?;
                    self.skip(padded(size), "a volume label")?;
                }
                _ => {
                    let mut over = Overrides::new(&self.global, &local)?;
                    over.path = long_name.or(over.path);
                    over.linkpath = long_link.or(over.linkpath);
                    return self.entry(&header, over, sparse_records).map(Some);
                }
            }
        }
    }

    /// Behind the first block of NULs comes a second, or nothing that could be one. Go's reader, and so most
    /// that read layers, refuse anything else; taken for the end, it would be files that are silently missing.
    fn rest_is_no_entry(&mut self) -> Result<(), TarError> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            match self.input.read(&mut block[have..]) {
                Ok(0) => return Ok(()),
                Ok(got) => have += got,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        let offset = self.offset;
        self.offset += BLOCK as u64;
        if block == [0; BLOCK] { Ok(()) } else { Err(TarError::AfterEnd { offset }) }
    }

    fn entry(
        &mut self,
        header: &tar::Header,
        over: Overrides,
        records: sparse::Records,
    ) -> Result<RawEntry, TarError> {
        let old = header.as_old();
        let mut path = over.path.unwrap_or_else(|| header_path(header));
        if let Some(name) = &records.name {
            path.clone_from(name);
        }
        let shown = path.escape_ascii().to_string();
        let number_of = |field: &'static str, bytes: &[u8]| {
            number(bytes).ok_or_else(|| TarError::Number { path: shown.clone(), field })
        };
        let id = |field: &'static str, over: Option<u64>, bytes: &[u8]| {
            let id = over.map_or_else(|| number_of(field, bytes), Ok)?;
            // The last number means "no change" to chown(2).
            match u32::try_from(id) {
                Ok(id) if id != u32::MAX => Ok(id),
                _ => Err(TarError::Number { path: shown.clone(), field }),
            }
        };
        let mtime = match over.mtime {
            Some((sec, nsec)) => Time { sec, nsec },
            None => Time {
                sec: signed(&old.mtime)
                    .ok_or_else(|| TarError::Number { path: shown.clone(), field: "modification time" })?,
                nsec: 0,
            },
        };
        let target = over.linkpath.unwrap_or_else(|| until_nul(&old.linkname).to_vec());
        let device = || -> Result<(u32, u32), TarError> {
            let ustar = header.as_ustar().map(|u| (&u.dev_major, &u.dev_minor));
            let gnu = header.as_gnu().map(|g| (&g.dev_major, &g.dev_minor));
            let (major, minor) =
                ustar.or(gnu).ok_or(TarError::Number { path: shown.clone(), field: "device" })?;
            let part = |bytes: &[u8]| {
                number(bytes)
                    .and_then(|n| u32::try_from(n).ok())
                    .ok_or(TarError::Number { path: shown.clone(), field: "device" })
            };
            Ok((part(major)?, part(minor)?))
        };
        let mut extents = None;
        let flag = old.linkflag[0];
        let kind = match flag {
            // Before POSIX a directory was a file whose name ends in a slash.
            0 if path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => {
                let stored = match over.size {
                    Some(size) if size > i64::MAX as u64 => {
                        return Err(TarError::Number { path: shown, field: "size" });
                    }
                    Some(size) => size,
                    None => number_of("size", &old.size)?,
                };
                self.stored = stored;
                self.padding = padded(stored) - stored;
                let bad_map = || TarError::Sparse(shown.clone());
                let map = if flag == b'S' {
                    Some(self.old_sparse(header)?.ok_or_else(bad_map)?)
                } else if records.is_sparse() {
                    let map = match records.in_content() {
                        true => self.sparse_prologue()?,
                        false => records.map(),
                    };
                    let size = records.size.ok_or_else(bad_map)?;
                    Some((map.ok_or_else(bad_map)?, size))
                } else {
                    None
                };
                let size = match map {
                    Some((map, size)) => {
                        let expansion =
                            sparse::Expansion::new(&map, size, self.stored).ok_or_else(bad_map)?;
                        self.expansion = Some(expansion);
                        extents = Some(map);
                        size
                    }
                    None => stored,
                };
                EntryKind::File { size }
            }
            b'1' => EntryKind::Hardlink { target },
            b'2' => EntryKind::Symlink { target },
            b'3' => {
                let (major, minor) = device()?;
                EntryKind::CharDevice { major, minor }
            }
            b'4' => {
                let (major, minor) = device()?;
                EntryKind::BlockDevice { major, minor }
            }
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => return Err(TarError::Type { path: shown, kind: other.escape_ascii().to_string() }),
        };
        let target_ok = match &kind {
            EntryKind::Hardlink { target } | EntryKind::Symlink { target } => {
                !target.is_empty() && !target.contains(&0)
            }
            _ => true,
        };
        if path.split(|b| *b == b'/').filter(|name| !name.is_empty()).count() > DEPTH_LIMIT + 1 {
            return Err(TarError::Deep(shown.chars().take(60).collect()));
        }
        if path.is_empty() || path.contains(&0) || !target_ok {
            return Err(TarError::Name(shown));
        }
        Ok(RawEntry {
            kind,
            mode: number_of("mode", &old.mode)? as u32 & 0o7777,
            uid: id("owner", over.uid, &old.uid)?,
            gid: id("group", over.gid, &old.gid)?,
            mtime,
            xattrs: over.xattrs,
            extents,
            path,
        })
    }

    /// The map of an old GNU sparse file, from its header and the blocks that follow it.
    fn old_sparse(&mut self, header: &tar::Header) -> Result<Option<(Vec<Extent>, u64)>, TarError> {
        let Some(gnu) = header.as_gnu() else { return Ok(None) };
        let Some(size) = number(&gnu.realsize) else { return Ok(None) };
        let mut map = Vec::new();
        let mut push = |part: &tar::GnuSparseHeader| {
            if part.offset[0] == 0 || map.len() > sparse::MAX_EXTENTS {
                return Some(());
            }
            map.push(Extent { offset: number(&part.offset)?, length: number(&part.numbytes)? });
            Some(())
        };
        if gnu.sparse.iter().try_for_each(&mut push).is_none() {
            return Ok(None);
        }
        let mut more = gnu.isextended[0] == 1;
        while more {
            let mut next = tar::GnuExtSparseHeader::new();
            if !self.block(next.as_mut_bytes())? {
                return Err(TarError::Truncated("a sparse map"));
            }
            if next.sparse.iter().try_for_each(&mut push).is_none() {
                return Ok(None);
            }
            more = next.isextended[0] == 1;
        }
        Ok((map.len() <= sparse::MAX_EXTENTS).then_some((map, size)))
    }

    /// The map that pax sparse format 1.0 puts before the content: decimal numbers, a line each, their
    /// count first, filled up to a block.
    fn sparse_prologue(&mut self) -> Result<Option<Vec<Extent>>, TarError> {
        let mut numbers = sparse::Lines::default();
        while !numbers.complete() {
            let mut block = [0; BLOCK];
            if self.stored < BLOCK as u64 || !self.block(&mut block)? {
                return Ok(None);
            }
            self.stored -= BLOCK as u64;
            if numbers.push(&block).is_none() {
                return Ok(None);
            }
        }
        Ok(numbers.map())
    }

    fn extension(&mut self, header: &tar::Header, what: &'static str, at: u64) -> Result<Vec<u8>, TarError> {
        let size = number(&header.as_old().size).ok_or_else(|| bad(header, "size"))?;
        if size > MAX_EXTENSION {
            return Err(TarError::TooLarge { what, size, max: MAX_EXTENSION, offset: at });
        }
        let mut body = vec![0; padded(size) as usize];
        self.input.read_exact(&mut body).map_err(|e| truncated(e, "an extended header"))?;
        self.offset += body.len() as u64;
        body.truncate(size as usize);
        Ok(body)
    }

    /// Fills one block; `false` if the input is at its end.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, TarError> {
        if self.input.fill_buf()?.is_empty() {
            return Ok(false);
        }
        self.input.read_exact(block).map_err(|e| truncated(e, "a header"))?;
        self.offset += BLOCK as u64;
        Ok(true)
    }

    fn skip(&mut self, count: u64, what: &'static str) -> Result<(), TarError> {
        let skipped = io::copy(&mut (&mut self.input).take(count), &mut io::sink())?;
        self.offset += skipped;
        if skipped < count { Err(TarError::Truncated(what)) } else { Ok(()) }
    }

    /// Reads stored content: all of a plain file, and of a sparse one the bytes of its extents, one
    /// after another, without the holes.
    pub fn read_stored(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.stored).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let got = self.input.read(&mut buffer[..want])?;
        if got == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                TarError::Truncated("a file's content").to_string(),
            ));
        }
        self.stored -= got as u64;
        self.offset += got as u64;
        Ok(got)
    }
}

/// The current entry's content, holes as NULs.
impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(mut expansion) = self.expansion.take() else { return self.read_stored(buffer) };
        let result = expansion.read(buffer, |data| self.read_stored(data));
        self.expansion = Some(expansion);
        result
    }
}

fn truncated(e: io::Error, what: &'static str) -> TarError {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => TarError::Truncated(what),
        _ => TarError::Io(e),
    }
}

fn bad(header: &tar::Header, field: &'static str) -> TarError {
    TarError::Number { path: header_path(header).escape_ascii().to_string(), field }
}

/// A size with the NULs that follow it. Sizes come from [`number`], which keeps them below 2^63.
fn padded(size: u64) -> u64 {
    size.saturating_add(BLOCK as u64 - 1) / BLOCK as u64 * BLOCK as u64
}

fn until_nul(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())]
}

fn header_path(header: &tar::Header) -> Vec<u8> {
    let name = until_nul(&header.as_old().name);
    let Some(ustar) = header.as_ustar() else { return name.to_vec() };
    let bytes = header.as_bytes();
    // star keeps two times at the end of the prefix and its own mark behind them.
    let prefix = match &bytes[508..512] {
        b"tar\0" => until_nul(&ustar.prefix[..131]),
        _ => until_nul(&ustar.prefix),
    };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

/// Sums the header both ways: as unsigned bytes, as the standard says, and as signed ones, as some old
/// writers did.
fn checksum_holds(block: &[u8; BLOCK]) -> bool {
    let Some(said) = signed(&block[148..156]) else { return false };
    let (mut unsigned, mut signed) = (0i64, 0i64);
    for (at, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&at) { b' ' } else { *byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte as i8);
    }
    said == unsigned || said == signed
}

/// A number field that cannot be negative.
fn number(field: &[u8]) -> Option<u64> {
    u64::try_from(signed(field)?).ok()
}

/// A number field: octal digits with spaces or NULs about them (nothing at all is 0), or, with the
/// highest bit set, a big-endian two's complement number in the bits after it.
fn signed(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let first = if negative { field[0] } else { field[0] & 0x7f };
        let start = if negative { -1i64 } else { 0 };
        return [first]
            .iter()
            .chain(&field[1..])
            .try_fold(start, |n, byte| n.checked_mul(256).map(|n| n | i64::from(*byte)));
    }
    let trimmed = field.trim_ascii_start();
    let end = trimmed.iter().position(|b| matches!(b, 0 | b' ')).unwrap_or(trimmed.len());
    trimmed[..end].iter().try_fold(0i64, |n, digit| match digit {
        b'0'..=b'7' => n.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}
