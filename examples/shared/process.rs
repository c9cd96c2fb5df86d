//! An exact Gaussian process in the plane, around a level that it finds itself.

use nalgebra::{Cholesky, DMatrix, DVector, Dyn};

use crate::normal::Normal;

/// What level and variance are not: they follow from the observations.
#[derive(Clone, Copy, Debug)]
pub struct Hyper {
    /// Whether it is Matérn 3/2 and not 1/2.
    pub is_smooth: bool,
    /// In units of the coordinates.
    pub length: f64,
    /// The variance of the noise as a share of that of the field.
    pub noise: f64,
}

impl Hyper {
    /// One for each length and share of noise, rough and smooth: to try which makes observations likeliest.
    pub fn grid<'a>(lengths: &'a [f64], noises: &'a [f64]) -> impl Iterator<Item = Self> + 'a {
        let pairs = move |is_smooth: bool| {
            let of_length = move |&length: &f64| noises.iter().map(move |&noise| Self { is_smooth, length, noise });
            lengths.iter().flat_map(of_length)
        };
        [false, true].into_iter().flat_map(pairs)
    }

    fn covariance(&self, d: f64) -> f64 {
        if self.is_smooth {
            let r = 3f64.sqrt() * d / self.length;
            (1.0 + r) * (-r).exp()
        } else {
            (-d / self.length).exp()
        }
    }
}

/// Observations that were read: `K^-1 1` and `K^-1 (y - level)`, and what the variance is.
pub struct Process<'a> {
    hyper: Hyper,
    places: &'a [[f64; 2]],
    factor: Cholesky<f64, Dyn>,
    ones: DVector<f64>,
    weights: DVector<f64>,
    level: f64,
    variance: f64,
    /// The log marginal likelihood, level integrated out and variance the likeliest, less a constant.
    pub log_likelihood: f64,
}

/// The distance of two places.
pub fn between(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

impl<'a> Process<'a> {
    /// Level and variance by generalised least squares; `None` where the covariance is not positive definite.
    pub fn read(hyper: Hyper, places: &'a [[f64; 2]], values: &[f64]) -> Option<Self> {
        let n = places.len();
        let mut gram = DMatrix::from_fn(n, n, |i, j| hyper.covariance(between(places[i], places[j])));
        (0..n).for_each(|i| gram[(i, i)] += hyper.noise);
        let factor = Cholesky::new(gram)?;
        let ones = factor.solve(&DVector::from_element(n, 1.0));
        let y = DVector::from_column_slice(values);
        let level = ones.dot(&y) / ones.sum();
        let centred = y.add_scalar(-level);
        let weights = factor.solve(&centred);
        let variance = (centred.dot(&weights) / (n - 1).max(1) as f64).max(f64::MIN_POSITIVE);
        let half_log_det: f64 = factor.l_dirty().diagonal().iter().map(|x| x.ln()).sum();
        let log_likelihood = -0.5 * (n - 1) as f64 * variance.ln() - half_log_det - 0.5 * ones.sum().ln();
        Some(Self { hyper, places, factor, ones, weights, level, variance, log_likelihood })
    }

    /// What an observation at a place will be.
    pub fn predict(&self, at: [f64; 2]) -> Normal {
        let Self { hyper, places, .. } = self;
        let cross =
            DVector::from_iterator(places.len(), places.iter().map(|&place| hyper.covariance(between(place, at))));
        let explained = self.factor.l_dirty().solve_lower_triangular(&cross).map_or(0.0, |white| white.norm_squared());
        let of_level = (1.0 - cross.dot(&self.ones)).powi(2) / self.ones.sum();
        let share = (1.0 + hyper.noise - explained + of_level).max(hyper.noise);
        Normal { mean: self.level + cross.dot(&self.weights), std: (self.variance * share).sqrt() }
    }
}
