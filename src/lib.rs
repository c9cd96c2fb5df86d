//! Memory-efficient attention on any GPU, with a CPU twin for every kernel.
//!
//! # The idea
//!
//! Every attention here is a memory that is *written* with keys and values and *read* with queries.
//! Four of them differ in what they keep ([`ops`] has them side by side): the keys themselves, a sum
//! over their features, the softmax of fixed queries, or a matrix that is erased, too. What was
//! written is a value, the state, which goes on, merges with another, and is plain data.
//!
//! So is a model that has read its observations, the posterior: it can be asked any number of
//! times and never touches the observations again.
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
//! println!("{device}: {:?} ± {:?}", prediction.mean(), prediction.std());
//! # Ok(())
//! # }
//! ```
//!
//! # What is where
//!
//! | | |
//! |---|---|
//! | [`ops`] | the kernels: the memories [`ScanMemory`](ops::ScanMemory), [`LinearAttention`](ops::LinearAttention), [`RollingAttention`](ops::RollingAttention) and [`AttentionMemory`](ops::AttentionMemory), [`scan_attention`](ops::scan_attention()) at once, its exact [merge](ops::merge_attention()), biases from coordinates and [of your own](ops::CustomBias), recurrences, tapes, dense layers, normalisation |
//! | [`models`] | the papers' networks, written once over the kernels: [`TnpKr`](models::tnp_kr::TnpKr), [`Cmanp`](models::cmanp::Cmanp), and [those of neural attention memory](models::nam) |
//! | [`checkpoint`] | trained parameters from safetensors files: what a file must hold, and how names are mended |
//! | [`Device`], [`Tensor`], [`Mask`], [`DType`] | where things run and live |
//! | [`device`] | [recordings](Device::record) that an application submits or encodes, what a device [allows](device::Capabilities), and which variant of an operation runs, with the [reason](device::Decision) |
//! | [`error`] | the one error type: what was asked, and what is allowed |
//! | `shaders` | with the feature `gpu`: the WGSL as text, and the limits that each kernel needs |
//!
//! The feature `gpu`, on by default, brings `wgpu`; without it the same code runs on the CPU.
//!
//! # Numbers
//!
//! f32 in, f32 out; the same input gives the same bits on the same device. Some operands may be stored
//! in half the memory, see [`DType`]. What cannot be done is an
//! [`Error`] that says what was asked and what is allowed.
#![deny(missing_docs)]
#![cfg_attr(
    all(target_arch = "wasm32", feature = "gpu"),
    expect(clippy::arc_with_non_send_sync, reason = "in a browser what wgpu holds stays on its thread")
)]

pub mod checkpoint;
pub mod device;
pub mod error;
mod host;
pub mod models;
pub mod ops;
mod parallel;
#[cfg(feature = "gpu")]
pub mod shaders;
mod simd;
pub mod tensor;
mod wide;

pub use device::Device;
pub use error::{Error, Result};
pub use tensor::{DType, Mask, Tensor};

/// The type of [`Tensor::from_f16`].
pub use half::f16;

/// Configurations are JSON, see [`checkpoint`].
pub use serde_json;
#[cfg(feature = "gpu")]
pub use wgpu;

/// The snippets of the pages compile and run with the tests.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    struct Readme;

    #[cfg(feature = "gpu")]
    #[doc = include_str!("../docs/gpu.md")]
    struct Gpu;
}
