//! Launches `shaders/concat.wgsl`.

use std::{ops::Range, sync::Arc};

use crate::{
    device::gpu::{Access, Dispatch, Gpu, Variant, shader},
    error::Result,
    tensor::{Tensor, n_elements},
};

/// Threads in a workgroup, one for each number.
const GROUP: usize = 64;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    n: u32,
    left_width: u32,
    left_first: u32,
    left_used: u32,
    right_width: u32,
    first_group: u32,
    padding: [u32; 2],
}

pub(super) fn concat(
    gpu: &Arc<Gpu>,
    left: &Tensor,
    columns: Range<usize>,
    right: &Tensor,
    shape: Vec<usize>,
) -> Result<Tensor> {
    let bindings = [(0, Access::Read), (1, Access::Read), (2, Access::Write)];
    let variant = Variant { name: "concat", constants: &(), bindings: &bindings, untrusted: None };
    let pipeline = gpu.pipeline(&variant)?;
    let n = n_elements(&shape);
    gpu.check_bindings(&[left.len(), right.len(), n])?;
    let y = gpu.allocate(n)?;
    let last = |tensor: &Tensor| tensor.shape().last().copied().unwrap_or(1) as u32;
    for groups in gpu.row_pieces(n.div_ceil(GROUP), 1, 8.0 * GROUP as f64) {
        let params = Params {
            n: n as u32,
            left_width: last(left),
            left_first: columns.start as u32,
            left_used: columns.len() as u32,
            right_width: last(right),
            first_group: groups.start as u32,
            padding: [0; 2],
        };
        gpu.dispatch(&Dispatch {
            pipeline: &pipeline,
            buffers: &[left.gpu().first(left.len()), right.gpu().first(right.len()), y.first(n)],
            params: bytemuck::bytes_of(&params),
            n_groups: groups.len() as u64,
            cost: 8.0 * (groups.len() * GROUP) as f64,
        })?;
    }
    Ok(Tensor::from_gpu(shape, gpu, y))
}

/// The one text of this operation.
pub(crate) fn variants() -> Vec<(String, Result<String>)> {
    vec![("concat".into(), shader::expand("concat", &()))]
}
