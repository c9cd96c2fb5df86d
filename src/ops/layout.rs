//! What the four memories share: how heads lie in tensors, and what a read returns.

use serde::{Deserialize, Serialize};

use super::Attention;
use crate::{
    error::{Error, Result, check_argument, check_shape, check_shapes},
    tensor::{Mask, Tensor},
};

/// How heads lie in queries, keys, values and what is read.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::{AttentionMemory, Layout}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::cpu();
/// // Two heads of one key with two numbers: head by head, and side by side.
/// let numbers = [1.0, 0.0, 0.0, 1.0];
/// let by_head = Tensor::new(&device, &[1, 2, 1, 2], &numbers)?;
/// let projected = Tensor::new(&device, &[1, 1, 4], &numbers)?;
/// let a = AttentionMemory::new(Layout::HeadMajor).write(None, &by_head, &by_head, None)?;
/// let b = AttentionMemory::new(Layout::Projected { n_heads: 2 }).write(None, &projected, &projected, None)?;
/// assert_eq!(a.memory.read()?, b.memory.read()?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Layout {
    /// `[batch, n_heads, n, dim]`.
    #[default]
    HeadMajor,
    /// `[batch, n, n_heads * dim]`: side by side, as a projection leaves them.
    Projected {
        /// The number of heads, which the shape does not say.
        n_heads: usize,
    },
    /// As [`Layout::Projected`], with fewer heads of keys and values than of queries: each is read
    /// by `n_heads / n_kv_heads` of them, side by side (grouped-query attention, arXiv 2305.13245).
    /// Head-major shapes say so themselves. An [`AttentionMemory`](super::AttentionMemory) has a
    /// key for every query and refuses it.
    Grouped {
        /// Heads of queries, and of what is read.
        n_heads: usize,
        /// Heads of keys and values, of which `n_heads` is a multiple.
        n_kv_heads: usize,
    },
}

/// What a memory returns to queries.
#[derive(Clone, Debug)]
pub struct Read {
    /// In the layout of the queries: `[batch, n_heads, n, v_dim]` or `[batch, n, n_heads * v_dim]`.
    pub values: Tensor,
    /// The natural logarithm of the softmax's denominator, `[batch, n_heads, n]` or
    /// `[batch, n, n_heads]`; none where there is no softmax.
    pub log_sum_exp: Option<Tensor>,
}

impl From<Attention> for Read {
    fn from(Attention { values, log_sum_exp }: Attention) -> Self {
        Self { values, log_sum_exp: Some(log_sum_exp) }
    }
}

/// The sizes of a tensor, whatever its layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub batch: usize,
    pub n_heads: usize,
    pub n: usize,
    pub dim: usize,
}

impl Layout {
    pub(crate) fn is_head_major(self) -> bool {
        self == Self::HeadMajor
    }

    /// Heads of queries, which lie side by side; head-major shapes say it themselves.
    pub(crate) fn n_heads(self) -> Option<usize> {
        match self {
            Self::HeadMajor => None,
            Self::Projected { n_heads } | Self::Grouped { n_heads, .. } => Some(n_heads),
        }
    }

    /// Whether queries of this layout may read keys of so many heads.
    pub(crate) fn allows(self, kv_heads: usize) -> bool {
        match self {
            Self::HeadMajor => true,
            Self::Projected { n_heads } => n_heads == kv_heads,
            Self::Grouped { n_kv_heads, .. } => n_kv_heads == kv_heads,
        }
    }

    /// How the heads of keys and values lie.
    fn of_keys(self, op: &'static str) -> Result<Self> {
        let Self::Grouped { n_heads, n_kv_heads } = self else { return Ok(self) };
        let (fits, allowed) =
            (is_grouped(n_heads, n_kv_heads), format_args!("1 or more that divide n_heads = {n_heads}"));
        check_argument(fits, op, "n_kv_heads", n_kv_heads, allowed)?;
        Ok(Self::Projected { n_heads: n_kv_heads })
    }

    /// Refuses heads of keys that several heads of queries share.
    pub(crate) fn check_not_grouped(self, op: &'static str) -> Result<()> {
        let Self::Grouped { n_heads, n_kv_heads } = self else { return Ok(()) };
        let allowed = format_args!("n_heads = {n_heads}: this memory has a key for every query");
        check_argument(n_kv_heads == n_heads, op, "n_kv_heads", n_kv_heads, allowed)
    }

    /// The sizes of queries in this layout; there may be no rows and no batch elements.
    pub(crate) fn sizes(self, op: &'static str, name: &'static str, x: &Tensor) -> Result<Sizes> {
        let sizes = match (self.n_heads(), x.shape()) {
            (None, &[batch, n_heads, n, dim]) => Sizes { batch, n_heads, n, dim },
            (Some(n_heads), &[batch, n, width]) if n_heads > 0 && width.is_multiple_of(n_heads) => {
                Sizes { batch, n_heads, n, dim: width / n_heads }
            }
            _ => return Err(self.refused(op, name, x)),
        };
        if sizes.n_heads == 0 || sizes.dim == 0 {
            return Err(self.refused(op, name, x));
        }
        Ok(sizes)
    }

    fn refused(self, op: &'static str, name: &'static str, x: &Tensor) -> Error {
        let expected = match self {
            Self::HeadMajor => "[batch, n_heads, length, head_dim] (rank 4, heads that are not empty) for \
                                Layout::HeadMajor; [batch, length, n_heads * head_dim] is Layout::Projected with a \
                                positive n_heads"
                .into(),
            Self::Projected { n_heads } | Self::Grouped { n_heads, .. } => format!(
                "[batch, length, {n_heads} * dim] for Layout::Projected with {n_heads} heads: a positive n_heads, \
                 and a last dimension that is a multiple of n_heads = {n_heads}"
            ),
        };
        Error::shape(op, name, x.shape(), expected)
    }

    /// The sizes of keys, and the width of their values.
    pub(crate) fn keys_values(self, op: &'static str, k: &Tensor, v: &Tensor) -> Result<(Sizes, usize)> {
        let of_keys = self.of_keys(op)?;
        let (keys, values) = (of_keys.sizes(op, "k", k)?, of_keys.sizes(op, "v", v)?);
        let fit = Sizes { dim: keys.dim, ..values } == keys;
        let rule = "keys and values must have the same length, and all sizes but the width of a head must be equal";
        check_shapes(fit, op, ("k", k.shape()), ("v", v.shape()), rule)?;
        Ok((keys, values.dim))
    }

    /// The shape of a tensor with these sizes.
    pub(crate) fn shape(self, Sizes { batch, n_heads, n, dim }: Sizes) -> Vec<usize> {
        match self {
            Self::HeadMajor => vec![batch, n_heads, n, dim],
            Self::Projected { .. } | Self::Grouped { .. } => vec![batch, n, n_heads * dim],
        }
    }

    /// The shape of one number for each row and head.
    pub(crate) fn row_shape(self, Sizes { batch, n_heads, n, .. }: Sizes) -> Vec<usize> {
        match self {
            Self::HeadMajor => vec![batch, n_heads, n],
            Self::Projected { .. } | Self::Grouped { .. } => vec![batch, n, n_heads],
        }
    }

    /// Strides in elements of (batch, head, row).
    pub(crate) fn strides(self, Sizes { n_heads, n, dim, .. }: Sizes) -> [usize; 3] {
        match self {
            Self::HeadMajor => [n_heads * n * dim, n * dim, dim],
            Self::Projected { .. } | Self::Grouped { .. } => [n * n_heads * dim, dim, n_heads * dim],
        }
    }

    /// Refuses a state of another layout.
    pub(crate) fn check_state(self, op: &'static str, state: Self) -> Result<()> {
        let (found, allowed) = (format_args!("{state:?}"), format_args!("{self:?}, the same layout as here"));
        check_argument(self == state, op, "layout of the state", found, allowed)
    }
}

/// Whether heads of keys may be shared by as many heads of queries each.
pub(crate) fn is_grouped(n_heads: usize, n_kv_heads: usize) -> bool {
    n_kv_heads > 0 && n_heads > 0 && n_heads.is_multiple_of(n_kv_heads)
}

/// Refuses queries and keys that cannot be multiplied.
pub(crate) fn check_queries(op: &'static str, q: (&Tensor, Sizes), k: (&Tensor, Sizes)) -> Result<()> {
    let alike = Sizes { n: q.1.n, n_heads: q.1.n_heads, ..k.1 } == q.1;
    let rule = "batch and heads must agree (the heads of queries may be a multiple of those of keys), and queries \
                and keys must have the same width (last dimension)";
    let fit = alike && is_grouped(q.1.n_heads, k.1.n_heads);
    check_shapes(fit, op, ("q", q.0.shape()), ("k", k.0.shape()), rule)
}

/// Refuses a mask that is not one of these keys.
pub(crate) fn check_mask(op: &'static str, mask: Option<&Mask>, batch: usize, n: usize) -> Result<()> {
    let Some(found) = mask.map(Mask::shape) else { return Ok(()) };
    check_shape(*found == [batch, n], op, "key_mask", found, format_args!("[batch, n_keys] = [{batch}, {n}]"))
}
