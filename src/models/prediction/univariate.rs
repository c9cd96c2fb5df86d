//! What all families have in common.

use super::special::Level;

/// The distribution of one value.
pub trait Univariate {
    fn mean(&self) -> f64;
    fn std(&self) -> f64;
    /// What can be observed, where this cannot.
    fn refuses(&self, y: f64) -> Option<&'static str>;
    /// The natural logarithm of the density, or of the probability, of what can be observed.
    fn ln_density(&self, y: f64) -> f64;
    /// The probability of at most `y`.
    fn cdf(&self, y: f64) -> f64;
    /// The least number that is at most so with a probability.
    fn quantile(&self, level: Level) -> f64;
    /// The mean distance of a draw from `y`, less half that of two draws.
    fn crps(&self, y: f64) -> f64;
}
