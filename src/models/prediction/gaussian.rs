//! A normal distribution.

use std::f64::consts::{PI, TAU};

use super::{
    special::{Level, normal_cdf, normal_density, normal_quantile},
    univariate::Univariate,
};

pub struct Gaussian {
    pub mean: f64,
    pub std: f64,
}

impl Gaussian {
    fn z(&self, y: f64) -> f64 {
        (y - self.mean) / self.std
    }
}

impl Univariate for Gaussian {
    fn mean(&self) -> f64 {
        self.mean
    }

    fn std(&self) -> f64 {
        self.std
    }

    fn refuses(&self, y: f64) -> Option<&'static str> {
        (!y.is_finite()).then_some("a finite number")
    }

    fn ln_density(&self, y: f64) -> f64 {
        let z = self.z(y);
        -0.5 * z * z - self.std.ln() - 0.5 * TAU.ln()
    }

    fn cdf(&self, y: f64) -> f64 {
        normal_cdf(self.z(y))
    }

    fn quantile(&self, level: Level) -> f64 {
        self.mean + self.std * normal_quantile(level)
    }

    fn crps(&self, y: f64) -> f64 {
        let z = self.z(y).abs();
        if z > 40.0 {
            // So far out that there is no tail, and z itself may overflow.
            return (y - self.mean).abs() - self.std / PI.sqrt();
        }
        // Twice the density less what the tail misses, so that nothing cancels far out.
        self.std * (z - 2.0 * z * normal_cdf(-z) + 2.0 * normal_density(z) - 1.0 / PI.sqrt())
    }
}
