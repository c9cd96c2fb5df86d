//! The operations, of arrays.

pub mod attention_memory;
pub mod bias;
pub mod linear_attention;
pub mod rolling_attention;
pub mod scan_attention;

use pyo3::prelude::*;
use wgpu_attention::{
    Mask, Tensor,
    ops::{Layout, Read},
};

use crate::{
    arrays::{mask as mask_of, of_tensor, tensor},
    device::Device,
    errors::refused,
};

/// Arrays `[batch, n_heads, n, dim]`, or with heads side by side, `[batch, n, n_heads * dim]`, whose number is given.
fn layout(n_heads: Option<usize>, n_kv_heads: Option<usize>) -> PyResult<Layout> {
    match (n_heads, n_kv_heads) {
        (None, None) => Ok(Layout::HeadMajor),
        (Some(n_heads), None) => Ok(Layout::Projected { n_heads }),
        (Some(n_heads), Some(n_kv_heads)) => Ok(Layout::Grouped { n_heads, n_kv_heads }),
        (None, Some(_)) => Err(refused("n_heads", "none beside n_kv_heads", "both, or neither")),
    }
}

/// The size of the batch, which comes first in either layout.
fn batch(array: &Tensor) -> usize {
    array.shape().first().copied().unwrap_or(0)
}

/// What is written: keys, their values, and which of them exist.
fn keys_values(
    device: &Device,
    k: &Bound<'_, PyAny>,
    v: &Bound<'_, PyAny>,
    mask: Option<&Bound<'_, PyAny>>,
) -> PyResult<(Tensor, Tensor, Option<Mask>)> {
    let (k, v) = (tensor(device, "k", k)?, tensor(device, "v", v)?);
    let mask = mask_of(device, mask, batch(&k))?;
    Ok((k, v, mask))
}

/// What was read, with its log-sum-exp if that is asked for.
fn read<'py>(py: Python<'py>, read: Read, with_log_sum_exp: bool) -> PyResult<Bound<'py, PyAny>> {
    let values = of_tensor(py, read.values)?.into_any();
    match read.log_sum_exp.filter(|_| with_log_sum_exp) {
        Some(log_sum_exp) => Ok((values, of_tensor(py, log_sum_exp)?).into_pyobject(py)?.into_any()),
        None => Ok(values),
    }
}
