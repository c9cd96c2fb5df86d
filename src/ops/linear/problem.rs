//! A dense layer, and the sizes of a call of one.

use crate::{
    error::{Error, Result, check_shape, check_shapes},
    tensor::{Tensor, check_operands, check_size, n_elements},
};

pub(super) const OP: &str = "linear";

/// What follows the product of a dense layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// `max(x, 0)`.
    Relu,
    /// The tanh approximation, which is JAX's default:
    /// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))` (arXiv 1606.08415).
    GeluTanh,
    /// The exact form, which is PyTorch's default: `x/2 (1 + erf(x / sqrt 2))`.
    GeluErf,
}

/// The parameters of a dense layer.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[n_in, n_out]`: `x W`, as in JAX. PyTorch stores the transpose. It may be of
    /// [f16](crate::DType).
    pub weight: Tensor,
    /// `[n_out]`.
    pub bias: Option<Tensor>,
}

/// The sizes of one call, checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Problem {
    pub rows: usize,
    pub n_in: usize,
    pub n_out: usize,
    pub activation: Activation,
}

impl Problem {
    /// Floating-point operations, about.
    pub fn cost_of_row(&self) -> f64 {
        2.0 * self.n_in as f64 * self.n_out as f64
    }
}

/// The sizes of a call and the shape of its result.
pub(super) fn check(
    x: &Tensor,
    layer: &Linear,
    activation: Activation,
    residual: Option<&Tensor>,
) -> Result<(Problem, Vec<usize>)> {
    let weight = layer.weight.shape();
    let &[n_in, n_out] = weight else {
        return Err(Error::shape(OP, "weight", weight, "[n_in, n_out]"));
    };
    let rule = "the last dimension of x must be n_in, the first of weight";
    check_shapes(x.shape().last() == Some(&n_in), OP, ("x", x.shape()), ("weight", weight), rule)?;
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = n_out;
    }
    if let Some(bias) = layer.bias.as_ref().map(Tensor::shape) {
        check_shapes(*bias == [n_out], OP, ("weight", weight), ("bias", bias), "bias must be [n_out]")?;
    }
    if let Some(found) = residual.map(Tensor::shape) {
        check_shape(found == shape, OP, "residual", found, format_args!("{shape:?}, the shape of the result"))?;
    }
    let (weight, bias) = (Some(&layer.weight), layer.bias.as_ref());
    check_operands(OP, &[("x", Some(x)), ("weight", weight), ("bias", bias), ("residual", residual)], &["weight"])?;
    // Without inputs a small tensor can ask for a large result.
    let rows = n_elements(&shape[..shape.len() - 1]);
    check_size(&shape)?;
    Ok((Problem { rows, n_in, n_out, activation }, shape))
}
