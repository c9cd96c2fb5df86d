//! Launches `shaders/tape.wgsl`.

use std::sync::Arc;

use serde::Serialize;

use super::{
    options::{Flags, HeadMoves},
    plan::{Plan, plan},
    problem::{Problem, TapeInputs},
};
use crate::{
    device::{
        AdapterKind, Capabilities,
        gpu::{Gpu, Kernel, Shader, params},
    },
    error::Result,
    tensor::Tensor,
};

const KERNEL: Kernel<Constants, Params> = Kernel::new("tape", include_str!("../../../shaders/tape.wgsl"));

#[derive(Clone, Copy, Debug, Serialize)]
struct Constants {
    has_keys: bool,
    n_directions: usize,
    has_probabilities: bool,
    has_erase: bool,
    is_tied: bool,
    by_position: bool,
    in_workgroup: bool,
    /// Whether the heads are in workgroup memory.
    has_heads: bool,
    threads: usize,
    len: usize,
    slots: usize,
}

impl Constants {
    fn new(options: Flags, plan: &Plan) -> Self {
        Self {
            has_keys: options.heads.jumps(),
            n_directions: options.heads.n_directions(),
            has_probabilities: options.has_probabilities,
            has_erase: options.has_erase,
            is_tied: options.is_tied && options.has_erase && options.has_probabilities,
            by_position: options.by_position && options.heads.jumps(),
            in_workgroup: plan.in_workgroup,
            has_heads: plan.slots > 0,
            threads: plan.threads,
            len: plan.len,
            slots: plan.slots,
        }
    }
}

params! {
    Params {
        n: u32,
        n_tapes: u32,
        slots: u32,
        mem: u32,
        first_step: u32,
        end: u32,
        n_groups: u32,
        value_base: u32,
        key_base: u32,
        query_base: u32,
        action_base: u32,
        zero: u32,
    }
}

/// What is read; `state` becomes that after the last step.
pub(super) fn tape(
    gpu: &Arc<Gpu>,
    problem: &Problem,
    inputs: &TapeInputs<'_>,
    state: &Tensor,
    shape: Vec<usize>,
) -> Result<Tensor> {
    let Problem { batch, n, n_tapes, slots, mem, options } = *problem;
    let plan = plan(problem, gpu.capabilities())?;
    let y = gpu.allocate(batch * n * n_tapes * mem)?;
    let heads = (plan.slots == 0).then(|| gpu.allocate(batch * n_tapes * 4 * slots)).transpose()?;
    gpu.kernel(&KERNEL, &Constants::new(options, &plan))?
        .read("value", inputs.value)
        .read_some("key", inputs.key)
        .read_some("query", inputs.query)
        .read("action", inputs.action)
        .write("state", state)
        .write("y", &y)
        .write_some("heads", heads.as_ref())
        .steps(n, batch * n_tapes, problem.work(plan.threads), |steps| Params {
            n: n as u32,
            n_tapes: n_tapes as u32,
            slots: slots as u32,
            mem: mem as u32,
            first_step: steps.start as u32,
            end: steps.end as u32,
            ..Params::default()
        })?;
    Ok(Tensor::from_gpu(shape, gpu, y))
}

/// Every text that this operation may compile, for tapes that fit, for one that does not, and
/// for one whose heads do not either.
pub(crate) fn shaders() -> Result<Vec<Shader>> {
    let capabilities = Capabilities::webgpu(AdapterKind::Discrete);
    let mut all = Vec::new();
    for heads in [HeadMoves::All, HeadMoves::NoJump, HeadMoves::OnlyJump] {
        for i in 0..16 {
            let [has_probabilities, has_erase, is_tied, by_position] = [8, 4, 2, 1].map(|bit| i & bit != 0);
            let tie_is_idle = is_tied && !(has_erase && has_probabilities);
            if tie_is_idle || (by_position && !heads.jumps()) {
                continue;
            }
            // Without keys, slots of 16 numbers round up to the text of those of 8.
            let sizes = if heads.jumps() {
                &[(8, 16), (16, 16), (8, 32), (512, 1024), (8, 1040)][..]
            } else {
                &[(8, 16), (8, 32), (512, 1024), (8, 1040)]
            };
            for &(mem, slots) in sizes {
                let options = Flags { heads, has_probabilities, has_erase, is_tied, by_position };
                let problem = Problem { batch: 1, n: 1, n_tapes: 1, slots, mem, options };
                let constants = Constants::new(options, &plan(&problem, &capabilities)?);
                let place = if constants.in_workgroup { "workgroup" } else { "storage" };
                let label = format!(
                    "{heads:?} {place} {slots} slots of {mem} probabilities={has_probabilities} erase={has_erase} tied={is_tied} \
                     by_position={by_position}"
                );
                all.push((label, constants));
            }
        }
    }
    KERNEL.shaders(all)
}
