//! Says in a few lines how two outcomes differ.

use crate::case::{Case, Stderr};
use crate::run::Outcome;

/// `None` when the guest did what the host did; otherwise a description.
#[must_use]
pub fn difference(case: &Case, host: &Outcome, guest: &Outcome) -> Option<String> {
    let mut parts = Vec::new();
    match guest.exit {
        None => parts.push(format!("no end after {} s", case.time_limit.as_secs())),
        code if code != host.exit => parts.push(format!("exit code {:?}, expected {:?}", code, host.exit)),
        _ => {}
    }
    parts.extend(stream("standard output", &normal(case, &host.stdout), &normal(case, &guest.stdout)));
    if case.stderr == Stderr::Compare {
        parts.extend(stream("standard error", &host.stderr, &guest.stderr));
    }
    (!parts.is_empty()).then(|| parts.join("\n"))
}

fn normal(case: &Case, bytes: &[u8]) -> Vec<u8> {
    case.normalise.map_or_else(|| bytes.to_vec(), |function| function(bytes))
}

/// Describes the first difference of two streams.
fn stream(what: &str, expected: &[u8], found: &[u8]) -> Option<String> {
    if expected == found {
        return None;
    }
    let at = expected.iter().zip(found).position(|(a, b)| a != b).unwrap_or_else(|| expected.len().min(found.len()));
    let line = expected[..at].iter().filter(|&&byte| byte == b'\n').count() + 1;
    let start = expected[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
    Some(format!(
        "{what} differs at byte {at} (line {line}); {} bytes expected, {} found\n  expected: {}\n  found:    {}",
        expected.len(),
        found.len(),
        excerpt(&expected[start..]),
        excerpt(found.get(start..).unwrap_or_default()),
    ))
}

/// Up to three lines, printable.
fn excerpt(bytes: &[u8]) -> String {
    const LIMIT: usize = 300;
    if bytes.is_empty() {
        return "(end)".to_owned();
    }
    let lines: Vec<_> = bytes[..bytes.len().min(LIMIT)].splitn(4, |&byte| byte == b'\n').take(3).collect();
    lines.iter().map(|line| line.escape_ascii().to_string()).collect::<Vec<_>>().join("\n            ")
}

/// The last lines of a log.
#[must_use]
pub fn tail(bytes: &[u8], lines: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::{stream, tail};

    #[test]
    fn the_first_difference_is_named_with_its_line() {
        let text = stream("out", b"one\ntwo\nthree\n", b"one\ntwx\n").expect("they differ");
        assert!(text.contains("byte 6 (line 2)"), "{text}");
        assert!(stream("out", b"same", b"same").is_none());
    }

    #[test]
    fn a_shorter_stream_differs_at_its_end() {
        let text = stream("out", b"abc", b"ab").expect("they differ");
        assert!(text.contains("byte 2"), "{text}");
    }

    #[test]
    fn tail_keeps_the_last_lines() {
        assert_eq!(tail(b"a\nb\nc\n", 2), "b\nc");
    }
}
