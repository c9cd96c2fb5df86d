//! Launches `shaders/merge_attention.wgsl`.

use std::sync::Arc;

use crate::{
    device::gpu::{Access, Buffer, Dispatch, Gpu, Variant, View, shader},
    error::Result,
    ops::{Attention, scan_attention::MASKED},
    tensor::Tensor,
};

/// Threads in a workgroup, each with one merged number.
const GROUP: usize = 64;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    n_parts: u32,
    rows: u32,
    width: u32,
    n_groups: u32,
    masked: f32,
    merged_base: u32,
    merged_lse_base: u32,
    padding: u32,
}

pub(super) fn merge_attention(
    gpu: &Arc<Gpu>,
    n_parts: usize,
    width: usize,
    values: &Tensor,
    log_sum_exp: &Tensor,
) -> Result<Attention> {
    let rows = log_sum_exp.len() / n_parts;
    let merged = gpu.allocate(rows * width)?;
    let merged_lse = gpu.allocate(rows)?;
    let to = [merged.elements(0, rows * width), merged_lse.elements(0, rows)];
    merge_into(gpu, n_parts, width, values.gpu(), log_sum_exp.gpu(), to, rows)?;
    Ok(Attention {
        values: Tensor::from_gpu(values.shape()[1..].to_vec(), gpu, merged),
        log_sum_exp: Tensor::from_gpu(log_sum_exp.shape()[1..].to_vec(), gpu, merged_lse),
    })
}

/// Merges `[n_parts, rows, width]` and `[n_parts, rows]` into parts of two buffers, each with
/// where its first element is.
pub(crate) fn merge_into(
    gpu: &Gpu,
    n_parts: usize,
    width: usize,
    values: &Buffer,
    log_sum_exp: &Buffer,
    [(merged, merged_base), (merged_lse, merged_lse_base)]: [(View<'_>, u32); 2],
    rows: usize,
) -> Result<()> {
    let bindings = [(0, Access::Read), (1, Access::Read), (2, Access::Write), (3, Access::Write)];
    let variant = Variant { name: "merge_attention", constants: &(), bindings: &bindings, untrusted: None };
    let pipeline = gpu.pipeline(&variant)?;
    let n_groups = (rows * width).div_ceil(GROUP);
    let params = Params {
        n_parts: n_parts as u32,
        rows: rows as u32,
        width: width as u32,
        n_groups: n_groups as u32,
        masked: MASKED,
        merged_base,
        merged_lse_base,
        padding: 0,
    };
    gpu.dispatch(&Dispatch {
        pipeline: &pipeline,
        buffers: &[values.first(n_parts * rows * width), log_sum_exp.first(n_parts * rows), merged, merged_lse],
        params: bytemuck::bytes_of(&params),
        n_groups: n_groups as u64,
        cost: 4.0 * (n_parts * rows * width) as f64,
    })
}

/// The one text of this operation.
pub(crate) fn variants() -> Vec<(String, Result<String>)> {
    vec![("merge_attention".into(), shader::expand("merge_attention", &()))]
}
