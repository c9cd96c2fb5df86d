//! The operations: each has a WGSL kernel, a CPU twin and one contract.

pub mod layer_norm;
pub mod linear;
pub mod merge_attention;
pub mod scan_attention;

pub use layer_norm::layer_norm;
pub use linear::{Activation, Linear, linear};
pub use merge_attention::merge_attention;
pub use scan_attention::{Attention, Bias, BiasTerm, CustomBias, Distance, Kernel, ScanAttention, scan_attention};
