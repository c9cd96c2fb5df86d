//! Deep kernel attention (arXiv 2411.12502): linear attention whose features are learned from
//! coordinates and tokens.

use std::ops::Range;

use super::config::{MAX_LINEAR_HEAD_DIM, heads};
use crate::{
    checkpoint::Parameters,
    error::Result,
    models::layers::{EPSILON, LayerNorm, Mlp, MlpConfig},
    ops::{FeatureMap, Layout, LinearAttention, LinearState, Normalizer, concat},
    tensor::{Mask, Tensor},
};

/// Deep kernel attention over tokens `[batch, n, width]` and their coordinates.
///
/// One perceptron makes features of `[coordinates, token]`, for queries and keys alike; what is
/// kept is `sum_j features_j values_j^T` for each head. A read has no softmax and no normaliser
/// of its own: it is divided by the number of keys if there was a mask, and layer-normalised
/// over all heads together.
///
/// ```
/// use wgpu_attention::{Device, Tensor, checkpoint::Checkpoint, models::tnp_kr::DeepKernelAttention};
/// use wgpu_attention::{models::layers::MlpConfig, ops::Activation};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let (device, mlp) = (Device::best(), MlpConfig { dims: vec![8], activation: Activation::Relu });
/// let load = |checkpoint: &Checkpoint| {
///     checkpoint.load(&device, |parameters| DeepKernelAttention::load(parameters, 1, &mlp, &mlp, 8, 2))
/// };
/// let attention = load(&Checkpoint::random(0, load)?)?;
/// let (x, coords) = (Tensor::new(&device, &[1, 5, 8], &[0.1; 40])?, Tensor::new(&device, &[1, 5, 2], &[0.3; 10])?);
/// let state = attention.write(&x, &x, &coords, 0..2, None)?;
/// assert_eq!(state.sums.shape(), [1, 1, 8, 8]); // however many tokens were written
/// assert_eq!(attention.read(&x, &state, &coords, 0..2, false, Some(&x))?.shape(), [1, 5, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct DeepKernelAttention {
    proj_qks: Mlp,
    proj_vs: Mlp,
    norm: LayerNorm,
    n_heads: usize,
    /// `width^(-1/4)`, on queries and on keys.
    scale: f32,
}

impl DeepKernelAttention {
    /// Loads `proj_qks`, `proj_vs` and `LayerNorm_0`, for tokens of `width` numbers and
    /// coordinates of `dim`.
    ///
    /// # Errors
    /// Widths that are no multiples of `n_heads`; a parameter is missing or misshapen.
    pub fn load(
        parameters: &Parameters<'_>,
        n_heads: usize,
        proj_qks: &MlpConfig,
        proj_vs: &MlpConfig,
        width: usize,
        dim: usize,
    ) -> Result<Self> {
        heads(n_heads, proj_qks, proj_qks, proj_vs, MAX_LINEAR_HEAD_DIM)?;
        Ok(Self {
            proj_qks: Mlp::load(&parameters.scope("proj_qks"), proj_qks, dim + width)?,
            proj_vs: Mlp::load(&parameters.scope("proj_vs"), proj_vs, width)?,
            norm: LayerNorm::load(&parameters.scope("LayerNorm_0"), proj_vs.n_out("proj_vs")?, EPSILON)?,
            n_heads,
            scale: (width as f32).powf(-0.25),
        })
    }

    fn attention(&self, normalizer: Normalizer) -> LinearAttention {
        LinearAttention::new(Layout::Projected { n_heads: self.n_heads }, FeatureMap::identity(self.scale), normalizer)
    }

    /// Writes keys and values made of tokens `[batch, n, width]`; the keys' coordinates are
    /// some columns of `coords [batch, n, n_columns]`. Masked keys, `mask [batch, n]`, are not
    /// read.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn write(
        &self,
        k: &Tensor,
        v: &Tensor,
        coords: &Tensor,
        columns: Range<usize>,
        mask: Option<&Mask>,
    ) -> Result<LinearState> {
        let k = self.proj_qks.forward(&concat(coords, columns, k)?, None)?;
        self.attention(Normalizer::None).write(None, &k, &self.proj_vs.forward(v, None)?, mask)
    }

    /// Reads with queries made of tokens, and adds a residual. `masked` says whether the keys
    /// were written with a mask: only then is there a division by their number.
    ///
    /// # Errors
    /// Shapes that do not fit; the state of another attention.
    pub fn read(
        &self,
        q: &Tensor,
        state: &LinearState,
        coords: &Tensor,
        columns: Range<usize>,
        masked: bool,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let q = self.proj_qks.forward(&concat(coords, columns, q)?, None)?;
        let normalizer = if masked { Normalizer::KeyCount } else { Normalizer::None };
        self.norm.forward(&self.attention(normalizer).read(&q, state)?.values, residual)
    }
}
