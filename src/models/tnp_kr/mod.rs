//! TNP-KR and BSA-TNP: a transformer neural process of kernel regression blocks
//! (arXiv 2411.12502, superseded by 2506.09163).
//!
//! A trained network is conditioned on observations once and then predicts at any number of
//! points. Parameter names are those of the papers' flax code.

mod block;
mod config;
mod deep_kernel;
mod dl4bi;
mod points;
mod posterior;
mod presets;
mod saved;

use std::{path::Path, sync::Arc};

pub use block::{BlockMemory, KrBlock};
pub use config::{AttentionConfig, BiasConfig, Config, GroupConfig, Output};
pub use deep_kernel::DeepKernelAttention;
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
    /// That of the checkpoint.
    fingerprint: u64,
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
                fingerprint: checkpoint.fingerprint(),
                device: device.clone(),
                config: config.clone(),
            })
        })?;
        Ok(Self { network: Arc::new(network) })
    }

    /// A network with random parameters: for measurements and tests.
    ///
    /// # Errors
    /// The configuration contradicts itself.
    pub fn random(device: &Device, config: &Config, seed: u64) -> Result<Self> {
        let checkpoint = Checkpoint::random(seed, |checkpoint| Self::new(&Device::cpu(), config, checkpoint))?;
        Self::new(device, config, &checkpoint)
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
    /// With scan attention time grows with the square of their number and the posterior with
    /// their number; with linear attention time grows with their number and the posterior is of
    /// constant size.
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
        if let Some(keep) = context.mask
            && keep.len() != batch * n_points
        {
            return Err(Error::Length { shape: vec![batch, n_points], expected: batch * n_points, found: keep.len() });
        }
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
        let columns = points.columns();
        let mut tiles = network.context_tiles(&points, context)?;
        let mut memories: Vec<BlockMemory> = Vec::new();
        let n_applications = config.n_blocks * config.n_repeats;
        for (i, block) in network.applications().enumerate() {
            let mut memory: Option<BlockMemory> = None;
            for tile in &tiles {
                let written = block.write(&tile.tokens, Some((&tile.coords, &columns)), tile.mask.as_ref())?;
                memory = Some(match memory {
                    Some(memory) => memory.merge(&written)?,
                    None => written,
                });
            }
            let memory = memory.ok_or(Error::EmptyContext { batch: None })?;
            // Nothing reads the context after the last block.
            if i + 1 < n_applications {
                for tile in &mut tiles {
                    tile.tokens = block.read(&tile.tokens, &memory, Some((&tile.coords, &columns)), None)?;
                }
            }
            memories.push(memory);
        }
        network.device.submit()?;
        Ok(Posterior { network: network.clone(), batch, n_context: n_points, memories, columns })
    }
}

/// A part of the context: what passes through a block at once.
struct Tile {
    /// `[batch, len, width]`.
    tokens: Tensor,
    /// `[batch, len, n_columns]`.
    coords: Tensor,
    mask: Option<Mask>,
}

impl Network {
    /// The blocks in the order of their application, repeats included.
    fn applications(&self) -> impl Iterator<Item = &KrBlock> {
        self.blocks.iter().flat_map(|block| std::iter::repeat_n(block, self.config.n_repeats))
    }

    /// Points that pass through the blocks at once: enough to keep the device busy, not more
    /// than what one binding holds of the widest layer.
    fn tile(&self, batch: usize) -> usize {
        let points: usize = if self.device == Device::cpu() { 4096 } else { 16_384 };
        let widest = self.device.max_binding() / size_of::<f32>() / self.config.widest() / batch;
        (points / batch).max(64).min(widest).max(1)
    }

    /// The context in parts, so that what is between layers stays small; scan attention needs
    /// it whole.
    fn context_tiles(&self, points: &Points<'_>, context: &Context<'_>) -> Result<Vec<Tile>> {
        let tile = if self.config.attention.is_linear() { self.tile(points.batch) } else { points.n_points };
        let observed = &self.obs[self.config.obs_dim..];
        let starts = (0..points.n_points).step_by(tile);
        let part = |start: usize| {
            let range = start..points.n_points.min(start + tile);
            let of_range = |keep: &[bool]| {
                let keep: Vec<bool> =
                    keep.chunks(points.n_points).flat_map(|keep| &keep[range.clone()]).copied().collect();
                Mask::new(&self.device, &[points.batch, range.len()], &keep)
            };
            Ok(Tile {
                tokens: self.embed(points, &range, observed, Some(context.values))?,
                coords: self.coords(points, &range)?,
                mask: context.mask.map(of_range).transpose()?,
            })
        };
        starts.map(part).collect()
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
        self.embed_norm.forward(&self.embed_all.forward(&inputs, None)?, None)
    }

    /// Coordinates of some points, `[batch, len, n_columns]`.
    fn coords(&self, points: &Points<'_>, range: &std::ops::Range<usize>) -> Result<Tensor> {
        let n_columns = points.columns().last().map_or(0, |columns| columns.end);
        Tensor::new(&self.device, &[points.batch, range.len(), n_columns], &points.coords(range))
    }
}
