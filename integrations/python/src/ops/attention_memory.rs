//! The attention memory: a matrix that is written, erased and read.

use pyo3::prelude::*;
use wgpu_attention::ops::{self, AttentionMemory, Form};

use super::layout;
use crate::{
    arrays::{Array, of_tensor, own_tensor, probabilities, tensor},
    device::Device,
    errors::refused,
};

/// The matrix of every head.
#[pyclass(frozen, module = "wgpu_attention")]
pub struct MemoryState {
    state: ops::MemoryState,
    device: Device,
}

#[pymethods]
impl MemoryState {
    /// One made of numbers `[batch, n_heads, v_dim, head_dim]`.
    #[new]
    #[pyo3(signature = (memory, *, erased=false, device=None))]
    fn new(
        py: Python<'_>,
        memory: &Bound<'_, PyAny>,
        erased: bool,
        device: Option<PyRef<'_, Device>>,
    ) -> PyResult<Self> {
        let device = Device::or_best(py, device.as_deref())?;
        let mut state = ops::MemoryState::new(own_tensor(&device, "memory", memory)?);
        state.erased = erased;
        Ok(Self { state, device })
    }

    /// `[batch, n_heads, v_dim, head_dim]`, a copy.
    #[getter]
    fn memory<'py>(&self, py: Python<'py>) -> PyResult<Array<'py, f32>> {
        of_tensor(py, &self.device, self.state.memory.clone())
    }

    /// Whether anything was erased or decayed: such states do not merge.
    #[getter]
    fn erased(&self) -> bool {
        self.state.erased
    }

    /// What writing both sets of keys would have left, where nothing was erased.
    fn merge(&self, py: Python<'_>, other: PyRef<'_, Self>) -> PyResult<Self> {
        let other = &other.state;
        let state = self.device.run(py, |_| self.state.merge(other))?;
        Ok(Self { state, device: self.device.clone() })
    }
}

fn form(name: Option<&str>) -> PyResult<Option<Form>> {
    match name {
        None => Ok(None),
        Some("recurrent") => Ok(Some(Form::Recurrent)),
        Some("chunked") => Ok(Some(Form::Chunked)),
        Some(other) => Err(refused("form", format_args!("{other:?}"), "recurrent, chunked or none")),
    }
}

/// Writes, erases and reads at every step of a sequence (the delta rule, gated with a decay): what was read, and the
/// memory after the last step.
#[pyfunction]
#[pyo3(signature = (
    q, k, v, *, p_read=None, p_write=None, p_erase=None, decay=None, state=None, n_heads=None, form=None, device=None
))]
#[expect(clippy::too_many_arguments, reason = "by name in Python")]
pub fn attention_memory<'py>(
    py: Python<'py>,
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    p_read: Option<&Bound<'py, PyAny>>,
    p_write: Option<&Bound<'py, PyAny>>,
    p_erase: Option<&Bound<'py, PyAny>>,
    decay: Option<&Bound<'py, PyAny>>,
    state: Option<PyRef<'py, MemoryState>>,
    n_heads: Option<usize>,
    form: Option<&str>,
    device: Option<PyRef<'py, Device>>,
) -> PyResult<(Array<'py, f32>, MemoryState)> {
    // A state says where to go on.
    let device = match (&device, &state) {
        (None, Some(state)) => state.device.clone(),
        _ => Device::or_best(py, device.as_deref())?,
    };
    let (q, k, v) = (tensor(&device, "q", q)?, tensor(&device, "k", k)?, tensor(&device, "v", v)?);
    let of = |name, given| probabilities(&device, name, given);
    let (p_read, p_write) = (of("p_read", p_read)?, of("p_write", p_write)?);
    let (p_erase, decay) = (of("p_erase", p_erase)?, of("decay", decay)?);
    let (layout, form) = (layout(n_heads, None)?, self::form(form)?);
    let before = state.as_ref().map(|state| &state.state);
    let recall = device.run(py, |_| {
        let mut options = AttentionMemory::new(layout);
        options.state = before;
        options.p_read = p_read.as_ref();
        options.p_write = p_write.as_ref();
        options.p_erase = p_erase.as_ref();
        options.decay = decay.as_ref();
        options.form = form;
        ops::attention_memory(&q, &k, &v, &options)
    })?;
    Ok((of_tensor(py, &device, recall.values)?, MemoryState { state: recall.state, device }))
}
