//! The NAM Transformer of the long-range table (arXiv 2302.09422, table 1): softmax attention
//! replaced by an ungated memory.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use super::{attention::unit_heads, config::TransformerConfig, tokens::Embedding};
use crate::{
    Device,
    checkpoint::{Checkpoint, Parameters},
    error::{Error, Result, check_limit},
    host::zeros,
    models::{
        layers::{EPSILON, LayerNorm, torch_linear},
        open::{self, About},
        tiles::read_predicted,
    },
    ops::{Activation, AttentionMemory, Layout, Linear, add, columns, linear},
    tensor::Tensor,
};

const MODEL: &str = "nam_transformer";

/// From tokens to classes. A token stands before every sequence and its vector is classified.
/// Queries and keys are unit vectors of each head; where one is zero the authors' code divides by
/// zero, and here it stays zero. There is no mask: what is padded is written too.
///
/// ```
/// use wgpu_attention::{Device, checkpoint::Checkpoint, models::nam::{NamTransformer, TransformerConfig}, serde_json};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let config = r#"{"vocab": 5, "max_len": 9, "emb": 4, "qkv": 8, "mlp": 4, "heads": 4, "layers": 1,
///                  "classes": 2, "learn_pos": false}"#;
/// let config: TransformerConfig = serde_json::from_str(config).unwrap();
/// let device = Device::best();
/// let parameters = Checkpoint::random(0, |parameters| NamTransformer::new(&device, &config, parameters))?;
/// let model = NamTransformer::new(&device, &config, &parameters)?;
/// assert_eq!(model.forward(1, &[0, 4, 2])?.logits.shape(), [1, 2]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct NamTransformer {
    about: About<TransformerConfig>,
    embedding: Embedding,
    cls: Vec<f32>,
    /// Learned ones, or as many sinusoids as were needed so far.
    positions: Arc<Mutex<Vec<f32>>>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    mlp: Linear,
    logits: Linear,
}

#[derive(Clone, Debug)]
struct Block {
    n_heads: usize,
    norms: [LayerNorm; 2],
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    mlp: [Linear; 2],
}

/// What a transformer returns.
#[derive(Clone, Debug)]
pub struct TransformerOutput {
    /// `[batch, classes]`.
    pub logits: Tensor,
    /// After the last normalisation, `[batch, n + 1, emb]`.
    pub encoded: Tensor,
}

impl Block {
    fn load(parameters: &Parameters<'_>, config: &TransformerConfig) -> Result<Self> {
        // Parameters have PyTorch's names, normalisations flax's epsilon.
        let TransformerConfig { emb, qkv, mlp, heads, .. } = *config;
        let dim = qkv / heads;
        let attention = parameters.scope("attn");
        let project = |name: &str| -> Result<Linear> {
            let weight = attention.weight(name, &[emb, heads, dim])?.reshape(&[emb, qkv])?;
            Ok(Linear { weight, bias: None })
        };
        let norm = |name: &str| Ok(LayerNorm::load_torch(&parameters.scope(name), emb)?.with_epsilon(EPSILON));
        let out = attention.weight("out", &[heads, dim, emb])?.reshape(&[qkv, emb])?;
        Ok(Self {
            n_heads: heads,
            norms: [norm("ln1")?, norm("ln2")?],
            q: project("query")?,
            k: project("key")?,
            v: project("value")?,
            out: Linear { weight: out, bias: None },
            mlp: [
                torch_linear(&parameters.scope("mlp1"), emb, mlp, true)?,
                torch_linear(&parameters.scope("mlp2"), mlp, emb, true)?,
            ],
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let dense = |x: &Tensor, layer: &Linear| linear(x, layer, Activation::None, None);
        let z = self.norms[0].forward(x, None)?;
        let q = unit_heads(&dense(&z, &self.q)?, self.n_heads)?;
        let k = unit_heads(&dense(&z, &self.k)?, self.n_heads)?;
        let memory = AttentionMemory::new(Layout::Projected { n_heads: self.n_heads });
        let read = memory.read(&q, &memory.write(None, &k, &dense(&z, &self.v)?, None)?)?;
        let x = linear(&read.values, &self.out, Activation::None, Some(x))?;
        let hidden = linear(&self.norms[1].forward(&x, None)?, &self.mlp[0], Activation::GeluTanh, None)?;
        linear(&hidden, &self.mlp[1], Activation::None, Some(&x))
    }
}

impl fmt::Debug for NamTransformer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.about.debug("NamTransformer", f)
    }
}

impl NamTransformer {
    /// Reads a file of model `nam_transformer`, see [`checkpoint`](crate::checkpoint).
    ///
    /// # Errors
    /// The file cannot be read, is no such checkpoint, or its parameters are not those that its
    /// configuration asks for.
    pub fn open(device: &Device, path: impl AsRef<Path>) -> Result<Self> {
        Self::from_checkpoint(device, &Checkpoint::open(path)?)
    }

    /// [`NamTransformer::open`] of a file that was read already.
    ///
    /// # Errors
    /// As [`NamTransformer::open`].
    pub fn from_checkpoint(device: &Device, checkpoint: &Checkpoint) -> Result<Self> {
        let unknown = |_: &_| {
            let message = "settings of the authors' code are not read; give the config of a transformer";
            Err(Error::Config { message: message.into() })
        };
        Self::new(device, &open::config(checkpoint, MODEL, unknown)?, checkpoint)
    }

    /// Builds the network from parameters.
    ///
    /// # Errors
    /// The configuration contradicts itself; a parameter is missing, misshapen or left over.
    pub fn new(device: &Device, config: &TransformerConfig, checkpoint: &Checkpoint) -> Result<Self> {
        config.check()?;
        let TransformerConfig { vocab, max_len, emb, mlp, layers, classes, .. } = *config;
        checkpoint.load(device, |parameters| {
            let blocks = (0..layers).map(|i| Block::load(&parameters.scope(format!("blocks.{i}")), config));
            let positions = match config.learn_pos {
                true => parameters.numbers("pos_embedding", &[1, max_len + 1, emb])?.to_vec(),
                false => Vec::new(),
            };
            Ok(Self {
                embedding: Embedding::load(&parameters.scope("embed"), vocab, emb)?,
                cls: parameters.numbers("cls", &[1, 1, emb])?.to_vec(),
                positions: Arc::new(Mutex::new(positions)),
                blocks: blocks.collect::<Result<_>>()?,
                norm: LayerNorm::load_torch(&parameters.scope("encoder_norm"), emb)?.with_epsilon(EPSILON),
                mlp: torch_linear(&parameters.scope("mlp"), emb, mlp, true)?,
                logits: torch_linear(&parameters.scope("logits"), mlp, classes, true)?,
                about: About::new(MODEL, config, parameters),
            })
        })
    }

    /// The architecture.
    pub fn config(&self) -> &TransformerConfig {
        &self.about.config
    }

    /// Where the network runs.
    pub fn device(&self) -> &Device {
        &self.about.device
    }

    /// Classifies `batch` sequences of tokens, one after the other. The logits stay on the device: what
    /// overflows is passed on, and [`NamTransformer::predict`] refuses it.
    ///
    /// # Errors
    /// Sequences of different lengths, or longer than `max_len`; tokens that do not exist.
    pub fn forward(&self, batch: usize, tokens: &[usize]) -> Result<TransformerOutput> {
        let n = self.embedding.length(batch, tokens)?;
        let emb = self.config().emb;
        check_limit("tokens of a sequence (max_len)", n as u64, self.config().max_len as u64)?;
        let mut rows = zeros(&[batch, n + 1, emb])?;
        for (rows, tokens) in rows.chunks_exact_mut((n + 1) * emb).zip(tokens.chunks_exact(n)) {
            let (cls, rows) = rows.split_at_mut(emb);
            cls.copy_from_slice(&self.cls);
            rows.copy_from_slice(&self.embedding.rows(tokens)?);
        }
        let positions = self.positions(n + 1)?;
        let mut x = add(&Tensor::new(self.device(), &[batch, n + 1, emb], &rows)?, &positions, 1.0)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        let encoded = self.norm.forward(&x, None)?;
        let cls = columns(&encoded.reshape(&[batch, (n + 1) * emb])?, 0..emb)?;
        let hidden = linear(&cls, &self.mlp, Activation::Relu, None)?;
        Ok(TransformerOutput { logits: linear(&hidden, &self.logits, Activation::None, None)?, encoded })
    }

    /// Those of the first `n` tokens, `[n, emb]`.
    fn positions(&self, n: usize) -> Result<Tensor> {
        let emb = self.config().emb;
        let mut known = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < n * emb {
            *known = sinusoids(n, emb)?;
        }
        Tensor::new(self.device(), &[n, emb], &known[..n * emb])
    }

    /// Logits `[batch, classes]` on the host.
    ///
    /// # Errors
    /// As [`NamTransformer::forward`]; logits that are not finite.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn predict(&self, batch: usize, tokens: &[usize]) -> Result<Vec<f32>> {
        pollster::block_on(self.predict_async(batch, tokens))
    }

    /// [`NamTransformer::predict`] without blocking.
    ///
    /// # Errors
    /// As [`NamTransformer::predict`].
    pub async fn predict_async(&self, batch: usize, tokens: &[usize]) -> Result<Vec<f32>> {
        read_predicted("the logits", &self.forward(batch, tokens)?.logits).await
    }
}

/// Positions `[n, emb]`: sines in even channels, cosines in odd ones, wavelengths from 2 pi to
/// 20 000 pi (Vaswani et al. 2017, section 3.5).
fn sinusoids(n: usize, emb: usize) -> Result<Vec<f32>> {
    let rates: Vec<f64> =
        (0..emb).map(|channel| (-((channel / 2 * 2) as f64) * 10_000f64.ln() / emb as f64).exp()).collect();
    let number = |position: usize, channel: usize| {
        let angle = position as f64 * rates[channel];
        (if channel.is_multiple_of(2) { angle.sin() } else { angle.cos() }) as f32
    };
    let mut all = zeros(&[n, emb])?;
    for (position, row) in all.chunks_exact_mut(emb).enumerate() {
        row.iter_mut().enumerate().for_each(|(channel, x)| *x = number(position, channel));
    }
    Ok(all)
}
