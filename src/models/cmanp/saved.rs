//! Posteriors as data: saved, loaded, sent.

use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::{block::Encoder, network::Network, posterior::Posterior};
use crate::{
    checkpoint::Checkpoint,
    error::Result,
    models::{
        domain::Summary,
        frame::Frame,
        saved::{check_frame, read, refused, write},
    },
    ops::{ExactRolling, Layout, RollingState, softmax::MASKED},
};

/// What the tensors do not say, beside what any posterior has.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Details {
    n_points: Vec<u64>,
    /// Pieces of 24 bits of each sum of a layer, if they are exact; none otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pieces: Vec<usize>,
    frame: Frame,
    /// For networks with a domain.
    summary: Option<Summary>,
}

impl Posterior {
    /// Everything that this posterior adds to the network, to be saved or sent;
    /// [`Cmanp::restore`](super::Cmanp::restore) makes it a posterior again that goes on with the
    /// same bits on the same device. More metadata may be set beside it.
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
        let mut pieces = Vec::new();
        for (i, state) in self.exact.iter().enumerate() {
            let (n, numbers) = state.pieces()?;
            checkpoint.insert(&format!("state_{i}"), &[numbers.len() / n, n], numbers)?;
            let limits = state.limits();
            checkpoint.insert(&format!("limits_{i}"), &[limits.len()], limits)?;
            pieces.push(n);
        }
        let details = Details {
            n_points: self.n_points.clone(),
            pieces,
            frame: (*self.frame).clone(),
            summary: self.summary.as_deref().cloned(),
        };
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

    pub(super) fn restore(network: &Arc<Network>, is_exact: bool, checkpoint: &Checkpoint) -> Result<Self> {
        let config = &network.about.config;
        let refused = |message: String| refused(checkpoint, message);
        let (batch, details) =
            read(checkpoint, &network.about, |batch, Details { n_points, pieces, frame, summary }: &Details| {
                let n_pieces = if is_exact { config.n_layers } else { 0 };
                if pieces.len() != n_pieces {
                    return Err(refused(match pieces.is_empty() {
                        true => "its sums are not exact: restore it without Cmanp::exact".into(),
                        false if !is_exact => "its sums are exact: restore it with Cmanp::exact".into(),
                        false => format!("it has {} layers of exact sums, allowed are {n_pieces}", pieces.len()),
                    }));
                }
                if summary.as_ref().is_some_and(|summary| summary.is_exact() != is_exact) {
                    return Err(refused("its summary is not of the form of its states".into()));
                }
                if batch > 1 << 20 || n_points.len() != batch {
                    return Err(refused(format!(
                        "it has batch {batch} and {} numbers of observations, allowed is 1 to 2^20 and as many",
                        n_points.len()
                    )));
                }
                check_frame(checkpoint, (frame, summary.as_ref()), batch, config.dim_x)?;
                match n_points.iter().position(|&n| n == 0) {
                    Some(b) => {
                        Err(refused(format!("it has 0 observations in batch element {b}, allowed is 1 or more")))
                    }
                    None => Ok(()),
                }
            })?;
        let (Encoder::Rolling(layers), Some(n_latents)) = (&network.encoder, config.n_latents_per_layer) else {
            return Err(refused("an LBANP keeps no state of its context, so none can be restored".into()));
        };
        let (n_layers, dim) = (layers.len(), config.d_model / config.n_heads);
        let name = |i| format!("state_{i}");
        let (states, exact, readers) = checkpoint.load(&network.about.device, |parameters| {
            if !is_exact {
                let shape = [batch, n_latents, config.n_heads, 3 + 2 * dim];
                let state = |i| {
                    check_rows(checkpoint, &name(i), parameters.numbers(&name(i), &shape)?, shape[3])?;
                    let layout = Layout::Projected { n_heads: config.n_heads };
                    Ok(RollingState { rows: parameters.tensor(&name(i), &shape)?, layout })
                };
                let states = (0..n_layers).map(state).collect::<Result<_>>()?;
                return Ok((states, Vec::new(), network.readers(batch, false)?));
            }
            let rows = batch * n_latents * config.n_heads;
            let numbers = |(i, n): (usize, &usize)| {
                let sums = parameters.numbers(&name(i), &[rows * (1 + dim), *n])?;
                Ok([sums, parameters.numbers(&format!("limits_{i}"), &[rows + 2])?])
            };
            let numbers = details.pieces.iter().enumerate().map(numbers).collect::<Result<Vec<_>>>()?;
            // After that: of a batch that there are numbers of.
            let readers = network.readers(batch, true)?;
            let state = |(i, (rolling, [sums, limits])): (usize, (&ExactRolling, [&[f32]; 2]))| {
                if rolling.limits() != limits {
                    return Err(refused(format!("its limits_{i} are not those of this network on this processor")));
                }
                let state = rolling.of_pieces(dim, &details.n_points, sums).filter(|state| state.read().is_ok());
                state.ok_or_else(|| refused(format!("state_{i} of the posterior is none that observations leave")))
            };
            let exact = readers.exact.iter().zip(numbers).enumerate().map(state).collect::<Result<_>>()?;
            Ok((Vec::new(), exact, readers))
        })?;
        Ok(Self {
            network: network.clone(),
            batch,
            n_points: details.n_points,
            frame: Arc::new(details.frame),
            summary: details.summary.map(Arc::new),
            readers,
            states,
            exact,
            readout: Arc::new(OnceLock::new()),
        })
    }
}

/// Refuses a row that no keys leave: a reference without a weight would read as if it had keys.
fn check_rows(checkpoint: &Checkpoint, name: &str, rows: &[f32], width: usize) -> Result<()> {
    let is_unread = |row: &[f32]| row[0] <= 0.5 * MASKED && row[1..].iter().all(|&x| x == 0.0);
    let is_read = |row: &[f32]| row[0] > 0.5 * MASKED && row[1] > 0.0 && row.iter().all(|x| x.is_finite());
    match rows.chunks(width).position(|row| !is_unread(row) && !is_read(row)) {
        None => Ok(()),
        Some(row) => {
            let message = format!(
                "row {row} of the posterior's {name} has reference {} and weight {}, allowed is a finite row with a \
                 weight above 0, or one of sums 0 with a reference of {MASKED:e}",
                rows[row * width],
                rows[row * width + 1]
            );
            Err(refused(checkpoint, message))
        }
    }
}
