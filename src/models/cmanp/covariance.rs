//! How the targets of a CMANP-AND vary together: its networks, on the device.

use super::config::{Config, CovarianceKind};
use crate::{
    checkpoint::Parameters,
    error::Result,
    models::layers::{LayerNorm, Mlp, check_heads, torch_linear, transposed},
    ops::{self, Activation, Layout, Linear, ScanAttention},
    tensor::Tensor,
};

/// A transformer encoder layer as PyTorch has it: normalised after each residual, with ReLU.
///
/// ```
/// use wgpu_attention::{Device, Tensor, checkpoint::Checkpoint, models::cmanp::TransformerLayer};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// let load = |checkpoint: &Checkpoint| {
///     checkpoint.load(&device, |parameters| TransformerLayer::load(parameters, 8, 2, 16))
/// };
/// let layer = load(&Checkpoint::random(0, load)?)?;
/// assert_eq!(layer.forward(&Tensor::new(&device, &[1, 3, 8], &[0.2; 24])?)?.shape(), [1, 3, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TransformerLayer {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    linear1: Linear,
    linear2: Linear,
    norm1: LayerNorm,
    norm2: LayerNorm,
    n_heads: usize,
}

impl TransformerLayer {
    /// Loads `self_attn.{in_proj_weight, in_proj_bias, out_proj.*}`, `linear1.*`, `linear2.*`,
    /// `norm1.*` and `norm2.*`.
    ///
    /// # Errors
    /// A parameter is missing or misshapen; a size of 0; heads that do not divide `width`.
    pub fn load(parameters: &Parameters<'_>, width: usize, n_heads: usize, dim_feedforward: usize) -> Result<Self> {
        check_heads(("width", width), ("n_heads", n_heads))?;
        let attention = parameters.scope("self_attn");
        let weight = attention.numbers("in_proj_weight", &[3 * width, width])?;
        let bias = attention.numbers("in_proj_bias", &[3 * width])?;
        let part = |i: usize| {
            let device = parameters.device();
            let rows = &weight[i * width * width..][..width * width];
            let weight = transposed(device, attention.dtype("in_proj_weight"), rows, width)?;
            Ok(Linear { weight, bias: Some(Tensor::new(device, &[width], &bias[i * width..][..width])?) })
        };
        Ok(Self {
            q: part(0)?,
            k: part(1)?,
            v: part(2)?,
            out: torch_linear(&attention.scope("out_proj"), width, width, true)?,
            linear1: torch_linear(&parameters.scope("linear1"), width, dim_feedforward, true)?,
            linear2: torch_linear(&parameters.scope("linear2"), dim_feedforward, width, true)?,
            norm1: LayerNorm::load_torch(&parameters.scope("norm1"), width)?,
            norm2: LayerNorm::load_torch(&parameters.scope("norm2"), width)?,
            n_heads,
        })
    }

    /// Tokens `[batch, n, width]` that read each other.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let project = |layer| ops::linear(x, layer, Activation::None, None);
        let options = ScanAttention::new(Layout::Projected { n_heads: self.n_heads });
        let read = ops::scan_attention(&project(&self.q)?, &project(&self.k)?, &project(&self.v)?, &options)?;
        let x = self.norm1.forward(&ops::linear(&read.values, &self.out, Activation::None, Some(x))?, None)?;
        let hidden = ops::linear(&x, &self.linear1, Activation::Relu, None)?;
        self.norm2.forward(&ops::linear(&hidden, &self.linear2, Activation::None, Some(&x))?, None)
    }
}

/// From the encodings of a block of targets to their mean and covariance.
#[derive(Clone, Debug)]
pub(super) struct Covariance {
    pub kind: CovarianceKind,
    mean_net: Mlp,
    std_encoder: Vec<TransformerLayer>,
    projector: Mlp,
    /// [`CovarianceKind::LowRank`] alone.
    diag_net: Option<Mlp>,
}

impl Covariance {
    pub(super) fn load(parameters: &Parameters<'_>, config: &Config) -> Result<Option<Self>> {
        let Some(covariance) = config.covariance else { return Ok(None) };
        let (width, hidden) = (config.d_model, config.dim_feedforward);
        let mlp = |name, n_out, depth: usize| {
            let mut dims = vec![hidden; depth];
            dims[depth - 1] = n_out;
            Mlp::load_torch(&parameters.scope(name), width, &dims)
        };
        let layers = parameters.scope("std_encoder").scope("layers");
        let layer = |l| TransformerLayer::load(&layers.scope(l), width, config.n_heads, hidden);
        let has_diagonal = covariance.kind == CovarianceKind::LowRank;
        Ok(Some(Self {
            kind: covariance.kind,
            mean_net: mlp("mean_net", config.dim_y, 2)?,
            std_encoder: (0..covariance.n_layers).map(layer).collect::<Result<_>>()?,
            projector: mlp("projector", covariance.prj_dim * config.dim_y, covariance.prj_depth)?,
            diag_net: has_diagonal.then(|| mlp("diag_net", config.dim_y, covariance.diag_depth)).transpose()?,
        }))
    }

    /// Of encodings `[batch, n, d_model]`: the mean `[batch, n, dim_y]`, the projections
    /// `[batch, n, dim_y prj_dim]`, and the logarithm of the diagonal `[batch, n, dim_y]`.
    pub(super) fn forward(&self, encoded: &Tensor) -> Result<(Tensor, Tensor, Option<Tensor>)> {
        let mut x = encoded.clone();
        for layer in &self.std_encoder {
            x = layer.forward(&x)?;
        }
        let diagonal = self.diag_net.as_ref().map(|net| net.forward(encoded, None)).transpose()?;
        Ok((self.mean_net.forward(encoded, None)?, self.projector.forward(&x, None)?, diagonal))
    }
}
