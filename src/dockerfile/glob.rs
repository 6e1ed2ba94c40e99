//! Wildcards over file names, which are bytes and not always text.
//!
//! Two dialects: that of Go's `filepath.Match`, which `COPY` and `ADD` use for their sources, and that of
//! `.dockerignore`, which adds `**`. In both, `*` and `?` stop at a slash and brackets do not: `a[!-~]b`
//! matches `a/b`, there as here. Characters are UTF-8; a byte that is none counts as one character.

/// A pattern that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad pattern `{pattern}`: {reason}")]
pub struct BadPattern {
    /// The pattern, as well as it can be shown.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// A pattern, ready to match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    tokens: Vec<Token>,
    /// The plain bytes that a match must end with: most names fail here, at no cost.
    tail: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// Just this byte.
    Byte(u8),
    /// `?`: a character that is no slash.
    AnyChar,
    /// `*`: characters that are no slashes.
    Star,
    /// `[…]`
    Class(Class),
    /// `**/`, or `**` before anything else: nothing, or everything up to and with some slash.
    Deep,
    /// `**` at the end: all the rest.
    Rest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Class {
    negated: bool,
    /// First and last character, both included.
    ranges: Vec<(char, char)>,
}

impl Class {
    fn accepts(&self, c: char) -> bool {
        self.ranges.iter().any(|&(first, last)| first <= c && c <= last) != self.negated
    }
}

/// Whether a name holds a wildcard that is not escaped.
pub fn has_wildcard(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

impl Glob {
    /// A pattern of `filepath.Match`: `*`, `?`, `[a-z]`, `[^a-z]`, and `\` before a character that is
    /// meant literally. `**` is the same as `*`.
    ///
    /// # Errors
    /// When brackets do not close or are empty, a range lacks an end, or a backslash stands last.
    pub fn new(pattern: &[u8]) -> Result<Glob, BadPattern> {
        Glob::read(pattern, false)
    }

    /// The same with `**`, which spans directories, as in `.dockerignore` and in `COPY --parents`.
    ///
    /// # Errors
    /// As for [`Glob::new`].
    pub fn spanning(pattern: &[u8]) -> Result<Glob, BadPattern> {
        Glob::read(pattern, true)
    }

    fn read(pattern: &[u8], spanning: bool) -> Result<Glob, BadPattern> {
        let bad = |reason| BadPattern { pattern: String::from_utf8_lossy(pattern).into_owned(), reason };
        let mut tokens = Vec::new();
        let mut rest = pattern;
        while let [first, after @ ..] = rest {
            rest = after;
            tokens.push(match first {
                b'*' if spanning && rest.first() == Some(&b'*') => {
                    rest = &rest[1..];
                    rest = rest.strip_prefix(b"/").unwrap_or(rest);
                    if rest.is_empty() { Token::Rest } else { Token::Deep }
                }
                b'*' if tokens.last() == Some(&Token::Star) => continue,
                b'*' => Token::Star,
                b'?' => Token::AnyChar,
                b'[' => {
                    let (class, after) = read_class(rest).map_err(bad)?;
                    rest = after;
                    Token::Class(class)
                }
                b'\\' => {
                    let (&escaped, after) =
                        rest.split_first().ok_or_else(|| bad("a backslash at the end escapes nothing"))?;
                    rest = after;
                    Token::Byte(escaped)
                }
                byte => Token::Byte(*byte),
            });
        }
        let mut tail: Vec<u8> = tokens
            .iter()
            .rev()
            .map_while(|token| if let Token::Byte(byte) = token { Some(*byte) } else { None })
            .collect();
        tail.reverse();
        Ok(Glob { tokens, tail })
    }

    /// Whether the whole of `name` matches.
    pub fn matches(&self, name: &[u8]) -> bool {
        if !name.ends_with(&self.tail) {
            return false;
        }
        // The plain start of the pattern decides most cases, and needs no memory.
        let plain = self.tokens.iter().take_while(|token| matches!(token, Token::Byte(_))).count();
        for (token, at) in self.tokens[..plain].iter().zip(0..) {
            if name.get(at).is_none_or(|&byte| *token != Token::Byte(byte)) {
                return false;
            }
        }
        self.search(plain, name)
    }

    /// Tries every way from the token at `plain`, each (token, place) at most once.
    fn search(&self, plain: usize, name: &[u8]) -> bool {
        let width = name.len() + 1;
        let mut tried = vec![0_u64; ((self.tokens.len() + 1) * width).div_ceil(64)];
        let mut todo = vec![(plain, plain)];
        while let Some((token, at)) = todo.pop() {
            let place = token * width + at;
            let bit = 1 << (place % 64);
            if tried[place / 64] & bit != 0 {
                continue;
            }
            tried[place / 64] |= bit;
            let Some(kind) = self.tokens.get(token) else {
                if at == name.len() {
                    return true;
                }
                continue;
            };
            let rest = &name[at..];
            match kind {
                Token::Rest => return true,
                Token::Deep => {
                    let slashes = (at..name.len()).filter(|&i| name[i] == b'/');
                    todo.extend(slashes.map(|slash| (token + 1, slash + 1)));
                    todo.push((token + 1, at));
                }
                Token::Star => {
                    if let Some((_, length)) = decode(rest).filter(|&(c, _)| c != '/') {
                        todo.push((token, at + length));
                    }
                    todo.push((token + 1, at));
                }
                Token::Byte(byte) => {
                    if rest.first() == Some(byte) {
                        todo.push((token + 1, at + 1));
                    }
                }
                Token::AnyChar => {
                    if let Some((_, length)) = decode(rest).filter(|&(c, _)| c != '/') {
                        todo.push((token + 1, at + length));
                    }
                }
                Token::Class(class) => {
                    if let Some((_, length)) = decode(rest).filter(|&(c, _)| class.accepts(c)) {
                        todo.push((token + 1, at + length));
                    }
                }
            }
        }
        false
    }
}

/// The first character and its length; a byte that is no UTF-8 is one replacement character.
fn decode(bytes: &[u8]) -> Option<(char, usize)> {
    let length = match bytes.first()? {
        0..=0x7f => 1,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf7 => 4,
        _ => return Some((char::REPLACEMENT_CHARACTER, 1)),
    };
    let decoded = bytes.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok());
    match decoded.and_then(|text| text.chars().next()) {
        Some(c) => Some((c, length)),
        None => Some((char::REPLACEMENT_CHARACTER, 1)),
    }
}

/// Reads what follows `[`, and gives what follows the `]`.
fn read_class(bytes: &[u8]) -> Result<(Class, &[u8]), &'static str> {
    let (negated, mut rest) = match bytes.strip_prefix(b"^") {
        Some(rest) => (true, rest),
        None => (false, bytes),
    };
    let mut ranges = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix(b"]").filter(|_| !ranges.is_empty()) {
            return Ok((Class { negated, ranges }, after));
        }
        let (first, after) = class_char(rest)?;
        rest = after;
        let mut last = first;
        if let Some(after) = rest.strip_prefix(b"-") {
            (last, rest) = class_char(after)?;
        }
        ranges.push((first, last));
    }
}

/// One end of a range.
fn class_char(bytes: &[u8]) -> Result<(char, &[u8]), &'static str> {
    let unclosed = "the bracket `[` is not closed";
    let bytes = match bytes {
        [] => return Err(unclosed),
        [b'-' | b']', ..] => return Err("brackets must hold characters or ranges like `a-z`"),
        [b'\\', escaped @ ..] => escaped,
        plain => plain,
    };
    let (c, length) = decode(bytes).ok_or(unclosed)?;
    if c == char::REPLACEMENT_CHARACTER && length == 1 {
        return Err("brackets must hold valid UTF-8");
    }
    Ok((c, &bytes[length..]))
}
