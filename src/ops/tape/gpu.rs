//! Launches `shaders/tape.wgsl`.

use std::sync::Arc;

use serde::Serialize;

use super::{Flags as TapeOptions, HeadMoves, MAX_TAPE_LENGTH, Problem, TapeInputs, select::place};
use crate::{
    device::gpu::{Access, Dispatch, Gpu, Variant, shader},
    error::{Error, Result},
    tensor::Tensor,
};

/// The constants of the shader's text.
#[derive(Clone, Copy, Debug, Serialize)]
struct Constants {
    has_keys: bool,
    n_directions: usize,
    has_probabilities: bool,
    has_erase: bool,
    is_tied: bool,
    by_position: bool,
    in_workgroup: bool,
    len: usize,
    slots: usize,
}

impl Constants {
    fn new(options: TapeOptions, n_cells: usize, slots: usize) -> Self {
        let place = place(n_cells, slots);
        Self {
            has_keys: options.heads.jumps(),
            n_directions: options.heads.n_directions(),
            has_probabilities: options.has_probabilities,
            has_erase: options.has_erase,
            is_tied: options.is_tied && options.has_erase,
            by_position: options.by_position,
            in_workgroup: place.in_workgroup,
            len: place.len,
            slots: place.slots,
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    n: u32,
    n_tapes: u32,
    slots: u32,
    mem: u32,
    first_step: u32,
    end: u32,
    first_group: u32,
    n_groups: u32,
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
    if slots > MAX_TAPE_LENGTH {
        return Err(Error::LimitExceeded {
            limit: "slots of a tape on a GPU",
            requested: slots as u64,
            allowed: MAX_TAPE_LENGTH as u64,
        });
    }
    let constants = Constants::new(options, problem.n_cells(), slots);
    let inputs = [Some(inputs.value), inputs.key, inputs.query, Some(inputs.action)];
    let given = inputs.iter().enumerate().filter_map(|(i, tensor)| tensor.map(|tensor| (i as u32, tensor)));
    let mut bindings: Vec<(u32, Access)> = given.clone().map(|(i, _)| (i, Access::Read)).collect();
    bindings.extend([(4, Access::Write), (5, Access::Write)]);
    let variant = Variant { name: "tape", constants: &constants, bindings: &bindings, untrusted: None };
    let pipeline = gpu.pipeline(&variant)?;
    let len = batch * n * n_tapes * mem;
    gpu.check_bindings(&[len, state.len()])?;
    let y = gpu.allocate(len)?;
    let n_groups = batch * n_tapes;
    let iterations = slots + mem.div_ceil(64) * (4 * slots + 1) + slots.div_ceil(64) * (2 * mem + 1) + 1;
    let cost_of_group = (6 * problem.n_cells() + 100 * slots) as f64;
    let (steps, cost_of_step) = gpu.recurrence(n_groups, cost_of_group, iterations);
    for first in (0..n).step_by(steps) {
        let end = n.min(first.saturating_add(steps));
        let mut buffers: Vec<_> = given.clone().map(|(_, tensor)| tensor.gpu().first(tensor.len())).collect();
        buffers.extend([state.gpu().first(state.len()), y.first(len)]);
        let params = Params {
            n: n as u32,
            n_tapes: n_tapes as u32,
            slots: slots as u32,
            mem: mem as u32,
            first_step: first as u32,
            end: end as u32,
            first_group: 0,
            n_groups: n_groups as u32,
        };
        gpu.dispatch(&Dispatch {
            pipeline: &pipeline,
            buffers: &buffers,
            params: bytemuck::bytes_of(&params),
            n_groups: n_groups as u64,
            cost: cost_of_step * (end - first) as f64,
        })?;
    }
    Ok(Tensor::from_gpu(shape, gpu, y))
}

/// Every text that this operation may compile, for a tape that fits and for one that does not.
pub(crate) fn variants() -> Vec<(String, Result<String>)> {
    let mut variants = Vec::new();
    for heads in [HeadMoves::All, HeadMoves::NoJump, HeadMoves::OnlyJump] {
        for i in 0..16 {
            let [has_probabilities, has_erase, is_tied, by_position] = [8, 4, 2, 1].map(|bit| i & bit != 0);
            for (n_cells, slots) in [(512, 32), (1 << 20, 1024)] {
                let options = TapeOptions { heads, has_probabilities, has_erase, is_tied, by_position };
                let constants = Constants::new(options, n_cells, slots);
                variants.push((format!("tape {constants:?}"), shader::expand("tape", &constants)));
            }
        }
    }
    variants
}
