//! Some stations: what was read, and what is predicted of it.

use std::{fmt::Write as _, path::Path};

use datafusion::error::Result;

const PANEL: [f64; 2] = [460.0, 220.0];
const TIME: [f64; 2] = [-2.0, 2.0];
const VALUE: [f64; 2] = [-2.5, 2.5];

/// Draws a panel for each station. Rows are a station and its time, mean and standard deviation, or its time
/// and value.
pub fn draw(path: &Path, stations: &[i64], predicted: &[(i64, Vec<f64>)], read: &[(i64, Vec<f64>)]) -> Result<()> {
    let [width, height] = [2.0 * PANEL[0], stations.len().div_ceil(2) as f64 * PANEL[1]];
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\"><rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (i, station) in stations.iter().enumerate() {
        let corner = [(i % 2) as f64 * PANEL[0], (i / 2) as f64 * PANEL[1]];
        let place = |t: f64, y: f64| {
            let x = corner[0] + 10.0 + (PANEL[0] - 20.0) * (t - TIME[0]) / (TIME[1] - TIME[0]);
            let y = corner[1] + 25.0 + (PANEL[1] - 35.0) * (VALUE[1] - y) / (VALUE[1] - VALUE[0]);
            format!("{x:.1},{y:.1}")
        };
        let of: Vec<&Vec<f64>> = predicted.iter().filter(|row| row.0 == *station).map(|row| &row.1).collect();
        let upper = of.iter().map(|row| place(row[0], row[1] + 2.0 * row[2]));
        let lower = of.iter().rev().map(|row| place(row[0], row[1] - 2.0 * row[2]));
        let band: Vec<String> = upper.chain(lower).collect();
        let mean: Vec<String> = of.iter().map(|row| place(row[0], row[1])).collect();
        let _ = writeln!(svg, "<polygon points=\"{}\" fill=\"#c6dbef\"/>", band.join(" "));
        for (_, row) in read.iter().filter(|row| row.0 == *station).take(300) {
            let at = place(row[0], row[1]);
            let (x, y) = at.split_once(',').unwrap_or_default();
            let _ = writeln!(svg, "<circle cx=\"{x}\" cy=\"{y}\" r=\"1.5\" fill=\"#555\"/>");
        }
        let _ = writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"#08519c\"/>", mean.join(" "));
        let [x, y] = [corner[0] + 12.0, corner[1] + 17.0];
        let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\">station {station}: mean, two standard deviations</text>");
    }
    svg.push_str("</svg>\n");
    Ok(std::fs::write(path, svg)?)
}
