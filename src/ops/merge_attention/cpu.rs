//! The CPU twin of `shaders/merge_attention.wgsl`.

use rayon::prelude::*;

use crate::ops::scan_attention::MASKED;

/// Numbers in a task: enough to be worth a thread.
const TASK: usize = 1 << 16;

/// Returns the merged values and log-sum-exp.
pub(crate) fn merge_attention(
    n_parts: usize,
    width: usize,
    values: &[f32],
    log_sum_exp: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let rows = log_sum_exp.len() / n_parts;
    let mut merged = vec![0.0; rows * width];
    let mut merged_lse = vec![MASKED; rows];
    let chunk = (TASK / (n_parts * width).max(1)).max(1);
    let chunks = merged.par_chunks_mut(chunk * width).zip(merged_lse.par_chunks_mut(chunk));
    chunks.enumerate().for_each_init(
        || vec![0.0; n_parts],
        |weights, (i, (merged, lse))| {
            for (r, (merged, lse)) in merged.chunks_exact_mut(width).zip(lse).enumerate() {
                let row = i * chunk + r;
                *lse = weigh(log_sum_exp[row..].iter().step_by(rows).copied(), weights);
                for (part, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
                    let values = &values[(part * rows + row) * width..][..width];
                    merged.iter_mut().zip(values).for_each(|(sum, x)| *sum += weight * x);
                }
            }
        },
    );
    (merged, merged_lse)
}

/// Writes the weight of each part, all zero where no part has a valid key; returns the merged
/// log-sum-exp.
fn weigh(log_sum_exp: impl Iterator<Item = f32> + Clone, weights: &mut [f32]) -> f32 {
    let largest = log_sum_exp.clone().fold(MASKED, f32::max);
    if largest <= 0.5 * MASKED {
        weights.fill(0.0);
        return MASKED;
    }
    let mut total = 0.0;
    for (weight, lse) in weights.iter_mut().zip(log_sum_exp) {
        // An empty part is far below any other, so that its weight is zero.
        *weight = (lse - largest).exp();
        total += *weight;
    }
    weights.iter_mut().for_each(|weight| *weight /= total);
    largest + total.ln()
}
