//! What models say of values.

use pyo3::prelude::*;
use wgpu_attention::models;

use super::points::{Points, values};
use crate::{
    arrays::{Array, array},
    errors::exception,
};

/// A distribution of every value at every point. Arrays are `[n_points, n_values]`, or `[batch, n_points,
/// n_values]` where the context had a batch.
#[pyclass(frozen, module = "wgpu_attention")]
pub struct Prediction {
    prediction: models::Prediction,
    points: Points,
}

impl Prediction {
    pub fn of(prediction: models::Prediction, batch: Option<usize>) -> Self {
        let points = Points { batch, n: prediction.shape()[1] };
        Self { prediction, points }
    }

    fn n_values(&self) -> usize {
        self.prediction.shape()[2]
    }

    fn shape_of_values(&self) -> Vec<usize> {
        self.points.shape(&[self.n_values()])
    }

    fn of_values<'py>(
        &self,
        py: Python<'py>,
        of: impl FnOnce() -> wgpu_attention::Result<Vec<f64>> + Send,
    ) -> PyResult<Array<'py, f64>> {
        array(py, &self.shape_of_values(), py.detach(of).map_err(exception)?)
    }
}

#[pymethods]
impl Prediction {
    /// The expected value of each.
    #[getter]
    fn mean<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, f32>> {
        array(py, &self.shape_of_values(), self.prediction.mean().to_vec())
    }

    /// The standard deviation of an observation of each.
    #[getter]
    fn std<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, f32>> {
        array(py, &self.shape_of_values(), self.prediction.std().to_vec())
    }

    /// What the network's head returned.
    #[getter]
    fn activations<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, f32>> {
        let width = self.prediction.output().n_parameters(self.n_values());
        array(py, &self.points.shape(&[width]), self.prediction.activations().to_vec())
    }

    /// The family: `gaussian`, `poisson` and so on.
    #[getter]
    fn output(&self) -> &'static str {
        self.prediction.output().name()
    }

    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, pyo3::types::PyTuple>> {
        pyo3::types::PyTuple::new(py, self.shape_of_values())
    }

    /// How the context and the points differ from what the network was trained on, in words.
    #[getter]
    fn outside(&self) -> Vec<String> {
        self.prediction.outside().departures.iter().map(ToString::to_string).collect()
    }

    /// The number that each value is at most with probability `p`.
    fn quantile<'py>(&self, py: Python<'py>, p: f64) -> PyResult<Array<'py, f64>> {
        self.of_values(py, || self.prediction.quantile(p))
    }

    /// The ends of an interval that each value is in with a probability, and misses as often on either side.
    #[pyo3(signature = (probability=0.95))]
    fn interval<'py>(&self, py: Python<'py>, probability: f64) -> PyResult<(Array<'py, f64>, Array<'py, f64>)> {
        let [low, high] = py.detach(|| self.prediction.interval(probability)).map_err(exception)?;
        let shape = self.shape_of_values();
        Ok((array(py, &shape, low)?, array(py, &shape, high)?))
    }

    /// The logarithm of the density at `y`, or of the probability of counts and classes, summed over the values of
    /// a point.
    fn log_density<'py>(&self, py: Python<'py>, y: &Bound<'py, PyAny>) -> PyResult<Array<'py, f64>> {
        let y = values("y", y, self.points, self.n_values())?;
        array(py, &self.points.shape(&[]), py.detach(|| self.prediction.log_density(&y)).map_err(exception)?)
    }

    /// The probability of at most `y`, of each value.
    fn cdf<'py>(&self, py: Python<'py>, y: &Bound<'py, PyAny>) -> PyResult<Array<'py, f64>> {
        let y = values("y", y, self.points, self.n_values())?;
        self.of_values(py, || self.prediction.cdf(&y))
    }

    /// The continuous ranked probability score of each value: 0 is best.
    fn crps<'py>(&self, py: Python<'py>, y: &Bound<'py, PyAny>) -> PyResult<Array<'py, f64>> {
        let y = values("y", y, self.points, self.n_values())?;
        self.of_values(py, || self.prediction.crps(&y))
    }

    /// Draws of each point by itself, `[n, ..]`. Of functions, whose points go together, `draws` of a model.
    #[pyo3(signature = (n, *, seed=0))]
    fn sample<'py>(&self, py: Python<'py>, n: usize, seed: u64) -> PyResult<Array<'py, f64>> {
        let drawn = py.detach(|| self.prediction.sample(seed, n)).map_err(exception)?;
        let shape: Vec<usize> = [n].into_iter().chain(self.shape_of_values()).collect();
        array(py, &shape, drawn)
    }

    /// The same in the units of the data: `shift[i] + scale[i]` times value `i`.
    fn in_units(&self, py: Python<'_>, scale: Vec<f64>, shift: Vec<f64>) -> PyResult<Self> {
        let prediction = py.detach(|| self.prediction.in_units(&scale, &shift)).map_err(exception)?;
        Ok(Self { prediction, points: self.points })
    }

    fn __len__(&self) -> usize {
        self.points.n
    }

    fn __repr__(&self) -> String {
        let outside = match self.prediction.outside().departures.len() {
            0 => String::new(),
            n => format!(", {n} departures from the training"),
        };
        format!("<Prediction {} {:?}{outside}>", self.output(), self.shape_of_values())
    }
}

/// How likely values are, block after block.
#[pyclass(frozen, module = "wgpu_attention")]
pub struct Evaluation {
    pub evaluation: models::Evaluation,
    pub points: Points,
    pub n_values: usize,
}

#[pymethods]
impl Evaluation {
    /// What was predicted before the values of a block were shown.
    #[getter]
    fn mean<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, f64>> {
        array(py, &self.points.shape(&[self.n_values]), self.evaluation.mean.clone())
    }

    #[getter]
    fn std<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, f64>> {
        array(py, &self.points.shape(&[self.n_values]), self.evaluation.std.clone())
    }

    /// The logarithm of the density of the values of each block, `[n_blocks, batch]`.
    #[getter]
    fn log_densities<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, f64>> {
        let blocks = &self.evaluation.log_densities;
        array(py, &[blocks.len(), self.points.batch()], blocks.concat())
    }

    /// That of all values together, of each element of the batch.
    #[getter]
    fn log_density_joint<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, f64>> {
        array(py, &[self.points.batch()], self.evaluation.log_density_joint())
    }

    /// The same divided by the number of points.
    #[getter]
    fn per_target<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, f64>> {
        array(py, &[self.points.batch()], self.evaluation.per_target.clone())
    }
}
