//! What was seen of some patches, what was made of it, and how they are.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context as _, Result};
use shared::{
    normal::Normal,
    pixels::{image, page, png},
};

use crate::photograph::{PIXELS, Patch, SIDE};

/// Of a pixel that was not seen.
const UNSEEN: [u8; 3] = [253, 224, 190];
/// The standard deviation that is drawn black, in grey.
const BLACK_STD: f64 = 0.3;

const SIZE: usize = 150;
const MARGIN: usize = 12;
const TITLE: usize = 24;
const LEFT: usize = 34;

/// Pixels of a square block of patches, drawn as one.
pub struct Panel {
    pixels: Vec<[u8; 3]>,
    side: usize,
}

fn shade(grey: f64) -> [u8; 3] {
    [(255.0 * grey.clamp(0.0, 1.0)).round() as u8; 3]
}

impl Panel {
    /// Side by side, what a function says of each patch, pixel by pixel.
    fn of(patches: &[Patch], colours: impl Fn(usize, &Patch) -> Vec<[u8; 3]>) -> Self {
        let across = patches.len().isqrt();
        let side = across * SIDE;
        let mut pixels = vec![UNSEEN; side * side];
        for (n, patch) in patches.iter().enumerate() {
            let first = n / across * SIDE * side + n % across * SIDE;
            for (i, colour) in colours(n, patch).into_iter().enumerate() {
                pixels[first + i / SIDE * side + i % SIDE] = colour;
            }
        }
        Self { pixels, side }
    }

    pub fn truth(patches: &[Patch]) -> Self {
        Self::of(patches, |_, patch| patch.grey.iter().copied().map(shade).collect())
    }

    pub fn seen(patches: &[Patch], n_seen: usize) -> Self {
        Self::of(patches, |_, patch| patch.with_unseen(n_seen, &[UNSEEN; PIXELS], shade))
    }

    /// The means, and the pixels seen as they are.
    pub fn means(patches: &[Patch], n_seen: usize, predicted: &[Vec<Normal>]) -> Self {
        Self::of(patches, |n, patch| {
            let means: Vec<_> = predicted[n].iter().map(|normal| shade(normal.mean)).collect();
            patch.with_unseen(n_seen, &means, shade)
        })
    }

    /// Standard deviations: the darker, the less sure.
    pub fn stds(patches: &[Patch], n_seen: usize, predicted: &[Vec<Normal>]) -> Self {
        Self::of(patches, |n, patch| {
            let stds: Vec<_> = predicted[n].iter().map(|normal| shade(1.0 - normal.std / BLACK_STD)).collect();
            patch.with_unseen(n_seen, &stds, |_| shade(1.0))
        })
    }
}

/// Draws rows of panels under the names of the columns, each row with its own beside it.
pub fn draw(path: &Path, columns: &[&str], rows: &[(String, Vec<Panel>)]) -> Result<()> {
    let (wide, tall) = (LEFT + columns.len() * (SIZE + MARGIN), TITLE + rows.len() * (SIZE + MARGIN));
    let mut svg = page(wide, tall, 12);
    for (j, name) in columns.iter().enumerate() {
        writeln!(svg, "<text x=\"{}\" y=\"{}\">{name}</text>", LEFT + j * (SIZE + MARGIN), TITLE - 7)?;
    }
    for (i, (name, panels)) in rows.iter().enumerate() {
        let y = TITLE + i * (SIZE + MARGIN);
        let (x, middle) = (LEFT - 12, y + SIZE / 2);
        writeln!(
            svg,
            "<text x=\"{x}\" y=\"{middle}\" text-anchor=\"middle\" transform=\"rotate(-90 {x} {middle})\">{name}</text>"
        )?;
        for (j, panel) in panels.iter().enumerate() {
            let x = LEFT + j * (SIZE + MARGIN);
            writeln!(svg, "{}", image([x, y, SIZE, SIZE], &png(&panel.pixels, panel.side)?))?;
            writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{SIZE}\" height=\"{SIZE}\" fill=\"none\" stroke=\"#999\"/>"
            )?;
        }
    }
    svg.push_str("</svg>\n");
    std::fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))
}
