//! What softmax attention returns, however it was computed, and so what is merged.

use crate::tensor::Tensor;

/// The logit of a masked pair and the log-sum-exp of a row without a valid key: large and
/// finite, since shaders may assume that infinities do not exist. Logits below half of it
/// count as masked.
pub const MASKED: f32 = -1e30;

/// What attention returns: the read values and the natural logarithm of the softmax's
/// denominator, which is what merging needs (see [`merge_attention`](crate::ops::merge_attention())).
#[derive(Clone, Debug)]
pub struct Attention {
    /// In the layout of the queries: `[batch, n_heads, n_queries, v_dim]` or
    /// `[batch, n_queries, n_heads * v_dim]`.
    pub values: Tensor,
    /// `[batch, n_heads, n_queries]` or `[batch, n_queries, n_heads]`, in the same order;
    /// [`MASKED`] in a row that has no valid key.
    pub log_sum_exp: Tensor,
}
