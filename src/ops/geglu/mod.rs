//! The gated activation of GEGLU feed-forward layers (arXiv 2002.05202).

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;

use crate::{
    error::{Error, Result},
    tensor::{Storage, Tensor},
};

const OP: &str = "geglu";

/// `a gelu(g)` for `x = [a, g]`, `[.., 2 width]` to `[.., width]`: the first half of a row is the
/// value, the second the gate. The gelu is the exact one.
///
/// # Errors
/// A last dimension that is empty or odd.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let (rows, width) = match x.shape().split_last() {
        Some((&both, rows)) if both > 0 && both % 2 == 0 => (rows, both / 2),
        _ => {
            return Err(Error::Shape {
                op: OP,
                name: "x",
                found: x.shape().to_vec(),
                expected: "[.., 2 width] with width > 0".into(),
            });
        }
    };
    let mut shape = rows.to_vec();
    shape.push(width);
    match x.storage() {
        Storage::Cpu(_) => Ok(Tensor::from_cpu(shape, cpu::geglu(x.cpu(), width))),
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::geglu(gpu, x, width, shape),
    }
}
