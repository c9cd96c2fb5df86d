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
/// on different devices.
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
