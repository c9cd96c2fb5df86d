//! Launches `shaders/linear.wgsl`.

use std::sync::Arc;

use serde::Serialize;

use super::{
    plan::{Tile, VARIANTS, plan},
    problem::{Activation, Linear, Problem},
};
use crate::{
    device::gpu::{Gpu, Kernel, Shader, Work, params},
    error::Result,
    tensor::{DType, Tensor},
};

const KERNEL: Kernel<Constants, Params> = Kernel::new("linear", include_str!("../../../shaders/linear.wgsl"));

#[derive(Clone, Copy, Debug, Serialize)]
struct Constants {
    activation: Activation,
    has_bias: bool,
    has_residual: bool,
    /// Whether the weight holds two halves in a word.
    weight_f16: bool,
    threads: usize,
    quads: usize,
    depth: usize,
    has_vectors: bool,
}

impl Constants {
    fn new(tile: Tile, activation: Activation, [has_bias, has_residual, weight_f16]: [bool; 3]) -> Self {
        let Tile { threads, quads, depth, has_vectors } = tile;
        Self { activation, has_bias, has_residual, weight_f16, threads, quads, depth, has_vectors }
    }
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
    let tile = plan(problem, gpu.capabilities())?.tile;
    let y = gpu.allocate(rows * n_out)?;
    let weight_f16 = layer.weight.dtype() == DType::F16;
    let constants = Constants::new(tile, activation, [layer.bias.is_some(), residual.is_some(), weight_f16]);
    let launch = gpu.kernel(&KERNEL, &constants)?;
    let launch = match residual {
        Some(residual) => launch.read_rows("residual", residual, n_out),
        None => launch,
    };
    // Of every slice: the turns of the innermost loop, and of the two of what a thread loads number by number; with each
    // loop the test that ends it.
    let loads = if tile.has_vectors { 0 } else { 2 * ((tile.depth * tile.quads).div_ceil(tile.threads) + 1) };
    let iterations = n_in.div_ceil(tile.depth) * (1 + tile.depth / 4 + 1 + loads);
    let n_tiles = n_out.div_ceil(tile.edge());
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
            (params, rows.div_ceil(tile.edge()) * n_tiles)
        })?;
    Ok(Tensor::from_gpu(shape, gpu, y))
}

/// Every text that this operation may compile.
pub(crate) fn shaders() -> Result<Vec<Shader>> {
    let mut all = Vec::new();
    for activation in [Activation::None, Activation::Relu, Activation::GeluTanh, Activation::GeluErf] {
        for flags in 0..8 {
            let flags @ [has_bias, has_residual, weight_f16] = [1, 2, 4].map(|bit| flags & bit != 0);
            for (name, tile) in VARIANTS {
                let label = format!("{activation:?} bias={has_bias} residual={has_residual} f16={weight_f16} {name}");
                all.push((label, Constants::new(tile, activation, flags)));
            }
        }
    }
    KERNEL.shaders(all)
}
