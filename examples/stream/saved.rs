//! The state file: the posterior, and how far the stream was read.

use std::{fs::File, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use shared::{lines, normal::Z95, out};
use wgpu_attention::{
    checkpoint::Checkpoint,
    models::{
        Prediction,
        cmanp::{Cmanp, Posterior},
    },
};

use crate::{cycle::LastCycle, rows::Block, scaling::Scaling};

/// Under which key the metadata of the state file hold the progress.
const KEY: &str = "stream";
/// Under which key a number is that belongs to this progress and this posterior.
const CHECK: &str = "stream_check";

/// A number that JSON must not round.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct Exact(pub f64);

impl From<u64> for Exact {
    fn from(bits: u64) -> Self {
        Self(f64::from_bits(bits))
    }
}

impl From<Exact> for u64 {
    fn from(exact: Exact) -> Self {
        exact.0.to_bits()
    }
}

/// How far the stream was read, and how well it was predicted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Lines consumed, rejected ones included.
    pub n_rows: u64,
    pub n_rejected: u64,
    /// The number of the first of those, as its run counted; 0 for none.
    pub first_rejected: u64,
    /// Numbers that were predicted before they came.
    n_scored: u64,
    squares: Exact,
    log_density: Exact,
    n_covered: u64,
    /// The values of the last observation, and how far each was from the one before.
    last: Vec<Exact>,
    squares_of_last: Exact,
    /// The last observations of a known cycle; numbers that they could forecast, how far those were from what
    /// came, and how far the predictions were from the same ones. States from before this have none.
    #[serde(default)]
    cycle: LastCycle,
    #[serde(default)]
    n_of_cycle: u64,
    #[serde(default)]
    squares_of_cycle: Exact,
    #[serde(default)]
    squares_beside_cycle: Exact,
    /// What must not change between runs.
    settings: String,
    /// The names of the columns.
    pub names: Vec<String>,
    /// Of the lines consumed: a stream goes on only after the same ones.
    pub hash: u64,
}

impl Progress {
    /// Counts a line as taken in or rejected.
    pub fn consume(&mut self, line: &[u8]) {
        self.n_rows += 1;
        self.hash = lines::hash(self.hash, line);
    }

    /// Counts a line as rejected; it is consumed too.
    pub fn reject(&mut self, line: u64) {
        self.n_rejected += 1;
        if self.first_rejected == 0 {
            self.first_rejected = line;
        }
    }

    /// Scores a prediction of values that had not been seen.
    pub fn score(&mut self, prediction: &Prediction, block: &Block, scaling: &Scaling) -> Result<()> {
        let (y, unit) = (&block.y, scaling.unit);
        let n = y.len();
        self.n_scored += n as u64;
        self.log_density.0 += prediction.log_density(y)?.iter().sum::<f64>() - n as f64 * unit.ln();
        let errors: Vec<f64> = y.iter().zip(prediction.mean()).map(|(y, mean)| f64::from(y - mean) * unit).collect();
        let stds = prediction.std().iter().map(|&std| f64::from(std) * unit);
        self.n_covered += errors.iter().zip(stds).filter(|(error, std)| error.abs() <= Z95 * std).count() as u64;
        self.squares.0 += squares(errors.iter().copied());
        // What the last observation before the block would have said.
        let differences = block.values.iter().zip(self.last.iter().cycle());
        self.squares_of_last.0 += squares(differences.map(|(y, last)| y - last.0));
        let dim_y = n / block.times.len();
        for ((&time, values), errors) in block.times.iter().zip(block.values.chunks(dim_y)).zip(errors.chunks(dim_y)) {
            let Some(forecast) = self.cycle.forecast(scaling.cycle, time) else { continue };
            self.n_of_cycle += dim_y as u64;
            self.squares_of_cycle.0 += squares(values.iter().zip(forecast).map(|(y, forecast)| y - forecast));
            self.squares_beside_cycle.0 += squares(errors.iter().copied());
        }
        Ok(())
    }

    /// Remembers of a block that was taken in its last observation and, of a known cycle, the last ones.
    pub fn remember(&mut self, block: &Block, dim_y: usize, scaling: &Scaling) {
        self.last = block.values[block.values.len() - dim_y..].iter().map(|&y| Exact(y)).collect();
        if scaling.cycle > 0.0 {
            let rows = block.times.iter().zip(block.values.chunks(dim_y));
            rows.for_each(|(&time, values)| self.cycle.add(scaling.cycle, time, values));
        }
    }

    pub fn scores(&self) -> Option<String> {
        let n = self.n_scored as f64;
        let of_cycle = match self.n_of_cycle {
            0 => String::new(),
            n => format!(
                "\n          of {n} of them with a whole cycle before: RMSE {:.3} (the last value and what changed then one \
                 cycle ago: {:.3})",
                (self.squares_beside_cycle.0 / n as f64).sqrt(),
                (self.squares_of_cycle.0 / n as f64).sqrt()
            ),
        };
        (self.n_scored > 0).then(|| {
            format!(
                "of the next block: RMSE {:.3} (repeating the last value: {:.3}), log-likelihood {:.3}, {:.1}% in the \
                 95% band, {} values{of_cycle}",
                (self.squares.0 / n).sqrt(),
                (self.squares_of_last.0 / n).sqrt(),
                self.log_density.0 / n,
                100.0 * self.n_covered as f64 / n,
                self.n_scored
            )
        })
    }
}

fn squares(errors: impl Iterator<Item = f64>) -> f64 {
    errors.map(|error| error.powi(2)).sum()
}

pub struct Saved {
    pub path: Option<PathBuf>,
    /// How numbers are scaled.
    pub settings: String,
    pub block: u64,
    /// Whether the file has to be there.
    pub continues: bool,
}

impl Saved {
    fn settings(&self) -> String {
        format!("{} block {}", self.settings, self.block)
    }

    /// Keeps other streams away from the state, until the result is dropped.
    pub fn lock(&self) -> Result<Option<File>> {
        let lock = |path: &PathBuf| out::lock(path, &format!("another stream writes the state {}", path.display()));
        self.path.as_ref().map(lock).transpose()
    }

    /// What an earlier run left, if there was one; `names` are those of the columns now.
    pub fn open(&self, model: &Cmanp, names: &[String]) -> Result<(Option<Posterior>, Progress)> {
        let fresh = Progress {
            settings: self.settings(),
            names: names.to_vec(),
            hash: lines::HASH_START,
            ..Default::default()
        };
        let Some(path) = &self.path else { return Ok((None, fresh)) };
        let is_there = path.try_exists().with_context(|| format!("cannot look for the state {}", path.display()))?;
        if !is_there {
            ensure!(
                !self.continues,
                "there is no state {} to continue from: leave out --continues to begin a stream",
                path.display()
            );
            return Ok((None, fresh));
        }
        let context = || format!("cannot resume from {} (give another --state, or remove it)", path.display());
        let open = || -> Result<(Posterior, Progress)> {
            let checkpoint = Checkpoint::open(path)?;
            let text = checkpoint.metadata(KEY)?;
            let is_whole = checkpoint.metadata(CHECK)? == check(&checkpoint, text);
            ensure!(is_whole, "how far it was read does not belong to this posterior: the file is damaged");
            let progress: Progress = serde_json::from_str(text)?;
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
        let text = serde_json::to_string(progress)?;
        checkpoint.set_metadata(CHECK, check(&checkpoint, &text));
        checkpoint.set_metadata(KEY, text);
        checkpoint.save(path).with_context(|| format!("cannot save the state to {}", path.display()))
    }
}

/// Of the numbers of a posterior and how far the stream was read.
fn check(checkpoint: &Checkpoint, progress: &str) -> String {
    lines::hash(checkpoint.fingerprint(), progress.as_bytes()).to_string()
}
