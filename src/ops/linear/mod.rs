//! A dense layer with its activation and residual fused: `activation(x W + b) + residual`.

pub(crate) mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
mod plan;

use crate::{
    error::{Error, Result},
    tensor::{Storage, Tensor, check_same_device, n_elements},
};

const OP: &str = "linear";

/// More than any memory holds.
const MAX_ELEMENTS: usize = isize::MAX as usize / size_of::<f32>();

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
    /// `[n_in, n_out]`: `x W`, as in JAX. PyTorch stores the transpose.
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
    fn cost_of_row(&self) -> f64 {
        2.0 * self.n_in as f64 * self.n_out as f64
    }
}

/// `activation(x W + b) + residual` for `x [.., n_in]`; `residual` and the result are
/// `[.., n_out]`.
///
/// # Errors
/// A last dimension of `x` that is not `n_in`, a bias or residual of another shape, tensors
/// on different devices.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::{Activation, Linear, linear}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// let weight = Tensor::new(&device, &[2, 3], &[1.0, 0.0, -1.0, 0.0, 1.0, -1.0])?;
/// let bias = Some(Tensor::new(&device, &[3], &[0.0, 10.0, 0.0])?);
/// let x = Tensor::new(&device, &[1, 2], &[1.0, 2.0])?;
/// let y = linear(&x, &Linear { weight, bias }, Activation::Relu, None)?;
/// assert_eq!(y.read()?, [1.0, 12.0, 0.0]); // of 1, 2 + 10 and -1 - 2
/// # Ok(())
/// # }
/// ```
pub fn linear(x: &Tensor, layer: &Linear, activation: Activation, residual: Option<&Tensor>) -> Result<Tensor> {
    let (problem, shape) = check(x, layer, activation, residual)?;
    match x.storage() {
        Storage::Cpu(_) => {
            let bias = layer.bias.as_ref().map(Tensor::cpu);
            let data = cpu::linear(&problem, x.cpu(), layer.weight.cpu(), bias, residual.map(Tensor::cpu));
            Ok(Tensor::from_cpu(shape, data))
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::linear(gpu, &problem, shape, x, layer, residual),
    }
}

/// The sizes of a call and the shape of its result.
fn check(
    x: &Tensor,
    layer: &Linear,
    activation: Activation,
    residual: Option<&Tensor>,
) -> Result<(Problem, Vec<usize>)> {
    let mismatch = |left_name, left: &Tensor, right_name, right: &Tensor, rule| {
        Err(Error::ShapeMismatch {
            op: OP,
            left_name,
            left: left.shape().to_vec(),
            right_name,
            right: right.shape().to_vec(),
            rule,
        })
    };
    let weight = &layer.weight;
    let &[n_in, n_out] = weight.shape() else {
        return Err(Error::Shape {
            op: OP,
            name: "weight",
            found: weight.shape().to_vec(),
            expected: "[n_in, n_out]".into(),
        });
    };
    if x.shape().last() != Some(&n_in) {
        return mismatch("x", x, "weight", weight, "the last dimension of x must be n_in, the first of weight");
    }
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = n_out;
    }
    if let Some(bias) = &layer.bias
        && bias.shape() != [n_out]
    {
        return mismatch("weight", weight, "bias", bias, "bias must be [n_out]");
    }
    if let Some(residual) = residual
        && residual.shape() != shape
    {
        return Err(Error::Shape {
            op: OP,
            name: "residual",
            found: residual.shape().to_vec(),
            expected: format!("{shape:?}, the shape of the result"),
        });
    }
    check_same_device(OP, x, &[Some(weight), layer.bias.as_ref(), residual])?;
    // Without inputs a small tensor can ask for a large result.
    let rows = n_elements(&shape[..shape.len() - 1]);
    if rows > MAX_ELEMENTS || n_elements(&shape) > MAX_ELEMENTS {
        return Err(Error::LimitExceeded {
            limit: "elements in the result of linear",
            requested: n_elements(&shape).max(rows) as u64,
            allowed: MAX_ELEMENTS as u64,
        });
    }
    Ok((Problem { rows, n_in, n_out, activation }, shape))
}
