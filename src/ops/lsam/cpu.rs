//! The CPU twin of `shaders/lsam.wgsl`.

use fearless_simd::{Level, dispatch, prelude::*};

use super::problem::Problem;
use crate::{
    error::Result,
    host::zeros,
    ops::{elementwise::cpu::sigmoid, unit_norm::cpu::unit},
    parallel::*,
    simd::{
        packed::{Packed, dot},
        tile::ROWS,
    },
};

/// Every output, `[batch, n, d_model]`; `hidden` and `memory` become those after the last step.
pub(super) fn lsam(
    level: Level,
    problem: &Problem,
    z: &[f32],
    weight: &[f32],
    hidden: &mut [f32],
    memory: &mut [f32],
    reverse: bool,
) -> Result<Vec<f32>> {
    let (d_model, width) = (problem.d_model(), problem.width());
    let mut values = zeros(&[problem.batch, problem.n, d_model])?;
    if values.is_empty() {
        return Ok(values);
    }
    dispatch!(level, simd => {
        let weight = &Packed::new(simd, weight, d_model, width)?;
        // Batch elements that share a pass over the weights.
        values
            .par_chunks_mut(ROWS * problem.n * d_model)
            .zip(z.par_chunks(ROWS * problem.n * width))
            .zip(hidden.par_chunks_mut(ROWS * d_model))
            .zip(memory.par_chunks_mut(ROWS * d_model * problem.dim))
            .for_each(|(((values, z), hidden), memory)| {
                simd.vectorize(
                    #[inline(always)]
                    || run(simd, problem, z, weight, hidden, memory, reverse, values),
                );
            });
        Ok(values)
    })
}

/// Up to [`ROWS`] batch elements.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // the arrays of one loop
fn run<S: Simd>(
    simd: S,
    problem: &Problem,
    z: &[f32],
    weight: &Packed,
    hidden: &mut [f32],
    memory: &mut [f32],
    reverse: bool,
    values: &mut [f32],
) {
    let Problem { n, n_heads, dim, .. } = *problem;
    let (d_model, width) = (problem.d_model(), problem.width());
    let batch = hidden.len() / d_model;
    let mut columns = vec![0.0; batch * width];
    let (mut q, mut k) = (vec![0.0; dim], vec![0.0; dim]);
    for s in 0..n {
        let step = if reverse { n - 1 - s } else { s };
        for (b, columns) in columns.chunks_exact_mut(width).enumerate() {
            columns.copy_from_slice(&z[(b * n + step) * width..][..width]);
        }
        weight.add_product(simd, hidden, &mut columns);
        for (b, columns) in columns.chunks_exact(width).enumerate() {
            let hidden = &mut hidden[b * d_model..][..d_model];
            for head in 0..n_heads {
                let part = |i: usize| &columns[i * d_model + head * dim..][..dim];
                unit(simd, part(0), &mut q);
                unit(simd, part(1), &mut k);
                let v = part(2);
                let w = sigmoid(columns[3 * d_model + head]);
                let r = sigmoid(columns[3 * d_model + n_heads + head]);
                let rows = &mut memory[(b * n_heads + head) * dim * dim..][..dim * dim];
                for (i, row) in rows.chunks_exact_mut(dim).enumerate() {
                    let x = w * (v[i] - dot(simd, row, &k));
                    row.iter_mut().zip(&k).for_each(|(m, k)| *m += x * k);
                    hidden[head * dim + i] = r * dot(simd, row, &q);
                }
            }
            values[(b * n + step) * d_model..][..d_model].copy_from_slice(hidden);
        }
    }
}
