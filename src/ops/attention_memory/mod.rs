//! Neural attention memory (arXiv 2302.09422, section 3): a matrix that is written, erased and
//! read.
//!
//! ```text
//! RD(M, q, p_r)         = p_r M q
//! WR(M, k, v, p_w, p_e) = M + p_w v k^T - p_e (M k) k^T
//! ```
//!
//! A memory is `[batch, n_heads, v_dim, head_dim]`, plain data: it can be stored, sent, and gone on
//! with. Tokens are `[batch, n, n_heads * dim]` and probabilities `[batch, n, n_heads]`.
//!
//! **Keys and queries are unit vectors**: see [`unit_norm`](crate::ops::unit_norm()). Then
//! `RD(WR(M, k, v, 1, 1), k, 1) = v`, and erasing leaves alone what is orthogonal to `k`. They are
//! taken as they are given, so a zero key (which `unit_norm` leaves zero) writes and erases nothing
//! and a zero query reads zeros; a longer key erases more than there is, and a memory that is
//! erased with keys longer than the square root of 2 can grow without bound.
//!
//! [`attention_memory()`] does this for every step of a sequence (the prefix, or causal, form), in
//! one of two ways that agree to rounding:
//!
//! * recurrent, a step at a time: `3 head_dim v_dim` multiply-adds a step, one after the other;
//! * chunked, 32 steps at a time. Within a chunk that begins with `M`, step `t` adds `u_t k_t^T` with
//!   `u_t = p_w v_t - p_e M k_t - p_e sum_{i<t} (k_t . k_i) u_i`: forward substitution with the
//!   products of the keys (the WY form of a product of Householder-like factors; Yang et al.
//!   2024, arXiv 2406.06484, section 3.2). All else is products of matrices.
//!
//! On a GPU sequences of 32 steps and more are chunked; on the CPU a memory that fits the fastest
//! cache is faster step by step, so only larger ones are.
//!
//! Without erasing a write is the sum of [linear attention](crate::ops::LinearAttention) and runs
//! as that.

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
mod plan;

use super::{FeatureMap, LinearAttention, Normalizer, Probabilities, add, gate};
use crate::{
    device::Capabilities,
    error::{Error, Result},
    tensor::{Storage, Tensor, check_same_device},
};
pub use plan::Form;

const OP: &str = "attention_memory";
const READ: &str = "read_memory";
const WRITE: &str = "write_memory";

/// How to write, erase and read a sequence.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AttentionMemory<'a> {
    /// Heads of a token.
    pub n_heads: usize,
    /// The memory before the first step; zeros if not given.
    pub memory: Option<&'a Tensor>,
    /// `p_r`, 1 if not given.
    pub p_read: Option<&'a Probabilities>,
    /// `p_w`, 1 if not given.
    pub p_write: Option<&'a Probabilities>,
    /// `p_e`, 0 if not given.
    pub p_erase: Option<&'a Probabilities>,
    /// How it is computed; chosen from the sizes if not given.
    pub form: Option<Form>,
}

impl Default for AttentionMemory<'_> {
    /// One head.
    fn default() -> Self {
        Self { n_heads: 1, memory: None, p_read: None, p_write: None, p_erase: None, form: None }
    }
}

impl<'a> AttentionMemory<'a> {
    /// Nothing but the heads: everything is written, nothing erased.
    pub fn new(n_heads: usize) -> Self {
        Self { n_heads, ..Self::default() }
    }

    /// Sets [`AttentionMemory::memory`].
    pub fn memory(mut self, memory: &'a Tensor) -> Self {
        self.memory = Some(memory);
        self
    }

    /// Sets [`AttentionMemory::p_read`].
    pub fn p_read(mut self, p: &'a Probabilities) -> Self {
        self.p_read = Some(p);
        self
    }

    /// Sets [`AttentionMemory::p_write`].
    pub fn p_write(mut self, p: &'a Probabilities) -> Self {
        self.p_write = Some(p);
        self
    }

    /// Sets [`AttentionMemory::p_erase`].
    pub fn p_erase(mut self, p: &'a Probabilities) -> Self {
        self.p_erase = Some(p);
        self
    }

    /// Sets [`AttentionMemory::form`].
    pub fn form(mut self, form: Form) -> Self {
        self.form = Some(form);
        self
    }
}

/// What was read, and the memory after the last step.
#[derive(Clone, Debug)]
pub struct Recall {
    /// `[batch, n, n_heads * v_dim]`.
    pub values: Tensor,
    /// `[batch, n_heads, v_dim, head_dim]`.
    pub memory: Tensor,
}

/// The sizes of one call, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub batch: usize,
    pub n: usize,
    pub n_heads: usize,
    pub head_dim: usize,
    pub v_dim: usize,
}

impl Problem {
    fn memory_shape(&self) -> [usize; 4] {
        [self.batch, self.n_heads, self.v_dim, self.head_dim]
    }

    /// Memories that there are.
    fn heads(&self) -> usize {
        self.batch * self.n_heads
    }

    /// Of queries, keys, values and a memory, if they are given.
    fn new(op: &'static str, n_heads: usize, keys: (&'static str, &Tensor), values: Option<&Tensor>) -> Result<Self> {
        let tokens = |name: &'static str, x: &Tensor| match *x.shape() {
            [batch, n, width] if n_heads > 0 && width > 0 && width % n_heads == 0 => Ok([batch, n, width / n_heads]),
            _ => Err(Error::Shape {
                op,
                name,
                found: x.shape().to_vec(),
                expected: format!("[batch, n, {n_heads} * dim], for {n_heads} heads"),
            }),
        };
        let [batch, n, head_dim] = tokens(keys.0, keys.1)?;
        let mut problem = Self { batch, n, n_heads, head_dim, v_dim: head_dim };
        if let Some(v) = values {
            let [v_batch, v_n, v_dim] = tokens("v", v)?;
            if [v_batch, v_n] != [batch, n] {
                return Err(Error::ShapeMismatch {
                    op,
                    left_name: keys.0,
                    left: keys.1.shape().to_vec(),
                    right_name: "v",
                    right: v.shape().to_vec(),
                    rule: "batch and length must be equal",
                });
            }
            problem.v_dim = v_dim;
        }
        Ok(problem)
    }

    fn check_memory(&self, op: &'static str, memory: &Tensor) -> Result<()> {
        if *memory.shape() == self.memory_shape() {
            return Ok(());
        }
        let [batch, n_heads, v_dim, head_dim] = self.memory_shape();
        Err(Error::Shape {
            op,
            name: "memory",
            found: memory.shape().to_vec(),
            expected: format!("[batch, n_heads, v_dim, head_dim] = [{batch}, {n_heads}, {v_dim}, {head_dim}]"),
        })
    }

    fn check_probabilities(&self, op: &'static str, name: &'static str, p: Option<&Probabilities>) -> Result<()> {
        match p {
            Some(p) if *p.shape() != [self.batch, self.n, self.n_heads] => Err(Error::Shape {
                op,
                name,
                found: p.shape().to_vec(),
                expected: format!("[batch, n, n_heads] = [{}, {}, {}]", self.batch, self.n, self.n_heads),
            }),
            _ => Ok(()),
        }
    }
}

/// `RD`: what every query reads from one memory, `[batch, n, n_heads * v_dim]`.
///
/// `memory [batch, n_heads, v_dim, head_dim]`, unit queries `q [batch, n, n_heads * head_dim]`,
/// `p_read [batch, n, n_heads]` (1 if not given).
///
/// # Errors
/// Shapes that do not fit; different devices; on a GPU, an operand larger than one binding.
pub fn read_memory(memory: &Tensor, q: &Tensor, p_read: Option<&Probabilities>) -> Result<Tensor> {
    let &[_, n_heads, v_dim, _] = memory.shape() else {
        return Err(Error::Shape {
            op: READ,
            name: "memory",
            found: memory.shape().to_vec(),
            expected: "[batch, n_heads, v_dim, head_dim]".into(),
        });
    };
    let problem = Problem { v_dim, ..Problem::new(READ, n_heads, ("q", q), None)? };
    problem.check_memory(READ, memory)?;
    problem.check_probabilities(READ, "p_read", p_read)?;
    check_same_device(READ, q, &[Some(memory), p_read.map(Probabilities::tensor)])?;
    let shape = vec![problem.batch, problem.n, problem.n_heads * v_dim];
    match q.storage() {
        Storage::Cpu(_) => {
            let y = cpu::read(&problem, memory.cpu(), q.cpu(), numbers(p_read));
            Ok(Tensor::from_cpu(shape, y))
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::read(gpu, &problem, memory, q, p_read, shape),
    }
}

/// `WR`, for every step in turn: the memory after the last one.
///
/// `memory [batch, n_heads, v_dim, head_dim]`, unit keys `k [batch, n, n_heads * head_dim]`,
/// `v [batch, n, n_heads * v_dim]`, `p_write` and `p_erase [batch, n, n_heads]` (1 and 0 if not
/// given).
///
/// # Errors
/// As [`attention_memory()`].
pub fn write_memory(
    memory: &Tensor,
    k: &Tensor,
    v: &Tensor,
    p_write: Option<&Probabilities>,
    p_erase: Option<&Probabilities>,
) -> Result<Tensor> {
    let n_heads = memory.shape().get(1).copied().unwrap_or(1);
    let options = AttentionMemory { n_heads, memory: Some(memory), p_write, p_erase, ..Default::default() };
    let problem = check(WRITE, None, k, v, &options)?;
    if p_erase.is_none() {
        let v = p_write.map_or_else(|| Ok(v.clone()), |p| gate(v, p))?;
        return add(memory, &sum(problem.n_heads, k, &v)?, 1.0);
    }
    run(&problem, None, k, v, &options).map(|(_, memory)| memory)
}

/// `sum_j v_j k_j^T`, `[batch, n_heads, v_dim, head_dim]`: what linear attention keeps of the
/// identity features of `v`.
pub(crate) fn sum(n_heads: usize, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let attention = LinearAttention { n_heads, features: FeatureMap::identity(1.0), normalizer: Normalizer::None };
    Ok(attention.write(v, k, None)?.sums)
}

/// Writes, erases and reads at every step of a sequence; a step reads what it wrote itself. The
/// paper's bidirectional attention without the future, and with erasing the gated delta rule.
///
/// Unit queries and keys `[batch, n, n_heads * head_dim]`, `v [batch, n, n_heads * v_dim]`. With
/// `p_erase = p_write` the square of a row of the memory grows by at most `p / (2 - p)` times the
/// square of the value in a step, whatever the keys: after `n` steps a row is at most `sqrt(n)`
/// times the largest value long, and with keys that come again it stays near the values. Without
/// erasing it can grow with the number of steps.
///
/// # Errors
/// Shapes that do not fit each other, the heads or the memory; different devices; on a GPU, heads
/// wider than [`MAX_HEAD_DIM`] or an operand larger than one binding.
pub fn attention_memory(q: &Tensor, k: &Tensor, v: &Tensor, options: &AttentionMemory<'_>) -> Result<Recall> {
    let problem = check(OP, Some(q), k, v, options)?;
    let (values, memory) = run(&problem, Some(q), k, v, options)?;
    Ok(Recall { values, memory })
}

/// The widest heads on a GPU.
pub const MAX_HEAD_DIM: usize = 1024;

fn check(
    op: &'static str,
    q: Option<&Tensor>,
    k: &Tensor,
    v: &Tensor,
    options: &AttentionMemory<'_>,
) -> Result<Problem> {
    let problem = Problem::new(op, options.n_heads, ("k", k), Some(v))?;
    if let Some(q) = q
        && q.shape() != k.shape()
    {
        return Err(Error::ShapeMismatch {
            op,
            left_name: "q",
            left: q.shape().to_vec(),
            right_name: "k",
            right: k.shape().to_vec(),
            rule: "every step has a query and a key, of equal width",
        });
    }
    if let Some(memory) = options.memory {
        problem.check_memory(op, memory)?;
    }
    for (name, p) in [("p_read", options.p_read), ("p_write", options.p_write), ("p_erase", options.p_erase)] {
        problem.check_probabilities(op, name, p)?;
    }
    let p = [options.p_read, options.p_write, options.p_erase].map(|p| p.map(Probabilities::tensor));
    check_same_device(op, k, &[q, Some(v), options.memory, p[0], p[1], p[2]])?;
    Ok(problem)
}

/// Probabilities that are known to be on the CPU.
fn numbers(p: Option<&Probabilities>) -> Option<&[f32]> {
    p.map(|p| p.tensor().cpu())
}

/// What is read (nothing without queries) and the memory.
fn run(
    problem: &Problem,
    q: Option<&Tensor>,
    k: &Tensor,
    v: &Tensor,
    options: &AttentionMemory<'_>,
) -> Result<(Tensor, Tensor)> {
    let memory_shape = problem.memory_shape().to_vec();
    let values_shape = match q {
        Some(_) => vec![problem.batch, problem.n, problem.n_heads * problem.v_dim],
        None => vec![0],
    };
    match k.storage() {
        Storage::Cpu(_) => {
            let form = plan::plan(problem, options.form, &Capabilities::cpu())?.form;
            let inputs = cpu::Inputs {
                problem,
                q: q.map(Tensor::cpu),
                k: k.cpu(),
                v: v.cpu(),
                memory: options.memory.map(Tensor::cpu),
                p_read: numbers(options.p_read),
                p_write: numbers(options.p_write),
                p_erase: numbers(options.p_erase),
            };
            let (values, memory) = cpu::run(&inputs, form);
            Ok((Tensor::from_cpu(values_shape, values), Tensor::from_cpu(memory_shape, memory)))
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::run(gpu, problem, q, k, v, options, values_shape),
    }
}
