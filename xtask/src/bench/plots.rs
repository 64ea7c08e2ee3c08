//! SVG plots of the series: cost over size, both axes logarithmic.

use super::table::Curve;
use crate::paths;
use anyhow::{Context, Result, anyhow};
use plotters::coord::combinators::IntoLogRange;
use plotters::prelude::{
    BLACK, ChartBuilder, Circle, Color, IntoDrawingArea, IntoFont, LineSeries, PathElement, RGBColor, SVGBackend, SeriesLabelPosition, WHITE,
};
use std::path::Path;

const SIZE_PX: (u32, u32) = (760, 420);
/// Of oxv's curves.
const DARK: [RGBColor; 3] = [RGBColor(0, 90, 180), RGBColor(0, 140, 90), RGBColor(120, 60, 180)];
/// Of Linux's, in the same order.
const LIGHT: [RGBColor; 3] = [RGBColor(240, 120, 60), RGBColor(220, 170, 40), RGBColor(220, 90, 130)];

/// Writes one file in `doc/plots/` for each plot.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn draw(curves: &[Curve]) -> Result<()> {
    let dir = paths::root().join("doc/plots");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut plots: Vec<&str> = curves.iter().map(|curve| curve.series.plot).collect();
    plots.sort_unstable();
    plots.dedup();
    for plot in plots {
        let curves: Vec<&Curve> = curves.iter().filter(|curve| curve.series.plot == plot).collect();
        let path = dir.join(format!("{plot}.svg"));
        one(&curves, &path).map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))?;
    }
    Ok(())
}

/// A curve with its label and colour.
type Labelled<'a> = (String, RGBColor, &'a [(u64, f64)]);

fn one(curves: &[&Curve], path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let lines = || curves.iter().enumerate().flat_map(|(index, curve)| labelled(index, curve));
    let points = || lines().flat_map(|(_, _, points)| points.iter().copied());
    let largest_size = points().map(|(size, _)| size).max().unwrap_or(10);
    let (least, most) = points().fold((f64::MAX, 1.0_f64), |(least, most), (_, cost)| (least.min(cost), most.max(cost)));

    let area = SVGBackend::new(path, SIZE_PX).into_drawing_area();
    area.fill(&WHITE)?;
    let sizes = curves.first().map_or("", |curve| curve.series.sizes);
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d((10.0..largest_size as f64).log_scale(), (least.min(most) / 2.0..most * 10.0).log_scale())?;
    chart
        .configure_mesh()
        .x_desc(sizes)
        .y_desc("guest instructions")
        .y_labels(6)
        .label_style(("sans-serif", 13).into_font())
        .x_label_formatter(&|size| format!("{size:.0}"))
        .y_label_formatter(&|cost| format!("{cost:.0}"))
        .draw()?;
    for (label, colour, points) in lines() {
        let at = || points.iter().map(|(size, cost)| (*size as f64, *cost));
        let line = chart.draw_series(LineSeries::new(at(), colour.stroke_width(2)))?;
        line.label(label).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(at().map(|point| Circle::new(point, 3, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 13).into_font())
        .draw()?;
    area.present()?;
    Ok(())
}

fn labelled<'a>(index: usize, curve: &'a &Curve) -> [Labelled<'a>; 2] {
    let label = |system: &str| format!("{system}: {}", curve.series.name);
    [(label("oxv"), DARK[index % DARK.len()], &curve.oxv), (label("Linux"), LIGHT[index % LIGHT.len()], &curve.linux)]
}
