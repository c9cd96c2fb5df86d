//! The parameters on their device.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use super::{
    block::{CmabQueries, DecoderLayer, Encoder, Latents},
    config::Config,
    covariance::Covariance,
    points::Points,
};
use crate::{
    checkpoint::Parameters,
    device::Backend,
    error::Result,
    models::{
        domain::{Domain, domain},
        layers::{LayerNorm, Mlp},
        open::About,
        tiles,
    },
    ops::ExactRolling,
    tensor::Tensor,
};

pub(super) const MODEL: &str = "cmanp";

/// What reads observations in each layer: it depends on parameters alone.
#[derive(Default)]
pub(super) struct Readers {
    /// None of an LBANP.
    pub queries: Vec<CmabQueries>,
    /// The same with exact sums, if they were asked for.
    pub exact: Vec<ExactRolling>,
}

pub(super) struct Network {
    pub about: About<Config>,
    /// What it was trained on, if the checkpoint says so.
    pub domain: Option<Domain>,
    pub latents: Latents,
    pub embedder: Mlp,
    query_embedder: Mlp,
    pub encoder: Encoder,
    pub decoder: Vec<DecoderLayer>,
    pub norm: LayerNorm,
    /// A CMANP-AND has it, too, and does not use it.
    pub predictor: Mlp,
    pub covariance: Option<Covariance>,
    /// For one data set on the CPU, made when it is first needed: plain, and with exact sums.
    readers: [OnceLock<Arc<Readers>>; 2],
}

impl Network {
    pub fn load(parameters: &Parameters<'_>, config: &Config) -> Result<Self> {
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
            domain: domain(parameters.checkpoint(), Some(config.dim_x))?,
            about: About::new(MODEL, config, parameters),
            readers: Default::default(),
        })
    }

    /// What reads the observations of a batch.
    pub fn readers(&self, batch: usize, is_exact: bool) -> Result<Arc<Readers>> {
        let kept = &self.readers[usize::from(is_exact)];
        let is_kept = batch == 1 && matches!(self.about.device.0, Backend::Cpu(_));
        if let Some(readers) = kept.get().filter(|_| is_kept) {
            return Ok(readers.clone());
        }
        let mut readers = Readers::default();
        if let Encoder::Rolling(layers) = &self.encoder {
            for layer in layers {
                let queries = layer.queries(batch)?;
                readers.exact.extend(is_exact.then(|| layer.exact(&queries)).transpose()?);
                readers.queries.push(queries);
            }
        }
        let readers = Arc::new(readers);
        Ok(if is_kept { kept.get_or_init(|| readers).clone() } else { readers })
    }

    /// Points of each batch element that pass through the layers at once.
    pub fn tile(&self, batch: usize) -> usize {
        tiles::size(&self.about.device, batch, self.about.config.widest())
    }

    /// The encodings of some targets before they have read anything, `[batch, len, d_model]`.
    pub fn embed_targets(&self, targets: &Points<'_>, range: &Range<usize>) -> Result<Tensor> {
        self.query_embedder.forward(&targets.rows(&self.about.device, range)?, None)
    }
}
