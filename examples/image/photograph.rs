//! Photographs in grey, and patches of them of which some pixels are seen.

use std::{fs::File, io::BufReader, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use png::{ColorType, Decoder, Transformations};
use rand::{RngExt, rngs::StdRng, seq::SliceRandom};

/// Pixels of a patch along one side, as in training.
pub const SIDE: usize = 24;
pub const PIXELS: usize = SIDE * SIDE;

/// Grey from 0 to 1, row by row.
pub struct Photograph {
    pub name: String,
    pub width: usize,
    pub height: usize,
    grey: Vec<f64>,
}

impl Photograph {
    /// Reads a PNG; colours become grey as the eye weighs them (ITU-R BT.601).
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Self::read(path, name).with_context(|| format!("cannot read {}", path.display()))
    }

    fn read(path: &Path, name: String) -> Result<Self> {
        let mut decoder = Decoder::new(BufReader::new(File::open(path)?));
        decoder.set_transformations(Transformations::normalize_to_color8());
        let mut reader = decoder.read_info().context("no PNG that can be read")?;
        let size = reader.output_buffer_size().context("too large")?;
        let mut bytes = vec![0; size];
        let frame = reader.next_frame(&mut bytes)?;
        let (width, height) = (frame.width as usize, frame.height as usize);
        ensure!(width >= SIDE && height >= SIDE, "{width} × {height} pixels, a patch has {SIDE} × {SIDE}");
        let channels = match frame.color_type {
            ColorType::Grayscale => 1,
            ColorType::GrayscaleAlpha => 2,
            ColorType::Rgb => 3,
            ColorType::Rgba => 4,
            ColorType::Indexed => bail!("a palette that was not resolved"),
        };
        let grey = |pixel: &[u8]| match *pixel {
            [r, g, b, ..] => (0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b)) / 255.0,
            _ => f64::from(pixel[0]) / 255.0,
        };
        let grey = bytes[..frame.buffer_size()].chunks_exact(channels).map(grey).collect();
        Ok(Self { name, width, height, grey })
    }

    /// The patch whose first pixel is in this row and column.
    fn patch(&self, row: usize, column: usize) -> Vec<f64> {
        let line = |i: usize| &self.grey[(row + i) * self.width + column..][..SIDE];
        (0..SIDE).flat_map(line).copied().collect()
    }

    pub fn draw_patch(&self, rng: &mut StdRng) -> Vec<f64> {
        let (row, column) = (rng.random_range(0..=self.height - SIDE), rng.random_range(0..=self.width - SIDE));
        self.patch(row, column)
    }

    /// Square blocks of patches side by side, whose first pixel is in this row and column, row by row.
    pub fn block(&self, [row, column]: [usize; 2], patches: usize) -> Vec<Vec<f64>> {
        let at = |i: usize| self.patch(row + i / patches * SIDE, column + i % patches * SIDE);
        (0..patches * patches).map(at).collect()
    }
}

/// The place of a pixel: row and column from -1 to 1 over the patch.
pub fn place(pixel: usize) -> [f64; 2] {
    [pixel / SIDE, pixel % SIDE].map(|i| 2.0 * i as f64 / (SIDE - 1) as f64 - 1.0)
}

/// A patch, and its pixels in the order in which they are seen.
pub struct Patch {
    pub grey: Vec<f64>,
    pub order: Vec<usize>,
}

impl Patch {
    pub fn new(grey: Vec<f64>, rng: &mut StdRng) -> Self {
        let mut order: Vec<usize> = (0..PIXELS).collect();
        order.shuffle(rng);
        Self { grey, order }
    }

    /// The pixels from one to another in that order: their places, and their greys.
    pub fn part(&self, range: std::ops::Range<usize>) -> (Vec<[f64; 2]>, Vec<f64>) {
        self.order[range].iter().map(|&pixel| (place(pixel), self.grey[pixel])).unzip()
    }
    /// Something of every pixel: of the first `n_seen` a function of their grey, and of the others, in their
    /// order, what is given.
    pub fn with_unseen<T: Copy>(&self, n_seen: usize, unseen: &[T], seen: impl Fn(f64) -> T) -> Vec<T> {
        let mut all: Vec<T> = self.grey.iter().map(|&grey| seen(grey)).collect();
        self.order[n_seen..].iter().zip(unseen).for_each(|(&pixel, &of)| all[pixel] = of);
        all
    }
}
