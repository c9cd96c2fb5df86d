//! Maps side by side, as one SVG: pixels are images inside it, titles and scales are text.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context as _, Result};
use shared::pixels::{image, page, png};

/// What a map shows: a number for each place.
pub struct Map<'a> {
    pub title: &'a str,
    pub places: &'a [[f64; 2]],
    pub numbers: &'a [f64],
    /// The numbers of the first and the last colour.
    pub range: [f64; 2],
    pub unit: &'a str,
}

/// Cells of a map along its longer side, at most.
const CELLS: f64 = 500.0;
/// Pixels on the page.
const WIDTH: usize = 420;
const MARGIN: usize = 16;
const TITLE: usize = 26;
const SCALE: usize = 44;

/// Colours that also those tell apart who see few, from dark to light: anchors of viridis.
const COLOURS: [[f64; 3]; 6] = [
    [68.0, 1.0, 84.0],
    [65.0, 68.0, 135.0],
    [42.0, 120.0, 142.0],
    [34.0, 168.0, 132.0],
    [122.0, 209.0, 81.0],
    [253.0, 231.0, 37.0],
];
const NOTHING: [u8; 3] = [226, 226, 226];

fn colour(share: f64) -> [u8; 3] {
    let at = share.clamp(0.0, 1.0) * (COLOURS.len() - 1) as f64;
    let (i, rest) = ((at as usize).min(COLOURS.len() - 2), at - at.floor().min((COLOURS.len() - 2) as f64));
    std::array::from_fn(|c| (COLOURS[i][c] + rest * (COLOURS[i + 1][c] - COLOURS[i][c])).round() as u8)
}

/// The smallest and the largest of a coordinate.
fn ends(places: &[[f64; 2]], d: usize) -> [f64; 2] {
    places.iter().fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], p| [low.min(p[d]), high.max(p[d])])
}

/// Cells along a coordinate: as many as it has values, which for pixels is one each.
fn cells(places: &[[f64; 2]], d: usize, most: f64) -> usize {
    let mut all: Vec<f64> = places.iter().map(|place| place[d]).collect();
    all.sort_by(f64::total_cmp);
    // What differs by less is rounding.
    let least = 1e-6 * (all[all.len() - 1] - all[0]);
    let n = 1 + all.windows(2).filter(|pair| pair[1] - pair[0] > least).count();
    n.min(most.ceil().max(1.0) as usize)
}

/// Draws maps of the same area.
pub fn draw(path: &Path, maps: &[Map<'_>]) -> Result<()> {
    let all: Vec<[f64; 2]> = maps.iter().flat_map(|map| map.places).copied().collect();
    let (x, y) = (ends(&all, 0), ends(&all, 1));
    let extent = (x[1] - x[0]).max(y[1] - y[0]).max(f64::MIN_POSITIVE);
    let size = [0, 1].map(|d| cells(&all, d, CELLS * ([x, y][d][1] - [x, y][d][0]) / extent));
    let at = |[low, high]: [f64; 2], n: usize, x: f64| {
        ((x - low) / (high - low).max(f64::MIN_POSITIVE) * (n - 1) as f64).round() as usize
    };
    let height = (WIDTH * size[1]).div_ceil(size[0]).clamp(40, 3 * WIDTH);
    let (page_width, tall) = (maps.len() * (WIDTH + MARGIN) + MARGIN, TITLE + height + SCALE);
    let mut svg = page(page_width, tall, 13);
    for (i, map) in maps.iter().enumerate() {
        let left = MARGIN + i * (WIDTH + MARGIN);
        let [low, high] = map.range;
        let mut pixels = vec![NOTHING; size[0] * size[1]];
        for (place, number) in map.places.iter().zip(map.numbers) {
            let (column, row) = (at(x, size[0], place[0]), size[1] - 1 - at(y, size[1], place[1]));
            pixels[row * size[0] + column] = colour((number - low) / (high - low));
        }
        let bar: Vec<[u8; 3]> = (0..100).map(|i| colour(f64::from(i) / 99.0)).collect();
        writeln!(svg, "<text x=\"{left}\" y=\"18\">{}</text>", map.title)?;
        writeln!(svg, "{}", image([left, TITLE, WIDTH, height], &png(&pixels, size[0])?))?;
        let below = TITLE + height + 8;
        writeln!(svg, "{}", image([left, below, 200, 10], &png(&bar, 100)?))?;
        writeln!(svg, "<text x=\"{left}\" y=\"{}\" font-size=\"12\">{low:.1}</text>", below + 25)?;
        let (right, unit) = (left + 200, map.unit);
        writeln!(
            svg,
            "<text x=\"{right}\" y=\"{}\" font-size=\"12\" text-anchor=\"end\">{high:.1} {unit}</text>",
            below + 25
        )?;
    }
    svg.push_str("</svg>\n");
    std::fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))
}
