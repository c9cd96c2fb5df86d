//! An exact Gaussian process in f64, the yardstick of this example: a smooth part (RBF), a
//! cycle that drifts (periodic x RBF) and noise, all fitted by the marginal likelihood.

use std::f64::consts::PI;

use anyhow::{Context, Result, ensure};
use argmin::{
    core::{CostFunction, Executor, State},
    solver::neldermead::NelderMead,
};
use nalgebra::{Cholesky, DMatrix, DVector, Dyn};

use shared::normal::Normal;

use crate::data::Series;

/// An exact process takes memory n^2 and time n^3.
pub const MAX_POINTS: usize = 3000;

/// The marginal likelihood is evaluated some thousand times, so it sees at most this many points, chosen at random:
/// every second of a regular record may lie at the same phases of its cycle.
const MAX_FIT_POINTS: usize = 300;
const FIT_SEED: u64 = 0;

/// What stands for the negative log-likelihood where there is none.
const REFUSED: f64 = 1e10;

/// Logarithms of the hyper-parameters, in the units of the coordinate and of the values.
type LogHyper = Vec<f64>;

/// Each hyper-parameter: its name and its allowed range; a period that is told may be any.
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
    pub fn fit(series: &Series, period: Option<f64>) -> Result<Self> {
        let seen = thinned(series);
        let likelihood = MarginalLikelihood { x: seen.x, y: seen.y.into(), period: period.map(f64::ln) };
        let (hyper, cost) = likelihood.maximise()?;
        let Series { x, y } = series.clone();
        let factor = factor(&hyper, &x).context("the covariance of the Gaussian process is not positive definite")?;
        Ok(Self { weights: factor.solve(&y.into()), factor, x, hyper, log_likelihood: -cost })
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

/// The points that the fit sees.
fn thinned(series: &Series) -> Series {
    series.some(MAX_FIT_POINTS, FIT_SEED).0
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
    /// The logarithm of the period, where it is told.
    period: Option<f64>,
}

impl MarginalLikelihood {
    /// The negative log marginal likelihood.
    fn cost(&self, hyper: &[f64]) -> f64 {
        let is_free = |i: usize| i != PERIOD || self.period.is_none();
        let is_allowed = |i: usize| (HYPER[i].1.ln()..=HYPER[i].2.ln()).contains(&hyper[i]);
        if !(0..HYPER.len()).filter(|&i| is_free(i)).all(is_allowed) {
            return REFUSED;
        }
        let Some(factor) = factor(hyper, &self.x) else { return REFUSED };
        let half_log_det: f64 = factor.l_dirty().diagonal().iter().map(|x| x.ln()).sum();
        let n = self.x.len() as f64;
        0.5 * self.y.dot(&factor.solve(&self.y)) + half_log_det + 0.5 * n * (2.0 * PI).ln()
    }

    /// The best hyper-parameters of several searches. Where the period is not known the likelihood has many
    /// local maxima in it, so the searches begin at the best ones of a grid.
    fn maximise(&self) -> Result<(LogHyper, f64)> {
        let start = |length: f64, period: f64, drift: f64| -> LogHyper {
            [0.5, length, 0.7, period, 1.0, drift, 0.2].iter().map(|value: &f64| value.ln()).collect()
        };
        let starts = if let Some(period) = self.period {
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
            let mut found = self.search(start)?;
            found = self.search(found.0)?;
            if found.1 < best.1 {
                best = found;
            }
        }
        ensure!(best.1 < REFUSED, "the Gaussian process has no likelihood wherever a search began");
        Ok(best)
    }

    /// A period that is known is the same in all corners of the simplex, and so stays.
    fn search(&self, start: LogHyper) -> Result<(LogHyper, f64)> {
        let mut simplex = vec![start.clone()];
        for i in (0..HYPER.len()).filter(|&i| i != PERIOD || self.period.is_none()) {
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

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use super::*;

    /// So many cycles over a length of 4, at regular places.
    fn record(n: usize, n_cycles: f64) -> Series {
        let x: Vec<f64> = (0..n).map(|i| 4.0 * i as f64 / n as f64 - 2.0).collect();
        let y = x.iter().map(|x| 1.4 * (TAU * n_cycles * x / 4.0).sin() + 0.05 * (97.0 * x).cos()).collect();
        Series { x, y }
    }

    /// The old code checked a period that it was told against those that it searches: every cost was refused, the
    /// hyper-parameters stayed those of the start and the likelihood was said to be -1e10.
    #[test]
    fn a_period_that_is_told_may_be_any() {
        for n_cycles in [100.0, 0.5] {
            let (seen, asked) = record(90, n_cycles).some(60, 1);
            let process = GaussianProcess::fit(&seen, Some(4.0 / n_cycles)).unwrap();
            assert!(process.log_likelihood > 0.0, "{n_cycles}: {}", process.log_likelihood);
            for (normal, y) in process.predict(&asked.x).iter().zip(&asked.y) {
                assert!((normal.mean - y).abs() < 0.3 && normal.std < 0.3, "{n_cycles}: {normal:?}, {y}");
            }
        }
    }

    /// Every second of four points a cycle always lies at the same two phases.
    #[test]
    fn points_of_every_phase_are_kept() {
        let seen = thinned(&record(480, 120.0));
        for phase in 0..4 {
            let is_there = |x: &&f64| (((**x + 2.0) * 120.0).round() as usize) % 4 == phase;
            assert!(seen.x.iter().filter(is_there).count() > 40, "phase {phase}");
        }
    }
}
