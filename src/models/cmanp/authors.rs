//! Configurations of the authors' own code, `constant-memory-anp`.

use serde_json::Value;

use super::config::{Config, CovarianceConfig, CovarianceKind};
use crate::{error::Result, models::settings::Settings};

const KNOWN: [&str; 20] = [
    "num_latents",
    "num_latents_per_layer",
    "dim_x",
    "dim_y",
    "d_model",
    "emb_depth",
    "dim_feedforward",
    "nhead",
    "num_layers",
    "norm_first",
    "bound_std",
    "num_std_layers",
    "cov_approx",
    "prj_dim",
    "prj_depth",
    "diag_depth",
    // They change nothing of a trained network: how it was trained, and how much of it is in memory at once.
    "dropout",
    "CMAB_block_size",
    "AND_block_size",
    "name",
];

impl Config {
    /// Translates a model of the authors' code, as its file in `regression/configs` describes it (the YAML, read as
    /// JSON). With `num_latents_per_layer` it is a CMANP, without an LBANP; with `num_std_layers` its targets vary
    /// together (CMANP-AND, LBANP-ND). An LBANP-END has the same settings and is another network: its parameters do
    /// not fit.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) that names a setting that is missing, not known or not allowed.
    ///
    /// ```
    /// use wgpu_attention::{models::cmanp::{Config, CovarianceKind}, serde_json::json};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let config = Config::from_authors(&json!({
    ///     "num_latents": 128, "num_latents_per_layer": 128, "AND_block_size": 100, "dim_x": 1, "dim_y": 1, "d_model": 64,
    ///     "emb_depth": 4, "dim_feedforward": 128, "nhead": 4, "dropout": 0.0, "num_layers": 6, "CMAB_block_size": "None",
    ///     "num_std_layers": 2, "norm_first": true, "cov_approx": "cholesky", "prj_dim": 20, "prj_depth": 4, "diag_depth": 4
    /// }))?;
    /// assert_eq!((config.n_layers, config.covariance.unwrap().kind), (6, CovarianceKind::Cholesky));
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_authors(model: &Value) -> Result<Self> {
        let settings = Settings::new("a CMANP", model, &KNOWN)?;
        if !settings.or("norm_first", true)? {
            return Err(settings.refused("have norm_first false, allowed is true: there is no other block".into()));
        }
        let covariance = settings.has("num_std_layers").then(|| {
            let kind = match settings.or("cov_approx", "cholesky".to_owned())?.as_str() {
                "cholesky" => CovarianceKind::Cholesky,
                "lowrank" => CovarianceKind::LowRank,
                other => {
                    return Err(settings.refused(format!("have cov_approx {other:?}, allowed is cholesky or lowrank")));
                }
            };
            Ok(CovarianceConfig {
                kind,
                n_layers: settings.required("num_std_layers")?,
                prj_dim: settings.or("prj_dim", 5)?,
                prj_depth: settings.or("prj_depth", 4)?,
                diag_depth: settings.or("diag_depth", 4)?,
            })
        });
        let config = Self {
            dim_x: settings.required("dim_x")?,
            dim_y: settings.required("dim_y")?,
            d_model: settings.required("d_model")?,
            dim_feedforward: settings.required("dim_feedforward")?,
            n_heads: settings.required("nhead")?,
            n_latents: settings.required("num_latents")?,
            n_latents_per_layer: settings.or("num_latents_per_layer", None)?,
            n_layers: settings.required("num_layers")?,
            emb_depth: settings.required("emb_depth")?,
            bound_std: settings.or("bound_std", false)?,
            covariance: covariance.transpose()?,
        };
        config.check()?;
        Ok(config)
    }
}
