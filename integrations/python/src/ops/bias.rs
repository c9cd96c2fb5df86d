//! Terms of an attention bias.

use std::{ops::Range, sync::Arc};

use pyo3::{prelude::*, types::PyInt};
use wgpu_attention::ops::{BiasKernel, BiasTerm, CustomBias, Distance};

use crate::{
    arrays::{narrow, numbers},
    errors::{InputError, refused},
};

/// One summand of a bias: a function of some columns of the coordinates of a query and of a key. Terms are added
/// with `+`.
#[pyclass(frozen, module = "wgpu_attention")]
pub struct Bias {
    pub terms: Vec<Term>,
}

#[derive(Clone)]
pub struct Term {
    /// Columns of the coordinates; all if not given.
    columns: Option<Range<usize>>,
    kind: Arc<Kind>,
}

enum Kind {
    /// The parameters are all of one shape, `[n_heads]` or `[n_heads, n_basis]`.
    BuiltIn {
        distance: Distance,
        kernel: BiasKernel,
        parameters: Vec<Vec<f32>>,
        shape: Vec<usize>,
    },
    Wgsl {
        name: String,
        text: String,
        parameters: Vec<f32>,
        numpy: Option<Py<PyAny>>,
    },
}

/// A function that stands for a text of WGSL on the CPU, as `_twins.py` takes it: the name, the first and the end of
/// the columns, the parameters, and itself.
pub type Twin<'a> = (&'a str, usize, usize, &'a [f32], &'a Py<PyAny>);

impl Term {
    /// For an operation over so many columns, of so many heads.
    pub fn of(&self, n_columns: usize, n_heads: usize) -> PyResult<BiasTerm> {
        let columns = self.columns.clone().unwrap_or(0..n_columns);
        Ok(match &*self.kind {
            Kind::BuiltIn { shape, .. } if shape[0] != n_heads => {
                let allowed = format_args!("[{n_heads}] or [{n_heads}, n_basis]: q has {n_heads} heads");
                return Err(refused("bias parameter a", format_args!("an array of shape {shape:?}"), allowed));
            }
            Kind::BuiltIn { distance, kernel, parameters, .. } => {
                let parameters: Vec<&[f32]> = parameters.iter().map(Vec::as_slice).collect();
                BiasTerm::built_in(columns, *distance, *kernel, &parameters)
            }
            Kind::Wgsl { name, text, parameters, .. } => BiasTerm::custom(
                columns,
                CustomBias {
                    name: name.clone(),
                    wgsl: text.clone(),
                    // The CPU runs what `numpy` returns, see `twin`.
                    cpu: Arc::new(|_, _, _, _| 0.0),
                    params: parameters.clone(),
                },
            ),
        })
    }

    /// What runs on the CPU instead of a text of WGSL.
    pub fn twin(&self, n_columns: usize) -> PyResult<Option<Twin<'_>>> {
        match &*self.kind {
            Kind::BuiltIn { .. } => Ok(None),
            Kind::Wgsl { name, parameters, numpy: Some(function), .. } => {
                let columns = self.columns.clone().unwrap_or(0..n_columns);
                Ok(Some((name, columns.start, columns.end, parameters, function)))
            }
            Kind::Wgsl { name, numpy: None, .. } => Err(InputError::new_err(format!(
                "the bias {name:?} is WGSL, which runs on a GPU: give its twin for the CPU, numpy=f of \
                 f(q_coords, k_coords, head, params)"
            ))),
        }
    }
}

fn columns(given: Option<(usize, usize)>) -> PyResult<Option<Range<usize>>> {
    match given {
        Some((start, end)) if start >= end => Err(refused("columns", format_args!("({start}, {end})"), "(first, end)")),
        given => Ok(given.map(|(start, end)| start..end)),
    }
}

fn distance(name: &str) -> PyResult<Distance> {
    match name {
        "euclidean" => Ok(Distance::Euclidean),
        "great_circle" => Ok(Distance::GreatCircle),
        "causal_time" => Ok(Distance::CausalTime),
        other => Err(refused("distance", format_args!("{other:?}"), "euclidean, great_circle or causal_time")),
    }
}

fn built_in(
    kernel: BiasKernel,
    of: &[(&str, &Bound<'_, PyAny>)],
    columns_of: Option<(usize, usize)>,
    distance_of: &str,
) -> PyResult<Bias> {
    let (mut shape, mut parameters) = (Vec::new(), Vec::new());
    for (name, given) in of {
        let (found, numbers) = numbers(name, given)?;
        let (fits, allowed) = match parameters.is_empty() {
            true => (matches!(found.len(), 1 | 2), "[n_heads] or [n_heads, n_basis]".into()),
            false => (found == shape, format!("{shape:?}, as a")),
        };
        if !fits {
            let name = format!("bias parameter {name}");
            return Err(refused(&name, format_args!("an array of shape {found:?}"), allowed));
        }
        shape = found;
        parameters.push(narrow(&numbers));
    }
    let kind = Kind::BuiltIn { distance: distance(distance_of)?, kernel, parameters, shape };
    Ok(Bias { terms: vec![Term { columns: columns(columns_of)?, kind: Arc::new(kind) }] })
}

#[pymethods]
impl Bias {
    /// `a d`, one number `a` a head.
    #[staticmethod]
    #[pyo3(signature = (a, *, columns=None, distance="euclidean"))]
    fn scalar(a: &Bound<'_, PyAny>, columns: Option<(usize, usize)>, distance: &str) -> PyResult<Self> {
        built_in(BiasKernel::Scalar, &[("a", a)], columns, distance)
    }

    /// The sum of `a exp(-b d^2)`; `a` and `b` are `[n_heads, n_basis]`.
    #[staticmethod]
    #[pyo3(signature = (a, b, *, columns=None, distance="euclidean"))]
    fn rbf(
        a: &Bound<'_, PyAny>,
        b: &Bound<'_, PyAny>,
        columns: Option<(usize, usize)>,
        distance: &str,
    ) -> PyResult<Self> {
        built_in(BiasKernel::Rbf, &[("a", a), ("b", b)], columns, distance)
    }

    /// The sum of `a exp(-b (d - c)^2)`.
    #[staticmethod]
    #[pyo3(signature = (a, b, c, *, columns=None, distance="euclidean"))]
    fn tisa(
        a: &Bound<'_, PyAny>,
        b: &Bound<'_, PyAny>,
        c: &Bound<'_, PyAny>,
        columns: Option<(usize, usize)>,
        distance: &str,
    ) -> PyResult<Self> {
        built_in(BiasKernel::Tisa, &[("a", a), ("b", b), ("c", c)], columns, distance)
    }

    /// The sum of `a exp(-b d)`.
    #[staticmethod]
    #[pyo3(signature = (a, b, *, columns=None, distance="euclidean"))]
    fn exponential(
        a: &Bound<'_, PyAny>,
        b: &Bound<'_, PyAny>,
        columns: Option<(usize, usize)>,
        distance: &str,
    ) -> PyResult<Self> {
        built_in(BiasKernel::Exponential, &[("a", a), ("b", b)], columns, distance)
    }

    /// The sum of `a (1 + sqrt(3) b d) exp(-sqrt(3) b d)`, the Matérn kernel of smoothness 3/2.
    #[staticmethod]
    #[pyo3(signature = (a, b, *, columns=None, distance="euclidean"))]
    fn matern32(
        a: &Bound<'_, PyAny>,
        b: &Bound<'_, PyAny>,
        columns: Option<(usize, usize)>,
        distance: &str,
    ) -> PyResult<Self> {
        built_in(BiasKernel::Matern32, &[("a", a), ("b", b)], columns, distance)
    }

    /// The body of `fn(q_coord: array<f32, C>, k_coord: array<f32, C>, head: u32) -> f32`, in which `params(i)`
    /// reads a parameter. `numpy`, its twin on the CPU, is `f(q_coords, k_coords, head, params)`, of `[n_queries, 1,
    /// C]` and `[1, n_keys, C]`, and returns `[n_queries, n_keys]`, a matrix that a GPU does without.
    #[staticmethod]
    #[pyo3(signature = (text, params=None, *, numpy=None, columns=None, name="bias"))]
    fn wgsl(
        text: String,
        params: Option<&Bound<'_, PyAny>>,
        numpy: Option<Py<PyAny>>,
        columns: Option<(usize, usize)>,
        name: &str,
    ) -> PyResult<Self> {
        let parameters = match params {
            Some(params) => narrow(&numbers("params", params)?.1),
            None => Vec::new(),
        };
        let kind = Kind::Wgsl { name: name.to_owned(), text, parameters, numpy };
        Ok(Self { terms: vec![Term { columns: self::columns(columns)?, kind: Arc::new(kind) }] })
    }

    fn __add__(&self, other: PyRef<'_, Self>) -> Self {
        Self { terms: self.terms.iter().chain(&other.terms).cloned().collect() }
    }

    fn __repr__(&self) -> String {
        let one = |term: &Term| match &*term.kind {
            Kind::BuiltIn { distance, kernel, .. } => format!("{kernel:?} of {distance:?}"),
            Kind::Wgsl { name, .. } => format!("WGSL {name:?}"),
        };
        format!("<Bias {}>", self.terms.iter().map(one).collect::<Vec<_>>().join(" + "))
    }

    /// For `sum` of several, which begins with 0; anything else would be lost.
    fn __radd__<'py>(slf: Bound<'py, Self>, zero: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        match zero.is_exact_instance_of::<PyInt>() && zero.eq(0)? {
            true => Ok(slf.into_any()),
            false => Ok(slf.py().NotImplemented().into_bound(slf.py())),
        }
    }
}
