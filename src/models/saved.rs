//! The part of a saved posterior that is alike in all models: which model it is of, and what tells that
//! it is as it was saved.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{domain::Summary, frame::Frame, open::About};
use crate::{
    checkpoint::{Checkpoint, Fingerprint},
    error::{Error, Result},
};

/// Under which key of the metadata it is.
const KEY: &str = "posterior";

/// What the tensors do not say, as JSON.
#[derive(Serialize)]
struct Metadata<'a, C, D> {
    model: &'a str,
    config: &'a C,
    /// That of the network's parameters.
    fingerprint: u64,
    batch: usize,
    /// That of the posterior's tensors.
    states: u64,
    /// That of the batch and the details.
    numbers: u64,
    #[serde(flatten)]
    details: &'a D,
}

/// Adds to the tensors of a posterior, all of them, what they do not say.
pub(crate) fn write<C: Serialize, D: Serialize>(
    checkpoint: &mut Checkpoint,
    about: &About<C>,
    batch: usize,
    details: &D,
) -> Result<()> {
    let About { model, config, fingerprint, .. } = about;
    let (states, numbers) = (checkpoint.fingerprint(), numbers(checkpoint, batch, details)?);
    let metadata = Metadata { model, config, fingerprint: *fingerprint, batch, states, numbers, details };
    let json = serde_json::to_string(&metadata).map_err(|error| refused(checkpoint, error.to_string()))?;
    checkpoint.set_metadata(KEY, json);
    Ok(())
}

/// The fingerprint of what is not in the tensors.
fn numbers<D: Serialize>(checkpoint: &Checkpoint, batch: usize, details: &D) -> Result<u64> {
    let text = serde_json::to_string(&(batch, details)).map_err(|error| refused(checkpoint, error.to_string()))?;
    Ok(Fingerprint::of(&text))
}

/// The batch and the details of a posterior, which must be one of this model, as it was saved. `check`
/// refuses what contradicts itself, and has more to say about it.
pub(crate) fn read<C: DeserializeOwned + PartialEq, D: DeserializeOwned + Serialize>(
    checkpoint: &Checkpoint,
    about: &About<C>,
    check: impl FnOnce(usize, &D) -> Result<()>,
) -> Result<(usize, D)> {
    let mut fields: Map<String, Value> = parse(checkpoint, KEY, serde_json::from_str(checkpoint.metadata(KEY)?))?;
    let model: String = take(checkpoint, &mut fields, "model")?;
    let fingerprint: u64 = take(checkpoint, &mut fields, "fingerprint")?;
    if model != about.model || fingerprint != about.fingerprint {
        let message = format!(
            "it is of model {model:?} with parameters {fingerprint:016x}, allowed is {:?} with {:016x}",
            about.model, about.fingerprint
        );
        return Err(refused(checkpoint, message));
    }
    let config: C = take(checkpoint, &mut fields, "config")?;
    if config != about.config {
        return Err(refused(checkpoint, "it is of a model with these parameters, but another configuration".into()));
    }
    let batch = take(checkpoint, &mut fields, "batch")?;
    if batch == 0 {
        return Err(refused(checkpoint, "its batch is 0, allowed is 1 or more".into()));
    }
    let states: u64 = take(checkpoint, &mut fields, "states")?;
    let saved: u64 = take(checkpoint, &mut fields, "numbers")?;
    // What is left are the details, which refuse a field that they do not know.
    let details = parse(checkpoint, KEY, serde_json::from_value(Value::Object(fields)))?;
    as_saved(checkpoint, "states", checkpoint.fingerprint(), states)?;
    check(batch, &details)?;
    as_saved(checkpoint, "counts and sizes", numbers(checkpoint, batch, &details)?, saved)?;
    Ok((batch, details))
}

/// Refuses an origin and a summary of other sizes than the posterior's.
pub(crate) fn check_frame(
    checkpoint: &Checkpoint,
    (frame, summary): (&Frame, Option<&Summary>),
    batch: usize,
    n_columns: usize,
) -> Result<()> {
    let is_framed = batch.checked_mul(n_columns).is_some_and(|n| frame.is_of(n));
    let what = match summary {
        _ if !is_framed => "origin",
        Some(summary) if !summary.fits(batch, n_columns) => "summary of what was observed",
        _ => return Ok(()),
    };
    Err(refused(checkpoint, format!("its {what} is not one of {n_columns} columns in {batch} batch elements")))
}

fn as_saved(checkpoint: &Checkpoint, what: &str, found: u64, saved: u64) -> Result<()> {
    if found == saved {
        return Ok(());
    }
    let message = format!("its {what} are not those that were saved: fingerprint {found:016x}, saved as {saved:016x}");
    Err(refused(checkpoint, message))
}

fn take<T: DeserializeOwned>(checkpoint: &Checkpoint, fields: &mut Map<String, Value>, name: &str) -> Result<T> {
    parse(checkpoint, name, serde_json::from_value(fields.remove(name).unwrap_or(Value::Null)))
}

fn parse<T>(checkpoint: &Checkpoint, name: &str, parsed: serde_json::Result<T>) -> Result<T> {
    parsed.map_err(|error| refused(checkpoint, format!("{name} in its metadata: {error}")))
}

/// A posterior that is not as it was saved, or not one of the model.
pub(crate) fn refused(checkpoint: &Checkpoint, message: String) -> Error {
    Error::Posterior { file: checkpoint.file().to_owned(), message }
}
