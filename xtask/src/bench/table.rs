//! The numbers of one run.

use super::metrics::{Folder, Goal, Metric, Series};

/// Which system a number belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// oxv.
    Oxv,
    /// The reference.
    Linux,
}

/// What the numbers of a run of programs are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The metrics.
    Value,
    /// Ticks of the time-stamp counter, for metrics whose value is a count of instructions.
    Ticks,
}

/// Whether numbers are this run's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Measured now.
    Run,
    /// From an earlier run.
    Cache,
}

/// What one system did for one metric.
#[derive(Default)]
pub(super) struct Cell {
    /// One per run.
    samples: Vec<f64>,
    /// By the wall clock, the least of the runs.
    pub(super) ticks: Option<f64>,
    /// Why there is no number.
    pub(super) unsupported: Option<String>,
    /// From an earlier run.
    pub(super) cached: bool,
}

impl Cell {
    /// The median of the samples.
    pub(super) fn median(&self) -> Option<f64> {
        self.sorted().get(self.samples.len() / 2).copied()
    }

    /// Smallest and largest sample, when there are several that are not the same but for a hundredth.
    pub(super) fn spread(&self) -> Option<(f64, f64)> {
        let sorted = self.sorted();
        let spread = sorted.first().copied().zip(sorted.last().copied());
        spread.filter(|(least, most)| most - least > most.abs() / 100.0)
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.samples.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted
    }
}

/// One line of the table.
pub(super) struct Row {
    /// The folder's kind.
    pub(super) kind: &'static str,
    /// The metric.
    pub(super) metric: &'static Metric,
    /// What oxv did.
    pub(super) oxv: Cell,
    /// What the reference did.
    pub(super) linux: Cell,
}

/// How a number stands to its goal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Nothing to judge.
    None,
    /// Goal met.
    Met,
    /// Goal met in instructions, but slower than the reference by the wall clock.
    Slow,
    /// Goal not met.
    Missed,
}

impl Row {
    /// oxv's value by Linux's.
    pub(super) fn ratio(&self) -> Option<f64> {
        self.oxv.median().zip(self.linux.median()).map(|(oxv, linux)| oxv / linux)
    }

    /// The same in ticks of the time-stamp counter.
    pub(super) fn ticks_ratio(&self) -> Option<f64> {
        self.oxv.ticks.zip(self.linux.ticks).filter(|(_, linux)| *linux > 0.0).map(|(oxv, linux)| oxv / linux)
    }

    /// How oxv's number stands to the goal.
    pub(super) fn verdict(&self) -> Verdict {
        let Some(value) = self.oxv.median() else {
            return if self.oxv.unsupported.is_some() { Verdict::Missed } else { Verdict::None };
        };
        let limit = match self.metric.goal {
            Goal::None => None,
            Goal::AtMost(most) => Some(most),
            Goal::OfLinux(part) => self.linux.median().map(|linux| linux * part),
        };
        match limit {
            None => Verdict::None,
            Some(limit) if value > limit => Verdict::Missed,
            Some(_) if self.ticks_ratio().is_some_and(|ratio| ratio > 1.0) => Verdict::Slow,
            Some(_) => Verdict::Met,
        }
    }
}

/// The points of one series.
pub(super) struct Curve {
    /// The series.
    pub(super) series: &'static Series,
    /// Size and cost.
    pub(super) oxv: Vec<(u64, f64)>,
    /// Size and cost.
    pub(super) linux: Vec<(u64, f64)>,
}

impl Curve {
    /// The cost at a size.
    pub(super) fn at(points: &[(u64, f64)], size: u64) -> Option<f64> {
        points.iter().find(|(at, _)| *at == size).map(|(_, cost)| *cost)
    }

    /// Last cost by first.
    pub(super) fn growth(points: &[(u64, f64)]) -> Option<f64> {
        points.last().zip(points.first()).map(|((_, last), (_, first))| last / first)
    }

    /// Whether oxv's cost grows at most as the logarithm of the size, up to the series' largest size.
    pub(super) fn verdict(&self) -> Verdict {
        let (Some((first, _)), Some((last, _)), Some(growth)) = (self.oxv.first(), self.oxv.last(), Self::growth(&self.oxv)) else { return Verdict::Missed };
        let logarithmic = (*last as f64).ln() / (*first as f64).ln();
        if *last == self.series.largest && growth <= logarithmic { Verdict::Met } else { Verdict::Missed }
    }

    /// All sizes.
    pub(super) fn sizes(&self) -> Vec<u64> {
        let mut sizes: Vec<u64> = self.oxv.iter().chain(&self.linux).map(|(size, _)| *size).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }
}

/// All numbers.
pub(super) struct Table {
    /// The metrics.
    pub(super) rows: Vec<Row>,
    /// The series.
    pub(super) curves: Vec<Curve>,
    /// Remarks of series that stop early.
    pub(super) remarks: Vec<String>,
}

impl Table {
    /// Without numbers.
    pub(super) fn new(folders: &[&'static Folder]) -> Self {
        let row = |folder: &'static Folder, metric| Row { kind: folder.kind(), metric, oxv: Cell::default(), linux: Cell::default() };
        let rows = folders.iter().flat_map(|folder| folder.metrics().iter().map(move |metric| row(folder, metric))).collect();
        let curve = |series| Curve { series, oxv: Vec::new(), linux: Vec::new() };
        let curves = folders.iter().flat_map(|folder| folder.series()).map(curve).collect();
        Self { rows, curves, remarks: Vec::new() }
    }

    /// Enters what a program printed.
    pub(super) fn record(&mut self, side: Side, phase: Phase, lines: &[String], origin: Origin) {
        for line in lines {
            let words = |tag| line.split_once(tag).map(|(_, rest): (_, &str)| rest.split_whitespace());
            if let Some(mut words) = words("RESULT ") {
                let (name, value) = (words.next(), words.next().and_then(|word| word.parse().ok()));
                name.zip(value).into_iter().for_each(|(name, value)| self.value(side, phase, name, value, origin));
            } else if let Some(mut words) = words("POINT ") {
                let (name, size, cost) = (words.next(), words.next().and_then(|w| w.parse().ok()), words.next().and_then(|w| w.parse().ok()));
                name.zip(size).zip(cost).into_iter().for_each(|((name, size), cost)| self.point(side, name, size, cost));
            } else if let Some(mut words) = words("UNSUPPORTED ") {
                let name = words.next().unwrap_or_default().to_owned();
                self.unsupported(side, &name, &words.collect::<Vec<_>>().join(" "));
            }
        }
    }

    fn cell(&mut self, side: Side, name: &str) -> Option<&mut Cell> {
        let row = self.rows.iter_mut().find(|row| row.metric.name == name)?;
        Some(if side == Side::Oxv { &mut row.oxv } else { &mut row.linux })
    }

    fn value(&mut self, side: Side, phase: Phase, name: &str, value: f64, origin: Origin) {
        let Some(cell) = self.cell(side, name) else { return };
        cell.cached |= origin == Origin::Cache;
        match phase {
            Phase::Value => cell.samples.push(value),
            Phase::Ticks => cell.ticks = Some(cell.ticks.map_or(value, |ticks| ticks.min(value))),
        }
    }

    fn point(&mut self, side: Side, name: &str, size: u64, cost: f64) {
        let Some(curve) = self.curves.iter_mut().find(|curve| curve.series.name == name) else { return };
        if side == Side::Oxv { curve.oxv.push((size, cost)) } else { curve.linux.push((size, cost)) }
    }

    fn unsupported(&mut self, side: Side, name: &str, why: &str) {
        match self.cell(side, name) {
            Some(cell) => cell.unsupported = Some(why.to_owned()),
            None => self.remarks.push(format!("{}: {name}: {why}", if side == Side::Oxv { "oxv" } else { "Linux" })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::metrics::FOLDERS;

    fn table_with(lines: &[(Side, Phase, &str)]) -> Table {
        let mut table = Table::new(&FOLDERS.iter().collect::<Vec<_>>());
        for (side, phase, line) in lines {
            table.record(*side, *phase, &[(*line).to_owned()], Origin::Run);
        }
        table
    }

    fn row<'a>(table: &'a Table, name: &str) -> &'a Row {
        table.rows.iter().find(|row| row.metric.name == name).unwrap()
    }

    #[test]
    fn the_median_of_several_runs_counts_and_the_spread_is_kept() {
        let line = |text| (Side::Oxv, Phase::Value, text);
        let table = table_with(&[line("RESULT fairness_3 9"), line("RESULT fairness_3 1"), line("RESULT fairness_3 3")]);
        assert_eq!(row(&table, "fairness_3").oxv.median(), Some(3.0));
        assert_eq!(row(&table, "fairness_3").oxv.spread(), Some((1.0, 9.0)));
    }

    #[test]
    fn few_instructions_that_take_more_time_than_linux_are_not_a_goal_met() {
        let fast = (Side::Oxv, Phase::Value, "RESULT sched_yield 100");
        let ticks = (Side::Linux, Phase::Ticks, "RESULT sched_yield 1000");
        assert_eq!(row(&table_with(&[fast, ticks, (Side::Oxv, Phase::Ticks, "RESULT sched_yield 900")]), "sched_yield").verdict(), Verdict::Met);
        assert_eq!(row(&table_with(&[fast, ticks, (Side::Oxv, Phase::Ticks, "RESULT sched_yield 1100")]), "sched_yield").verdict(), Verdict::Slow);
        assert_eq!(row(&table_with(&[(Side::Oxv, Phase::Value, "RESULT sched_yield 201")]), "sched_yield").verdict(), Verdict::Missed);
    }

    #[test]
    fn a_goal_that_is_linux_needs_linux() {
        let oxv = (Side::Oxv, Phase::Value, "RESULT malloc_64m 5");
        assert_eq!(row(&table_with(&[oxv]), "malloc_64m").verdict(), Verdict::None);
        assert_eq!(row(&table_with(&[oxv, (Side::Linux, Phase::Value, "RESULT malloc_64m 5")]), "malloc_64m").verdict(), Verdict::Met);
    }

    #[test]
    fn what_a_system_cannot_do_misses_the_goal() {
        let table = table_with(&[(Side::Oxv, Phase::Value, "UNSUPPORTED sched_yield no such call")]);
        assert_eq!(row(&table, "sched_yield").verdict(), Verdict::Missed);
        assert_eq!(row(&table, "sched_yield").oxv.unsupported.as_deref(), Some("no such call"));
    }

    #[test]
    fn points_find_their_series() {
        let table = table_with(&[(Side::Linux, Phase::Value, "POINT vma_growth_map 1000 42.5")]);
        let curve = table.curves.iter().find(|curve| curve.series.name == "vma_growth_map").unwrap();
        assert_eq!(Curve::at(&curve.linux, 1000), Some(42.5));
        assert_eq!(curve.sizes(), [1000]);
    }

    #[test]
    fn a_series_may_grow_as_the_logarithm_and_has_to_reach_its_end() {
        let verdict = |last: &'static str| {
            let table = table_with(&[(Side::Oxv, Phase::Value, "POINT vma_growth_map 10 100"), (Side::Oxv, Phase::Value, last)]);
            table.curves.iter().find(|curve| curve.series.name == "vma_growth_map").unwrap().verdict()
        };
        assert_eq!(verdict("POINT vma_growth_map 100000 490"), Verdict::Met);
        assert_eq!(verdict("POINT vma_growth_map 100000 510"), Verdict::Missed);
        assert_eq!(verdict("POINT vma_growth_map 50000 100"), Verdict::Missed);
    }
}
