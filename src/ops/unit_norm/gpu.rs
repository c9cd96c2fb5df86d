//! Launches `shaders/unit_norm.wgsl`.

use std::sync::Arc;

use crate::{
    device::gpu::{Access, Dispatch, Gpu, Variant, shader},
    error::Result,
    tensor::Tensor,
};

/// Rows that one workgroup takes.
const ROWS_PER_GROUP: usize = 4;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    width: u32,
    n_groups: u32,
    x_base: u32,
    y_base: u32,
    padding: [u32; 3],
}

pub(super) fn unit_norm(gpu: &Arc<Gpu>, x: &Tensor, width: usize) -> Result<Tensor> {
    let bindings = [(0, Access::Read), (1, Access::Write)];
    let variant = Variant { name: "unit_norm", constants: &(), bindings: &bindings, untrusted: None };
    let pipeline = gpu.pipeline(&variant)?;
    let rows = x.len() / width;
    let y = gpu.allocate(x.len())?;
    let cost_of_row = 10.0 * width as f64;
    for piece in gpu.row_pieces(rows, width, cost_of_row) {
        let (x_view, x_base) = x.gpu().elements(piece.start * width, piece.end * width);
        let (y_view, y_base) = y.elements(piece.start * width, piece.end * width);
        let n_groups = piece.len().div_ceil(ROWS_PER_GROUP);
        let params = Params {
            rows: piece.len() as u32,
            width: width as u32,
            n_groups: n_groups as u32,
            x_base,
            y_base,
            padding: [0; 3],
        };
        gpu.dispatch(&Dispatch {
            pipeline: &pipeline,
            buffers: &[x_view, y_view],
            params: bytemuck::bytes_of(&params),
            n_groups: n_groups as u64,
            cost: cost_of_row * piece.len() as f64,
        })?;
    }
    Ok(Tensor::from_gpu(x.shape().to_vec(), gpu, y))
}

/// The one text of this operation.
pub(crate) fn variants() -> Vec<(String, Result<String>)> {
    vec![("unit_norm".into(), shader::expand("unit_norm", &()))]
}
