//! What the numbers that a network's head returns mean.

use serde::{Deserialize, Serialize};

use super::{
    bernoulli::Bernoulli, beta::Beta, categorical, gaussian::Gaussian, negative_binomial::NegativeBinomial,
    poisson::Poisson, special::softplus, univariate::Univariate, zero_inflated_poisson::ZeroInflatedPoisson,
};
use crate::error::{Error, Result};

/// A standard deviation, a rate or a shape below this, the least normal number of f32, counts as this.
const LEAST: f64 = f32::MIN_POSITIVE as f64;

/// The distribution that is predicted of each value at a point, and how its parameters are made of what
/// the head returns: of families with two parameters the first half of its numbers are `a` of every value,
/// the second half `b`; of the others all are `a`.
///
/// Gaussian, categorical, Beta, Poisson and zero-inflated Poisson outputs are those of the papers' code
/// (`dl4bi`); it has no Bernoulli and no negative binomial one, and calls a categorical one multinomial.
/// Standard deviations, rates and shapes below the least normal number of f32, 1.2e-38, count as that, so
/// that densities are finite.
///
/// ```
/// use wgpu_attention::{models::Output, serde_json};
///
/// let output: Output = serde_json::from_str(r#"{"kind": "gaussian", "min_std": 0.0}"#).unwrap();
/// assert_eq!((output, output.n_parameters(3)), (Output::Gaussian { min_std: 0.0 }, 6));
/// assert_eq!(Output::Poisson.n_parameters(3), 3);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Output {
    /// A normal distribution: `mean = a`, `std = min_std + (1 - min_std) softplus(b)`.
    Gaussian {
        /// The smallest standard deviation.
        min_std: f32,
    },
    /// A normal distribution: `mean = a`, `std = exp(b)`.
    GaussianLogStd,
    /// Yes, 1, with probability `sigmoid(a)`, or no, 0.
    Bernoulli,
    /// One of as many classes as there are values, with probabilities `softmax(a)`.
    Categorical,
    /// Counts: `mean = softplus(a)`.
    Poisson,
    /// Zero with probability `sigmoid(a)`; counts with `mean = softplus(b)` otherwise.
    ZeroInflatedPoisson,
    /// Counts: `mean = softplus(a)`, variance `mean + mean² / shape` with `shape = softplus(b)`.
    NegativeBinomial,
    /// A share, above 0 and below 1: `alpha = softplus(a)`, `beta = softplus(b)`.
    Beta,
}

impl Output {
    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gaussian { .. } => "gaussian",
            Self::GaussianLogStd => "gaussian_log_std",
            Self::Bernoulli => "bernoulli",
            Self::Categorical => "categorical",
            Self::Poisson => "poisson",
            Self::ZeroInflatedPoisson => "zero_inflated_poisson",
            Self::NegativeBinomial => "negative_binomial",
            Self::Beta => "beta",
        }
    }

    /// How many numbers the head returns for a point of `n_values` values.
    pub fn n_parameters(self, n_values: usize) -> usize {
        match self {
            Self::Bernoulli | Self::Categorical | Self::Poisson => n_values,
            _ => n_values.saturating_mul(2),
        }
    }

    /// Refuses a least standard deviation that is none.
    pub(crate) fn check(self) -> Result<()> {
        match self {
            Self::Gaussian { min_std } if !(0.0..1.0).contains(&min_std) => {
                Err(Error::Config { message: format!("min_std is {min_std}, allowed is 0 to below 1") })
            }
            _ => Ok(()),
        }
    }

    /// What may be observed at a point, where these values are not; their index. A share may be 0 or 1 in a context,
    /// where its density is not asked for.
    pub(crate) fn refuses(self, values: &[f32]) -> Option<(usize, &'static str)> {
        let values = || values.iter().map(|value| f64::from(*value));
        match self {
            Self::Gaussian { .. } | Self::GaussianLogStd => None,
            Self::Categorical => {
                let is_class = categorical::observed(&values().collect::<Vec<_>>()).is_some();
                (!is_class).then_some((0, "1 for its class and 0 for the others"))
            }
            Self::Beta => values().position(|y| !(0.0..=1.0).contains(&y)).map(|i| (i, "0 to 1")),
            _ => self.with([0.0; 2], [1.0, 0.0], |distribution| {
                values().enumerate().find_map(|(i, y)| distribution.refuses(y).map(|allowed| (i, allowed)))
            }),
        }
    }

    /// Whether values are numbers that may be shifted and scaled.
    pub fn has_units(self) -> bool {
        matches!(self, Self::Gaussian { .. } | Self::GaussianLogStd)
    }

    /// What a function makes of the distribution with the parameters `a` and `b`, shifted and scaled.
    pub(super) fn with<T>(
        self,
        [a, b]: [f64; 2],
        [scale, shift]: [f64; 2],
        of: impl FnOnce(&dyn Univariate) -> T,
    ) -> T {
        let positive = |x: f64| softplus(x).max(LEAST);
        let gaussian = |std: f64| Gaussian { mean: shift + scale * a, std: (scale * std).max(LEAST) };
        match self {
            Self::Gaussian { min_std } => {
                let min_std = f64::from(min_std);
                of(&gaussian(min_std + (1.0 - min_std) * softplus(b)))
            }
            Self::GaussianLogStd => of(&gaussian(b.exp())),
            // A class by itself is a yes or no; `mod.rs` makes its odds.
            Self::Bernoulli | Self::Categorical => of(&Bernoulli { logit: a }),
            Self::Poisson => of(&Poisson { mean: positive(a) }),
            Self::ZeroInflatedPoisson => of(&ZeroInflatedPoisson { logit: a, count: Poisson { mean: positive(b) } }),
            Self::NegativeBinomial => of(&NegativeBinomial { mean: positive(a), shape: positive(b) }),
            Self::Beta => of(&Beta { alpha: positive(a), beta: positive(b) }),
        }
    }
}
