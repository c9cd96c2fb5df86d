//! Linear attention: a memory whose size does not depend on how much was written.
//!
//! `write` keeps `sum_j phi(k_j) v_j^T`, with `sum_j phi(k_j)` beside it where the normaliser
//! needs it, and `read` returns `phi(q)` times that. With random features this is the Performer
//! (FAVOR+, arXiv 2009.14794); with learned ones, deep kernel attention (arXiv 2411.12502).

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
mod plan;

use serde::{Deserialize, Serialize};

use super::{add, feature_map::FeatureMap};
use crate::{
    error::{Error, Result},
    tensor::{Mask, Storage, Tensor, check_same_device},
};

const WRITE: &str = "LinearAttention::write";
const READ: &str = "LinearAttention::read";
const MERGE: &str = "LinearState::merge";

/// What a read is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Normalizer {
    /// Nothing.
    None,
    /// The number of keys that were written, of each batch element: deep kernel attention with
    /// a mask. No keys read as zeros.
    KeyCount,
    /// `phi(q) . sum_j phi(k_j)`, but no less than `floor`: the Performer. No keys read as
    /// zeros, and so do softmax features of keys or queries so long that the sum is far below
    /// the floor, as in the papers' own code. Features that may be negative (gelu, elu) can
    /// bring the sum below the floor, and then what is read is large.
    FeatureSum {
        /// The least divisor, above zero; the papers' is 1e-6.
        floor: f32,
    },
}

/// How to write and read: the heads, the features and the normaliser.
///
/// Tensors are either projected tokens `[batch, n, n_heads * dim]` or head-major
/// `[batch, n_heads, n, dim]`, as in [`scan_attention`](crate::ops::scan_attention()).
#[derive(Clone, Debug)]
pub struct LinearAttention {
    /// Heads of projected tokens; of head-major tensors it must agree with their shape.
    pub n_heads: usize,
    /// From queries and keys to features.
    pub features: FeatureMap,
    /// What a read is divided by.
    pub normalizer: Normalizer,
}

/// What was written: plain data of constant size.
#[derive(Clone, Debug)]
pub struct LinearState {
    /// `sum_j phi(k_j) v_j^T`, `[batch, n_heads, n_features, width]`. With
    /// [`Normalizer::FeatureSum`] the width is `v_dim + 1` and the last column `sum_j phi(k_j)`,
    /// else `v_dim`.
    pub sums: Tensor,
    /// The width of a value: of the columns of `sums`, those that are not sums of features.
    pub v_dim: usize,
    /// How many keys there are in each batch element.
    pub n_keys: Vec<u64>,
}

/// The sizes of one call, checked. Heads are in `inner` (projected) or in `outer` (head-major).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Problem {
    pub batch: usize,
    pub n_heads: usize,
    pub outer: usize,
    pub inner: usize,
    pub n: usize,
    pub head_dim: usize,
    pub n_features: usize,
    /// Whether the features are made with a projection.
    pub is_projected: bool,
    pub v_dim: usize,
    pub width: usize,
    pub normalizer: Normalizer,
}

impl Problem {
    /// Outer indices of a batch element.
    fn outer_per_batch(&self) -> usize {
        self.n_heads / self.inner
    }

    fn state_shape(&self) -> [usize; 4] {
        [self.batch, self.n_heads, self.n_features, self.width]
    }

    /// Multiply-adds, about.
    #[cfg(feature = "gpu")]
    fn cost_of_row(&self) -> f64 {
        2.0 * (self.n_features * self.width) as f64
    }
}

/// `[batch, n_heads, n, dim]` of either layout, and whether it is head-major.
fn layout(op: &'static str, name: &'static str, x: &Tensor, n_heads: usize) -> Result<([usize; 4], bool)> {
    match *x.shape() {
        [batch, n, width] if n_heads > 0 && width > 0 && width % n_heads == 0 => {
            Ok(([batch, n_heads, n, width / n_heads], false))
        }
        [batch, heads, n, dim] if heads == n_heads && heads > 0 && dim > 0 => Ok(([batch, heads, n, dim], true)),
        _ => Err(Error::Shape {
            op,
            name,
            found: x.shape().to_vec(),
            expected: format!("[batch, n, {n_heads} * dim] or [batch, {n_heads}, n, dim], for {n_heads} heads"),
        }),
    }
}

impl LinearAttention {
    /// FAVOR+ for a projection `[n_features, head_dim]`: softmax features, the papers' floor.
    pub fn favor(n_heads: usize, projection: Tensor) -> Self {
        let normalizer = Normalizer::FeatureSum { floor: 1e-6 };
        Self { n_heads, features: FeatureMap::softmax(projection), normalizer }
    }

    fn problem(&self, op: &'static str, x: [usize; 4], head_major: bool, v_dim: usize) -> Result<Problem> {
        let [batch, n_heads, n, head_dim] = x;
        if let Normalizer::FeatureSum { floor } = self.normalizer
            && !(floor > 0.0 && floor.is_finite())
        {
            return Err(Error::Argument {
                op,
                name: "floor",
                found: floor.to_string(),
                allowed: "a number above zero".into(),
            });
        }
        let (outer, inner) = if head_major { (batch * n_heads, 1) } else { (batch, n_heads) };
        let n_features = self.features.n_features(op, head_dim)?;
        let width = v_dim + usize::from(matches!(self.normalizer, Normalizer::FeatureSum { .. }));
        let (normalizer, is_projected) = (self.normalizer, self.features.projection.is_some());
        Ok(Problem { batch, n_heads, outer, inner, n, head_dim, n_features, is_projected, v_dim, width, normalizer })
    }

    /// Writes keys and their values, of one layout; masked keys, `mask [batch, n]`, are not read
    /// at all. To write more, [`LinearState::merge`] what two writes returned.
    ///
    /// Features are computed block by block and never stored. Products of a few dozen keys are
    /// added in f32, those sums in f64 on the CPU and as a tree on a GPU, always in the same
    /// order: a long sum keeps its digits, and the same input gives the same bits. A NaN in a
    /// key or value that is not masked makes what is read NaN.
    ///
    /// # Errors
    /// Shapes that fit neither each other nor the heads and features; different devices; on a
    /// GPU, an operand larger than one binding.
    pub fn write(&self, k: &Tensor, v: &Tensor, mask: Option<&Mask>) -> Result<LinearState> {
        let (k_sizes, head_major) = layout(WRITE, "k", k, self.n_heads)?;
        let (v_sizes, v_head_major) = layout(WRITE, "v", v, self.n_heads)?;
        if k_sizes[..3] != v_sizes[..3] || head_major != v_head_major {
            return Err(Error::ShapeMismatch {
                op: WRITE,
                left_name: "k",
                left: k.shape().to_vec(),
                right_name: "v",
                right: v.shape().to_vec(),
                rule: "all sizes but the width of a head must be equal",
            });
        }
        let problem = self.problem(WRITE, k_sizes, head_major, v_sizes[3])?;
        if let Some(mask) = mask
            && *mask.shape() != [problem.batch, problem.n]
        {
            return Err(Error::Shape {
                op: WRITE,
                name: "mask",
                found: mask.shape().to_vec(),
                expected: format!("[batch, n] = [{}, {}]", problem.batch, problem.n),
            });
        }
        check_same_device(WRITE, k, &[Some(v), mask.map(Mask::tensor), self.features.projection.as_ref()])?;
        let n_keys = match mask {
            Some(mask) if problem.n > 0 => mask.counts().to_vec(),
            _ => vec![problem.n as u64; problem.batch],
        };
        let keep = mask.map(Mask::tensor);
        let sums = match k.storage() {
            Storage::Cpu(_) => {
                let sums = cpu::write(&problem, &self.features, k.cpu(), v.cpu(), keep.map(Tensor::cpu));
                Tensor::from_cpu(problem.state_shape().to_vec(), sums)
            }
            #[cfg(feature = "gpu")]
            Storage::Gpu(gpu, _) => gpu::write(gpu, &problem, &self.features, k, v, keep)?,
        };
        Ok(LinearState { sums, v_dim: v_sizes[3], n_keys })
    }

    /// Reads with queries of either layout: `phi(q)` times the sums, divided as the normaliser
    /// says, in the layout of the queries.
    ///
    /// # Errors
    /// A state of another batch, number of heads or features, or one that lacks the sums of the
    /// normaliser; different devices; on a GPU, an operand larger than one binding. That the
    /// state was written with the same feature map cannot be checked.
    pub fn read(&self, q: &Tensor, state: &LinearState) -> Result<Tensor> {
        let (sizes, head_major) = layout(READ, "q", q, self.n_heads)?;
        let v_dim = state.v_dim;
        let problem = self.problem(READ, sizes, head_major, v_dim)?;
        if *state.sums.shape() != problem.state_shape() || v_dim == 0 || state.n_keys.len() != problem.batch {
            let [batch, n_heads, n_features, width] = problem.state_shape();
            let normalizer = self.normalizer;
            return Err(Error::Shape {
                op: READ,
                name: "state",
                found: state.sums.shape().to_vec(),
                expected: format!(
                    "[{batch}, {n_heads}, {n_features}, {width}]: batch, heads and features of the queries, \
                     values of width {v_dim}, and what {normalizer:?} needs"
                ),
            });
        }
        check_same_device(READ, q, &[Some(&state.sums), self.features.projection.as_ref()])?;
        let mut shape = q.shape().to_vec();
        shape.pop();
        shape.push(if head_major { v_dim } else { problem.n_heads * v_dim });
        match q.storage() {
            Storage::Cpu(_) => {
                let y = cpu::read(&problem, &self.features, q.cpu(), state.sums.cpu(), &state.n_keys);
                Ok(Tensor::from_cpu(shape, y))
            }
            #[cfg(feature = "gpu")]
            Storage::Gpu(gpu, _) => gpu::read(gpu, &problem, &self.features, q, state, shape),
        }
    }
}

impl LinearState {
    /// What writing both sets of keys, with one feature map, would have kept. Commutative to the
    /// bit, associative to rounding.
    ///
    /// Sums are f32: what is merged should not be millions of times smaller than what it is
    /// merged with, or it is lost in rounding. Collect small writes before they join a large state.
    ///
    /// # Errors
    /// States of different shapes or on different devices.
    pub fn merge(&self, other: &Self) -> Result<Self> {
        if self.sums.shape() != other.sums.shape()
            || self.v_dim != other.v_dim
            || self.n_keys.len() != other.n_keys.len()
        {
            return Err(Error::ShapeMismatch {
                op: MERGE,
                left_name: "one state",
                left: self.sums.shape().to_vec(),
                right_name: "the other",
                right: other.sums.shape().to_vec(),
                rule: "both must be of the same batch, heads, features and width",
            });
        }
        check_same_device(MERGE, &self.sums, &[Some(&other.sums)])?;
        let n_keys = self.n_keys.iter().zip(&other.n_keys).map(|(a, b)| a.saturating_add(*b)).collect();
        Ok(Self { sums: add(&self.sums, &other.sums, 1.0)?, v_dim: self.v_dim, n_keys })
    }
}
