//! The running softmax of a few queries over one block of keys, with logits in base 2.

use std::f32::consts::LOG2_E;

use fearless_simd::prelude::*;

use super::pack::Packing;
use crate::{
    ops::softmax::MASKED,
    simd::{
        math::exp2,
        tile::{ROWS, VECTORS, product, with_vectors},
    },
};

/// The score of a masked pair in base 2.
pub(super) const MASKED_2: f32 = MASKED * LOG2_E;

/// What the running softmax keeps for the queries of one head.
pub(super) struct State {
    /// The largest logit so far.
    pub largest: Vec<f32>,
    /// The sum of `2^(logit - largest)`, one vector a query.
    pub sums: Vec<f32>,
    /// `sum 2^(logit - largest) v`, `[query, v_width]`.
    pub values: Vec<f32>,
}

impl State {
    pub fn new() -> Self {
        Self { largest: Vec::new(), sums: Vec::new(), values: Vec::new() }
    }

    /// Forgets everything.
    pub fn reset(&mut self, rows: usize, lanes: usize, v_width: usize) {
        // Above every masked score, so that those get no weight.
        self.largest.clear();
        self.largest.resize(rows, 0.5 * MASKED_2);
        self.sums.clear();
        self.sums.resize(rows * lanes, 0.0);
        self.values.clear();
        self.values.resize(rows * v_width, 0.0);
    }

    /// Turns sums into the values that were read, and `largest` into the natural log-sum-exp.
    pub fn finish(&mut self, row: usize, lanes: usize, exists: bool) {
        let v_width = self.values.len() / self.largest.len();
        let values = &mut self.values[row * v_width..][..v_width];
        let largest = self.largest[row];
        if !exists || largest <= 0.5 * MASKED_2 {
            values.fill(0.0);
            self.largest[row] = MASKED;
            return;
        }
        let sum: f32 = self.sums[row * lanes..][..lanes].iter().sum();
        values.iter_mut().for_each(|x| *x /= sum);
        let log = f64::from(largest) + f64::from(sum).log2();
        self.largest[row] = (log * std::f64::consts::LN_2) as f32;
    }
}

/// Some rows of one head against one block of keys.
pub(super) struct Step<'a> {
    pub packing: &'a Packing,
    /// `[R, head_dim]`, scaled.
    pub q: &'a [f32],
    /// Keys in the block.
    pub n_keys: usize,
    /// Whether `scores` holds a bias.
    pub biased: bool,
    /// Where the rows are in the state.
    pub first_row: usize,
    /// How many of the `R` rows there are.
    pub n_rows: usize,
}

impl Step<'_> {
    /// Reads a packed block. `scores` is `[ROWS, block_keys]`: the bias on entry, if there is
    /// one, and weights afterwards.
    #[inline(always)]
    pub fn run<S: Simd>(&self, simd: S, block: &[f32], scores: &mut [f32], state: &mut State) {
        if self.n_rows == 1 {
            self.run_tile::<S, 1>(simd, block, scores, state);
        } else {
            self.run_tile::<S, ROWS>(simd, block, scores, state);
        }
    }

    #[inline(always)]
    fn run_tile<S: Simd, const R: usize>(&self, simd: S, block: &[f32], scores: &mut [f32], state: &mut State) {
        let (k, v) = self.packing.split(block);
        let largest = self.score::<S, R>(simd, k, scores);
        let decay = self.weigh::<S, R>(simd, &largest, scores, state);
        self.read::<S, R>(simd, v, &decay, scores, state);
    }

    /// `scores += q k^T`; returns the largest of each row, lane by lane.
    #[inline(always)]
    fn score<S: Simd, const R: usize>(&self, simd: S, k: &[f32], scores: &mut [f32]) -> [S::f32s; R] {
        let Packing { head_dim, panel, block_keys, .. } = *self.packing;
        let mut q = [self.q; R];
        for (r, q) in q.iter_mut().enumerate() {
            *q = &self.q[r * head_dim..][..head_dim];
        }
        let mut largest = [S::f32s::splat(simd, 0.5 * MASKED_2); R];
        let n_panels = self.n_keys.div_ceil(panel);
        for (p, k) in k.chunks_exact(panel * head_dim).take(n_panels).enumerate() {
            let tile = product::<S, R, VECTORS>(simd, q, k);
            for r in 0..R {
                let row = &mut scores[r * block_keys + p * panel..][..VECTORS * S::f32s::LEN];
                for (c, scores) in row.chunks_exact_mut(S::f32s::LEN).enumerate() {
                    let mut score = tile[r][c];
                    if self.biased {
                        score += S::f32s::from_slice(simd, scores);
                    }
                    score.store_slice(scores);
                    largest[r] = largest[r].max(score);
                }
            }
        }
        largest
    }

    /// Turns scores into weights; returns what earlier sums must be multiplied by.
    #[inline(always)]
    pub fn weigh<S: Simd, const R: usize>(
        &self,
        simd: S,
        largest: &[S::f32s; R],
        scores: &mut [f32],
        state: &mut State,
    ) -> [S::f32s; R] {
        let Packing { panel, block_keys, .. } = *self.packing;
        let width = self.n_keys.next_multiple_of(panel);
        let mut decay = [S::f32s::splat(simd, 0.0); R];
        for r in 0..self.n_rows.min(R) {
            let row = self.first_row + r;
            let before = state.largest[row];
            let now = before.max(largest[r].reduce_max());
            state.largest[row] = now;
            decay[r] = exp2(simd, S::f32s::splat(simd, before - now));
            let now = S::f32s::splat(simd, now);
            let mut sum = S::f32s::splat(simd, 0.0);
            for scores in scores[r * block_keys..][..width].chunks_exact_mut(S::f32s::LEN) {
                let weight = exp2(simd, S::f32s::from_slice(simd, scores) - now);
                weight.store_slice(scores);
                sum += weight;
            }
            let sums = &mut state.sums[row * S::f32s::LEN..][..S::f32s::LEN];
            S::f32s::from_slice(simd, sums).mul_add(decay[r], sum).store_slice(sums);
        }
        decay
    }

    /// `values = decay values + weights v`.
    #[inline(always)]
    fn read<S: Simd, const R: usize>(
        &self,
        simd: S,
        v: &[f32],
        decay: &[S::f32s; R],
        weights: &[f32],
        state: &mut State,
    ) {
        let Packing { v_panels, block_keys, .. } = *self.packing;
        let mut rows = [weights; R];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = &weights[r * block_keys..][..self.n_keys];
        }
        for panel in v_panels.iter() {
            let v = &v[panel.first * block_keys..][..self.n_keys * panel.width];
            with_vectors!(panel, C => {
                let tile = product::<S, R, C>(simd, rows, v);
                self.accumulate(simd, decay, &tile, panel.first, state);
            });
        }
    }

    #[inline(always)]
    fn accumulate<S: Simd, const R: usize, const C: usize>(
        &self,
        simd: S,
        decay: &[S::f32s; R],
        tile: &[[S::f32s; C]; R],
        first: usize,
        state: &mut State,
    ) {
        let v_width = self.packing.v_panels.width;
        for r in 0..R {
            let values = &mut state.values[(self.first_row + r) * v_width + first..][..C * S::f32s::LEN];
            for (c, values) in values.chunks_exact_mut(S::f32s::LEN).enumerate() {
                S::f32s::from_slice(simd, values).mul_add(decay[r], tile[r][c]).store_slice(values);
            }
        }
    }
}
