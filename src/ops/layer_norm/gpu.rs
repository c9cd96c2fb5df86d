//! Launches `shaders/layer_norm.wgsl`.

use std::sync::Arc;

use serde::Serialize;

use super::{LARGE, SHRINK, SMALLEST};
use crate::{
    device::gpu::{Access, Dispatch, Gpu, Variant, shader},
    error::Result,
    tensor::Tensor,
};

/// Rows that one workgroup takes.
const ROWS_PER_GROUP: usize = 4;

/// The constants of the shader's text.
#[derive(Clone, Copy, Debug, Serialize)]
struct Constants {
    has_residual: bool,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    width: u32,
    n_groups: u32,
    epsilon: f32,
    x_base: u32,
    residual_base: u32,
    y_base: u32,
    large: f32,
    shrink: f32,
    smallest: f32,
    padding: [u32; 2],
}

pub(super) fn layer_norm(
    gpu: &Arc<Gpu>,
    x: &Tensor,
    scale: &Tensor,
    bias: &Tensor,
    epsilon: f32,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let width = scale.len();
    let rows = x.len() / width;
    let constants = Constants { has_residual: residual.is_some() };
    let mut bindings = vec![(0, Access::Read), (1, Access::Read), (2, Access::Read)];
    bindings.extend(constants.has_residual.then_some((3, Access::Read)));
    bindings.push((4, Access::Write));
    let variant = Variant { name: "layer_norm", constants: &constants, bindings: &bindings, untrusted: None };
    let pipeline = gpu.pipeline(&variant)?;
    let y = gpu.allocate(x.len())?;
    let cost_of_row = 10.0 * width as f64;
    for piece in gpu.row_pieces(rows, width, cost_of_row) {
        let (x_view, x_base) = x.gpu().elements(piece.start * width, piece.end * width);
        let (y_view, y_base) = y.elements(piece.start * width, piece.end * width);
        let mut buffers = vec![x_view, scale.gpu().first(width), bias.gpu().first(width)];
        let mut residual_base = 0;
        if let Some(residual) = residual {
            let (view, base) = residual.gpu().elements(piece.start * width, piece.end * width);
            buffers.push(view);
            residual_base = base;
        }
        buffers.push(y_view);
        let n_groups = piece.len().div_ceil(ROWS_PER_GROUP);
        let params = Params {
            rows: piece.len() as u32,
            width: width as u32,
            n_groups: n_groups as u32,
            epsilon,
            x_base,
            residual_base,
            y_base,
            large: LARGE * SHRINK,
            shrink: SHRINK,
            smallest: SMALLEST,
            padding: [0; 2],
        };
        gpu.dispatch(&Dispatch {
            pipeline: &pipeline,
            buffers: &buffers,
            params: bytemuck::bytes_of(&params),
            n_groups: n_groups as u64,
            cost: cost_of_row * piece.len() as f64,
        })?;
    }
    Ok(Tensor::from_gpu(x.shape().to_vec(), gpu, y))
}

/// Every text that this operation may compile, by name.
pub(crate) fn variants() -> Vec<(String, Result<String>)> {
    [false, true]
        .map(|has_residual| {
            let constants = Constants { has_residual };
            (format!("layer_norm {constants:?}"), shader::expand("layer_norm", &constants))
        })
        .into()
}
