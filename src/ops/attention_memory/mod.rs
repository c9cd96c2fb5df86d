//! Neural attention memory (arXiv 2302.09422, section 3): a matrix that is written, erased and
//! read.
//!
//! ```text
//! RD(M, q, p_r)         = p_r M q
//! WR(M, k, v, p_w, p_e) = M + p_w v k^T - p_e (M k) k^T
//! ```
//!
//! With `p_e = p_w` this is the delta rule, whose rate is from 0 to 1; with a
//! [`decay`](AttentionMemory::decay) `alpha` that multiplies `M` before each step, the gated delta rule
//! (Yang et al. 2024, arXiv 2412.06464).
//!
//! A memory is `[batch, n_heads, v_dim, head_dim]`, plain data: it can be stored, sent, and gone on
//! with. Tokens are `[batch, n, n_heads * dim]` with probabilities `[batch, n, n_heads]`, or
//! `[batch, n_heads, n, dim]` with `[batch, n_heads, n]`.
//!
//! **Keys and queries are unit vectors**: see [`unit_norm`](crate::ops::unit_norm()). Then
//! `RD(WR(M, k, v, 1, 1), k, 1) = v`, and erasing leaves alone what is orthogonal to `k`. They are
//! taken as they are given, so a zero key (which `unit_norm` leaves zero) writes and erases nothing
//! and a zero query reads zeros; a longer key erases more than there is, and a memory that is
//! erased with keys longer than the square root of 2 can grow without bound.
//!
//! This is the delta rule with a probability for writing and one for erasing; with a decay it is the
//! *gated* delta rule. A probability of at most 1 never erases more than there is (some variants let
//! it go up to 2).
//!
//! [`attention_memory()`] does this for every step of a sequence (the prefix, or causal, form), in
//! one of two ways that agree to rounding:
//!
//! * recurrent, a step at a time: `3 head_dim v_dim` multiply-adds a step, one after the other;
//! * chunked, 32 steps at a time. Within a chunk that begins with `M`, step `t` adds `u_t k_t^T` with
//!   `u_t = p_w v_t - p_e M k_t - p_e sum_{i<t} (k_t . k_i) u_i`: forward substitution with the
//!   products of the keys (the WY form of a product of Householder-like factors; Yang et al.
//!   2024, arXiv 2406.06484, section 3.2). All else is products of matrices. With a decay, what a
//!   step left for a later one is multiplied by the product of all `alpha` between them.
//!
//! On a GPU sequences of 32 steps and more are chunked; on the CPU a memory that fits the fastest
//! cache is faster step by step, so only larger ones are.
//!
//! Without erasing a write is the sum of [linear attention](crate::ops::LinearAttention) and runs
//! as that.

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
mod memory;
mod plan;
mod problem;
#[cfg(feature = "gpu")]
mod text;

use super::layout::Sizes;
use crate::{
    device::Capabilities,
    error::Result,
    tensor::{Storage, Tensor},
};
pub use problem::{AttentionMemory, Form, MAX_HEAD_DIM, MemoryState};
use problem::{OP, Problem, check, memory_shape, numbers};

/// What was read, and the memory after the last step.
#[derive(Clone, Debug)]
pub struct Recall {
    /// `[batch, n, n_heads * v_dim]`, or in the other layout.
    pub values: Tensor,
    /// What to go on with.
    pub state: MemoryState,
}

/// Writes, erases and reads at every step of a sequence; a step reads what it wrote itself. The
/// paper's bidirectional attention without the future, and with erasing the delta rule, whose write
/// and erasure have a probability each; with a [`decay`](AttentionMemory::decay) the gated one.
///
/// Unit queries and keys `[batch, n, n_heads * head_dim]`, `v [batch, n, n_heads * v_dim]`, or in
/// the other [`Layout`](crate::ops::Layout). It begins with [`AttentionMemory::state`]. With
/// `p_erase = p_write` the square of a row of the memory grows by at most `p / (2 - p)` times the
/// square of the value in a step, whatever the keys: after `n` steps a row is at most `sqrt(n)`
/// times the largest value long, and with keys that come again it stays near the values. Without
/// erasing it can grow with the number of steps.
///
/// # Errors
/// Shapes that do not fit each other, the layout or the state; different devices; on a GPU, heads
/// wider than [`MAX_HEAD_DIM`] or an operand larger than one binding.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::{AttentionMemory, Layout, attention_memory}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::cpu();
/// // One head, two steps, keys that are orthogonal.
/// let k = Tensor::new(&device, &[1, 1, 2, 2], &[1.0, 0.0, 0.0, 1.0])?;
/// let v = Tensor::new(&device, &[1, 1, 2, 1], &[5.0, 7.0])?;
/// let recall = attention_memory(&k, &k, &v, &AttentionMemory::new(Layout::HeadMajor))?;
/// assert_eq!(recall.values.read()?, [5.0, 7.0]);
/// assert_eq!(recall.state.memory.read()?, [5.0, 7.0]);
/// # Ok(())
/// # }
/// ```
pub fn attention_memory(q: &Tensor, k: &Tensor, v: &Tensor, options: &AttentionMemory<'_>) -> Result<Recall> {
    let (keys, v_dim) = check(OP, Some(q), k, v, options)?;
    let (values, state) = run((keys, v_dim), Some(q), k, v, options)?;
    Ok(Recall { values, state })
}

/// What is read (nothing without queries) and the memory.
fn run(
    (keys, v_dim): (Sizes, usize),
    q: Option<&Tensor>,
    k: &Tensor,
    v: &Tensor,
    options: &AttentionMemory<'_>,
) -> Result<(Tensor, MemoryState)> {
    let problem = &Problem::new(options.layout, keys, v_dim);
    let values_shape = match q {
        Some(_) => options.layout.shape(Sizes { dim: v_dim, ..keys }),
        None => vec![0],
    };
    let (values, memory) = match k.storage() {
        Storage::Cpu(cpu, _) => {
            let form = plan::plan(problem, options.form, &Capabilities::cpu())?.form;
            let inputs = cpu::Inputs {
                problem,
                q: q.map(Tensor::cpu),
                k: k.cpu(),
                v: v.cpu(),
                memory: options.memory().map(Tensor::cpu),
                p_read: numbers(options.p_read),
                p_write: numbers(options.p_write),
                p_erase: numbers(options.p_erase),
                decay: numbers(options.decay),
            };
            let (values, memory) = cpu::run(cpu.0, &inputs, form)?;
            (
                Tensor::from_cpu(*cpu, values_shape, values),
                Tensor::from_cpu(*cpu, problem.memory_shape().to_vec(), memory),
            )
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::run(gpu, problem, q, k, v, options, values_shape)?,
    };
    let memory = memory.reshape(&memory_shape(keys, v_dim))?;
    Ok((values, MemoryState { memory, erased: options.erases(keys) }))
}
