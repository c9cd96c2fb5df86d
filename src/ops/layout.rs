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

    /// The sizes of a tensor in this layout; it may have no rows and no batch elements.
    pub(crate) fn sizes(self, op: &'static str, name: &'static str, x: &Tensor) -> Result<Sizes> {
        let sizes = match (self, x.shape()) {
            (Self::HeadMajor, &[batch, n_heads, n, dim]) => Sizes { batch, n_heads, n, dim },
            (Self::Projected { n_heads }, &[batch, n, width]) if n_heads > 0 && width.is_multiple_of(n_heads) => {
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
            Self::Projected { n_heads } => format!(
                "[batch, length, {n_heads} * dim] for Layout::Projected with {n_heads} heads: a positive n_heads, \
                 and a last dimension that is a multiple of n_heads = {n_heads}"
            ),
        };
        Error::shape(op, name, x.shape(), expected)
    }

    /// The sizes of keys, and the width of their values.
    pub(crate) fn keys_values(self, op: &'static str, k: &Tensor, v: &Tensor) -> Result<(Sizes, usize)> {
        let (keys, values) = (self.sizes(op, "k", k)?, self.sizes(op, "v", v)?);
        let fit = Sizes { dim: keys.dim, ..values } == keys;
        let rule = "keys and values must have the same length, and all sizes but the width of a head must be equal";
        check_shapes(fit, op, ("k", k.shape()), ("v", v.shape()), rule)?;
        Ok((keys, values.dim))
    }

    /// The shape of a tensor with these sizes.
    pub(crate) fn shape(self, Sizes { batch, n_heads, n, dim }: Sizes) -> Vec<usize> {
        match self {
            Self::HeadMajor => vec![batch, n_heads, n, dim],
            Self::Projected { .. } => vec![batch, n, n_heads * dim],
        }
    }

    /// The shape of one number for each row and head.
    pub(crate) fn row_shape(self, Sizes { batch, n_heads, n, .. }: Sizes) -> Vec<usize> {
        match self {
            Self::HeadMajor => vec![batch, n_heads, n],
            Self::Projected { .. } => vec![batch, n, n_heads],
        }
    }

    /// Strides in elements of (batch, head, row).
    pub(crate) fn strides(self, Sizes { n_heads, n, dim, .. }: Sizes) -> [usize; 3] {
        match self {
            Self::HeadMajor => [n_heads * n * dim, n * dim, dim],
            Self::Projected { .. } => [n * n_heads * dim, dim, n_heads * dim],
        }
    }

    /// Refuses a state of another layout.
    pub(crate) fn check_state(self, op: &'static str, state: Self) -> Result<()> {
        let (found, allowed) = (format_args!("{state:?}"), format_args!("{self:?}, the same layout as here"));
        check_argument(self == state, op, "layout of the state", found, allowed)
    }
}

/// Refuses queries and keys that cannot be multiplied.
pub(crate) fn check_queries(op: &'static str, q: (&Tensor, Sizes), k: (&Tensor, Sizes)) -> Result<()> {
    let fit = Sizes { n: q.1.n, ..k.1 } == q.1;
    let rule = "batch and heads must agree, and queries and keys must have the same width (last dimension)";
    check_shapes(fit, op, ("q", q.0.shape()), ("k", k.0.shape()), rule)
}

/// Refuses a mask that is not one of these keys.
pub(crate) fn check_mask(op: &'static str, mask: Option<&Mask>, batch: usize, n: usize) -> Result<()> {
    let Some(found) = mask.map(Mask::shape) else { return Ok(()) };
    check_shape(*found == [batch, n], op, "key_mask", found, format_args!("[batch, n_keys] = [{batch}, {n}]"))
}
