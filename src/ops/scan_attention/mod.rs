//! Softmax attention read in blocks of keys: memory grows with the length, not with its
//! square. Source: BSA-TNP, arXiv 2506.09163, section 3; the running softmax is that of
//! arXiv 1805.02867 and FlashAttention, arXiv 2205.14135.

mod bias;
mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
mod memory;
mod plan;
#[cfg(feature = "gpu")]
mod text;

pub use super::softmax::{Attention, MASKED};
/// What the files of this folder call it.
pub(crate) use bias::BiasKernel as Kernel;
pub use bias::{Bias, BiasFn, BiasKernel, BiasTerm, CustomBias, Distance, MAX_COORDINATES};
pub use memory::{Placed, ScanMemory, ScanState};

use super::layout::{Layout, Sizes, check_mask, check_queries};
use crate::{
    error::{Error, Result},
    tensor::{Mask, Storage, Tensor, check_same_device},
};

const OP: &str = "scan_attention";

/// The largest `head_dim` of queries, keys or values.
pub const MAX_HEAD_DIM: usize = 256;

/// Options of [`scan_attention`]; the default is plain softmax attention, head-major.
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
    /// Whether the bias has a matrix.
    pub has_matrix: bool,
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

    /// Strides in elements of (batch, head, row) for a tensor of this layout.
    pub fn strides(&self, length: usize, dim: usize) -> [usize; 3] {
        let (layout, sizes) = self.sizes(length, dim);
        layout.strides(sizes)
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
        for (name, tensor) in [("q", q), ("k", k), ("v", v)] {
            if tensor.is_empty() {
                let found = tensor.shape().to_vec();
                return Err(Error::Shape { op: OP, name, found, expected: "nothing empty".into() });
            }
        }
        check_queries(OP, (q, queries), (k, keys))?;
        let Sizes { batch, n_heads, n: n_queries, dim: head_dim } = queries;
        if head_dim.max(v_dim) > MAX_HEAD_DIM {
            return Err(Error::LimitExceeded {
                limit: "head_dim of scan_attention",
                requested: head_dim.max(v_dim) as u64,
                allowed: MAX_HEAD_DIM as u64,
            });
        }
        let scale = options.scale.unwrap_or(1.0 / (head_dim as f32).sqrt());
        if !scale.is_finite() {
            return Err(Error::NonFinite { name: "scale".into(), index: 0, value: scale });
        }
        check_mask(OP, options.key_mask, batch, keys.n)?;
        let (mut n_columns, mut n_basis, mut has_matrix) = (0, 0, false);
        let mut n_operands = 5 + usize::from(options.key_mask.is_some());
        if let Some(bias) = &options.bias {
            n_columns = bias.check(batch, n_heads, n_queries, keys.n)?;
            n_basis = bias.terms.iter().map(|term| term.n_basis(n_heads).max(1)).sum();
            has_matrix = bias.matrix.is_some();
            n_operands += 2 * usize::from(!bias.terms.is_empty()) + usize::from(has_matrix);
        }
        if let Some(n_splits) = options.n_splits
            && (n_splits == 0 || n_splits > keys.n)
        {
            return Err(Error::Argument {
                op: OP,
                name: "n_splits",
                found: n_splits.to_string(),
                allowed: format!("1 to n_keys = {}", keys.n),
            });
        }
        let head_major = options.layout.is_head_major();
        Ok(Self {
            batch,
            n_heads,
            n_queries,
            n_keys: keys.n,
            head_dim,
            v_dim,
            head_major,
            scale,
            n_columns,
            n_basis,
            has_matrix,
            n_operands,
            n_splits: options.n_splits,
        })
    }
}

/// The numbers of one call on the CPU.
pub(crate) struct CpuInputs<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    /// `[batch, n_keys]`, zero where the key does not exist.
    pub key_mask: Option<&'a [f32]>,
    /// `[batch, n_queries, n_columns]`.
    pub q_coords: &'a [f32],
    /// `[batch, n_keys, n_columns]`.
    pub k_coords: &'a [f32],
    pub terms: &'a [BiasTerm],
    /// `[batch, n_heads, n_queries, n_keys]`.
    pub matrix: Option<&'a [f32]>,
    pub n_splits: Option<usize>,
}

/// `softmax(scale q k^T + bias) v` for each batch element and head, over the keys that the
/// mask keeps.
///
/// `q [batch, n_heads, n_queries, head_dim]`, `k [.., n_keys, head_dim]` and `v [.., n_keys,
/// v_dim]`, or in the other [`Layout`]; the result has the layout of `q`. `head_dim` and `v_dim`
/// may differ and go up to [`MAX_HEAD_DIM`].
///
/// Nothing of size `n_queries x n_keys` is ever stored. A row without a valid key reads as
/// zeros. This is the textbook softmax: upstream's `scan_attention` lets rows whose logits
/// are all far below zero decay to zero, because its running maximum starts at `-1e-6`;
/// such rows differ here (they are a weighted mean of `v`, as everywhere else).
///
/// To keep keys and values and read them again and again, see [`ScanMemory`].
///
/// # Errors
/// Shapes that do not fit, a `head_dim` over the limit, tensors on different devices, bias
/// parameters that do not fit the heads, a custom bias that does not compile.
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
    check_same_device(OP, q, &[Some(k), Some(v), mask, bias.q_coords, bias.k_coords, bias.matrix])?;
    match q.storage() {
        Storage::Cpu(_) => {
            let inputs = CpuInputs {
                q: q.cpu(),
                k: k.cpu(),
                v: v.cpu(),
                key_mask: mask.map(Tensor::cpu),
                q_coords: bias.q_coords.map(Tensor::cpu).unwrap_or_default(),
                k_coords: bias.k_coords.map(Tensor::cpu).unwrap_or_default(),
                terms: bias.terms,
                matrix: bias.matrix.map(Tensor::cpu),
                n_splits: options.n_splits,
            };
            let (values, log_sum_exp) = cpu::scan_attention(problem, &inputs);
            Ok(Attention {
                values: Tensor::from_cpu(problem.out_shape(), values),
                log_sum_exp: Tensor::from_cpu(problem.lse_shape(), log_sum_exp),
            })
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::scan_attention(gpu, problem, [q, k, v], mask, &bias),
    }
}
