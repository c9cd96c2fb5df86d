//! Counts that vary more than those of independent events.

use super::{
    counts,
    special::{Level, beta_cdf, ln_binomial, mean_distance},
    univariate::Univariate,
};

pub struct NegativeBinomial {
    pub mean: f64,
    /// The variance is `mean + mean² / shape`.
    pub shape: f64,
}

impl NegativeBinomial {
    /// The probability of success, `shape / (shape + mean)`, and of the rest.
    fn success(&self) -> (f64, f64) {
        (self.shape / (self.shape + self.mean), self.mean / (self.shape + self.mean))
    }

    fn level(&self, k: f64) -> Level {
        let (p, q) = self.success();
        beta_cdf(self.shape, k + 1.0, p, q)
    }
}

impl Univariate for NegativeBinomial {
    fn mean(&self) -> f64 {
        self.mean
    }

    fn std(&self) -> f64 {
        (self.mean * (1.0 + self.mean / self.shape)).sqrt()
    }

    fn refuses(&self, y: f64) -> Option<&'static str> {
        counts::refuses(y)
    }

    fn ln_density(&self, y: f64) -> f64 {
        let (p, q) = self.success();
        ln_binomial(self.shape, y, p, q) - (y / self.shape).ln_1p()
    }

    fn cdf(&self, y: f64) -> f64 {
        self.level(y).below
    }

    fn quantile(&self, level: Level) -> f64 {
        counts::quantile(level, self.mean, self.std(), |k| self.level(k))
    }

    fn crps(&self, y: f64) -> f64 {
        let level = self.level(y);
        let (p, q) = self.success();
        // 2 mean (shape + y) / shape times the density.
        let edge = 2.0 * (ln_binomial(self.shape, y, p, q) + self.mean.ln()).exp();
        let distance = (y - self.mean) * (level.below - level.above) + edge;
        // 4 q / p².
        let curvature = 4.0 * (self.mean / self.shape) * (1.0 + self.mean / self.shape);
        let steepest = curvature * self.shape.max(1.0);
        let spread = mean_distance(steepest, |square| -self.shape * (curvature * square).ln_1p());
        distance - 0.5 * spread
    }
}
