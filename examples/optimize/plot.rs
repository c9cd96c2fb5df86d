//! The regret over the evaluations, a panel for each function.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use shared::normal::quantile;

use crate::{Outcome, Strategy};

const SCALE: u32 = 2;
const SIZE: (u32, u32) = (900 * SCALE, 620 * SCALE);
const LEGEND: u32 = 30 * SCALE;
/// What is drawn for less: a logarithm has no zero.
const LEAST: f64 = 1e-4;

const COLOURS: [RGBColor; 4] =
    [RGBColor(31, 100, 180), RGBColor(208, 62, 40), RGBColor(0, 135, 95), RGBColor(130, 130, 130)];
const DARK: RGBColor = RGBColor(40, 40, 40);

fn text(size: u32) -> TextStyle<'static> {
    ("sans-serif", size * SCALE).into_font().color(&DARK)
}

fn colour(strategy: Strategy) -> RGBColor {
    COLOURS[Strategy::ALL.iter().position(|other| *other == strategy).unwrap_or(0)]
}

/// Medians as lines, the middle half of the runs as bands.
pub fn draw(path: &Path, all: &[Outcome]) -> Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    let drawn = || -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        root.fill(&WHITE)?;
        let (strip, panels) = root.split_vertically(LEGEND);
        let mut x = 40 * SCALE as i32;
        for strategy in Strategy::ALL {
            let middle = (LEGEND / 2) as i32;
            strip.draw(&PathElement::new(
                vec![(x, middle), (x + 20 * SCALE as i32, middle)],
                colour(strategy).stroke_width(2 * SCALE),
            ))?;
            strip.draw(&Text::new(strategy.name(), (x + 26 * SCALE as i32, middle - 6 * SCALE as i32), text(11)))?;
            x += (strategy.name().len() as i32 * 6 + 44) * SCALE as i32;
        }
        let functions: Vec<_> = all.chunk_by(|a, b| a.0.name == b.0.name).collect();
        for (area, outcomes) in panels.split_evenly((functions.len().div_ceil(2), 2)).iter().zip(functions) {
            let n = outcomes[0].2[0].len();
            let at = |runs: &[Vec<f64>], i: usize, share| quantile(runs.iter().map(|run| run[i]), share).max(LEAST);
            let ends = outcomes
                .iter()
                .flat_map(|(_, _, runs, _)| (0..n).flat_map(move |i| [at(runs, i, 0.25), at(runs, i, 0.75)]));
            let (low, high) = ends.fold((f64::INFINITY, 0.0f64), |(low, high), y| (low.min(y), high.max(y)));
            let mut chart = ChartBuilder::on(area)
                .caption(outcomes[0].0.name, text(14))
                .margin(8 * SCALE)
                .x_label_area_size(30 * SCALE)
                .y_label_area_size(56 * SCALE)
                .build_cartesian_2d(1.0..n as f64, (low..high.max(2.0 * low)).log_scale())?;
            chart
                .configure_mesh()
                .x_desc("evaluations")
                .y_desc("regret")
                .label_style(text(11))
                .axis_desc_style(text(12))
                .light_line_style(TRANSPARENT)
                .bold_line_style(BLACK.mix(0.08))
                .y_label_formatter(&|y| if *y >= 0.01 { format!("{y:.2}") } else { format!("{y:.0e}") })
                .draw()?;
            for (_, strategy, runs, _) in outcomes {
                let line = |share: f64| (0..n).map(move |i| ((i + 1) as f64, at(runs, i, share)));
                let band: Vec<_> = line(0.25).chain(line(0.75).collect::<Vec<_>>().into_iter().rev()).collect();
                chart.draw_series([Polygon::new(band, colour(*strategy).mix(0.12).filled())])?;
                chart.draw_series(LineSeries::new(line(0.5), colour(*strategy).stroke_width(2 * SCALE)))?;
            }
        }
        root.present()
    };
    drawn().map_err(|error| anyhow!("{error}"))
}
