//! Launches `shaders/linear.wgsl`.

use std::sync::Arc;

use serde::Serialize;

use super::{Activation, Linear, Problem};
use crate::{
    device::gpu::{Access, Dispatch, Gpu, Variant},
    error::Result,
    tensor::Tensor,
};

/// The constants of the shader's text.
#[derive(Clone, Copy, Debug, Serialize)]
struct Constants {
    activation: Activation,
    has_bias: bool,
    has_residual: bool,
    /// Threads along each side of a workgroup.
    threads: u32,
    /// How many numbers of each operand are in workgroup memory at once.
    depth: u32,
}

impl Constants {
    fn bindings(&self) -> Vec<(u32, Access)> {
        let mut bindings = vec![(0, Access::Read), (1, Access::Read)];
        bindings.extend(self.has_bias.then_some((2, Access::Read)));
        bindings.extend(self.has_residual.then_some((3, Access::Read)));
        bindings.push((4, Access::Write));
        bindings
    }
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    n_in: u32,
    n_out: u32,
    n_groups: u32,
    n_tiles: u32,
    x_base: u32,
    residual_base: u32,
    y_base: u32,
}

/// Large tiles read less memory; small problems need many groups more.
fn threads(rows: usize, n_out: usize) -> u32 {
    if rows >= 1024 && n_out >= 64 { 16 } else { 8 }
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
    let constants = Constants {
        activation,
        has_bias: layer.bias.is_some(),
        has_residual: residual.is_some(),
        threads: threads(rows, n_out),
        depth: 16,
    };
    let bindings = constants.bindings();
    let variant = Variant { name: "linear", constants: &constants, bindings: &bindings, untrusted: None };
    let pipeline = gpu.pipeline(&variant)?;
    let y = gpu.allocate(rows * n_out)?;
    let tile = 4 * constants.threads as usize;
    let cost_of_row = 2.0 * n_in as f64 * n_out as f64;
    for piece in gpu.row_pieces(rows, n_in.max(n_out), cost_of_row) {
        let (x_view, x_base) = x.gpu().elements(piece.start * n_in, piece.end * n_in);
        let (y_view, y_base) = y.elements(piece.start * n_out, piece.end * n_out);
        let mut buffers = vec![x_view, layer.weight.gpu().first(n_in * n_out)];
        buffers.extend(layer.bias.as_ref().map(|bias| bias.gpu().first(n_out)));
        let mut residual_base = 0;
        if let Some(residual) = residual {
            let (view, base) = residual.gpu().elements(piece.start * n_out, piece.end * n_out);
            buffers.push(view);
            residual_base = base;
        }
        buffers.push(y_view);
        let n_tiles = n_out.div_ceil(tile);
        let n_groups = piece.len().div_ceil(tile) * n_tiles;
        let params = Params {
            rows: piece.len() as u32,
            n_in: n_in as u32,
            n_out: n_out as u32,
            n_groups: n_groups as u32,
            n_tiles: n_tiles as u32,
            x_base,
            residual_base,
            y_base,
        };
        gpu.dispatch(&Dispatch {
            pipeline: &pipeline,
            buffers: &buffers,
            params: bytemuck::bytes_of(&params),
            n_groups: n_groups as u64,
            cost: cost_of_row * piece.len() as f64,
        })?;
    }
    Ok(Tensor::from_gpu(shape, gpu, y))
}

/// Every text that this operation may compile, by name.
pub(crate) fn variants() -> Vec<(String, Result<String>)> {
    let mut variants = Vec::new();
    for activation in [Activation::None, Activation::Relu, Activation::GeluTanh, Activation::GeluErf] {
        for (has_bias, has_residual) in [(false, false), (true, false), (false, true), (true, true)] {
            for threads in [8, 16] {
                let constants = Constants { activation, has_bias, has_residual, threads, depth: 16 };
                let text = crate::device::gpu::shader::expand("linear", &constants);
                variants.push((format!("linear {constants:?}"), text));
            }
        }
    }
    variants
}
