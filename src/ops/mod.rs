//! The operations: each has a WGSL kernel, a CPU twin and one contract.

pub mod attention_memory;
pub mod elementwise;
pub mod feature_map;
pub mod layer_norm;
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

pub use attention_memory::{AttentionMemory, Form, Recall, attention_memory, read_memory, write_memory};
pub use elementwise::{Map, Probabilities, add, columns, concat, gate, geglu, map, relu, scale_columns};
pub use feature_map::{FeatureKind, FeatureMap, Rows, feature_map, random_features};
pub use layer_norm::layer_norm;
pub use linear::{Activation, Linear, linear};
pub use linear_attention::{LinearAttention, LinearState, Normalizer};
pub use lsam::{Lsam, LsamOutput, LsamState, lsam};
pub use lstm::{Lstm, LstmOutput, lstm};
pub use merge_attention::merge_attention;
pub use rolling_attention::{RollingAttention, RollingState};
pub use scan_attention::{Bias, BiasTerm, CustomBias, Distance, Kernel, ScanAttention, scan_attention};
pub use softmax::Attention;
pub use tape::{HeadMoves, TapeInputs, TapeOptions, TapeOutput, tape};
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
