//! Launches `shaders/lsam.wgsl`, `shaders/lsam_columns.wgsl` and `shaders/lsam_memory.wgsl`.

use std::sync::Arc;

use serde::Serialize;

use super::{
    plan::{Plan, plan},
    problem::{LsamOutput, LsamState, Problem},
};
use crate::{
    device::{
        AdapterKind, Capabilities,
        gpu::{Gpu, Kernel, Shader, params},
    },
    error::Result,
    ops::recurrence::StepConstants,
    tensor::Tensor,
};

const KERNEL: Kernel<Constants, Params> = Kernel::new("lsam", include_str!("../../../shaders/lsam.wgsl"));

const COLUMNS: Kernel<StepConstants, ColumnsParams> =
    Kernel::new("lsam_columns", include_str!("../../../shaders/lsam_columns.wgsl"));
const MEMORY: Kernel<StepConstants, MemoryParams> =
    Kernel::new("lsam_memory", include_str!("../../../shaders/lsam_memory.wgsl"));

/// Sizes that those of the call fit.
#[derive(Clone, Copy, Debug, Serialize)]
struct Constants {
    threads: usize,
    width: usize,
    d_model: usize,
}

const OF_COLUMNS: StepConstants = StepConstants::adding("f32");
const OF_MEMORY: StepConstants = StepConstants::adding("vec4<f32>");

impl Constants {
    fn new(plan: &Plan) -> Self {
        Self { threads: plan.threads, width: plan.width, d_model: plan.d_model }
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

params! {
    ColumnsParams {
        n: u32,
        d_model: u32,
        width: u32,
        step: u32,
        first_group: u32,
        n_groups: u32,
    }
}

params! {
    MemoryParams {
        n: u32,
        n_heads: u32,
        dim: u32,
        step: u32,
        first_group: u32,
        n_groups: u32,
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
    let Problem { batch, n, .. } = *problem;
    let (d_model, device) = (problem.d_model(), z.device());
    let plan = plan(problem, gpu.capabilities())?;
    let hidden = Tensor::own(state.map(|state| &state.hidden), &[batch, d_model], &device)?;
    let memory = Tensor::own(state.map(|state| &state.memory), &problem.memory_shape(), &device)?;
    let values = Tensor::from_gpu(vec![batch, n, d_model], gpu, gpu.allocate(batch * n * d_model)?);
    let output = LsamOutput { values, state: LsamState { hidden, memory } };
    if plan.spreads {
        steps(gpu, problem, z, weight, &output, reverse)?;
    } else {
        whole(gpu, problem, &plan, [z, weight], &output, reverse)?;
    }
    Ok(output)
}

/// A workgroup takes all steps of a batch element.
fn whole(
    gpu: &Gpu,
    problem: &Problem,
    plan: &Plan,
    [z, weight]: [&Tensor; 2],
    output: &LsamOutput,
    reverse: bool,
) -> Result<()> {
    let Problem { batch, n, n_heads, dim } = *problem;
    gpu.kernel(&KERNEL, &Constants::new(plan))?
        .read("z", z)
        .read("weight", weight)
        .write("h", &output.state.hidden)
        .write("memory", &output.state.memory)
        .write("y", &output.values)
        .steps(n, batch, problem.work(plan.threads), |steps| Params {
            n: n as u32,
            n_heads: n_heads as u32,
            dim: dim as u32,
            reverse: u32::from(reverse),
            first_step: steps.start as u32,
            end: steps.end as u32,
            ..Params::default()
        })
}

/// Many workgroups take a step: first its columns, then its memories.
fn steps(
    gpu: &Arc<Gpu>,
    problem: &Problem,
    z: &Tensor,
    weight: &Tensor,
    output: &LsamOutput,
    reverse: bool,
) -> Result<()> {
    let Problem { batch, n, n_heads, dim } = *problem;
    let LsamOutput { values, state } = output;
    let (d_model, width) = (problem.d_model(), problem.width());
    let columns = gpu.allocate(batch * width)?;
    let of_columns = gpu
        .kernel(&COLUMNS, &OF_COLUMNS)?
        .read("z", z)
        .read("weight", weight)
        .read("h", &state.hidden)
        .write("columns", &columns);
    let of_memory = gpu
        .kernel(&MEMORY, &OF_MEMORY)?
        .read("columns", &columns)
        .write("memory", &state.memory)
        .write("h", &state.hidden)
        .write("y", values);
    // Nothing is launched for an empty batch, be its sequences as long as they like.
    for step in 0..if batch == 0 { 0 } else { n } {
        let (n, step) = (n as u32, if reverse { n - 1 - step } else { step } as u32);
        let params =
            ColumnsParams { n, d_model: d_model as u32, width: width as u32, step, ..ColumnsParams::default() };
        of_columns.groups(problem.groups_of_columns(), problem.work_of_columns(), params)?;
        let params = MemoryParams { n, n_heads: n_heads as u32, dim: dim as u32, step, ..MemoryParams::default() };
        of_memory.groups(problem.groups_of_memory(), problem.work_of_memory(), params)?;
    }
    Ok(())
}

/// The texts of some sizes, and of all.
pub(crate) fn shaders() -> Result<Vec<Shader>> {
    let capabilities = Capabilities::webgpu(AdapterKind::Discrete);
    let mut all = vec![COLUMNS.shader("", &OF_COLUMNS)?, MEMORY.shader("", &OF_MEMORY)?];
    for (n_heads, dim) in [(1, 1), (4, 16), (8, 120)] {
        let plan = plan(&Problem { batch: 1, n: 1, n_heads, dim }, &capabilities)?;
        all.push(KERNEL.shader(&format!("{n_heads} heads of {dim}"), &Constants::new(&plan))?);
    }
    Ok(all)
}
