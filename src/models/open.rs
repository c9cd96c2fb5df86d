//! What a model is beside its layers, and how it is opened.

use std::fmt;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

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
    /// Refuses to join posteriors of different models, devices or batches.
    pub fn check_same(&self, op: &'static str, other: &Self, batch: usize, other_batch: usize) -> Result<()> {
        let is_same = self.fingerprint == other.fingerprint && self.config == other.config;
        let (found, allowed) = if !is_same {
            ("one of another model".to_owned(), "one of the same model".to_owned())
        } else if self.device != other.device {
            let by_identity = [&other.device, &self.device].map(Device::identity);
            let [found, allowed] = by_identity.map(|device| format!("one of the same model on {device}"));
            (found, allowed)
        } else if batch != other_batch {
            (format!("one of batch {other_batch}"), format!("one of batch {batch}"))
        } else {
            return Ok(());
        };
        Err(Error::argument(op, "the other posterior", found, allowed))
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

/// Settings of the authors' own code in the metadata of a checkpoint, under the key `upstream`, as
/// `tools/convert.py` writes them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Upstream {
    /// Their YAML.
    pub yaml: Value,
    /// What that of a TNP-KR leaves to the data: the numbers that are observed at a point …
    pub n_values: Option<usize>,
    /// … and the name and the size of each coordinate group.
    #[serde(default)]
    pub groups: Vec<(String, usize)>,
}

/// The configuration in the metadata of a checkpoint, which must be one of this model; settings of the authors' code
/// are translated by `from_upstream`.
pub(crate) fn config<C: DeserializeOwned>(
    checkpoint: &Checkpoint,
    model: &str,
    from_upstream: impl FnOnce(&Upstream) -> Result<C>,
) -> Result<C> {
    let refused = |message: String| Error::Config { message: format!("checkpoint {}: {message}", checkpoint.file()) };
    let found = checkpoint.metadata("model")?;
    if found != model {
        return Err(refused(format!("it is of model {found:?}, allowed is {model:?}")));
    }
    match (checkpoint.metadata("config"), checkpoint.metadata("upstream")) {
        (Err(_), Ok(upstream)) => {
            let upstream = serde_json::from_str(upstream).map_err(|error| refused(format!("upstream: {error}")))?;
            from_upstream(&upstream).map_err(|error| match error {
                Error::Config { message } => refused(format!("upstream: {message}")),
                other => other,
            })
        }
        (config, _) => serde_json::from_str(config?).map_err(|error| refused(error.to_string())),
    }
}
