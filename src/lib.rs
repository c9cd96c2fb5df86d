//! Memory-efficient attention on any GPU, with a CPU twin for every kernel.
pub mod checkpoint;
pub mod device;
pub mod error;
pub mod models;
pub mod ops;
#[cfg(feature = "gpu")]
pub mod shaders;
pub mod tensor;

pub use device::Device;
pub use error::{Error, Result};
pub use tensor::{Mask, Tensor};

#[cfg(feature = "gpu")]
pub use wgpu;
