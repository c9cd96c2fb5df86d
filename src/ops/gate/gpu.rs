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
    kind: Kind,
}

/// What becomes of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Sigmoid,
    Relu,
    /// It is multiplied by the probability of its head.
    Probability,
    /// It is multiplied by the number of its column.
    Columns,
}

/// `p` is there for kinds that multiply.
pub(super) fn gate(gpu: &Arc<Gpu>, kind: Kind, x: &Tensor, p: Option<&Tensor>) -> Result<Tensor> {
    let constants = Constants { kind };
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
    [Kind::Sigmoid, Kind::Relu, Kind::Probability, Kind::Columns]
        .map(|kind| {
            let constants = Constants { kind };
            (format!("gate {constants:?}"), shader::expand("gate", &constants))
        })
        .into()
}
