//! `cargo xtask abi`: writes doc/linux-abi.md, the list of system calls, from the table in `linux/src/table.rs`.
//!
//! The table has one line per call, `NUMBER => function`; a call without a line answers ENOSYS.

use crate::paths;
use anyhow::{Context, Result};
use std::fmt::Write as _;

/// Writes the page.
pub(crate) fn command() -> Result<()> {
    let source = paths::root().join("linux/src/table.rs");
    let text = std::fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let rows = entries(&text);
    let mut page = String::from(
        "# System calls\n\nWritten by `cargo xtask abi` from `linux/src/table.rs`; a call that is not listed answers `ENOSYS`.\n\n\
         | call | function |\n|---|---|\n",
    );
    for (name, function) in &rows {
        let _infallible = writeln!(page, "| `{name}` | `{function}` |");
    }
    let target = paths::root().join("doc/linux-abi.md");
    std::fs::write(&target, page).with_context(|| format!("cannot write {}", target.display()))?;
    println!("{}: {} calls", target.display(), rows.len());
    Ok(())
}

/// The `name => function` lines of the table.
fn entries(table: &str) -> Vec<(String, String)> {
    table.lines().filter_map(entry).collect()
}

fn entry(line: &str) -> Option<(String, String)> {
    let (left, right) = line.trim().trim_start_matches("| ").split_once("=>")?;
    let name = left.trim().rsplit("::").next()?.trim_start_matches("__NR_");
    let function = right.trim().split(['(', ',', ' ', ';']).next()?;
    let is_word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (is_word(name) && function.contains("sys_") || function.contains("::"))
        .then(|| (name.to_owned(), function.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::entries;

    #[test]
    fn table_lines_are_found() {
        let table = "match nr {\n    __NR_read => file::sys_read(ctx),\n    // a comment\n}";
        assert_eq!(entries(table), [("read".to_owned(), "file::sys_read".to_owned())]);
    }
}
