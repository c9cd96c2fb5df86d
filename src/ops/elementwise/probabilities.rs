//! Probabilities that open and close what is written, erased and read.

use super::{
    join, map,
    problem::{Join, Map, Rows},
    whole,
};
use crate::{
    Device,
    error::{Error, Result},
    tensor::{Tensor, check_operands},
};

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
    ///
    /// ```
    /// use wgpu_attention::{Device, ops::Probabilities};
    /// let device = Device::best();
    /// assert!(Probabilities::new(&device, &[1, 2, 1], &[0.0, 0.5]).is_ok());
    /// assert!(Probabilities::new(&device, &[1, 2, 1], &[0.0, 1.5]).is_err());
    /// ```
    pub fn new(device: &Device, shape: &[usize], data: &[f32]) -> Result<Self> {
        if let Some(i) = data.iter().position(|p| !(0.0..=1.0).contains(p)) {
            let found = format!("{} at {i}", data[i]);
            return Err(Error::argument("Probabilities::new", "probability", found, "0 to 1"));
        }
        Tensor::new(device, shape, data).map(Self)
    }

    /// `1 / (1 + exp(-x))` of logits of any shape.
    ///
    /// # Errors
    /// The device has no room.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, ops::Probabilities};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let logits = Tensor::new(&Device::best(), &[1, 1, 2], &[0.0, 100.0])?;
    /// let p = Probabilities::sigmoid(&logits)?.tensor().read()?;
    /// assert!((p[0] - 0.5).abs() < 1e-6 && (p[1] - 1.0).abs() < 1e-6);
    /// # Ok(())
    /// # }
    /// ```
    pub fn sigmoid(logits: &Tensor) -> Result<Self> {
        map(logits, Map::Sigmoid).map(Self)
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

/// `p x`, one probability for each head: `x [.., n_heads * dim]`, `p [.., n_heads]`.
///
/// # Errors
/// Shapes that do not fit: all dimensions but the last must be equal and the last a multiple;
/// different devices.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::{Probabilities, gate}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// let x = Tensor::new(&device, &[1, 4], &[1.0, 2.0, 3.0, 4.0])?; // two heads, side by side
/// let p = Probabilities::new(&device, &[1, 2], &[1.0, 0.5])?;
/// assert_eq!(gate(&x, &p)?.read()?, [1.0, 2.0, 1.5, 2.0]);
/// # Ok(())
/// # }
/// ```
pub fn gate(x: &Tensor, p: &Probabilities) -> Result<Tensor> {
    const OP: &str = "gate";
    let (width, n_heads) = match (x.shape().split_last(), p.shape().split_last()) {
        (Some((&width, rows)), Some((&n_heads, p_rows)))
            if rows == p_rows && n_heads > 0 && width.is_multiple_of(n_heads) =>
        {
            (width, n_heads)
        }
        _ => {
            let rule = "x must be [.., n_heads * dim] and p [.., n_heads]";
            return Err(Error::mismatch(OP, ("x", x.shape()), ("p", p.shape()), rule));
        }
    };
    check_operands(OP, &[("x", Some(x)), ("p", Some(&p.0))], &[])?;
    let rows = Rows { b_stride: n_heads, ..whole(p.0.len() / n_heads, width, n_heads) };
    join(Join::Gate, rows, x.shape().to_vec(), x, Some(&p.0))
}
