//! The innermost product: a tile of rows times vectors that stays in registers.

use fearless_simd::prelude::*;

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
    let width = C * S::f32s::LEN;
    let depth = b.len() / width;
    let mut rows = a;
    for row in &mut rows {
        // One check of the length here, none in the loop.
        *row = &row[..depth];
    }
    let mut sums = [[S::f32s::splat(simd, 0.0); C]; R];
    for (i, b) in (0..depth).zip(b.chunks_exact(width)) {
        let mut vectors = [S::f32s::splat(simd, 0.0); C];
        for (c, vector) in vectors.iter_mut().enumerate() {
            *vector = S::f32s::from_slice(simd, &b[c * S::f32s::LEN..(c + 1) * S::f32s::LEN]);
        }
        for r in 0..R {
            let x = S::f32s::splat(simd, rows[r][i]);
            for c in 0..C {
                sums[r][c] = x.mul_add(vectors[c], sums[r][c]);
            }
        }
    }
    sums
}
