//! What a model is beside its layers, and how it is opened.

use std::fmt;

use serde::de::DeserializeOwned;

use crate::{
    checkpoint::{Checkpoint, Parameters},
    device::Device,
    error::{Error, Result},
};

/// What a model is beside its layers.
#[derive(Clone)]
pub(crate) struct About<C> {
    /// Its name in the metadata of checkpoints.
    pub model: &'static str,
    pub config: C,
    pub device: Device,
    /// That of the parameters.
    pub fingerprint: u64,
    n_parameters: usize,
}

impl<C: Clone> About<C> {
    pub fn new(model: &'static str, config: &C, parameters: &Parameters<'_>) -> Self {
        let checkpoint = parameters.checkpoint();
        Self {
            model,
            config: config.clone(),
            device: parameters.device().clone(),
            fingerprint: checkpoint.fingerprint(),
            n_parameters: checkpoint.n_parameters(),
        }
    }
}

impl<C: PartialEq> About<C> {
    /// Refuses to merge posteriors of different models, devices or batches.
    pub fn check_merge(&self, other: &Self, batch: usize, other_batch: usize) -> Result<()> {
        let is_same = self.fingerprint == other.fingerprint && self.config == other.config;
        let (found, allowed) = if !is_same || self.device != other.device {
            let found = format!("one of another model or device, on {}", other.device);
            (found, format!("one of the same model on {}", self.device))
        } else if batch != other_batch {
            (format!("one of batch {other_batch}"), format!("one of batch {batch}"))
        } else {
            return Ok(());
        };
        Err(Error::argument("Posterior::merge", "the other posterior", found, allowed))
    }
}

impl<C: fmt::Debug> About<C> {
    /// Prints a model of this type: not its layers, which are thousands of characters long.
    pub fn debug(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("config", &self.config)
            .field("device", &format_args!("{}", self.device))
            .field("n_parameters", &self.n_parameters)
            .finish()
    }
}

/// The configuration in the metadata of a checkpoint, which must be one of this model.
pub(crate) fn config<C: DeserializeOwned>(checkpoint: &Checkpoint, model: &str) -> Result<C> {
    let refused = |message: String| Error::Config { message: format!("checkpoint {}: {message}", checkpoint.file()) };
    let found = checkpoint.metadata("model")?;
    if found != model {
        return Err(refused(format!("it is of model {found:?}, allowed is {model:?}")));
    }
    serde_json::from_str(checkpoint.metadata("config")?).map_err(|error| refused(error.to_string()))
}
