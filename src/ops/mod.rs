//! The operations: each has a WGSL kernel, a CPU twin and one contract.
//!
//! Four of them are memories, which are written with keys and values and read with queries. They
//! differ in what they keep, and are used alike:
//!
//! | memory | its state keeps | begins and goes on | reads | two states |
//! |---|---|---|---|---|
//! | [`ScanMemory`] | keys and values | `write(state, k, v, mask)` | `read(q, state)` | merge |
//! | [`LinearAttention`] | `sum phi(k) v^T` | `write(state, k, v, mask)` | `read(q, state)` | merge |
//! | [`RollingAttention`] | the softmax of its own queries | `write(state, k, v, mask)` | `read(state)` | merge |
//! | [`AttentionMemory`] | a matrix that is erased, too | `write(state, k, v, mask)` | `read(q, state)` | merge, if nothing was erased or decayed |
//!
//! A write takes no state or a state, which it leaves as it is, and returns a state; a [`Read`] has
//! values and, where there is a softmax, its log-sum-exp; a [`Layout`] says how heads lie in the
//! tensors. [`scan_attention()`] attends at once, [`attention_memory()`] writes and reads at every
//! step of a sequence.
//!
//! ```
//! use wgpu_attention::{Device, Tensor, ops::{Layout, Read, ScanMemory}};
//!
//! # fn main() -> wgpu_attention::Result<()> {
//! let device = Device::cpu();
//! let tensor = |n: usize| Tensor::new(&device, &[1, n, 8], &vec![0.1; n * 8]);
//! let memory = ScanMemory::new(Layout::Projected { n_heads: 2 });
//! let state = memory.write(None, &tensor(5)?, &tensor(5)?, None)?;
//! let state = memory.write(Some(&state), &tensor(3)?, &tensor(3)?, None)?;
//! let state = state.merge(&memory.write(None, &tensor(4)?, &tensor(4)?, None)?)?;
//! let Read { values, log_sum_exp } = memory.read(&tensor(2)?, &state)?;
//! assert_eq!(values.shape(), [1, 2, 8]);
//! # Ok(())
//! # }
//! ```

pub mod attention_memory;
pub mod elementwise;
pub mod feature_map;
pub mod layer_norm;
mod layout;
pub mod linear;
pub mod linear_attention;
pub mod lsam;
pub mod lstm;
pub mod merge_attention;
pub mod rolling_attention;
pub mod scan_attention;
pub mod softmax;
pub mod tape;
pub mod unit_norm;

pub use attention_memory::{AttentionMemory, Form, MemoryState, Recall, attention_memory};
pub use elementwise::{Map, Probabilities, add, columns, concat, gate, geglu, map, relu, scale_columns};
pub use feature_map::{FeatureKind, FeatureMap, ProjectionRows, feature_map, random_features};
pub use layer_norm::layer_norm;
pub use layout::{Layout, Read};
pub use linear::{Activation, Linear, linear};
pub use linear_attention::{LinearAttention, LinearState, Normalizer};
pub use lsam::{Direction, Lsam, LsamOutput, LsamState, lsam};
pub use lstm::{Lstm, LstmOutput, lstm};
pub use merge_attention::merge_attention;
pub use rolling_attention::{RollingAttention, RollingState};
pub use scan_attention::{
    Bias, BiasKernel, BiasTerm, CustomBias, Distance, Placed, ScanAttention, ScanMemory, ScanState, scan_attention,
};
pub use softmax::Attention;
pub use tape::{
    HeadMoves, KeyErase, TapeErase, TapeInputs, TapeOptions, TapeOutput, TapeProbabilities, TapeState, tape,
};
pub use unit_norm::unit_norm;

/// Every text that an operation may compile.
#[cfg(feature = "gpu")]
pub(crate) fn shaders() -> crate::Result<Vec<crate::device::gpu::Shader>> {
    let all = [
        attention_memory::gpu::shaders()?,
        elementwise::gpu::shaders()?,
        feature_map::gpu::shaders()?,
        layer_norm::gpu::shaders()?,
        linear::gpu::shaders()?,
        linear_attention::gpu::shaders()?,
        lsam::gpu::shaders()?,
        lstm::gpu::shaders()?,
        merge_attention::gpu::shaders()?,
        scan_attention::gpu::shaders()?,
        tape::gpu::shaders()?,
        unit_norm::gpu::shaders()?,
    ];
    Ok(all.into_iter().flatten().collect())
}
