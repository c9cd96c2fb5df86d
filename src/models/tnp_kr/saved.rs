//! Posteriors as data: saved, loaded, sent.

use std::{ops::Range, path::Path};

use serde::{Deserialize, Serialize};

use super::{Config, Network, Posterior, TnpKr};
use crate::{
    checkpoint::Checkpoint,
    error::{Error, Result},
    tensor::Mask,
};

/// Under which key the metadata of a saved posterior are.
const KEY: &str = "posterior";

/// What the tensors of a saved posterior do not say.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    model: String,
    config: Config,
    /// That of the network's parameters.
    fingerprint: u64,
    batch: usize,
    n_context: usize,
    columns: Vec<Range<usize>>,
    masked: bool,
    /// Of linear attention: the keys in each batch element.
    n_keys: Vec<u64>,
}

impl Network {
    /// Whether both compute the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint && self.config == other.config
    }
}

impl Posterior {
    /// Everything that this posterior adds to the network, to be saved or sent;
    /// [`TnpKr::restore`] makes it a posterior again that predicts the same bits on the same
    /// device.
    ///
    /// # Errors
    /// The device was lost; keys, values or sums that are not finite.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn to_checkpoint(&self) -> Result<Checkpoint> {
        pollster::block_on(self.to_checkpoint_async())
    }

    /// [`Posterior::to_checkpoint`] without blocking.
    ///
    /// # Errors
    /// As [`Posterior::to_checkpoint`].
    pub async fn to_checkpoint_async(&self) -> Result<Checkpoint> {
        let metadata = Metadata {
            model: "tnp_kr".into(),
            config: self.network.config.clone(),
            fingerprint: self.network.fingerprint,
            batch: self.batch,
            n_context: self.n_context,
            columns: self.columns.clone(),
            masked: self.memories.first().is_some_and(|memory| memory.is_masked()),
            n_keys: self.memories.first().map(|memory| memory.n_keys().to_vec()).unwrap_or_default(),
        };
        let json = serde_json::to_string(&metadata).map_err(|error| Error::Config { message: error.to_string() })?;
        let mut checkpoint = Checkpoint::default();
        checkpoint.set_metadata(KEY, json);
        for (i, memory) in self.memories.iter().enumerate() {
            for (name, tensor) in memory.tensors() {
                checkpoint.insert(&format!("memory_{i}.{name}"), tensor.shape(), tensor.read_async().await?)?;
            }
        }
        for (name, tensor) in self.memories.first().map(|memory| memory.shared_tensors()).into_iter().flatten() {
            checkpoint.insert(name, tensor.shape(), tensor.read_async().await?)?;
        }
        Ok(checkpoint)
    }

    /// Writes [`Posterior::to_checkpoint`] to a safetensors file, which is replaced whole or
    /// not at all.
    ///
    /// # Errors
    /// As there; the file cannot be written.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.to_checkpoint()?.save(path)
    }
}

impl TnpKr {
    /// Reads a posterior from a file that [`Posterior::save`] wrote.
    ///
    /// # Errors
    /// As [`TnpKr::restore`]; the file cannot be read.
    pub fn open_posterior(&self, path: impl AsRef<Path>) -> Result<Posterior> {
        self.restore(&Checkpoint::open(path)?)
    }

    /// The posterior that [`Posterior::to_checkpoint`] stored, on this network's device.
    ///
    /// # Errors
    /// No saved posterior, that of another model or other parameters, or a misshapen one.
    pub fn restore(&self, checkpoint: &Checkpoint) -> Result<Posterior> {
        let network = &self.network;
        let config = &network.config;
        let refused = |message: String| Error::Config { message };
        let saved: Metadata =
            serde_json::from_str(checkpoint.metadata(KEY)?).map_err(|error| refused(format!("posterior: {error}")))?;
        if saved.model != "tnp_kr" || saved.fingerprint != network.fingerprint {
            return Err(refused(format!(
                "the posterior is of model {:?} with parameters {:016x}, allowed is \"tnp_kr\" with {:016x}",
                saved.model, saved.fingerprint, network.fingerprint
            )));
        }
        if saved.config != *config {
            return Err(refused("the posterior is of a model with these parameters, but another configuration".into()));
        }
        let columns_fit = saved.columns.len() == config.groups.len()
            && saved.columns.iter().try_fold(0, |end, c| (c.start == end && c.end >= end).then_some(c.end)).is_some()
            && saved.columns.iter().zip(&config.groups).all(|(c, g)| g.dim.is_none_or(|dim| dim == c.len()));
        let n_columns = saved.columns.last().map_or(0, |columns| columns.end);
        if !columns_fit || saved.batch == 0 || saved.n_context == 0 || n_columns > 1 << 16 {
            return Err(refused(format!(
                "the posterior has batch {}, {} observations and columns {:?}, which do not fit the model",
                saved.batch, saved.n_context, saved.columns
            )));
        }
        let points = [saved.batch, saved.n_context];
        let is_scan = !config.attention.is_linear();
        let counts_fit = match (is_scan, saved.masked) {
            (true, _) => saved.n_keys.is_empty(),
            (false, true) => saved.n_keys.iter().all(|n| (1..=saved.n_context as u64).contains(n)),
            (false, false) => saved.n_keys.iter().all(|&n| n == saved.n_context as u64),
        };
        if !counts_fit || !(is_scan || saved.n_keys.len() == saved.batch) {
            return Err(refused(format!(
                "the posterior has {:?} keys of {} observations in {} batch elements",
                saved.n_keys, saved.n_context, saved.batch
            )));
        }
        checkpoint.load(&network.device, |parameters| {
            let coords = is_scan.then(|| parameters.tensor("coords", &[saved.batch, saved.n_context, n_columns]));
            let coords = coords.transpose()?;
            let mask = (is_scan && saved.masked).then(|| parameters.numbers("mask", &points)).transpose()?;
            let mask = mask.map(|mask| {
                let keep: Vec<bool> = mask.iter().map(|&keep| keep > 0.0).collect();
                if mask.iter().any(|&keep| keep != 0.0 && keep != 1.0)
                    || keep.chunks(saved.n_context).any(|keep| !keep.contains(&true))
                {
                    return Err(refused("the posterior's mask is not one of booleans that keep a point".into()));
                }
                Mask::new(&network.device, &points, &keep)
            });
            let mask = mask.transpose()?;
            let restore = |(i, block): (usize, &super::KrBlock)| {
                let scope = parameters.scope(format!("memory_{i}"));
                let shapes = config.attention.memory_shapes(saved.batch, saved.n_context)?;
                let tensors = shapes.iter().map(|(name, shape)| scope.tensor(name, shape));
                let coords = coords.as_ref().map(|coords| (coords, &saved.columns[..]));
                block.restore(tensors.collect::<Result<_>>()?, coords, mask.clone(), saved.masked, &saved.n_keys)
            };
            let memories = network.applications().enumerate().map(restore).collect::<Result<_>>()?;
            Ok(Posterior {
                network: network.clone(),
                batch: saved.batch,
                n_context: saved.n_context,
                memories,
                columns: saved.columns.clone(),
            })
        })
    }
}
