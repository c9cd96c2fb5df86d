//! The CPU twin of `shaders/layer_norm.wgsl`.

use fearless_simd::{Level, dispatch, prelude::*};

use super::problem::{LARGE, SHRINK, SMALL, SMALLEST};
use crate::{
    error::Result,
    host::any,
    parallel::*,
    simd::{load_some, store_some},
};

/// Numbers in a task: enough to be worth a thread.
const TASK: usize = 1 << 16;

pub(super) fn layer_norm(
    level: Level,
    x: &[f32],
    width: usize,
    scale: &[f32],
    bias: &[f32],
    epsilon: f32,
    residual: Option<&[f32]>,
) -> Result<Vec<f32>> {
    let norm = Norm { scale, bias, epsilon };
    dispatch!(level, simd => norm.run(simd, x, width, residual))
}

/// What the numbers of a row are subtracted from and multiplied by: a number becomes
/// `(x shrink - mean) grow - rest`.
struct Moments {
    shrink: f32,
    mean: f32,
    grow: f32,
    /// The mean of what is left, for the first one is rounded.
    rest: f32,
    /// Of what is left then.
    variance: f32,
}

impl Moments {
    /// The first number is taken off before any are added, and the mean before any are squared:
    /// no digit of a deviation is lost to a mean that is large beside it, and rows of one and the
    /// same number have no deviations at all.
    #[inline(always)]
    fn new<S: Simd>(simd: S, x: &[f32], shrink: f32, grow: f32) -> Self {
        let n = x.len() as f32;
        let first = x[0] * shrink;
        let [sum] = sums(
            simd,
            x,
            #[inline(always)]
            |x| [x * shrink - first],
        );
        let mean = first + sum / n;
        let [sum, squares] = sums(
            simd,
            x,
            #[inline(always)]
            |x| {
                let d = (x * shrink - mean) * grow;
                [d, d * d]
            },
        );
        let rest = sum / n;
        Self { shrink, mean, grow, rest, variance: squares / n - rest * rest }
    }
}

struct Norm<'a> {
    scale: &'a [f32],
    bias: &'a [f32],
    epsilon: f32,
}

impl Norm<'_> {
    fn run<S: Simd>(&self, simd: S, x: &[f32], width: usize, residual: Option<&[f32]>) -> Result<Vec<f32>> {
        let mut y = any(&[x.len()])?;
        let chunk = (TASK / width).max(1) * width;
        y.par_chunks_mut(chunk).enumerate().for_each(|(task, y)| {
            simd.vectorize(
                #[inline(always)]
                || {
                    for (i, y) in y.chunks_exact_mut(width).enumerate() {
                        let at = task * chunk + i * width..task * chunk + (i + 1) * width;
                        self.row(simd, &x[at.clone()], residual.map(|residual| &residual[at]), y);
                    }
                },
            );
        });
        Ok(y)
    }

    /// The normalised row, plus a residual.
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        let lanes = S::f32s::LEN;
        let mut moments = Moments::new(simd, x, 1.0, 1.0);
        let square = moments.variance + self.epsilon;
        // Not a number if a sum overflowed.
        if !(SMALL..=LARGE).contains(&square) {
            moments = match square < SMALL {
                true => Moments::new(simd, x, 1.0, 1.0 / SHRINK),
                false => Moments::new(simd, x, SHRINK, 1.0),
            };
            moments.variance = moments.variance.max(SMALLEST);
        }
        let Moments { shrink, mean, grow, rest, variance } = moments;
        let unit = shrink * grow;
        let factor = 1.0 / (variance + self.epsilon * unit * unit).sqrt();
        for (i, y) in y.chunks_mut(lanes).enumerate() {
            let at = i * lanes..i * lanes + y.len();
            let scale = load_some(simd, &self.scale[at.clone()]) * factor;
            let bias = load_some(simd, &self.bias[at.clone()]);
            let centred = (load_some(simd, &x[at.clone()]) * shrink - mean) * grow - rest;
            let normed = centred.mul_add(scale, bias);
            store_some::<S>(residual.map_or(normed, |residual| normed + load_some(simd, &residual[at])), y);
        }
    }
}

/// `sum f(x)` for a few functions at once, over several sums that do not wait for each other.
#[inline(always)]
fn sums<S: Simd, const N: usize>(simd: S, x: &[f32], f: impl Fn(S::f32s) -> [S::f32s; N]) -> [f32; N] {
    const SUMS: usize = 4;
    let lanes = S::f32s::LEN;
    let mut sums = [[S::f32s::splat(simd, 0.0); N]; SUMS];
    let mut blocks = x.chunks_exact(SUMS * lanes);
    for block in &mut blocks {
        for (sums, x) in sums.iter_mut().zip(block.chunks_exact(lanes)) {
            add(sums, f(S::f32s::from_slice(simd, x)));
        }
    }
    let mut rest = blocks.remainder().chunks_exact(lanes);
    for (sums, x) in sums.iter_mut().zip(&mut rest) {
        add(sums, f(S::f32s::from_slice(simd, x)));
    }
    let mut total = [0.0; N];
    for (i, total) in total.iter_mut().enumerate() {
        *total = ((sums[0][i] + sums[1][i]) + (sums[2][i] + sums[3][i])).reduce_sum();
    }
    for &x in rest.remainder() {
        let terms = f(S::f32s::splat(simd, x));
        total.iter_mut().zip(terms).for_each(|(total, term)| *total += term.as_slice()[0]);
    }
    total
}

#[inline(always)]
fn add<V: std::ops::AddAssign, const N: usize>(sums: &mut [V; N], terms: [V; N]) {
    sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
}
