//! The CPU twin of `shaders/linear.wgsl`.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use fearless_simd::{Level, dispatch, prelude::*};

use super::problem::{Activation, Problem};
use crate::{
    error::Result,
    host::{any, zeros},
    parallel::*,
    simd::{
        load_some,
        math::{exp, scaled_erfc},
        store_some,
        tile::{Panel, Panels, ROWS, VECTORS, product, with_vectors},
    },
    tensor::Numbers,
};

/// Multiply-adds in a task: enough to be worth a thread.
const TASK: usize = 1 << 20;

pub(super) fn linear(
    level: Level,
    problem: &Problem,
    x: &[f32],
    weight: &Numbers,
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
) -> Result<Vec<f32>> {
    let layer = Layer { problem, x, weight, bias, residual };
    dispatch!(level, simd => layer.run(simd))
}

struct Layer<'a> {
    problem: &'a Problem,
    x: &'a [f32],
    weight: &'a Numbers,
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
}

impl Layer<'_> {
    fn run<S: Simd>(&self, simd: S) -> Result<Vec<f32>> {
        let Problem { rows, n_in, n_out, .. } = *self.problem;
        let mut y = any(&[rows, n_out])?;
        if y.is_empty() {
            return Ok(y);
        }
        let panels = Panels::new(simd, n_out);
        let packed = self.pack(simd, panels)?;
        let rows_of_task = (TASK / (n_in * n_out).max(1)).next_multiple_of(ROWS).max(4 * ROWS);
        y.par_chunks_mut(rows_of_task * n_out).enumerate().for_each(|(task, y)| {
            simd.vectorize(
                #[inline(always)]
                || self.block(simd, panels, &packed, task * rows_of_task, y),
            );
        });
        Ok(y)
    }

    /// The weights as f32, panel after panel.
    fn pack<S: Simd>(&self, simd: S, panels: Panels) -> Result<Vec<f32>> {
        let Problem { n_in, n_out, .. } = *self.problem;
        let mut packed = zeros(&[n_in, panels.width])?;
        let len = (VECTORS * S::f32s::LEN * n_in).max(1);
        let of_panel = packed.par_chunks_mut(len).with_min_len(TASK / 16 / len + 1);
        of_panel.enumerate().for_each(|(i, packed)| match self.weight {
            Numbers::F32(weight) => simd.vectorize(
                #[inline(always)]
                || panels.get(i).pack(simd, |row| &weight[row * n_out..][..n_out], packed),
            ),
            Numbers::F16(weight) => panels.get(i).pack_halves(|row| &weight[row * n_out..][..n_out], packed),
        });
        Ok(packed)
    }

    /// The rows of `y`, which begin at `first`.
    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, panels: Panels, packed: &[f32], first: usize, y: &mut [f32]) {
        let Problem { n_in, n_out, .. } = *self.problem;
        for panel in panels.iter() {
            let weight = &packed[panel.first * n_in..][..panel.width * n_in];
            for (i, y) in y.chunks_mut(ROWS * n_out).enumerate() {
                let first = first + i * ROWS;
                with_vectors!(panel, C => {
                    self.tile::<S, C>(simd, &panel, weight, first, y);
                });
            }
        }
    }

    /// Up to [`ROWS`] rows of one panel.
    #[inline(always)]
    fn tile<S: Simd, const C: usize>(&self, simd: S, panel: &Panel, weight: &[f32], first: usize, y: &mut [f32]) {
        let Problem { n_in, n_out, activation, .. } = *self.problem;
        let n_rows = y.len() / n_out;
        let mut rows = [self.x; ROWS];
        for (r, row) in rows.iter_mut().enumerate() {
            // Rows past the end repeat the last one.
            *row = &self.x[(first + r.min(n_rows - 1)) * n_in..][..n_in];
        }
        let tile = product::<S, ROWS, C>(simd, rows, weight);
        for (r, y) in y.chunks_exact_mut(n_out).enumerate().take(ROWS) {
            let columns = panel.first..panel.first + panel.used;
            for (c, y) in y[columns].chunks_mut(S::f32s::LEN).enumerate() {
                let column = panel.first + c * S::f32s::LEN;
                let mut sum = tile[r][c];
                if let Some(bias) = self.bias {
                    sum += load_some(simd, &bias[column..]);
                }
                let mut sum = activate(simd, activation, sum);
                if let Some(residual) = self.residual {
                    sum += load_some(simd, &residual[(first + r) * n_out + column..][..y.len()]);
                }
                store_some::<S>(sum, y);
            }
        }
    }
}

#[inline(always)]
fn activate<S: Simd>(simd: S, activation: Activation, x: S::f32s) -> S::f32s {
    match activation {
        Activation::None => x,
        Activation::Relu => relu(simd, x),
        Activation::GeluTanh => gelu_tanh(simd, x),
        Activation::GeluErf => gelu_erf(simd, x),
    }
}

/// `max(x, 0)`; this order of comparison keeps NaN, as those below do.
#[inline(always)]
pub(crate) fn relu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    x.simd_lt(0.0).select(S::f32s::splat(simd, 0.0), x)
}

/// Both forms are `max(x, 0)` in f32 beyond this and its opposite.
const GELU_IS_RELU: f32 = 14.0;

/// `x/2 (1 + tanh u) = x / (1 + exp(-2u))`.
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // -2 sqrt(2/pi) (x + 0.044715 x^3)
    const FIRST: f32 = -2.0 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
    const THIRD: f32 = FIRST * 0.044_715;
    let exponent = x * (x * x).mul_add(THIRD, S::f32s::splat(simd, FIRST));
    let y = x / (exp(simd, exponent) + 1.0);
    // There the exponential, which is clamped, is not small enough.
    x.simd_lt(-GELU_IS_RELU).select(S::f32s::splat(simd, 0.0), y)
}

/// `max(x, 0) - |x|/2 erfc(|x| / sqrt 2)`, which keeps its digits in both tails.
#[inline(always)]
pub(crate) fn gelu_erf<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let size = x.abs();
    let size = size.simd_gt(GELU_IS_RELU).select(S::f32s::splat(simd, 0.0), size);
    let square = size * size;
    // What the rounding of the square left over; zero where multiply-adds are not fused.
    let rest = size.mul_sub(size, square);
    let density = exp(simd, square * -0.5) * rest.mul_add(-0.5, S::f32s::splat(simd, 1.0));
    let tail = density * scaled_erfc(simd, size * FRAC_1_SQRT_2) * 0.5;
    relu(simd, x) - size * tail
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::simd::levels;

    fn apply(level: Level, activation: Activation, x: f32) -> f32 {
        dispatch!(level, simd => activate(simd, activation, load_some(simd, &[x])).as_slice()[0])
    }

    #[test]
    fn gelu_is_accurate_in_both_tails() {
        // A few units in the last place; where multiply-adds are not fused the far tail, below
        // 1e-3 in itself, has fewer digits.
        let allowed = |x: f64| if x < -3.0 { 4e-6 } else { 6e-7 };
        for level in levels() {
            for i in -1000..1000 {
                let x = i as f32 * 0.01;
                let wide = f64::from(x);
                let erf = 0.5 * wide * libm::erfc(-wide * std::f64::consts::FRAC_1_SQRT_2);
                let u = (2.0 / std::f64::consts::PI).sqrt() * (wide + 0.044715 * wide.powi(3));
                for (activation, truth) in
                    [(Activation::GeluErf, erf), (Activation::GeluTanh, wide / (1.0 + (-2.0 * u).exp()))]
                {
                    let found = f64::from(apply(level, activation, x));
                    // Zero where the truth is below the range of normal numbers.
                    let error = (found - truth).abs() / (truth.abs() + 1e-30);
                    assert!(
                        error <= allowed(wide) * wide.abs().max(1.0),
                        "{activation:?}({x}) at {level:?}: {found}, {truth}"
                    );
                }
            }
        }
    }

    #[test]
    fn activations_keep_what_is_huge_and_drop_what_is_hugely_negative() {
        for level in levels() {
            for activation in [Activation::Relu, Activation::GeluTanh, Activation::GeluErf] {
                assert_eq!(apply(level, activation, f32::MAX), f32::MAX, "{activation:?}");
                assert!(apply(level, activation, -f32::MAX).abs() < 1e-30, "{activation:?}");
                assert_eq!(apply(level, activation, 0.0), 0.0);
                assert!(apply(level, activation, f32::NAN).is_nan(), "{activation:?}");
            }
        }
    }

    #[test]
    fn without_inputs_the_result_is_the_activated_bias() {
        let problem = Problem { rows: 3, n_in: 0, n_out: 2, activation: Activation::Relu };
        assert_eq!(
            linear(Level::new(), &problem, &[], &Numbers::F32(Arc::default()), Some(&[1.0, -1.0]), None).unwrap(),
            [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]
        );
    }
}
