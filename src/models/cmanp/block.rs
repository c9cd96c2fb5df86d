//! The layers of the encoder and of the decoder.

use serde::{Deserialize, Serialize};

use super::{
    attention::{PreNormAttention, PreNormFeedForward},
    config::Config,
};
use crate::{
    checkpoint::Parameters,
    device::Device,
    error::Result,
    host::repeated,
    models::layers::check_positive,
    ops::{ExactRolling, ExactState, RollingAttention, RollingState},
    tensor::{Mask, Tensor},
};

/// Learned latents `[n, width]`, on the host so that a batch of any size can be made of them.
#[derive(Clone, Debug)]
pub(super) struct Latents {
    numbers: Vec<f32>,
    n: usize,
    device: Device,
}

impl Latents {
    pub(super) fn load(parameters: &Parameters<'_>, n: usize, width: usize) -> Result<Self> {
        check_positive(&[("n_latents", n), ("the width of a latent", width)])?;
        let numbers = parameters.numbers("latents", &[n, width])?.to_vec();
        Ok(Self { numbers, n, device: parameters.device().clone() })
    }

    /// `[batch, n, width]`.
    pub(super) fn repeat(&self, batch: usize) -> Result<Tensor> {
        let shape = [batch, self.n, self.numbers.len() / self.n];
        Tensor::new(&self.device, &shape, &repeated(&self.numbers, batch)?)
    }
}

/// Sizes of a [`Cmab`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CmabSizes {
    /// The block's own latents, which read the context.
    pub n_latents: usize,
    /// Width of a latent.
    pub latent_dim: usize,
    /// Width of a token of the context.
    pub context_dim: usize,
    /// Heads of every attention.
    pub n_heads: usize,
    /// Hidden width of the feed-forward parts.
    pub dim_feedforward: usize,
}

/// A constant-memory attention block (arXiv 2305.14567, section 3.2): latents of its own read
/// the context, which is all that depends on it; what they read is what the latents of the layer
/// before read.
///
/// ```
/// use wgpu_attention::{Device, Tensor, checkpoint::Checkpoint, models::cmanp::{Cmab, CmabSizes}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// let sizes = CmabSizes { n_latents: 4, latent_dim: 8, context_dim: 6, n_heads: 2, dim_feedforward: 8 };
/// let load = |checkpoint: &Checkpoint| checkpoint.load(&device, |parameters| Cmab::load(parameters, &sizes));
/// let block = load(&Checkpoint::random(0, load)?)?;
/// let (queries, tokens) = (block.queries(1)?, Tensor::new(&device, &[1, 100, 6], &[0.1; 600])?);
/// let state = block.write(&queries, None, &tokens, None)?;
/// let state = block.write(&queries, Some(&state), &tokens, None)?; // no larger than before
/// let latents = Tensor::new(&device, &[1, 3, 8], &[0.2; 24])?;
/// assert_eq!(block.read(&queries, &state, &latents)?.shape(), [1, 3, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Cmab {
    latents: Latents,
    layer_cross_attn: PreNormAttention,
    layer_cross_ff: PreNormFeedForward,
    layer_latent_self_attn: PreNormAttention,
    layer_latent_ff: PreNormFeedForward,
    read: LatentBlock,
}

/// The queries of a [`Cmab`] for a batch: they depend on parameters alone.
#[derive(Clone, Debug)]
pub struct CmabQueries {
    normed: Tensor,
    rolling: RollingAttention,
}

impl Cmab {
    /// Loads `latents` and the sub-layers by their upstream names.
    ///
    /// # Errors
    /// A parameter is missing or misshapen; a size of 0; heads that do not divide `latent_dim`.
    pub fn load(parameters: &Parameters<'_>, sizes: &CmabSizes) -> Result<Self> {
        let CmabSizes { n_latents, latent_dim, context_dim, n_heads, dim_feedforward } = *sizes;
        let attention = |name, context| PreNormAttention::load(&parameters.scope(name), latent_dim, context, n_heads);
        let feed_forward = |name| PreNormFeedForward::load(&parameters.scope(name), latent_dim, dim_feedforward);
        Ok(Self {
            latents: Latents::load(parameters, n_latents, latent_dim)?,
            layer_cross_attn: attention("layer_cross_attn", Some(context_dim))?,
            layer_cross_ff: feed_forward("layer_cross_ff")?,
            layer_latent_self_attn: attention("layer_latent_self_attn", None)?,
            layer_latent_ff: feed_forward("layer_latent_ff")?,
            read: LatentBlock::load(parameters, sizes, latent_dim)?,
        })
    }

    /// The queries for a batch, made once.
    ///
    /// # Errors
    /// The device has no room.
    pub fn queries(&self, batch: usize) -> Result<CmabQueries> {
        let (normed, rolling) = self.layer_cross_attn.queries(&self.latents.repeat(batch)?)?;
        Ok(CmabQueries { normed, rolling })
    }

    /// Adds tokens of the context, `[batch, n, context_dim]`, to what was read before.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn write(
        &self,
        queries: &CmabQueries,
        state: Option<&RollingState>,
        tokens: &Tensor,
        mask: Option<&Mask>,
    ) -> Result<RollingState> {
        let [k, v] = self.layer_cross_attn.keys_values(tokens)?;
        queries.rolling.write(state, &k, &v, mask)
    }

    /// The queries with exact sums, whose limits follow from the parameters.
    ///
    /// # Errors
    /// A device that is not the CPU; parameters so large that there are no limits.
    pub(super) fn exact(&self, queries: &CmabQueries) -> Result<ExactRolling> {
        let CmabQueries { rolling, .. } = queries;
        // Parameters are read on the CPU only.
        rolling.exact_on()?;
        let (scores, value) = self.layer_cross_attn.limits(rolling)?;
        rolling.exact(&repeated(&scores, rolling.queries.shape()[0])?, value)
    }

    /// [`Cmab::write`] with exact sums.
    ///
    /// # Errors
    /// Shapes that do not fit; tokens that are not finite.
    pub(super) fn write_exactly(
        &self,
        queries: &ExactRolling,
        state: Option<&ExactState>,
        tokens: &Tensor,
        mask: Option<&Mask>,
    ) -> Result<ExactState> {
        let [k, v] = self.layer_cross_attn.keys_values(tokens)?;
        queries.write(state, &k, &v, mask)
    }

    /// What the latents of the layer before, `[batch, n, latent_dim]`, make of what was read.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn read(&self, queries: &CmabQueries, state: &RollingState, latents: &Tensor) -> Result<Tensor> {
        self.read_own(latents, &self.own(queries, &state.read()?.values)?)
    }

    /// The block's own latents after reading the context, which need no other layer, of what they read.
    pub(super) fn own(&self, queries: &CmabQueries, read: &Tensor) -> Result<Tensor> {
        let z = self.layer_cross_attn.finish(read, &queries.normed)?;
        let z = self.layer_cross_ff.forward(&z)?;
        let z = self.layer_latent_self_attn.forward(&z, None)?;
        self.layer_latent_ff.forward(&z)
    }

    /// What the latents of the layer before make of those.
    pub(super) fn read_own(&self, latents: &Tensor, own: &Tensor) -> Result<Tensor> {
        self.read.forward(latents, own)
    }
}

/// Latents read a context and each other: the layer of an LBANP (arXiv 2211.08458), and the
/// second half of a [`Cmab`].
///
/// ```
/// use wgpu_attention::{Device, Tensor, checkpoint::Checkpoint, models::cmanp::{CmabSizes, LatentBlock}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// let sizes = CmabSizes { n_latents: 4, latent_dim: 8, context_dim: 6, n_heads: 2, dim_feedforward: 8 };
/// let load = |checkpoint: &Checkpoint| {
///     checkpoint.load(&device, |parameters| LatentBlock::load(parameters, &sizes, 6))
/// };
/// let block = load(&Checkpoint::random(0, load)?)?;
/// let latents = Tensor::new(&device, &[1, 4, 8], &[0.2; 32])?;
/// let context = Tensor::new(&device, &[1, 100, 6], &[0.1; 600])?;
/// assert_eq!(block.forward(&latents, &context)?.shape(), [1, 4, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct LatentBlock {
    cross_attn: PreNormAttention,
    cross_ff: PreNormFeedForward,
    latent_self_attn: PreNormAttention,
    latent_ff: PreNormFeedForward,
}

impl LatentBlock {
    /// Loads the sub-layers by their upstream names, for a context of width `context_dim`.
    ///
    /// # Errors
    /// A parameter is missing or misshapen.
    pub fn load(parameters: &Parameters<'_>, sizes: &CmabSizes, context_dim: usize) -> Result<Self> {
        let CmabSizes { latent_dim, n_heads, dim_feedforward, .. } = *sizes;
        let attention = |name, context| PreNormAttention::load(&parameters.scope(name), latent_dim, context, n_heads);
        let feed_forward = |name| PreNormFeedForward::load(&parameters.scope(name), latent_dim, dim_feedforward);
        Ok(Self {
            cross_attn: attention("cross_attn", Some(context_dim))?,
            cross_ff: feed_forward("cross_ff")?,
            latent_self_attn: attention("latent_self_attn", None)?,
            latent_ff: feed_forward("latent_ff")?,
        })
    }

    /// `latents [batch, n, latent_dim]` after reading `context [batch, m, context_dim]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, latents: &Tensor, context: &Tensor) -> Result<Tensor> {
        let x = self.cross_attn.forward(latents, Some(context))?;
        let x = self.cross_ff.forward(&x)?;
        let x = self.latent_self_attn.forward(&x, None)?;
        self.latent_ff.forward(&x)
    }
}

/// Targets read the latents; they do not read each other.
///
/// ```
/// use wgpu_attention::{Device, Tensor, checkpoint::Checkpoint, models::cmanp::DecoderLayer};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// let load = |checkpoint: &Checkpoint| {
///     checkpoint.load(&device, |parameters| DecoderLayer::load(parameters, 8, 2, 16))
/// };
/// let layer = load(&Checkpoint::random(0, load)?)?;
/// let keys_values = layer.keys_values(&Tensor::new(&device, &[1, 4, 8], &[0.2; 32])?)?;
/// let targets = Tensor::new(&device, &[1, 50, 8], &[0.1; 400])?;
/// assert_eq!(layer.read(&targets, &keys_values)?.shape(), [1, 50, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct DecoderLayer {
    cross_attn: PreNormAttention,
    cross_ff: PreNormFeedForward,
}

impl DecoderLayer {
    /// Loads `cross_attn.*` and `cross_ff.*`.
    ///
    /// # Errors
    /// A parameter is missing or misshapen.
    pub fn load(parameters: &Parameters<'_>, width: usize, n_heads: usize, dim_feedforward: usize) -> Result<Self> {
        Ok(Self {
            cross_attn: PreNormAttention::load(&parameters.scope("cross_attn"), width, Some(width), n_heads)?,
            cross_ff: PreNormFeedForward::load(&parameters.scope("cross_ff"), width, dim_feedforward)?,
        })
    }

    /// Keys and values of the latents `[batch, n, width]`, made once for all targets.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn keys_values(&self, latents: &Tensor) -> Result<[Tensor; 2]> {
        self.cross_attn.keys_values(latents)
    }

    /// Targets `[batch, n, width]` after reading the latents.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn read(&self, targets: &Tensor, keys_values: &[Tensor; 2]) -> Result<Tensor> {
        self.cross_ff.forward(&self.cross_attn.read(targets, keys_values)?)
    }
}

/// The encoder's layers.
#[derive(Clone, Debug)]
pub(super) enum Encoder {
    /// CMANP.
    Rolling(Vec<Cmab>),
    /// LBANP.
    Whole(Vec<LatentBlock>),
}

impl Encoder {
    pub(super) fn load(parameters: &Parameters<'_>, config: &Config) -> Result<Self> {
        let width = config.d_model;
        let sizes = CmabSizes {
            n_latents: config.n_latents_per_layer.unwrap_or(0),
            latent_dim: width,
            context_dim: width,
            n_heads: config.n_heads,
            dim_feedforward: config.dim_feedforward,
        };
        let layers = parameters.scope("layers");
        let mut scopes = (0..config.n_layers).map(|l| layers.scope(l));
        Ok(match config.n_latents_per_layer {
            Some(_) => Self::Rolling(scopes.map(|layer| Cmab::load(&layer, &sizes)).collect::<Result<_>>()?),
            None => Self::Whole(scopes.by_ref().map(|l| LatentBlock::load(&l, &sizes, width)).collect::<Result<_>>()?),
        })
    }
}
