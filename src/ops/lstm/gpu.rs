//! Launches `shaders/lstm.wgsl`.

use std::sync::Arc;

use serde::Serialize;

use super::{LstmOutput, MAX_HIDDEN};
use crate::{
    device::gpu::{Access, Dispatch, Gpu, Variant, shader},
    error::{Error, Result},
    tensor::Tensor,
};

/// The constants of the shader's text.
#[derive(Clone, Copy, Debug, Serialize)]
struct Constants {
    /// A power of two that the hidden state fits.
    hidden: usize,
    threads: usize,
}

impl Constants {
    fn new(hidden: usize) -> Self {
        let hidden = hidden.next_power_of_two().max(64);
        Self { hidden, threads: hidden.min(256) }
    }
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    n: u32,
    hidden: u32,
    first_step: u32,
    end: u32,
    first_group: u32,
    n_groups: u32,
    padding: [u32; 2],
}

pub(super) fn lstm(
    gpu: &Arc<Gpu>,
    [batch, n, hidden]: [usize; 3],
    gates: &Tensor,
    weight: &Tensor,
    state: Option<&Tensor>,
) -> Result<LstmOutput> {
    if hidden > MAX_HIDDEN {
        return Err(Error::LimitExceeded {
            limit: "hidden numbers of lstm on a GPU",
            requested: hidden as u64,
            allowed: MAX_HIDDEN as u64,
        });
    }
    let constants = Constants::new(hidden);
    let bindings = [(0, Access::Read), (1, Access::Read), (2, Access::Write), (3, Access::Write)];
    let variant = Variant { name: "lstm", constants: &constants, bindings: &bindings, untrusted: None };
    let pipeline = gpu.pipeline(&variant)?;
    let state = Tensor::own(state, &[batch, 2, hidden], &gates.device())?;
    let len = batch * n * hidden;
    gpu.check_bindings(&[gates.len(), weight.len()])?;
    let y = gpu.allocate(len)?;
    let iterations = hidden.div_ceil(constants.threads) * (hidden + 1) + 1;
    let (steps, cost_of_step) = gpu.recurrence(batch, (hidden * (8 * hidden + 50)) as f64, iterations);
    for first in (0..n).step_by(steps) {
        let end = n.min(first.saturating_add(steps));
        let params = Params {
            n: n as u32,
            hidden: hidden as u32,
            first_step: first as u32,
            end: end as u32,
            first_group: 0,
            n_groups: batch as u32,
            padding: [0; 2],
        };
        gpu.dispatch(&Dispatch {
            pipeline: &pipeline,
            buffers: &[
                gates.gpu().first(gates.len()),
                weight.gpu().first(weight.len()),
                state.gpu().first(state.len()),
                y.first(len),
            ],
            params: bytemuck::bytes_of(&params),
            n_groups: batch as u64,
            cost: cost_of_step * (end - first) as f64,
        })?;
    }
    Ok(LstmOutput { values: Tensor::from_gpu(vec![batch, n, hidden], gpu, y), state })
}

/// The texts that this operation may compile, by name.
pub(crate) fn variants() -> Vec<(String, Result<String>)> {
    [64, 128, 256, 512, MAX_HIDDEN]
        .map(|hidden| {
            let constants = Constants::new(hidden);
            (format!("lstm {constants:?}"), shader::expand("lstm", &constants))
        })
        .into()
}
