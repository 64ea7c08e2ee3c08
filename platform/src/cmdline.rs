//! The kernel command line: words of `key=value` or `key`, quoted as Linux does.
//!
//! `"` begins and ends a quoted stretch in which spaces do not separate; quotes around a value or a whole word are
//! removed (`a="b c"` and `"a=b c"` are the same), others are kept. Keys compare with `-` and `_` equal.

/// A command line to look keys up in.
#[derive(Clone, Copy, Debug, Default)]
pub struct CommandLine<'a> {
    text: &'a str,
}

impl<'a> CommandLine<'a> {
    /// Wraps `text`; nothing is parsed yet.
    #[must_use]
    pub const fn new(text: &'a str) -> Self {
        Self { text }
    }

    /// The line as it was given.
    #[must_use]
    pub const fn as_str(&self) -> &'a str {
        self.text
    }

    /// The words in order, as `(key, value)`; the value is `None` without an `=`.
    #[must_use]
    pub const fn iter(&self) -> Words<'a> {
        Words { rest: self.text }
    }

    /// The value of the last `key=value` word.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.iter().filter(|(k, _)| same_key(k, key)).filter_map(|(_, value)| value).last()
    }

    /// Whether `key` was given: alone, or with a value other than `0`, `n`, `no`, `off`. The last word counts.
    #[must_use]
    pub fn is_set(&self, key: &str) -> bool {
        let last = self.iter().filter(|(k, _)| same_key(k, key)).last();
        last.is_some_and(|(_, value)| !matches!(value, Some("0" | "n" | "no" | "off")))
    }

    /// The value of `key` as a number: decimal, `0x` hexadecimal, with an optional suffix K, M or G (powers of 1024).
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        parse_number(self.get(key)?)
    }
}

/// A number as command lines write it: decimal or `0x` hexadecimal, optional suffix K, M or G.
#[must_use]
pub fn parse_number(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => digits.parse().ok()?,
    };
    value.checked_mul(1 << shift)
}

fn same_key(a: &str, b: &str) -> bool {
    let plain = |c: u8| if c == b'-' { b'_' } else { c };
    a.len() == b.len() && a.bytes().zip(b.bytes()).all(|(x, y)| plain(x) == plain(y))
}

/// Iterator over the words of a [`CommandLine`].
#[derive(Clone, Debug)]
pub struct Words<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Words<'a> {
    type Item = (&'a str, Option<&'a str>);

    fn next(&mut self) -> Option<Self::Item> {
        self.rest = self.rest.trim_start();
        if self.rest.is_empty() {
            return None;
        }
        let mut quoted = false;
        let end = self.rest.find(|c: char| {
            quoted ^= c == '"';
            c.is_whitespace() && !quoted
        });
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        Some(split_word(word))
    }
}

fn split_word(word: &str) -> (&str, Option<&str>) {
    let (word, was_quoted) = match word.strip_prefix('"') {
        Some(inner) => (inner.strip_suffix('"').unwrap_or(inner), true),
        None => (word, false),
    };
    match word.split_once('=') {
        None => (word, None),
        Some((key, value)) if was_quoted => (key, Some(value)),
        Some((key, value)) => (key, Some(unquote(value))),
    }
}

fn unquote(value: &str) -> &str {
    match value.strip_prefix('"') {
        Some(inner) => inner.strip_suffix('"').unwrap_or(inner),
        None => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<(&str, Option<&str>)> {
        CommandLine::new(text).iter().collect()
    }

    #[test]
    fn words_are_split_at_white_space() {
        assert_eq!(
            words("  log=debug quiet\tstdio=tpp "),
            [("log", Some("debug")), ("quiet", None), ("stdio", Some("tpp"))]
        );
        assert!(words("   ").is_empty());
    }

    #[test]
    fn quotes_keep_spaces_and_are_removed() {
        assert_eq!(words(r#"a="b c" "d=e f" g=h"i j""#), [
            ("a", Some("b c")),
            ("d", Some("e f")),
            ("g", Some("h\"i j\""))
        ]);
    }

    #[test]
    fn odd_quotes_and_empty_values_do_not_confuse_it() {
        assert_eq!(words("a=\"b c"), [("a", Some("b c"))]);
        assert_eq!(words("\""), [("", None)]);
        assert_eq!(words("a=\" b="), [("a", Some(" b="))]);
        assert_eq!(words("=x a= b==c"), [("", Some("x")), ("a", Some("")), ("b", Some("=c"))]);
    }

    #[test]
    fn the_last_word_wins_and_dashes_equal_underscores() {
        let line = CommandLine::new("boot-times=0 log=warn boot_times=1 log=info");
        assert_eq!(line.get("log"), Some("info"));
        assert!(line.is_set("boot_times"));
        assert!(!CommandLine::new("x=off").is_set("x"));
        assert!(!line.is_set("absent"));
    }

    #[test]
    fn numbers_take_bases_and_suffixes() {
        assert_eq!(CommandLine::new("m=0x10").number("m"), Some(16));
        assert_eq!(parse_number("8K"), Some(8192));
        assert_eq!(parse_number("1G"), Some(1 << 30));
        for bad in ["", "G", "0x", "-1", "99999999999999999999", "18446744073709551615K", "é"] {
            assert_eq!(parse_number(bad), None, "{bad}");
        }
    }
}
