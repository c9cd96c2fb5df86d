//! How to write and read, what is written to, and the sizes of a call.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Result, check_argument, check_limit, check_shape},
    ops::{
        feature_map::{FeatureKind, FeatureMap},
        layout::{Layout, Sizes},
        scan_attention::MAX_HEAD_DIM,
    },
    tensor::{Tensor, check_size},
};

pub(super) const OP: &str = "linear_attention";

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
    /// `phi(q) . sum_j phi(k_j)`, but no less than `floor`: the papers' own Performer. No keys read
    /// as zeros, and *so do softmax features of keys or queries so long that the sum is far below
    /// the floor*, for which [`Normalizer::Stable`] is right. Features that may be negative (gelu, elu) can
    /// bring the sum below the floor, and then what is read is large.
    FeatureSum {
        /// The least divisor, [`f32::MIN_POSITIVE`] or more; the papers' is 1e-6.
        floor: f32,
    },
    /// `phi(q) . sum_j phi(k_j)` of softmax features, and of no others, all taken relative to the
    /// largest before any exponential: what is read is an average of the values however long
    /// queries and keys are, up to lengths of 1e14, beyond which the logarithms of features are those of what is
    /// masked. Only no keys read as zeros. The width of a head is then at most 255,
    /// that of its values 256.
    Stable,
}

impl Normalizer {
    /// That of FAVOR+: stable, unless heads are too wide for it.
    pub(crate) fn favor(head_dim: usize, v_dim: usize) -> Self {
        let is_wide = v_dim.max(head_dim + 1) > MAX_HEAD_DIM;
        if is_wide { Self::FeatureSum { floor: 1e-6 } } else { Self::Stable }
    }
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
    /// `sum_j phi(k_j) v_j^T`, `[batch, n_heads, n_features, width]`, of the heads of the keys. With
    /// [`Normalizer::FeatureSum`] the width is `v_dim + 1` and the last column `sum_j phi(k_j)`,
    /// else `v_dim`. With [`Normalizer::Stable`] the last of `v_dim + 1` columns is the natural
    /// logarithm of that sum, the others are divided by it, and unless the layout is
    /// [`Layout::HeadMajor`] the features come before the heads.
    pub sums: Tensor,
    /// The width of a value: of the columns of `sums`, those that are not sums of features.
    pub v_dim: usize,
    /// Whether the last column is a logarithm: [`Normalizer::Stable`].
    pub is_stable: bool,
    /// How many keys there are in each batch element.
    pub n_keys: Vec<u64>,
}

/// The sizes of one call, checked. Heads are in `inner` (projected) or in `outer` (head-major).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Problem {
    pub batch: usize,
    pub n_heads: usize,
    /// Heads of queries that read one head of the state.
    pub kv_group: usize,
    pub outer: usize,
    pub inner: usize,
    pub is_head_major: bool,
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
    pub fn outer_per_batch(&self) -> usize {
        self.n_heads / self.inner
    }

    /// Heads of keys, values and the state.
    pub fn kv_heads(&self) -> usize {
        self.n_heads / self.kv_group
    }

    /// Where a state has its heads. What is stable lies as attention reads and returns it.
    pub fn axis_of_heads(&self) -> usize {
        if self.is_stable() && !self.is_head_major { 2 } else { 1 }
    }

    pub fn state_shape(&self) -> [usize; 4] {
        let Self { batch, n_features, width, .. } = *self;
        let n_heads = self.kv_heads();
        match self.axis_of_heads() {
            2 => [batch, n_features, n_heads, width],
            _ => [batch, n_heads, n_features, width],
        }
    }

    pub fn is_stable(&self) -> bool {
        self.normalizer == Normalizer::Stable
    }
}

impl LinearAttention {
    /// Attention of these features.
    pub fn new(layout: Layout, features: FeatureMap, normalizer: Normalizer) -> Self {
        Self { layout, features, normalizer }
    }

    /// FAVOR+ for a projection `[n_features, head_dim]`: softmax features that do not vanish
    /// ([`Normalizer::Stable`]), or, if heads are wider than 255, the papers' own form
    /// (`FeatureSum { floor: 1e-6 }`).
    ///
    /// The width of values is not known here: `Stable` refuses those wider than 256, for which
    /// [`LinearAttention::normalizer`] is to be set.
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
        let head_dim = projection.shape().last().copied().unwrap_or(1);
        Self::new(layout, FeatureMap::softmax(projection), Normalizer::favor(head_dim, 1))
    }

    pub(super) fn problem(&self, op: &'static str, sizes: Sizes, v_dim: usize) -> Result<Problem> {
        if let Normalizer::FeatureSum { floor } = self.normalizer {
            // A device may take what is less for zero.
            let is_normal = floor > 0.0 && floor.is_normal();
            check_argument(is_normal, op, "floor", floor, format_args!("a number, {:e} or more", f32::MIN_POSITIVE))?;
        }
        if self.normalizer == Normalizer::Stable {
            let kind = self.features.kind;
            check_argument(
                kind == FeatureKind::Softmax,
                op,
                "features of Stable",
                format_args!("{kind:?}"),
                "Softmax",
            )?;
            let widest = v_dim.max(sizes.dim + 1);
            check_limit(
                "width of a head for Stable, with one number more for keys",
                widest as u64,
                MAX_HEAD_DIM as u64,
            )?;
        }
        let Sizes { batch, n_heads, n, dim: head_dim } = sizes;
        let is_head_major = self.layout.is_head_major();
        let (outer, inner) = if is_head_major { (batch * n_heads, 1) } else { (batch, n_heads) };
        let n_features = self.features.n_features(op, head_dim)?;
        let has_sums = matches!(self.normalizer, Normalizer::FeatureSum { .. } | Normalizer::Stable);
        let width = v_dim + usize::from(has_sums);
        let (normalizer, is_projected) = (self.normalizer, self.features.projection.is_some());
        let problem = Problem {
            batch,
            n_heads,
            kv_group: 1,
            outer,
            inner,
            is_head_major,
            n,
            head_dim,
            n_features,
            is_projected,
            v_dim,
            width,
            normalizer,
        };
        // Without tokens small tensors can ask for a large state.
        check_size(&problem.state_shape())?;
        Ok(problem)
    }

    pub(super) fn check_state(&self, op: &'static str, problem: &Problem, state: &LinearState) -> Result<()> {
        let (v_dim, shape, normalizer) = (problem.v_dim, problem.state_shape(), self.normalizer);
        let found = state.sums.shape();
        let fits = *found == shape
            && (state.v_dim, state.is_stable) == (v_dim, problem.is_stable())
            && v_dim > 0
            && state.n_keys.len() == problem.batch;
        let expected = format_args!(
            "{shape:?}: batch, heads and features as here, values of width {v_dim}, and what {normalizer:?} needs"
        );
        check_shape(fits, op, "state", found, expected)
    }
}
