//! A shape and the numbers of it, on a device.

#[cfg(feature = "gpu")]
mod buffer;
mod convert;
mod dtype;
mod mask;
#[cfg(feature = "ndarray")]
mod ndarray;
mod slices;

use std::sync::Arc;

#[cfg(feature = "gpu")]
use crate::device::gpu::{Buffer, Gpu};
use crate::{
    device::{Backend, Cpu, Device},
    error::{Error, Result},
    host,
};
#[cfg(feature = "gpu")]
pub use buffer::TensorBuffer;
#[cfg(feature = "gpu")]
pub(crate) use convert::shaders;
pub use dtype::DType;
pub(crate) use dtype::{Numbers, check_f16};
pub use mask::Mask;

/// Row-major numbers on a device, f32 or, where [some operands](DType) may be, f16. Cloning is cheap
/// and shares them: no operation changes a tensor that exists.
///
/// ```
/// use wgpu_attention::{Device, Tensor};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let x = Tensor::new(&Device::best(), &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?;
/// assert_eq!((x.shape(), x.len()), (&[2, 3][..], 6));
/// assert_eq!(x.reshape(&[6])?.read()?, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]); // back on the host
/// let on_cpu = x.to(&Device::cpu())?;
/// assert_eq!((on_cpu.device(), on_cpu.read()?), (Device::cpu(), x.read()?));
/// assert_eq!(Tensor::zeros(&Device::cpu(), &[2])?.read()?, [0.0, 0.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tensor {
    shape: Vec<usize>,
    dtype: DType,
    storage: Storage,
}

/// Where the numbers are.
#[derive(Clone)]
pub(crate) enum Storage {
    Cpu(Cpu, Numbers),
    /// Of f16 there are two in each number of the buffer, the first in its lower half.
    #[cfg(feature = "gpu")]
    Gpu(Arc<Gpu>, Buffer),
}

impl Tensor {
    /// Copies `data` to the device. A shape may contain zeros.
    ///
    /// # Errors
    /// `data` does not hold as many numbers as the shape says; the device has no room.
    pub fn new(device: &Device, shape: &[usize], data: &[f32]) -> Result<Self> {
        check_length(shape, data.len())?;
        let storage = match &device.0 {
            Backend::Cpu(cpu) => Storage::Cpu(*cpu, Numbers::F32(Arc::new(host::copy(data)?.into()))),
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => Storage::Gpu(gpu.clone(), gpu.upload(data)?),
        };
        Ok(Self { shape: shape.to_vec(), dtype: DType::F32, storage })
    }

    /// Zeros.
    ///
    /// # Errors
    /// The device has no room.
    pub fn zeros(device: &Device, shape: &[usize]) -> Result<Self> {
        check_size(shape)?;
        match &device.0 {
            Backend::Cpu(cpu) => Ok(Self::from_cpu(*cpu, shape.to_vec(), host::zeros(shape)?)),
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => {
                let n = n_elements(shape);
                let buffer = gpu.allocate(n)?;
                gpu.zero(&buffer, 0, n)?;
                Ok(Self::from_gpu(shape.to_vec(), gpu, buffer))
            }
        }
    }

    /// The same f32 numbers, bit for bit, in memory of its own.
    #[cfg(feature = "gpu")]
    pub(crate) fn duplicate(&self) -> Result<Self> {
        match &self.storage {
            Storage::Cpu(cpu, _) => Ok(Self::from_cpu(*cpu, self.shape.clone(), host::copy(self.cpu())?)),
            Storage::Gpu(gpu, buffer) => {
                let copy = gpu.allocate(self.len())?;
                gpu.copy(buffer, 0, &copy, 0, self.len())?;
                Ok(Self::from_gpu(self.shape.clone(), gpu, copy))
            }
        }
    }

    /// A tensor of this shape that an operation may write over: a copy of `from`, or zeros.
    #[cfg(feature = "gpu")]
    pub(crate) fn own(from: Option<&Self>, shape: &[usize], device: &Device) -> Result<Self> {
        match from {
            Some(from) => from.reshape(shape)?.duplicate(),
            None => Self::zeros(device, shape),
        }
    }

    /// Wraps numbers that an operation computed on the CPU.
    pub(crate) fn from_cpu(cpu: Cpu, shape: Vec<usize>, data: Vec<f32>) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), data.len());
        Self { shape, dtype: DType::F32, storage: Storage::Cpu(cpu, Numbers::F32(Arc::new(data.into()))) }
    }

    /// Wraps a buffer that an operation writes on the GPU.
    #[cfg(feature = "gpu")]
    pub(crate) fn from_gpu(shape: Vec<usize>, gpu: &Arc<Gpu>, buffer: Buffer) -> Self {
        Self { shape, dtype: DType::F32, storage: Storage::Gpu(gpu.clone(), buffer) }
    }

    /// The size of each dimension, slowest first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        n_elements(&self.shape)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The device that holds the numbers.
    pub fn device(&self) -> Device {
        match &self.storage {
            Storage::Cpu(cpu, _) => Device(Backend::Cpu(*cpu)),
            #[cfg(feature = "gpu")]
            Storage::Gpu(gpu, _) => Device(Backend::Gpu(gpu.clone())),
        }
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The numbers of a tensor that is known to be on the CPU, and of f32.
    pub(crate) fn cpu(&self) -> &[f32] {
        match self.numbers() {
            Numbers::F32(data) => data,
            Numbers::F16(_) => unreachable!("operations check the types of their inputs"), // infallible
        }
    }

    /// The numbers of a tensor that is known to be on the CPU.
    pub(crate) fn numbers(&self) -> &Numbers {
        match &self.storage {
            Storage::Cpu(_, numbers) => numbers,
            #[cfg(feature = "gpu")]
            Storage::Gpu(..) => unreachable!("operations check that their inputs share a device"), // infallible
        }
    }

    /// The buffer of a tensor that is known to be on a GPU.
    #[cfg(feature = "gpu")]
    pub(crate) fn gpu(&self) -> &Buffer {
        match &self.storage {
            Storage::Gpu(_, buffer) => buffer,
            Storage::Cpu(..) => unreachable!("operations check that their inputs share a device"), // infallible
        }
    }

    /// The same numbers under another shape of as many elements. Copies nothing.
    ///
    /// # Errors
    /// The shape has more or fewer elements.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        check_length(shape, self.len())?;
        Ok(Self { shape: shape.to_vec(), dtype: self.dtype, storage: self.storage.clone() })
    }

    /// Copies the numbers to the host as f32, waiting for the device.
    ///
    /// # Errors
    /// [`Error::NotComputed`] if the work that computes them was recorded or encoded and not
    /// submitted; the buffer is the application's and cannot be copied from; there is no room; the
    /// device refuses the work or was lost.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read(&self) -> Result<Vec<f32>> {
        match &self.storage {
            Storage::Cpu(_, numbers) => numbers.to_f32(),
            #[cfg(feature = "gpu")]
            Storage::Gpu(gpu, buffer) => {
                let words = gpu.download(buffer, self.dtype.words(self.len()))?.wait()?;
                self.dtype.numbers_of(words, self.len())
            }
        }
    }

    /// [`Tensor::read`] without blocking; needs no particular runtime.
    ///
    /// # Errors
    /// As [`Tensor::read`].
    ///
    /// ```
    /// use wgpu_attention::{Device, Tensor};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let x = Tensor::new(&Device::best(), &[2], &[1.0, 2.0])?;
    /// let numbers = pollster::block_on(x.read_async()); // or whatever the application waits with
    /// assert_eq!(numbers?, [1.0, 2.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn read_async(&self) -> Result<Vec<f32>> {
        self.start_read()?.finish().await
    }

    /// Starts to copy the numbers to the host.
    pub(crate) fn start_read(&self) -> Result<PendingRead> {
        match &self.storage {
            Storage::Cpu(_, numbers) => Ok(PendingRead::Cpu(numbers.clone())),
            #[cfg(feature = "gpu")]
            Storage::Gpu(gpu, buffer) => {
                let download = gpu.download(buffer, self.dtype.words(self.len()))?;
                Ok(PendingRead::Gpu(download, self.dtype, self.len()))
            }
        }
    }

    /// Copies to another device, waiting for this one. Returns a shared clone if it is
    /// there already.
    ///
    /// # Errors
    /// As [`Tensor::read`] and [`Tensor::new`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn to(&self, device: &Device) -> Result<Self> {
        if self.device() == *device {
            return Ok(self.clone());
        }
        Self::of_type(device, self.dtype, &self.shape, &self.read()?)
    }

    /// [`Tensor::to`] without blocking.
    ///
    /// # Errors
    /// As [`Tensor::to`].
    pub async fn to_async(&self, device: &Device) -> Result<Self> {
        if self.device() == *device {
            return Ok(self.clone());
        }
        Self::of_type(device, self.dtype, &self.shape, &self.read_async().await?)
    }
}

/// A copy to the host that is under way.
pub(crate) enum PendingRead {
    Cpu(Numbers),
    /// So many numbers of a type.
    #[cfg(feature = "gpu")]
    Gpu(crate::device::gpu::Download, DType, usize),
}

impl PendingRead {
    pub(crate) async fn finish(self) -> Result<Vec<f32>> {
        match self {
            Self::Cpu(Numbers::F32(data)) => match Arc::try_unwrap(data) {
                Ok(own) => own.into_vec(),
                Err(shared) => host::copy(&shared),
            },
            Self::Cpu(numbers) => numbers.to_f32(),
            #[cfg(feature = "gpu")]
            Self::Gpu(download, dtype, len) => dtype.numbers_of(download.arrive().await?, len),
        }
    }
}

/// The product of a shape; one that overflows is more than any memory holds.
pub(crate) fn n_elements(shape: &[usize]) -> usize {
    if shape.contains(&0) {
        return 0;
    }
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).unwrap_or(usize::MAX)
}

/// Refuses a shape that no memory holds, or would hold if its empty dimensions were not: so the
/// product of any of its sizes is one that can be counted.
pub(crate) fn check_size(shape: &[usize]) -> Result<()> {
    let sizes = shape.iter().filter(|&&size| size > 0);
    host::count(&sizes.copied().collect::<Vec<_>>()).map(drop)
}

/// Refuses numbers that do not fill a shape.
pub(crate) fn check_length(shape: &[usize], found: usize) -> Result<()> {
    check_size(shape)?;
    let expected = n_elements(shape);
    if expected == found { Ok(()) } else { Err(Error::Length { shape: shape.to_vec(), expected, found }) }
}

/// Refuses the first number that is NaN or infinite.
pub(crate) fn check_finite(name: &str, values: &[f32]) -> Result<()> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(Error::NonFinite { name: name.to_owned(), index, value: values[index] }),
    }
}

/// Refuses operands that are not all on the device of the first, and operands of f16 but those that may be.
pub(crate) fn check_operands(
    op: &'static str,
    operands: &[(&'static str, Option<&Tensor>)],
    may_be_f16: &[&'static str],
) -> Result<()> {
    let mut first = None;
    for &(name, tensor) in operands {
        let Some(tensor) = tensor else { continue };
        let (left, right) = (first.get_or_insert_with(|| tensor.device()), tensor.device());
        if *left != right {
            return Err(Error::DeviceMismatch { op, left: left.identity(), right: right.identity() });
        }
        if tensor.dtype == DType::F16 && !may_be_f16.contains(&name) {
            let but = match may_be_f16 {
                [] => String::new(),
                names => format!("; {} may be of f16", names.join(" and ")),
            };
            return Err(Error::argument(op, name, "of f16", format!("f32, which Tensor::to_f32 makes of it{but}")));
        }
    }
    Ok(())
}

#[cfg(all(test, feature = "gpu"))]
mod tests {
    use super::*;

    #[test]
    fn copies_are_bit_for_bit_and_in_order() {
        let numbers = [-0.0, f32::from_bits(0x7fc1_2345), f32::from_bits(0xff80_0001), f32::MIN_POSITIVE / 2.0];
        let bits = |t: &Tensor| t.read().unwrap().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let mut devices = vec![Device::cpu()];
        devices.extend(
            Device::adapters()
                .iter()
                .map(|adapter| Device::on_adapter(adapter, &crate::device::GpuOptions::default()).unwrap()),
        );
        for device in devices {
            let x = Tensor::new(&device, &[4], &numbers).unwrap();
            let own = Tensor::own(Some(&x), &[2, 2], &device).unwrap();
            assert_eq!((own.shape(), bits(&own)), (&[2, 2][..], bits(&x)), "{device}");
            // Of what a dispatch writes just before, and that one writes over just after.
            let ((copy, again), recording) = device
                .record(|| {
                    let doubled = crate::ops::add(&x, &x, 1.0)?;
                    let copy = doubled.duplicate()?;
                    drop(doubled);
                    Ok((copy, crate::ops::add(&x, &x, 2.0)?))
                })
                .unwrap();
            recording.submit().unwrap();
            assert_eq!(copy.read().unwrap()[3], numbers[3] * 2.0, "{device}");
            assert_eq!(again.read().unwrap()[3], numbers[3] * 3.0, "{device}");
            let empty = Tensor::new(&device, &[0, 4], &[]).unwrap();
            assert_eq!(Tensor::own(Some(&empty), &[4, 0], &device).unwrap().shape(), [4, 0], "{device}");
            assert_eq!(Tensor::own(None, &[3], &device).unwrap().read().unwrap(), [0.0; 3], "{device}");
        }
    }

    #[test]
    fn copies_within_their_buffers() {
        for adapter in Device::adapters() {
            let device = Device::on_adapter(&adapter, &crate::device::GpuOptions::default()).unwrap();
            let (from, to) = (Tensor::new(&device, &[8], &[1.5; 8]).unwrap(), Tensor::zeros(&device, &[8]).unwrap());
            let Storage::Gpu(gpu, _) = from.storage() else { unreachable!() };
            gpu.copy(from.gpu(), 1, to.gpu(), 3, 2).unwrap();
            gpu.zero(to.gpu(), 4, 1).unwrap();
            assert_eq!(to.read().unwrap(), [0.0, 0.0, 0.0, 1.5, 0.0, 0.0, 0.0, 0.0]);
            assert!(gpu.copy(from.gpu(), 7, to.gpu(), 0, 2).is_err());
            assert!(gpu.copy(from.gpu(), 0, to.gpu(), 7, 2).is_err());
            assert!(gpu.zero(to.gpu(), 0, 9).is_err());
            assert_eq!(to.read().unwrap()[3], 1.5);
        }
    }
}
