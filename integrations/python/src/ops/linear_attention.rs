//! Linear attention: a memory of constant size.

use pyo3::prelude::*;
use wgpu_attention::ops::{self, FeatureKind, FeatureMap, Normalizer, ProjectionRows};

use super::{keys_values, layout, read};
use crate::{
    arrays::{Array, of_tensor, own_tensor, tensor},
    device::Device,
    errors::refused,
};

/// How keys are written and queries read: features of them, and what a read is divided by.
#[pyclass(frozen, module = "wgpu_attention")]
pub struct LinearAttention {
    memory: ops::LinearAttention,
    device: Device,
}

/// What was written: sums over the features of the keys.
#[pyclass(frozen, module = "wgpu_attention")]
pub struct LinearState {
    state: ops::LinearState,
    device: Device,
}

fn kind(name: &str) -> PyResult<FeatureKind> {
    match name {
        "identity" => Ok(FeatureKind::Identity),
        "softmax" => Ok(FeatureKind::Softmax),
        "relu" => Ok(FeatureKind::Relu),
        "gelu" => Ok(FeatureKind::Gelu),
        "exp" => Ok(FeatureKind::Exp),
        "elu" => Ok(FeatureKind::Elu),
        other => Err(refused("features", format_args!("{other:?}"), "identity, softmax, relu, gelu, exp or elu")),
    }
}

fn normalizer(name: &str, floor: f32) -> PyResult<Normalizer> {
    match name {
        "none" => Ok(Normalizer::None),
        "key_count" => Ok(Normalizer::KeyCount),
        "feature_sum" => Ok(Normalizer::FeatureSum { floor }),
        "stable" => Ok(Normalizer::Stable),
        other => Err(refused("normalizer", format_args!("{other:?}"), "none, key_count, feature_sum or stable")),
    }
}

#[pymethods]
impl LinearAttention {
    #[new]
    #[pyo3(signature = (
        features="identity", projection=None, *, scale=1.0, normalizer="none", floor=1e-6, n_heads=None,
        n_kv_heads=None, device=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "by name in Python")]
    fn new(
        py: Python<'_>,
        features: &str,
        projection: Option<&Bound<'_, PyAny>>,
        scale: f32,
        normalizer: &str,
        floor: f32,
        n_heads: Option<usize>,
        n_kv_heads: Option<usize>,
        device: Option<PyRef<'_, Device>>,
    ) -> PyResult<Self> {
        let device = Device::or_best(py, device.as_deref())?;
        let projection = projection.map(|given| own_tensor(&device, "projection", given)).transpose()?;
        let features = FeatureMap { kind: kind(features)?, projection, scale };
        let memory =
            ops::LinearAttention::new(layout(n_heads, n_kv_heads)?, features, self::normalizer(normalizer, floor)?);
        Ok(Self { memory, device })
    }

    /// FAVOR+: softmax attention, estimated with a projection `[n_features, head_dim]` of `random_features`.
    #[staticmethod]
    #[pyo3(signature = (projection, *, n_heads=None, n_kv_heads=None, device=None))]
    fn favor(
        py: Python<'_>,
        projection: &Bound<'_, PyAny>,
        n_heads: Option<usize>,
        n_kv_heads: Option<usize>,
        device: Option<PyRef<'_, Device>>,
    ) -> PyResult<Self> {
        let device = Device::or_best(py, device.as_deref())?;
        let projection = own_tensor(&device, "projection", projection)?;
        Ok(Self { memory: ops::LinearAttention::favor(layout(n_heads, n_kv_heads)?, projection), device })
    }

    /// Adds keys and their values to a state, which stays as it is, or begins one.
    #[pyo3(signature = (k, v, state=None, mask=None))]
    fn write(
        &self,
        py: Python<'_>,
        k: &Bound<'_, PyAny>,
        v: &Bound<'_, PyAny>,
        state: Option<PyRef<'_, LinearState>>,
        mask: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<LinearState> {
        let (k, v, mask) = keys_values(&self.device, self.memory.layout, k, v, mask)?;
        let before = state.as_ref().map(|state| &state.state);
        let state = self.device.run(py, |_| self.memory.write(before, &k, &v, mask.as_ref()))?;
        Ok(LinearState { state, device: self.device.clone() })
    }

    /// What queries read.
    fn read<'py>(
        &self,
        py: Python<'py>,
        q: &Bound<'py, PyAny>,
        state: PyRef<'py, LinearState>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (q, state) = (tensor(&self.device, "q", q)?, &state.state);
        read(py, &self.device, self.device.run(py, |_| self.memory.read(&q, state))?, false)
    }
}

#[pymethods]
impl LinearState {
    /// One made of numbers, those of another state say.
    #[new]
    #[pyo3(signature = (sums, v_dim, n_keys, *, is_stable=false, device=None))]
    fn new(
        py: Python<'_>,
        sums: &Bound<'_, PyAny>,
        v_dim: usize,
        n_keys: Vec<u64>,
        is_stable: bool,
        device: Option<PyRef<'_, Device>>,
    ) -> PyResult<Self> {
        let device = Device::or_best(py, device.as_deref())?;
        let sums = own_tensor(&device, "sums", sums)?;
        Ok(Self { state: ops::LinearState { sums, v_dim, is_stable, n_keys }, device })
    }

    /// The sums, a copy.
    #[getter]
    fn sums<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, f32>> {
        of_tensor(py, &self.device, self.state.sums.clone())
    }

    #[getter]
    fn v_dim(&self) -> usize {
        self.state.v_dim
    }

    #[getter]
    fn is_stable(&self) -> bool {
        self.state.is_stable
    }

    /// Keys in each element of the batch.
    #[getter]
    fn n_keys(&self) -> Vec<u64> {
        self.state.n_keys.clone()
    }

    /// What writing both sets of keys would have kept.
    fn merge(&self, py: Python<'_>, other: PyRef<'_, Self>) -> PyResult<Self> {
        let other = &other.state;
        let state = self.device.run(py, |_| self.state.merge(other))?;
        Ok(Self { state, device: self.device.clone() })
    }
}

/// A random projection `[n_features, head_dim]`, the same for a seed everywhere; rows are `orthogonal`,
/// `independent`, or `orthogonal_unit`.
#[pyfunction]
#[pyo3(signature = (seed, n_features, head_dim, *, rows="orthogonal"))]
pub fn random_features<'py>(
    py: Python<'py>,
    seed: u64,
    n_features: usize,
    head_dim: usize,
    rows: &str,
) -> PyResult<Array<'py, f32>> {
    let rows = match rows {
        "orthogonal" => ProjectionRows::Orthogonal,
        "independent" => ProjectionRows::Independent,
        "orthogonal_unit" => ProjectionRows::OrthogonalUnit,
        other => return Err(refused("rows", format_args!("{other:?}"), "orthogonal, independent or orthogonal_unit")),
    };
    let cpu = Device::cpu();
    let drawn = cpu.run(py, |cpu| ops::random_features(cpu, seed, n_features, head_dim, rows))?;
    of_tensor(py, &cpu, drawn)
}
