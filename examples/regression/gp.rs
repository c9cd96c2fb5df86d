//! An exact Gaussian process in f64, the yardstick of this example: a smooth part (RBF), a
//! cycle that drifts (periodic x RBF) and noise, all fitted by the marginal likelihood.

use std::f64::consts::PI;

use anyhow::{Context, Result};
use argmin::{
    core::{CostFunction, Executor, State},
    solver::neldermead::NelderMead,
};
use nalgebra::{Cholesky, DMatrix, DVector, Dyn};

use shared::normal::Normal;

/// An exact process takes memory n^2 and time n^3.
pub const MAX_POINTS: usize = 3000;

/// The marginal likelihood is evaluated some thousand times, so it sees at most this many points.
const MAX_FIT_POINTS: usize = 300;

/// What stands for the negative log-likelihood where there is none.
const REFUSED: f64 = 1e10;

/// Logarithms of the hyper-parameters, in the units of the coordinate and of the values.
type LogHyper = Vec<f64>;

/// Each hyper-parameter: its name and its allowed range.
const HYPER: [(&str, f64, f64); 7] = [
    ("smooth std", 1e-3, 30.0),
    ("smooth length", 0.02, 100.0),
    ("cycle std", 1e-3, 30.0),
    ("cycle period", 0.05, 5.0),
    ("cycle roughness", 0.1, 30.0),
    ("cycle drift", 0.1, 1000.0),
    ("noise std", 1e-3, 3.0),
];
const PERIOD: usize = 3;
const NOISE: usize = 6;

/// A process that has read its observations.
pub struct GaussianProcess {
    hyper: LogHyper,
    x: Vec<f64>,
    factor: Cholesky<f64, Dyn>,
    /// `K^-1 y`.
    weights: DVector<f64>,
    /// The log marginal likelihood of the points that the fit saw.
    pub log_likelihood: f64,
}

impl GaussianProcess {
    /// Fits the hyper-parameters, all but a period that is known, and conditions on all points.
    pub fn fit(x: &[f64], y: &[f64], period: Option<f64>) -> Result<Self> {
        let step = x.len().div_ceil(MAX_FIT_POINTS);
        let likelihood = MarginalLikelihood {
            x: x.iter().copied().step_by(step).collect(),
            y: DVector::from_iterator(x.len().div_ceil(step), y.iter().copied().step_by(step)),
        };
        let (hyper, cost) = likelihood.maximise(period.map(f64::ln))?;
        let y = DVector::from_column_slice(y);
        let factor = factor(&hyper, x).context("the covariance of the Gaussian process is not positive definite")?;
        Ok(Self { weights: factor.solve(&y), factor, x: x.to_vec(), hyper, log_likelihood: -cost })
    }

    /// Mean and standard deviation of observations, noise included.
    pub fn predict(&self, x: &[f64]) -> Vec<Normal> {
        let cross = DMatrix::from_fn(self.x.len(), x.len(), |i, j| kernel(&self.hyper, self.x[i] - x[j]));
        let mean = cross.tr_mul(&self.weights);
        let whitened = self.factor.l_dirty().solve_lower_triangular(&cross);
        let prior = kernel(&self.hyper, 0.0) + noise_variance(&self.hyper);
        let std = |j: usize| {
            let explained = whitened.as_ref().map_or(0.0, |whitened| whitened.column(j).norm_squared());
            (prior - explained).max(noise_variance(&self.hyper)).sqrt()
        };
        (0..x.len()).map(|j| Normal { mean: mean[j], std: std(j) }).collect()
    }

    /// The hyper-parameters by name.
    pub fn hyper(&self) -> impl Iterator<Item = (&'static str, f64)> {
        HYPER.iter().zip(&self.hyper).map(|(&(name, ..), log)| (name, log.exp()))
    }
}

fn kernel(hyper: &[f64], d: f64) -> f64 {
    let value = |i: usize| hyper[i].exp();
    let rbf = |d: f64, length: f64| -0.5 * (d / length).powi(2);
    let sine = (PI * d / value(PERIOD)).sin() / value(4);
    value(0).powi(2) * rbf(d, value(1)).exp() + value(2).powi(2) * (rbf(d, value(5)) - 2.0 * sine * sine).exp()
}

fn noise_variance(hyper: &[f64]) -> f64 {
    (2.0 * hyper[NOISE]).exp()
}

fn factor(hyper: &[f64], x: &[f64]) -> Option<Cholesky<f64, Dyn>> {
    // The Cholesky decomposition reads the lower triangle only.
    let mut gram = DMatrix::zeros(x.len(), x.len());
    for j in 0..x.len() {
        for i in j..x.len() {
            gram[(i, j)] = kernel(hyper, x[i] - x[j]);
        }
        gram[(j, j)] += noise_variance(hyper);
    }
    Cholesky::new(gram)
}

struct MarginalLikelihood {
    x: Vec<f64>,
    y: DVector<f64>,
}

impl MarginalLikelihood {
    /// The negative log marginal likelihood.
    fn cost(&self, hyper: &[f64]) -> f64 {
        let allowed = |(log, &(_, low, high)): (&f64, &(&str, f64, f64))| (low.ln()..=high.ln()).contains(log);
        if !hyper.iter().zip(&HYPER).all(allowed) {
            return REFUSED;
        }
        let Some(factor) = factor(hyper, &self.x) else { return REFUSED };
        let half_log_det: f64 = factor.l_dirty().diagonal().iter().map(|x| x.ln()).sum();
        let n = self.x.len() as f64;
        0.5 * self.y.dot(&factor.solve(&self.y)) + half_log_det + 0.5 * n * (2.0 * PI).ln()
    }

    /// The best hyper-parameters of several searches. Where the (logarithm of the) period is not known
    /// the likelihood has many local maxima in it, so the searches begin at the best ones of a grid.
    fn maximise(&self, period: Option<f64>) -> Result<(LogHyper, f64)> {
        let start = |length: f64, period: f64, drift: f64| -> LogHyper {
            [0.5, length, 0.7, period, 1.0, drift, 0.2].iter().map(|value: &f64| value.ln()).collect()
        };
        let starts = if let Some(period) = period {
            [(1.0, 4.0), (0.3, 4.0), (1.0, 30.0), (0.3, 30.0)]
                .map(|(length, drift)| start(length, period.exp(), drift))
                .to_vec()
        } else {
            let mut starts: Vec<(f64, LogHyper)> = (0..48)
                .map(|i| start(1.0, 0.1 * 20f64.powf(f64::from(i) / 47.0), 4.0))
                .map(|hyper| (self.cost(&hyper), hyper))
                .collect();
            starts.sort_by(|a, b| a.0.total_cmp(&b.0));
            starts.into_iter().take(3).map(|(_, hyper)| hyper).collect()
        };
        let mut best = (starts[0].clone(), REFUSED);
        for start in starts {
            // A simplex may collapse before the maximum, so the search begins anew from its end.
            let mut found = self.search(start, period.is_some())?;
            found = self.search(found.0, period.is_some())?;
            if found.1 < best.1 {
                best = found;
            }
        }
        Ok(best)
    }

    /// A period that is known is the same in all corners of the simplex, and so stays.
    fn search(&self, start: LogHyper, keep_period: bool) -> Result<(LogHyper, f64)> {
        let mut simplex = vec![start.clone()];
        for i in (0..HYPER.len()).filter(|&i| !(keep_period && i == PERIOD)) {
            simplex.push(start.clone());
            simplex.last_mut().expect("just pushed")[i] += if i == PERIOD { 0.05 } else { 0.5 };
        }
        let solver = NelderMead::new(simplex).with_sd_tolerance(1e-5)?;
        let found = Executor::new(self, solver).configure(|state| state.max_iters(600)).run()?;
        let best = found.state().get_best_param().cloned().unwrap_or(start);
        Ok((best, found.state().get_best_cost()))
    }
}

impl CostFunction for &MarginalLikelihood {
    type Param = LogHyper;
    type Output = f64;

    fn cost(&self, hyper: &LogHyper) -> Result<f64, argmin::core::Error> {
        Ok(MarginalLikelihood::cost(self, hyper))
    }
}
