//! How devices are opened.

#[cfg(feature = "gpu")]
use std::sync::Arc;

#[cfg(feature = "gpu")]
use super::gpu::{self, Adapter, GpuOptions};
use super::{Backend, Device, cpu::Cpu};
#[cfg(feature = "gpu")]
use crate::error::Error;
use crate::error::Result;

impl Device {
    /// The CPU, on all its cores, with the best instructions that it has. Needs no GPU and no driver.
    pub fn cpu() -> Self {
        Self(Backend::Cpu(Cpu::best()))
    }

    /// The CPU with one of [`Device::cpu_instructions`]: to see on one machine the results of
    /// another, whose sums are rounded otherwise. A device of its own, unless these are the
    /// instructions of [`Device::cpu`].
    ///
    /// # Errors
    /// [`crate::Error::Argument`] if this machine does not have them; it names those that it has.
    ///
    /// ```
    /// use wgpu_attention::Device;
    /// let all = Device::cpu_instructions(); // for example ["avx2", "sse4.2", "sse2"]
    /// assert_eq!(Device::cpu_with(all[0]).unwrap(), Device::cpu());
    /// assert!(Device::cpu_with("mmx").unwrap_err().to_string().contains(all[0]));
    /// ```
    pub fn cpu_with(instructions: &str) -> Result<Self> {
        Cpu::named(instructions).map(|cpu| Self(Backend::Cpu(cpu)))
    }

    /// The instruction sets of this machine that operations are compiled for, the best first:
    /// some of `avx512`, `avx2`, `sse4.2`, `sse2`, or one of `neon`, `simd128`, `scalar`.
    pub fn cpu_instructions() -> Vec<&'static str> {
        Cpu::all().into_iter().map(Cpu::name).collect()
    }
}

#[cfg(feature = "gpu")]
impl Device {
    /// The adapters of this machine, best first: discrete, integrated, virtual, software.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn adapters() -> Vec<Adapter> {
        pollster::block_on(Self::adapters_async())
    }

    /// [`Device::adapters`] without blocking.
    pub async fn adapters_async() -> Vec<Adapter> {
        gpu::adapters().await
    }

    /// The best adapter there is, a software one if there is no other.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if there is none, [`Error::DeviceRequest`] if it gives no device.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn gpu() -> Result<Self> {
        pollster::block_on(Self::gpu_async())
    }

    /// [`Device::gpu`] without blocking.
    ///
    /// # Errors
    /// As [`Device::gpu`].
    pub async fn gpu_async() -> Result<Self> {
        Self::gpu_with_async(&GpuOptions::default()).await
    }

    /// [`Device::gpu`] with options.
    ///
    /// # Errors
    /// As [`Device::gpu`] and [`Device::on_adapter`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn gpu_with(options: &GpuOptions) -> Result<Self> {
        pollster::block_on(Self::gpu_with_async(options))
    }

    /// [`Device::gpu_with`] without blocking.
    ///
    /// # Errors
    /// As [`Device::gpu_with`].
    pub async fn gpu_with_async(options: &GpuOptions) -> Result<Self> {
        match Self::adapters_async().await.first() {
            Some(adapter) => Self::on_adapter_async(adapter, options).await,
            None => Err(Error::NoAdapter { wanted: "GPU adapter".into(), present: Vec::new() }),
        }
    }

    /// A given adapter of [`Device::adapters`].
    ///
    /// # Errors
    /// [`Error::DeviceRequest`] if it gives no device; [`Error::Argument`] for a variant that does not exist, or what was
    /// tuned on another adapter; [`Error::LimitExceeded`] where buffers need a wider alignment than the kernels know.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn on_adapter(adapter: &Adapter, options: &GpuOptions) -> Result<Self> {
        pollster::block_on(Self::on_adapter_async(adapter, options))
    }

    /// [`Device::on_adapter`] without blocking.
    ///
    /// # Errors
    /// As [`Device::on_adapter`].
    pub async fn on_adapter_async(adapter: &Adapter, options: &GpuOptions) -> Result<Self> {
        Ok(Self(Backend::Gpu(Arc::new(gpu::Gpu::open(adapter, options).await?))))
    }

    /// A device that the application already has. Its error handlers stay as they are; its
    /// limits are read and respected. Asked again for the same `wgpu::Device`, it returns the same
    /// device, for any thread: their tensors go together. `queue` must be the one of `device`, and a
    /// callback that `wgpu` calls within a submit must not ask this device for anything. Storage
    /// buffers must be bindable at multiples of 256 bytes, as WebGPU's default limits say.
    ///
    /// ```no_run
    /// use wgpu_attention::{Device, Tensor, ops::relu, wgpu};
    ///
    /// fn apply(device: &wgpu::Device, queue: &wgpu::Queue) -> wgpu_attention::Result<()> {
    ///     let shared = Device::from_wgpu(device.clone(), queue.clone());
    ///     let x = Tensor::new(&shared, &[2], &[-1.0, 2.0])?;
    ///     let (y, recording) = shared.record(|| relu(&x))?;
    ///     let mut encoder = device.create_command_encoder(&Default::default());
    ///     recording.encode_into(&mut encoder)?;
    ///     // Passes of the application, on `y.buffer()?`.
    ///     queue.submit([encoder.finish()]);
    ///     assert_eq!(y.read()?, [0.0, 2.0]);
    ///     Ok(())
    /// }
    /// ```
    pub fn from_wgpu(device: wgpu::Device, queue: wgpu::Queue) -> Self {
        Self(Backend::Gpu(gpu::Gpu::shared(device, queue)))
    }
}
