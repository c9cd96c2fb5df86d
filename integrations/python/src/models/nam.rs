//! Networks of neural attention memory over tokens.

use std::path::PathBuf;

use pyo3::prelude::*;
use wgpu_attention::models::nam;

use super::plain;
use crate::{
    arrays::{Array, array, whole_numbers},
    device::Device,
    errors::refused,
};

/// `batch` sequences of the same length, `[n]` or `[batch, n]`.
fn sequences(tokens: &Bound<'_, PyAny>) -> PyResult<(Option<usize>, usize, Vec<usize>)> {
    let (shape, tokens) = whole_numbers("tokens", tokens)?;
    match shape[..] {
        [n] => Ok((None, n, tokens)),
        [batch, n] => Ok((Some(batch), n, tokens)),
        _ => Err(refused("tokens", format_args!("an array of shape {shape:?}"), "[n] or [batch, n]")),
    }
}

/// A class over a model that turns tokens into logits, whose shape behind the batch `$shape` says.
macro_rules! of_tokens {
    ($class:ident, $of:ty, $doc:literal, |$model:ident, $n:ident| $shape:expr) => {
        #[doc = $doc]
        #[pyclass(frozen, module = "wgpu_attention")]
        pub struct $class {
            model: $of,
            device: Device,
        }

        impl $class {
            pub fn of(model: $of, device: Device) -> Self {
                Self { model, device }
            }
        }

        #[pymethods]
        impl $class {
            /// Reads a file of this model.
            #[staticmethod]
            #[pyo3(signature = (path, *, device=None))]
            fn open(py: Python<'_>, path: PathBuf, device: Option<PyRef<'_, Device>>) -> PyResult<Self> {
                let device = Device::or_best(py, device.as_deref())?;
                let model = device.run(py, |device| <$of>::open(device, path))?;
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

            /// Logits of whole numbers `[n]` or `[batch, n]`.
            fn predict<'py>(&self, py: Python<'py>, tokens: &Bound<'py, PyAny>) -> PyResult<Array<'py, f32>> {
                let (batch, $n, tokens) = sequences(tokens)?;
                let logits = self.device.run(py, |_| self.model.predict(batch.unwrap_or(1), &tokens))?;
                let $model = &self.model;
                let shape: Vec<usize> = batch.into_iter().chain($shape).collect();
                array(py, &shape, logits)
            }

            fn __repr__(&self) -> String {
                format!(concat!("<", stringify!($class), " on {}>"), self.model.device())
            }
        }
    };
}

of_tokens!(
    NamTm,
    nam::NamTmAe,
    "A neural-attention-memory Turing machine: logits `[.., n, vocab_size]` of the token after each.",
    |model, n| [n, model.config().vocab_size]
);
of_tokens!(
    LsamAe,
    nam::LsamAe,
    "An autoencoder of long short-term attention memories: logits `[.., n, vocab_size]`.",
    |model, n| [n, model.config().vocab_size]
);
of_tokens!(
    NamTransformer,
    nam::NamTransformer,
    "A transformer of neural attention memories that classifies sequences: logits `[.., classes]`.",
    |model, _n| [model.config().classes]
);
