//! Launches `shaders/merge_attention.wgsl`.

use std::sync::Arc;

use serde::Serialize;

use super::problem::{HEADROOM, REFERENCE_STEP, state_width};
use crate::{
    device::gpu::{Buffer, Gpu, Kernel, Part, Shader, Work, params},
    error::Result,
    ops::softmax::{Attention, MASKED},
    tensor::Tensor,
};

const KERNEL: Kernel<Constants, Params> =
    Kernel::new("merge_attention", include_str!("../../../shaders/merge_attention.wgsl"));

/// Numbers of a workgroup that has a thread for each.
const OUTPUTS: usize = 64;

/// From so many parts on as many threads share each number, which they read so many of side by side.
const LANES: usize = 64;
const OUTPUTS_OF_LANES: usize = 4;

#[derive(Clone, Copy, Debug, Serialize)]
struct Constants {
    n_states: usize,
    has_parts: bool,
    /// Whether a part has its largest logit and its sum instead of its log-sum-exp.
    has_sums: bool,
    to_state: bool,
    lanes: usize,
    outputs: usize,
}

const PARTS: Constants = Constants::new(0, true, false);

const SPLITS: Constants = Constants { has_sums: true, ..PARTS };

params! {
    Params {
        n_parts: u32,
        rows: u32,
        width: u32,
        masked: f32,
        merged_base: u32,
        merged_log_sum_exp_base: u32,
        headroom: f32,
        zero: u32,
        reference_step: f32,
        steps_of_one: f32,
    }
}

impl Constants {
    const fn new(n_states: usize, has_parts: bool, to_state: bool) -> Self {
        Self { n_states, has_parts, has_sums: false, to_state, lanes: 1, outputs: OUTPUTS }
    }

    /// The same for a number of parts.
    const fn of_parts(self, n_parts: usize) -> Self {
        if n_parts < LANES { self } else { Self { lanes: LANES, outputs: OUTPUTS_OF_LANES, ..self } }
    }
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
    merge_into(
        gpu,
        &PARTS,
        [n_parts, rows, width],
        [values.into(), log_sum_exp.into()],
        [(&merged).into(), (&merged_lse).into()],
    )?;
    Ok(Attention {
        values: Tensor::from_gpu(values.shape()[1..].to_vec(), gpu, merged),
        log_sum_exp: Tensor::from_gpu(log_sum_exp.shape()[1..].to_vec(), gpu, merged_lse),
    })
}

/// Merges values `[n_parts, rows, width]` and, for each part, its largest logits and its sums,
/// `[n_parts, 2, rows]`, into parts of two buffers.
pub(crate) fn merge_splits<'a>(
    gpu: &Gpu,
    sizes: [usize; 3],
    parts: [Part<'a>; 2],
    merged: [Part<'a>; 2],
) -> Result<()> {
    merge_into(gpu, &SPLITS, sizes, parts, merged)
}

fn merge_into<'a>(
    gpu: &Gpu,
    constants: &Constants,
    sizes: [usize; 3],
    [values, log_sum_exp]: [Part<'a>; 2],
    [merged, merged_log_sum_exp]: [Part<'a>; 2],
) -> Result<()> {
    let [n_parts, rows, width] = sizes;
    let constants = constants.of_parts(n_parts);
    gpu.kernel(&KERNEL, &constants)?
        .read("values", values)
        .read("log_sum_exp", log_sum_exp)
        .write("merged", merged)
        .write("merged_log_sum_exp", merged_log_sum_exp)
        .groups((rows * width).div_ceil(constants.outputs), work(n_parts, constants), params(sizes))
}

/// The state of one or two states, or of one and a part, or of a part alone.
pub(super) fn merge_states(
    gpu: &Arc<Gpu>,
    states: &[&Tensor],
    part: Option<&Attention>,
    [rows, width]: [usize; 2],
) -> Result<Buffer> {
    let state = gpu.allocate(rows * state_width(width))?;
    let n_parts = usize::from(part.is_some());
    gpu.kernel(&KERNEL, &Constants::new(states.len(), part.is_some(), true))?
        .read_rows_some("state_0", states.first().copied(), state_width(width))
        .read_rows_some("state_1", states.get(1).copied(), state_width(width))
        .read_rows_some("values", part.map(|part| &part.values), width)
        .read_rows_some("log_sum_exp", part.map(|part| &part.log_sum_exp), 1)
        .write_rows("merged", &state, state_width(width))
        .rows(rows, work_of_row(n_parts + 2, width), |rows| of_rows(n_parts, rows, width))?;
    Ok(state)
}

/// The values and log-sum-exp of a state.
pub(super) fn read_state(gpu: &Arc<Gpu>, state: &Tensor, [rows, width]: [usize; 2]) -> Result<[Buffer; 2]> {
    let (values, log_sum_exp) = (gpu.allocate(rows * width)?, gpu.allocate(rows)?);
    gpu.kernel(&KERNEL, &Constants::new(1, false, false))?
        .read_rows("state_0", state, state_width(width))
        .write_rows("merged", &values, width)
        .write_rows("merged_log_sum_exp", &log_sum_exp, 1)
        .rows(rows, work_of_row(1, width), |rows| of_rows(0, rows, width))?;
    Ok([values, log_sum_exp])
}

/// That of a workgroup: a pass for the largest and a pass for the sums.
fn work(n_parts: usize, Constants { lanes, outputs, .. }: Constants) -> Work {
    Work { cost: 16.0 * (n_parts * outputs) as f64, iterations: 2 * (n_parts.div_ceil(lanes) + lanes) }
}

/// That of a row, where there is no more than one part.
fn work_of_row(n_parts: usize, width: usize) -> Work {
    Work { cost: 16.0 * (n_parts * width) as f64, iterations: 2 }
}

/// The uniform and the workgroups for some rows.
fn of_rows(n_parts: usize, rows: usize, width: usize) -> (Params, usize) {
    (params([n_parts, rows, width]), (rows * width).div_ceil(OUTPUTS))
}

fn params([n_parts, rows, width]: [usize; 3]) -> Params {
    Params {
        n_parts: n_parts as u32,
        rows: rows as u32,
        width: width as u32,
        masked: MASKED,
        headroom: HEADROOM,
        zero: 0,
        reference_step: REFERENCE_STEP,
        steps_of_one: 1.0 / REFERENCE_STEP,
        ..Params::default()
    }
}

/// Every text that this operation may compile.
pub(crate) fn shaders() -> Result<Vec<Shader>> {
    KERNEL.shaders([
        ("parts".into(), PARTS),
        ("splits".into(), SPLITS),
        ("many parts".into(), PARTS.of_parts(LANES)),
        ("many splits".into(), SPLITS.of_parts(LANES)),
        ("first write".into(), Constants::new(0, true, true)),
        ("write".into(), Constants::new(1, true, true)),
        ("states".into(), Constants::new(2, false, true)),
        ("read".into(), Constants::new(1, false, false)),
    ])
}
