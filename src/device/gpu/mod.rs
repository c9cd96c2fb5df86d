//! A GPU through `wgpu`; nothing above this folder touches that. What does not know the open
//! device (buffers, commands, pipelines, promises) lies below `open.rs`, what is done with one
//! (memory, recording, launches, readback) above it.

mod adapter;
mod buffer;
mod commands;
mod compile;
mod dispatch;
mod launch;
mod lock;
mod memory;
mod open;
mod own;
mod pipeline;
mod promise;
mod readback;
mod recording;
mod refusals;
mod scope;
mod shader;
mod share;
mod shared;
#[cfg(not(target_arch = "wasm32"))]
mod timing;
mod tuned;
mod waiting;

pub(crate) use crate::device::Work;
pub(crate) use adapter::adapters;
pub use adapter::{Adapter, GpuOptions};
pub(crate) use buffer::Buffer;
pub(crate) use launch::Part;
pub(crate) use open::Gpu;
pub(crate) use readback::Download;
pub(crate) use scope::Recorded;
pub(crate) use shader::{Field, Kernel, Params, params};
pub use shader::{Needs, Shader};
pub use tuned::Tuned;
