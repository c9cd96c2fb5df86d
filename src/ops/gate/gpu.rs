//! Launches `shaders/gate.wgsl`.

use std::sync::Arc;

use serde::Serialize;

use crate::{
    device::gpu::{Access, Dispatch, Gpu, Variant, shader},
    error::Result,
    tensor::Tensor,
};

/// Threads in a workgroup, one for each number.
const GROUP: usize = 64;

/// The constants of the shader's text.
#[derive(Clone, Copy, Debug, Serialize)]
struct Constants {
    is_sigmoid: bool,
}

/// `p x`, or the sigmoid of `x` without `p`.
pub(super) fn gate(gpu: &Arc<Gpu>, x: &Tensor, p: Option<&Tensor>) -> Result<Tensor> {
    let constants = Constants { is_sigmoid: p.is_none() };
    let mut bindings = vec![(0, Access::Read)];
    bindings.extend(p.is_some().then_some((1, Access::Read)));
    bindings.push((2, Access::Write));
    let variant = Variant { name: "gate", constants: &constants, bindings: &bindings, untrusted: None };
    let pipeline = gpu.pipeline(&variant)?;
    let n = x.len();
    gpu.check_bindings(&[n])?;
    let y = gpu.allocate(n)?;
    let last = |tensor: &Tensor| tensor.shape().last().copied().unwrap_or(1).max(1) as u32;
    for groups in gpu.row_pieces(n.div_ceil(GROUP), 1, 8.0 * GROUP as f64) {
        let mut buffers = vec![x.gpu().first(n)];
        buffers.extend(p.map(|p| p.gpu().first(p.len())));
        buffers.push(y.first(n));
        gpu.dispatch(&Dispatch {
            pipeline: &pipeline,
            buffers: &buffers,
            params: bytemuck::cast_slice(&[n as u32, last(x), p.map_or(1, last), groups.start as u32]),
            n_groups: groups.len() as u64,
            cost: 8.0 * (groups.len() * GROUP) as f64,
        })?;
    }
    Ok(Tensor::from_gpu(x.shape().to_vec(), gpu, y))
}

/// Every text that this operation may compile, by name.
pub(crate) fn variants() -> Vec<(String, Result<String>)> {
    [false, true]
        .map(|is_sigmoid| {
            let constants = Constants { is_sigmoid };
            (format!("gate {constants:?}"), shader::expand("gate", &constants))
        })
        .into()
}
