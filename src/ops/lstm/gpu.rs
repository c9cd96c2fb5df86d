//! Launches `shaders/lstm.wgsl`.

use std::sync::Arc;

use serde::Serialize;

use super::problem::{LstmOutput, MAX_HIDDEN};
use crate::{
    device::gpu::{Gpu, Kernel, Shader, Work, params},
    error::{Result, check_limit},
    tensor::Tensor,
};

const KERNEL: Kernel<Constants, Params> = Kernel::new("lstm", include_str!("../../../shaders/lstm.wgsl"));

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

params! {
    Params {
        n: u32,
        hidden: u32,
        first_step: u32,
        end: u32,
        n_groups: u32,
    }
}

pub(super) fn lstm(
    gpu: &Arc<Gpu>,
    [batch, n, hidden]: [usize; 3],
    gates: &Tensor,
    weight: &Tensor,
    state: Option<&Tensor>,
) -> Result<LstmOutput> {
    check_limit("hidden numbers of lstm on a GPU", hidden as u64, MAX_HIDDEN as u64)?;
    let constants = Constants::new(hidden);
    let state = Tensor::own(state, &[batch, 2, hidden], &gates.device())?;
    let y = gpu.allocate(batch * n * hidden)?;
    let work = Work {
        cost: (hidden * (8 * hidden + 50)) as f64,
        // The test that ends a loop counts as one.
        iterations: hidden.div_ceil(constants.threads) * (hidden + 2) + 2,
    };
    gpu.kernel(&KERNEL, &constants)?
        .read("gates", gates)
        .read("weight", weight)
        .write("state", &state)
        .write("y", &y)
        .steps(n, batch, work, |steps| Params {
            n: n as u32,
            hidden: hidden as u32,
            first_step: steps.start as u32,
            end: steps.end as u32,
            ..Params::default()
        })?;
    Ok(LstmOutput { values: Tensor::from_gpu(vec![batch, n, hidden], gpu, y), state })
}

/// The texts that this operation may compile.
pub(crate) fn shaders() -> Result<Vec<Shader>> {
    KERNEL.shaders([64, 128, 256, 512, MAX_HIDDEN].map(|hidden| (format!("{hidden}"), Constants::new(hidden))))
}
