//! The CPU twin of `shaders/scan_attention.wgsl`.
use rayon::prelude::*;

use super::{
    BiasTerm, CpuInputs, Distance, Kernel, MASKED, Problem,
    bias::{TermKind, is_masked},
};

/// Returns the values and the log-sum-exp, in the layout of the problem.
pub(super) fn scan_attention(problem: &Problem, inputs: &CpuInputs<'_>) -> (Vec<f32>, Vec<f32>) {
    let &Problem { batch, n_heads, n_queries, n_keys, head_dim, v_dim, n_columns, .. } = problem;
    let (qs, ks) = (problem.strides(n_queries, head_dim), problem.strides(n_keys, head_dim));
    let (vs, os) = (problem.strides(n_keys, v_dim), problem.strides(n_queries, v_dim));
    let ls = problem.strides(n_queries, 1);
    let at = |s: [usize; 3], b: usize, h: usize, i: usize| s[0] * b + s[1] * h + s[2] * i;
    let rows: Vec<(Vec<f32>, f32)> = (0..batch * n_heads * n_queries)
        .into_par_iter()
        .map(|row| {
            let (i, h, b) = (row % n_queries, row / n_queries % n_heads, row / n_queries / n_heads);
            let q = &inputs.q[at(qs, b, h, i)..][..head_dim];
            let mut logits = vec![MASKED; n_keys];
            for (j, logit) in logits.iter_mut().enumerate() {
                if inputs.key_mask.is_some_and(|mask| mask[b * n_keys + j] == 0.0) {
                    continue;
                }
                let k = &inputs.k[at(ks, b, h, j)..][..head_dim];
                let mut s = problem.scale * q.iter().zip(k).map(|(q, k)| q * k).sum::<f32>();
                for term in inputs.terms {
                    let q = &inputs.q_coords[(b * n_queries + i) * n_columns..][term.columns.clone()];
                    let k = &inputs.k_coords[(b * n_keys + j) * n_columns..][term.columns.clone()];
                    s += evaluate(term, n_heads, h, q, k);
                }
                if let Some(matrix) = inputs.matrix {
                    let x = matrix[((b * n_heads + h) * n_queries + i) * n_keys + j];
                    s += if is_masked(x) { MASKED } else { x };
                }
                *logit = if s > 0.5 * MASKED { s } else { MASKED };
            }
            let largest = logits.iter().copied().fold(0.5 * MASKED, f32::max);
            if largest <= 0.5 * MASKED {
                return (vec![0.0; v_dim], MASKED);
            }
            let mut total = 0.0;
            let mut value = vec![0.0; v_dim];
            for (j, s) in logits.iter().enumerate() {
                let p = (s - largest).exp();
                total += p;
                for (x, v) in value.iter_mut().zip(&inputs.v[at(vs, b, h, j)..]) {
                    *x += p * v;
                }
            }
            value.iter_mut().for_each(|x| *x /= total);
            (value, largest + total.ln())
        })
        .collect();
    let mut values = vec![0.0; batch * n_heads * n_queries * v_dim];
    let mut lse = vec![0.0; batch * n_heads * n_queries];
    for (row, (value, l)) in rows.iter().enumerate() {
        let (i, h, b) = (row % n_queries, row / n_queries % n_heads, row / n_queries / n_heads);
        values[at(os, b, h, i)..][..v_dim].copy_from_slice(value);
        lse[at(ls, b, h, i)] = *l;
    }
    (values, lse)
}

/// The bias of one pair, or `MASKED`.
fn evaluate(term: &BiasTerm, n_heads: usize, head: usize, q: &[f32], k: &[f32]) -> f32 {
    if q.iter().chain(k).any(|x| !x.is_finite()) {
        return MASKED;
    }
    let (distance, kernel, a, b, c) = match &term.kind {
        TermKind::Custom(custom) => {
            let x = (custom.cpu)(q, k, head, &custom.params);
            return if is_masked(x) { MASKED } else { x };
        }
        TermKind::Distance { distance, kernel, a, b, c } => (distance, kernel, a, b, c),
    };
    let d = match distance {
        Distance::Euclidean => q.iter().zip(k).map(|(q, k)| (q - k) * (q - k)).sum::<f32>().sqrt(),
        Distance::CausalTime if k[0] > q[0] => return MASKED,
        Distance::CausalTime => k[0] - q[0],
        Distance::GreatCircle => {
            let unit = |p: &[f32]| {
                let (lon, lat) = (f64::from(p[0]).to_radians(), f64::from(p[1]).to_radians());
                [lon.cos() * lat.cos(), lon.sin() * lat.cos(), lat.sin()]
            };
            let (u, v) = (unit(q), unit(k));
            let norm = |sign: f64| u.iter().zip(v).map(|(u, v)| (u + sign * v).powi(2)).sum::<f64>().sqrt();
            (2.0 * norm(-1.0).atan2(norm(1.0))).to_degrees() as f32
        }
    };
    if !d.is_finite() {
        return MASKED;
    }
    let n = term.n_basis(n_heads);
    let exp = |x: f32| x.min(87.0).exp();
    (head * n..(head + 1) * n)
        .map(|i| match kernel {
            Kernel::Scalar => a[i] * d,
            Kernel::Rbf => a[i] * exp(-b[i] * d * d),
            Kernel::Tisa => a[i] * exp(-b[i] * (d - c[i]) * (d - c[i])),
            Kernel::Exponential => a[i] * exp(-b[i] * d),
        })
        .sum()
}
