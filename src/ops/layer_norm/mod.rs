//! Layer normalisation over the last dimension (arXiv 1607.06450).

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;

use crate::{
    error::{Error, Result},
    tensor::{Storage, Tensor, check_same_device},
};

const OP: &str = "layer_norm";

/// `(x - mean) / sqrt(variance + epsilon) * scale + bias` over the last dimension of
/// `x [.., width]`, with the biased variance; `scale` and `bias` are `[width]`.
///
/// # Errors
/// An empty last dimension, parameters of another width, a negative epsilon, tensors on
/// different devices.
pub fn layer_norm(x: &Tensor, scale: &Tensor, bias: &Tensor, epsilon: f32) -> Result<Tensor> {
    let width = x.shape().last().copied().unwrap_or(0);
    if width == 0 {
        return Err(Error::Shape {
            op: OP,
            name: "x",
            found: x.shape().to_vec(),
            expected: "[.., width] with width > 0".into(),
        });
    }
    for (name, parameter) in [("scale", scale), ("bias", bias)] {
        if parameter.shape() != [width] {
            return Err(Error::ShapeMismatch {
                op: OP,
                left_name: "x",
                left: x.shape().to_vec(),
                right_name: name,
                right: parameter.shape().to_vec(),
                rule: "parameters must be as wide as the last dimension of x",
            });
        }
    }
    if !(epsilon >= 0.0 && epsilon.is_finite()) {
        return Err(Error::Argument {
            op: OP,
            name: "epsilon",
            found: epsilon.to_string(),
            allowed: "a finite number, 0 or more".into(),
        });
    }
    check_same_device(OP, x, &[Some(scale), Some(bias)])?;
    match x.storage() {
        Storage::Cpu(_) => {
            let data = cpu::layer_norm(x.cpu(), width, scale.cpu(), bias.cpu(), epsilon);
            Ok(Tensor::from_cpu(x.shape().to_vec(), data))
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::layer_norm(gpu, x, scale, bias, epsilon),
    }
}
