//! The CPU twin of `shaders/merge_attention.wgsl`.

use super::problem::{HEADROOM, REFERENCE_STEP, state_width};
use crate::{
    error::Result,
    host::{filled, zeros},
    ops::softmax::MASKED,
    parallel::*,
};

/// Numbers in a task: enough to be worth a thread.
const TASK: usize = 1 << 16;

/// What is merged.
pub(crate) struct Inputs<'a> {
    /// `[rows, 3 + 2 width]` each.
    pub states: &'a [&'a [f32]],
    pub n_parts: usize,
    /// `[n_parts, rows, width]`.
    pub values: &'a [f32],
    /// `[n_parts, rows]`.
    pub log_sum_exp: &'a [f32],
    pub rows: usize,
    pub width: usize,
}

/// One row of the result, before it is divided or split into halves.
struct Row {
    reference: f32,
    weights: f64,
    sums: Vec<f64>,
}

/// Returns the merged values and log-sum-exp of parts.
pub(crate) fn merge_attention(
    n_parts: usize,
    width: usize,
    values: &[f32],
    log_sum_exp: &[f32],
) -> Result<(Vec<f32>, Vec<f32>)> {
    let rows = log_sum_exp.len() / n_parts;
    Inputs { states: &[], n_parts, values, log_sum_exp, rows, width }.attention()
}

impl Inputs<'_> {
    /// The merged values and log-sum-exp.
    pub fn attention(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        let width = self.width;
        let mut merged = zeros(&[self.rows, width])?;
        let mut merged_lse = filled(MASKED, &[self.rows])?;
        let chunk = self.rows_of_task();
        let chunks = merged.par_chunks_mut(chunk * width).zip(merged_lse.par_chunks_mut(chunk));
        chunks.enumerate().for_each_init(
            || Row::new(width),
            |sum, (i, (merged, lse))| {
                for (r, (merged, lse)) in merged.chunks_exact_mut(width).zip(lse).enumerate() {
                    self.sum(i * chunk + r, false, sum);
                    if !sum.is_empty() {
                        let scale = 1.0 / sum.weights;
                        merged.iter_mut().zip(&sum.sums).for_each(|(y, x)| *y = (x * scale) as f32);
                        *lse = (f64::from(sum.reference) + sum.weights.ln()) as f32;
                    }
                }
            },
        );
        Ok((merged, merged_lse))
    }

    /// The merged state.
    pub fn state(&self) -> Result<Vec<f32>> {
        let state_width = state_width(self.width);
        let mut state = zeros(&[self.rows, state_width])?;
        let chunk = self.rows_of_task();
        state.par_chunks_mut(chunk * state_width).enumerate().for_each_init(
            || Row::new(self.width),
            |sum, (i, state)| {
                for (r, state) in state.chunks_exact_mut(state_width).enumerate() {
                    self.sum(i * chunk + r, true, sum);
                    state[0] = sum.reference;
                    (state[1], state[2]) = halves(sum.weights);
                    let (high, low) = state[3..].split_at_mut(self.width);
                    for ((high, low), &x) in high.iter_mut().zip(low).zip(&sum.sums) {
                        (*high, *low) = halves(x);
                    }
                }
            },
        );
        Ok(state)
    }

    fn rows_of_task(&self) -> usize {
        (TASK / ((self.n_parts + 2 * self.states.len()) * self.width).max(1)).max(1)
    }

    /// Sums a row over everything, states first, to attention or to a state.
    fn sum(&self, row: usize, to_state: bool, sum: &mut Row) {
        let (rows, width) = (self.rows, self.width);
        let of_row = |state: &'_ [f32]| row * state.len() / rows..(row + 1) * state.len() / rows;
        let states = self.states.iter().map(|state| &state[of_row(state)]);
        let parts = || self.log_sum_exp[row..].iter().step_by(rows).copied();
        let reference = states.clone().map(|state| state[0]).fold(MASKED, larger);
        let largest = if self.n_parts == 0 { MASKED } else { parts().fold(MASKED, larger) };
        let moves = largest.is_nan() || largest > reference + HEADROOM;
        sum.reference = if moves { largest } else { reference };
        if sum.reference == f32::INFINITY {
            // A state may come from outside: nothing is relative to infinity.
            sum.reference = f32::NAN;
        }
        sum.weights = 0.0;
        sum.sums.fill(0.0);
        if sum.is_empty() {
            return;
        }
        if to_state {
            sum.reference = on_grid(sum.reference);
        }
        for state in states.filter(|state| !is_empty(state[0])) {
            let scale = if state[0] == sum.reference { 1.0 } else { f64::from(state[0] - sum.reference).exp() };
            sum.weights += scale * whole(state[1], state[2]);
            let (high, low) = state[3..].split_at(width);
            for ((sum, &high), &low) in sum.sums.iter_mut().zip(high).zip(low) {
                *sum += scale * whole(high, low);
            }
        }
        if self.n_parts == 0 {
            return;
        }
        for (part, lse) in parts().enumerate() {
            // What is empty is not read, whatever its values are.
            if is_empty(lse) {
                continue;
            }
            let weight = f64::from((lse - sum.reference).exp());
            sum.weights += weight;
            let values = &self.values[(part * rows + row) * width..][..width];
            sum.sums.iter_mut().zip(values).for_each(|(sum, &x)| *sum += weight * f64::from(x));
        }
    }
}

impl Row {
    fn new(width: usize) -> Self {
        Self { reference: MASKED, weights: 0.0, sums: vec![0.0; width] }
    }

    /// Whether there was no key; a reference that is not a number comes from one.
    fn is_empty(&self) -> bool {
        is_empty(self.reference)
    }
}

/// Whether a log-sum-exp is one of no key.
fn is_empty(log_sum_exp: f32) -> bool {
    log_sum_exp <= 0.5 * MASKED
}

/// The larger of two, or the one that is not a number: what is wrong must not get lost.
fn larger(a: f32, b: f32) -> f32 {
    if a.is_nan() || a >= b { a } else { b }
}

/// The first multiple of [`REFERENCE_STEP`] that is not below; zero has one sign.
fn on_grid(reference: f32) -> f32 {
    let snapped = (reference * (1.0 / REFERENCE_STEP)).ceil() * REFERENCE_STEP;
    if snapped == 0.0 { 0.0 } else { snapped }
}

/// A number as the sum of a large and a small one: 48 bits.
fn halves(x: f64) -> (f32, f32) {
    let high = x as f32;
    (high, (x - f64::from(high)) as f32)
}

fn whole(high: f32, low: f32) -> f64 {
    f64::from(high) + f64::from(low)
}
