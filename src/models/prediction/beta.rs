//! A share between 0 and 1.

use super::{
    special::{Level, beta_cdf, ln_binomial, sigmoid},
    univariate::Univariate,
};

pub struct Beta {
    pub alpha: f64,
    pub beta: f64,
}

impl Beta {
    fn ln_density_logit(&self, x: f64, y: f64) -> f64 {
        // Of the logarithm of the odds: the density times x y.
        ln_binomial(self.alpha, self.beta, x, y) - ((self.alpha + self.beta) / self.alpha / self.beta).ln()
    }
}

impl Univariate for Beta {
    fn mean(&self) -> f64 {
        self.alpha / (self.alpha + self.beta)
    }

    fn std(&self) -> f64 {
        let n = self.alpha + self.beta;
        (self.alpha / n * (self.beta / n) / (n + 1.0)).sqrt()
    }

    fn refuses(&self, y: f64) -> Option<&'static str> {
        // The density at the ends is nothing, or infinite.
        (!(y > 0.0 && y < 1.0)).then_some("above 0 and below 1")
    }

    fn ln_density(&self, y: f64) -> f64 {
        self.ln_density_logit(y, 1.0 - y) - y.ln() - (-y).ln_1p()
    }

    fn cdf(&self, y: f64) -> f64 {
        beta_cdf(self.alpha, self.beta, y, 1.0 - y).below
    }

    /// Never nearer to the ends than an f32 can be, so that it may be observed.
    fn quantile(&self, level: Level) -> f64 {
        // In the logarithm of the odds, where both ends are far away.
        let (mut low, mut high) = (-87.3f64, 16.6f64);
        let mut at = (self.alpha / self.beta).ln().clamp(low, high);
        for _ in 0..200 {
            let (x, y) = (sigmoid(at), sigmoid(-at));
            let cdf = beta_cdf(self.alpha, self.beta, x, y);
            let over = if level.below <= 0.5 { cdf.below - level.below } else { level.above - cdf.above };
            if over >= 0.0 {
                high = at
            } else {
                low = at
            }
            let newton = at - over / self.ln_density_logit(x, y).exp();
            let next = if newton > low && newton < high { newton } else { 0.5 * (low + high) };
            let is_done = (next - at).abs() <= 1e-14 * at.abs().max(1.0);
            at = next;
            if is_done || high - low <= 1e-14 {
                break;
            }
        }
        sigmoid(at).clamp(f64::from(f32::MIN_POSITIVE), 1.0 - f64::from(f32::EPSILON) / 2.0)
    }

    fn crps(&self, y: f64) -> f64 {
        let (a, b) = (self.alpha, self.beta);
        let level = beta_cdf(a, b, y, 1.0 - y);
        // What the mean below y lacks of the mean.
        let edge = ln_binomial(a, b, y, 1.0 - y).exp() * b / (a + b);
        let distance = (y - self.mean()) * (level.below - level.above) + 2.0 * self.mean() * edge;
        // Half the mean distance of two draws: 2 B(2 a, 2 b) / ((a + b) B(a, b)²), with both B at the mean, where their
        // powers cancel.
        let n = a + b;
        let at_mean = |a: f64, b: f64| ((a + b) / a / b).ln() - ln_binomial(a, b, a / (a + b), b / (a + b));
        let spread = 2.0 * (at_mean(2.0 * a, 2.0 * b) - 2.0 * at_mean(a, b) - n.ln()).exp();
        distance - spread
    }
}
