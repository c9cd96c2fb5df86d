//! A matrix that many rows are multiplied with, packed once.

use fearless_simd::prelude::*;

use super::{
    load_some, store_some,
    tile::{Panels, ROWS, product, with_vectors},
};
use crate::{error::Result, host::zeros};

/// `[depth, columns]` in panels, as [`product`] reads them.
pub(crate) struct Packed {
    depth: usize,
    panels: Panels,
    data: Vec<f32>,
}

impl Packed {
    #[inline(always)]
    pub fn new<S: Simd>(simd: S, matrix: &[f32], depth: usize, columns: usize) -> Result<Self> {
        let panels = Panels::new(simd, columns);
        let mut data = zeros(&[depth, panels.width])?;
        for panel in panels.iter() {
            let packed = &mut data[panel.first * depth..][..panel.width * depth];
            panel.pack(simd, |i| &matrix[i * columns..][..columns], packed);
        }
        Ok(Self { depth, panels, data })
    }

    /// `y += x W` for up to [`ROWS`] rows of `x [rows, depth]` and `y [rows, columns]`.
    #[inline(always)]
    pub fn add_product<S: Simd>(&self, simd: S, x: &[f32], y: &mut [f32]) {
        if y.len() == self.panels.columns {
            self.add_rows::<S, 1>(simd, x, y);
        } else {
            self.add_rows::<S, ROWS>(simd, x, y);
        }
    }

    #[inline(always)]
    fn add_rows<S: Simd, const R: usize>(&self, simd: S, x: &[f32], y: &mut [f32]) {
        let columns = self.panels.columns;
        let used = y.len() / columns;
        let mut rows = [x; R];
        for (r, row) in rows.iter_mut().enumerate() {
            // Rows past the end repeat the last one.
            *row = &x[r.min(used - 1) * self.depth..][..self.depth];
        }
        for panel in self.panels.iter() {
            let packed = &self.data[panel.first * self.depth..][..panel.width * self.depth];
            let to = |r: usize| r * columns + panel.first..r * columns + panel.first + panel.used;
            with_vectors!(panel, C => {
                let tile = product::<S, R, C>(simd, rows, packed);
                (0..used).for_each(|r| add_row::<S, C>(simd, &tile[r], &mut y[to(r)]));
            });
        }
    }
}

#[inline(always)]
fn add_row<S: Simd, const C: usize>(simd: S, row: &[S::f32s; C], y: &mut [f32]) {
    for (y, &vector) in y.chunks_mut(S::f32s::LEN).zip(row) {
        store_some::<S>(load_some(simd, y) + vector, y);
    }
}

/// The product of two vectors of equal length.
#[inline(always)]
pub(crate) fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let mut sum = S::f32s::splat(simd, 0.0);
    for (a, b) in a.chunks(S::f32s::LEN).zip(b.chunks(S::f32s::LEN)) {
        sum = load_some(simd, a).mul_add(load_some(simd, b), sum);
    }
    sum.as_slice().iter().sum()
}
