//! Rolling attention: fixed queries read an endless stream in constant memory.

use pyo3::prelude::*;
use wgpu_attention::ops;

use super::{keys_values, layout, read};
use crate::{
    arrays::{Array, of_tensor, own_tensor},
    device::Device,
};

/// The queries, which are fixed, and how they read.
#[pyclass(frozen, module = "wgpu_attention")]
pub struct RollingAttention {
    memory: ops::RollingAttention,
    device: Device,
}

/// What the queries have read so far, of constant size.
#[pyclass(frozen, module = "wgpu_attention")]
pub struct RollingState {
    state: ops::RollingState,
    device: Device,
}

#[pymethods]
impl RollingAttention {
    #[new]
    #[pyo3(signature = (queries, *, scale=None, n_heads=None, n_kv_heads=None, device=None))]
    fn new(
        py: Python<'_>,
        queries: &Bound<'_, PyAny>,
        scale: Option<f32>,
        n_heads: Option<usize>,
        n_kv_heads: Option<usize>,
        device: Option<PyRef<'_, Device>>,
    ) -> PyResult<Self> {
        let device = Device::or_best(py, device.as_deref())?;
        let queries = own_tensor(&device, "queries", queries)?;
        let mut memory = ops::RollingAttention::new(layout(n_heads, n_kv_heads)?, queries);
        memory.scale = scale;
        Ok(Self { memory, device })
    }

    /// Adds keys and their values to what was read before, which stays as it is, or begins.
    #[pyo3(signature = (k, v, state=None, mask=None))]
    fn write(
        &self,
        py: Python<'_>,
        k: &Bound<'_, PyAny>,
        v: &Bound<'_, PyAny>,
        state: Option<PyRef<'_, RollingState>>,
        mask: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<RollingState> {
        let (k, v, mask) = keys_values(&self.device, self.memory.layout, k, v, mask)?;
        let before = state.as_ref().map(|state| &state.state);
        let state = self.device.run(py, |_| self.memory.write(before, &k, &v, mask.as_ref()))?;
        Ok(RollingState { state, device: self.device.clone() })
    }

    /// What the queries have read.
    #[pyo3(signature = (state, *, return_log_sum_exp=false))]
    fn read<'py>(
        &self,
        py: Python<'py>,
        state: PyRef<'py, RollingState>,
        return_log_sum_exp: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let state = &state.state;
        read(py, &self.device, self.device.run(py, |_| self.memory.read(state))?, return_log_sum_exp)
    }
}

#[pymethods]
impl RollingState {
    /// One made of the rows of another.
    #[new]
    #[pyo3(signature = (rows, *, n_heads=None, n_kv_heads=None, device=None))]
    fn new(
        py: Python<'_>,
        rows: &Bound<'_, PyAny>,
        n_heads: Option<usize>,
        n_kv_heads: Option<usize>,
        device: Option<PyRef<'_, Device>>,
    ) -> PyResult<Self> {
        let device = Device::or_best(py, device.as_deref())?;
        let (rows, layout) = (own_tensor(&device, "rows", rows)?, layout(n_heads, n_kv_heads)?);
        Ok(Self { state: ops::RollingState { rows, layout }, device })
    }

    /// The sums of every query, a copy.
    #[getter]
    fn rows<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, f32>> {
        of_tensor(py, &self.device, self.state.rows.clone())
    }

    #[getter]
    fn n_bytes(&self) -> usize {
        self.state.n_bytes()
    }

    /// What the queries would have read from the keys of both.
    fn merge(&self, py: Python<'_>, other: PyRef<'_, Self>) -> PyResult<Self> {
        let other = &other.state;
        let state = self.device.run(py, |_| self.state.merge(other))?;
        Ok(Self { state, device: self.device.clone() })
    }
}
