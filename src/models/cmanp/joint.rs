//! Predictions of a CMANP-AND: targets that vary together.

use nalgebra::{Cholesky, DMatrix, DVector};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{Posterior, config::CovarianceKind, covariance::Covariance, points::Context};
use crate::{
    error::{Error, Result},
    ops::feature_map::normal,
    tensor::check_finite,
};

/// The most numbers, points times channels, that are predicted together: their covariance is held
/// in float64.
pub const MAX_JOINT: usize = 1 << 13;

/// A normal distribution of the channels of all points together, point after point: number
/// `t dim_y + c` is channel `c` of point `t`.
#[derive(Clone, Debug, PartialEq)]
pub struct JointPrediction {
    mean: DVector<f64>,
    /// Lower triangular; the covariance is this times its transpose.
    factor: DMatrix<f64>,
    projections: Vec<f32>,
}

/// What [`Posterior::evaluate`] returns.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// For each block, for each batch element: what was predicted before its values were shown.
    pub blocks: Vec<Vec<JointPrediction>>,
    /// For each block, the logarithm of the density of its values, of each batch element.
    pub log_densities: Vec<Vec<f64>>,
    /// Of each batch element: the sum over the blocks divided by the number of targets (not of
    /// channels), as the paper reports it.
    pub per_target: Vec<f64>,
}

impl JointPrediction {
    /// From the mean `[n]`, the projections `[n, prj_dim]` and the logarithm of the diagonal `[n]`.
    fn new(kind: CovarianceKind, bound_std: bool, mean: &[f32], projections: &[f32], diagonal: &[f32]) -> Result<Self> {
        let n = mean.len();
        for (name, numbers) in [("mean", mean), ("projections", projections), ("diagonal", diagonal)] {
            check_finite(name, numbers)?;
        }
        let wide = |x: &f32| f64::from(*x);
        let p = DMatrix::from_row_iterator(n, projections.len() / n.max(1), projections.iter().map(wide));
        let product = &p * p.transpose();
        let factor = match kind {
            CovarianceKind::Cholesky => {
                let mut factor = product.lower_triangle();
                if bound_std {
                    (0..n).for_each(|i| factor[(i, i)] = 0.05 + 0.95 * factor[(i, i)].tanh());
                }
                factor
            }
            CovarianceKind::LowRank => {
                let covariance = product
                    + DMatrix::from_diagonal(&DVector::from_iterator(n, diagonal.iter().map(|x| wide(x).exp())));
                Cholesky::new(covariance).map(Cholesky::unpack).ok_or(Error::NotPositiveDefinite { n })?
            }
        };
        if factor.diagonal().iter().any(|&x| !(x > 0.0 && x.is_finite())) {
            return Err(Error::NotPositiveDefinite { n });
        }
        Ok(Self { mean: DVector::from_iterator(n, mean.iter().map(wide)), factor, projections: projections.to_vec() })
    }

    /// Numbers that vary together: points times channels.
    pub fn len(&self) -> usize {
        self.mean.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The expected value, `[n]`.
    pub fn mean(&self) -> Vec<f64> {
        self.mean.as_slice().to_vec()
    }

    /// The standard deviation of each number by itself, `[n]`.
    pub fn std(&self) -> Vec<f64> {
        self.factor.row_iter().map(|row| row.norm()).collect()
    }

    /// The lower triangular factor `L` of the covariance `L L^T`, `[n, n]`, row-major.
    pub fn factor(&self) -> Vec<f64> {
        row_major(&self.factor)
    }

    /// The covariance, `[n, n]`, row-major.
    pub fn covariance(&self) -> Vec<f64> {
        row_major(&(&self.factor * self.factor.transpose()))
    }

    /// The projections that the covariance is made of, `[n, prj_dim]`, row-major.
    pub fn projections(&self) -> &[f32] {
        &self.projections
    }

    /// The natural logarithm of the density at `y [n]`.
    ///
    /// # Errors
    /// `y` has another length.
    pub fn log_density(&self, y: &[f32]) -> Result<f64> {
        let n = self.len();
        if y.len() != n {
            return Err(Error::Length { shape: vec![n], expected: n, found: y.len() });
        }
        let rest = DVector::from_iterator(n, y.iter().map(|&y| f64::from(y))) - &self.mean;
        // The diagonal is positive, so that it always has a solution.
        let z = self.factor.solve_lower_triangular(&rest).ok_or(Error::NotPositiveDefinite { n })?;
        let log_scale: f64 = self.factor.diagonal().iter().map(|x| x.ln()).sum();
        Ok(-0.5 * z.norm_squared() - log_scale - 0.5 * n as f64 * std::f64::consts::TAU.ln())
    }

    /// Draws `n_samples` values of all numbers, `[n_samples, n]`. The same seed gives the same
    /// draws on every platform, up to the rounding of the prediction itself.
    pub fn samples(&self, n_samples: usize, seed: u64) -> Vec<f64> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..n_samples).flat_map(|_| self.draw(&mut random)).collect()
    }

    fn draw(&self, random: &mut ChaCha8Rng) -> Vec<f64> {
        let z = DVector::from_iterator(self.len(), std::iter::repeat_with(|| normal(random)).take(self.len()));
        (&self.factor * z + &self.mean).as_slice().to_vec()
    }
}

fn row_major(matrix: &DMatrix<f64>) -> Vec<f64> {
    matrix.transpose().as_slice().to_vec()
}

impl Posterior {
    /// Predicts points `x [batch, n_points, dim_x]` together, with a CMANP-AND: one distribution
    /// for each batch element. Work and memory grow with the square of `n_points dim_y`.
    ///
    /// # Errors
    /// A model without a covariance; more than [`MAX_JOINT`] numbers; sizes that do not fit;
    /// numbers that are not finite; a covariance that is not positive definite.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn predict_joint(&self, x: &[f32]) -> Result<Vec<JointPrediction>> {
        pollster::block_on(self.predict_joint_async(x))
    }

    /// [`Posterior::predict_joint`] without blocking.
    ///
    /// # Errors
    /// As [`Posterior::predict_joint`].
    pub async fn predict_joint_async(&self, x: &[f32]) -> Result<Vec<JointPrediction>> {
        let covariance = self.covariance("Posterior::predict_joint")?;
        let config = &self.network.config;
        let targets = self.targets(x)?;
        let n = targets.n * config.dim_y;
        if n > MAX_JOINT {
            return Err(Error::LimitExceeded {
                limit: "numbers predicted together (points times channels)",
                requested: n as u64,
                allowed: MAX_JOINT as u64,
            });
        }
        if n == 0 {
            let none = || JointPrediction::new(covariance.kind, config.bound_std, &[], &[], &[]);
            return (0..self.batch).map(|_| none()).collect();
        }
        let encoded = self.encode_range(&targets, &(0..targets.n))?;
        let (mean, projections, diagonal) = covariance.forward(&encoded)?;
        let (mean, projections) = (mean.start_read()?, projections.start_read()?);
        let diagonal = diagonal.map(|diagonal| diagonal.start_read()).transpose()?;
        let (mean, projections) = (mean.finish().await?, projections.finish().await?);
        let diagonal = match diagonal {
            Some(diagonal) => diagonal.finish().await?,
            None => Vec::new(),
        };
        let of = |numbers: &'_ [f32], b: usize| {
            let len = numbers.len() / self.batch;
            b * len..(b + 1) * len
        };
        let one = |b| {
            let (mean, projections) = (&mean[of(&mean, b)], &projections[of(&projections, b)]);
            JointPrediction::new(covariance.kind, config.bound_std, mean, projections, &diagonal[of(&diagonal, b)])
        };
        (0..self.batch).map(one).collect()
    }

    /// The log-likelihood of `y` at `x` with a CMANP-AND, block after block of at most `block`
    /// points in their order: after each block but the last its true values are taken in. The
    /// result depends on the order of the points and on the size of the blocks.
    ///
    /// # Errors
    /// As [`Posterior::predict_joint`] and [`Posterior::update`]; a block of 0; no points.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn evaluate(&self, x: &[f32], y: &[f32], block: usize) -> Result<Evaluation> {
        pollster::block_on(self.evaluate_async(x, y, block))
    }

    /// [`Posterior::evaluate`] without blocking.
    ///
    /// # Errors
    /// As [`Posterior::evaluate`].
    pub async fn evaluate_async(&self, x: &[f32], y: &[f32], block: usize) -> Result<Evaluation> {
        let config = &self.network.config;
        let n = self.check_blocks("Posterior::evaluate", x, block)?;
        let expected = self.batch * n * config.dim_y;
        if y.len() != expected {
            return Err(Error::Length { shape: vec![self.batch, n, config.dim_y], expected, found: y.len() });
        }
        let mut posterior = self.clone();
        let (mut blocks, mut log_densities) = (Vec::new(), Vec::new());
        for start in (0..n).step_by(block) {
            let points = start..n.min(start + block);
            let pick = |numbers: &[f32], dim: usize| -> Vec<f32> {
                let rows = numbers.chunks(n * dim).flat_map(|rows| &rows[points.start * dim..points.end * dim]);
                rows.copied().collect()
            };
            let (x, y) = (pick(x, config.dim_x), pick(y, config.dim_y));
            let predictions = posterior.predict_joint_async(&x).await?;
            let of_batch = predictions.iter().zip(y.chunks(points.len() * config.dim_y));
            log_densities.push(of_batch.map(|(prediction, y)| prediction.log_density(y)).collect::<Result<Vec<_>>>()?);
            blocks.push(predictions);
            if points.end < n {
                posterior = posterior.update(&Context::new(&x, &y).batch(self.batch))?;
            }
        }
        let of_batch = |b: usize| log_densities.iter().map(|block| block[b]).sum::<f64>() / n as f64;
        let per_target = (0..self.batch).map(of_batch).collect();
        Ok(Evaluation { blocks, log_densities, per_target })
    }

    /// Draws values at `x [batch, n_points, dim_x]` with a CMANP-AND, block after block of at most
    /// `block` points: what was drawn is taken in before the next block, so that any number of
    /// points can vary together. Returns `[batch, n_points, dim_y]`.
    ///
    /// # Errors
    /// As [`Posterior::evaluate`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn sample(&self, x: &[f32], block: usize, seed: u64) -> Result<Vec<f32>> {
        pollster::block_on(self.sample_async(x, block, seed))
    }

    /// [`Posterior::sample`] without blocking.
    ///
    /// # Errors
    /// As [`Posterior::sample`].
    pub async fn sample_async(&self, x: &[f32], block: usize, seed: u64) -> Result<Vec<f32>> {
        let config = &self.network.config;
        let n = self.check_blocks("Posterior::sample", x, block)?;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut posterior = self.clone();
        let mut drawn = vec![Vec::new(); self.batch];
        for start in (0..n).step_by(block) {
            let end = n.min(start + block);
            let rows = x.chunks(n * config.dim_x).flat_map(|rows| &rows[start * config.dim_x..end * config.dim_x]);
            let x: Vec<f32> = rows.copied().collect();
            let predictions = posterior.predict_joint_async(&x).await?;
            let values: Vec<Vec<f32>> = predictions
                .iter()
                .map(|prediction| prediction.draw(&mut random).into_iter().map(|y| y as f32).collect())
                .collect();
            posterior = posterior.update(&Context::new(&x, &values.concat()).batch(self.batch))?;
            drawn.iter_mut().zip(values).for_each(|(all, values)| all.extend(values));
        }
        Ok(drawn.concat())
    }

    fn covariance(&self, what: &'static str) -> Result<&Covariance> {
        self.network.covariance.as_ref().ok_or_else(|| Error::Unsupported {
            what,
            on: "by a CMANP without covariance".into(),
            why: "its targets are independent; use Posterior::predict",
        })
    }

    /// The number of points in a batch element, checked.
    fn check_blocks(&self, what: &'static str, x: &[f32], block: usize) -> Result<usize> {
        self.covariance(what)?;
        let n = self.targets(x)?.n;
        let refused =
            |name, allowed: &str| Err(Error::Argument { op: what, name, found: "0".into(), allowed: allowed.into() });
        match (block, n) {
            (0, _) => refused("block", "1 or more"),
            (_, 0) => refused("points", "1 or more"),
            _ => Ok(n),
        }
    }
}
