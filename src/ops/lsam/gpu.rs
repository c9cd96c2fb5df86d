//! Launches `shaders/lsam.wgsl`.

use std::sync::Arc;

use serde::Serialize;

use super::problem::{LsamOutput, LsamState, Problem};
use crate::{
    device::gpu::{Gpu, Kernel, Shader, Work, params},
    error::{Result, check_limit},
    tensor::Tensor,
};

const KERNEL: Kernel<Constants, Params> = Kernel::new("lsam", include_str!("../../../shaders/lsam.wgsl"));

/// Sizes that those of the call fit.
#[derive(Clone, Copy, Debug, Serialize)]
struct Constants {
    threads: usize,
    width: usize,
    d_model: usize,
}

impl Constants {
    fn new(problem: &Problem) -> Self {
        let up = |n: usize| n.next_multiple_of(64);
        let d_model = up(problem.d_model());
        Self { threads: d_model.min(256), width: up(problem.width()), d_model }
    }
}

params! {
    Params {
        n: u32,
        n_heads: u32,
        dim: u32,
        reverse: u32,
        first_step: u32,
        end: u32,
        n_groups: u32,
        z_base: u32,
        weight_base: u32,
    }
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
    let bytes = 4 * (constants.width + constants.d_model);
    let allowed = gpu.capabilities().workgroup_bytes;
    check_limit("bytes of workgroup memory for the state of lsam", bytes as u64, allowed.into())?;
    let device = z.device();
    let hidden = Tensor::own(state.map(|state| &state.hidden), &[batch, d_model], &device)?;
    let memory = Tensor::own(state.map(|state| &state.memory), &problem.memory_shape(), &device)?;
    let y = gpu.allocate(batch * n * d_model)?;
    let of_threads = |n: usize| n.div_ceil(constants.threads);
    let work = Work {
        cost: (d_model * (2 * problem.width() + 6 * dim + 60)) as f64,
        iterations: of_threads(problem.width()) * (d_model + 1)
            + of_threads(2 * n_heads) * (3 * dim + 1)
            + of_threads(d_model) * (2 * dim + 1)
            + 1,
    };
    gpu.kernel(&KERNEL, &constants)?
        .read("z", z)
        .read("weight", weight)
        .write("h", &hidden)
        .write("memory", &memory)
        .write("y", &y)
        .steps(n, batch, work, |steps| Params {
            n: n as u32,
            n_heads: n_heads as u32,
            dim: dim as u32,
            reverse: u32::from(reverse),
            first_step: steps.start as u32,
            end: steps.end as u32,
            ..Params::default()
        })?;
    let state = LsamState { hidden, memory };
    Ok(LsamOutput { values: Tensor::from_gpu(vec![batch, n, d_model], gpu, y), state })
}

/// The texts of some sizes.
pub(crate) fn shaders() -> Result<Vec<Shader>> {
    KERNEL.shaders([(1, 1), (4, 16), (8, 120)].map(|(n_heads, dim)| {
        (format!("{n_heads} heads of {dim}"), Constants::new(&Problem { batch: 1, n: 1, n_heads, dim }))
    }))
}
