//! A dense layer with its activation and residual fused: `activation(x W + b) + residual`.

pub(crate) mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
mod plan;
mod problem;

use crate::{
    error::Result,
    tensor::{Storage, Tensor},
};
use problem::check;
pub use problem::{Activation, Linear};

/// `activation(x W + b) + residual` for `x [.., n_in]`; `residual` and the result are
/// `[.., n_out]`.
///
/// # Errors
/// A last dimension of `x` that is not `n_in`, a bias or residual of another shape, tensors
/// on different devices; operands of f16 but the weight.
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
        Storage::Cpu(cpu, _) => {
            let bias = layer.bias.as_ref().map(Tensor::cpu);
            let data = cpu::linear(cpu.0, &problem, x.cpu(), layer.weight.numbers(), bias, residual.map(Tensor::cpu))?;
            Ok(Tensor::from_cpu(*cpu, shape, data))
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::linear(gpu, &problem, shape, x, layer, residual),
    }
}
