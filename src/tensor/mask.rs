//! Which keys exist.

use std::sync::Arc;

use super::{Tensor, check_length};
use crate::{device::Device, error::Result, host};

/// Which of some keys exist: booleans of any shape, on a device.
///
/// ```
/// use wgpu_attention::{Device, Mask, Tensor, ops::{ScanAttention, scan_attention}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::cpu();
/// let k = Tensor::new(&device, &[1, 1, 2, 1], &[0.0, 0.0])?;
/// let v = Tensor::new(&device, &[1, 1, 2, 1], &[3.0, 5.0])?;
/// let mask = Mask::new(&device, &[1, 2], &[true, false])?; // the second key does not exist
/// let read = scan_attention(&k, &k, &v, &ScanAttention::default().key_mask(&mask))?;
/// assert_eq!(read.values.read()?, [3.0, 3.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Mask(Tensor, Arc<Vec<u64>>);

impl Mask {
    /// Copies booleans to the device; `true` keeps the key.
    ///
    /// # Errors
    /// `keep` does not fill the shape; the device has no room.
    pub fn new(device: &Device, shape: &[usize], keep: &[bool]) -> Result<Self> {
        check_length(shape, keep.len())?;
        let numbers = host::collect(keep.len(), keep.iter().map(|&keep| f32::from(u8::from(keep))))?;
        let tensor = Tensor::new(device, shape, &numbers)?;
        let row = shape.last().copied().unwrap_or(1).max(1);
        let counts = keep.chunks(row).map(|row| row.iter().filter(|keep| **keep).count() as u64);
        Ok(Self(tensor, Arc::new(host::collect(keep.len() / row, counts)?)))
    }

    /// A mask `[batch, n]` that keeps all keys.
    pub(crate) fn full(device: &Device, batch: usize, n: usize) -> Result<Self> {
        Self::new(device, &[batch, n], &host::filled(true, &[batch, n])?)
    }

    /// A mask of zeros and ones that an operation computed, and [`Mask::counts`] of it.
    pub(crate) fn computed(tensor: Tensor, counts: Vec<u64>) -> Self {
        Self(tensor, Arc::new(counts))
    }

    /// How many keys each row of the last dimension keeps.
    pub(crate) fn counts(&self) -> &[u64] {
        &self.1
    }

    /// Copies the booleans to the host, waiting for the device: [`Mask::new`] makes the same of them.
    ///
    /// # Errors
    /// As [`Tensor::read`].
    ///
    /// ```
    /// use wgpu_attention::{Device, Mask};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let mask = Mask::new(&Device::best(), &[1, 3], &[true, false, true])?;
    /// assert_eq!(mask.read()?, [true, false, true]);
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read(&self) -> Result<Vec<bool>> {
        Ok(booleans(&self.0.read()?))
    }

    /// [`Mask::read`] without blocking.
    ///
    /// # Errors
    /// As [`Tensor::read`].
    pub async fn read_async(&self) -> Result<Vec<bool>> {
        Ok(booleans(&self.0.read_async().await?))
    }

    /// The size of each dimension.
    pub fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    /// One where the key exists, zero where not.
    pub(crate) fn tensor(&self) -> &Tensor {
        &self.0
    }
}

fn booleans(numbers: &[f32]) -> Vec<bool> {
    numbers.iter().map(|&x| x != 0.0).collect()
}
