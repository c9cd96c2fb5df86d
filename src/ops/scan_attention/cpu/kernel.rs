//! From distances to biases.

use std::{
    f32::consts::{LN_2, LOG2_E},
    ops::Range,
};

use fearless_simd::prelude::*;

use super::super::bias::{BiasKernel, Distance, LARGEST};
use crate::simd::{
    math::{exp2_saturating, saturated},
    tile::VECTORS,
};

/// [`LARGEST`] in base 2.
const LARGEST_2: f32 = LARGEST * LOG2_E;

/// What a growing exponential stops at.
const LARGEST_POWER: f32 = (1_u128 << 90) as f32;

const SQRT_3: f32 = 1.732_050_8;

/// A built-in term, prepared.
pub(super) struct Term {
    pub distance: Distance,
    pub kernel: BiasKernel,
    /// Its packed columns.
    pub columns: Range<usize>,
    pub n_basis: usize,
    /// `[n_heads, n_basis]` of `a log2 e`, `-b log2 e`, `c` and the largest exponent.
    pub coefficients: Vec<[f32; 4]>,
}

/// A coefficient in base 2; still finite if it was.
pub(super) fn base_2(x: f32) -> f32 {
    (x * LOG2_E).clamp(f32::MIN, f32::MAX)
}

impl Term {
    /// Adds the term's bias for one head, given distances.
    #[inline(always)]
    pub fn add<S: Simd>(&self, simd: S, head: usize, distances: &[f32], scores: &mut [f32]) {
        let coefficients = &self.coefficients[head * self.n_basis..][..self.n_basis];
        match self.kernel {
            BiasKernel::Scalar => add_sum(
                simd,
                coefficients,
                distances,
                scores,
                #[inline(always)]
                |d, [a, ..], sum| sum + (d * a).max(-LARGEST_2).min(LARGEST_2),
            ),
            BiasKernel::Rbf | BiasKernel::Exponential => add_sum(
                simd,
                coefficients,
                distances,
                scores,
                #[inline(always)]
                |d, [a, b, _, most], sum| exp2_saturating(simd, d * b, most).mul_add(a, sum),
            ),
            BiasKernel::Tisa => add_sum(
                simd,
                coefficients,
                distances,
                scores,
                #[inline(always)]
                |d, [a, b, c, most], sum| {
                    let d = d - c;
                    // In this order an infinite product keeps its sign and 0 stays 0; d is finite.
                    exp2_saturating(simd, d * b * d, most).mul_add(a, sum)
                },
            ),
            BiasKernel::Matern32 => add_sum(
                simd,
                coefficients,
                distances,
                scores,
                #[inline(always)]
                |d, [a, b, _, most], sum| {
                    // In this order 0 stays 0; of the saturated exponent no infinity meets a zero.
                    let exponent = d * b * SQRT_3;
                    let linear = saturated(simd, exponent, most).mul_add(-LN_2, S::f32s::splat(simd, 1.0));
                    (linear * exp2_saturating(simd, exponent, most)).max(-LARGEST_POWER).mul_add(a, sum)
                },
            ),
        }
    }
}

/// Adds a sum over the basis functions to the scores, two vectors at a time.
#[inline(always)]
fn add_sum<S: Simd>(
    simd: S,
    coefficients: &[[f32; 4]],
    distances: &[f32],
    scores: &mut [f32],
    basis: impl Fn(S::f32s, [f32; 4], S::f32s) -> S::f32s,
) {
    let lanes = S::f32s::LEN;
    let pairs = scores.chunks_exact_mut(VECTORS * lanes).zip(distances.chunks_exact(VECTORS * lanes));
    for (scores, distances) in pairs {
        let mut sums = [S::f32s::splat(simd, 0.0); VECTORS];
        for &coefficient in coefficients {
            for (v, sum) in sums.iter_mut().enumerate() {
                let d = S::f32s::from_slice(simd, &distances[v * lanes..(v + 1) * lanes]);
                *sum = basis(d, coefficient, *sum);
            }
        }
        for (v, sum) in sums.iter().enumerate() {
            let scores = &mut scores[v * lanes..(v + 1) * lanes];
            (S::f32s::from_slice(simd, scores) + *sum).store_slice(scores);
        }
    }
}
