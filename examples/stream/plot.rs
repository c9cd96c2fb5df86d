//! The picture: what was predicted everywhere after so many observations.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::{coord::Shift, prelude::*};
use shared::{
    axis::{Axis, widened},
    normal::Z95,
};

use crate::{rows::Drawn as Observed, targets::Stage};

/// Stages that are drawn.
pub const MAX_PANELS: usize = 4;

// plotters rounds to whole pixels, so everything is drawn at twice the size that it is shown at.
const SCALE: u32 = 2;
const WIDTH: u32 = 900 * SCALE;
const PANEL: u32 = 190 * SCALE;

const BLUE: RGBColor = RGBColor(31, 100, 180);
const BAND: RGBAColor = RGBAColor(31, 100, 180, 0.2);
const GREY: RGBColor = RGBColor(170, 170, 170);
const DARK: RGBColor = RGBColor(40, 40, 40);

type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// Draws each stage with the observations that it had taken in (dark) and those to come (grey),
/// all of them minus a trend.
pub fn draw(path: &Path, stages: &[Stage], observed: &[Observed], trend: impl Fn(f64) -> f64) -> Result<()> {
    let observed: Vec<Observed> = observed.iter().map(|&(i, x, y)| (i, x, y - trend(x))).collect();
    let stages = &stages[stages.len().saturating_sub(MAX_PANELS)..];
    let root = SVGBackend::new(path, (WIDTH, PANEL * stages.len() as u32)).into_drawing_area();
    let drawn = || -> Drawn {
        root.fill(&WHITE)?;
        for (area, stage) in root.split_evenly((stages.len(), 1)).iter().zip(stages) {
            panel(area, stage, &observed, &trend)?;
        }
        root.present()
    };
    // The error holds a lock and cannot be passed on.
    drawn().map_err(|error| anyhow!("{error}"))
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    stage: &Stage,
    observed: &[Observed],
    trend: &impl Fn(f64) -> f64,
) -> Drawn {
    let text = |size: u32| ("sans-serif", size * SCALE).into_font().color(&DARK);
    let whole = stage.x[0]..stage.x[stage.x.len() - 1];
    // plotters fails at what is far outside.
    let observed = || observed.iter().filter(|(_, x, _)| whole.contains(x));
    let (bottom, top) = heights(stage, observed().map(|(.., y)| *y), trend);
    let (x_axis, y_axis) = (Axis::new(&whole), Axis::new(&(bottom..top)));
    let place = |x: f64, y: f64| (x_axis.drawn(x), y_axis.drawn(y.clamp(bottom, top)));
    let minus = "mean and 95% band, minus the trend";
    let (n, [x_label, y_label]) = (stage.n_points, [x_axis.label("x"), y_axis.label("y")]);
    let caption = if (&x_label[..], &y_label[..]) == ("x", "y") {
        format!("after {n} observations: {minus}")
    } else {
        format!("after {n} observations: {minus}; {y_label} over {x_label}")
    };
    let mut chart = ChartBuilder::on(area)
        .margin(8 * SCALE)
        .caption(caption, text(13))
        .x_label_area_size(20 * SCALE)
        .y_label_area_size(45 * SCALE)
        .build_cartesian_2d(x_axis.range(), y_axis.range())?;
    chart
        .configure_mesh()
        .disable_mesh()
        .x_label_formatter(&|x| x_axis.tick(*x))
        .y_label_formatter(&|y| y_axis.tick(*y))
        .y_labels(6)
        .label_style(text(11))
        .draw()?;
    let points = || stage.x.iter().zip(stage.mean.iter().zip(&stage.std));
    let upper = points().map(|(&x, (mean, std))| place(x, mean - trend(x) + Z95 * std));
    let lower = points().rev().map(|(&x, (mean, std))| place(x, mean - trend(x) - Z95 * std));
    chart.draw_series([Polygon::new(upper.chain(lower).collect::<Vec<_>>(), BAND.filled())])?;
    let line = points().map(|(&x, (&mean, _))| place(x, mean - trend(x)));
    chart.draw_series(LineSeries::new(line, BLUE.stroke_width(SCALE)))?;
    let dots = observed().map(|&(i, x, y)| {
        let color = if i < stage.n_points { DARK } else { GREY };
        Circle::new(place(x, y), SCALE, color.filled())
    });
    chart.draw_series(dots)?;
    Ok(())
}

/// The range of the observations and some more; of the predictions where all are the same.
fn heights(stage: &Stage, observed: impl Iterator<Item = f64>, trend: &impl Fn(f64) -> f64) -> (f64, f64) {
    let range = |(low, high): (f64, f64), y: f64| (low.min(y), high.max(y));
    let (mut low, mut high) = observed.fold((f64::MAX, f64::MIN), range);
    if low >= high {
        let points = stage.x.iter().zip(stage.mean.iter().zip(&stage.std));
        let ends = points.flat_map(|(&x, (mean, std))| [-2.0, 2.0].map(|times| mean - trend(x) + times * std));
        (low, high) = ends.fold((low, high), range);
    }
    let whole = widened(low..high, 0.15);
    (whole.start, whole.end)
}
