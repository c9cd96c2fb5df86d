//! The CPU twin of `shaders/lstm.wgsl`.

use fearless_simd::{Level, dispatch, prelude::*};

use crate::{
    error::Result,
    host::zeros,
    ops::elementwise::cpu::sigmoid,
    parallel::*,
    simd::{packed::Packed, tile::ROWS},
};

/// The hidden states `[batch, n, hidden]` and the last state `[batch, 2, hidden]`.
pub(super) fn lstm(
    level: Level,
    [batch, n, hidden]: [usize; 3],
    gates: &[f32],
    weight: &[f32],
    mut state: Vec<f32>,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let mut values = zeros(&[batch, n, hidden])?;
    if values.is_empty() {
        return Ok((values, state));
    }
    dispatch!(level, simd => {
        let weight = &Packed::new(simd, weight, hidden, 4 * hidden)?;
        // Batch elements that share a pass over the weights.
        values
            .par_chunks_mut(ROWS * n * hidden)
            .zip(gates.par_chunks(ROWS * n * 4 * hidden))
            .zip(state.par_chunks_mut(ROWS * 2 * hidden))
            .for_each(|((values, gates), state)| {
                simd.vectorize(
                    #[inline(always)]
                    || run(simd, [n, hidden], gates, weight, state, values),
                );
            });
        Ok((values, state))
    })
}

/// Up to [`ROWS`] batch elements.
#[inline(always)]
fn run<S: Simd>(
    simd: S,
    [n, hidden]: [usize; 2],
    gates: &[f32],
    weight: &Packed,
    state: &mut [f32],
    values: &mut [f32],
) {
    let batch = state.len() / (2 * hidden);
    let mut h: Vec<f32> = state.chunks_exact(2 * hidden).flat_map(|state| &state[..hidden]).copied().collect();
    let mut z = vec![0.0; batch * 4 * hidden];
    for step in 0..n {
        for (b, z) in z.chunks_exact_mut(4 * hidden).enumerate() {
            z.copy_from_slice(&gates[(b * n + step) * 4 * hidden..][..4 * hidden]);
        }
        weight.add_product(simd, &h, &mut z);
        for (b, z) in z.chunks_exact(4 * hidden).enumerate() {
            let c = &mut state[(2 * b + 1) * hidden..][..hidden];
            let h = &mut h[b * hidden..][..hidden];
            for j in 0..hidden {
                let [i, f, g, o] = [z[j], z[hidden + j], z[2 * hidden + j], z[3 * hidden + j]];
                c[j] = sigmoid(f) * c[j] + sigmoid(i) * g.tanh();
                h[j] = sigmoid(o) * c[j].tanh();
            }
            values[(b * n + step) * hidden..][..hidden].copy_from_slice(h);
        }
    }
    for (state, h) in state.chunks_exact_mut(2 * hidden).zip(h.chunks_exact(hidden)) {
        state[..hidden].copy_from_slice(h);
    }
}
