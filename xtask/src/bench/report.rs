//! What a benchmark run leaves: a table on the terminal, JSON in `bench/results/`, the table in `doc/performance.md`.

use super::Row;
use crate::{paths, run};
use anyhow::{Context, Result};
use serde_json::json;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

const BEGIN: &str = "<!-- table: written by `cargo xtask bench` -->";
const END: &str = "<!-- end of table -->";

/// Prints the table.
pub(super) fn print(rows: &[Row]) {
    print!("{}", table(rows));
}

/// The table as Markdown.
fn table(rows: &[Row]) -> String {
    let mut text = String::from("| metric | unit | oxv | Linux | oxv / Linux |\n|---|---|---:|---:|---:|\n");
    for row in rows {
        let ratio = row.oxv.zip(row.linux).map(|(oxv, linux)| format!("{:.2}", oxv / linux));
        text += &format!(
            "| `{}` | {} | {} | {} | {} |\n",
            row.name,
            row.unit,
            number(row.oxv),
            number(row.linux),
            ratio.unwrap_or_else(|| "–".to_owned())
        );
    }
    text
}

fn number(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value < 1000.0 && value.fract() != 0.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

/// Writes `bench/results/SECONDS.json`.
///
/// # Errors
/// When it cannot be written.
pub(super) fn json(rows: &[Row]) -> Result<()> {
    let dir = paths::root().join("bench/results");
    std::fs::create_dir_all(&dir)?;
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
    let rows: Vec<_> = rows.iter().map(|row| json!({"metric": row.name, "unit": row.unit, "oxv": row.oxv, "linux": row.linux})).collect();
    let document = json!({"time": seconds, "qemu": emulator(), "rows": rows});
    let path = dir.join(format!("{seconds}.json"));
    std::fs::write(&path, format!("{document:#}\n")).with_context(|| format!("cannot write {}", path.display()))
}

fn emulator() -> String {
    let version = run::output(Command::new("qemu-system-x86_64").arg("--version")).unwrap_or_default();
    version.lines().next().unwrap_or("unknown").to_owned()
}

/// Replaces the table in `doc/performance.md`.
///
/// # Errors
/// When the page lacks its markers or cannot be written.
pub(super) fn page(rows: &[Row]) -> Result<()> {
    let path = paths::root().join("doc/performance.md");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (before, rest) = text.split_once(BEGIN).context("doc/performance.md has lost its table marker")?;
    let (_, after) = rest.split_once(END).context("doc/performance.md has lost its end marker")?;
    let page = format!("{before}{BEGIN}\nMeasured with {}, command `cargo xtask bench`.\n\n{}{END}{after}", emulator(), table(rows));
    std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
}
