//! The way of GPU memory out to an application's own passes, and in.

use super::{Storage, Tensor, check_size, n_elements};
use crate::{
    device::{
        Backend, Device,
        gpu::{Buffer, Part},
    },
    error::{Error, Result, check_argument},
};

/// The GPU memory of a tensor, for an application's own passes: [`Tensor::buffer`].
///
/// It keeps the memory from being used for anything else. Hold it until the application has
/// submitted the encoder that uses it; what the device does later runs after that.
#[derive(Clone, Debug)]
pub struct TensorBuffer {
    buffer: Buffer,
    size: u64,
}

impl TensorBuffer {
    /// The buffer. The numbers are its first [`TensorBuffer::size`] bytes; it may be longer. Its
    /// usage contains `STORAGE`, `COPY_SRC` and `COPY_DST`, unless it was the application's own.
    /// It must not be written, for tensors may share it, and a clone of it alone does not keep the
    /// memory: hold this value, and do not make another tensor of it.
    pub fn buffer(&self) -> &wgpu::Buffer {
        self.buffer.raw()
    }

    /// How many bytes the tensor takes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The numbers, to be bound. None if the tensor is empty.
    pub fn binding(&self) -> Option<wgpu::BindingResource<'_>> {
        let size = Some(wgpu::BufferSize::new(self.size)?);
        Some(wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer: self.buffer(), offset: 0, size }))
    }
}

impl<'a> From<&'a Tensor> for Part<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Self { buffer: tensor.gpu(), elements: 0..tensor.dtype.words(tensor.len()) }
    }
}

impl Tensor {
    /// The GPU memory that holds the numbers, for an application that goes on with them in its own
    /// passes. Copies nothing. Numbers of f16 are two in each word of 32 bits, the first in its lower half.
    ///
    /// The work that computes the numbers is submitted, or it is in a [`Recording`] or an encoder
    /// whose place the application chooses: what it encodes after that, or submits later, finds
    /// the numbers there.
    ///
    /// # Errors
    /// The CPU has no such buffer; [`Error::NotComputed`] if the numbers will never be there; the
    /// device refuses the work or was lost.
    ///
    /// [`Recording`]: crate::device::Recording
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor, device::GpuOptions, ops::add, wgpu};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// for adapter in Device::adapters() {
    ///     let device = Device::on_adapter(&adapter, &GpuOptions::default())?;
    ///     let x = Tensor::new(&device, &[3], &[1.0, 2.0, 3.0])?;
    ///     let buffer = add(&x, &x, 1.0)?.buffer()?;
    ///     assert_eq!(buffer.size(), 12);
    ///     // Into a bind group, or back in as a tensor.
    ///     assert!(matches!(buffer.binding(), Some(wgpu::BindingResource::Buffer(_))));
    ///     let again = Tensor::from_buffer(&device, &[3], buffer.buffer().clone())?;
    ///     assert_eq!(again.read()?, [2.0, 4.0, 6.0]);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn buffer(&self) -> Result<TensorBuffer> {
        let Storage::Gpu(gpu, buffer) = &self.storage else {
            return Err(Error::Unsupported {
                what: "Tensor::buffer",
                on: "the CPU device".into(),
                why: "the numbers are in memory of the host; use Tensor::read",
            });
        };
        gpu.submit_for(buffer)?;
        Ok(TensorBuffer { buffer: buffer.clone(), size: self.dtype.words(self.len()) as u64 * 4 })
    }

    /// Wraps a buffer of an application's own, of the same `wgpu::Device`, with usage `STORAGE`
    /// and `COPY_SRC`: without the latter it can neither be read back nor be the state that a
    /// recurrence begins with, which is copied. The crate only reads it, when the work that uses the
    /// tensor runs; the tensor may be shorter than the buffer.
    ///
    /// # Errors
    /// The CPU has no such buffers; the buffer is too short for the shape, of another device,
    /// whose error handler hears of it too, or mapped; or its usage lets it be mapped later, when
    /// the work runs.
    pub fn from_buffer(device: &Device, shape: &[usize], buffer: wgpu::Buffer) -> Result<Self> {
        let Backend::Gpu(gpu) = &device.0 else {
            return Err(Error::Unsupported {
                what: "Tensor::from_buffer",
                on: "the CPU device".into(),
                why: "the buffer belongs to a GPU; use Tensor::new",
            });
        };
        let available = (buffer.size() / 4) as usize;
        check_size(shape)?;
        let wanted = n_elements(shape);
        if wanted > available {
            return Err(Error::Length { shape: shape.to_vec(), expected: wanted, found: available });
        }
        let mapped = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::MAP_WRITE;
        let usage = buffer.usage();
        let is_allowed = usage.contains(wgpu::BufferUsages::STORAGE) && !usage.intersects(mapped);
        let allowed = "one that contains STORAGE, and neither MAP_READ nor MAP_WRITE";
        check_argument(is_allowed, "Tensor::from_buffer", "buffer usage", format_args!("{usage:?}"), allowed)?;
        gpu.check_buffer(&buffer)?;
        let buffer = Buffer::borrowed(buffer, wanted);
        Ok(Self::from_gpu(shape.to_vec(), gpu, buffer))
    }
}
