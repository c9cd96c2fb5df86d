//! Launches `shaders/add.wgsl`.

use std::sync::Arc;

use crate::{
    device::gpu::{Access, Dispatch, Gpu, Variant, shader},
    error::Result,
    tensor::Tensor,
};

/// Threads in a workgroup, one for each number.
const GROUP: usize = 64;

pub(super) fn add(gpu: &Arc<Gpu>, a: &Tensor, b: &Tensor, scale: f32) -> Result<Tensor> {
    let bindings = [(0, Access::Read), (1, Access::Read), (2, Access::Write)];
    let variant = Variant { name: "add", constants: &(), bindings: &bindings, untrusted: None };
    let pipeline = gpu.pipeline(&variant)?;
    let n = a.len();
    gpu.check_bindings(&[n])?;
    let y = gpu.allocate(n)?;
    for groups in gpu.row_pieces(n.div_ceil(GROUP), 1, 4.0 * GROUP as f64) {
        gpu.dispatch(&Dispatch {
            pipeline: &pipeline,
            buffers: &[a.gpu().first(n), b.gpu().first(b.len()), y.first(n)],
            params: bytemuck::cast_slice(&[n as u32, b.len() as u32, groups.start as u32, scale.to_bits()]),
            n_groups: groups.len() as u64,
            cost: 4.0 * (groups.len() * GROUP) as f64,
        })?;
    }
    Ok(Tensor::from_gpu(a.shape().to_vec(), gpu, y))
}

/// The one text of this operation.
pub(crate) fn variants() -> Vec<(String, Result<String>)> {
    vec![("add".into(), shader::expand("add", &()))]
}
