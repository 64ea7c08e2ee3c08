//! The last lines of the kernel log, and the two forms in which programs read them: records of `/dev/kmsg` (Linux:
//! `Documentation/ABI/testing/dev-kmsg`) and the text of `syslog(2)`.
//!
//! Pure data; whoever shares a [`LogRing`] brings the lock.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

use alloc::collections::VecDeque;
use alloc::string::String;
use core::fmt::Write;

/// Severity (RFC 5424, section 6.2.1) in the low three bits, facility above: 0 for the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Priority(pub u16);

impl Priority {
    /// Severity of the kernel's errors.
    pub const ERROR: Self = Self(3);
    /// Severity of its warnings.
    pub const WARNING: Self = Self(4);
    /// Severity of what it says of itself.
    pub const INFO: Self = Self(6);
    /// Severity of what helps to find faults.
    pub const DEBUG: Self = Self(7);
    /// What a program writes without saying: facility `user`, severity of a warning.
    pub const USER: Self = Self(8 | Self::WARNING.0);

    /// From 0, the worst, to 7.
    #[must_use]
    pub const fn severity(self) -> u8 {
        (self.0 & 7) as u8
    }

    /// What a program writes may not look like the kernel's: its facility is at least `user`.
    const fn of_a_program(number: u16) -> Self {
        if number >> 3 == 0 { Self(8 | number) } else { Self(number) }
    }
}

/// A line of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its number, from 0.
    pub number: u64,
    /// Microseconds since boot.
    pub micros: u64,
    /// How important it is, and whose.
    pub priority: Priority,
    /// Without an end of line.
    pub text: String,
}

impl Record {
    /// As a read of `/dev/kmsg` gives it: `6,12,345678,-;text`, bytes that are not printable ASCII as `\x0a`.
    #[must_use]
    pub fn for_kmsg(&self) -> String {
        let mut out = String::with_capacity(self.text.len() + 32);
        // Writing into a String cannot fail.
        let _ = write!(out, "{},{},{},-;", self.priority.0, self.number, self.micros);
        for byte in self.text.bytes() {
            let _ = match byte {
                b'\\' | 0..=0x1f | 0x7f.. => write!(out, "\\x{byte:02x}"),
                _ => out.write_char(char::from(byte)),
            };
        }
        out.push('\n');
        out
    }

    /// As `syslog(2)` gives it: `<6>[    0.345678] text`.
    #[must_use]
    pub fn for_syslog(&self) -> String {
        let (seconds, fraction) = (self.micros / 1_000_000, self.micros % 1_000_000);
        alloc::format!("<{}>[{seconds:>5}.{fraction:06}] {}\n", self.priority.0, self.text)
    }
}

/// What there is behind a place in the log.
#[derive(PartialEq, Eq, Debug)]
pub enum Next<'a> {
    /// The next line.
    Line(&'a Record),
    /// It has been overwritten; the oldest that is left has this number.
    Lost(u64),
    /// Nothing yet.
    Nothing,
}

/// The last lines.
#[derive(Debug)]
pub struct LogRing {
    lines: VecDeque<Record>,
    /// Bytes of all texts.
    bytes: usize,
    capacity: usize,
    next: u64,
}

impl LogRing {
    /// What a line takes besides its text, so that empty lines do not fill the memory.
    const OVERHEAD: usize = 32;

    /// A log that keeps about `capacity` bytes.
    #[must_use]
    pub const fn new(capacity: usize) -> Self {
        Self { lines: VecDeque::new(), bytes: 0, capacity, next: 0 }
    }

    /// Adds a line; the oldest go for it.
    pub fn push(&mut self, micros: u64, priority: Priority, text: String) {
        self.bytes += text.len() + Self::OVERHEAD;
        self.lines.push_back(Record { number: self.next, micros, priority, text });
        self.next += 1;
        while self.bytes > self.capacity
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= oldest.text.len() + Self::OVERHEAD;
        }
    }

    /// Number of the oldest line that is left, or of the next one.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        self.lines.front().map_or(self.next, |line| line.number)
    }

    /// Number that the next line will have.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.next
    }

    /// Bytes that are kept at most.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The line with `number`.
    #[must_use]
    pub fn get(&self, number: u64) -> Next<'_> {
        let oldest = self.oldest();
        match number.checked_sub(oldest) {
            None => Next::Lost(oldest),
            Some(at) => self.lines.get(at as usize).map_or(Next::Nothing, Next::Line),
        }
    }

    /// The lines from `number` on.
    pub fn from(&self, number: u64) -> impl DoubleEndedIterator<Item = &Record> {
        let skipped = number.saturating_sub(self.oldest()).min(self.lines.len() as u64);
        self.lines.range(skipped as usize..)
    }

    /// The last lines from `number` on whose texts for `syslog(2)` fit into `room` bytes together.
    #[must_use]
    pub fn tail(&self, number: u64, room: usize) -> String {
        let mut left = room;
        let mut first = self.end();
        for line in self.from(number).rev() {
            let Some(rest) = left.checked_sub(line.for_syslog().len()) else { break };
            (left, first) = (rest, line.number);
        }
        self.from(first).map(Record::for_syslog).collect()
    }
}

/// Most that a program may write at once, in bytes (Linux: `PRINTKRB_RECORD_MAX`).
pub const LONGEST_WRITE: usize = 1024;

/// What a program writes to `/dev/kmsg`: an optional priority `<N>`, then the text. An end of line at its end is not part of it.
#[must_use]
pub fn parse_write(written: &[u8]) -> (Priority, String) {
    let (priority, text) = prefixed(written).unwrap_or((Priority::USER, written));
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    (priority, String::from_utf8_lossy(text).into_owned())
}

fn prefixed(written: &[u8]) -> Option<(Priority, &[u8])> {
    let inner = written.strip_prefix(b"<")?;
    let end = inner.iter().position(|&byte| byte == b'>')?;
    let number: u16 = core::str::from_utf8(&inner[..end]).ok()?.parse().ok()?;
    Some((Priority::of_a_program(number), &inner[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use std::vec::Vec;

    fn with(lines: &[&str], capacity: usize) -> LogRing {
        let mut ring = LogRing::new(capacity);
        for (at, line) in lines.iter().enumerate() {
            ring.push(at as u64 * 1_000_001, Priority::INFO, line.to_string());
        }
        ring
    }

    #[test]
    fn lines_are_read_by_number_and_the_oldest_go_first() {
        let mut ring = with(&["one", "two"], 100);
        assert!(matches!(ring.get(0), Next::Line(line) if line.text == "one"));
        assert_eq!(ring.get(2), Next::Nothing);
        ring.push(9, Priority::WARNING, "3".repeat(40));
        assert_eq!((ring.get(0), ring.oldest(), ring.end()), (Next::Lost(2), 2, 3));
        assert!(matches!(ring.get(2), Next::Line(line) if line.text.len() == 40));
        ring.push(9, Priority::WARNING, "4".repeat(400));
        assert_eq!((ring.get(3), ring.oldest(), ring.end()), (Next::Lost(4), 4, 4));
    }

    #[test]
    fn kmsg_shows_only_printable_text() {
        let record = Record { number: 7, micros: 1_500_000, priority: Priority::USER, text: "a\\b\nc\u{e4}".into() };
        assert_eq!(record.for_kmsg(), "12,7,1500000,-;a\\x5cb\\x0ac\\xc3\\xa4\n");
        assert_eq!(record.for_syslog(), "<12>[    1.500000] a\\b\nc\u{e4}\n");
    }

    #[test]
    fn a_tail_has_whole_lines_and_ends_with_the_last() {
        let ring = with(&["one", "two", "three"], 1000);
        let all = ring.tail(0, 1000);
        assert_eq!(all.lines().collect::<Vec<_>>(), ["<6>[    0.000000] one", "<6>[    1.000001] two", "<6>[    2.000002] three"]);
        assert_eq!(ring.tail(0, all.len()), all);
        assert_eq!(ring.tail(0, all.len() - 1), ring.tail(1, 1000));
        assert_eq!((ring.tail(0, 5).as_str(), ring.tail(3, 1000).as_str(), ring.tail(99, 1000).as_str()), ("", "", ""));
    }

    #[test]
    fn programs_give_priorities_but_not_the_kernels() {
        for (written, priority, text) in [
            (&b"plain\n"[..], 12, "plain"),
            (b"<3>error", 11, "error"),
            (b"<30>daemon\n", 30, "daemon"),
            (b"<x>odd", 12, "<x>odd"),
            (b"<99999>odd", 12, "<99999>odd"),
            (b"<5", 12, "<5"),
            (b"", 12, ""),
        ] {
            assert_eq!(parse_write(written), (Priority(priority), text.into()));
        }
    }
}
