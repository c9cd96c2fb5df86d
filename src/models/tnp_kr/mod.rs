//! TNP-KR and BSA-TNP: a transformer neural process of kernel regression blocks
//! (arXiv 2411.12502, superseded by 2506.09163).
//!
//! A trained network is conditioned on observations once and then predicts at any number of
//! points. Parameter names are those of the papers' flax code.

mod block;
mod config;
mod dl4bi;
mod points;
mod posterior;

use std::{path::Path, sync::Arc};

pub use block::{BlockMemory, KrBlock};
pub use config::{AttentionConfig, BiasConfig, Config, GroupConfig, Output};
pub use points::{Context, Locations};
pub use posterior::{Posterior, Prediction};

use crate::{
    checkpoint::Checkpoint,
    device::Device,
    error::{Error, Result},
    models::layers::{LayerNorm, Mlp},
    tensor::{Mask, Tensor, check_finite},
};
use points::Points;

/// A trained TNP-KR. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TnpKr {
    network: Arc<Network>,
}

/// The parameters on their device.
#[derive(Debug)]
struct Network {
    config: Config,
    device: Device,
    /// `[2, obs_dim]`: unobserved, then observed.
    obs: Vec<f32>,
    embed_all: Mlp,
    embed_norm: LayerNorm,
    blocks: Vec<KrBlock>,
    final_norm: LayerNorm,
    head: Mlp,
    /// Numbers that the head returns for a point.
    n_out: usize,
}

impl TnpKr {
    /// Reads a checkpoint whose metadata holds the configuration as JSON under `config`.
    ///
    /// # Errors
    /// The file cannot be read, is no such checkpoint, or its parameters are not those that
    /// its configuration asks for.
    pub fn open(device: &Device, path: impl AsRef<Path>) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let model = checkpoint.metadata("model")?;
        if model != "tnp_kr" {
            return Err(Error::Config { message: format!("the checkpoint is of model {model:?}, not \"tnp_kr\"") });
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
        if config.groups.is_empty() {
            return Err(Error::Config { message: "there is no coordinate group, allowed is one or more".into() });
        }
        let network = checkpoint.load(device, |parameters| {
            let width = config.width()?;
            let obs = parameters.scope("embed_obs").numbers("embedding", &[2, config.obs_dim])?;
            let blocks = (0..config.n_blocks).map(|i| KrBlock::load(&parameters.scope(format!("KRBlock_{i}")), config));
            Ok(Network {
                obs: obs.to_vec(),
                embed_all: Mlp::load(&parameters.scope("embed_all"), &config.embed_all, config.n_inputs())?,
                embed_norm: LayerNorm::load(&parameters.scope("LayerNorm_0"), width, block::EPSILON)?,
                blocks: blocks.collect::<Result<_>>()?,
                final_norm: LayerNorm::load(&parameters.scope("LayerNorm_1"), width, block::EPSILON)?,
                head: Mlp::load(&parameters.scope("head"), &config.head, width)?,
                n_out: config.head.n_out("head")?,
                device: device.clone(),
                config: config.clone(),
            })
        })?;
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

    /// Reads the observations. Time grows with the square of their number, memory with their
    /// number. On a GPU this starts the work; [`Device::wait`] waits for it.
    ///
    /// # Errors
    /// No observations in some batch element; coordinates that are not those of the model;
    /// sizes that do not fit; numbers that are not finite.
    pub fn condition(&self, context: &Context<'_>) -> Result<Posterior> {
        let network = &self.network;
        let config = &network.config;
        let batch = context.locations.batch;
        let n_values = config.n_values;
        if batch == 0 {
            return Err(points::no_batch());
        }
        // A batch that overflows has no points.
        let n_points = context.values.len() / batch.saturating_mul(n_values);
        let expected = batch.saturating_mul(n_points).saturating_mul(n_values);
        if context.values.len() != expected {
            return Err(Error::Length {
                shape: vec![batch, n_points, n_values],
                expected,
                found: context.values.len(),
            });
        }
        if n_points == 0 {
            return Err(Error::EmptyContext { batch: None });
        }
        let mask = context.mask.map(|keep| Mask::new(&network.device, &[batch, n_points], keep)).transpose()?;
        if let Some(keep) = context.mask
            && let Some(batch) = keep.chunks(n_points).position(|keep| !keep.contains(&true))
        {
            return Err(Error::EmptyContext { batch: Some(batch) });
        }
        let points = Points::new(config, &context.locations, context.mask, Some(n_points))?;
        for (i, values) in context.values.chunks(n_values).enumerate() {
            if points.exists(i) {
                check_finite(&format!("values of point {i}"), values)?;
            }
        }
        let all = 0..n_points;
        let mut kv = network.embed(&points, &all, &network.obs[config.obs_dim..], Some(context.values))?;
        let coords = network.coords(&points, &all)?;
        let columns = points.columns();
        let mut memories = Vec::new();
        let n_applications = config.n_blocks * config.n_repeats;
        for (i, block) in network.applications().enumerate() {
            let memory = block.write(&kv, &columns)?;
            // Nothing reads the context after the last block.
            if i + 1 < n_applications {
                kv = block.read(&kv, &memory, Some((&coords, &coords)), mask.as_ref(), None)?;
            }
            memories.push(memory);
        }
        network.device.submit()?;
        Ok(Posterior { network: network.clone(), batch, n_context: n_points, memories, coords, columns, mask })
    }
}

impl Network {
    /// The blocks in the order of their application, repeats included.
    fn applications(&self) -> impl Iterator<Item = &KrBlock> {
        self.blocks.iter().flat_map(|block| std::iter::repeat_n(block, self.config.n_repeats))
    }

    /// Points that are predicted at once: enough to keep the device busy.
    fn tile(&self, batch: usize) -> usize {
        let points: usize = if self.device == Device::cpu() { 4096 } else { 16_384 };
        (points / batch).max(64)
    }

    /// Tokens of some points, `[batch, len, width]`.
    fn embed(
        &self,
        points: &Points<'_>,
        range: &std::ops::Range<usize>,
        obs: &[f32],
        values: Option<&[f32]>,
    ) -> Result<Tensor> {
        let inputs = points.tokens(range, obs, values, self.config.n_values);
        let shape = [points.batch, range.len(), self.config.n_inputs()];
        let inputs = Tensor::new(&self.device, &shape, &inputs)?;
        self.embed_norm.forward(&self.embed_all.forward(&inputs, None)?)
    }

    /// Coordinates of some points, `[batch, len, n_columns]`.
    fn coords(&self, points: &Points<'_>, range: &std::ops::Range<usize>) -> Result<Tensor> {
        let n_columns = points.columns().last().map_or(0, |columns| columns.end);
        Tensor::new(&self.device, &[points.batch, range.len(), n_columns], &points.coords(range))
    }
}
