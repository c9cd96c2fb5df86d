//! What a model predicts: a distribution of every value at every point.
//!
//! [`Output`] says of which family, and how its parameters are made of the numbers of the network's head;
//! there is a file for each family.

mod bernoulli;
mod beta;
mod categorical;
mod counts;
mod gaussian;
mod negative_binomial;
mod output;
mod poisson;
mod random;
mod special;
mod univariate;
mod zero_inflated_poisson;

pub use output::Output;
pub(crate) use random::Uniforms;

use super::{
    domain::Outside,
    points::{Coordinate, Numbers},
};
use crate::{
    error::{Error, Result, check_argument},
    host::{collect, filled, zeros},
};
use special::Level;
use univariate::Univariate;

/// Predictions at some points, each for itself, row-major: a distribution of every value of every point.
///
/// Where points were predicted for several data sets, those of the first come first: an array
/// `[n_points, n_values]` is one `[batch, n_points, n_values]` in general.
///
/// ```
/// use wgpu_attention::models::{Output, Prediction};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// // Two points of one value; the head returned a mean and the logarithm of a standard deviation.
/// let prediction = Prediction::new(Output::GaussianLogStd, [1, 2, 1], vec![1.0, 0.0, 3.0, 2f32.ln()])?;
/// assert_eq!((prediction.mean(), prediction.std()), (&[1.0, 3.0][..], &[1.0, 2.0][..]));
/// let [low, high] = prediction.interval(0.95)?;
/// assert!((low[0] - (1.0 - 1.96)).abs() < 1e-3 && (high[1] - (3.0 + 2.0 * 1.96)).abs() < 1e-3);
/// assert!((prediction.quantile(0.5)?[1] - 3.0).abs() < 1e-12);
/// assert!(prediction.log_density(&[1.0, 9.0])?[0] > prediction.log_density(&[1.0, 9.0])?[1]);
/// assert!(prediction.crps(&[1.0, 9.0])?[0] < 0.3);
/// assert_eq!(prediction.sample(7, 100)?.len(), 100 * 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    output: Output,
    shape: [usize; 3],
    activations: Vec<f32>,
    mean: Vec<f32>,
    std: Vec<f32>,
    /// What each value is multiplied by, and what is added then.
    units: Vec<[f64; 2]>,
    outside: Outside,
}

const OP: &str = "Prediction";

impl Prediction {
    /// The predictions that a head's numbers `[batch, n_points, n_parameters]` stand for, see [`Output`];
    /// `shape` is `[batch, n_points, n_values]`.
    ///
    /// # Errors
    /// No values; numbers that do not fill that shape, or that are not finite; a mean or a standard deviation that
    /// overflows f32.
    pub fn new(output: Output, shape: [usize; 3], activations: Vec<f32>) -> Result<Self> {
        output.check()?;
        check_argument(shape[2] > 0, OP, "n_values", 0, "1 or more")?;
        let expected = shape[0].saturating_mul(shape[1]).saturating_mul(output.n_parameters(shape[2]));
        if activations.len() != expected {
            let shape = vec![shape[0], shape[1], output.n_parameters(shape[2])];
            return Err(Error::Length { shape, expected, found: activations.len() });
        }
        let (mean, std) = (zeros(&shape)?, zeros(&shape)?);
        let units = filled([1.0, 0.0], &[shape[2]])?;
        let mut all = Self { output, shape, activations, mean, std, units, outside: Outside::default() };
        all.set_moments()?;
        Ok(all)
    }

    fn set_moments(&mut self) -> Result<()> {
        let n_values = self.shape[2].max(1);
        let refused = |output, i: usize, value| {
            Err(Error::Prediction { output, point: i / n_values, column: i % n_values, value })
        };
        let (mut mean, mut std) = (std::mem::take(&mut self.mean), std::mem::take(&mut self.std));
        let activations = self.activations.iter();
        if let Some((i, raw)) = activations.enumerate().find(|(_, raw)| !raw.is_finite()) {
            let (n, i) = (self.output.n_parameters(n_values), i);
            let output = "the network's output";
            return Err(Error::Prediction { output, point: i / n, column: i % n, value: *raw });
        }
        let mut moments = mean.iter_mut().zip(&mut std);
        self.for_each(|distribution, _| {
            if let Some((mean, std)) = moments.next() {
                (*mean, *std) = (distribution.mean() as f32, distribution.std() as f32);
            }
        });
        for (i, (mean, std)) in mean.iter().zip(&std).enumerate() {
            if !mean.is_finite() {
                return refused("the mean", i, *mean);
            }
            if !std.is_finite() {
                return refused("the standard deviation", i, *std);
            }
        }
        (self.mean, self.std) = (mean, std);
        Ok(())
    }

    pub(crate) fn with_outside(self, outside: Outside) -> Self {
        Self { outside, ..self }
    }

    /// `[batch, n_points, n_values]`, the shape of the mean and of the standard deviation.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The expected value, `[batch, n_points, n_values]`; of a categorical model the probability of each
    /// class, of a Bernoulli one that of 1.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// The standard deviation of an observation, `[batch, n_points, n_values]`; of a categorical model that
    /// of each class's indicator, `sqrt(p (1 - p))`.
    pub fn std(&self) -> &[f32] {
        &self.std
    }

    /// The mean and the standard deviation alone, without a copy.
    pub fn into_moments(self) -> (Vec<f32>, Vec<f32>) {
        (self.mean, self.std)
    }

    /// The family.
    pub fn output(&self) -> Output {
        self.output
    }

    /// What the network's head returned, `[batch, n_points, n_parameters]`, see [`Output`]: logits of a
    /// categorical model.
    pub fn activations(&self) -> &[f32] {
        &self.activations
    }

    /// How the context and the points differ from what the network was trained on.
    pub fn outside(&self) -> &Outside {
        &self.outside
    }

    /// The same predictions in other units, those of the data where a network was given scaled ones:
    /// value `i` is `shift[i] + scale[i]` times what it was. The activations stay as they are.
    ///
    /// # Errors
    /// Values that have no units: those of all families but the Gaussian; as many scales or shifts as there
    /// are no values; scales that are not positive, numbers that are not finite; an overflow of f32.
    ///
    /// ```
    /// use wgpu_attention::models::{Output, Prediction};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let scaled = Prediction::new(Output::GaussianLogStd, [1, 1, 1], vec![0.5, 0.0])?;
    /// let kelvin = scaled.in_units(&[10.0], &[280.0])?; // of a network that was given (t - 280) / 10
    /// assert_eq!((kelvin.mean()[0], kelvin.std()[0]), (285.0, 10.0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn in_units(&self, scale: &[f64], shift: &[f64]) -> Result<Self> {
        if !self.output.has_units() {
            return Err(Error::Unsupported {
                what: "Prediction::in_units",
                on: format!("a {} output", self.output.name()),
                why: "classes, counts and shares have no units",
            });
        }
        let n = self.shape[2];
        let fits = scale.len() == n && shift.len() == n;
        let is_scale = |x: &f64| *x > 0.0 && x.is_finite();
        let is_allowed = fits && scale.iter().all(is_scale) && shift.iter().all(|x| x.is_finite());
        let found = format_args!("{scale:?} and {shift:?}");
        let allowed = format_args!("{n} positive numbers and {n} finite ones");
        check_argument(is_allowed, "Prediction::in_units", "scale and shift", found, allowed)?;
        let then = |([of, plus], (scale, shift)): (&[f64; 2], (&f64, &f64))| [scale * of, shift + scale * plus];
        let units = self.units.iter().zip(scale.iter().zip(shift)).map(then).collect();
        let mut all = Self { units, ..self.clone() };
        all.set_moments()?;
        Ok(all)
    }

    /// Calls a function with the distribution of each value and its index. That of a class is its
    /// indicator's.
    fn for_each(&self, mut of: impl FnMut(&dyn Univariate, usize)) {
        let n = self.shape[2];
        if n == 0 {
            return;
        }
        let rows = self.activations.chunks_exact(self.output.n_parameters(n));
        for (point, row) in rows.enumerate() {
            let odds = matches!(self.output, Output::Categorical).then(|| categorical::ln_odds(row));
            for i in 0..n {
                let a = odds.as_ref().map_or(f64::from(row[i]), |odds| odds[i]);
                self.output
                    .with([a, second(row, n + i)], self.units[i], |distribution| of(distribution, point * n + i));
            }
        }
    }

    /// What a function makes of each value's distribution, `[batch, n_points, n_values]`.
    fn map(&self, mut of: impl FnMut(&dyn Univariate, usize) -> f64) -> Result<Vec<f64>> {
        let mut all = zeros(&self.shape)?;
        self.for_each(|distribution, i| all[i] = of(distribution, i));
        Ok(all)
    }

    /// Refuses classes where an order of values is needed.
    fn check_ordered(&self, what: &'static str) -> Result<()> {
        match self.output {
            Output::Categorical => Err(Error::Unsupported {
                what,
                on: "a categorical output".into(),
                why: "classes have no order; Prediction::mean has the probability of each",
            }),
            _ => Ok(()),
        }
    }

    /// Observations `[batch, n_points, n_values]`, each of which can be one of its distribution.
    fn observations<T: Coordinate>(&self, y: &[T]) -> Result<Vec<f64>> {
        if y.len() != self.mean.len() {
            return Err(Error::Length { shape: self.shape.to_vec(), expected: self.mean.len(), found: y.len() });
        }
        let numbers = Numbers::new(y);
        let y = collect(y.len(), (0..y.len()).map(|i| numbers.get(i)))?;
        let n = self.shape[2].max(1);
        let refused = |i: usize, allowed: &str| {
            let found = format_args!("{:?} at point {} (number {} of it)", y[i], i / n, i % n);
            let allowed = format_args!("{allowed}, as the output is {}", self.output.name());
            Err(Error::argument(OP, "an observation", found, allowed))
        };
        if self.output == Output::Categorical {
            let is_class = |y: &[f64]| categorical::observed(y).is_some();
            return match y.chunks(n).position(|y| !is_class(y)) {
                Some(point) => {
                    let found = format_args!("{:?} at point {point}", &y[point * n..][..n]);
                    Err(Error::argument(OP, "an observation", found, "1 for its class and 0 for the others"))
                }
                None => Ok(y),
            };
        }
        let mut wrong = None;
        self.for_each(|distribution, i| {
            if wrong.is_none() {
                wrong = distribution.refuses(y[i]).map(|allowed| (i, allowed));
            }
        });
        match wrong {
            Some((i, allowed)) => refused(i, allowed),
            None => Ok(y),
        }
    }

    /// The natural logarithm of the density at `y [batch, n_points, n_values]`, or of the probability where
    /// values are counts or classes, summed over the values of a point: `[batch, n_points]`.
    ///
    /// # Errors
    /// `y` is not of that shape, or has a number that cannot be observed: one that is not finite, one but 0
    /// and 1 for a Bernoulli output, counts that are negative or not whole, shares that are not above 0 and
    /// below 1; rows that are not 1 for one class and 0 for the others.
    ///
    /// ```
    /// use wgpu_attention::models::{Output, Prediction};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let coin = Prediction::new(Output::Bernoulli, [1, 1, 1], vec![0.0])?;
    /// assert!((coin.log_density(&[1.0])?[0] - 0.5f64.ln()).abs() < 1e-12);
    /// assert!(coin.log_density(&[0.5]).is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn log_density<T: Coordinate>(&self, y: &[T]) -> Result<Vec<f64>> {
        let y = self.observations(y)?;
        let n = self.shape[2].max(1);
        if self.output == Output::Categorical {
            let rows = self.activations.chunks_exact(n).zip(y.chunks(n));
            let one = |(logits, y): (&[f32], &[f64])| {
                categorical::observed(y).map_or(f64::NAN, |class| categorical::ln_softmax(logits)[class])
            };
            return Ok(rows.map(one).collect());
        }
        let all = self.map(|distribution, i| distribution.ln_density(y[i]))?;
        Ok(all.chunks(n).map(|point| point.iter().sum()).collect())
    }

    /// The probability of at most `y [batch, n_points, n_values]`, of each value, in that shape.
    ///
    /// # Errors
    /// As [`Prediction::log_density`]; a categorical output.
    pub fn cdf<T: Coordinate>(&self, y: &[T]) -> Result<Vec<f64>> {
        self.check_ordered("Prediction::cdf")?;
        let y = self.observations(y)?;
        self.map(|distribution, i| distribution.cdf(y[i]))
    }

    /// The number that each value is at most with probability `p`, `[batch, n_points, n_values]`; of counts
    /// the least one.
    ///
    /// # Errors
    /// A probability that is not above 0 and below 1; a categorical output.
    pub fn quantile(&self, p: f64) -> Result<Vec<f64>> {
        check_argument(p > 0.0 && p < 1.0, "Prediction::quantile", "p", p, "above 0 and below 1")?;
        self.at(Level::new(p))
    }

    fn at(&self, level: Level) -> Result<Vec<f64>> {
        self.check_ordered("Prediction::quantile")?;
        self.map(|distribution, _| distribution.quantile(level))
    }

    /// The lower and the upper end of an interval that each value is in with a probability, and misses as
    /// often on either side, `[batch, n_points, n_values]` each: `interval(0.95)` is from the quantile of
    /// 0.025 to that of 0.975.
    ///
    /// # Errors
    /// As [`Prediction::quantile`].
    pub fn interval(&self, probability: f64) -> Result<[Vec<f64>; 2]> {
        let is_allowed = probability > 0.0 && probability < 1.0;
        check_argument(is_allowed, "Prediction::interval", "probability", probability, "above 0 and below 1")?;
        let (tail, rest) = (0.5 * (1.0 - probability), 0.5 + 0.5 * probability);
        Ok([self.at(Level { below: tail, above: rest })?, self.at(Level { below: rest, above: tail })?])
    }

    /// The continuous ranked probability score of each value at `y [batch, n_points, n_values]`, in that
    /// shape: the mean distance of a draw from it, less half the mean distance of two draws. It is in the
    /// unit of the values, 0 is best, and of a single number it is the absolute error. Of yes or no and of a
    /// class it is `(p - y)²`, whose sum over the classes is the Brier score.
    ///
    /// Of counts it takes some 10 µs a value.
    ///
    /// # Errors
    /// As [`Prediction::log_density`].
    pub fn crps<T: Coordinate>(&self, y: &[T]) -> Result<Vec<f64>> {
        let y = self.observations(y)?;
        self.map(|distribution, i| distribution.crps(y[i]))
    }

    /// Draws values of each point by itself, `[n, batch, n_points, n_values]`; of a categorical output 1 for
    /// the class that was drawn and 0 for the others. Draw `i` of a seed is the same however many there are.
    ///
    /// Draws of a point have nothing to do with those of another, so that a row is no function that a model
    /// holds to be likely: for those see [`TnpKr::draws`](super::tnp_kr::TnpKr::draws) and
    /// [`cmanp::Posterior::draws`](super::cmanp::Posterior::draws).
    ///
    /// # Errors
    /// There is no room.
    ///
    /// ```
    /// use wgpu_attention::models::{Output, Prediction};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let counts = Prediction::new(Output::Poisson, [1, 1, 1], vec![4.0])?;
    /// let drawn = counts.sample(0, 1000)?;
    /// let mean = drawn.iter().sum::<f64>() / 1000.0;
    /// assert!((mean - f64::from(counts.mean()[0])).abs() < 0.3);
    /// assert_eq!(drawn[..10], counts.sample(0, 10)?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn sample(&self, seed: u64, n: usize) -> Result<Vec<f64>> {
        let mut all = zeros(&[n, self.mean.len()])?;
        for (draw, values) in all.chunks_exact_mut(self.mean.len().max(1)).enumerate() {
            let of_element = values.chunks_exact_mut((self.shape[1] * self.shape[2]).max(1));
            for (element, values) in of_element.enumerate() {
                self.draw(element, &mut Uniforms::new(seed, element, draw), values);
            }
        }
        Ok(all)
    }

    /// Draws the values `[n_points, n_values]` of a batch element.
    pub(crate) fn draw(&self, element: usize, random: &mut Uniforms, values: &mut [f64]) {
        let [_, n_points, n] = self.shape;
        let width = self.output.n_parameters(n);
        let rows = self.activations[element * n_points * width..].chunks_exact(width.max(1));
        for (values, row) in values.chunks_exact_mut(n.max(1)).zip(rows) {
            if self.output == Output::Categorical {
                let class = categorical::draw(&categorical::ln_softmax(row), random.level());
                values.iter_mut().enumerate().for_each(|(i, value)| *value = f64::from(u8::from(i == class)));
                continue;
            }
            for (i, value) in values.iter_mut().enumerate() {
                let (level, parameters) = (random.level(), [f64::from(row[i]), second(row, n + i)]);
                *value = self.output.with(parameters, self.units[i], |distribution| distribution.quantile(level));
            }
        }
    }
}

/// The second parameter, of families that have one.
fn second(row: &[f32], i: usize) -> f64 {
    row.get(i).map_or(0.0, |b| f64::from(*b))
}
