//! Posteriors as data: saved, loaded, sent.

use std::{ops::Range, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{block::KrBlock, network::Network, points::MAX_COLUMNS, posterior::Posterior};
use crate::{
    checkpoint::{Checkpoint, Parameters},
    error::Result,
    models::{
        domain::Summary,
        frame::Frame,
        saved::{check_frame, read, refused, write},
    },
    tensor::Mask,
};

/// What the tensors do not say, beside what any posterior has.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Details {
    n_context: usize,
    columns: Vec<Range<usize>>,
    masked: bool,
    frame: Frame,
    /// For networks with a domain.
    summary: Option<Summary>,
    /// Of linear attention: the keys in each batch element.
    n_keys: Vec<u64>,
}

impl Posterior {
    /// Everything that this posterior adds to the network, to be saved or sent;
    /// [`TnpKr::restore`](super::TnpKr::restore) makes it a posterior again that predicts the same
    /// bits on the same device.
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
        let first = self.memories.first();
        let details = Details {
            n_context: self.n_context,
            columns: self.columns.clone(),
            frame: (*self.frame).clone(),
            summary: self.summary.as_deref().cloned(),
            masked: first.is_some_and(|memory| memory.is_masked()),
            n_keys: first.map(|memory| memory.n_keys().to_vec()).unwrap_or_default(),
        };
        let mut checkpoint = Checkpoint::default();
        for (i, memory) in self.memories.iter().enumerate() {
            for (name, tensor) in memory.tensors() {
                checkpoint.insert(&format!("memory_{i}.{name}"), tensor.shape(), tensor.read_async().await?)?;
            }
        }
        for (name, tensor) in first.map(|memory| memory.shared_tensors()).into_iter().flatten() {
            checkpoint.insert(name, tensor.shape(), tensor.read_async().await?)?;
        }
        write(&mut checkpoint, &self.network.about, self.batch, &details)?;
        Ok(checkpoint)
    }

    /// Writes [`Posterior::to_checkpoint`] to a safetensors file, which is replaced whole or
    /// not at all.
    ///
    /// # Errors
    /// As there; the file cannot be written.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn save(&self, path: impl AsRef<std::path::Path>) -> Result<()> {
        self.to_checkpoint()?.save(path)
    }

    pub(super) fn restore(network: &Arc<Network>, checkpoint: &Checkpoint) -> Result<Self> {
        let (batch, details) =
            read(checkpoint, &network.about, |batch, details| check(checkpoint, network, batch, details))?;
        let memories = checkpoint.load(&network.about.device, |parameters| {
            let Details { n_context, columns, masked, n_keys, .. } = &details;
            let attention = &network.about.config.attention;
            let (mut coords, mut mask) = (None, None);
            if !attention.is_linear() {
                let n_columns = columns.last().map_or(0, |columns| columns.end);
                coords = Some(parameters.tensor("coords", &[batch, *n_context, n_columns])?);
                mask = masked.then(|| read_mask(parameters, batch, *n_context)).transpose()?;
            }
            let coords = coords.as_ref().map(|coords| (coords, &columns[..]));
            let restore = |(i, block): (usize, &KrBlock)| {
                let scope = parameters.scope(format!("memory_{i}"));
                let shapes = attention.memory_shapes(batch, *n_context)?;
                let tensors = shapes.iter().map(|(name, shape)| scope.tensor(name, shape));
                block.restore(tensors.collect::<Result<_>>()?, coords, mask.clone(), *masked, n_keys)
            };
            network.applications().enumerate().map(restore).collect::<Result<_>>()
        })?;
        let Details { n_context, columns, frame, summary, .. } = details;
        let (frame, summary) = (Arc::new(frame), summary.map(Arc::new));
        Ok(Self { network: network.clone(), batch, n_context, memories, columns, frame, summary })
    }
}

/// Refuses sizes that contradict the model or each other.
fn check(checkpoint: &Checkpoint, network: &Network, batch: usize, details: &Details) -> Result<()> {
    let config = &network.about.config;
    let Details { n_context, columns, masked, n_keys, frame, summary } = details;
    let columns_fit = columns.len() == config.groups.len()
        && columns.iter().try_fold(0, |end, c| (c.start == end && c.end >= end).then_some(c.end)).is_some()
        && columns.iter().zip(&config.groups).all(|(c, g)| g.dim.is_none_or(|dim| dim == c.len()));
    let n_columns = columns.last().map_or(0, |columns| columns.end);
    if !columns_fit || *n_context == 0 || n_columns > MAX_COLUMNS {
        let message = format!("its {n_context} observations and columns {columns:?} do not fit the model");
        return Err(refused(checkpoint, message));
    }
    if let Some(domain) = network.domain.as_ref().filter(|domain| domain.coordinates.len() != n_columns) {
        let trained = domain.coordinates.len();
        let message = format!("it is of points of {n_columns} coordinates, the model of points of {trained}");
        return Err(refused(checkpoint, message));
    }
    check_frame(checkpoint, (frame, summary.as_ref()), batch, n_columns)?;
    let is_scan = !config.attention.is_linear();
    let counts_fit = match (is_scan, masked) {
        (true, _) => n_keys.is_empty(),
        (false, true) => n_keys.iter().all(|n| (1..=*n_context as u64).contains(n)),
        (false, false) => n_keys.iter().all(|&n| n == *n_context as u64),
    };
    if !counts_fit || !(is_scan || n_keys.len() == batch) {
        let message = format!("it has {n_keys:?} keys of {n_context} observations in {batch} batch elements");
        return Err(refused(checkpoint, message));
    }
    Ok(())
}

/// Which observations exist: booleans, of which each batch element has one that is true.
fn read_mask(parameters: &Parameters<'_>, batch: usize, n_context: usize) -> Result<Mask> {
    let numbers = parameters.numbers("mask", &[batch, n_context])?;
    let keep: Vec<bool> = numbers.iter().map(|&keep| keep > 0.0).collect();
    if numbers.iter().any(|&keep| keep != 0.0 && keep != 1.0)
        || keep.chunks(n_context).any(|keep| !keep.contains(&true))
    {
        let message = "its mask is not one of booleans that keep a point of each batch element".into();
        return Err(refused(parameters.checkpoint(), message));
    }
    Mask::new(parameters.device(), &[batch, n_context], &keep)
}
