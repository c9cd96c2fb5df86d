//! The options of a call, its sizes, and its numbers on the CPU.

use super::{
    bias::{Bias, BiasTerm},
    strides::BiasStrides,
};
use crate::{
    error::{Error, Result, check_argument, check_limit},
    ops::layout::{Layout, Sizes, check_mask, check_queries},
    tensor::{Mask, Numbers, Tensor},
};

pub(super) const OP: &str = "scan_attention";

/// Threads along the queries of a workgroup, and along keys and columns of v where a text has no more;
/// each makes 4 x 4 numbers.
pub(crate) const SIDE: usize = 8;

/// Queries, keys and columns of v that a workgroup takes at a time.
pub(crate) const TILE: usize = 4 * SIDE;

/// Vectors of bias parameters that a uniform of 16 KiB holds beside the sizes of a launch. More of
/// them are in a buffer of their own.
pub(crate) const MAX_UNIFORM_VECTORS: usize = 1000;

/// Vectors of coordinates and the like, of four queries, that workgroup memory has room for.
pub(super) const MAX_PLACES: usize = 16;

/// The largest `head_dim` of queries, keys or values.
pub const MAX_HEAD_DIM: usize = 256;

/// Options of [`scan_attention`](super::scan_attention()); the default is plain softmax attention, head-major.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::{Layout, ScanAttention, scan_attention}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// // Two heads side by side, of one number each; logits of 0 read the mean.
/// let k = Tensor::new(&Device::cpu(), &[1, 2, 2], &[1.0, 10.0, 3.0, 30.0])?;
/// let options = ScanAttention::new(Layout::Projected { n_heads: 2 }).scale(0.0).n_splits(2);
/// let read = scan_attention(&k, &k, &k, &options)?.values.read()?;
/// assert!(read.iter().zip([2.0, 20.0, 2.0, 20.0]).all(|(a, b)| (a - b).abs() < 1e-5));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ScanAttention<'a> {
    /// How heads lie in `q`, `k`, `v` and the result.
    pub layout: Layout,
    /// What `q . k` is multiplied by; `1 / sqrt(head_dim)` if not given.
    pub scale: Option<f32>,
    /// Which keys exist, `[batch, n_keys]`; all if not given.
    pub key_mask: Option<&'a Mask>,
    /// What is added to the scaled logits.
    pub bias: Option<Bias<'a>>,
    /// Into how many parts the keys are split, each with a softmax of its own, merged
    /// exactly afterwards. Chosen by the problem and the device if not given. The CPU splits at
    /// whole blocks of keys, so there may be fewer.
    pub n_splits: Option<usize>,
}

impl<'a> ScanAttention<'a> {
    /// Plain softmax attention.
    pub fn new(layout: Layout) -> Self {
        Self { layout, ..Self::default() }
    }

    /// Sets [`ScanAttention::scale`].
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = Some(scale);
        self
    }

    /// Sets [`ScanAttention::key_mask`].
    pub fn key_mask(mut self, mask: &'a Mask) -> Self {
        self.key_mask = Some(mask);
        self
    }

    /// Sets [`ScanAttention::bias`].
    pub fn bias(mut self, bias: Bias<'a>) -> Self {
        self.bias = Some(bias);
        self
    }

    /// Sets [`ScanAttention::n_splits`].
    pub fn n_splits(mut self, n_splits: usize) -> Self {
        self.n_splits = Some(n_splits);
        self
    }
}

/// Sizes and layout of one call, checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Problem {
    pub batch: usize,
    pub n_heads: usize,
    /// Heads of queries that share a head of keys and values.
    pub kv_group: usize,
    pub n_queries: usize,
    pub n_keys: usize,
    pub head_dim: usize,
    pub v_dim: usize,
    /// `[batch, n_heads, length, dim]` if true, `[batch, length, n_heads * dim]` if not.
    pub head_major: bool,
    pub scale: f32,
    /// Columns of the coordinates; 0 without bias terms.
    pub n_columns: usize,
    /// Basis functions of all bias terms; one for a term of the user's.
    pub n_basis: usize,
    /// Loop iterations of all bias terms for one query and one key on a GPU, no fewer.
    pub iterations: usize,
    /// Floating-point operations of all bias terms for one query and one key, roughly.
    pub operations: usize,
    /// Whether a term takes distances on a sphere, which need many registers on a GPU.
    pub on_sphere: bool,
    /// Whether the bias has a matrix.
    pub has_matrix: bool,
    /// Where the numbers of the bias are.
    pub bias: BiasStrides,
    /// Tensors that are read or written.
    pub n_operands: usize,
    /// Into how many parts the caller wishes the keys to be split.
    pub n_splits: Option<usize>,
}

impl Problem {
    /// The sizes of a tensor of this layout.
    fn sizes(&self, n: usize, dim: usize) -> (Layout, Sizes) {
        let Self { batch, n_heads, head_major, .. } = *self;
        let layout = if head_major { Layout::HeadMajor } else { Layout::Projected { n_heads } };
        (layout, Sizes { batch, n_heads, n, dim })
    }

    /// Strides in elements of (batch, head, row) for queries, and for what they read.
    pub fn strides(&self, length: usize, dim: usize) -> [usize; 3] {
        let (layout, sizes) = self.sizes(length, dim);
        layout.strides(sizes)
    }

    /// Strides in elements of (batch, head, row) for keys or values of this width.
    pub fn kv_strides(&self, dim: usize) -> [usize; 3] {
        let (layout, sizes) = self.sizes(self.n_keys, dim);
        layout.strides(Sizes { n_heads: self.n_heads / self.kv_group, ..sizes })
    }

    /// Whether pairs have a bias, which may mask them; a mask of keys is none.
    pub fn is_biased(&self) -> bool {
        self.has_matrix || self.n_basis > 0
    }

    /// Whether there is no key to read, or nothing that reads.
    pub fn is_empty(&self) -> bool {
        self.batch * self.n_queries * self.n_keys == 0
    }

    /// Shape of the values that are read.
    pub fn out_shape(&self) -> Vec<usize> {
        let (layout, sizes) = self.sizes(self.n_queries, self.v_dim);
        layout.shape(sizes)
    }

    /// Shape of the log-sum-exp.
    pub fn lse_shape(&self) -> Vec<usize> {
        let (layout, sizes) = self.sizes(self.n_queries, 1);
        layout.row_shape(sizes)
    }

    pub fn new(q: &Tensor, k: &Tensor, v: &Tensor, options: &ScanAttention<'_>) -> Result<Self> {
        let queries = options.layout.sizes(OP, "q", q)?;
        let (keys, v_dim) = options.layout.keys_values(OP, k, v)?;
        check_queries(OP, (q, queries), (k, keys))?;
        let Sizes { batch, n_heads, n: n_queries, dim: head_dim } = queries;
        for (what, dim) in [("head_dim of scan_attention", head_dim), ("the width of values of scan_attention", v_dim)]
        {
            check_limit(what, dim as u64, MAX_HEAD_DIM as u64)?;
        }
        let scale = options.scale.unwrap_or(1.0 / (head_dim as f32).sqrt());
        if !scale.is_finite() {
            return Err(Error::NonFinite { name: "scale".into(), index: 0, value: scale });
        }
        check_mask(OP, options.key_mask, batch, keys.n)?;
        let (mut n_columns, mut n_basis, mut has_matrix) = (0, 0, false);
        let (mut iterations, mut operations) = (0usize, 0usize);
        let mut on_sphere = false;
        let mut strides = BiasStrides::default();
        let mut n_operands = 5 + usize::from(options.key_mask.is_some());
        if let Some(bias) = &options.bias {
            (n_columns, strides) = bias.check(batch, n_heads, n_queries, keys.n)?;
            n_basis = bias.terms.iter().map(|term| term.n_basis(n_heads).max(1)).sum();
            for term in bias.terms {
                let (more_iterations, more_operations) = term.work(n_heads)?;
                iterations = iterations.saturating_add(more_iterations);
                operations = operations.saturating_add(more_operations);
            }
            on_sphere = bias.terms.iter().any(BiasTerm::on_sphere);
            has_matrix = bias.matrix.is_some();
            let n_vectors: usize = bias.terms.iter().map(|term| term.n_vectors(n_heads)).sum();
            n_operands += 2 * usize::from(!bias.terms.is_empty()) + usize::from(has_matrix);
            n_operands += usize::from(n_vectors > MAX_UNIFORM_VECTORS);
        }
        if let Some(n) = options.n_splits {
            let allowed = format_args!("1 to n_keys = {}", keys.n);
            check_argument(n > 0 && n <= keys.n.max(1), OP, "n_splits", n, allowed)?;
        }
        let head_major = options.layout.is_head_major();
        Ok(Self {
            batch,
            n_heads,
            kv_group: n_heads / keys.n_heads,
            n_queries,
            n_keys: keys.n,
            head_dim,
            v_dim,
            head_major,
            scale,
            n_columns,
            n_basis,
            iterations,
            operations,
            on_sphere,
            has_matrix,
            bias: strides,
            n_operands,
            n_splits: options.n_splits,
        })
    }
}

/// The numbers of one call on the CPU.
pub(crate) struct CpuInputs<'a> {
    pub q: &'a [f32],
    pub k: Numbers,
    pub v: Numbers,
    /// `[batch, n_keys]`, zero where the key does not exist.
    pub key_mask: Option<&'a [f32]>,
    /// `[batch, n_queries, n_columns]`, see [`BiasStrides`].
    pub q_coords: &'a [f32],
    /// `[batch, n_keys, n_columns]`.
    pub k_coords: &'a [f32],
    pub terms: &'a [BiasTerm],
    /// `[batch, n_heads, n_queries, n_keys]`.
    pub matrix: Option<&'a [f32]>,
    pub n_splits: Option<usize>,
}
