//! A strip of maps: what was seen, what came, and what was forecast.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context as _, Result};
use shared::pixels::{image, page, png};

use crate::sir::{SIDE, State};

/// Colours of the three states, which also those tell apart who see few; and of what is not known.
const COLOURS: [[f64; 3]; 3] = [[233.0, 236.0, 239.0], [213.0, 94.0, 0.0], [0.0, 90.0, 150.0]];
const UNKNOWN: [u8; 3] = [255, 255, 255];
const NAMES: [&str; 3] = ["susceptible", "infected", "recovered"];

const SIZE: usize = 150;
const MARGIN: usize = 12;
const TITLE: usize = 24;
const LEGEND: usize = 34;

/// A map of the lattice.
pub struct Panel {
    pub title: String,
    pub pixels: Vec<[u8; 3]>,
}

impl Panel {
    /// Of states, some of which are not known.
    pub fn of_states(title: String, states: impl Iterator<Item = Option<State>>) -> Self {
        let pixels = states.map(|state| state.map_or(UNKNOWN, |state| blend(state.one_hot().map(f64::from))));
        Self { title, pixels: pixels.collect() }
    }

    /// Of probabilities: their colours mixed.
    pub fn of_probabilities(title: String, all: impl Iterator<Item = [f64; 3]>) -> Self {
        Self { title, pixels: all.map(blend).collect() }
    }
}

fn blend(probabilities: [f64; 3]) -> [u8; 3] {
    let mix = |c: usize| COLOURS.iter().zip(probabilities).map(|(colour, p)| p * colour[c]).sum::<f64>();
    std::array::from_fn(|c| mix(c).round() as u8)
}

/// Draws rows of panels, above a legend.
pub fn draw(path: &Path, rows: &[Vec<Panel>]) -> Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let (page_width, row) = (MARGIN + columns * (SIZE + MARGIN), TITLE + SIZE + MARGIN);
    let tall = rows.len() * row + LEGEND;
    let mut svg = page(page_width, tall, 12);
    for (i, panels) in rows.iter().enumerate() {
        for (j, panel) in panels.iter().enumerate() {
            let (x, y) = (MARGIN + j * (SIZE + MARGIN), i * row + TITLE);
            writeln!(svg, "<text x=\"{x}\" y=\"{}\">{}</text>", y - 7, panel.title)?;
            writeln!(svg, "{}", image([x, y, SIZE, SIZE], &png(&panel.pixels, SIDE)?))?;
            writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{SIZE}\" height=\"{SIZE}\" fill=\"none\" stroke=\"#999\"/>"
            )?;
        }
    }
    let y = rows.len() * row + 6;
    for (i, (name, colour)) in NAMES.iter().zip(COLOURS).enumerate() {
        let (x, [r, g, b]) = (MARGIN + i * 120, colour);
        writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"14\" height=\"14\" fill=\"rgb({r},{g},{b})\" stroke=\"#999\"/>"
        )?;
        writeln!(svg, "<text x=\"{}\" y=\"{}\">{name}</text>", x + 20, y + 12)?;
    }
    svg.push_str("</svg>\n");
    std::fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))
}
