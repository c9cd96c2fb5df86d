//! Launches `shaders/geglu.wgsl`.

use std::sync::Arc;

use serde::Serialize;

use crate::{
    device::gpu::{Access, Dispatch, Gpu, Variant, shader},
    error::Result,
    ops::Activation,
    tensor::Tensor,
};

/// Threads in a workgroup, one for each number.
const GROUP: usize = 64;

/// The constants of the shader's text.
#[derive(Clone, Copy, Debug, Serialize)]
struct Constants {
    activation: Activation,
}

const CONSTANTS: Constants = Constants { activation: Activation::GeluErf };

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    n: u32,
    width: u32,
    x_base: u32,
    y_base: u32,
}

pub(super) fn geglu(gpu: &Arc<Gpu>, x: &Tensor, width: usize, shape: Vec<usize>) -> Result<Tensor> {
    let bindings = [(0, Access::Read), (1, Access::Write)];
    let variant = Variant { name: "geglu", constants: &CONSTANTS, bindings: &bindings, untrusted: None };
    let pipeline = gpu.pipeline(&variant)?;
    let rows = x.len() / (2 * width);
    let y = gpu.allocate(rows * width)?;
    let cost_of_row = 20.0 * width as f64;
    for piece in gpu.row_pieces(rows, 2 * width, cost_of_row) {
        let (x_view, x_base) = x.gpu().elements(piece.start * 2 * width, piece.end * 2 * width);
        let (y_view, y_base) = y.elements(piece.start * width, piece.end * width);
        let n = piece.len() * width;
        let params = Params { n: n as u32, width: width as u32, x_base, y_base };
        gpu.dispatch(&Dispatch {
            pipeline: &pipeline,
            buffers: &[x_view, y_view],
            params: bytemuck::bytes_of(&params),
            n_groups: n.div_ceil(GROUP) as u64,
            cost: cost_of_row * piece.len() as f64,
        })?;
    }
    Ok(Tensor::from_gpu(shape, gpu, y))
}

/// The one text of this operation.
pub(crate) fn variants() -> Vec<(String, Result<String>)> {
    vec![("geglu".into(), shader::expand("geglu", &CONSTANTS))]
}
