//! Rows to columns.

use fearless_simd::prelude::*;

use super::MOST_LANES;

/// Writes `out[c * stride + r] = rows(r)[c]` for as many rows as a vector has lanes and `width`
/// columns.
#[inline(always)]
pub(crate) fn transpose<'a, S: Simd>(
    simd: S,
    rows: impl Fn(usize) -> &'a [f32],
    width: usize,
    out: &mut [f32],
    stride: usize,
) {
    let lanes = S::f32s::LEN;
    let whole = width / lanes * lanes;
    for first in (0..whole).step_by(lanes) {
        let mut from = [S::f32s::splat(simd, 0.0); MOST_LANES];
        for (r, vector) in from[..lanes].iter_mut().enumerate() {
            *vector = S::f32s::from_slice(simd, &rows(r)[first..first + lanes]);
        }
        // Each pass rotates the bits of an element's index (row, column) by one.
        for _ in 0..lanes.ilog2() {
            let mut to = from;
            for i in 0..lanes / 2 {
                (to[2 * i], to[2 * i + 1]) = from[i].interleave(from[i + lanes / 2]);
            }
            from = to;
        }
        for (c, vector) in from[..lanes].iter().enumerate() {
            vector.store_slice(&mut out[(first + c) * stride..][..lanes]);
        }
    }
    for r in 0..lanes {
        for (c, &x) in rows(r)[..width].iter().enumerate().skip(whole) {
            out[c * stride + r] = x;
        }
    }
}

#[cfg(test)]
mod tests {
    use fearless_simd::dispatch;

    use super::*;
    use crate::simd::levels;

    #[inline(always)]
    fn check<S: Simd>(simd: S, width: usize) {
        let lanes = S::f32s::LEN;
        let stride = lanes + 3;
        let from: Vec<f32> = (0..lanes * width).map(|i| i as f32).collect();
        let mut out = vec![-1.0; width * stride];
        transpose(simd, |r| &from[r * width..][..width], width, &mut out, stride);
        for (i, &x) in out.iter().enumerate() {
            let (c, r) = (i / stride, i % stride);
            let truth = if r < lanes { from[r * width + c] } else { -1.0 };
            assert_eq!(x, truth, "{lanes} lanes, width {width}, row {r}, column {c}");
        }
    }

    #[test]
    fn every_width_is_transposed() {
        for level in levels() {
            for width in [0, 1, 3, 4, 8, 15, 16, 17, 32, 45] {
                dispatch!(level, simd => check(simd, width));
            }
        }
    }
}
