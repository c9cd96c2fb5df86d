//! Launches `shaders/linear.wgsl`.

use std::sync::Arc;

use serde::Serialize;

use super::{
    plan::{VARIANTS, plan},
    problem::{Activation, Linear, Problem},
};
use crate::{
    device::gpu::{Gpu, Kernel, Shader, Work, params},
    error::Result,
    tensor::Tensor,
};

const KERNEL: Kernel<Constants, Params> = Kernel::new("linear", include_str!("../../../shaders/linear.wgsl"));

/// Numbers of each operand, along the sum, that are in workgroup memory at once.
const DEPTH: usize = 16;

#[derive(Clone, Copy, Debug, Serialize)]
struct Constants {
    activation: Activation,
    has_bias: bool,
    has_residual: bool,
    /// Threads along each side of a workgroup.
    threads: usize,
    depth: usize,
}

params! {
    Params {
        rows: u32,
        n_in: u32,
        n_out: u32,
        n_groups: u32,
        n_tiles: u32,
        x_base: u32,
        residual_base: u32,
        y_base: u32,
    }
}

pub(super) fn linear(
    gpu: &Arc<Gpu>,
    problem: &Problem,
    shape: Vec<usize>,
    x: &Tensor,
    layer: &Linear,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let Problem { rows, n_in, n_out, activation } = *problem;
    let threads = plan(problem, gpu.capabilities())?.threads;
    let (has_bias, has_residual) = (layer.bias.is_some(), residual.is_some());
    let y = gpu.allocate(rows * n_out)?;
    let launch = gpu.kernel(&KERNEL, &Constants { activation, has_bias, has_residual, threads, depth: DEPTH })?;
    let launch = match residual {
        Some(residual) => launch.read_rows("residual", residual, n_out),
        None => launch,
    };
    // Of every slice: four depths a turn, and what a thread loads.
    let iterations = n_in.div_ceil(DEPTH) * (1 + DEPTH / 4 + 2 * DEPTH.div_ceil(threads));
    let tile = 4 * threads;
    let n_tiles = n_out.div_ceil(tile);
    launch
        .read_rows("x", x, n_in)
        .read("weight", &layer.weight)
        .read_some("bias", layer.bias.as_ref())
        .write_rows("y", &y, n_out)
        .rows(rows, Work { cost: problem.cost_of_row(), iterations }, |rows| {
            let params = Params {
                rows: rows as u32,
                n_in: n_in as u32,
                n_out: n_out as u32,
                n_tiles: n_tiles as u32,
                ..Params::default()
            };
            (params, rows.div_ceil(tile) * n_tiles)
        })?;
    Ok(Tensor::from_gpu(shape, gpu, y))
}

/// Every text that this operation may compile.
pub(crate) fn shaders() -> Result<Vec<Shader>> {
    let mut all = Vec::new();
    for activation in [Activation::None, Activation::Relu, Activation::GeluTanh, Activation::GeluErf] {
        for (has_bias, has_residual) in [(false, false), (true, false), (false, true), (true, true)] {
            for (_, threads) in VARIANTS {
                let constants = Constants { activation, has_bias, has_residual, threads, depth: DEPTH };
                let label = format!("{activation:?} bias={has_bias} residual={has_residual} tile={}", 4 * threads);
                all.push((label, constants));
            }
        }
    }
    KERNEL.shaders(all)
}
