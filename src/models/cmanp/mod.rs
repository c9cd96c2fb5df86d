//! CMANP: a neural process whose posterior takes in an endless stream of observations in
//! constant memory and constant time a point, exactly (arXiv 2305.14567).
//!
//! ```
//! use wgpu_attention::{Device, models::cmanp::{Cmanp, Context}};
//!
//! # fn main() -> wgpu_attention::Result<()> {
//! let model = Cmanp::open(&Device::best(), "checkpoints/cmanp_gp_1d.safetensors")?;
//! // Three numbers a point: the time, and the cosine and sine of the phase of a known cycle.
//! let point = |t: f32| [t, (44.0 * t).cos(), (44.0 * t).sin()];
//! let mut posterior = model.condition(&Context::new(&point(-1.0), &[0.3]))?;
//! for (t, y) in [(0.5, 0.2), (1.0, 0.5)] {
//!     posterior = posterior.update(&Context::new(&point(t), &[y]))?; // never larger than before
//! }
//! let prediction = posterior.predict(&point(0.75))?; // .mean, .std
//! # assert!(prediction.mean[0].is_finite());
//! # Ok(())
//! # }
//! ```
//!
//! Every layer's own latents read every observation ([`Cmab`]); what they have read is a
//! [`RollingState`](crate::ops::RollingState), and nothing else depends on the observations.
//! Posteriors of disjoint data merge, so that a context can be split over devices or machines.
//! With a [`CovarianceConfig`] it is a CMANP-AND, whose targets vary together; without
//! [`Config::n_latents_per_layer`] an LBANP (arXiv 2211.08458), which has to keep its context.
//! Parameter names are those of the papers' PyTorch code.

mod attention;
mod block;
mod config;
mod covariance;
mod joint;
mod points;
mod posterior;
mod saved;

use std::{path::Path, sync::Arc};

pub use attention::{Attention, FeedForward, PreNormAttention, PreNormFeedForward};
pub use block::{Cmab, CmabQueries, CmabSizes, DecoderLayer, LatentBlock};
pub use config::{Config, CovarianceConfig, CovarianceKind};
pub use covariance::TransformerLayer;
pub use joint::{Evaluation, JointPrediction, MAX_JOINT};
pub use points::Context;
pub use posterior::{Posterior, Prediction};

use crate::{
    checkpoint::{Checkpoint, Parameters},
    device::Device,
    error::{Error, Result},
    models::layers::{LayerNorm, Mlp},
    tensor::Tensor,
};
use block::{Encoder, Latents};
use covariance::Covariance;
use points::Points;

/// A trained CMANP, CMANP-AND or LBANP. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cmanp {
    network: Arc<Network>,
}

/// The parameters on their device.
#[derive(Debug)]
struct Network {
    config: Config,
    device: Device,
    latents: Latents,
    embedder: Mlp,
    query_embedder: Mlp,
    encoder: Encoder,
    decoder: Vec<DecoderLayer>,
    norm: LayerNorm,
    /// A CMANP-AND has it, too, and does not use it.
    predictor: Mlp,
    covariance: Option<Covariance>,
    /// That of the checkpoint.
    fingerprint: u64,
}

impl Cmanp {
    /// Reads a checkpoint whose metadata holds the configuration as JSON under `config`.
    ///
    /// # Errors
    /// The file cannot be read, is no such checkpoint, or its parameters are not those that
    /// its configuration asks for.
    pub fn open(device: &Device, path: impl AsRef<Path>) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let model = checkpoint.metadata("model")?;
        if model != "cmanp" {
            return Err(Error::Config { message: format!("the checkpoint is of model {model:?}, not \"cmanp\"") });
        }
        let config = serde_json::from_str(checkpoint.metadata("config")?)
            .map_err(|error| Error::Config { message: error.to_string() })?;
        Self::new(device, &config, &checkpoint)
    }

    /// Builds the network from parameters.
    ///
    /// # Errors
    /// The configuration contradicts itself; a parameter is missing, misshapen or left over.
    pub fn new(device: &Device, config: &Config, checkpoint: &Checkpoint) -> Result<Self> {
        config.check()?;
        let network = checkpoint.load(device, |parameters| Network::load(parameters, config, checkpoint))?;
        Ok(Self { network: Arc::new(network) })
    }

    /// The architecture.
    pub fn config(&self) -> &Config {
        &self.network.config
    }

    /// Where the network runs.
    pub fn device(&self) -> &Device {
        &self.network.device
    }

    /// Reads the observations. On a GPU this starts the work; [`Device::wait`] waits for it.
    ///
    /// Time grows with their number. Memory does not, beyond the observations themselves: they
    /// are read in blocks. (An LBANP reads its context whole.)
    ///
    /// # Errors
    /// No observations in some batch element; sizes that do not fit; numbers that are not finite.
    pub fn condition(&self, context: &Context<'_>) -> Result<Posterior> {
        self.condition_in_blocks(context, self.network.tile(1))
    }

    /// [`Cmanp::condition`] with at most `block` points of all the batch at a time; the result
    /// is the same up to rounding.
    ///
    /// # Errors
    /// As [`Cmanp::condition`]; a block of 0.
    pub fn condition_in_blocks(&self, context: &Context<'_>, block: usize) -> Result<Posterior> {
        let points = Points::observed(&self.network.config, context)?;
        // Before the counts: any batch fits no points, and counts would be made for all of it.
        if points.n == 0 {
            return Err(Error::EmptyContext { batch: None });
        }
        if let Some(batch) = points.counts().iter().position(|&n| n == 0) {
            return Err(Error::EmptyContext { batch: Some(batch) });
        }
        Posterior::condition(&self.network, &points, block)
    }
}

impl Network {
    fn load(parameters: &Parameters<'_>, config: &Config, checkpoint: &Checkpoint) -> Result<Self> {
        let width = config.d_model;
        let embedder = |name, n_in| Mlp::load_torch(&parameters.scope(name), n_in, &vec![width; config.emb_depth]);
        let layers = parameters.scope("decoder").scope("layers");
        let decoder = (0..config.n_layers)
            .map(|l| DecoderLayer::load(&layers.scope(l), width, config.n_heads, config.dim_feedforward));
        let heads = [config.dim_feedforward, 2 * config.dim_y];
        Ok(Self {
            latents: Latents::load(parameters, config.n_latents, width)?,
            embedder: embedder("embedder", config.dim_x + config.dim_y)?,
            query_embedder: embedder("query_embedder", config.dim_x)?,
            encoder: Encoder::load(&parameters.scope("encoder"), config)?,
            decoder: decoder.collect::<Result<_>>()?,
            norm: LayerNorm::load_torch(&parameters.scope("norm"), width)?,
            predictor: Mlp::load_torch(&parameters.scope("predictor"), width, &heads)?,
            covariance: Covariance::load(parameters, config)?,
            fingerprint: checkpoint.fingerprint(),
            device: parameters.device().clone(),
            config: config.clone(),
        })
    }

    /// Points that pass through the layers at once: enough to keep the device busy.
    fn tile(&self, batch: usize) -> usize {
        let points: usize = if self.device == Device::cpu() { 4096 } else { 16_384 };
        (points / batch).max(64)
    }

    /// The encodings of some targets before they have read anything, `[batch, len, d_model]`.
    fn embed_targets(&self, targets: &Points<'_>, range: &std::ops::Range<usize>) -> Result<Tensor> {
        self.query_embedder.forward(&targets.rows(&self.device, range)?, None)
    }
}
