//! Scripts: the `#!` line, as execve(2) reads it, and `env` as the interpreter.

use std::path::Path;

/// What a script's first line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shebang {
    pub(crate) interpreter: String,
    /// Everything after the interpreter, as one argument.
    pub(crate) argument: Option<String>,
}

/// Reads the `#!` line at the start of a file; `None` if there is none.
pub(crate) fn parse(start: &[u8]) -> Option<Shebang> {
    let line = start.strip_prefix(b"#!")?.split(|&b| b == b'\n' || b == 0).next()?;
    let text = String::from_utf8_lossy(line);
    let text = text.trim_matches([' ', '\t', '\r']);
    let (interpreter, argument) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    let argument = argument.trim();
    let argument = (!argument.is_empty()).then(|| argument.to_owned());
    (!interpreter.is_empty()).then(|| Shebang { interpreter: interpreter.into(), argument })
}

impl Shebang {
    /// The program that `env` starts for this script: the first word that is neither an option nor an assignment.
    pub(crate) fn env_target(&self) -> Option<&str> {
        if Path::new(&self.interpreter).file_name()? != "env" {
            return None;
        }
        self.argument.as_deref()?.split_whitespace().find(|word| !word.starts_with('-') && !word.contains('='))
    }

    /// The argument vector that execve(2) makes of running `script` with `arguments`.
    pub(crate) fn argv(&self, script: &str, arguments: &[String]) -> Vec<String> {
        let head = [Some(self.interpreter.clone()), self.argument.clone(), Some(script.to_owned())];
        head.into_iter().flatten().chain(arguments.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_the_line_is_one_argument() {
        let shebang = parse(b"#! /usr/bin/awk  -f -x \nbody").expect("shebang");
        assert_eq!(shebang.argv("/s", &["a".into()]), ["/usr/bin/awk", "-f -x", "/s", "a"]);
        assert_eq!(parse(b"#!/bin/sh").map(|s| s.argument), Some(None));
    }

    #[test]
    fn env_targets_are_found_behind_options() {
        let target = |line: &[u8]| parse(line).and_then(|s| s.env_target().map(String::from));
        assert_eq!(target(b"#!/usr/bin/env python3\n"), Some("python3".into()));
        assert_eq!(target(b"#!/usr/bin/env -S A=1 perl -w\n"), Some("perl".into()));
        assert_eq!(target(b"#!/bin/sh python3\n"), None);
    }

    #[test]
    fn files_without_the_mark_are_no_scripts() {
        for text in [&b""[..], b"#", b"#!", b"#! \nx", b"hello"] {
            assert_eq!(parse(text), None);
        }
    }
}
