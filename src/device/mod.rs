//! Where tensors live and operations run: the CPU, or a GPU through `wgpu`.

mod capabilities;
mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
mod maker;
mod memory;
mod open;
mod recording;
pub(crate) mod variants;

use std::fmt;
#[cfg(feature = "gpu")]
use std::sync::Arc;

use crate::error::{Error, Result};
pub(crate) use capabilities::Work;
pub use capabilities::{AdapterKind, Capabilities, Decision};
pub(crate) use cpu::Cpu;
#[cfg(feature = "gpu")]
pub use gpu::{Adapter, GpuOptions, Tuned};
pub(crate) use maker::Maker;
pub use memory::Memory;
pub use recording::Recording;
#[cfg(feature = "gpu")]
pub use variants::variants;

/// A place to compute. Cheap to clone; clones are the same device.
///
/// On a GPU, operations are recorded and run together when a result is read, when there are
/// enough of them, or at [`Device::submit`]. [`Device::record`] makes a value of those of a closure
/// instead. Threads share a device; what they record runs in the order in which it came.
///
/// In a browser nothing blocks: what waits for the device has its `.._async` form alone there, and the
/// browser says what it refuses after the call. That is an error of the next wait, of a
/// [`Tensor::read_async`](crate::Tensor::read_async) say. Models read observations without waiting.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::relu};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best(); // a hardware GPU, or else the CPU
/// let y = relu(&Tensor::new(&device, &[2], &[-1.0, 2.0])?)?;
/// println!("{device}: {:?}", y.read()?);
/// assert_eq!((y.device(), y.read()?), (device, vec![0.0, 2.0]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Device(pub(crate) Backend);

#[derive(Clone, Debug)]
pub(crate) enum Backend {
    Cpu(Cpu),
    #[cfg(feature = "gpu")]
    Gpu(Arc<gpu::Gpu>),
}

impl Device {
    /// The most bytes that one operand may have where it must be bound whole.
    pub(crate) fn max_binding(&self) -> usize {
        match &self.0 {
            Backend::Cpu(_) => usize::MAX,
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => gpu.capabilities().max_binding.try_into().unwrap_or(usize::MAX),
        }
    }

    /// What the device is and allows: all that decides how an operation runs.
    pub fn capabilities(&self) -> Capabilities {
        match &self.0 {
            Backend::Cpu(_) => Capabilities::cpu(),
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => gpu.capabilities().clone(),
        }
    }

    /// How many rows of a layer of some ten to some hundred numbers keep the device busy. More at a time
    /// take more memory and no less time.
    pub(crate) fn busy_rows(&self) -> usize {
        match &self.0 {
            Backend::Cpu(_) => 4096,
            #[cfg(feature = "gpu")]
            Backend::Gpu(_) => 16_384,
        }
    }

    /// A hardware GPU if there is one that opens, else the CPU. Print the device to see
    /// which it is.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn best() -> Self {
        pollster::block_on(Self::best_async())
    }

    /// [`Device::best`] without blocking.
    pub async fn best_async() -> Self {
        #[cfg(feature = "gpu")]
        if let Some(adapter) = Self::adapters_async().await.into_iter().find(|adapter| adapter.kind.is_hardware())
            && let Ok(device) = Self::on_adapter_async(&adapter, &GpuOptions::default()).await
        {
            return device;
        }
        Self::cpu()
    }

    /// A device by name, as a command line gives it: `cpu`, `gpu`, `best`, or a part of an
    /// adapter's name or backend, in any case.
    ///
    /// # Errors
    /// The name is empty, no adapter has such a name, or it gives no device.
    ///
    /// ```
    /// use wgpu_attention::{Device, Error};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// assert_eq!(Device::by_name("cpu")?, Device::cpu());
    /// assert!(matches!(Device::by_name("no such adapter"), Err(Error::NoAdapter { .. })));
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(not(target_arch = "wasm32"))]
    pub fn by_name(name: &str) -> Result<Self> {
        pollster::block_on(Self::by_name_async(name))
    }

    /// [`Device::by_name`] without blocking.
    ///
    /// # Errors
    /// As [`Device::by_name`].
    pub async fn by_name_async(name: &str) -> Result<Self> {
        match name.trim().to_lowercase().as_str() {
            "cpu" => Ok(Self::cpu()),
            "best" => Ok(Self::best_async().await),
            // Part of every name.
            "" => Err(Error::argument(
                "Device::by_name",
                "name",
                "empty",
                "cpu, gpu, best, or a part of an adapter's name",
            )),
            #[cfg(feature = "gpu")]
            "gpu" => Self::gpu_async().await,
            #[cfg(feature = "gpu")]
            part => {
                let adapters = Self::adapters_async().await;
                match adapters.iter().find(|adapter| adapter.to_string().to_lowercase().contains(part)) {
                    Some(adapter) => Self::on_adapter_async(adapter, &GpuOptions::default()).await,
                    None => Err(Error::NoAdapter {
                        wanted: format!("adapter whose name contains {name:?}"),
                        present: adapters.iter().map(ToString::to_string).collect(),
                    }),
                }
            }
            #[cfg(not(feature = "gpu"))]
            _ => Err(Error::NoAdapter {
                wanted: format!("adapter named {name:?} (this build lacks the feature \"gpu\")"),
                present: Vec::new(),
            }),
        }
    }

    /// Memory taken on this device. The CPU does not count its own: all zeros.
    pub fn memory(&self) -> Memory {
        match &self.0 {
            Backend::Cpu(_) => Memory::default(),
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => gpu.memory(),
        }
    }

    /// Gives the memory that is kept for reuse back to the driver, and the compiled pipelines of custom
    /// biases. (A device keeps the last 256 pipelines that were used, 16 of them with a
    /// [`CustomBias`](crate::ops::CustomBias).)
    pub fn trim(&self) {
        match &self.0 {
            Backend::Cpu(_) => {}
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => gpu.trim(),
        }
    }

    /// Starts the work recorded so far, without waiting for it. Nothing to do on the CPU.
    ///
    /// # Errors
    /// The device refuses the commands or was lost.
    pub fn submit(&self) -> Result<()> {
        match &self.0 {
            Backend::Cpu(_) => Ok(()),
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => gpu.submit(),
        }
    }

    /// Starts the work recorded so far and waits until all of it is done.
    ///
    /// # Errors
    /// The device refuses the commands or was lost.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn wait(&self) -> Result<()> {
        match &self.0 {
            Backend::Cpu(_) => Ok(()),
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => gpu.wait(),
        }
    }

    /// [`Device::wait`] without blocking; needs no particular runtime.
    ///
    /// # Errors
    /// As [`Device::wait`].
    pub async fn wait_async(&self) -> Result<()> {
        match &self.0 {
            Backend::Cpu(_) => Ok(()),
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => gpu.wait_async().await,
        }
    }

    /// The device as it is told apart from others of its name.
    pub(crate) fn identity(&self) -> String {
        match &self.0 {
            Backend::Cpu(_) => self.to_string(),
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => gpu.identity(),
        }
    }
}

#[cfg(feature = "gpu")]
impl Device {
    /// The limits that a GPU device was opened with; `None` on the CPU.
    pub fn limits(&self) -> Option<&wgpu::Limits> {
        match &self.0 {
            Backend::Cpu(_) => None,
            Backend::Gpu(gpu) => Some(gpu.limits()),
        }
    }

    /// The shaders compiled so far, each with the hash (`DefaultHasher`) of its text: for the test
    /// that holds them to be published.
    #[doc(hidden)]
    pub fn compiled(&self) -> Vec<(String, u64)> {
        match &self.0 {
            Backend::Cpu(_) => Vec::new(),
            Backend::Gpu(gpu) => gpu.compiled(),
        }
    }

    /// Writes the pipelines compiled so far to the folder of the options
    /// ([`GpuOptions::pipeline_folder`]), so that the next start compiles nothing. Happens by
    /// itself when the last clone of the device and its tensors is dropped.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_pipelines(&self) -> Result<()> {
        match &self.0 {
            Backend::Cpu(_) => Ok(()),
            Backend::Gpu(gpu) => gpu.save_pipelines(),
        }
    }

    /// Moves everything recorded so far and not submitted yet into an encoder of the application's
    /// own, in compute passes, instead of submitting it. The application submits the encoder, to
    /// the queue of this device, before it reads a tensor computed by it or asks this device for
    /// more work that uses one: until then that is [`Error::NotComputed`].
    ///
    /// What moves is what the *device* has recorded, from any thread, except inside
    /// [`Device::record`]. A long recording is submitted in parts as it grows (a part is about a
    /// tenth of a second of work), and so is one that a read comes into: those parts run before the
    /// encoder. Where that matters, or other threads use the device meanwhile, take
    /// [`Device::record`] and [`Recording::encode_into`], which move what one closure recorded and
    /// nothing else. Here an operation that another thread has begun may be refused as
    /// [`Error::NotComputed`], for its memory may be what the encoder writes.
    ///
    /// # Errors
    /// The CPU device has nothing to encode; a GPU device refuses a buffer.
    pub fn encode_into(&self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        match &self.0 {
            Backend::Cpu(_) => Err(Error::Unsupported {
                what: "Device::encode_into",
                on: "the CPU device".into(),
                why: "operations there run at once and leave nothing to encode",
            }),
            Backend::Gpu(gpu) => gpu.encode_into(encoder),
        }
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Backend::Cpu(a), Backend::Cpu(b)) => a == b,
            #[cfg(feature = "gpu")]
            (Backend::Gpu(a), Backend::Gpu(b)) => Arc::ptr_eq(a, b),
            #[cfg(feature = "gpu")]
            _ => false,
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Backend::Cpu(cpu) => write!(f, "{cpu}"),
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => write!(f, "{gpu}"),
        }
    }
}
