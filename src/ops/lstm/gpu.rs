//! Launches `shaders/lstm.wgsl` and `shaders/lstm_step.wgsl`.

use std::sync::Arc;

use serde::Serialize;

use super::{
    plan::{Plan, plan},
    problem::{LstmOutput, Problem},
};
use crate::{
    device::gpu::{Gpu, Kernel, Shader, params},
    error::Result,
    ops::recurrence::StepConstants,
    tensor::Tensor,
};

const KERNEL: Kernel<Constants, Params> = Kernel::new("lstm", include_str!("../../../shaders/lstm.wgsl"));
const STEP: Kernel<StepConstants, StepParams> =
    Kernel::new("lstm_step", include_str!("../../../shaders/lstm_step.wgsl"));

#[derive(Clone, Copy, Debug, Serialize)]
struct Constants {
    /// A power of two that the hidden state fits.
    hidden: usize,
    threads: usize,
}

const STEP_CONSTANTS: StepConstants = StepConstants::adding("vec4<f32>");

params! {
    Params {
        n: u32,
        hidden: u32,
        first_step: u32,
        end: u32,
        n_groups: u32,
    }
}

params! {
    StepParams {
        n: u32,
        hidden: u32,
        step: u32,
        first_group: u32,
        n_groups: u32,
    }
}

pub(super) fn lstm(
    gpu: &Arc<Gpu>,
    problem: &Problem,
    gates: &Tensor,
    weight: &Tensor,
    state: Option<&Tensor>,
) -> Result<LstmOutput> {
    let Problem { batch, n, hidden } = *problem;
    let plan = plan(problem, gpu.capabilities())?;
    let state = Tensor::own(state, &[batch, 2, hidden], &gates.device())?;
    let values = Tensor::from_gpu(vec![batch, n, hidden], gpu, gpu.allocate(batch * n * hidden)?);
    if plan.spreads {
        steps(gpu, problem, gates, weight, &state, &values)?;
    } else {
        whole(gpu, problem, &plan, [gates, weight], &state, &values)?;
    }
    Ok(LstmOutput { values, state })
}

/// A workgroup takes all steps of a batch element.
fn whole(
    gpu: &Gpu,
    problem: &Problem,
    plan: &Plan,
    [gates, weight]: [&Tensor; 2],
    state: &Tensor,
    y: &Tensor,
) -> Result<()> {
    let Problem { batch, n, hidden } = *problem;
    gpu.kernel(&KERNEL, &Constants { hidden: plan.hidden, threads: plan.threads })?
        .read("gates", gates)
        .read("weight", weight)
        .write("state", state)
        .write("y", y)
        .steps(n, batch, problem.work(plan.threads), |steps| Params {
            n: n as u32,
            hidden: hidden as u32,
            first_step: steps.start as u32,
            end: steps.end as u32,
            ..Params::default()
        })
}

/// Many workgroups take a step.
fn steps(gpu: &Gpu, problem: &Problem, gates: &Tensor, weight: &Tensor, state: &Tensor, y: &Tensor) -> Result<()> {
    let Problem { batch, n, hidden } = *problem;
    let launch = gpu
        .kernel(&STEP, &STEP_CONSTANTS)?
        .read("gates", gates)
        .read("weight", weight)
        .write("state", state)
        .write("y", y);
    let params = StepParams { n: n as u32, hidden: hidden as u32, ..StepParams::default() };
    // Nothing is launched for an empty batch, be its sequences as long as they like.
    for step in 0..if batch == 0 { 0 } else { n } {
        launch.groups(problem.n_groups(), problem.work_of_group(), StepParams { step: step as u32, ..params })?;
    }
    // The steps read h of the one before from y.
    for element in 0..if n == 0 { 0 } else { batch } {
        let last = (element * n + n - 1) * hidden;
        gpu.copy(y.gpu(), last, state.gpu(), element * 2 * hidden, hidden)?;
    }
    Ok(())
}

/// The texts that this operation may compile, of hidden states that fit WebGPU's workgroup memory.
pub(crate) fn shaders() -> Result<Vec<Shader>> {
    let sizes = [64, 128, 256, 512, 1024];
    let mut all =
        KERNEL.shaders(sizes.map(|hidden| (format!("{hidden}"), Constants { hidden, threads: hidden.min(256) })))?;
    all.push(STEP.shader("", &STEP_CONSTANTS)?);
    Ok(all)
}
