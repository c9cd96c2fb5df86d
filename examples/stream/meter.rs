//! Latency and memory, measured in constant memory.

use std::time::Duration;

/// Bins a factor of two: 1.1% each.
const PER_OCTAVE: f64 = 64.0;
/// From a nanosecond to an hour.
const N_BINS: usize = 42 * 64;

/// How long updates take.
pub struct Meter {
    /// How many took about `1 ns * 2^(i / PER_OCTAVE)`.
    bins: Vec<u64>,
    n_updates: u64,
    n_points: u64,
    total: Duration,
    resident_at_first: Option<u64>,
}

impl Meter {
    pub fn new() -> Self {
        Self { bins: vec![0; N_BINS], n_updates: 0, n_points: 0, total: Duration::ZERO, resident_at_first: None }
    }

    pub fn add(&mut self, took: Duration, n_points: u64) {
        if self.n_updates == 0 {
            self.resident_at_first = support::resident_bytes();
        }
        let nanos = took.as_nanos().max(1) as f64;
        self.bins[((nanos.log2() * PER_OCTAVE) as usize).min(N_BINS - 1)] += 1;
        self.n_updates += 1;
        self.n_points += n_points;
        self.total += took;
    }

    /// The latency, in seconds, that a fraction of the updates stayed below.
    pub fn quantile(&self, fraction: f64) -> Option<f64> {
        let wanted = (fraction * self.n_updates as f64).ceil() as u64;
        let mut seen = 0;
        let bin = self.bins.iter().position(|&n| {
            seen += n;
            n > 0 && seen >= wanted
        })?;
        Some(1e-9 * ((bin as f64 + 0.5) / PER_OCTAVE).exp2())
    }

    pub fn points_per_second(&self) -> f64 {
        self.n_points as f64 / self.total.as_secs_f64().max(1e-9)
    }

    pub fn resident_at_first(&self) -> Option<u64> {
        self.resident_at_first
    }
}
