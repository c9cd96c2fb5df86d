//! TNP-KR and BSA-TNP.

use std::path::PathBuf;

use pyo3::{
    prelude::*,
    types::{PyBytes, PyDict},
};
use wgpu_attention::models::tnp_kr::{self, Context, Local, Locations};

use super::{
    plain,
    points::{Group, Places, mask, observed},
    prediction::{Evaluation, Prediction},
    saved, saved_batch, to_save,
};
use crate::{
    arrays::{Array, array, numbers, with_coordinates},
    device::Device,
    errors::refused,
};

/// A trained neural process whose points are described by named groups of coordinates: `s` (space), `t` (time), `x`.
#[pyclass(frozen, module = "wgpu_attention")]
pub struct TnpKr {
    model: tnp_kr::TnpKr,
    device: Device,
}

/// A model that has read its context.
#[pyclass(frozen, module = "wgpu_attention")]
pub struct TnpKrPosterior {
    posterior: tnp_kr::Posterior,
    batch: Option<usize>,
    groups: Vec<String>,
    device: Device,
}

/// Observations that Python gave, as a context borrows them.
struct Observed {
    at: Places,
    values: Vec<f32>,
    mask: Option<Vec<bool>>,
    origins: Vec<(String, Vec<f64>)>,
}

impl Observed {
    fn context(&self) -> Context<'_> {
        let mut context = Context::new(locations(&self.at), &self.values);
        if let Some(mask) = &self.mask {
            context = context.mask(mask);
        }
        self.origins.iter().fold(context, |context, (group, origin)| context.origin(group, origin))
    }
}

fn locations<'a>(at: &'a Places) -> Locations<'a> {
    let all = Locations::default().batch(at.points.batch());
    let add = |all: Locations<'a>, group: &'a Group| {
        with_coordinates!(&group.numbers, |numbers| all.group(&group.name, group.dim, numbers))
    };
    at.groups.iter().fold(all, add)
}

impl TnpKr {
    pub fn of(model: tnp_kr::TnpKr, device: Device) -> Self {
        Self { model, device }
    }

    fn groups(&self) -> Vec<&str> {
        self.model.config().groups.iter().map(|group| group.name.as_str()).collect()
    }

    fn observed(
        &self,
        at: &Bound<'_, PyAny>,
        y: &Bound<'_, PyAny>,
        keep: Option<&Bound<'_, PyAny>>,
        origin: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Observed> {
        self.device.get()?;
        let at = Places::read("x", at, &self.groups())?;
        let values = observed("y", y, at.points, self.model.config().n_values)?;
        let mask = mask(keep, at.points)?;
        let mut origins = Vec::new();
        match origin.map(|origin| origin.cast::<PyDict>()) {
            None => {}
            Some(Ok(of_groups)) => {
                for (group, origin) in of_groups {
                    origins.push((group.extract()?, numbers("origin", &origin)?.1));
                }
            }
            Some(Err(_)) => {
                let [group] = self.groups()[..] else {
                    let allowed = format!("a dict with one for some of the groups {:?}", self.groups());
                    return Err(refused("origin", "one array", allowed));
                };
                if let Some(origin) = origin {
                    origins.push((group.to_owned(), numbers("origin", origin)?.1));
                }
            }
        }
        Ok(Observed { at, values, mask, origins })
    }

    fn places(&self, name: &str, at: &Bound<'_, PyAny>, batch: Option<usize>) -> PyResult<Places> {
        let at = Places::read(name, at, &self.groups())?;
        at.points.check_batch(name, batch)?;
        Ok(at)
    }

    fn posterior(&self, posterior: tnp_kr::Posterior, batch: Option<usize>) -> TnpKrPosterior {
        let groups = self.groups().into_iter().map(str::to_owned).collect();
        TnpKrPosterior { posterior, batch, groups, device: self.device.clone() }
    }
}

#[pymethods]
impl TnpKr {
    /// Reads a file of model `tnp_kr`.
    #[staticmethod]
    #[pyo3(signature = (path, *, device=None))]
    fn open(py: Python<'_>, path: PathBuf, device: Option<PyRef<'_, Device>>) -> PyResult<Self> {
        let device = Device::or_best(py, device.as_deref())?;
        let model = device.run(py, |device| tnp_kr::TnpKr::open(device, path))?;
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

    /// Reads observations `y` at `x`: an array of the only group, or a dict with one for each.
    #[pyo3(signature = (x, y, *, mask=None, origin=None))]
    fn condition(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        y: &Bound<'_, PyAny>,
        mask: Option<&Bound<'_, PyAny>>,
        origin: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<TnpKrPosterior> {
        let observed = self.observed(x, y, mask, origin)?;
        let posterior = self.device.run(py, |_| self.model.condition(&observed.context()))?;
        Ok(self.posterior(posterior, observed.at.points.batch))
    }

    /// Draws `n` whole functions at `at`, whose points go together: `[n, .., n_points, n_values]`.
    #[pyo3(signature = (x, y, at, n, *, seed=0, block=1, mask=None, origin=None))]
    #[expect(clippy::too_many_arguments, reason = "by name in Python")]
    fn draws<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        y: &Bound<'py, PyAny>,
        at: &Bound<'py, PyAny>,
        n: usize,
        seed: u64,
        block: usize,
        mask: Option<&Bound<'py, PyAny>>,
        origin: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Array<'py, f32>> {
        let observed = self.observed(x, y, mask, origin)?;
        let at = self.places("at", at, observed.at.points.batch)?;
        let drawn = self
            .device
            .run(py, |_| self.model.draws_in_blocks(&observed.context(), &locations(&at), seed, n, block))?;
        let shape: Vec<usize> = [n].into_iter().chain(at.points.shape(&[self.model.config().n_values])).collect();
        array(py, &shape, drawn)
    }

    /// How likely `y_at` is at `at`, block after block of points.
    #[pyo3(signature = (x, y, at, y_at, *, block=1, mask=None, origin=None))]
    #[expect(clippy::too_many_arguments, reason = "by name in Python")]
    fn evaluate(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        y: &Bound<'_, PyAny>,
        at: &Bound<'_, PyAny>,
        y_at: &Bound<'_, PyAny>,
        block: usize,
        mask: Option<&Bound<'_, PyAny>>,
        origin: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Evaluation> {
        let seen = self.observed(x, y, mask, origin)?;
        let at = self.places("at", at, seen.at.points.batch)?;
        let n_values = self.model.config().n_values;
        let y_at = observed("y_at", y_at, at.points, n_values)?;
        let evaluation =
            self.device.run(py, |_| self.model.evaluate(&seen.context(), &locations(&at), &y_at, block))?;
        Ok(Evaluation { evaluation, points: at.points, n_values })
    }

    /// The mean and the standard deviation at `at`, each place from its `nearest` observations: for large contexts.
    #[pyo3(signature = (x, y, at, *, nearest, together=1, standardise=false, weights=None))]
    #[expect(clippy::too_many_arguments, reason = "by name in Python")]
    fn predict_local<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        y: &Bound<'py, PyAny>,
        at: &Bound<'py, PyAny>,
        nearest: usize,
        together: usize,
        standardise: bool,
        weights: Option<std::collections::HashMap<String, f64>>,
    ) -> PyResult<(Array<'py, f32>, Array<'py, f32>)> {
        let observed = self.observed(x, y, None, None)?;
        let at = self.places("at", at, observed.at.points.batch)?;
        let n_values = self.model.config().n_values;
        let mut local = Local::nearest(nearest).together(together);
        local.standardised = standardise;
        local.weights = weights.unwrap_or_default().into_iter().collect();
        let mut mean = vec![0.0; at.points.n * n_values];
        let mut std = mean.clone();
        self.device.run(py, |_| {
            self.model.predict_local(&observed.context(), &locations(&at), &local, |near, prediction| {
                let rows = prediction.mean().chunks(n_values).zip(prediction.std().chunks(n_values));
                for (place, (of_mean, of_std)) in near.places.iter().zip(rows) {
                    mean[place * n_values..][..n_values].copy_from_slice(of_mean);
                    std[place * n_values..][..n_values].copy_from_slice(of_std);
                }
                Ok(())
            })
        })?;
        let shape = at.points.shape(&[n_values]);
        Ok((array(py, &shape, mean)?, array(py, &shape, std)?))
    }

    /// The posterior of a file that `save` wrote, or of the bytes of `to_bytes`.
    fn restore(&self, py: Python<'_>, saved: &Bound<'_, PyAny>) -> PyResult<TnpKrPosterior> {
        let saved = self::saved(py, saved)?;
        let posterior = self.device.run(py, |_| self.model.restore(&saved))?;
        let batch = saved_batch(&saved, posterior.batch());
        Ok(self.posterior(posterior, batch))
    }

    fn __repr__(&self) -> String {
        format!("<TnpKr of {} on {}>", self.groups().join(", "), self.model.device())
    }
}

#[pymethods]
impl TnpKrPosterior {
    /// Predicts at any number of points, which do not influence each other.
    fn predict(&self, py: Python<'_>, at: &Bound<'_, PyAny>) -> PyResult<Prediction> {
        self.device.get()?;
        let groups: Vec<&str> = self.groups.iter().map(String::as_str).collect();
        let at = Places::read("at", at, &groups)?;
        at.points.check_batch("at", self.batch)?;
        let prediction = self.device.run(py, |_| self.posterior.predict(&locations(&at)))?;
        Ok(Prediction::of(prediction, self.batch))
    }

    /// Observations of each data set.
    #[getter]
    fn n_context(&self) -> usize {
        self.posterior.n_context()
    }

    #[getter]
    fn n_bytes(&self) -> usize {
        self.posterior.n_bytes()
    }

    /// The posterior of both contexts, of a model of one block of linear attention.
    fn merge(&self, py: Python<'_>, other: PyRef<'_, Self>) -> PyResult<Self> {
        let other = &other.posterior;
        let posterior = self.device.run(py, |_| self.posterior.merge(other))?;
        Ok(Self { posterior, batch: self.batch, groups: self.groups.clone(), device: self.device.clone() })
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
        format!("<TnpKrPosterior of {} observations>", self.n_context())
    }
}
