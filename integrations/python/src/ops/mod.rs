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

/// Batch, heads and rows of an array, whose heads lie side by side where their number is given. Heads are not empty:
/// but for those without a row or a batch, an array has no more of anything than it has numbers.
fn sizes(name: &str, array: &Tensor, n_heads: Option<usize>) -> PyResult<[usize; 3]> {
    let allowed = match (n_heads, array.shape()) {
        (None, &[batch, n_heads, n, dim]) if n_heads > 0 && dim > 0 => return Ok([batch, n_heads, n]),
        (Some(n_heads), &[batch, n, width]) if n_heads > 0 && width > 0 && width.is_multiple_of(n_heads) => {
            return Ok([batch, n_heads, n]);
        }
        (None, _) => "[batch, n_heads, n, dim], of heads that are not empty; [batch, n, n_heads * dim] is one where \
                      n_heads is given"
            .into(),
        (Some(n_heads), _) => format!("[batch, n, {n_heads} * dim], of {n_heads} heads that are not empty"),
    };
    Err(refused(name, format_args!("an array of shape {:?}", array.shape()), allowed))
}

/// What is written: keys, their values, and which of them exist.
fn keys_values(
    device: &Device,
    layout: Layout,
    k: &Bound<'_, PyAny>,
    v: &Bound<'_, PyAny>,
    mask: Option<&Bound<'_, PyAny>>,
) -> PyResult<(Tensor, Tensor, Option<Mask>)> {
    let (k, v) = (tensor(device, "k", k)?, tensor(device, "v", v)?);
    let n_heads = match layout {
        Layout::Projected { n_heads } | Layout::Grouped { n_kv_heads: n_heads, .. } => Some(n_heads),
        _ => None,
    };
    let [batch, _, n] = sizes("k", &k, n_heads)?;
    let mask = mask_of(device, mask, [batch, n])?;
    Ok((k, v, mask))
}

/// What was read, with its log-sum-exp if that is asked for.
fn read<'py>(py: Python<'py>, device: &Device, read: Read, with_log_sum_exp: bool) -> PyResult<Bound<'py, PyAny>> {
    let values = of_tensor(py, device, read.values)?.into_any();
    match read.log_sum_exp.filter(|_| with_log_sum_exp) {
        Some(log_sum_exp) => Ok((values, of_tensor(py, device, log_sum_exp)?).into_pyobject(py)?.into_any()),
        None => Ok(values),
    }
}
