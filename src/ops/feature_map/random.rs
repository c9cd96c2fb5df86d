//! Random projections, the same on every platform.

use std::f64::consts::TAU;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use super::problem::OP;
use crate::{
    Device,
    error::{Result, check_argument},
    tensor::Tensor,
};

/// How the rows of a random projection are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProjectionRows {
    /// Independent, normally distributed: unbiased, the error falls with `1 / sqrt(n_features)`.
    Independent,
    /// Orthogonal within each block of `head_dim` rows, lengths as of independent rows:
    /// unbiased, with less variance.
    Orthogonal,
    /// Orthogonal within each block, every row of length `sqrt(head_dim)`: the papers' own.
    OrthogonalUnit,
}

/// Draws a projection `[n_features, head_dim]` for [`FeatureMap`](super::FeatureMap) from a
/// seed (arXiv 2009.14794, section 2.4). The same seed gives the same numbers everywhere.
///
/// # Errors
/// A size of 0, a `head_dim` over 1024, or more than 2^20 numbers: orthogonal rows take time
/// with the square of `head_dim`, and by then it is seconds.
///
/// ```
/// use wgpu_attention::{Device, ops::{ProjectionRows, random_features}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let rows = random_features(&Device::cpu(), 7, 2, 2, ProjectionRows::OrthogonalUnit)?.read()?;
/// assert!((rows[0] * rows[2] + rows[1] * rows[3]).abs() < 1e-6); // at right angles
/// assert!((rows[0] * rows[0] + rows[1] * rows[1] - 2.0).abs() < 1e-6); // sqrt(2) long
/// # Ok(())
/// # }
/// ```
pub fn random_features(
    device: &Device,
    seed: u64,
    n_features: usize,
    head_dim: usize,
    rows: ProjectionRows,
) -> Result<Tensor> {
    let n = n_features.saturating_mul(head_dim);
    let found = format_args!("{n_features} and {head_dim}");
    let allowed = "1 or more each, head_dim at most 1024, 2^20 numbers in all";
    check_argument((1..=1 << 20).contains(&n) && head_dim <= 1024, OP, "n_features and head_dim", found, allowed)?;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut drawn: Vec<Vec<f64>> = Vec::with_capacity(n_features);
    for i in 0..n_features {
        let gaussian: Vec<f64> = std::iter::repeat_with(|| normal(&mut random)).take(head_dim).collect();
        if rows == ProjectionRows::Independent {
            drawn.push(gaussian);
            continue;
        }
        let length = match rows {
            ProjectionRows::OrthogonalUnit => (head_dim as f64).sqrt(),
            _ => norm(&gaussian),
        };
        let block = i - i % head_dim;
        drawn.push(orthogonal_to(&drawn[block..], &mut random, gaussian, length));
    }
    let numbers: Vec<f32> = drawn.iter().flatten().map(|&x| x as f32).collect();
    Tensor::new(device, &[n_features, head_dim], &numbers)
}

/// A standard normal number by Box-Muller, with functions that are the same on every platform.
fn normal(random: &mut ChaCha8Rng) -> f64 {
    // In (0, 1], so that the logarithm is finite.
    let mut uniform = || ((random.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
    libm::sqrt(-2.0 * libm::log(uniform())) * libm::cos(TAU * uniform())
}

fn norm(x: &[f64]) -> f64 {
    libm::sqrt(x.iter().map(|x| x * x).sum())
}

/// Gram-Schmidt, twice for accuracy; draws again in the unlikely case that nothing is left.
fn orthogonal_to(others: &[Vec<f64>], random: &mut ChaCha8Rng, mut x: Vec<f64>, length: f64) -> Vec<f64> {
    loop {
        for other in others.iter().chain(others) {
            let along =
                other.iter().zip(&x).map(|(a, b)| a * b).sum::<f64>() / other.iter().map(|a| a * a).sum::<f64>();
            x.iter_mut().zip(other).for_each(|(x, a)| *x -= along * a);
        }
        let left = norm(&x);
        if left > 1e-6 {
            x.iter_mut().for_each(|x| *x *= length / left);
            return x;
        }
        x.iter_mut().for_each(|x| *x = normal(random));
    }
}
