//! The running softmax of a few queries over one block of keys, with logits in base 2.

use std::f32::consts::LOG2_E;

use fearless_simd::prelude::*;

use super::pack::{Packing, Unpacked};
use crate::{
    ops::softmax::MASKED,
    simd::{
        math::exp2,
        tile::{ROWS, VECTORS, product, with_vectors},
    },
};

/// [`MASKED`] in base 2. Scores below half of it have no weight.
pub(super) const MASKED_2: f32 = MASKED * LOG2_E;

/// The bias of a masked pair: nothing that is added brings it back.
pub(super) const NONE: f32 = f32::NEG_INFINITY;

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

    /// The sums of a row; of a query without coordinates, as if there were no key.
    pub fn row(&self, row: usize, lanes: usize, exists: bool) -> Row<'_> {
        let v_width = self.values.len() / self.largest.len();
        let sum: f32 = self.sums[row * lanes..][..lanes].iter().sum();
        // A maximum does not keep NaN, the sum does.
        let is_empty = !exists || (self.largest[row] <= 0.5 * MASKED_2 && !sum.is_nan());
        let largest = if is_empty { MASKED_2 } else { self.largest[row] };
        Row { largest, sum: if is_empty { 0.0 } else { sum }, values: &self.values[row * v_width..][..v_width] }
    }
}

/// What one query has read.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    /// [`MASKED_2`] if there was no key.
    pub largest: f32,
    pub sum: f32,
    /// With gaps at the end; anything if there was no key.
    pub values: &'a [f32],
}

impl Row<'_> {
    fn is_empty(&self) -> bool {
        self.largest == MASKED_2
    }

    /// Writes the values and returns the natural log-sum-exp of the parts of a row.
    ///
    /// Their maxima and sums, and not their log-sum-exps, say what they weigh: at large logits a
    /// log-sum-exp in f32 does not tell one key from a thousand.
    pub fn finish<'a>(parts: impl Iterator<Item = Row<'a>> + Clone, values: &mut [f32]) -> f32 {
        values.fill(0.0);
        let mut parts = parts.filter(|part| !part.is_empty());
        let Some(first) = parts.next() else {
            return MASKED;
        };
        let Some(second) = parts.next() else {
            values.iter_mut().zip(first.values).for_each(|(y, x)| *y = x / first.sum);
            return log_sum_exp(first.largest, f64::from(first.sum));
        };
        let parts = [first, second].into_iter().chain(parts);
        let largest = parts.clone().map(|part| part.largest).fold(MASKED_2, f32::max);
        let (mut sum, mut sums) = (0.0, vec![0.0; values.len()]);
        for part in parts {
            let weight = (f64::from(part.largest) - f64::from(largest)).exp2();
            sum += weight * f64::from(part.sum);
            sums.iter_mut().zip(part.values).for_each(|(y, &x)| *y += weight * f64::from(x));
        }
        values.iter_mut().zip(sums).for_each(|(y, x)| *y = (x / sum) as f32);
        log_sum_exp(largest, sum)
    }
}

fn log_sum_exp(largest: f32, sum: f64) -> f32 {
    ((f64::from(largest) + sum.log2()) * std::f64::consts::LN_2) as f32
}

/// A score with its bias; that of a masked pair is [`NONE`], whatever its key holds.
#[inline(always)]
pub(super) fn add_bias<S: Simd>(simd: S, score: S::f32s, bias: &[f32]) -> S::f32s {
    let bias = S::f32s::from_slice(simd, bias);
    bias.simd_lt(f32::MIN).select(bias, score + bias)
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
    /// one, and weights afterwards. The block as it was before is asked for only where values were set aside.
    #[inline(always)]
    pub fn run<'b, S: Simd>(
        &self,
        simd: S,
        packed: &[f32],
        block: impl FnOnce() -> Unpacked<'b>,
        scores: &mut [f32],
        state: &mut State,
    ) {
        if self.n_rows == 1 {
            self.run_tile::<S, 1>(simd, packed, block, scores, state);
        } else {
            self.run_tile::<S, ROWS>(simd, packed, block, scores, state);
        }
    }

    #[inline(always)]
    fn run_tile<'b, S: Simd, const R: usize>(
        &self,
        simd: S,
        packed: &[f32],
        block: impl FnOnce() -> Unpacked<'b>,
        scores: &mut [f32],
        state: &mut State,
    ) {
        let (k, v, is_set_aside) = self.packing.split(packed);
        let largest = self.score::<S, R>(simd, k, scores);
        let set_aside = is_set_aside.then(|| {
            let block = block();
            (block, self.pairs_set_aside(&block, scores))
        });
        let decay = self.weigh::<S, R>(simd, &largest, scores, state);
        self.read::<S, R>(simd, v, &decay, scores, state);
        let Some((block, pairs)) = set_aside else { return };
        for [row, key] in pairs {
            let weight = scores[row * self.packing.block_keys + key];
            let values = &mut state.values[(self.first_row + row) * self.packing.v_panels.width..];
            values.iter_mut().zip(block.v_row(key)).for_each(|(y, x)| *y += weight * x);
        }
    }

    /// Rows and the keys that they read although their values were set aside.
    fn pairs_set_aside(&self, block: &Unpacked<'_>, scores: &[f32]) -> Vec<[usize; 2]> {
        let keys = (0..self.n_keys).filter(|&key| block.sets_aside(key));
        let is_masked = |row: usize, key: usize| scores[row * self.packing.block_keys + key] <= 0.5 * MASKED_2;
        keys.flat_map(|key| (0..self.n_rows).filter(move |&row| !is_masked(row, key)).map(move |row| [row, key]))
            .collect()
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
                        score = add_bias(simd, score, scores);
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
