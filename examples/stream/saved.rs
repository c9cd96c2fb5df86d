//! The state file: the posterior, and how far the stream was read.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use wgpu_attention::{
    checkpoint::Checkpoint,
    models::cmanp::{Cmanp, Posterior, Prediction},
};

/// Under which key the metadata of the state file hold the progress.
const KEY: &str = "stream";

/// How far the stream was read, and how well it was predicted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Lines consumed, rejected ones included.
    pub n_rows: u64,
    pub n_rejected: u64,
    /// Numbers that were predicted before they came.
    n_scored: u64,
    squares: f64,
    log_density: f64,
    n_covered: u64,
    /// What must not change between runs.
    settings: String,
}

impl Progress {
    /// Scores a prediction of values that had not been seen; `unit` is that of the data.
    pub fn score(&mut self, prediction: &Prediction, y: &[f32], unit: f64) -> Result<()> {
        let n = y.len();
        self.n_scored += n as u64;
        self.log_density += prediction.log_density(y)?.iter().sum::<f64>() - n as f64 * unit.ln();
        for ((y, mean), std) in y.iter().zip(&prediction.mean).zip(&prediction.std) {
            let error = f64::from(y - mean);
            self.squares += (error * unit).powi(2);
            self.n_covered += u64::from(error.abs() <= 1.96 * f64::from(*std));
        }
        Ok(())
    }

    pub fn scores(&self) -> Option<String> {
        let n = self.n_scored as f64;
        (self.n_scored > 0).then(|| {
            format!(
                "of the next block: RMSE {:.3}, log-likelihood {:.3}, {:.1}% in the 95% band, {} values",
                (self.squares / n).sqrt(),
                self.log_density / n,
                100.0 * self.n_covered as f64 / n,
                self.n_scored
            )
        })
    }
}

pub struct Saved {
    pub path: Option<PathBuf>,
    /// How numbers are scaled.
    pub settings: String,
    pub block: u64,
}

impl Saved {
    fn settings(&self) -> String {
        format!("{} block {}", self.settings, self.block)
    }

    /// What an earlier run left, if there was one.
    pub fn open(&self, model: &Cmanp) -> Result<(Option<Posterior>, Progress)> {
        let fresh = Progress { settings: self.settings(), ..Default::default() };
        let Some(path) = self.path.as_ref().filter(|path| path.exists()) else { return Ok((None, fresh)) };
        let context = || format!("cannot resume from {} (give another --state, or remove it)", path.display());
        let open = || -> Result<(Posterior, Progress)> {
            let checkpoint = Checkpoint::open(path)?;
            let progress: Progress = serde_json::from_str(checkpoint.metadata(KEY)?)?;
            Ok((model.restore(&checkpoint)?, progress))
        };
        let (posterior, progress) = open().with_context(context)?;
        ensure!(
            progress.settings == fresh.settings,
            "{} was written with the settings {:?}, not {:?}",
            path.display(),
            progress.settings,
            fresh.settings
        );
        Ok((Some(posterior), progress))
    }

    /// Replaces the file whole: a kill leaves the one before or this one.
    pub fn save(&self, posterior: &Posterior, progress: &Progress) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut checkpoint = posterior.to_checkpoint()?;
        checkpoint.set_metadata(KEY, serde_json::to_string(progress)?);
        checkpoint.save(path).with_context(|| format!("cannot save the state to {}", path.display()))
    }
}
