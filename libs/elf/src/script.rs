//! `#!` scripts: which interpreter, with which argument. Linux's rules (execve(2), "Interpreter scripts").

/// Bytes of the file that count; a longer first line is cut here.
pub const MAX_LINE: usize = 256;

/// What the first line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Script<'a> {
    /// Path of the interpreter.
    pub interpreter: &'a [u8],
    /// Everything after it, as one argument, without blanks at either end.
    pub argument: Option<&'a [u8]>,
}

/// Why a `#!` line is not usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScriptError {
    /// Nothing after `#!`.
    NoInterpreter,
    /// The path does not end within [`MAX_LINE`] bytes.
    LineTooLong,
}

fn blank(b: u8) -> bool {
    b == b' ' || b == b'\t'
}

/// Reads the first line of a file; `None` if it does not start with `#!`.
///
/// # Errors
/// [`ScriptError`].
pub fn parse(start: &[u8]) -> Option<Result<Script<'_>, ScriptError>> {
    let line = start.strip_prefix(b"#!")?;
    let line = &line[..line.len().min(MAX_LINE - 2)];
    let end = line.iter().position(|&b| b == b'\n' || b == 0);
    Some(split(line[..end.unwrap_or(line.len())].trim_ascii(), end.is_none() && start.len() >= MAX_LINE))
}

fn split(line: &[u8], cut: bool) -> Result<Script<'_>, ScriptError> {
    if line.is_empty() {
        return Err(ScriptError::NoInterpreter);
    }
    let Some(path_end) = line.iter().position(|&b| blank(b)) else {
        return if cut { Err(ScriptError::LineTooLong) } else { Ok(Script { interpreter: line, argument: None }) };
    };
    let argument = line[path_end..].trim_ascii();
    Ok(Script { interpreter: &line[..path_end], argument: (!argument.is_empty()).then_some(argument) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(line: &[u8]) -> (&[u8], Option<&[u8]>) {
        let s = parse(line).unwrap().unwrap();
        (s.interpreter, s.argument)
    }

    #[test]
    fn the_rest_of_the_line_is_one_argument() {
        assert_eq!(ok(b"#!/bin/sh\n"), (&b"/bin/sh"[..], None));
        assert_eq!(ok(b"#! /usr/bin/env  python3 -u \nx"), (&b"/usr/bin/env"[..], Some(&b"python3 -u"[..])));
        assert_eq!(ok(b"#!/bin/sh"), (&b"/bin/sh"[..], None));
    }

    #[test]
    fn other_files_are_not_scripts() {
        assert_eq!(parse(b"\x7fELF"), None);
        assert_eq!(parse(b"#"), None);
    }

    #[test]
    fn bad_lines_are_refused() {
        assert_eq!(parse(b"#!\n/bin/sh"), Some(Err(ScriptError::NoInterpreter)));
        let mut long = b"#!/".to_vec();
        long.resize(400, b'x');
        assert_eq!(parse(&long), Some(Err(ScriptError::LineTooLong)));
    }
}
