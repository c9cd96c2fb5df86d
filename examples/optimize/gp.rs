//! The exact Gaussian process that is the yardstick: Matérn 5/2, its length, variance and noise those
//! under which the observations are most likely.

use anyhow::{Context as _, Result};
use nalgebra::{Cholesky, DMatrix, DVector, Dyn};
use shared::normal::Normal;

/// Lengths in units of the box, and shares of noise, that are tried.
const LENGTHS: [f64; 10] = [0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.45, 0.7, 1.0, 1.6];
const NOISES: [f64; 5] = [1e-6, 1e-4, 1e-2, 0.1, 0.5];

/// A process that has read its observations.
pub struct Process<'a> {
    x: &'a [Vec<f64>],
    length: f64,
    noise: f64,
    variance: f64,
    level: f64,
    factor: Cholesky<f64, Dyn>,
    weights: DVector<f64>,
}

fn covariance(a: &[f64], b: &[f64], length: f64) -> f64 {
    let r = (5.0 * a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>()).sqrt() / length;
    (1.0 + r + r * r / 3.0) * (-r).exp()
}

impl<'a> Process<'a> {
    /// Of points in the unit box.
    pub fn fit(x: &'a [Vec<f64>], y: &[f64]) -> Result<Self> {
        let n = y.len();
        let level = y.iter().sum::<f64>() / n as f64;
        let y = DVector::from_iterator(n, y.iter().map(|y| y - level));
        let mut best: Option<(f64, Self)> = None;
        for (length, noise) in LENGTHS.iter().flat_map(|&length| NOISES.map(|noise| (length, noise))) {
            let mut gram = DMatrix::from_fn(n, n, |i, j| covariance(&x[i], &x[j], length));
            (0..n).for_each(|i| gram[(i, i)] += noise);
            let Some(factor) = Cholesky::new(gram) else { continue };
            let weights = factor.solve(&y);
            let variance = (y.dot(&weights) / n as f64).max(f64::MIN_POSITIVE);
            let half_log_det: f64 = factor.l_dirty().diagonal().iter().map(|x| x.ln()).sum();
            let likelihood = -0.5 * n as f64 * variance.ln() - half_log_det;
            if best.as_ref().is_none_or(|(most, _)| likelihood > *most) {
                best = Some((likelihood, Self { x, length, noise, variance, level, factor, weights }));
            }
        }
        best.map(|(_, process)| process).context("no covariance is positive definite")
    }

    /// Of the function itself, without noise.
    pub fn predict(&self, at: &[Vec<f64>]) -> Vec<Normal> {
        let predict = |at: &Vec<f64>| {
            let cross = DVector::from_iterator(self.x.len(), self.x.iter().map(|x| covariance(x, at, self.length)));
            let white = self.factor.l_dirty().solve_lower_triangular(&cross);
            let explained = white.map_or(0.0, |white| white.norm_squared());
            let least = 1e-9 + 1e-3 * self.noise;
            Normal {
                mean: self.level + cross.dot(&self.weights),
                std: (self.variance * (1.0 - explained).max(least)).sqrt(),
            }
        };
        at.iter().map(predict).collect()
    }
}
