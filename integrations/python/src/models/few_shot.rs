//! Few-shot classification.

use std::path::PathBuf;

use pyo3::prelude::*;
use wgpu_attention::models::nam::{self, Episode};

use super::plain;
use crate::{
    arrays::{Array, array, narrow, numbers, whole_numbers},
    device::Device,
    errors::refused,
};

/// Learns new classes from a few examples, which are written into a memory of classes.
#[pyclass(frozen, module = "wgpu_attention")]
pub struct FewShot {
    model: nam::FewShot,
    device: Device,
}

/// The classes of one episode: base classes first, then the new ones.
#[pyclass(frozen, module = "wgpu_attention")]
pub struct Classifier {
    classifier: nam::Classifier,
    model: nam::FewShot,
    device: Device,
}

/// Rows of numbers `[n, width]`.
fn rows(name: &str, given: &Bound<'_, PyAny>, width: Option<usize>) -> PyResult<([usize; 2], Vec<f32>)> {
    let (shape, numbers) = numbers(name, given)?;
    match shape[..] {
        [n, found] if width.is_none_or(|width| width == found) => Ok(([n, found], narrow(&numbers))),
        _ => {
            let allowed = width.map_or("[n, n_novel]".into(), |width| format!("[n, {width}]"));
            Err(refused(name, format_args!("an array of shape {shape:?}"), allowed))
        }
    }
}

impl FewShot {
    pub fn of(model: nam::FewShot, device: Device) -> Self {
        Self { model, device }
    }

    fn base_ids(&self, given: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<usize>> {
        let Some(given) = given else { return Ok((0..self.model.config().n_base).collect()) };
        match whole_numbers("base_ids", given)? {
            (shape, ids) if shape.len() == 1 => Ok(ids),
            (shape, _) => Err(refused("base_ids", format_args!("an array of shape {shape:?}"), "[n]")),
        }
    }

    fn classifier(&self, classifier: nam::Classifier) -> Classifier {
        Classifier { classifier, model: self.model.clone(), device: self.device.clone() }
    }
}

#[pymethods]
impl FewShot {
    /// Reads a file of model `nam_few_shot`.
    #[staticmethod]
    #[pyo3(signature = (path, *, device=None))]
    fn open(py: Python<'_>, path: PathBuf, device: Option<PyRef<'_, Device>>) -> PyResult<Self> {
        let device = Device::or_best(py, device.as_deref())?;
        let model = device.run(py, |device| nam::FewShot::open(device, path))?;
        Ok(Self { model, device })
    }

    /// What the network is made of.
    #[getter]
    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        plain(py, self.model.config())
    }

    #[getter]
    fn device(&self) -> Device {
        self.device.clone()
    }

    /// The classifier of base classes and of new ones, from examples `supports [n, n_in]` with one-hot `labels [n,
    /// n_novel]`; without `base_ids` beside all base classes.
    #[pyo3(signature = (supports, labels, *, base_ids=None))]
    fn condition(
        &self,
        py: Python<'_>,
        supports: &Bound<'_, PyAny>,
        labels: &Bound<'_, PyAny>,
        base_ids: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Classifier> {
        let ([n, _], supports) = rows("supports", supports, Some(self.model.config().embedding.n_in))?;
        let ([n_labels, n_novel], labels) = rows("labels", labels, None)?;
        if n != n_labels {
            return Err(refused("labels", format_args!("of {n_labels} examples"), format_args!("{n}, as supports")));
        }
        let base_ids = self.base_ids(base_ids)?;
        let episode = Episode { batch: 1, n_novel, supports: &supports, labels: &labels, base_ids: &base_ids };
        Ok(self.classifier(self.device.run(py, |_| self.model.condition(&episode))?))
    }

    /// The classifier of base classes alone.
    #[pyo3(signature = (base_ids=None))]
    fn base(&self, py: Python<'_>, base_ids: Option<&Bound<'_, PyAny>>) -> PyResult<Classifier> {
        let base_ids = self.base_ids(base_ids)?;
        Ok(self.classifier(self.device.run(py, |_| self.model.base(1, &base_ids))?))
    }

    fn __repr__(&self) -> String {
        format!("<FewShot of {} base classes on {}>", self.model.config().n_base, self.model.device())
    }
}

#[pymethods]
impl Classifier {
    /// The scores of every class, `[n, classes]`, of inputs `[n, n_in]`.
    fn predict<'py>(&self, py: Python<'py>, inputs: &Bound<'py, PyAny>) -> PyResult<Array<'py, f32>> {
        let ([n, _], inputs) = rows("inputs", inputs, Some(self.model.config().embedding.n_in))?;
        let scores = self.device.run(py, |_| self.classifier.predict(&self.model.features(1, &inputs)?))?;
        array(py, &[n, self.n_classes()], scores)
    }

    #[getter]
    fn n_classes(&self) -> usize {
        self.classifier.weights.shape()[1]
    }
}
