//! What a benchmark run leaves: tables on the terminal, JSON in `bench/results/`, tables in `doc/performance.md`, plots in `doc/plots/`.

use super::metrics::{Folder, Goal};
use super::plots;
use super::table::{Cell, Curve, Row, Table, Verdict};
use crate::{paths, run};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// The kinds of metrics with a table of their own; `growth` is the fifth.
const KINDS: [&str; 4] = ["counts", "outside", "times", "apps"];

/// Prints the metrics and their goals.
pub(super) fn list(folders: &[&Folder]) {
    for folder in folders {
        let metrics = folder.metrics().iter().map(|metric| (metric.name, metric.unit, goal(metric.goal)));
        let series = folder.series().iter().map(|series| (series.name, "instructions", format!("over {}", series.sizes)));
        metrics.chain(series).for_each(|(name, unit, goal)| println!("{:8} {:18} {name:24} {unit:13} {goal}", folder.kind(), folder.name));
    }
}

/// Prints the tables.
pub(super) fn print(table: &Table) {
    KINDS.iter().for_each(|kind| print!("{}", section(table, kind).unwrap_or_default()));
    print!("{}", growth(table).unwrap_or_default());
}

/// The table of one kind as Markdown, if any of its metrics was wanted.
fn section(table: &Table, kind: &str) -> Option<String> {
    let rows: Vec<&Row> = table.rows.iter().filter(|row| row.kind == kind).collect();
    if rows.is_empty() {
        return None;
    }
    let columns = if kind == "counts" { ("| time, oxv / Linux ", "|---:") } else { ("", "") };
    let mut text = format!("| metric | unit | oxv | Linux | oxv / Linux {}| goal | |\n|---|---|---:|---:|---:{}|---|---|\n", columns.0, columns.1);
    for row in &rows {
        let time = if kind == "counts" { format!(" {} |", ratio(row.ticks_ratio())) } else { String::new() };
        let (oxv, linux) = (number(&row.oxv), number(&row.linux));
        let (ratio, goal, verdict) = (ratio(row.ratio()), goal(row.metric.goal), verdict(row.verdict()));
        text += &format!("| `{}` | {} | {oxv} | {linux} | {ratio} |{time} {goal} | {verdict} |\n", row.metric.name, row.metric.unit);
    }
    for row in rows {
        let reasons = [("oxv", &row.oxv), ("Linux", &row.linux)].into_iter().filter_map(|(name, cell)| Some((name, cell.unsupported.as_ref()?)));
        reasons.for_each(|(name, why)| text += &format!("\n`{}`, {name}: {why}.\n", row.metric.name));
    }
    if table.rows.iter().any(|row| row.kind == kind && row.linux.cached) {
        text += "\n\\* From an earlier run of the same kernel and program.\n";
    }
    Some(text)
}

/// The series as Markdown, if any was wanted.
fn growth(table: &Table) -> Option<String> {
    if table.curves.is_empty() {
        return None;
    }
    let mut text = "Goal: at most logarithmic, which is 4 for 10 to 10,000 threads and 5 for 10 to 100,000 mappings, up to the largest size.\n\n".to_owned();
    for curve in &table.curves {
        let sizes = curve.sizes();
        let cells = |cell: &dyn Fn(u64) -> String| sizes.iter().map(|size| format!(" {} |", cell(*size))).collect::<String>();
        let costs = |points: &[(u64, f64)]| cells(&|size| Curve::at(points, size).map_or_else(|| "–".to_owned(), plain));
        text += &format!("| `{}` |{} largest / smallest |\n", curve.series.name, cells(&|size| size.to_string()));
        text += &format!("|---|{}---:|\n", "---:|".repeat(sizes.len()));
        let verdict = if curve.oxv.is_empty() { "" } else { verdict(curve.verdict()) };
        text += &format!("| oxv |{} {} {verdict} |\n", costs(&curve.oxv), ratio(Curve::growth(&curve.oxv)));
        text += &format!("| Linux |{} {} |\n\n", costs(&curve.linux), ratio(Curve::growth(&curve.linux)));
    }
    table.remarks.iter().for_each(|remark| text += &format!("{remark}.\n\n"));
    Some(text)
}

fn number(cell: &Cell) -> String {
    let mark = if cell.cached { " \\*" } else { "" };
    match (cell.median(), cell.spread()) {
        (None, _) if cell.unsupported.is_some() => "not supported".to_owned(),
        (None, _) => "–".to_owned(),
        (Some(median), None) => plain(median) + mark,
        (Some(median), Some((least, most))) => format!("{} ({} … {}){mark}", plain(median), plain(least), plain(most)),
    }
}

fn plain(value: f64) -> String {
    if value < 1000.0 && value.fract() != 0.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

fn ratio(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"))
}

fn goal(goal: Goal) -> String {
    match goal {
        Goal::None => String::new(),
        Goal::AtMost(most) => format!("≤ {most}"),
        Goal::OfLinux(1.0) => "≤ Linux".to_owned(),
        Goal::OfLinux(part) => format!("≤ {part:.2} × Linux"),
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::None => "",
        Verdict::Met => "met",
        Verdict::Slow => "**slower than Linux**",
        Verdict::Missed => "**not met**",
    }
}

/// Writes `bench/results/SECONDS.json`.
///
/// # Errors
/// When it cannot be written.
pub(super) fn json(table: &Table) -> Result<()> {
    let dir = paths::root().join("bench/results");
    std::fs::create_dir_all(&dir)?;
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
    let rows: Vec<_> = table.rows.iter().map(row_json).collect();
    let series: Vec<_> = table.curves.iter().map(curve_json).collect();
    let document = json!({"time": seconds, "commit": commit(), "qemu": emulator(), "rows": rows, "series": series, "remarks": table.remarks});
    let path = dir.join(format!("{seconds}.json"));
    std::fs::write(&path, format!("{document:#}\n")).with_context(|| format!("cannot write {}", path.display()))
}

fn row_json(row: &Row) -> Value {
    let verdict = word(row.verdict());
    let mut value = json!({"metric": row.metric.name, "unit": row.metric.unit, "goal": goal(row.metric.goal), "verdict": verdict});
    for (name, cell) in [("oxv", &row.oxv), ("linux", &row.linux)] {
        value[name] = json!(cell.median());
        value[format!("{name}_spread")] = json!(cell.spread());
        value[format!("{name}_ticks")] = json!(cell.ticks);
        value[format!("{name}_unsupported")] = json!(cell.unsupported);
    }
    value["linux_cached"] = json!(row.linux.cached);
    value
}

fn curve_json(curve: &Curve) -> Value {
    let Curve { series, oxv, linux } = curve;
    json!({"series": series.name, "sizes": series.sizes, "verdict": word(curve.verdict()), "oxv": oxv, "linux": linux})
}

fn word(verdict: Verdict) -> String {
    format!("{verdict:?}").to_lowercase()
}

fn emulator() -> String {
    let version = run::output(Command::new("qemu-system-x86_64").arg("--version")).unwrap_or_default();
    version.lines().next().unwrap_or("unknown").to_owned()
}

fn commit() -> String {
    let name = run::output(Command::new("git").current_dir(paths::root()).args(["describe", "--always", "--exclude=*"]));
    name.map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

/// Replaces the tables in `doc/performance.md` of which every metric was measured, and the plots.
///
/// # Errors
/// When the page lacks its markers or a file cannot be written.
pub(super) fn page(table: &Table) -> Result<()> {
    let path = paths::root().join("doc/performance.md");
    let mut text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    for kind in KINDS.into_iter().chain(["growth"]).filter(|kind| is_whole(table, kind)) {
        let body = if kind == "growth" { growth(table) } else { section(table, kind) };
        text = replace(&text, kind, &format!("`cargo xtask bench {kind}` at commit {}, {}.\n\n{}", commit(), emulator(), body.unwrap_or_default()))?;
    }
    if is_whole(table, "growth") {
        plots::draw(&table.curves)?;
    }
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Whether all folders of a kind were asked for.
fn is_whole(table: &Table, kind: &str) -> bool {
    let folders = || super::FOLDERS.iter().filter(|folder| folder.kind() == kind);
    let has_row = |name| table.rows.iter().any(|row| row.metric.name == name) || table.curves.iter().any(|curve| curve.series.name == name);
    folders().all(|folder| folder.metrics().iter().map(|m| m.name).chain(folder.series().iter().map(|s| s.name)).all(has_row))
}

/// Replaces what stands between the markers of a kind.
fn replace(text: &str, kind: &str, body: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- {kind}: written by `cargo xtask bench` -->"), format!("<!-- end of {kind} -->"));
    let (before, rest) = text.split_once(&begin).with_context(|| format!("doc/performance.md has lost its marker {begin}"))?;
    let (_, after) = rest.split_once(&end).with_context(|| format!("doc/performance.md has lost its marker {end}"))?;
    Ok(format!("{before}{begin}\n{body}{end}{after}"))
}
