//! Exact Gaussian processes, one for each neighbourhood: the yardstick. The level and the variance are
//! those of the neighbourhood; roughness, length and noise are the same everywhere, those under which a
//! sample of neighbourhoods is most likely.

use anyhow::{Context as _, Result};
use nalgebra::{Cholesky, DMatrix, DVector, Dyn};
use shared::normal::Normal;
use wgpu_attention::models::Neighbourhood;

use crate::field::Field;

/// What is chosen by the likelihood.
#[derive(Clone, Copy, Debug)]
pub struct Hyper {
    /// Whether it is Matérn 3/2 and not 1/2.
    pub is_smooth: bool,
    /// In units of the coordinates.
    pub length: f64,
    /// The variance of the noise as a share of that of the field.
    pub noise: f64,
}

/// Multiples of a neighbourhood's size, and shares of noise, that are tried.
const LENGTHS: [f64; 6] = [0.3, 0.6, 1.2, 2.5, 5.0, 10.0];
const NOISES: [f64; 5] = [1e-4, 0.01, 0.03, 0.1, 0.3];
/// Neighbourhoods that the choice sees.
const SAMPLE: usize = 60;

impl Hyper {
    fn covariance(&self, d: f64) -> f64 {
        if self.is_smooth {
            let r = 3f64.sqrt() * d / self.length;
            (1.0 + r) * (-r).exp()
        } else {
            (-d / self.length).exp()
        }
    }
}

/// A neighbourhood that was read: `K^-1 1` and `K^-1 (y - level)`, and what the variance is.
struct Local {
    factor: Cholesky<f64, Dyn>,
    ones: DVector<f64>,
    weights: DVector<f64>,
    level: f64,
    variance: f64,
    log_likelihood: f64,
}

fn between(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

impl Local {
    /// Level and variance by generalised least squares.
    fn read(hyper: &Hyper, places: &[[f64; 2]], values: &[f64]) -> Option<Self> {
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
        Some(Self { factor, ones, weights, level, variance, log_likelihood })
    }

    fn predict(&self, hyper: &Hyper, places: &[[f64; 2]], at: [f64; 2]) -> Normal {
        let cross =
            DVector::from_iterator(places.len(), places.iter().map(|&place| hyper.covariance(between(place, at))));
        let explained = self.factor.l_dirty().solve_lower_triangular(&cross).map_or(0.0, |white| white.norm_squared());
        let of_level = (1.0 - cross.dot(&self.ones)).powi(2) / self.ones.sum();
        let share = (1.0 + hyper.noise - explained + of_level).max(hyper.noise);
        Normal { mean: self.level + cross.dot(&self.weights), std: (self.variance * share).sqrt() }
    }
}

/// The observations of a neighbourhood, in straight coordinates.
fn observations(field: &Field, straight: &[[f64; 2]], part: &Neighbourhood) -> (Vec<[f64; 2]>, Vec<f64>) {
    part.observations.iter().map(|&i| (straight[i], field.values[i])).unzip()
}

/// The choice under which a sample of neighbourhoods is most likely.
pub fn fit(field: &Field, straight: &[[f64; 2]], parts: &[Neighbourhood]) -> Result<Hyper> {
    let step = parts.len().div_ceil(SAMPLE).max(1);
    let sample: Vec<_> = parts.iter().step_by(step).map(|part| observations(field, straight, part)).collect();
    let reach = |places: &[[f64; 2]]| places.iter().map(|&place| between(place, places[0])).fold(0.0, f64::max);
    let size = sample.iter().map(|(places, _)| reach(places)).sum::<f64>() / sample.len().max(1) as f64;
    let mut best: Option<(f64, Hyper)> = None;
    for is_smooth in [false, true] {
        for (length, noise) in LENGTHS.iter().flat_map(|length| NOISES.map(|noise| (size * length, noise))) {
            let hyper = Hyper { is_smooth, length, noise };
            let each = sample.iter().map(|(places, values)| Local::read(&hyper, places, values));
            let Some(sum) = each.map(|local| local.map(|local| local.log_likelihood)).sum::<Option<f64>>() else {
                continue;
            };
            if best.is_none_or(|(most, _)| sum > most) {
                best = Some((sum, hyper));
            }
        }
    }
    best.map(|(_, hyper)| hyper).context("no covariance of the Gaussian process is positive definite")
}

/// The predictions at the places of a neighbourhood.
pub fn predict(
    hyper: &Hyper,
    field: &Field,
    straight: &[[f64; 2]],
    part: &Neighbourhood,
    at: &[[f64; 2]],
) -> Result<Vec<Normal>> {
    let (places, values) = observations(field, straight, part);
    let local = Local::read(hyper, &places, &values).context("a covariance is not positive definite")?;
    Ok(part.places.iter().map(|&i| local.predict(hyper, &places, at[i])).collect())
}
