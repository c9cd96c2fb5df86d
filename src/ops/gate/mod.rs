//! Probabilities that open and close what is written, erased and read.

#[cfg(feature = "gpu")]
pub(crate) mod gpu;

use rayon::prelude::*;

use crate::{
    Device,
    error::{Error, Result},
    tensor::{Storage, Tensor, check_same_device},
};

const OP: &str = "gate";

/// Numbers in a task: enough to be worth a thread.
const TASK: usize = 1 << 15;

/// Numbers from 0 to 1 on a device, mostly `[batch, n, n_heads]`: one for each head of a token.
///
/// Those of a memory that erases *must* be probabilities, or the memory grows without bound; so
/// they are checked where they come from the host and are sigmoids where they are computed.
#[derive(Clone, Debug)]
pub struct Probabilities(Tensor);

impl Probabilities {
    /// Copies probabilities to the device.
    ///
    /// # Errors
    /// A number that is not from 0 to 1; data that does not fill the shape.
    pub fn new(device: &Device, shape: &[usize], data: &[f32]) -> Result<Self> {
        match data.iter().position(|p| !(0.0..=1.0).contains(p)) {
            None => Tensor::new(device, shape, data).map(Self),
            Some(i) => Err(Error::Argument {
                op: "Probabilities::new",
                name: "probability",
                found: format!("{} at {i}", data[i]),
                allowed: "0 to 1".into(),
            }),
        }
    }

    /// `1 / (1 + exp(-x))` of logits of any shape.
    ///
    /// # Errors
    /// On a GPU, an operand larger than one binding.
    pub fn sigmoid(logits: &Tensor) -> Result<Self> {
        match logits.storage() {
            Storage::Cpu(_) => {
                let one = |x: &f32| sigmoid(*x);
                let data = logits.cpu().par_iter().with_min_len(TASK).map(one).collect();
                Ok(Self(Tensor::from_cpu(logits.shape().to_vec(), data)))
            }
            #[cfg(feature = "gpu")]
            Storage::Gpu(gpu, _) => gpu::gate(gpu, gpu::Kind::Sigmoid, logits, None).map(Self),
        }
    }

    /// Numbers that an operation computed, which are from 0 to 1.
    pub(crate) fn computed(tensor: Tensor) -> Self {
        Self(tensor)
    }

    /// The size of each dimension.
    pub fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    /// The numbers.
    pub fn tensor(&self) -> &Tensor {
        &self.0
    }
}

/// The logistic function, without overflow.
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// `p x`, one probability for each head: `x [.., n_heads * dim]`, `p [.., n_heads]`.
///
/// # Errors
/// Shapes that do not fit: all dimensions but the last must be equal and the last a multiple;
/// different devices; on a GPU, an operand larger than one binding.
pub fn gate(x: &Tensor, p: &Probabilities) -> Result<Tensor> {
    let fits = match (x.shape().split_last(), p.shape().split_last()) {
        (Some((width, rows)), Some((n_heads, p_rows))) => {
            rows == p_rows && *n_heads > 0 && width.is_multiple_of(*n_heads)
        }
        _ => false,
    };
    if !fits {
        return Err(Error::ShapeMismatch {
            op: OP,
            left_name: "x",
            left: x.shape().to_vec(),
            right_name: "p",
            right: p.shape().to_vec(),
            rule: "x must be [.., n_heads * dim] and p [.., n_heads]",
        });
    }
    check_same_device(OP, x, &[Some(&p.0)])?;
    match x.storage() {
        Storage::Cpu(_) => {
            let dim = (x.len() / p.0.len().max(1)).max(1);
            let mut y = x.cpu().to_vec();
            y.par_chunks_mut(dim)
                .zip(p.0.cpu())
                .with_min_len(TASK / dim + 1)
                .for_each(|(y, p)| y.iter_mut().for_each(|y| *y *= p));
            Ok(Tensor::from_cpu(x.shape().to_vec(), y))
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::gate(gpu, gpu::Kind::Probability, x, Some(&p.0)),
    }
}

/// `max(x, 0)`, for where no dense layer comes before it that it could be fused with.
///
/// # Errors
/// On a GPU, an operand larger than one binding.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    match x.storage() {
        Storage::Cpu(_) => {
            let data = x.cpu().par_iter().with_min_len(TASK).map(|&x| if x < 0.0 { 0.0 } else { x }).collect();
            Ok(Tensor::from_cpu(x.shape().to_vec(), data))
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::gate(gpu, gpu::Kind::Relu, x, None),
    }
}

/// `x` times a number for each column: `x [.., width]`, `scale [width]`.
///
/// # Errors
/// Another width; different devices; on a GPU, an operand larger than one binding.
pub fn scale_columns(x: &Tensor, scale: &Tensor) -> Result<Tensor> {
    if scale.shape().len() != 1 || !x.shape().ends_with(scale.shape()) {
        return Err(Error::ShapeMismatch {
            op: "scale_columns",
            left_name: "x",
            left: x.shape().to_vec(),
            right_name: "scale",
            right: scale.shape().to_vec(),
            rule: "x must be [.., width] and scale [width]",
        });
    }
    check_same_device("scale_columns", x, &[Some(scale)])?;
    match x.storage() {
        Storage::Cpu(_) => {
            let mut y = x.cpu().to_vec();
            let rows = y.chunks_exact_mut(scale.len().max(1));
            rows.for_each(|y| y.iter_mut().zip(scale.cpu()).for_each(|(y, s)| *y *= s));
            Ok(Tensor::from_cpu(x.shape().to_vec(), y))
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::gate(gpu, gpu::Kind::Columns, x, Some(scale)),
    }
}
