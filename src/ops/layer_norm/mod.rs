//! Layer normalisation over the last dimension (arXiv 1607.06450).

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
mod problem;

use crate::{
    error::{Result, check_argument, check_shape, check_shapes},
    tensor::{Storage, Tensor, check_operands},
};

const OP: &str = "layer_norm";

/// `(x - mean) / sqrt(variance + epsilon) * scale + bias + residual` over the last dimension of
/// `x [.., width]`, with the biased variance; `scale` and `bias` are `[width]`, the residual has
/// the shape of `x`. Any finite `x` will do: rows of up to the largest f32 are normalised, too, and
/// so are those whose mean is a million times their spread. A row of one and the same number has no
/// deviations: it becomes `bias + residual`, with an epsilon of 0, too.
///
/// # Errors
/// An empty last dimension, parameters or a residual of another shape, an epsilon that is negative or not finite,
/// tensors on different devices.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::layer_norm};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let tensor = |numbers: &[f32]| Tensor::new(&Device::cpu(), &[2], numbers);
/// // The mean is 2 and the variance 1.
/// let y = layer_norm(&tensor(&[1.0, 3.0])?, &tensor(&[1.0, 10.0])?, &tensor(&[0.0, 5.0])?, 0.0, None)?;
/// assert_eq!(y.read()?, [-1.0, 15.0]);
/// # Ok(())
/// # }
/// ```
pub fn layer_norm(
    x: &Tensor,
    scale: &Tensor,
    bias: &Tensor,
    epsilon: f32,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let width = x.shape().last().copied().unwrap_or(0);
    let of_x = x.shape();
    check_shape(width > 0, OP, "x", of_x, "[.., width] with width > 0")?;
    for (name, found) in [("scale", scale.shape()), ("bias", bias.shape())] {
        let rule = "parameters must be as wide as the last dimension of x";
        check_shapes(*found == [width], OP, ("x", of_x), (name, found), rule)?;
    }
    if let Some(found) = residual.map(Tensor::shape) {
        let rule = "the residual must have the shape of x";
        check_shapes(found == of_x, OP, ("x", of_x), ("residual", found), rule)?;
    }
    let is_allowed = epsilon >= 0.0 && epsilon.is_finite();
    check_argument(is_allowed, OP, "epsilon", epsilon, "a finite number, 0 or more")?;
    let operands = [("x", Some(x)), ("scale", Some(scale)), ("bias", Some(bias)), ("residual", residual)];
    check_operands(OP, &operands, &[])?;
    match x.storage() {
        Storage::Cpu(cpu, _) => {
            let data =
                cpu::layer_norm(cpu.0, x.cpu(), width, scale.cpu(), bias.cpu(), epsilon, residual.map(Tensor::cpu))?;
            Ok(Tensor::from_cpu(*cpu, x.shape().to_vec(), data))
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::layer_norm(gpu, x, scale, bias, epsilon, residual),
    }
}
