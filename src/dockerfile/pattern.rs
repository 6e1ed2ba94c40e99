//! The patterns in `${name#pattern}`, `${name%pattern}` and `${name/pattern/replacement}`.
//!
//! `?` is any character and `*` any string, neither crossing a line end; a backslash takes the meaning
//! from `*`, `?`, `\`, `}` and `/` and may stand before nothing else. Brackets are ordinary characters.
//! So it is in BuildKit, which turns these into regular expressions.
//!
//! Matching steps a set of pattern positions through the text, so its time is the product of the two
//! lengths at worst.

/// A parsed pattern.
pub(super) struct ShellPattern {
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Char(char),
    AnyChar,
    AnyString,
}

impl Token {
    fn accepts(self, c: char) -> bool {
        match self {
            Token::Char(own) => own == c,
            Token::AnyChar | Token::AnyString => c != '\n',
        }
    }
}

impl ShellPattern {
    /// Reads a pattern; the error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<ShellPattern, String> {
        let mut tokens = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::AnyString,
                '?' => Token::AnyChar,
                '\\' => match chars.next() {
                    Some(c @ ('*' | '?' | '\\' | '}' | '/')) => Token::Char(c),
                    Some(c) => return Err(format!("`\\{c}` is not an escape")),
                    None => return Err("a backslash at the end escapes nothing".to_owned()),
                },
                c => Token::Char(c),
            });
        }
        tokens.dedup_by(|a, b| *a == Token::AnyString && *b == Token::AnyString);
        Ok(ShellPattern { tokens })
    }

    /// How many steps matching takes at worst.
    pub(super) fn effort(&self, value: &str) -> usize {
        (self.tokens.len() + 1).saturating_mul(value.len() + 1)
    }

    /// `value` without the shortest or longest prefix that matches.
    pub(super) fn without_prefix(&self, value: &str, longest: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        let end = prefix_end(&self.tokens, &chars, longest).unwrap_or(0);
        chars[end..].iter().collect()
    }

    /// `value` without the shortest or longest suffix that matches.
    pub(super) fn without_suffix(&self, value: &str, longest: bool) -> String {
        let tokens: Vec<Token> = self.tokens.iter().rev().copied().collect();
        let chars: Vec<char> = value.chars().rev().collect();
        let end = prefix_end(&tokens, &chars, longest).unwrap_or(0);
        chars[end..].iter().rev().collect()
    }

    /// `value` with the first match, or every one, replaced. A match is the leftmost one, and there the
    /// longest. An empty match directly after another match does not count. `None` if the result would have
    /// more than `limit` bytes.
    ///
    /// The replacement is literal. (The reference reads `$1` in it when replacing all, an accident of its
    /// regular expressions.)
    pub(super) fn replace(&self, value: &str, replacement: &str, all: bool, limit: usize) -> Option<String> {
        let chars: Vec<char> = value.chars().collect();
        let mut result = String::new();
        let mut copied = 0;
        let mut from = 0;
        let mut last_end = None;
        while let Some((start, end)) = find(&self.tokens, &chars, from) {
            if end > start || last_end != Some(start) {
                result.extend(&chars[copied..start]);
                result.push_str(replacement);
                if result.len() > limit {
                    return None;
                }
                copied = end;
                last_end = Some(end);
                if !all {
                    break;
                }
            }
            from = if end > start { end } else { end + 1 };
            if from > chars.len() {
                break;
            }
        }
        result.extend(&chars[copied..]);
        (result.len() <= limit).then_some(result)
    }
}

/// How many characters the shortest or longest match at the start of `chars` takes.
fn prefix_end(tokens: &[Token], chars: &[char], longest: bool) -> Option<usize> {
    let mut states = States::new(tokens);
    states.add(0, 0);
    let mut found = None;
    for at in 0..=chars.len() {
        if states.accepting().is_some() {
            found = Some(at);
            if !longest {
                break;
            }
        }
        let Some(&c) = chars.get(at) else { break };
        states.step(c, usize::MAX);
        if states.is_empty() {
            break;
        }
    }
    found
}

/// Start and end of the leftmost longest match at or after `from`.
fn find(tokens: &[Token], chars: &[char], from: usize) -> Option<(usize, usize)> {
    let mut states = States::new(tokens);
    let mut best: Option<(usize, usize)> = None;
    for at in from..=chars.len() {
        if best.is_none() {
            states.add(0, at);
        }
        if let Some(start) = states.accepting().filter(|&s| best.is_none_or(|(b, _)| s <= b)) {
            best = Some((start, at));
        }
        let Some(&c) = chars.get(at) else { break };
        states.step(c, best.map_or(usize::MAX, |(start, _)| start));
        if best.is_some() && states.is_empty() {
            break;
        }
    }
    best
}

/// The pattern positions that are alive, each with the leftmost place where its match began.
///
/// Two ways to the same position have the same future, so the one that began further left is the only
/// one that matters.
struct States<'t> {
    tokens: &'t [Token],
    now: Vec<Option<usize>>,
    next: Vec<Option<usize>>,
}

impl<'t> States<'t> {
    fn new(tokens: &'t [Token]) -> States<'t> {
        let none = vec![None; tokens.len() + 1];
        States { tokens, now: none.clone(), next: none }
    }

    fn add(&mut self, position: usize, start: usize) {
        insert(self.tokens, &mut self.now, position, start);
    }

    fn accepting(&self) -> Option<usize> {
        self.now[self.tokens.len()]
    }

    fn is_empty(&self) -> bool {
        self.now.iter().all(Option::is_none)
    }

    /// Reads a character; matches that began after `limit` are given up.
    fn step(&mut self, c: char, limit: usize) {
        self.next.fill(None);
        for (position, token) in self.tokens.iter().enumerate() {
            let Some(start) = self.now[position].filter(|&start| start <= limit) else { continue };
            if token.accepts(c) {
                let stay = *token == Token::AnyString;
                let target = if stay { position } else { position + 1 };
                insert(self.tokens, &mut self.next, target, start);
            }
        }
        std::mem::swap(&mut self.now, &mut self.next);
    }
}

fn insert(tokens: &[Token], states: &mut [Option<usize>], position: usize, start: usize) {
    let mut position = position;
    loop {
        let known = &mut states[position];
        *known = Some(known.map_or(start, |known| known.min(start)));
        if tokens.get(position) != Some(&Token::AnyString) {
            return;
        }
        position += 1;
    }
}
