//! Numbers from the host and back to it, in the forms that programs have them in.

use std::sync::Arc;

use super::{DType, Numbers, Storage, Tensor, check_length};
use crate::{
    device::{Backend, Device},
    error::Result,
    host::{self, Kept},
};

/// How many numbers `Debug` shows.
const SHOWN: usize = 4;

impl Tensor {
    /// [`Tensor::new`] of a vector, which becomes the tensor's without a copy on the CPU.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let x = Tensor::from_vec(&Device::best(), &[2, 2], vec![1.0, 2.0, 3.0, 4.0])?;
    /// assert_eq!(x.shape(), [2, 2]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_vec(device: &Device, shape: &[usize], data: Vec<f32>) -> Result<Self> {
        check_length(shape, data.len())?;
        match &device.0 {
            Backend::Cpu(cpu) => Ok(Self::from_cpu(*cpu, shape.to_vec(), data)),
            #[cfg(feature = "gpu")]
            Backend::Gpu(_) => Self::new(device, shape, &data),
        }
    }

    /// [`Tensor::new`] of numbers that somebody else owns, a mapped file or an array of another language: on the
    /// CPU they are read where they are, without a copy, and `owner` is dropped with the last tensor that has
    /// them. It must return the same numbers each time, which nothing changes meanwhile.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    ///
    /// ```
    /// use std::sync::Arc;
    /// use wgpu_attention::{Device, Tensor};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let numbers: Arc<[f32]> = Arc::new([1.0, 2.0]);
    /// let x = Tensor::from_owner(&Device::cpu(), &[2], numbers.clone())?;
    /// assert_eq!((x.as_slice().map(<[f32]>::as_ptr), x.read()?), (Some(numbers.as_ptr()), vec![1.0, 2.0]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_owner(
        device: &Device,
        shape: &[usize],
        owner: impl AsRef<[f32]> + Send + Sync + 'static,
    ) -> Result<Self> {
        check_length(shape, owner.as_ref().len())?;
        match &device.0 {
            Backend::Cpu(cpu) => {
                let numbers = Numbers::F32(Arc::new(Kept::Lent(Box::new(owner))));
                Ok(Self { shape: shape.to_vec(), dtype: DType::F32, storage: Storage::Cpu(*cpu, numbers) })
            }
            #[cfg(feature = "gpu")]
            Backend::Gpu(_) => Self::new(device, shape, owner.as_ref()),
        }
    }

    /// [`Tensor::new`] of what an iterator yields: as many numbers as the shape says.
    ///
    /// # Errors
    /// As [`Tensor::new`]. Of an iterator that yields more, no more than one number too many is asked for.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let x = Tensor::from_numbers(&Device::best(), &[4], (0..4).map(|i| i as f32))?;
    /// assert_eq!(x.read()?, [0.0, 1.0, 2.0, 3.0]);
    /// assert!(Tensor::from_numbers(&Device::best(), &[4], std::iter::repeat(0.0)).is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_numbers(device: &Device, shape: &[usize], numbers: impl IntoIterator<Item = f32>) -> Result<Self> {
        let n = host::count(shape)?;
        let data = host::collect(n, numbers.into_iter().take(n.saturating_add(1)))?;
        Self::from_vec(device, shape, data)
    }

    /// The numbers themselves, where they are f32 on the CPU: no copy.
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// assert_eq!(Tensor::new(&Device::cpu(), &[2], &[1.0, 2.0])?.as_slice(), Some(&[1.0, 2.0][..]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn as_slice(&self) -> Option<&[f32]> {
        match &self.storage {
            Storage::Cpu(_, Numbers::F32(data)) => Some(data),
            Storage::Cpu(_, Numbers::F16(_)) => None,
            #[cfg(feature = "gpu")]
            Storage::Gpu(..) => None,
        }
    }

    /// [`Tensor::read`] of a tensor that is not needed any more: on the CPU its numbers become the vector without a
    /// copy, unless another tensor shares them or they are [lent](Tensor::from_owner).
    ///
    /// # Errors
    /// As [`Tensor::read`].
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// assert_eq!(Tensor::new(&Device::best(), &[2], &[1.0, 2.0])?.into_vec()?, [1.0, 2.0]);
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(not(target_arch = "wasm32"))]
    pub fn into_vec(self) -> Result<Vec<f32>> {
        pollster::block_on(self.into_vec_async())
    }

    /// [`Tensor::into_vec`] without blocking.
    ///
    /// # Errors
    /// As [`Tensor::read`].
    pub async fn into_vec_async(self) -> Result<Vec<f32>> {
        let read = self.start_read()?;
        // Shared by none, the numbers need no copy.
        drop(self);
        read.finish().await
    }

    /// [`Tensor::read`] into memory that is there.
    ///
    /// # Errors
    /// `into` has another length than the tensor; as [`Tensor::read`].
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let mut numbers = [0.0; 2];
    /// Tensor::new(&Device::best(), &[2], &[1.0, 2.0])?.read_into(&mut numbers)?;
    /// assert_eq!(numbers, [1.0, 2.0]);
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_into(&self, into: &mut [f32]) -> Result<()> {
        pollster::block_on(self.read_into_async(into))
    }

    /// [`Tensor::read_into`] without blocking.
    ///
    /// # Errors
    /// As [`Tensor::read_into`].
    pub async fn read_into_async(&self, into: &mut [f32]) -> Result<()> {
        check_length(&self.shape, into.len())?;
        match self.as_slice() {
            Some(numbers) => into.copy_from_slice(numbers),
            None => into.copy_from_slice(&self.read_async().await?),
        }
        Ok(())
    }
}

/// The shape, the device and the first numbers, if they are on the CPU: those of a GPU may not be computed yet, and
/// nothing waits for them here.
impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = if self.dtype == DType::F16 { " of f16" } else { "" };
        write!(f, "Tensor({:?}{of} on {}", self.shape, self.device())?;
        if let Some(numbers) = self.as_slice() {
            let more = if numbers.len() > SHOWN { ", .." } else { "" };
            let shown: Vec<String> = numbers.iter().take(SHOWN).map(|x| format!("{x:?}")).collect();
            write!(f, ": {}{more}", shown.join(", "))?;
        }
        write!(f, ")")
    }
}
