//! The parameters on their device.

use std::ops::Range;

use super::{
    block::{DecoderLayer, Encoder, Latents},
    config::Config,
    covariance::Covariance,
    points::Points,
};
use crate::{
    checkpoint::Parameters,
    error::Result,
    models::{
        domain::{Domain, domain},
        layers::{LayerNorm, Mlp},
        open::About,
        tiles,
    },
    tensor::Tensor,
};

pub(super) const MODEL: &str = "cmanp";

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
        })
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
