//! Counts that may be zero for a reason of its own.

use super::{
    counts,
    poisson::Poisson,
    special::{Level, sigmoid, softplus},
    univariate::Univariate,
};

pub struct ZeroInflatedPoisson {
    /// The logarithm of the odds of a zero that is no count.
    pub logit: f64,
    /// What is counted otherwise.
    pub count: Poisson,
}

impl ZeroInflatedPoisson {
    fn zero(&self) -> f64 {
        sigmoid(self.logit)
    }

    fn counted(&self) -> f64 {
        sigmoid(-self.logit)
    }

    fn level(&self, y: f64) -> Level {
        let Level { below, above } = self.count.level(y);
        Level { below: self.zero() + self.counted() * below, above: self.counted() * above }
    }
}

impl Univariate for ZeroInflatedPoisson {
    fn mean(&self) -> f64 {
        self.counted() * self.count.mean
    }

    fn std(&self) -> f64 {
        (self.mean() * (1.0 + self.zero() * self.count.mean)).sqrt()
    }

    fn refuses(&self, y: f64) -> Option<&'static str> {
        counts::refuses(y)
    }

    fn ln_density(&self, y: f64) -> f64 {
        let counted = self.count.ln_density(y) - softplus(self.logit);
        if y > 0.0 {
            return counted;
        }
        let inflated = -softplus(-self.logit);
        let largest = counted.max(inflated);
        largest + ((counted - largest).exp() + (inflated - largest).exp()).ln()
    }

    fn cdf(&self, y: f64) -> f64 {
        self.level(y).below
    }

    fn quantile(&self, level: Level) -> f64 {
        if level.is_reached(self.level(0.0)) {
            return 0.0;
        }
        // The level among what is counted, which is more than nothing as 0 did not reach it.
        let below = ((level.below - self.zero()) / self.counted()).clamp(0.0, 1.0);
        let above = (level.above / self.counted()).clamp(0.0, 1.0);
        let among = if above <= 0.5 { Level { below: 1.0 - above, above } } else { Level::new(below) };
        self.count.quantile(among)
    }

    fn crps(&self, y: f64) -> f64 {
        let (zero, counted) = (self.zero(), self.counted());
        let distance = zero * y + counted * self.count.distance(y);
        let spread = 2.0 * zero * counted * self.count.mean + counted * counted * self.count.spread();
        distance - 0.5 * spread
    }
}
