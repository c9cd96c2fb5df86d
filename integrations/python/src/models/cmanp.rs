//! CMANP, CMANP-AND and LBANP.

use std::path::PathBuf;

use pyo3::{prelude::*, types::PyBytes};
use wgpu_attention::models::cmanp::{self, Context};

use super::{
    plain,
    points::{Places, Points, mask, observed},
    prediction::{Evaluation, Prediction},
    saved, saved_batch, to_save,
};
use crate::{
    arrays::{Array, Coordinates, array, narrow, numbers, with_coordinates},
    device::Device,
    errors::{exception, refused},
};

/// A trained neural process that takes in an endless stream of observations in constant memory.
#[pyclass(frozen, module = "wgpu_attention")]
pub struct Cmanp {
    model: cmanp::Cmanp,
    device: Device,
}

/// A model that has read observations, and goes on.
#[pyclass(frozen, module = "wgpu_attention")]
pub struct CmanpPosterior {
    posterior: cmanp::Posterior,
    batch: Option<usize>,
    device: Device,
}

/// The values of all points together, normally distributed (CMANP-AND): number `t dim_y + c` is value `c` of point
/// `t`.
#[pyclass(frozen, module = "wgpu_attention")]
pub struct JointPrediction {
    joint: cmanp::JointPrediction,
    dim_y: usize,
}

/// Observations that Python gave, as a context borrows them.
struct Observed {
    points: Points,
    x: Coordinates,
    y: Vec<f32>,
    mask: Option<Vec<bool>>,
    origin: Option<Vec<f64>>,
}

impl Observed {
    fn read(
        x: &Bound<'_, PyAny>,
        y: &Bound<'_, PyAny>,
        keep: Option<&Bound<'_, PyAny>>,
        origin: Option<&Bound<'_, PyAny>>,
        config: &cmanp::Config,
    ) -> PyResult<Self> {
        let (points, x) = places("x", x, config.dim_x)?;
        let y = observed("y", y, points, config.dim_y)?;
        let origin = origin.map(|origin| Ok::<_, PyErr>(numbers("origin", origin)?.1)).transpose()?;
        Ok(Self { points, x, y, mask: mask(keep, points)?, origin })
    }

    fn context(&self) -> Context<'_> {
        let context = with_coordinates!(&self.x, |x| Context::new(x, &self.y));
        let mut context = context.batch(self.points.batch());
        if let Some(mask) = &self.mask {
            context = context.mask(mask);
        }
        match &self.origin {
            Some(origin) => context.origin(origin),
            None => context,
        }
    }
}

/// Points of `dim_x` numbers.
fn places(name: &str, given: &Bound<'_, PyAny>, dim_x: usize) -> PyResult<(Points, Coordinates)> {
    let Places { points, mut groups } = Places::read(name, given, &["x"])?;
    let Some(group) = groups.pop().filter(|group| group.dim == dim_x && groups.is_empty() && group.name == "x") else {
        let allowed = format_args!("an array {:?}: dim_x of the model is {dim_x}", points.shape(&[dim_x]));
        return Err(refused(name, "an array of other points", allowed));
    };
    Ok((points, group.numbers))
}

impl Cmanp {
    pub fn of(model: cmanp::Cmanp, device: Device) -> Self {
        Self { model, device }
    }
}

#[pymethods]
impl Cmanp {
    /// Reads a file of model `cmanp`.
    #[staticmethod]
    #[pyo3(signature = (path, *, device=None))]
    fn open(py: Python<'_>, path: PathBuf, device: Option<PyRef<'_, Device>>) -> PyResult<Self> {
        let device = Device::or_best(py, device.as_deref())?;
        let model = device.run(py, |device| cmanp::Cmanp::open(device, path))?;
        Ok(Self { model, device })
    }

    /// What the network is made of.
    #[getter]
    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        plain(py, self.model.config())
    }

    /// What it was trained on, if its file says so.
    #[getter]
    fn domain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        plain(py, &self.model.domain())
    }

    #[getter]
    fn device(&self) -> Device {
        self.device.clone()
    }

    /// Reads observations `y` at `x`.
    #[pyo3(signature = (x, y, *, mask=None, origin=None))]
    fn condition(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        y: &Bound<'_, PyAny>,
        mask: Option<&Bound<'_, PyAny>>,
        origin: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<CmanpPosterior> {
        self.device.get()?;
        let observed = Observed::read(x, y, mask, origin, self.model.config())?;
        let posterior = self.device.run(py, |_| self.model.condition(&observed.context()))?;
        Ok(CmanpPosterior { posterior, batch: observed.points.batch, device: self.device.clone() })
    }

    /// The posterior of a file that `save` wrote, or of the bytes of `to_bytes`.
    fn restore(&self, py: Python<'_>, saved: &Bound<'_, PyAny>) -> PyResult<CmanpPosterior> {
        let saved = self::saved(py, saved)?;
        let posterior = self.device.run(py, |_| self.model.restore(&saved))?;
        let batch = saved_batch(&saved, posterior.batch());
        Ok(CmanpPosterior { posterior, batch, device: self.device.clone() })
    }

    fn __repr__(&self) -> String {
        let config = self.model.config();
        format!("<Cmanp from {} to {} numbers on {}>", config.dim_x, config.dim_y, self.model.device())
    }
}

impl CmanpPosterior {
    fn places(&self, name: &str, given: &Bound<'_, PyAny>) -> PyResult<(Points, Coordinates)> {
        self.device.get()?;
        let (points, x) = places(name, given, self.posterior.config().dim_x)?;
        points.check_batch(name, self.batch)?;
        Ok((points, x))
    }

    fn with(&self, posterior: cmanp::Posterior) -> Self {
        Self { posterior, batch: self.batch, device: self.device.clone() }
    }
}

#[pymethods]
impl CmanpPosterior {
    /// The posterior of more observations, any number of them; this one stays as it is.
    #[pyo3(signature = (x, y, *, mask=None))]
    fn update(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        y: &Bound<'_, PyAny>,
        mask: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let more = Observed::read(x, y, mask, None, self.posterior.config())?;
        more.points.check_batch("x", self.batch)?;
        Ok(self.with(self.device.run(py, |_| self.posterior.update(&more.context()))?))
    }

    /// The posterior of the observations of both, which must not overlap.
    fn merge(&self, py: Python<'_>, other: PyRef<'_, Self>) -> PyResult<Self> {
        let other = &other.posterior;
        Ok(self.with(self.device.run(py, |_| self.posterior.merge(other))?))
    }

    /// Predicts at any number of points, which do not influence each other.
    fn predict(&self, py: Python<'_>, at: &Bound<'_, PyAny>) -> PyResult<Prediction> {
        let (_, x) = self.places("at", at)?;
        Ok(Prediction::of(self.device.run(py, |_| with_coordinates!(&x, |x| self.posterior.predict(x)))?, self.batch))
    }

    /// Predicts all points together (CMANP-AND): one distribution for each element of the batch.
    fn predict_joint(&self, py: Python<'_>, at: &Bound<'_, PyAny>) -> PyResult<Vec<JointPrediction>> {
        let (_, x) = self.places("at", at)?;
        let dim_y = self.posterior.config().dim_y;
        let all = self.device.run(py, |_| with_coordinates!(&x, |x| self.posterior.predict_joint(x)))?;
        Ok(all.into_iter().map(|joint| JointPrediction { joint, dim_y }).collect())
    }

    /// Draws `n` whole functions, whose points go together: `[n, .., n_points, dim_y]`.
    #[pyo3(signature = (at, n, *, seed=0, block=1))]
    fn draws<'py>(
        &self,
        py: Python<'py>,
        at: &Bound<'py, PyAny>,
        n: usize,
        seed: u64,
        block: usize,
    ) -> PyResult<Array<'py, f32>> {
        let (points, x) = self.places("at", at)?;
        let drawn =
            self.device.run(py, |_| with_coordinates!(&x, |x| self.posterior.draws_in_blocks(x, seed, n, block)))?;
        let shape: Vec<usize> = [n].into_iter().chain(points.shape(&[self.posterior.config().dim_y])).collect();
        array(py, &shape, drawn)
    }

    /// How likely `y` is at `at`, block after block of points.
    #[pyo3(signature = (at, y, *, block=1))]
    fn evaluate(
        &self,
        py: Python<'_>,
        at: &Bound<'_, PyAny>,
        y: &Bound<'_, PyAny>,
        block: usize,
    ) -> PyResult<Evaluation> {
        let (points, x) = self.places("at", at)?;
        let n_values = self.posterior.config().dim_y;
        let y = observed("y", y, points, n_values)?;
        let evaluation = self.device.run(py, |_| with_coordinates!(&x, |x| self.posterior.evaluate(x, &y, block)))?;
        Ok(Evaluation { evaluation, points, n_values })
    }

    /// Observations of each element of the batch.
    #[getter]
    fn n_points(&self) -> Vec<u64> {
        self.posterior.n_points().to_vec()
    }

    #[getter]
    fn n_bytes(&self) -> usize {
        self.posterior.n_bytes()
    }

    /// Writes a file that `restore` of the model reads.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        let batch = self.batch;
        self.device.run(py, |_| to_save(self.posterior.to_checkpoint()?, batch).save(path))
    }

    /// The bytes of such a file.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let batch = self.batch;
        let bytes = self.device.run(py, |_| to_save(self.posterior.to_checkpoint()?, batch).to_bytes())?;
        Ok(PyBytes::new(py, &bytes))
    }

    fn __repr__(&self) -> String {
        format!("<CmanpPosterior of {:?} observations>", self.posterior.n_points())
    }
}

#[pymethods]
impl JointPrediction {
    /// `[n]`.
    #[getter]
    fn mean<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, f64>> {
        array(py, &[self.joint.len()], self.joint.mean())
    }

    /// Of each number by itself, `[n]`.
    #[getter]
    fn std<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, f64>> {
        array(py, &[self.joint.len()], self.joint.std())
    }

    /// `[n, n]`.
    #[getter]
    fn covariance<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, f64>> {
        let n = self.joint.len();
        array(py, &[n, n], py.detach(|| self.joint.covariance()))
    }

    /// The logarithm of the density of all numbers together, `[n]` or `[n_points, dim_y]`.
    fn log_density(&self, py: Python<'_>, y: &Bound<'_, PyAny>) -> PyResult<f64> {
        let (found, y) = numbers("y", y)?;
        let (n, shape) = (self.joint.len(), [self.joint.len() / self.dim_y, self.dim_y]);
        if found != [n] && found != shape {
            return Err(refused("y", format_args!("an array of shape {found:?}"), format_args!("[{n}] or {shape:?}")));
        }
        let y = narrow(&y);
        py.detach(|| self.joint.log_density(&y)).map_err(exception)
    }

    /// Draws, `[n, ..]`.
    #[pyo3(signature = (n, *, seed=0))]
    fn sample<'py>(&self, py: Python<'py>, n: usize, seed: u64) -> PyResult<Array<'py, f64>> {
        let drawn = py.detach(|| self.joint.sample(seed, n)).map_err(exception)?;
        array(py, &[n, self.joint.len()], drawn)
    }

    fn __len__(&self) -> usize {
        self.joint.len()
    }
}
