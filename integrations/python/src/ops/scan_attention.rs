//! Softmax attention, read in blocks of keys.

use pyo3::{prelude::*, types::PyList};
use wgpu_attention::{
    Tensor,
    ops::{self, BiasKernel, BiasTerm, Distance, ScanAttention, scan_attention as attend},
};

use super::{
    bias::{Bias, Twin},
    layout, read, sizes,
};
use crate::{
    arrays::{mask as mask_of, numbers, optional_tensor, tensor},
    device::Device,
    errors::refused,
};

/// The parts of `bias=`.
#[derive(Default)]
struct Parts<'py> {
    terms: Vec<PyRef<'py, Bias>>,
    matrix: Option<Bound<'py, PyAny>>,
}

impl<'py> Parts<'py> {
    fn of(given: Option<Bound<'py, PyAny>>) -> PyResult<Self> {
        let mut parts = Self::default();
        let Some(given) = given else { return Ok(parts) };
        let items: Vec<Bound<'_, PyAny>> = match given.cast::<PyList>() {
            Ok(list) => list.iter().collect(),
            Err(_) => vec![given],
        };
        for item in items {
            match item.extract::<PyRef<'_, Bias>>() {
                Ok(bias) => parts.terms.push(bias),
                Err(_) if parts.matrix.is_none() => parts.matrix = Some(item),
                Err(_) => return Err(refused("bias", "a list with two matrices", "one array, and terms beside it")),
            }
        }
        Ok(parts)
    }
}

/// Coordinates with one column more, that of the places in the sequence: `[n, n_columns + 1]`, or with a batch.
fn with_places(
    device: &Device,
    name: &str,
    coords: Option<&Bound<'_, PyAny>>,
    [batch, n]: [usize; 2],
    py: Python<'_>,
) -> PyResult<Tensor> {
    let (mut shape, numbers) = match coords {
        Some(coords) => numbers(name, coords)?,
        None => (vec![n, 0], Vec::new()),
    };
    let (rows, width) = match shape[..] {
        [rows, width] if rows == n => (n, width),
        [of, rows, width] if rows == n && (of == 1 || of == batch) => (of * n, width),
        _ => {
            let allowed = format_args!("[{n}, n_columns] or [{batch}, {n}, n_columns]");
            return Err(refused(name, format_args!("of shape {shape:?}"), allowed));
        }
    };
    let mut all = Vec::with_capacity(rows * (width + 1));
    for row in 0..rows {
        all.extend(numbers[row * width..(row + 1) * width].iter().map(|&x| x as f32));
        all.push((row % n) as f32);
    }
    if let Some(last) = shape.last_mut() {
        *last = width + 1;
    }
    device.run(py, move |device| Tensor::from_vec(device, &shape, all))
}

/// `softmax(scale q k^T + bias) v` of each head, in memory that grows with the length.
#[pyfunction]
#[pyo3(signature = (
    q, k, v, *, bias=None, q_coords=None, k_coords=None, mask=None, causal=false, scale=None, n_heads=None,
    n_kv_heads=None, return_log_sum_exp=false, device=None
))]
#[expect(clippy::too_many_arguments, reason = "by name in Python")]
pub fn scan_attention<'py>(
    py: Python<'py>,
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    bias: Option<Bound<'py, PyAny>>,
    q_coords: Option<&Bound<'py, PyAny>>,
    k_coords: Option<&Bound<'py, PyAny>>,
    mask: Option<&Bound<'py, PyAny>>,
    causal: bool,
    scale: Option<f32>,
    n_heads: Option<usize>,
    n_kv_heads: Option<usize>,
    return_log_sum_exp: bool,
    device: Option<PyRef<'py, Device>>,
) -> PyResult<Bound<'py, PyAny>> {
    let device = &Device::or_best(py, device.as_deref())?;
    let layout = layout(n_heads, n_kv_heads)?;
    let (q, k, v) = (tensor(device, "q", q)?, tensor(device, "k", k)?, tensor(device, "v", v)?);
    let ([batch, n_heads, n_queries], [of_keys, _, n_keys]) =
        (sizes("q", &q, n_heads)?, sizes("k", &k, n_kv_heads.or(n_heads))?);
    let mask = mask_of(device, mask, [of_keys, n_keys])?;
    let Parts { terms, matrix: given_matrix } = Parts::of(bias)?;
    let mut of_matrix = optional_tensor(device, "bias", given_matrix.as_ref())?;
    let q_places = optional_tensor(device, "q_coords", q_coords)?;
    let k_places = optional_tensor(device, "k_coords", k_coords)?;
    let n_columns = q_places.as_ref().and_then(|places| places.shape().last().copied()).unwrap_or(0);
    let is_gpu = device.get()? != &wgpu_attention::Device::cpu();
    let (mut built_in, mut twins): (Vec<BiasTerm>, Vec<Twin<'_>>) = (Vec::new(), Vec::new());
    for term in terms.iter().flat_map(|bias| &bias.terms) {
        match if is_gpu { None } else { term.twin(n_columns)? } {
            Some(twin) => twins.push(twin),
            None => built_in.push(term.of(n_columns, n_heads)?),
        }
    }
    if !twins.is_empty() {
        let (Some(q), Some(k)) = (q_coords, k_coords) else {
            return Err(refused("bias coordinates", "none", "q_coords and k_coords where the bias has terms"));
        };
        let sizes = [batch, n_heads, n_queries, n_keys];
        let found = py.import("wgpu_attention._twins")?.getattr("matrix")?;
        of_matrix = Some(tensor(device, "bias", &found.call1((twins, q, k, sizes, given_matrix))?)?);
    }
    if causal && n_queries != n_keys {
        let found = format_args!("true for {n_queries} queries and {n_keys} keys");
        let allowed = "as many of both; a term over moments, distance=\"causal_time\", is for others";
        return Err(refused("causal", found, allowed));
    }
    // Where there is no query, there may be more heads than any memory has.
    let coords = if causal && !q.is_empty() {
        // A later key is masked, and what is not later counts as it is.
        built_in.push(BiasTerm::built_in(
            n_columns..n_columns + 1,
            Distance::CausalTime,
            BiasKernel::Scalar,
            &[&vec![0.0; n_heads]],
        ));
        let q = with_places(device, "q_coords", q_coords, [batch, n_queries], py)?;
        Some((q, with_places(device, "k_coords", k_coords, [batch, n_keys], py)?))
    } else {
        // Coordinates without terms say nothing.
        q_places.zip(k_places).filter(|_| !built_in.is_empty())
    };
    let read_back = device.run(py, |_| {
        let mut bias = ops::Bias::default();
        bias.terms = &built_in;
        bias.matrix = of_matrix.as_ref();
        bias.q_coords = coords.as_ref().map(|(q, _)| q);
        bias.k_coords = coords.as_ref().map(|(_, k)| k);
        let mut options = ScanAttention::new(layout).bias(bias);
        options.scale = scale;
        options.key_mask = mask.as_ref();
        attend(&q, &k, &v, &options)
    })?;
    read(py, device, read_back.into(), return_log_sum_exp)
}
