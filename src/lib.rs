//! Memory-efficient attention on any GPU, with a CPU twin for every kernel.
//!
//! Every attention here is a memory that is *written* with keys and values and *read* with
//! queries. A model that has read its observations is a value, the posterior: it can be asked
//! any number of times and never touches the observations again.
//!
//! ```
//! use wgpu_attention::{Device, models::tnp_kr::{Context, Locations, TnpKr}};
//!
//! # fn main() -> wgpu_attention::Result<()> {
//! let device = Device::best(); // a GPU where there is one, else the CPU
//! let model = TnpKr::open(&device, "checkpoints/gp_1d.safetensors")?;
//!
//! // Three observations in one dimension, two predictions.
//! let context = Context::new(Locations::space(1, &[-1.0, 0.0, 1.0]), &[0.3, -0.1, 0.5]);
//! let posterior = model.condition(&context)?;
//! let prediction = posterior.predict(&Locations::space(1, &[-0.5, 0.5]))?;
//! println!("{device}: {:?} ± {:?}", prediction.mean, prediction.std);
//! # Ok(())
//! # }
//! ```
//!
//! # What is where
//!
//! | | |
//! |---|---|
//! | [`ops`] | the kernels: [`scan_attention`](ops::scan_attention()), its exact [merge](ops::merge_attention()), [`LinearAttention`](ops::LinearAttention) with its [features](ops::feature_map()), [`RollingAttention`](ops::RollingAttention) over endless streams, the [attention memory](ops::attention_memory()) that is written, erased and read, recurrences, tapes, dense layers, normalisation |
//! | [`models`] | the papers' networks, written once over the kernels |
//! | [`checkpoint`] | trained parameters from safetensors files |
//! | [`Device`], [`Tensor`] | where things run and live |
//! | `shaders` | the WGSL as text, with the feature `gpu` |
//!
//! The feature `gpu`, on by default, brings `wgpu`; without it the same code runs on the CPU.
#![deny(missing_docs)]

pub mod checkpoint;
pub mod device;
pub mod error;
pub mod models;
pub mod ops;
#[cfg(feature = "gpu")]
pub mod shaders;
mod simd;
pub mod tensor;

pub use device::Device;
pub use error::{Error, Result};
pub use tensor::{Mask, Tensor};

/// Configurations are JSON, see [`checkpoint`].
pub use serde_json;
#[cfg(feature = "gpu")]
pub use wgpu;
