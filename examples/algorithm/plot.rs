//! The picture: the share of right answers by the length of the problem.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// What one network reached.
pub struct Curve {
    pub name: String,
    /// Length of the problem and share of right answers.
    pub points: Vec<(usize, f64)>,
}

// plotters rounds to whole pixels, so everything is drawn at twice the size that it is shown at.
const SCALE: u32 = 2;

const COLOURS: [RGBColor; 5] = [
    RGBColor(31, 100, 180),
    RGBColor(208, 62, 40),
    RGBColor(0, 135, 95),
    RGBColor(150, 90, 170),
    RGBColor(120, 120, 120),
];

type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// `trained` is the longest problem of the training.
pub fn draw(path: &Path, title: &str, trained: usize, curves: &[Curve]) -> Result<()> {
    let root = SVGBackend::new(path, (700 * SCALE, 320 * SCALE)).into_drawing_area();
    let longest = curves.iter().flat_map(|curve| &curve.points).map(|point| point.0).max().unwrap_or(1);
    let text = |size: u32| ("sans-serif", size * SCALE).into_font();
    let drawn = || -> Drawn {
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, text(15))
            .margin(12 * SCALE)
            .x_label_area_size(36 * SCALE)
            .y_label_area_size(48 * SCALE)
            .build_cartesian_2d(0.5..longest as f64 + 0.5, 0.0..1.02)?;
        let seen = [(0.5, 0.0), (trained as f64 + 0.5, 1.02)];
        chart.draw_series([Rectangle::new(seen, RGBColor(0, 0, 0).mix(0.06).filled())])?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.15).stroke_width(SCALE))
            .axis_style(BLACK.mix(0.6).stroke_width(SCALE))
            .x_desc("length of the problem (shaded: lengths seen in training)")
            .y_desc("whole answer right")
            .y_label_formatter(&|share| format!("{:.0}%", 100.0 * share))
            // Whole lengths only.
            .x_label_formatter(&|&length| if length.fract() == 0.0 { format!("{length}") } else { String::new() })
            .axis_desc_style(text(13))
            .label_style(text(12))
            .draw()?;
        for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
            let line = colour.stroke_width(2 * SCALE);
            let points: Vec<(f64, f64)> = curve.points.iter().map(|&(n, share)| (n as f64, share)).collect();
            chart
                .draw_series(LineSeries::new(points.clone(), line))?
                .label(&curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20 * SCALE as i32, y)], line));
            chart.draw_series(points.into_iter().map(|at| Circle::new(at, 3 * SCALE, colour.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerLeft)
            .background_style(WHITE.mix(0.85))
            .label_font(text(13))
            .legend_area_size(28 * SCALE)
            .draw()?;
        root.present()
    };
    // The error holds a lock and cannot be passed on.
    drawn().map_err(|error| anyhow!("{error}"))
}
