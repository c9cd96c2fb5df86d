//! Vectors of length one.

pub(crate) mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;

use crate::{
    error::{Result, check_shape},
    tensor::{Storage, Tensor, check_operands},
};

const OP: &str = "unit_norm";

/// `x / max(|x|, 1e-12)` over the last dimension of `x [.., width]`.
///
/// A zero vector stays zero and one shorter than `1e-12` is multiplied by `1e12`, so what it
/// becomes is shorter than one. Heads are normalised apart by reshaping `[.., n_heads * dim]` to
/// `[.., n_heads, dim]`, which copies nothing. Squares neither overflow nor vanish: any finite
/// vector longer than `1e-12` comes back with length one.
///
/// # Errors
/// No last dimension, or one of 0.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::unit_norm};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let x = Tensor::new(&Device::best(), &[2, 2], &[3.0, 4.0, 0.0, 0.0])?;
/// let y = unit_norm(&x)?.read()?;
/// assert!((y[0] - 0.6).abs() < 1e-6 && (y[1] - 0.8).abs() < 1e-6 && y[2..] == [0.0, 0.0]);
/// # Ok(())
/// # }
/// ```
pub fn unit_norm(x: &Tensor) -> Result<Tensor> {
    let width = x.shape().last().copied().unwrap_or(0);
    check_shape(width > 0, OP, "x", x.shape(), "[.., width] with width > 0")?;
    check_operands(OP, &[("x", Some(x))], &[])?;
    match x.storage() {
        Storage::Cpu(cpu, _) => Ok(Tensor::from_cpu(*cpu, x.shape().to_vec(), cpu::unit_norm(cpu.0, x.cpu(), width)?)),
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::unit_norm(gpu, x, width),
    }
}
