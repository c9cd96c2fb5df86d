//! Softmax attention read in blocks of keys: memory grows with the length, not with its
//! square. Source: BSA-TNP, arXiv 2506.09163, section 3; the running softmax is that of
//! arXiv 1805.02867 and FlashAttention, arXiv 2205.14135.

mod bias;
mod cpu;
mod custom;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
mod matrix;
mod memory;
mod plan;
mod problem;
#[cfg(feature = "gpu")]
mod snippet;
mod strides;
#[cfg(feature = "gpu")]
mod text;

pub use super::softmax::{Attention, MASKED};
pub use bias::{Bias, BiasKernel, BiasTerm, Distance, MAX_COORDINATES};
pub use custom::{
    BiasFn, CustomBias, MAX_SNIPPET_ARRAY, MAX_SNIPPET_BLOCKS, MAX_SNIPPET_BRACKETS, MAX_SNIPPET_BYTES,
    MAX_SNIPPET_ITERATIONS, MAX_SNIPPET_NESTING, MAX_SNIPPET_OPERATIONS, MAX_SNIPPET_OPERATORS,
};
pub use memory::{Placed, ScanMemory, ScanState};
pub(crate) use problem::Problem;
pub use problem::{MAX_HEAD_DIM, ScanAttention};

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{
    error::{Error, Result},
    host::filled,
    tensor::{Mask, Storage, Tensor, check_operands},
};
use problem::{CpuInputs, OP};

/// `softmax(scale q k^T + bias) v` for each batch element and head, over the keys that the
/// mask keeps.
///
/// `q [batch, n_heads, n_queries, head_dim]`, `k [.., n_keys, head_dim]` and `v [.., n_keys,
/// v_dim]`, or in the other [`Layout`](crate::ops::Layout)s; the result has the layout of `q`. `head_dim` and `v_dim`
/// may differ and go up to [`MAX_HEAD_DIM`]. Keys and values may have fewer heads than queries, `n_heads` a multiple
/// of theirs: then each of them is read by as many heads of queries, side by side (grouped-query attention).
///
/// Nothing of size `n_queries x n_keys` is ever stored. A row without a valid key, or where there are no keys at all,
/// reads as zeros. This is the textbook softmax: upstream's `scan_attention` lets rows whose logits
/// are all far below zero decay to zero, because its running maximum starts at `-1e-6`;
/// such rows differ here (they are a weighted mean of `v`, as everywhere else).
///
/// A NaN in a query spoils what it reads, values and log-sum-exp; one in a key, what every query
/// reads that does not mask it; one in a value, its column of that. An infinite logit, or one that
/// overflows f32 (beyond `2e38`), spoils its row if it is positive and has no weight if it is
/// negative, as one below half of [`MASKED`] has none. All devices agree on this, see [What is not
/// finite](crate::ops#what-is-not-finite).
///
/// To keep keys and values and read them again and again, see [`ScanMemory`].
///
/// # Errors
/// Shapes that do not fit, a `head_dim` over the limit, tensors on different devices, operands of
/// [f16](crate::DType) but keys and values, a scale that is not finite, splits beyond the number of keys, biases whose
/// coordinates are missing or have no such column, bias parameters that do not fit the heads, a custom bias that does
/// not compile or that panics.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::{Bias, BiasTerm, ScanAttention, scan_attention}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::cpu();
/// // One head of one query and two keys, whose logits are 0: only where they are counts.
/// let q = Tensor::new(&device, &[1, 1, 1, 2], &[0.0, 0.0])?;
/// let k = Tensor::new(&device, &[1, 1, 2, 2], &[1.0, 0.0, 0.0, 1.0])?;
/// let v = Tensor::new(&device, &[1, 1, 2, 1], &[10.0, 20.0])?;
/// let (here, there) = (Tensor::new(&device, &[1, 1, 1], &[0.0])?, Tensor::new(&device, &[1, 2, 1], &[0.0, 9.0])?);
/// let terms = [BiasTerm::scalar(0..1, &[-1.0])]; // e^-9 for the key that is 9 away
/// let options = ScanAttention::default().bias(Bias::new(&here, &there, &terms));
/// let read = scan_attention(&q, &k, &v, &options)?;
/// assert!((read.values.read()?[0] - 10.0).abs() < 0.01);
/// # Ok(())
/// # }
/// ```
pub fn scan_attention(q: &Tensor, k: &Tensor, v: &Tensor, options: &ScanAttention<'_>) -> Result<Attention> {
    let problem = Problem::new(q, k, v, options)?;
    attend(&problem, q, k, v, options)
}

/// Runs what calls the user's functions: one that panics is an error.
fn caught<T>(terms: &[BiasTerm], run: impl FnOnce() -> T) -> Result<T> {
    let Some(name) = terms.iter().find_map(BiasTerm::custom_name) else {
        return Ok(run());
    };
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let found = format!("{name:?}, whose function for the CPU panicked: {}", words.unwrap_or("no message"));
        Error::argument("scan_attention", "the bias", found, "a function that returns a number for all it is given")
    })
}

/// [`scan_attention`] of a problem that has been checked.
pub(crate) fn attend(
    problem: &Problem,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    options: &ScanAttention<'_>,
) -> Result<Attention> {
    let bias = options.bias.unwrap_or_default();
    let mask = options.key_mask.map(Mask::tensor);
    let operands = [
        ("q", Some(q)),
        ("k", Some(k)),
        ("v", Some(v)),
        ("key_mask", mask),
        ("q_coords", bias.q_coords),
        ("k_coords", bias.k_coords),
        ("matrix", bias.matrix),
    ];
    check_operands(OP, &operands, &["k", "v"])?;
    if problem.is_empty() {
        let (values, lse, device) = (problem.out_shape(), problem.lse_shape(), q.device());
        return Ok(Attention {
            values: Tensor::zeros(&device, &values)?,
            log_sum_exp: Tensor::new(&device, &lse, &filled(MASKED, &lse)?)?,
        });
    }
    match q.storage() {
        Storage::Cpu(cpu, _) => {
            let inputs = CpuInputs {
                q: q.cpu(),
                k: k.numbers().clone(),
                v: v.numbers().clone(),
                key_mask: mask.map(Tensor::cpu),
                q_coords: bias.q_coords.map(Tensor::cpu).unwrap_or_default(),
                k_coords: bias.k_coords.map(Tensor::cpu).unwrap_or_default(),
                terms: bias.terms,
                matrix: bias.matrix.map(Tensor::cpu),
                n_splits: options.n_splits,
            };
            let (values, log_sum_exp) = caught(bias.terms, || cpu::scan_attention(cpu.0, problem, &inputs))??;
            Ok(Attention {
                values: Tensor::from_cpu(*cpu, problem.out_shape(), values),
                log_sum_exp: Tensor::from_cpu(*cpu, problem.lse_shape(), log_sum_exp),
            })
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::scan_attention(gpu, problem, [q, k, v], mask, &bias),
    }
}
