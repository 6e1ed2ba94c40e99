//! Sizes as they are written in flags: `64m`, `1GiB`.

/// The bytes of a size: a number, perhaps with a fraction, and `b`, or `k`, `m`, `g`, `t`, `p` in powers of
/// 1024, each of which may go on as `kb` or `kib`; capitals mean the same. `None` if it is none, or more than
/// a signed 64-bit number holds.
///
/// As `RAMInBytes` of Docker's units, of which also the blank between number and unit is taken over.
pub fn bytes(text: &str) -> Option<u64> {
    let last = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')?;
    let (number, unit) = (&text[..=last], &text[last + 1..]);
    let number = number.strip_suffix(' ').unwrap_or(number);
    // Go's and Rust's floats have names as well (`inf`); a size has not.
    let digits = number.trim_start_matches('+');
    let plain = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') || !number.chars().all(plain) {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    let size = number * (1_u64 << shift) as f64;
    // `i64::MAX` as a float is one more than it.
    (size < i64::MAX as f64).then_some(size as u64)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0", Some(0)),
            ("32", Some(32)),
            ("32b", Some(32)),
            ("32 B", Some(32)),
            ("1k", Some(1024)),
            ("1Kb", Some(1024)),
            ("1.5KiB", Some(1536)),
            ("64m", Some(64 << 20)),
            ("2 GB", Some(2 << 30)),
            (".5g", Some(1 << 29)),
            ("3t", Some(3 << 40)),
            ("1p", Some(1 << 50)),
            ("1e3", Some(1000)),
            ("+7", Some(7)),
            ("", None),
            ("m", None),
            ("-1", None),
            ("-1m", None),
            ("1x", None),
            ("1ki", None),
            ("1bb", None),
            ("1 m b", None),
            ("1  m", None),
            ("inf", None),
            ("0x10", None),
            ("9223372036854775808", None),
            ("99999p", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
