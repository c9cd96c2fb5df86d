//! Launches `shaders/merge_attention.wgsl`.

use std::sync::Arc;

use serde::Serialize;

use super::{HEADROOM, REFERENCE_STEP, state_width};
use crate::{
    device::gpu::{Access, Buffer, Dispatch, Gpu, Variant, View, shader},
    error::Result,
    ops::softmax::{Attention, MASKED},
    tensor::Tensor,
};

/// Threads in a workgroup, each with one merged number.
const GROUP: usize = 64;

/// The constants of the shader's text.
#[derive(Clone, Copy, Debug, Serialize)]
struct Constants {
    n_states: usize,
    has_parts: bool,
    to_state: bool,
}

/// Everything that is ever merged.
const PARTS: Constants = Constants { n_states: 0, has_parts: true, to_state: false };
const FIRST_WRITE: Constants = Constants { n_states: 0, has_parts: true, to_state: true };
const WRITE: Constants = Constants { n_states: 1, has_parts: true, to_state: true };
const STATES: Constants = Constants { n_states: 2, has_parts: false, to_state: true };
const READ: Constants = Constants { n_states: 1, has_parts: false, to_state: false };

impl Constants {
    fn bindings(&self) -> Vec<(u32, Access)> {
        let mut bindings: Vec<_> = (0..self.n_states as u32).map(|state| (state, Access::Read)).collect();
        if self.has_parts {
            bindings.extend([(2, Access::Read), (3, Access::Read)]);
        }
        bindings.push((4, Access::Write));
        bindings.extend((!self.to_state).then_some((5, Access::Write)));
        bindings
    }
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    n_parts: u32,
    rows: u32,
    width: u32,
    n_groups: u32,
    masked: f32,
    merged_base: u32,
    merged_lse_base: u32,
    headroom: f32,
    zero: u32,
    reference_step: f32,
    steps_of_one: f32,
    padding: u32,
}

pub(super) fn merge_attention(
    gpu: &Arc<Gpu>,
    n_parts: usize,
    width: usize,
    values: &Tensor,
    log_sum_exp: &Tensor,
) -> Result<Attention> {
    let rows = log_sum_exp.len() / n_parts;
    let merged = gpu.allocate(rows * width)?;
    let merged_lse = gpu.allocate(rows)?;
    let to = [merged.elements(0, rows * width), merged_lse.elements(0, rows)];
    merge_into(gpu, n_parts, width, values.gpu(), log_sum_exp.gpu(), to, rows)?;
    Ok(Attention {
        values: Tensor::from_gpu(values.shape()[1..].to_vec(), gpu, merged),
        log_sum_exp: Tensor::from_gpu(log_sum_exp.shape()[1..].to_vec(), gpu, merged_lse),
    })
}

/// Merges `[n_parts, rows, width]` and `[n_parts, rows]` into parts of two buffers, each with
/// where its first element is.
pub(crate) fn merge_into(
    gpu: &Gpu,
    n_parts: usize,
    width: usize,
    values: &Buffer,
    log_sum_exp: &Buffer,
    [(merged, merged_base), (merged_lse, merged_lse_base)]: [(View<'_>, u32); 2],
    rows: usize,
) -> Result<()> {
    let buffers = [values.first(n_parts * rows * width), log_sum_exp.first(n_parts * rows), merged, merged_lse];
    launch(gpu, PARTS, [n_parts, rows, width], [merged_base, merged_lse_base], &buffers)
}

/// The state of one or two states, or of one and a part, or of a part alone.
pub(super) fn merge_states(
    gpu: &Arc<Gpu>,
    states: &[&Tensor],
    part: Option<&Attention>,
    [rows, width]: [usize; 2],
) -> Result<Buffer> {
    let len = rows * state_width(width);
    gpu.check_bindings(&[len])?;
    let state = gpu.allocate(len)?;
    let mut buffers: Vec<View<'_>> = states.iter().map(|state| state.gpu().first(len)).collect();
    buffers.extend(part.into_iter().flat_map(|part| {
        [part.values.gpu().first(part.values.len()), part.log_sum_exp.gpu().first(part.log_sum_exp.len())]
    }));
    buffers.push(state.first(len));
    let constants = match (states.len(), part) {
        (0, _) => FIRST_WRITE,
        (1, _) => WRITE,
        _ => STATES,
    };
    launch(gpu, constants, [usize::from(part.is_some()), rows, width], [0, 0], &buffers)?;
    Ok(state)
}

/// The values and log-sum-exp of a state.
pub(super) fn read_state(gpu: &Arc<Gpu>, state: &Tensor, [rows, width]: [usize; 2]) -> Result<[Buffer; 2]> {
    gpu.check_bindings(&[state.len()])?;
    let (values, log_sum_exp) = (gpu.allocate(rows * width)?, gpu.allocate(rows)?);
    let buffers = [state.gpu().first(state.len()), values.first(rows * width), log_sum_exp.first(rows)];
    launch(gpu, READ, [0, rows, width], [0, 0], &buffers)?;
    Ok([values, log_sum_exp])
}

fn launch(
    gpu: &Gpu,
    constants: Constants,
    [n_parts, rows, width]: [usize; 3],
    [merged_base, merged_lse_base]: [u32; 2],
    buffers: &[View<'_>],
) -> Result<()> {
    let bindings = constants.bindings();
    let variant = Variant { name: "merge_attention", constants: &constants, bindings: &bindings, untrusted: None };
    let pipeline = gpu.pipeline(&variant)?;
    let n_groups = (rows * width).div_ceil(GROUP);
    let params = Params {
        n_parts: n_parts as u32,
        rows: rows as u32,
        width: width as u32,
        n_groups: n_groups as u32,
        masked: MASKED,
        merged_base,
        merged_lse_base,
        headroom: HEADROOM,
        zero: 0,
        reference_step: REFERENCE_STEP,
        steps_of_one: 1.0 / REFERENCE_STEP,
        padding: 0,
    };
    gpu.dispatch(&Dispatch {
        pipeline: &pipeline,
        buffers,
        params: bytemuck::bytes_of(&params),
        n_groups: n_groups as u64,
        cost: 16.0 * ((n_parts + 2 * constants.n_states) * rows * width) as f64,
    })
}

/// Every text that this operation may compile, by name.
pub(crate) fn variants() -> Vec<(String, Result<String>)> {
    let all = [PARTS, FIRST_WRITE, WRITE, STATES, READ];
    let name = |constants: &Constants| format!("merge_attention {constants:?}");
    all.iter().map(|constants| (name(constants), shader::expand("merge_attention", constants))).collect()
}
