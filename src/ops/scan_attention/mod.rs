//! Softmax attention read in blocks of keys: memory grows with the length, not with its
//! square. Source: BSA-TNP, arXiv 2506.09163, section 3; the running softmax is that of
//! arXiv 1805.02867 and FlashAttention, arXiv 2205.14135.

mod bias;
mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
mod plan;
#[cfg(feature = "gpu")]
mod text;

pub use super::softmax::{Attention, MASKED};
pub use bias::{Bias, BiasFn, BiasTerm, CustomBias, Distance, Kernel, MAX_COORDINATES};

use crate::{
    error::{Error, Result},
    tensor::{Mask, Storage, Tensor, check_same_device},
};

const OP: &str = "scan_attention";

/// The largest `head_dim` of queries, keys or values.
pub const MAX_HEAD_DIM: usize = 256;

/// Options of [`scan_attention`]; the default is plain softmax attention.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScanAttention<'a> {
    /// The number of heads; needed for the projected layout, where the shape does not say.
    pub n_heads: Option<usize>,
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
    /// Strides in elements of (batch, head, row) for a tensor of this layout.
    pub fn strides(&self, length: usize, dim: usize) -> [usize; 3] {
        if self.head_major {
            [self.n_heads * length * dim, length * dim, dim]
        } else {
            [length * self.n_heads * dim, dim, self.n_heads * dim]
        }
    }

    /// Shape of the values that are read.
    pub fn out_shape(&self) -> Vec<usize> {
        if self.head_major {
            vec![self.batch, self.n_heads, self.n_queries, self.v_dim]
        } else {
            vec![self.batch, self.n_queries, self.n_heads * self.v_dim]
        }
    }

    /// Shape of the log-sum-exp.
    pub fn lse_shape(&self) -> Vec<usize> {
        if self.head_major {
            vec![self.batch, self.n_heads, self.n_queries]
        } else {
            vec![self.batch, self.n_queries, self.n_heads]
        }
    }

    pub fn new(q: &Tensor, k: &Tensor, v: &Tensor, options: &ScanAttention<'_>) -> Result<Self> {
        let mismatch = |left_name, left: &Tensor, right_name, right: &Tensor, rule| Error::ShapeMismatch {
            op: OP,
            left_name,
            left: left.shape().to_vec(),
            right_name,
            right: right.shape().to_vec(),
            rule,
        };
        let rank = q.shape().len();
        for (name, tensor) in [("q", q), ("k", k), ("v", v)] {
            let allowed_rank = matches!(tensor.shape().len(), 3 | 4);
            if !allowed_rank || tensor.shape().contains(&0) {
                return Err(Error::Shape {
                    op: OP,
                    name,
                    found: tensor.shape().to_vec(),
                    expected: "[batch, n_heads, length, head_dim] or [batch, length, n_heads * head_dim], \
                               nothing empty"
                        .into(),
                });
            }
        }
        for (name, tensor) in [("k", k), ("v", v)] {
            if tensor.shape().len() != rank {
                return Err(mismatch("q", q, name, tensor, "q, k and v must have the same rank"));
            }
            if tensor.shape()[0] != q.shape()[0] {
                return Err(mismatch("q", q, name, tensor, "the batch (dimension 0) must agree"));
            }
        }
        let head_major = rank == 4;
        let n_heads = match (head_major, options.n_heads) {
            (true, None) => q.shape()[1],
            (true, Some(n)) if n == q.shape()[1] => n,
            (false, Some(n)) if n > 0 => n,
            (_, found) => {
                return Err(Error::Argument {
                    op: OP,
                    name: "n_heads",
                    found: format!("{found:?}"),
                    allowed: if head_major {
                        format!("{} or None for q of shape {:?}", q.shape()[1], q.shape())
                    } else {
                        "a positive number for the layout [batch, length, n_heads * head_dim]".into()
                    },
                });
            }
        };
        if head_major && (k.shape()[1] != n_heads || v.shape()[1] != n_heads) {
            let (name, other) = if k.shape()[1] != n_heads { ("k", k) } else { ("v", v) };
            return Err(mismatch("q", q, name, other, "the heads (dimension 1) must agree"));
        }
        let length_axis = rank - 2;
        if k.shape()[length_axis] != v.shape()[length_axis] {
            return Err(mismatch("k", k, "v", v, "keys and values must have the same length"));
        }
        let width = |tensor: &Tensor| tensor.shape()[rank - 1];
        if width(q) != width(k) {
            return Err(mismatch("q", q, "k", k, "queries and keys must have the same width (last dimension)"));
        }
        if !head_major && (width(q) % n_heads != 0 || width(v) % n_heads != 0) {
            let (name, tensor) = if width(q) % n_heads != 0 { ("q", q) } else { ("v", v) };
            return Err(Error::Shape {
                op: OP,
                name,
                found: tensor.shape().to_vec(),
                expected: format!("a last dimension that is a multiple of n_heads = {n_heads}"),
            });
        }
        let per_head = |tensor: &Tensor| if head_major { width(tensor) } else { width(tensor) / n_heads };
        let (head_dim, v_dim) = (per_head(q), per_head(v));
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
        let mut problem = Self {
            batch: q.shape()[0],
            n_heads,
            n_queries: q.shape()[length_axis],
            n_keys: k.shape()[length_axis],
            head_dim,
            v_dim,
            head_major,
            scale,
            n_columns: 0,
            n_basis: 0,
            has_matrix: false,
            n_operands: 5,
            n_splits: options.n_splits,
        };
        if let Some(mask) = options.key_mask {
            problem.n_operands += 1;
            let expected = [problem.batch, problem.n_keys];
            if mask.shape() != expected {
                return Err(Error::Shape {
                    op: OP,
                    name: "key_mask",
                    found: mask.shape().to_vec(),
                    expected: format!("{expected:?} ([batch, n_keys])"),
                });
            }
        }
        if let Some(bias) = &options.bias {
            problem.n_columns = bias.check(problem.batch, n_heads, problem.n_queries, problem.n_keys)?;
            problem.n_basis = bias.terms.iter().map(|term| term.n_basis(n_heads).max(1)).sum();
            problem.has_matrix = bias.matrix.is_some();
            problem.n_operands += 2 * usize::from(!bias.terms.is_empty()) + usize::from(problem.has_matrix);
        }
        if let Some(n_splits) = options.n_splits
            && (n_splits == 0 || n_splits > problem.n_keys)
        {
            return Err(Error::Argument {
                op: OP,
                name: "n_splits",
                found: n_splits.to_string(),
                allowed: format!("1 to n_keys = {}", problem.n_keys),
            });
        }
        Ok(problem)
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
/// Two layouts: `q [batch, n_heads, n_queries, head_dim]`, `k [.., n_keys, head_dim]`,
/// `v [.., n_keys, v_dim]`; or as a projection leaves them, `q [batch, n_queries,
/// n_heads * head_dim]` and so on, with [`ScanAttention::n_heads`] given. The result has the
/// layout of `q`. `head_dim` and `v_dim` may differ and go up to [`MAX_HEAD_DIM`].
///
/// Nothing of size `n_queries x n_keys` is ever stored. A row without a valid key reads as
/// zeros. This is the textbook softmax: upstream's `scan_attention` lets rows whose logits
/// are all far below zero decay to zero, because its running maximum starts at `-1e-6`;
/// such rows differ here (they are a weighted mean of `v`, as everywhere else).
///
/// # Errors
/// Shapes that do not fit, a `head_dim` over the limit, tensors on different devices, bias
/// parameters that do not fit the heads, a custom bias that does not compile.
pub fn scan_attention(q: &Tensor, k: &Tensor, v: &Tensor, options: &ScanAttention<'_>) -> Result<Attention> {
    let problem = Problem::new(q, k, v, options)?;
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
            let (values, log_sum_exp) = cpu::scan_attention(&problem, &inputs);
            Ok(Attention {
                values: Tensor::from_cpu(problem.out_shape(), values),
                log_sum_exp: Tensor::from_cpu(problem.lse_shape(), log_sum_exp),
            })
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::scan_attention(gpu, &problem, [q, k, v], mask, &bias),
    }
}
