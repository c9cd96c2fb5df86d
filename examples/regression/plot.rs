//! The picture: both predictions over the whole record, and larger around the gap.

use std::{ops::Range, path::Path};

use anyhow::{Result, anyhow};
use plotters::{coord::Shift, prelude::*};
use shared::{
    axis::{Axis, widened},
    normal::{Normal, Z95},
};

use crate::data::Series;

pub struct Picture<'a> {
    pub title: &'a str,
    pub x_label: &'a str,
    pub y_label: &'a str,
    pub context: &'a Series,
    pub targets: &'a Series,
    /// The first and the last coordinate of a gap in the context.
    pub gap: Option<Range<f64>>,
    /// Where the predictions are.
    pub x: &'a [f64],
    pub neural_process: &'a [Normal],
    /// Empty if there is none.
    pub gaussian_process: &'a [Normal],
}

// plotters rounds to whole pixels, so everything is drawn at twice the size that it is shown at.
const SCALE: u32 = 2;
const WIDTH: u32 = 900 * SCALE;
const PANEL: u32 = 280 * SCALE;
const LEGEND: u32 = 30 * SCALE;

const BLUE: RGBColor = RGBColor(31, 100, 180);
const BAND: RGBAColor = RGBAColor(31, 100, 180, 0.2);
const GREEN: RGBColor = RGBColor(0, 135, 95);
const RED: RGBColor = RGBColor(208, 62, 40);
const DARK: RGBColor = RGBColor(40, 40, 40);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

pub fn draw(path: &Path, picture: &Picture<'_>) -> Result<()> {
    let zoom = picture.gap.as_ref().map(|gap| around(gap, picture.x));
    let n_panels = if zoom.is_some() { 2 } else { 1 };
    let root = SVGBackend::new(path, (WIDTH, LEGEND + n_panels * PANEL)).into_drawing_area();
    let drawn = || -> Drawn {
        root.fill(&WHITE)?;
        let whole = picture.x[0]..picture.x[picture.x.len() - 1];
        let (strip, panels) = root.split_vertically(LEGEND);
        let (top, bottom) = panels.split_vertically(PANEL);
        legend(&strip, picture)?;
        panel(&top, picture, picture.title, whole, 2 * SCALE)?;
        if let Some(zoom) = zoom {
            panel(&bottom, picture, "The gap and its surroundings", zoom, 3 * SCALE)?;
        }
        root.present()
    };
    // The error holds a lock and cannot be passed on.
    drawn().map_err(|error| anyhow!("{error}"))
}

/// Predictions from more and more of the points, one below the other.
pub fn draw_steps(path: &Path, steps: &[Picture<'_>]) -> Result<()> {
    let root = SVGBackend::new(path, (WIDTH, LEGEND + steps.len() as u32 * PANEL)).into_drawing_area();
    let drawn = || -> Drawn {
        root.fill(&WHITE)?;
        let (strip, panels) = root.split_vertically(LEGEND);
        if let Some(first) = steps.first() {
            legend(&strip, first)?;
        }
        for (area, step) in panels.split_evenly((steps.len(), 1)).iter().zip(steps) {
            panel(area, step, step.title, step.x[0]..step.x[step.x.len() - 1], 2 * SCALE)?;
        }
        root.present()
    };
    drawn().map_err(|error| anyhow!("{error}"))
}

fn text(size: u32) -> TextStyle<'static> {
    ("sans-serif", size * SCALE).into_font().color(&DARK)
}

/// One line above the panels, where it hides nothing.
fn legend(area: &Area<'_>, picture: &Picture<'_>) -> Drawn {
    let scale = SCALE as i32;
    let middle = LEGEND as i32 / 2;
    let mut x = 60 * scale;
    let mut label = |label: &str| {
        let left = x;
        x += (label.len() as i32 * 7 + 50) * scale;
        let place = (left + 26 * scale, middle - 7 * scale);
        area.draw(&Text::new(label.to_owned(), place, text(13))).map(|()| left)
    };
    let line = |x: i32, style: ShapeStyle| PathElement::new(vec![(x, middle), (x + 20 * scale, middle)], style);
    let x = label("neural process: mean, 95%")?;
    let band = [(x, middle - 7 * scale), (x + 20 * scale, middle + 7 * scale)];
    area.draw(&Rectangle::new(band, BAND.filled()))?;
    area.draw(&line(x, BLUE.stroke_width(2 * SCALE)))?;
    if !picture.gaussian_process.is_empty() {
        let x = label("Gaussian process: mean")?;
        area.draw(&line(x, GREEN.stroke_width(SCALE)))?;
    }
    let x = label("context")?;
    area.draw(&Circle::new((x + 14 * scale, middle), 3 * SCALE, DARK.filled()))?;
    if picture.targets.is_observed() {
        let x = label("held out")?;
        area.draw(&Circle::new((x + 14 * scale, middle), 3 * SCALE, RED.stroke_width(SCALE)))?;
    }
    Ok(())
}

/// The gap and about as much again on each side, within what is drawn.
fn around(gap: &Range<f64>, x: &[f64]) -> Range<f64> {
    let margin = (gap.end - gap.start).max(0.02 * (x[x.len() - 1] - x[0]));
    (gap.start - margin).max(x[0])..(gap.end + margin).min(x[x.len() - 1])
}

fn panel(area: &Area<'_>, picture: &Picture<'_>, title: &str, x_range: Range<f64>, radius: u32) -> Drawn {
    let inside = |x: f64| x_range.contains(&x);
    let curve = |normals: &[Normal], at: &dyn Fn(&Normal) -> f64| -> Vec<(f64, f64)> {
        let points = picture.x.iter().zip(normals).filter(|(x, _)| inside(**x));
        points.map(|(&x, normal)| (x, at(normal))).collect()
    };
    let points = |series: &Series| -> Vec<(f64, f64)> {
        series.x.iter().copied().zip(series.y.iter().copied()).filter(|(x, y)| inside(*x) && y.is_finite()).collect()
    };
    let mean = curve(picture.neural_process, &|normal| normal.mean);
    let low = curve(picture.neural_process, &|normal| normal.mean - Z95 * normal.std);
    let high = curve(picture.neural_process, &|normal| normal.mean + Z95 * normal.std);
    let (context, targets) = (points(picture.context), points(picture.targets));

    let all = || [&low, &high, &context, &targets].into_iter().flatten().map(|point| point.1);
    let (bottom, top) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    let (x_axis, y_axis) = (Axis::new(&x_range), Axis::new(&widened(bottom..top, 0.05)));
    let place = |(x, y): (f64, f64)| (x_axis.drawn(x), y_axis.drawn(y));
    let mut chart = ChartBuilder::on(area)
        .caption(title, text(15))
        .margin(8 * SCALE)
        .x_label_area_size(34 * SCALE)
        .y_label_area_size(52 * SCALE)
        .build_cartesian_2d(x_axis.range(), y_axis.range())?;
    chart
        .configure_mesh()
        .x_desc(x_axis.label(picture.x_label))
        .y_desc(y_axis.label(picture.y_label))
        .x_labels(12)
        .y_labels(7)
        .label_style(text(12))
        .axis_desc_style(text(13))
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.08))
        .x_label_formatter(&|x| x_axis.tick(*x))
        .y_label_formatter(&|y| y_axis.tick(*y))
        .draw()?;

    let band: Vec<_> = low.iter().chain(high.iter().rev()).copied().map(place).collect();
    chart.draw_series([Polygon::new(band, BAND.filled())])?;
    chart.draw_series(LineSeries::new(mean.into_iter().map(place), BLUE.stroke_width(2 * SCALE)))?;
    let mean = curve(picture.gaussian_process, &|normal| normal.mean);
    chart.draw_series(LineSeries::new(mean.into_iter().map(place), GREEN.stroke_width(SCALE)))?;
    chart.draw_series(context.into_iter().map(|point| Circle::new(place(point), radius, DARK.filled())))?;
    chart
        .draw_series(targets.into_iter().map(|point| Circle::new(place(point), radius + 1, RED.stroke_width(SCALE))))?;
    Ok(())
}
