//! Sums of tensors.

#[cfg(feature = "gpu")]
pub(crate) mod gpu;

use rayon::prelude::*;

use crate::{
    error::{Error, Result},
    tensor::{Storage, Tensor, check_same_device},
};

const OP: &str = "add";

/// `a + scale * b`, where the shape of `b` is that of the last dimensions of `a`: `b` is repeated
/// along the others.
///
/// # Errors
/// A shape of `b` that is not the end of that of `a`; a scale that is not finite; different
/// devices; on a GPU, an operand larger than one binding.
pub fn add(a: &Tensor, b: &Tensor, scale: f32) -> Result<Tensor> {
    if !a.shape().ends_with(b.shape()) {
        return Err(Error::ShapeMismatch {
            op: OP,
            left_name: "a",
            left: a.shape().to_vec(),
            right_name: "b",
            right: b.shape().to_vec(),
            rule: "the shape of b must be that of the last dimensions of a",
        });
    }
    if !scale.is_finite() {
        return Err(Error::Argument {
            op: OP,
            name: "scale",
            found: scale.to_string(),
            allowed: "a finite number".into(),
        });
    }
    check_same_device(OP, a, &[Some(b)])?;
    if a.is_empty() {
        return Ok(a.clone());
    }
    match a.storage() {
        Storage::Cpu(_) => {
            let mut y = a.cpu().to_vec();
            let b = b.cpu();
            y.par_chunks_mut(b.len())
                .with_min_len((1 << 15) / b.len() + 1)
                .for_each(|y| y.iter_mut().zip(b).for_each(|(y, b)| *y += scale * b));
            Ok(Tensor::from_cpu(a.shape().to_vec(), y))
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::add(gpu, a, b, scale),
    }
}
