//! What a CMANP is made of; stored as JSON in the metadata of a checkpoint.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    models::Output,
    ops::scan_attention::MAX_HEAD_DIM,
};

/// The architecture of a CMANP.
///
/// ```
/// use wgpu_attention::{models::cmanp::Config, serde_json};
///
/// let config: Config = serde_json::from_str(r#"{
///     "dim_x": 1, "dim_y": 1, "d_model": 64, "dim_feedforward": 128, "n_heads": 4,
///     "n_latents": 128, "n_latents_per_layer": 128, "n_layers": 6, "emb_depth": 4, "bound_std": false,
///     "covariance": {"kind": "low_rank", "n_layers": 2, "prj_dim": 20, "prj_depth": 4}
/// }"#).unwrap();
/// config.check().unwrap();
/// assert!(Config { n_heads: 5, ..config }.check().is_err()); // heads of 64 / 5 numbers
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Numbers that say where a point is.
    pub dim_x: usize,
    /// Numbers that are observed at a point: the output channels.
    pub dim_y: usize,
    /// Width of a token and of a latent.
    pub d_model: usize,
    /// Hidden width of the feed-forward parts.
    pub dim_feedforward: usize,
    /// Heads of every attention.
    pub n_heads: usize,
    /// Latents that the targets attend to.
    pub n_latents: usize,
    /// Latents that read the context in each layer, whose state is kept (CMANP). Without them
    /// the layers read the context with the latents of the layer before (LBANP), and no
    /// observation can be added later.
    #[serde(default)]
    pub n_latents_per_layer: Option<usize>,
    /// Layers of the encoder and of the decoder.
    pub n_layers: usize,
    /// Dense layers of the embedding of a point.
    pub emb_depth: usize,
    /// Whether `std = 0.05 + 0.95 softplus(raw)`; if not, `std = exp(raw)`. With
    /// [`CovarianceKind::Cholesky`], whether the factor's diagonal is `0.05 + 0.95 tanh(raw)`.
    pub bound_std: bool,
    /// How targets vary together (CMANP-AND); independently if not given.
    #[serde(default)]
    pub covariance: Option<CovarianceConfig>,
}

/// The part of a CMANP-AND that says how targets vary together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CovarianceConfig {
    /// From the projections to a covariance.
    pub kind: CovarianceKind,
    /// Transformer layers between the targets of a block.
    pub n_layers: usize,
    /// Numbers a target channel is projected to: the rank, if it is low.
    pub prj_dim: usize,
    /// Dense layers of the projection.
    pub prj_depth: usize,
    /// Dense layers of the diagonal; used by [`CovarianceKind::LowRank`] alone.
    #[serde(default = "four")]
    pub diag_depth: usize,
}

fn four() -> usize {
    4
}

/// The covariance of the targets of a block, from their projections `P [n, prj_dim]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CovarianceKind {
    /// `L L^T`, where `L` is the lower triangle of `P P^T`.
    Cholesky,
    /// `P P^T + diag(exp(d))`, with `d` a network of each target.
    LowRank,
}

impl Config {
    /// The distribution of a channel, of models without a covariance.
    pub fn output(&self) -> Output {
        if self.bound_std { Output::Gaussian { min_std: 0.05 } } else { Output::GaussianLogStd }
    }

    /// The width of the widest layer that points pass through.
    pub(super) fn widest(&self) -> usize {
        // A feed-forward part makes both halves of its gate at once.
        self.d_model.max(2 * self.dim_feedforward).max(self.dim_x + self.dim_y).max(2 * self.dim_y)
    }

    /// Checks that the parts fit together.
    ///
    /// # Errors
    /// [`Error::Config`] with what is wrong and what is allowed.
    pub fn check(&self) -> Result<()> {
        let refused = |message: String| Err(Error::Config { message });
        let sizes = [
            ("dim_x", self.dim_x, 1 << 10),
            ("dim_y", self.dim_y, 1 << 10),
            ("d_model", self.d_model, 1 << 14),
            ("dim_feedforward", self.dim_feedforward, 1 << 16),
            ("n_heads", self.n_heads, 1 << 10),
            ("n_latents", self.n_latents, 1 << 16),
            ("n_latents_per_layer", self.n_latents_per_layer.unwrap_or(1), 1 << 16),
            ("n_layers", self.n_layers, 1 << 10),
            ("emb_depth", self.emb_depth, 1 << 6),
        ];
        let covariance = self.covariance.iter().flat_map(|covariance| {
            [
                ("covariance.n_layers", covariance.n_layers, 1 << 10),
                ("covariance.prj_dim", covariance.prj_dim, 1 << 12),
                ("covariance.prj_depth", covariance.prj_depth, 1 << 6),
                ("covariance.diag_depth", covariance.diag_depth, 1 << 6),
            ]
        });
        for (name, found, most) in sizes.into_iter().chain(covariance) {
            if found == 0 || found > most {
                return refused(format!("{name} is {found}, allowed is 1 to {most}"));
            }
        }
        if !self.d_model.is_multiple_of(self.n_heads) || self.d_model / self.n_heads > MAX_HEAD_DIM {
            return refused(format!(
                "d_model {} is not a multiple of n_heads {} with heads of at most {MAX_HEAD_DIM} numbers",
                self.d_model, self.n_heads
            ));
        }
        Ok(())
    }
}
