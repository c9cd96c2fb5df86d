//! Counts of independent events.

use super::{
    counts,
    special::{Level, gamma_cdf, ln_poisson, mean_distance},
    univariate::Univariate,
};

pub struct Poisson {
    pub mean: f64,
}

impl Poisson {
    /// The probabilities of at most and of more than `k`.
    pub fn level(&self, k: f64) -> Level {
        let Level { below, above } = gamma_cdf(k + 1.0, self.mean);
        Level { below: above, above: below }
    }

    /// The mean distance of a draw from `y`.
    pub fn distance(&self, y: f64) -> f64 {
        let level = self.level(y);
        (y - self.mean) * (level.below - level.above) + 2.0 * self.mean * self.ln_density(y).exp()
    }

    /// The mean distance of two draws.
    pub fn spread(&self) -> f64 {
        mean_distance(4.0 * self.mean, |square| -4.0 * self.mean * square)
    }
}

impl Univariate for Poisson {
    fn mean(&self) -> f64 {
        self.mean
    }

    fn std(&self) -> f64 {
        self.mean.sqrt()
    }

    fn refuses(&self, y: f64) -> Option<&'static str> {
        counts::refuses(y)
    }

    fn ln_density(&self, y: f64) -> f64 {
        ln_poisson(y, self.mean)
    }

    fn cdf(&self, y: f64) -> f64 {
        self.level(y).below
    }

    fn quantile(&self, level: Level) -> f64 {
        counts::quantile(level, self.mean, self.std(), |k| self.level(k))
    }

    fn crps(&self, y: f64) -> f64 {
        self.distance(y) - 0.5 * self.spread()
    }
}
