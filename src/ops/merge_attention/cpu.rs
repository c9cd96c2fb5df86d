//! The CPU twin of `shaders/merge_attention.wgsl`.
use crate::ops::scan_attention::MASKED;

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
    for row in 0..rows {
        let lse = |part: usize| log_sum_exp[part * rows + row];
        let largest = (0..n_parts).map(lse).fold(MASKED, f32::max);
        if largest <= 0.5 * MASKED {
            continue;
        }
        let weight = |part: usize| if lse(part) > 0.5 * MASKED { (lse(part) - largest).exp() } else { 0.0 };
        let total: f32 = (0..n_parts).map(weight).sum();
        for part in 0..n_parts {
            let weight = weight(part) / total;
            for column in 0..width {
                merged[row * width + column] += weight * values[(part * rows + row) * width + column];
            }
        }
        merged_lse[row] = largest + total.ln();
    }
    (merged, merged_lse)
}
