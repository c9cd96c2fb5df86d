//! Launches `shaders/lsam.wgsl`.

use std::sync::Arc;

use serde::Serialize;

use super::{LsamOutput, LsamState, Problem};
use crate::{
    device::gpu::{Access, Dispatch, Gpu, Variant, shader},
    error::{Error, Result},
    tensor::Tensor,
};

/// Bytes of workgroup memory that every device has.
const WORKGROUP_BYTES: usize = 16 << 10;

/// The constants of the shader's text: sizes that those of the call fit.
#[derive(Clone, Copy, Debug, Serialize)]
struct Constants {
    threads: usize,
    width: usize,
    d_model: usize,
    heads: usize,
}

impl Constants {
    fn new(problem: &Problem) -> Self {
        let up = |n: usize| n.next_multiple_of(64);
        let d_model = up(problem.d_model());
        Self { threads: d_model.min(256), width: up(problem.width()), d_model, heads: up(2 * problem.n_heads) }
    }
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    n: u32,
    n_heads: u32,
    dim: u32,
    reverse: u32,
    first_step: u32,
    end: u32,
    first_group: u32,
    n_groups: u32,
}

pub(super) fn lsam(
    gpu: &Arc<Gpu>,
    problem: &Problem,
    z: &Tensor,
    weight: &Tensor,
    state: Option<&LsamState>,
    reverse: bool,
) -> Result<LsamOutput> {
    let Problem { batch, n, n_heads, dim } = *problem;
    let d_model = problem.d_model();
    let constants = Constants::new(problem);
    let bytes = 4 * (constants.width + constants.d_model + constants.heads);
    if bytes > WORKGROUP_BYTES {
        return Err(Error::LimitExceeded {
            limit: "bytes of workgroup memory for the state of lsam",
            requested: bytes as u64,
            allowed: WORKGROUP_BYTES as u64,
        });
    }
    let bindings = [(0, Access::Read), (1, Access::Read), (2, Access::Write), (3, Access::Write), (4, Access::Write)];
    let variant = Variant { name: "lsam", constants: &constants, bindings: &bindings, untrusted: None };
    let pipeline = gpu.pipeline(&variant)?;
    let device = z.device();
    let hidden = Tensor::own(state.map(|state| &state.hidden), &[batch, d_model], &device)?;
    let memory = Tensor::own(state.map(|state| &state.memory), &problem.memory_shape(), &device)?;
    let len = batch * n * d_model;
    gpu.check_bindings(&[z.len(), weight.len(), memory.len()])?;
    let y = gpu.allocate(len)?;
    let of_threads = |n: usize| n.div_ceil(constants.threads);
    let iterations = of_threads(problem.width()) * (d_model + 1)
        + of_threads(2 * n_heads) * (dim + 1)
        + of_threads(d_model) * (2 * dim + 1)
        + 1;
    let cost_of_group = (d_model * (2 * problem.width() + 6 * dim + 50)) as f64;
    let (steps, cost_of_step) = gpu.recurrence(batch, cost_of_group, iterations);
    for first in (0..n).step_by(steps) {
        let end = n.min(first.saturating_add(steps));
        let params = Params {
            n: n as u32,
            n_heads: n_heads as u32,
            dim: dim as u32,
            reverse: u32::from(reverse),
            first_step: first as u32,
            end: end as u32,
            first_group: 0,
            n_groups: batch as u32,
        };
        gpu.dispatch(&Dispatch {
            pipeline: &pipeline,
            buffers: &[
                z.gpu().first(z.len()),
                weight.gpu().first(weight.len()),
                hidden.gpu().first(hidden.len()),
                memory.gpu().first(memory.len()),
                y.first(len),
            ],
            params: bytemuck::bytes_of(&params),
            n_groups: batch as u64,
            cost: cost_of_step * (end - first) as f64,
        })?;
    }
    let state = LsamState { hidden, memory };
    Ok(LsamOutput { values: Tensor::from_gpu(vec![batch, n, d_model], gpu, y), state })
}

/// The texts of some sizes, by name.
pub(crate) fn variants() -> Vec<(String, Result<String>)> {
    [(1, 1), (4, 16), (8, 120)]
        .map(|(n_heads, dim)| {
            let constants = Constants::new(&Problem { batch: 1, n: 1, n_heads, dim });
            (format!("lsam {constants:?}"), shader::expand("lsam", &constants))
        })
        .into()
}
