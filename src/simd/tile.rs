//! The innermost product: a tile of rows times vectors that stays in registers.

use fearless_simd::prelude::*;
use half::{f16, slice::HalfFloatSliceExt};

use super::load_some;

/// Rows of a tile. With two vectors a row, 6 x 2 sums, two vectors of `b` and one of `a` fit
/// the 16 registers of AVX2, and are enough sums to hide the latency of a multiply-add.
pub(crate) const ROWS: usize = 6;

/// Vectors in a row of a tile.
pub(crate) const VECTORS: usize = 2;

/// `a b`: `R` rows of `a`, and `b [depth, C vectors]` without gaps.
#[inline(always)]
pub(crate) fn product<S: Simd, const R: usize, const C: usize>(
    simd: S,
    a: [&[f32]; R],
    b: &[f32],
) -> [[S::f32s; C]; R] {
    let lanes = S::f32s::LEN;
    let depth = b.len() / (C * lanes);
    let mut rows = a;
    for row in &mut rows {
        // One check of the length here, none in the loop.
        *row = &row[..depth];
    }
    let mut sums = [[S::f32s::splat(simd, 0.0); C]; R];
    for (i, b) in (0..depth).zip(b.chunks_exact(C * lanes)) {
        let mut vectors = [S::f32s::splat(simd, 0.0); C];
        for (vector, b) in vectors.iter_mut().zip(b.chunks_exact(lanes)) {
            *vector = S::f32s::from_slice(simd, b);
        }
        for (sums, row) in sums.iter_mut().zip(&rows) {
            let x = S::f32s::splat(simd, row[i]);
            for (sum, &vector) in sums.iter_mut().zip(&vectors) {
                *sum = x.mul_add(vector, *sum);
            }
        }
    }
    sums
}

/// The columns of a matrix in panels: [`VECTORS`] vectors at a time and, if the width in whole
/// vectors is odd, a single last one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels {
    /// Columns that exist.
    pub columns: usize,
    /// Columns in whole vectors.
    pub width: usize,
    lanes: usize,
}

/// Runs a block with the number of vectors of a panel as a constant.
macro_rules! with_vectors {
    ($panel:expr, $count:ident => $block:block) => {
        if $panel.width == S::f32s::LEN {
            const $count: usize = 1;
            $block
        } else {
            const $count: usize = $crate::simd::tile::VECTORS;
            $block
        }
    };
}
pub(crate) use with_vectors;

/// One panel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panel {
    /// Its first column.
    pub first: usize,
    /// Its columns, in whole vectors.
    pub width: usize,
    /// Those that exist.
    pub used: usize,
}

impl Panels {
    pub fn new<S: Simd>(_simd: S, columns: usize) -> Self {
        Self { columns, width: columns.next_multiple_of(S::f32s::LEN), lanes: S::f32s::LEN }
    }

    /// Panel `i` of those there are.
    pub fn get(self, i: usize) -> Panel {
        let first = i * VECTORS * self.lanes;
        let width = (VECTORS * self.lanes).min(self.width - first);
        Panel { first, width, used: width.min(self.columns - first) }
    }

    pub fn iter(self) -> impl Iterator<Item = Panel> {
        (0..self.width.div_ceil(VECTORS * self.lanes)).map(move |i| self.get(i))
    }
}

impl Panel {
    /// Packs the panel of a matrix without gaps, as [`product`] reads it; columns that do not
    /// exist become zeros.
    #[inline(always)]
    pub fn pack<'a, S: Simd>(&self, simd: S, row: impl Fn(usize) -> &'a [f32], packed: &mut [f32]) {
        for (i, packed) in packed.chunks_exact_mut(self.width).enumerate() {
            let row = &row(i)[self.first..self.first + self.used];
            for (packed, from) in packed.chunks_exact_mut(S::f32s::LEN).zip(row.chunks(S::f32s::LEN)) {
                load_some(simd, from).store_slice(packed);
            }
        }
    }

    /// [`Panel::pack`] of a matrix of halves.
    pub fn pack_halves<'a>(&self, row: impl Fn(usize) -> &'a [f16], packed: &mut [f32]) {
        for (i, packed) in packed.chunks_exact_mut(self.width).enumerate() {
            let (used, rest) = packed.split_at_mut(self.used);
            row(i)[self.first..self.first + self.used].convert_to_f32_slice(used);
            rest.fill(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use fearless_simd::dispatch;

    use super::*;
    use crate::simd::levels;

    #[inline(always)]
    fn multiply<S: Simd>(simd: S, a: &[f32], b: &[f32], depth: usize, columns: usize) -> Vec<f32> {
        let panels = Panels::new(simd, columns);
        let mut c = vec![0.0; ROWS * columns];
        let mut rows = [a; ROWS];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = &a[r * depth..][..depth];
        }
        for panel in panels.iter() {
            let mut packed = vec![f32::NAN; depth * panel.width];
            panel.pack(simd, |i| &b[i * columns..][..columns], &mut packed);
            for j in 0..panel.used {
                let (vector, lane) = (j / S::f32s::LEN, j % S::f32s::LEN);
                for r in 0..ROWS {
                    c[r * columns + panel.first + j] = with_vectors!(panel, C => { product::<S, ROWS, C>(simd, rows, &packed)[r][vector].as_slice()[lane] });
                }
            }
        }
        c
    }

    #[test]
    fn panels_and_products_cover_every_width() {
        for level in levels() {
            for (depth, columns) in [(0, 5), (1, 1), (3, 16), (7, 17), (5, 33), (4, 48), (2, 70)] {
                // Small whole numbers, so that every sum is exact.
                let a: Vec<f32> = (0..ROWS * depth).map(|i| (i % 7) as f32 - 3.0).collect();
                let b: Vec<f32> = (0..depth * columns).map(|i| (i % 11) as f32 - 5.0).collect();
                let c = dispatch!(level, simd => multiply(simd, &a, &b, depth, columns));
                for (i, &c) in c.iter().enumerate() {
                    let (r, j) = (i / columns, i % columns);
                    let truth: f32 = (0..depth).map(|d| a[r * depth + d] * b[d * columns + j]).sum();
                    assert_eq!(c, truth, "{level:?}, depth {depth}, {columns} columns, row {r}, column {j}");
                }
            }
        }
    }
}
