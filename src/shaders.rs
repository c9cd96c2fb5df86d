//! The WGSL that this crate runs, as text: to read, to profile, or to compile with another
//! front end.

use crate::{error::Result, ops};

/// One text of one kernel.
#[derive(Clone, Debug)]
pub struct Shader {
    /// The kernel and what this text is specialised for.
    pub name: String,
    /// The text, with one entry point `main`.
    pub wgsl: String,
}

/// Every kernel, in a variant for each thing that its text depends on.
///
/// # Errors
/// A template that does not expand, which would be a defect of this crate.
pub fn variants() -> Result<Vec<Shader>> {
    let all = [
        ops::add::gpu::variants(),
        ops::attention_memory::gpu::variants(),
        ops::concat::gpu::variants(),
        ops::feature_map::gpu::variants(),
        ops::gate::gpu::variants(),
        ops::geglu::gpu::variants(),
        ops::layer_norm::gpu::variants(),
        ops::linear::gpu::variants(),
        ops::linear_attention::gpu::variants(),
        ops::lsam::gpu::variants(),
        ops::lstm::gpu::variants(),
        ops::merge_attention::gpu::variants(),
        ops::scan_attention::gpu::variants(),
        ops::tape::gpu::variants(),
        ops::unit_norm::gpu::variants(),
    ];
    all.into_iter().flatten().map(|(name, text)| text.map(|wgsl| Shader { name, wgsl })).collect()
}
