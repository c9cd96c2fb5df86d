//! FAVOR+ whose features cannot all vanish. Over the keys, the sums of a feature are softmax
//! attention with a row of the projection as the query; over the features, a read is softmax
//! attention with those rows as the keys:
//!
//! ```text
//! log phi_f(k) = w_f . k - |k|^2 / 2            m_f, l_f = attention and log-sum-exp over the keys
//! y = sum_f phi_f(q) e^{l_f} m_f / sum_f phi_f(q) e^{l_f}         logits of a read: w_f . q + l_f
//! ```
//!
//! The running softmax takes off the largest logit of every row before any exponential, and
//! states merge as parts of attention do. Twins and kernels are those of scan attention.

use super::problem::{LinearAttention, OP, Problem};
use crate::{
    Device,
    error::Result,
    host::zeros,
    ops::{
        Activation, Linear, ScanAttention, add, columns, concat,
        elementwise::{Number, widened},
        layout::{Layout, Sizes},
        linear, merge_attention, scan_attention,
        softmax::{Attention, MASKED},
    },
    tensor::{Mask, Tensor, n_elements},
};

/// What is kept of keys and values: [`LinearState::sums`](super::LinearState::sums).
pub(super) fn write(
    attention: &LinearAttention,
    problem: &Problem,
    k: &Tensor,
    v: &Tensor,
    mask: Option<&Mask>,
) -> Result<Tensor> {
    let shape = problem.state_shape();
    if n_elements(&shape) == 0 || problem.n == 0 {
        return nothing(&k.device(), problem);
    }
    let head_dim = problem.head_dim;
    let rows = rows(attention, problem)?;
    // The squared lengths go along as one number more.
    let half = -0.5 * attention.features.scale * attention.features.scale;
    let k = widened(&k.reshape(&[k.len() / head_dim, head_dim])?, head_dim, &Number::Squares(half), wide(head_dim))?;
    let layout = layout_of_keys(problem);
    let k = k.reshape(&layout.shape(sizes_of_keys(problem, problem.n, wide(head_dim))))?;
    let options = options(layout, mask);
    let Attention { values, log_sum_exp } = scan_attention(&rows, &k, v, &options)?;
    state(&values, &log_sum_exp, &shape)
}

/// Launches of a write, about: what else there is than attention is small and counted once.
pub(super) fn launches(problem: &Problem, k: &Tensor, v: &Tensor) -> Result<usize> {
    let layout = layout_of_keys(problem);
    let of_width =
        |n: usize| Tensor::zeros(&k.device(), &layout.shape(sizes_of_keys(problem, n, wide(problem.head_dim))));
    let decision = options(layout, None).decision(&of_width(problem.n_features)?, &of_width(problem.n)?, v)?;
    // Two for the rows, one for the lengths beside the keys, one for the state.
    Ok(decision.launches + 4)
}

/// What queries read, in their layout.
pub(super) fn read(attention: &LinearAttention, problem: &Problem, q: &Tensor, sums: &Tensor) -> Result<Tensor> {
    let Problem { head_dim, v_dim, n_features, .. } = *problem;
    let of_queries = |dim: usize| {
        attention.layout.shape(Sizes { n_heads: problem.n_heads, ..sizes_of_keys(problem, problem.n, dim) })
    };
    let shape = of_queries(v_dim);
    if n_elements(&shape) == 0 {
        return Tensor::zeros(&q.device(), &shape);
    }
    let n = q.len() / head_dim;
    let width = wide(head_dim);
    let one = Tensor::new(&q.device(), &[1], &[1.0])?;
    let q = widened(&q.reshape(&[n, head_dim])?, head_dim, &Number::Given(&one), width)?.reshape(&of_queries(width))?;
    let of_features = |dim: usize| layout_of_keys(problem).shape(sizes_of_keys(problem, n_features, dim));
    let n_rows = sums.len() / (v_dim + 1);
    let (values, logs) = (columns(sums, 0..v_dim)?, columns(sums, v_dim..v_dim + 1)?);
    let rows = rows(attention, problem)?.reshape(&[n_rows, width])?;
    // In the place of the 1 of each row.
    let k = widened(&rows, head_dim, &Number::Given(&logs), width)?.reshape(&of_features(width))?;
    Ok(scan_attention(&q, &k, &values.reshape(&of_features(v_dim))?, &options(attention.layout, None))?.values)
}

/// The width of keys and queries with one number more, and zeros up to the vectors that attention reads fastest.
fn wide(head_dim: usize) -> usize {
    (head_dim + 1).next_multiple_of(4)
}

/// What both states would have kept together.
pub(super) fn merge(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.is_empty() {
        return Ok(a.clone());
    }
    let width = a.shape()[3];
    let rows = a.len() / width;
    let both = concat(&a.reshape(&[1, a.len()])?, 0..a.len(), &b.reshape(&[1, b.len()])?)?;
    let both = both.reshape(&[2, rows, width])?;
    let logs = columns(&both, width - 1..width)?.reshape(&[2, rows])?;
    let merged = merge_attention(&columns(&both, 0..width - 1)?, &logs)?;
    state(&merged.values, &merged.log_sum_exp, a.shape())
}

fn options(layout: Layout, mask: Option<&Mask>) -> ScanAttention<'_> {
    let options = ScanAttention::new(layout).scale(1.0);
    mask.map_or(options, |mask| options.key_mask(mask))
}

/// How keys, values, features and the state lie: none has more heads than the keys.
fn layout_of_keys(problem: &Problem) -> Layout {
    match problem.is_head_major {
        true => Layout::HeadMajor,
        false => Layout::Projected { n_heads: problem.kv_heads() },
    }
}

fn sizes_of_keys(problem: &Problem, n: usize, dim: usize) -> Sizes {
    Sizes { batch: problem.batch, n_heads: problem.kv_heads(), n, dim }
}

/// Values and their logarithms side by side.
fn state(values: &Tensor, log_sum_exp: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let (rows, v_dim) = (log_sum_exp.len(), values.len() / log_sum_exp.len().max(1));
    concat(&values.reshape(&[rows, v_dim])?, 0..v_dim, &log_sum_exp.reshape(&[rows, 1])?)?.reshape(shape)
}

/// The state without a key.
fn nothing(device: &Device, problem: &Problem) -> Result<Tensor> {
    let state = Tensor::zeros(device, &problem.state_shape())?;
    let mut row = zeros(&[problem.width])?;
    row[problem.v_dim] = MASKED;
    if state.is_empty() { Ok(state) } else { add(&state, &Tensor::new(device, &[problem.width], &row)?, 1.0) }
}

/// The rows of the projection times the scale, each followed by a 1 and zeros, for every head and batch
/// element of the keys, in their layout.
fn rows(attention: &LinearAttention, problem: &Problem) -> Result<Tensor> {
    let Problem { n_features, head_dim, .. } = *problem;
    let projection = attention.features.projection(OP)?;
    let device = projection.device();
    let copies = if problem.is_head_major { 1 } else { problem.kv_heads() };
    let width = copies * wide(head_dim);
    let (mut weight, mut bias) = (zeros(&[head_dim, width])?, zeros(&[width])?);
    for copy in 0..copies {
        let first = copy * wide(head_dim);
        (0..head_dim).for_each(|d| weight[d * width + first + d] = attention.features.scale);
        bias[first + head_dim] = 1.0;
    }
    let layer = Linear {
        weight: Tensor::new(&device, &[head_dim, width], &weight)?,
        bias: Some(Tensor::new(&device, &[width], &bias)?),
    };
    let rows = linear(projection, &layer, Activation::None, None)?;
    let shape = layout_of_keys(problem).shape(sizes_of_keys(problem, n_features, wide(head_dim)));
    add(&Tensor::zeros(&device, &shape)?, &rows, 1.0)
}
