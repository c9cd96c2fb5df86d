//! Arrays of the crate `ndarray`, with the feature of that name.

use ndarray::{Array, ArrayD, Dimension};

use super::Tensor;
use crate::{
    device::Device,
    error::{Error, Result},
    host,
};

impl Tensor {
    /// The tensor of an array, in row-major order whatever the array's is. On the CPU the numbers of one that is in
    /// that order already become the tensor's without a copy.
    ///
    /// # Errors
    /// The device has no room.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let x = Tensor::from_ndarray(&Device::best(), ndarray::array![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])?;
    /// assert_eq!(x.shape(), [2, 3]);
    /// assert_eq!(x.to_ndarray()?[[1, 0]], 4.0);
    /// let turned = Tensor::from_ndarray(&Device::best(), x.to_ndarray()?.reversed_axes())?;
    /// assert_eq!((turned.shape(), turned.read()?), (&[3, 2][..], vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_ndarray<D: Dimension>(device: &Device, array: Array<f32, D>) -> Result<Self> {
        let shape = array.shape().to_vec();
        let data = if array.is_standard_layout() {
            let (mut data, offset) = array.into_raw_vec_and_offset();
            // An array that was cut has more numbers than it shows.
            data.drain(..offset.unwrap_or(0));
            data.truncate(shape.iter().product());
            data
        } else {
            host::collect(array.len(), array.iter().copied())?
        };
        Self::from_vec(device, &shape, data)
    }

    /// The numbers as an array of the tensor's shape, waiting for the device.
    ///
    /// # Errors
    /// As [`Tensor::read`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn to_ndarray(&self) -> Result<ArrayD<f32>> {
        self.array(self.read()?)
    }

    /// [`Tensor::to_ndarray`] without blocking.
    ///
    /// # Errors
    /// As [`Tensor::to_ndarray`].
    pub async fn to_ndarray_async(&self) -> Result<ArrayD<f32>> {
        self.array(self.read_async().await?)
    }

    fn array(&self, numbers: Vec<f32>) -> Result<ArrayD<f32>> {
        let (shape, found) = (self.shape().to_vec(), numbers.len());
        let refused = |_| Error::Length { shape: self.shape().to_vec(), expected: self.len(), found };
        ArrayD::from_shape_vec(shape, numbers).map_err(refused)
    }
}
