//! The CPU twin of `shaders/layer_norm.wgsl`.

use fearless_simd::{Level, dispatch, prelude::*};
use rayon::prelude::*;

use super::problem::{LARGE, SHRINK, SMALLEST};
use crate::{
    error::Result,
    host::{copy, zeros},
    simd::{load_some, store_some},
};

/// Numbers in a task: enough to be worth a thread.
const TASK: usize = 1 << 16;

pub(super) fn layer_norm(
    x: &[f32],
    width: usize,
    scale: &[f32],
    bias: &[f32],
    epsilon: f32,
    residual: Option<&[f32]>,
) -> Result<Vec<f32>> {
    let norm = Norm { scale, bias, epsilon };
    dispatch!(Level::new(), simd => norm.run(simd, x, width, residual))
}

/// The mean and the variance of a row times `shrink`.
#[inline(always)]
fn moments<S: Simd>(simd: S, x: &[f32], shrink: f32) -> (f32, f32) {
    let width = x.len() as f32;
    let mean = sum(
        simd,
        x,
        #[inline(always)]
        |x| x * shrink,
    ) / width;
    let variance = sum(
        simd,
        x,
        #[inline(always)]
        |x| (x * shrink - mean) * (x * shrink - mean),
    ) / width;
    (mean, variance)
}

struct Norm<'a> {
    scale: &'a [f32],
    bias: &'a [f32],
    epsilon: f32,
}

impl Norm<'_> {
    fn run<S: Simd>(&self, simd: S, x: &[f32], width: usize, residual: Option<&[f32]>) -> Result<Vec<f32>> {
        let mut y = residual.map_or_else(|| zeros(&[x.len()]), copy)?;
        let chunk = (TASK / width).max(1) * width;
        y.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(y, x)| {
            simd.vectorize(
                #[inline(always)]
                || {
                    for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                        self.row(simd, x, y);
                    }
                },
            );
        });
        Ok(y)
    }

    /// Adds the normalised row to `y`.
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, x: &[f32], y: &mut [f32]) {
        let lanes = S::f32s::LEN;
        let mut shrink = 1.0;
        let (mut mean, mut variance) = moments(simd, x, shrink);
        // Not a number if the mean overflowed.
        if variance.is_nan() || variance > LARGE {
            shrink = SHRINK;
            (mean, variance) = moments(simd, x, shrink);
            // A row of one and the same number has no variance, and its epsilon is lost.
            variance = variance.max(SMALLEST);
        }
        let factor = 1.0 / (variance + self.epsilon * shrink * shrink).sqrt();
        for (i, y) in y.chunks_mut(lanes).enumerate() {
            let at = i * lanes..i * lanes + y.len();
            let scale = load_some(simd, &self.scale[at.clone()]) * factor;
            let bias = load_some(simd, &self.bias[at.clone()]);
            let centred = load_some(simd, &x[at]) * shrink - mean;
            store_some::<S>(centred.mul_add(scale, bias) + load_some(simd, y), y);
        }
    }
}

/// `sum f(x)`, over several sums that do not wait for each other.
#[inline(always)]
fn sum<S: Simd>(simd: S, x: &[f32], f: impl Fn(S::f32s) -> S::f32s) -> f32 {
    const SUMS: usize = 4;
    let lanes = S::f32s::LEN;
    let mut sums = [S::f32s::splat(simd, 0.0); SUMS];
    let mut blocks = x.chunks_exact(SUMS * lanes);
    for block in &mut blocks {
        for (sum, x) in sums.iter_mut().zip(block.chunks_exact(lanes)) {
            *sum += f(S::f32s::from_slice(simd, x));
        }
    }
    let mut rest = blocks.remainder().chunks_exact(lanes);
    for (sum, x) in sums.iter_mut().zip(&mut rest) {
        *sum += f(S::f32s::from_slice(simd, x));
    }
    let mut total = ((sums[0] + sums[1]) + (sums[2] + sums[3])).reduce_sum();
    for &x in rest.remainder() {
        total += f(S::f32s::splat(simd, x)).as_slice()[0];
    }
    total
}
