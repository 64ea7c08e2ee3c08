//! Keeps doc/linux-abi.md in step with the system call table of the `linux` crate.
//!
//! After changing `linux/src/table.rs`: `UPDATE_DOC=1 cargo test -p linux-abi --test coverage`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use syscalls::Sysno;

/// The last system call of Linux 6.12, `mseal`.
const LAST: usize = 462;

const HEAD: &str = "# Linux system calls in oxv

Generated from `linux/src/table.rs`; do not edit. To make it anew: `UPDATE_DOC=1 cargo test -p linux-abi --test coverage`.

The reference is Linux 6.12 on x86-64. *full* means: what the man page says, as far as it makes sense with one program in one
machine. *partial* says what is missing. All others answer `ENOSYS`, with one line in the log at level `info` (`--verbose`).

";

/// `name => module::function / arity, coverage;`, perhaps with `, route` behind it, for every line of the table.
fn table_lines(source: &str) -> BTreeMap<String, String> {
    let start = source.find("\ntable! {\n").expect("the table");
    let body = &source[start..start + source[start..].find("\n}\n").expect("its end")];
    let line = |l: &str| {
        let (name, rest) = l.trim().split_once(" => ")?;
        let (_, coverage) = rest.trim_end_matches(';').split_once(", ")?;
        let coverage = [", quiet", ", whole"].iter().fold(coverage, |c, route| c.strip_suffix(route).unwrap_or(c));
        let text = coverage.strip_prefix("partial(\"").and_then(|c| c.strip_suffix("\")"));
        Some((name.to_owned(), text.map_or("full".to_owned(), |t| format!("partial: {t}"))))
    };
    body.lines().filter_map(line).collect()
}

fn render(table: &BTreeMap<String, String>) -> String {
    let all: Vec<Sysno> = Sysno::iter().filter(|s| (*s as usize) <= LAST).collect();
    let (present, missing): (Vec<Sysno>, Vec<Sysno>) = all.iter().copied().partition(|s| table.contains_key(s.name()));
    let full = present.iter().filter(|s| table[s.name()] == "full").count();
    let mut out = HEAD.to_owned();
    let _ = writeln!(
        out,
        "Of {} calls, {full} are full, {} partial, {} missing.\n\n| number | call | coverage |\n|---|---|---|",
        all.len(),
        present.len() - full,
        missing.len()
    );
    for s in &present {
        let _ = writeln!(out, "| {} | {} | {} |", *s as usize, s.name(), table[s.name()]);
    }
    let names: Vec<_> = missing.iter().map(|s| s.name()).collect();
    let _ = writeln!(out, "\n## Missing (`ENOSYS`)\n\n{}", names.join(", "));
    out
}

#[test]
fn the_document_matches_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let table = table_lines(&std::fs::read_to_string(root.join("linux/src/table.rs")).expect("the table"));
    for name in table.keys() {
        assert!(name.parse::<Sysno>().is_ok(), "{name} is no system call");
    }
    let (path, text) = (root.join("doc/linux-abi.md"), render(&table));
    if std::env::var_os("UPDATE_DOC").is_some() {
        return std::fs::write(path, text).expect("write the document");
    }
    let current = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(current == text, "doc/linux-abi.md is out of date: UPDATE_DOC=1 cargo test -p linux-abi --test coverage");
}
