//! Posteriors as data: saved, loaded, sent.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use serde::{Deserialize, Serialize};

use super::{Cmanp, Config, Network, Posterior, block::Encoder};
use crate::{
    checkpoint::Checkpoint,
    error::{Error, Result},
    ops::{Layout, RollingState, scan_attention::MASKED},
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
    /// That of the states, so that damage is seen.
    states: u64,
    batch: usize,
    n_points: Vec<u64>,
}

impl Network {
    /// Whether both compute the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint && self.config == other.config
    }
}

impl Posterior {
    /// Everything that this posterior adds to the network, to be saved or sent;
    /// [`Cmanp::restore`] makes it a posterior again that goes on with the same bits on the same
    /// device. More metadata may be set beside it.
    ///
    /// # Errors
    /// The device was lost; a state that is not finite; an LBANP.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn to_checkpoint(&self) -> Result<Checkpoint> {
        pollster::block_on(self.to_checkpoint_async())
    }

    /// [`Posterior::to_checkpoint`] without blocking.
    ///
    /// # Errors
    /// As [`Posterior::to_checkpoint`].
    pub async fn to_checkpoint_async(&self) -> Result<Checkpoint> {
        self.check_rolling("Posterior::to_checkpoint")?;
        let mut checkpoint = Checkpoint::default();
        for (i, state) in self.states.iter().enumerate() {
            checkpoint.insert(&format!("state_{i}"), state.rows.shape(), state.rows.read_async().await?)?;
        }
        let metadata = Metadata {
            model: "cmanp".into(),
            config: self.network.config.clone(),
            fingerprint: self.network.fingerprint,
            states: checkpoint.fingerprint(),
            batch: self.batch,
            n_points: self.n_points.clone(),
        };
        let json = serde_json::to_string(&metadata).map_err(|error| Error::Config { message: error.to_string() })?;
        checkpoint.set_metadata(KEY, json);
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

impl Cmanp {
    /// Reads a posterior from a file that [`Posterior::save`] wrote.
    ///
    /// # Errors
    /// As [`Cmanp::restore`]; the file cannot be read.
    pub fn open_posterior(&self, path: impl AsRef<Path>) -> Result<Posterior> {
        self.restore(&Checkpoint::open(path)?)
    }

    /// The posterior that [`Posterior::to_checkpoint`] stored, on this network's device.
    ///
    /// # Errors
    /// No saved posterior, that of another model, configuration or parameters, a damaged or
    /// misshapen one, states that no observations leave.
    pub fn restore(&self, checkpoint: &Checkpoint) -> Result<Posterior> {
        let network = &self.network;
        let config = &network.config;
        let refused = |message: String| Err(Error::Config { message });
        let saved: Metadata = match serde_json::from_str(checkpoint.metadata(KEY)?) {
            Ok(saved) => saved,
            Err(error) => return refused(format!("posterior: {error}")),
        };
        if saved.model != "cmanp" || saved.fingerprint != network.fingerprint {
            return refused(format!(
                "the posterior is of model {:?} with parameters {:016x}, allowed is \"cmanp\" with {:016x}",
                saved.model, saved.fingerprint, network.fingerprint
            ));
        }
        if saved.config != *config {
            return refused("the posterior is of a model with these parameters, but another configuration".into());
        }
        if saved.states != checkpoint.fingerprint() {
            return refused(format!(
                "the posterior's states are not those that were saved: fingerprint {:016x}, saved as {:016x}",
                checkpoint.fingerprint(),
                saved.states
            ));
        }
        let (Encoder::Rolling(layers), Some(n_latents)) = (&network.encoder, config.n_latents_per_layer) else {
            return refused("an LBANP keeps no state of its context, so none can be restored".into());
        };
        if saved.batch == 0 || saved.batch > 1 << 20 || saved.n_points.len() != saved.batch {
            return refused(format!(
                "the posterior has batch {} and {} numbers of observations, allowed is 1 to 2^20 and as many",
                saved.batch,
                saved.n_points.len()
            ));
        }
        if let Some(batch) = saved.n_points.iter().position(|&n| n == 0) {
            return refused(format!("the posterior has 0 observations in batch element {batch}, allowed is 1 or more"));
        }
        let shape = [saved.batch, n_latents, config.n_heads, 3 + 2 * (config.d_model / config.n_heads)];
        let states = checkpoint.load(&network.device, |parameters| {
            let state = |i| {
                let name = format!("state_{i}");
                check_rows(&name, parameters.numbers(&name, &shape)?, shape[3])?;
                Ok(RollingState {
                    rows: parameters.tensor(&name, &shape)?,
                    layout: Layout::Projected { n_heads: config.n_heads },
                })
            };
            (0..layers.len()).map(state).collect::<Result<Vec<_>>>()
        })?;
        let queries = layers.iter().map(|layer| layer.queries(saved.batch)).collect::<Result<_>>()?;
        Ok(Posterior {
            network: network.clone(),
            batch: saved.batch,
            n_points: saved.n_points,
            queries: Arc::new(queries),
            states,
            readout: Arc::new(OnceLock::new()),
        })
    }
}

/// Refuses a row that no keys leave: a reference without a weight would read as if it had keys.
fn check_rows(name: &str, rows: &[f32], width: usize) -> Result<()> {
    let is_unread = |row: &[f32]| row[0] <= 0.5 * MASKED && row[1..].iter().all(|&x| x == 0.0);
    let is_read = |row: &[f32]| row[0] > 0.5 * MASKED && row[1] > 0.0 && row.iter().all(|x| x.is_finite());
    match rows.chunks(width).position(|row| !is_unread(row) && !is_read(row)) {
        None => Ok(()),
        Some(row) => Err(Error::Config {
            message: format!(
                "row {row} of the posterior's {name} has reference {} and weight {}, allowed is a finite row with a \
                 weight above 0, or one of sums 0 with a reference of {MASKED:e}",
                rows[row * width],
                rows[row * width + 1]
            ),
        }),
    }
}
