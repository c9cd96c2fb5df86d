//! Whole functions: how likely values of many points are together, block after block.

/// What a model says of the values of many points, block after block: before each block it has been shown the
/// true values of those before.
///
/// ```
/// use wgpu_attention::{Device, models::cmanp::{Cmanp, Context}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let model = Cmanp::open(&Device::best(), "checkpoints/cmanp_gp_1d.safetensors")?;
/// let posterior = model.condition(&Context::new(&[-1.0, 1.0, 0.0], &[0.3]))?;
/// let x = [-0.9, 0.0, 1.0, -0.8, -1.0, 0.0];
/// let each = posterior.predict(&x)?.log_density(&[0.4, 0.5])?.iter().sum::<f64>();
/// let by_themselves = posterior.evaluate(&x, &[0.4, 0.5], 2)?.log_density_joint();
/// let one_by_one = posterior.evaluate(&x, &[0.4, 0.5], 1)?.log_density_joint();
/// assert!((by_themselves[0] - each).abs() < 1e-5 && one_by_one != by_themselves);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Evaluation {
    /// What was predicted before the values of a block were shown, `[batch, n_points, n_values]`.
    pub mean: Vec<f64>,
    /// The standard deviation of each number by itself, likewise.
    pub std: Vec<f64>,
    /// For each block, the logarithm of the density of its values, of each batch element.
    pub log_densities: Vec<Vec<f64>>,
    /// Of each batch element: the sum over the blocks divided by the number of targets (not of
    /// values), as the papers report it.
    pub per_target: Vec<f64>,
}

impl Evaluation {
    /// Of each batch element, `[batch]`: the logarithm of the density of all values together, which is the
    /// sum over the blocks.
    pub fn log_density_joint(&self) -> Vec<f64> {
        (0..self.per_target.len()).map(|b| self.log_densities.iter().map(|block| block[b]).sum()).collect()
    }

    /// Of blocks of so many points and values, of each batch element.
    pub(crate) fn collect(n_points: usize, blocks: Vec<Seen>) -> Self {
        let batch = blocks.first().map_or(0, |block| block.log_densities.len());
        let all = |of: fn(&Seen) -> &[f64]| {
            let of_element = |b: usize| {
                let part = move |block| {
                    let numbers: &[f64] = of(block);
                    &numbers[b * numbers.len() / batch..(b + 1) * numbers.len() / batch]
                };
                blocks.iter().flat_map(part).copied()
            };
            (0..batch).flat_map(of_element).collect()
        };
        let (mean, std) = (all(|seen| &seen.mean), all(|seen| &seen.std));
        let log_densities: Vec<Vec<f64>> = blocks.into_iter().map(|block| block.log_densities).collect();
        let per_target = Vec::from_iter((0..batch).map(|_| 0.0));
        let mut all = Self { mean, std, log_densities, per_target };
        all.per_target = all.log_density_joint().into_iter().map(|sum| sum / n_points as f64).collect();
        all
    }
}

/// What was predicted of a block, and how likely its values were.
pub(crate) struct Seen {
    /// `[batch, len, n_values]`.
    pub mean: Vec<f64>,
    pub std: Vec<f64>,
    /// `[batch]`.
    pub log_densities: Vec<f64>,
}

impl Seen {
    pub fn new(prediction: &super::Prediction, y: &[f32]) -> crate::error::Result<Self> {
        let [batch, len, _] = prediction.shape();
        let densities = prediction.log_density(y)?;
        let wide = |numbers: &[f32]| numbers.iter().map(|x| f64::from(*x)).collect();
        Ok(Self {
            mean: wide(prediction.mean()),
            std: wide(prediction.std()),
            log_densities: (0..batch).map(|b| densities[b * len..(b + 1) * len].iter().sum()).collect(),
        })
    }
}

/// Some points of each batch element, of `[batch, n, dim]`.
pub(crate) fn pick<T: Copy>(numbers: &[T], n: usize, dim: usize, points: &std::ops::Range<usize>) -> Vec<T> {
    numbers.chunks(n * dim).flat_map(|rows| &rows[points.start * dim..points.end * dim]).copied().collect()
}
