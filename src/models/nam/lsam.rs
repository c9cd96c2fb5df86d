//! Networks of long short-term attention memories (arXiv 2302.09422, section 4.2).

use std::{fmt, path::Path};

use super::{
    config::{LsamAeConfig, check_even, check_layer, check_sizes},
    tokens::Embedding,
};
use crate::{
    Device,
    checkpoint::{Checkpoint, Parameters},
    error::Result,
    models::{
        layers::{LayerNorm, columns, torch_linear},
        open::{self, About},
        tiles::read_predicted,
    },
    ops::{self, Activation, Direction, Linear, Lsam, LsamOutput, LsamState, concat, linear},
    tensor::Tensor,
};

const MODEL: &str = "nam_lsam";

/// A cell: see [`ops::lsam()`].
///
/// ```
/// use wgpu_attention::{Device, Tensor, checkpoint::Checkpoint, models::nam::LsamCell, ops::Direction};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// let load = |checkpoint: &Checkpoint| checkpoint.load(&device, |parameters| LsamCell::load(parameters, 3, 8, 2));
/// let cell = load(&Checkpoint::random(0, load)?)?;
/// let output = cell.forward(&Tensor::new(&device, &[1, 5, 3], &[0.1; 15])?, None, Direction::Forward)?;
/// assert_eq!((output.values.shape(), output.state.memory.shape()), (&[1, 5, 8][..], &[1, 2, 4, 4][..]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct LsamCell(Lsam);

impl LsamCell {
    /// Loads `Wqkv`, `Ww` and `Wr`, whose inputs are `[x ; h]`.
    ///
    /// # Errors
    /// A parameter is missing or misshapen; heads that do not divide `d_model`.
    pub fn load(parameters: &Parameters<'_>, input_dim: usize, d_model: usize, n_heads: usize) -> Result<Self> {
        check_layer(d_model, n_heads)?;
        check_sizes(&[("input_dim", input_dim)])?;
        let n_in = input_dim + d_model;
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for (name, n_out) in [("Wqkv", 3 * d_model), ("Ww", n_heads), ("Wr", n_heads)] {
            let layer = parameters.scope(name);
            weight.extend_from_slice(layer.numbers("weight", &[n_out, n_in])?);
            bias.extend_from_slice(layer.numbers("bias", &[n_out])?);
        }
        let (device, n_out) = (parameters.device(), bias.len());
        // PyTorch stores the transpose.
        let weight = columns(&weight, n_in)?;
        let (input, hidden) = weight.split_at(input_dim * n_out);
        let input = Linear {
            weight: Tensor::new(device, &[input_dim, n_out], input)?,
            bias: Some(Tensor::new(device, &[n_out], &bias)?),
        };
        Ok(Self(Lsam { n_heads, input, hidden: Tensor::new(device, &[d_model, n_out], hidden)? }))
    }

    /// Reads every step of `x [batch, n, input_dim]` in one direction.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &Tensor, state: Option<&LsamState>, direction: Direction) -> Result<LsamOutput> {
        ops::lsam(x, &self.0, state, direction)
    }

    fn d_model(&self) -> usize {
        self.0.hidden.shape()[0]
    }
}

/// A cell, a dense layer with ReLU, a normalisation.
///
/// ```
/// use wgpu_attention::{Device, Tensor, checkpoint::Checkpoint, models::nam::LsamDecoder};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// let load = |checkpoint: &Checkpoint| {
///     checkpoint.load(&device, |parameters| LsamDecoder::load(parameters, 3, 8, 2))
/// };
/// let decoder = load(&Checkpoint::random(0, load)?)?;
/// let memory = Tensor::zeros(&device, &[1, 2, 4, 4])?;
/// let output = decoder.forward(&Tensor::new(&device, &[1, 5, 3], &[0.1; 15])?, &memory)?;
/// assert_eq!(output.values.shape(), [1, 5, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct LsamDecoder {
    cell: LsamCell,
    out: Linear,
    norm: LayerNorm,
}

impl LsamDecoder {
    /// Loads `encoder` (the cell), `Wo.0` and `norm`.
    ///
    /// # Errors
    /// As [`LsamCell::load`].
    pub fn load(parameters: &Parameters<'_>, input_dim: usize, d_model: usize, n_heads: usize) -> Result<Self> {
        Ok(Self {
            cell: LsamCell::load(&parameters.scope("encoder"), input_dim, d_model, n_heads)?,
            out: torch_linear(&parameters.scope("Wo.0"), d_model, d_model, true)?,
            norm: LayerNorm::load_torch(&parameters.scope("norm"), d_model)?,
        })
    }

    /// Reads `x [batch, n, input_dim]`, beginning with this memory and a hidden state of zeros.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &Tensor, memory: &Tensor) -> Result<LsamOutput> {
        let batch = x.shape().first().copied().unwrap_or(0);
        let d_model = self.cell.d_model();
        let hidden = Tensor::zeros(&x.device(), &[batch, d_model])?;
        let state = LsamState { hidden, memory: memory.clone() };
        let output = self.cell.forward(x, Some(&state), Direction::Forward)?;
        let values = linear(&output.values, &self.out, Activation::Relu, None)?;
        Ok(LsamOutput { values: self.norm.forward(&values, None)?, state: output.state })
    }
}

/// Two cells, one of them in reverse, side by side.
///
/// ```
/// use wgpu_attention::{Device, Tensor, checkpoint::Checkpoint, models::nam::Blsam};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// let load = |checkpoint: &Checkpoint| checkpoint.load(&device, |parameters| Blsam::load(parameters, 3, 8, 2));
/// let both = load(&Checkpoint::random(0, load)?)?;
/// let output = both.forward(&Tensor::new(&device, &[1, 5, 3], &[0.1; 15])?)?;
/// assert_eq!((output.values.shape(), output.state.hidden.shape()), (&[1, 5, 8][..], &[1, 8][..]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Blsam {
    forward: LsamCell,
    backward: LsamCell,
    out: Linear,
}

impl Blsam {
    /// Loads `enc_fw`, `enc_bw` and `Wo.0`; `norm`, which is there and used by nothing, is only
    /// checked.
    ///
    /// # Errors
    /// As [`LsamCell::load`]; an odd width or number of heads.
    pub fn load(parameters: &Parameters<'_>, input_dim: usize, d_model: usize, n_heads: usize) -> Result<Self> {
        check_even(d_model, n_heads)?;
        let cell = |name: &str| LsamCell::load(&parameters.scope(name), input_dim, d_model / 2, n_heads / 2);
        unused_norm(parameters, "norm", d_model)?;
        Ok(Self {
            forward: cell("enc_fw")?,
            backward: cell("enc_bw")?,
            out: torch_linear(&parameters.scope("Wo.0"), d_model, d_model, true)?,
        })
    }

    /// Reads `x [batch, n, input_dim]` both ways. The hidden states of the state are the one after
    /// the last step and the one of the other direction after the first, the memories those of
    /// both, one after the other.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<LsamOutput> {
        let a = self.forward.forward(x, None, Direction::Forward)?;
        let b = self.backward.forward(x, None, Direction::Reverse)?;
        let join = |a: &Tensor, b: &Tensor| concat(a, 0..a.shape().last().copied().unwrap_or(0), b);
        let values = linear(&join(&a.values, &b.values)?, &self.out, Activation::Relu, None)?;
        let hidden = join(&a.state.hidden, &b.state.hidden)?;
        let &[batch, n_heads, dim, _] = a.state.memory.shape() else {
            return Ok(LsamOutput { values, state: a.state });
        };
        let flat = |memory: &Tensor| memory.reshape(&[batch, n_heads * dim * dim]);
        let memory = join(&flat(&a.state.memory)?, &flat(&b.state.memory)?)?;
        let memory = memory.reshape(&[batch, 2 * n_heads, dim, dim])?;
        Ok(LsamOutput { values, state: LsamState { hidden, memory } })
    }
}

/// A [`Blsam`] and a feed-forward part, each added to what it gets; one normalisation at the end.
///
/// ```
/// use wgpu_attention::{Device, Tensor, checkpoint::Checkpoint, models::nam::LsamEncoderLayer};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// let load = |checkpoint: &Checkpoint| {
///     checkpoint.load(&device, |parameters| LsamEncoderLayer::load(parameters, 8, 2, 16))
/// };
/// let layer = load(&Checkpoint::random(0, load)?)?;
/// assert_eq!(layer.forward(&Tensor::new(&device, &[1, 5, 8], &[0.1; 40])?)?.values.shape(), [1, 5, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct LsamEncoderLayer {
    attention: Blsam,
    linear1: Linear,
    linear2: Linear,
    norm: LayerNorm,
}

impl LsamEncoderLayer {
    /// Loads `attn`, `linear1`, `linear2` and `norm2`; `norm1`, which is there and used by
    /// nothing, is only checked.
    ///
    /// # Errors
    /// As [`Blsam::load`].
    pub fn load(parameters: &Parameters<'_>, d_model: usize, n_heads: usize, dim_feedforward: usize) -> Result<Self> {
        unused_norm(parameters, "norm1", d_model)?;
        Ok(Self {
            attention: Blsam::load(&parameters.scope("attn"), d_model, d_model, n_heads)?,
            linear1: torch_linear(&parameters.scope("linear1"), d_model, dim_feedforward, true)?,
            linear2: torch_linear(&parameters.scope("linear2"), dim_feedforward, d_model, true)?,
            norm: LayerNorm::load_torch(&parameters.scope("norm2"), d_model)?,
        })
    }

    /// Reads `x [batch, n, d_model]` both ways.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<LsamOutput> {
        let output = self.attention.forward(x)?;
        let x = ops::add(x, &output.values, 1.0)?;
        let hidden = linear(&x, &self.linear1, Activation::Relu, None)?;
        let x = linear(&hidden, &self.linear2, Activation::None, Some(&x))?;
        Ok(LsamOutput { values: self.norm.forward(&x, None)?, state: output.state })
    }
}

/// From tokens to logits: an encoder layer, and a decoder that begins with its memory.
///
/// ```
/// use wgpu_attention::{Device, checkpoint::Checkpoint, models::nam::{LsamAe, LsamAeConfig}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// let config = LsamAeConfig { vocab_size: 5, d_model: 8, n_heads: 2, dim_feedforward: 16 };
/// let parameters = Checkpoint::random(0, |parameters| LsamAe::new(&device, &config, parameters))?;
/// let model = LsamAe::new(&device, &config, &parameters)?;
/// assert_eq!(model.forward(2, &[0, 1, 2, 4, 3, 2])?.values.shape(), [2, 3, 5]); // logits of each token
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct LsamAe {
    about: About<LsamAeConfig>,
    embedding: Embedding,
    encoder: LsamEncoderLayer,
    decoder: LsamDecoder,
    fc: Linear,
}

impl fmt::Debug for LsamAe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.about.debug("LsamAe", f)
    }
}

impl LsamAe {
    /// Reads a file of model `nam_lsam`, see [`checkpoint`](crate::checkpoint).
    ///
    /// # Errors
    /// The file cannot be read, is no such checkpoint, or its parameters are not those that its
    /// configuration asks for.
    pub fn open(device: &Device, path: impl AsRef<Path>) -> Result<Self> {
        Self::from_checkpoint(device, &Checkpoint::open(path)?)
    }

    /// [`LsamAe::open`] of a file that was read already.
    ///
    /// # Errors
    /// As [`LsamAe::open`].
    pub fn from_checkpoint(device: &Device, checkpoint: &Checkpoint) -> Result<Self> {
        let config = open::config(checkpoint, MODEL, |upstream| LsamAeConfig::from_authors(&upstream.yaml))?;
        Self::new(device, &config, checkpoint)
    }

    /// Builds the network from parameters.
    ///
    /// # Errors
    /// The configuration contradicts itself; a parameter is missing, misshapen or left over.
    pub fn new(device: &Device, config: &LsamAeConfig, checkpoint: &Checkpoint) -> Result<Self> {
        let LsamAeConfig { vocab_size, d_model, n_heads, dim_feedforward } = *config;
        config.check()?;
        checkpoint.load(device, |parameters| {
            Ok(Self {
                embedding: Embedding::load(&parameters.scope("embedding"), vocab_size, d_model)?,
                encoder: LsamEncoderLayer::load(&parameters.scope("encoder"), d_model, n_heads, dim_feedforward)?,
                decoder: LsamDecoder::load(&parameters.scope("decoder"), d_model, d_model, n_heads)?,
                fc: torch_linear(&parameters.scope("fc"), d_model, vocab_size, true)?,
                about: About::new(MODEL, config, parameters),
            })
        })
    }

    /// The architecture.
    pub fn config(&self) -> &LsamAeConfig {
        &self.about.config
    }

    /// Where the network runs.
    pub fn device(&self) -> &Device {
        &self.about.device
    }

    /// Logits `[batch, n, vocab_size]` for `batch` sequences of tokens, one after the other, and
    /// the decoder's state. They stay on the device: what overflows is passed on, and
    /// [`LsamAe::predict`] refuses it.
    ///
    /// # Errors
    /// Sequences of different lengths; tokens that do not exist.
    pub fn forward(&self, batch: usize, tokens: &[usize]) -> Result<LsamOutput> {
        let n = self.embedding.length(batch, tokens)?;
        let x = Tensor::new(self.device(), &[batch, n, self.embedding.dim], &self.embedding.rows(tokens)?)?;
        let encoded = self.encoder.forward(&x)?;
        let decoded = self.decoder.forward(&encoded.values, &encoded.state.memory)?;
        Ok(LsamOutput { values: linear(&decoded.values, &self.fc, Activation::None, None)?, state: decoded.state })
    }

    /// Logits `[batch, n, vocab_size]` on the host.
    ///
    /// # Errors
    /// As [`LsamAe::forward`]; logits that are not finite.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn predict(&self, batch: usize, tokens: &[usize]) -> Result<Vec<f32>> {
        pollster::block_on(self.predict_async(batch, tokens))
    }

    /// [`LsamAe::predict`] without blocking.
    ///
    /// # Errors
    /// As [`LsamAe::predict`].
    pub async fn predict_async(&self, batch: usize, tokens: &[usize]) -> Result<Vec<f32>> {
        read_predicted("the logits", &self.forward(batch, tokens)?.values).await
    }
}

/// Parameters that must be there though nothing reads them.
fn unused_norm(parameters: &Parameters<'_>, name: &str, width: usize) -> Result<()> {
    let norm = parameters.scope(name);
    norm.numbers("weight", &[width])?;
    norm.numbers("bias", &[width])?;
    Ok(())
}
