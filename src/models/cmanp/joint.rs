//! Predictions of a CMANP-AND: targets that vary together.

use nalgebra::{Cholesky, DMatrix, DVector};

use super::{
    config::{Config, CovarianceKind},
    covariance::Covariance,
    posterior::Posterior,
};
use crate::{
    error::{Error, Result, check_limit},
    host::zeros,
    models::{
        domain::Outside,
        points::{Coordinate, Numbers},
        prediction::Uniforms,
    },
    tensor::check_finite,
};

/// The most numbers, points times channels, that are predicted together: their covariance is held
/// in float64. With a batch, whose covariances are held at once, that divided by its square root.
pub const MAX_JOINT: usize = 1 << 13;

/// A normal distribution of the channels of all points together, point after point: number
/// `t dim_y + c` is channel `c` of point `t`.
///
/// ```
/// use wgpu_attention::{Device, checkpoint::Checkpoint, models::cmanp::{Cmanp, Config, Context}, serde_json};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let config: Config = serde_json::from_str(
///     r#"{"dim_x": 1, "dim_y": 1, "d_model": 8, "dim_feedforward": 8, "n_heads": 2, "n_latents": 4,
///         "n_latents_per_layer": 4, "n_layers": 1, "emb_depth": 2, "bound_std": true,
///         "covariance": {"kind": "low_rank", "n_layers": 1, "prj_dim": 3, "prj_depth": 2}}"#,
/// ).unwrap();
/// let device = Device::best();
/// let parameters = Checkpoint::random(0, |parameters| Cmanp::new(&device, &config, parameters))?;
/// let posterior = Cmanp::new(&device, &config, &parameters)?.condition(&Context::new(&[0.0], &[1.0]))?;
/// let joint = &posterior.predict_joint(&[0.1, 0.2])?[0];
/// let (std, covariance) = (joint.std(), joint.covariance());
/// assert!((std[0] * std[0] - covariance[0]).abs() < 1e-9 && (covariance[1] - covariance[2]).abs() < 1e-9);
/// assert_eq!(joint.sample(7, 10)?.len(), 10 * 2);
/// assert_eq!(posterior.evaluate(&[0.1, 0.2, 0.3], &[1.0; 3], 2)?.log_densities.len(), 2); // blocks
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct JointPrediction {
    mean: DVector<f64>,
    /// Lower triangular; the covariance is this times its transpose.
    factor: DMatrix<f64>,
    projections: Vec<f32>,
    /// The batch element, whose draws have a stream of random numbers of their own.
    element: usize,
    outside: Outside,
}

impl JointPrediction {
    /// Of a batch element, from the mean `[n]`, the projections `[n, prj_dim]` and the logarithm of
    /// the diagonal `[n]`.
    fn new(config: &Config, kind: CovarianceKind, element: usize, numbers: [&[f32]; 3]) -> Result<Self> {
        for (name, numbers) in ["mean", "projections", "diagonal"].into_iter().zip(numbers) {
            check_finite(&format!("{name} of batch element {element}"), numbers)?;
        }
        let [mean, projections, diagonal] = numbers;
        let n = mean.len();
        let refused = |cause| Error::NotPositiveDefinite { n, element, cause };
        let wide = |x: &f32| f64::from(*x);
        let p = DMatrix::from_row_iterator(n, projections.len() / n.max(1), projections.iter().map(wide));
        let mut product = &p * p.transpose();
        let factor = match kind {
            CovarianceKind::Cholesky => {
                let mut factor = product.lower_triangle();
                if config.bound_std {
                    (0..n).for_each(|i| factor[(i, i)] = 0.05 + 0.95 * factor[(i, i)].tanh());
                }
                factor
            }
            CovarianceKind::LowRank => {
                diagonal.iter().enumerate().for_each(|(i, x)| product[(i, i)] += wide(x).exp());
                let least = diagonal.iter().copied().fold(f32::INFINITY, f32::min);
                let cause = || format!("it has no Cholesky factor; the least logarithm of its diagonal is {least}");
                Cholesky::new(product).map(Cholesky::unpack).ok_or_else(|| refused(cause()))?
            }
        };
        if let Some(i) = factor.diagonal().iter().position(|&x| !(x > 0.0 && x.is_finite())) {
            return Err(refused(format!("number {i} on the diagonal of its factor is {}", factor[(i, i)])));
        }
        let mean = DVector::from_iterator(n, mean.iter().map(wide));
        Ok(Self { mean, factor, projections: projections.to_vec(), element, outside: Outside::default() })
    }

    /// Numbers that vary together: points times channels.
    pub fn len(&self) -> usize {
        self.mean.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How the observations and the points differ from what the network was trained on.
    pub fn outside(&self) -> &Outside {
        &self.outside
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
    /// `y` has another length, or a number that is not finite.
    pub fn log_density(&self, y: &[f32]) -> Result<f64> {
        let n = self.len();
        if y.len() != n {
            return Err(Error::Length { shape: vec![n], expected: n, found: y.len() });
        }
        check_finite("y", y)?;
        let rest = DVector::from_iterator(n, y.iter().map(|&y| f64::from(y))) - &self.mean;
        // The diagonal is positive, so that it always has a solution.
        let refused =
            || Error::NotPositiveDefinite { n, element: self.element, cause: "its factor is singular".into() };
        let z = self.factor.solve_lower_triangular(&rest).ok_or_else(refused)?;
        let log_scale: f64 = self.factor.diagonal().iter().map(|x| x.ln()).sum();
        Ok(-0.5 * z.norm_squared() - log_scale - 0.5 * n as f64 * std::f64::consts::TAU.ln())
    }

    /// Draws `n` values of all numbers, `[n, len]`. Draw `i` of a seed is the same however many there are, and
    /// on every platform up to the rounding of the prediction itself. Elements of a batch draw different numbers
    /// from the same seed.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn sample(&self, seed: u64, n: usize) -> Result<Vec<f64>> {
        let mut samples = zeros(&[n, self.len()])?;
        for (draw, numbers) in samples.chunks_exact_mut(self.len().max(1)).enumerate() {
            numbers.copy_from_slice(&self.draw(&mut Uniforms::new(seed, self.element, draw)));
        }
        Ok(samples)
    }

    pub(super) fn draw(&self, random: &mut Uniforms) -> Vec<f64> {
        let z = DVector::from_iterator(self.len(), std::iter::repeat_with(|| random.normal()).take(self.len()));
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
    pub fn predict_joint<T: Coordinate>(&self, x: &[T]) -> Result<Vec<JointPrediction>> {
        pollster::block_on(self.predict_joint_async(x))
    }

    /// [`Posterior::predict_joint`] without blocking.
    ///
    /// # Errors
    /// As [`Posterior::predict_joint`].
    pub async fn predict_joint_async<T: Coordinate>(&self, x: &[T]) -> Result<Vec<JointPrediction>> {
        let covariance = self.covariance("Posterior::predict_joint")?;
        let config = &self.network.about.config;
        let targets = self.targets(Numbers::new(x))?;
        let outside = self.outside(&targets);
        let n = targets.n * config.dim_y;
        let allowed = (MAX_JOINT * MAX_JOINT / self.batch).isqrt();
        let limit = "numbers predicted together (points times channels), in each batch element";
        check_limit(limit, n as u64, allowed as u64)?;
        if n == 0 {
            return (0..self.batch).map(|b| JointPrediction::new(config, covariance.kind, b, [&[]; 3])).collect();
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
            let numbers = [&mean, &projections, &diagonal].map(|numbers| &numbers[of(numbers, b)]);
            let joint = JointPrediction::new(config, covariance.kind, b, numbers)?;
            Ok(JointPrediction { outside: outside.of_element(b), ..joint })
        };
        (0..self.batch).map(one).collect()
    }

    fn covariance(&self, what: &'static str) -> Result<&Covariance> {
        self.network.covariance.as_ref().ok_or_else(|| Error::Unsupported {
            what,
            on: "a CMANP without covariance".into(),
            why: "its targets are independent; use Posterior::predict",
        })
    }
}
