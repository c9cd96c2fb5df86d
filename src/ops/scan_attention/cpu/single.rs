//! A step of the running softmax for one query: keys and values are read once, so that packing
//! them first would cost more than the attention itself.

use std::ops::Range;

use fearless_simd::prelude::*;

use super::{
    pack::Unpacked,
    softmax::{MASKED_2, NONE, State, Step, add_bias},
};
use crate::simd::{MOST_LANES, load_some, tile::with_vectors};

/// Keys whose values are summed side by side, so that sums do not wait for each other.
const KEYS: usize = 4;

impl Step<'_> {
    /// Reads a block with one query.
    #[inline(always)]
    pub fn run_single<S: Simd>(&self, simd: S, block: &Unpacked<'_>, scores: &mut [f32], state: &mut State) {
        let largest = self.score_single(simd, block, scores);
        // Of the rows of scores one is used.
        let (scores, keep) = scores.split_at_mut(self.packing.block_keys);
        let mut block = *block;
        if block.by_pair {
            let masked = |score: f32| if score <= 0.5 * MASKED_2 { NONE } else { 0.0 };
            keep.iter_mut().zip(&*scores).for_each(|(keep, &score)| *keep = masked(score));
            block.keep = keep;
        }
        let [decay] = self.weigh::<S, 1>(simd, &[largest], scores, state);
        for panel in self.packing.v_panels.iter() {
            let columns = panel.first..panel.first + panel.used;
            let values = &mut state.values[self.first_row * self.packing.v_panels.width + panel.first..];
            with_vectors!(panel, C => {
                let sums = read::<S, C>(simd, &block, columns, &scores[..self.n_keys]);
                accumulate(simd, decay, &sums, values);
            });
        }
    }

    /// `scores += q k^T`; returns the largest, lane by lane.
    #[inline(always)]
    fn score_single<S: Simd>(&self, simd: S, block: &Unpacked<'_>, scores: &mut [f32]) -> S::f32s {
        let lanes = S::f32s::LEN;
        let q = &self.q[..self.packing.head_dim];
        let width = self.n_keys.next_multiple_of(self.packing.panel);
        let mut largest = S::f32s::splat(simd, 0.5 * MASKED_2);
        for (i, scores) in scores[..width].chunks_exact_mut(lanes).enumerate() {
            let mut products = [S::f32s::splat(simd, 0.0); MOST_LANES];
            for (r, product) in products[..lanes].iter_mut().enumerate() {
                let k = block.k_row(i * lanes + r);
                for (q, k) in q.chunks(lanes).zip(k.chunks(lanes)) {
                    *product = load_some(simd, q).mul_add(load_some(simd, k), *product);
                }
            }
            let mut score = sum_each::<S>(products);
            if self.biased {
                score = add_bias(simd, score, scores);
            }
            score.store_slice(scores);
            largest = largest.max(score);
        }
        largest
    }
}

/// The sum of each of as many vectors as there are lanes, in order.
#[inline(always)]
fn sum_each<S: Simd>(vectors: [S::f32s; MOST_LANES]) -> S::f32s {
    let mut vectors = vectors;
    let mut half = S::f32s::LEN / 2;
    while half > 0 {
        // Both halves of two vectors, lane by lane: the sums left in each are half as many.
        for i in 0..half {
            let (low, high) = vectors[i].interleave(vectors[i + half]);
            vectors[i] = low + high;
        }
        half /= 2;
    }
    vectors[0]
}

/// `weights v` for some columns of `v`.
#[inline(always)]
fn read<S: Simd, const C: usize>(
    simd: S,
    block: &Unpacked<'_>,
    columns: Range<usize>,
    weights: &[f32],
) -> [S::f32s; C] {
    let lanes = S::f32s::LEN;
    let mut sums = [[S::f32s::splat(simd, 0.0); C]; KEYS];
    let mut groups = weights.chunks_exact(KEYS);
    let mut key = 0;
    for weights in &mut groups {
        for u in 0..KEYS {
            let v = &block.v_row(key + u)[columns.clone()];
            for c in 0..C {
                sums[u][c] = load_some(simd, &v[c * lanes..]).mul_add(weights[u], sums[u][c]);
            }
        }
        key += KEYS;
    }
    for (u, &weight) in groups.remainder().iter().enumerate() {
        let v = &block.v_row(key + u)[columns.clone()];
        for c in 0..C {
            sums[0][c] = load_some(simd, &v[c * lanes..]).mul_add(weight, sums[0][c]);
        }
    }
    let mut total = sums[0];
    for c in 0..C {
        total[c] = (sums[0][c] + sums[1][c]) + (sums[2][c] + sums[3][c]);
    }
    total
}

/// `values = decay values + sums`.
#[inline(always)]
fn accumulate<S: Simd, const C: usize>(simd: S, decay: S::f32s, sums: &[S::f32s; C], values: &mut [f32]) {
    for (sum, values) in sums.iter().zip(values.chunks_exact_mut(S::f32s::LEN)) {
        S::f32s::from_slice(simd, values).mul_add(decay, *sum).store_slice(values);
    }
}
