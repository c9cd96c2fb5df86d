//! Yes or no.

use super::{
    special::{Level, sigmoid, softplus},
    univariate::Univariate,
};

pub struct Bernoulli {
    /// The logarithm of the odds.
    pub logit: f64,
}

impl Univariate for Bernoulli {
    fn mean(&self) -> f64 {
        sigmoid(self.logit)
    }

    fn std(&self) -> f64 {
        (sigmoid(self.logit) * sigmoid(-self.logit)).sqrt()
    }

    fn refuses(&self, y: f64) -> Option<&'static str> {
        (y != 0.0 && y != 1.0).then_some("0 or 1")
    }

    fn ln_density(&self, y: f64) -> f64 {
        -softplus(if y == 1.0 { -self.logit } else { self.logit })
    }

    fn cdf(&self, y: f64) -> f64 {
        if y >= 1.0 { 1.0 } else { sigmoid(-self.logit) }
    }

    fn quantile(&self, level: Level) -> f64 {
        let zero = Level { below: sigmoid(-self.logit), above: sigmoid(self.logit) };
        if level.is_reached(zero) { 0.0 } else { 1.0 }
    }

    fn crps(&self, y: f64) -> f64 {
        // The probability of what was not observed.
        sigmoid(if y == 1.0 { -self.logit } else { self.logit }).powi(2)
    }
}
