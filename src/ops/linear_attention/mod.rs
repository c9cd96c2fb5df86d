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

use super::{
    add,
    feature_map::FeatureMap,
    layout::{Layout, Read, Sizes, check_mask},
};
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
#[non_exhaustive]
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

/// How to write and read: the layout, the features and the normaliser.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::{FeatureMap, Layout, LinearAttention, Normalizer}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::cpu();
/// // Features that somebody else computed; a read is a mean over the keys.
/// let memory = LinearAttention::new(Layout::HeadMajor, FeatureMap::identity(1.0), Normalizer::KeyCount);
/// let k = Tensor::new(&device, &[1, 1, 2, 1], &[1.0, 2.0])?;
/// let state = memory.write(None, &k, &k, None)?;
/// let state = memory.write(Some(&state), &k, &k, None)?;
/// assert_eq!(state.n_keys, [4]);
/// assert_eq!(memory.read(&k, &state)?.values.read()?, [2.5, 5.0]); // q times the mean of k v
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LinearAttention {
    /// How heads lie in queries, keys and values.
    pub layout: Layout,
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

impl LinearAttention {
    /// Attention of these features.
    pub fn new(layout: Layout, features: FeatureMap, normalizer: Normalizer) -> Self {
        Self { layout, features, normalizer }
    }

    /// FAVOR+ for a projection `[n_features, head_dim]`: softmax features, the papers' floor.
    ///
    /// ```
    /// use wgpu_attention::{Device, ops::{Layout, LinearAttention, ProjectionRows, random_features}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let projection = random_features(&Device::cpu(), 0, 128, 32, ProjectionRows::Orthogonal)?;
    /// let memory = LinearAttention::favor(Layout::Projected { n_heads: 4 }, projection);
    /// # Ok(())
    /// # }
    /// ```
    pub fn favor(layout: Layout, projection: Tensor) -> Self {
        Self::new(layout, FeatureMap::softmax(projection), Normalizer::FeatureSum { floor: 1e-6 })
    }

    fn problem(&self, op: &'static str, sizes: Sizes, v_dim: usize) -> Result<Problem> {
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
        let Sizes { batch, n_heads, n, dim: head_dim } = sizes;
        let (outer, inner) = if self.layout.is_head_major() { (batch * n_heads, 1) } else { (batch, n_heads) };
        let n_features = self.features.n_features(op, head_dim)?;
        let width = v_dim + usize::from(matches!(self.normalizer, Normalizer::FeatureSum { .. }));
        let (normalizer, is_projected) = (self.normalizer, self.features.projection.is_some());
        Ok(Problem { batch, n_heads, outer, inner, n, head_dim, n_features, is_projected, v_dim, width, normalizer })
    }

    fn check_state(&self, op: &'static str, problem: &Problem, state: &LinearState) -> Result<()> {
        let Problem { batch, v_dim, .. } = *problem;
        let fits = *state.sums.shape() == problem.state_shape() && state.v_dim == v_dim;
        if fits && v_dim > 0 && state.n_keys.len() == batch {
            return Ok(());
        }
        let [batch, n_heads, n_features, width] = problem.state_shape();
        let normalizer = self.normalizer;
        Err(Error::Shape {
            op,
            name: "state",
            found: state.sums.shape().to_vec(),
            expected: format!(
                "[{batch}, {n_heads}, {n_features}, {width}]: batch, heads and features as here, values of width \
                 {v_dim}, and what {normalizer:?} needs"
            ),
        })
    }

    /// Adds keys and their values to what was written before; without a state, begins one. Masked
    /// keys, `mask [batch, n]`, are not read at all. The state that is given stays as it is.
    ///
    /// Features are computed block by block and never stored. Products of a few dozen keys are
    /// added in f32, those sums in f64 on the CPU and as a tree on a GPU, always in the same
    /// order: a long sum keeps its digits, and the same input gives the same bits. A NaN in a
    /// key or value that is not masked makes what is read NaN. What a write adds to a state is
    /// [merged](LinearState::merge) with it.
    ///
    /// # Errors
    /// Shapes that fit neither each other nor the layout, the features and the state; different
    /// devices; on a GPU, an operand larger than one binding.
    ///
    /// ```
    /// use wgpu_attention::{Device, Mask, Tensor, ops::{FeatureMap, Layout, LinearAttention, Normalizer}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let device = Device::cpu();
    /// let memory = LinearAttention::new(Layout::HeadMajor, FeatureMap::identity(1.0), Normalizer::None);
    /// let k = Tensor::new(&device, &[1, 1, 2, 1], &[2.0, f32::NAN])?;
    /// let mask = Mask::new(&device, &[1, 2], &[true, false])?;
    /// assert_eq!(memory.write(None, &k, &k, Some(&mask))?.sums.read()?, [4.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn write(
        &self,
        state: Option<&LinearState>,
        k: &Tensor,
        v: &Tensor,
        mask: Option<&Mask>,
    ) -> Result<LinearState> {
        let (sizes, v_dim) = self.layout.keys_values(WRITE, k, v)?;
        let problem = self.problem(WRITE, sizes, v_dim)?;
        check_mask(WRITE, mask, problem.batch, problem.n)?;
        if let Some(state) = state {
            self.check_state(WRITE, &problem, state)?;
        }
        let keep = mask.map(Mask::tensor);
        let before = state.map(|state| &state.sums);
        check_same_device(WRITE, k, &[Some(v), keep, before, self.features.projection.as_ref()])?;
        if let Some(state) = state.filter(|_| problem.n == 0) {
            return Ok(state.clone());
        }
        let n_keys = match mask {
            Some(mask) if problem.n > 0 => mask.counts().to_vec(),
            _ => vec![problem.n as u64; problem.batch],
        };
        let sums = match k.storage() {
            Storage::Cpu(_) => {
                let sums = cpu::write(&problem, &self.features, k.cpu(), v.cpu(), keep.map(Tensor::cpu));
                Tensor::from_cpu(problem.state_shape().to_vec(), sums)
            }
            #[cfg(feature = "gpu")]
            Storage::Gpu(gpu, _) => gpu::write(gpu, &problem, &self.features, k, v, keep)?,
        };
        let written = LinearState { sums, v_dim, n_keys };
        match state {
            Some(state) => state.merge(&written),
            None => Ok(written),
        }
    }

    /// Reads with queries: `phi(q)` times the sums, divided as the normaliser says, in the layout
    /// of the queries. There is no log-sum-exp.
    ///
    /// # Errors
    /// A state of another batch, number of heads or features, or one that lacks the sums of the
    /// normaliser; different devices; on a GPU, an operand larger than one binding. That the
    /// state was written with the same feature map cannot be checked.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::{FeatureMap, Layout, LinearAttention, Normalizer}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let memory = LinearAttention::new(Layout::HeadMajor, FeatureMap::identity(1.0), Normalizer::None);
    /// let k = Tensor::new(&Device::cpu(), &[1, 1, 2, 1], &[1.0, 2.0])?;
    /// let read = memory.read(&k, &memory.write(None, &k, &k, None)?)?;
    /// assert_eq!(read.values.read()?, [5.0, 10.0]); // q times 1 * 1 + 2 * 2
    /// # Ok(())
    /// # }
    /// ```
    pub fn read(&self, q: &Tensor, state: &LinearState) -> Result<Read> {
        let sizes = self.layout.sizes(READ, "q", q)?;
        let v_dim = state.v_dim;
        let problem = self.problem(READ, sizes, v_dim)?;
        self.check_state(READ, &problem, state)?;
        check_same_device(READ, q, &[Some(&state.sums), self.features.projection.as_ref()])?;
        let shape = self.layout.shape(Sizes { dim: v_dim, ..sizes });
        let values = match q.storage() {
            Storage::Cpu(_) => {
                let y = cpu::read(&problem, &self.features, q.cpu(), state.sums.cpu(), &state.n_keys);
                Tensor::from_cpu(shape, y)
            }
            #[cfg(feature = "gpu")]
            Storage::Gpu(gpu, _) => gpu::read(gpu, &problem, &self.features, q, state, shape)?,
        };
        Ok(Read { values, log_sum_exp: None })
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
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::{FeatureMap, Layout, LinearAttention, Normalizer}};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let memory = LinearAttention::new(Layout::HeadMajor, FeatureMap::identity(1.0), Normalizer::None);
    /// let k = Tensor::new(&Device::cpu(), &[1, 1, 2, 1], &[1.0, 2.0])?;
    /// let state = memory.write(None, &k, &k, None)?;
    /// assert_eq!(state.merge(&state)?.sums.read()?, [10.0]);
    /// # Ok(())
    /// # }
    /// ```
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
