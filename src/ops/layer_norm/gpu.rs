//! Launches `shaders/layer_norm.wgsl`.

use std::sync::Arc;

use serde::Serialize;

use super::problem::{LARGE, SHRINK, SMALL, SMALLEST};
use crate::{
    device::gpu::{Gpu, Kernel, Shader, Work, params},
    error::Result,
    tensor::Tensor,
};

const KERNEL: Kernel<Constants, Params> = Kernel::new("layer_norm", include_str!("../../../shaders/layer_norm.wgsl"));

/// Rows that one workgroup takes, and threads that share a row.
const ROWS: usize = 4;
const LANES: usize = 16;

#[derive(Clone, Copy, Debug, Serialize)]
struct Constants {
    has_residual: bool,
    rows: usize,
    lanes: usize,
}

params! {
    Params {
        rows: u32,
        width: u32,
        n_groups: u32,
        epsilon: f32,
        x_base: u32,
        residual_base: u32,
        y_base: u32,
        large: f32,
        small: f32,
        shrink: f32,
        grow: f32,
        smallest: f32,
    }
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
    let y = gpu.allocate(x.len())?;
    let launch = gpu.kernel(&KERNEL, &Constants { has_residual: residual.is_some(), rows: ROWS, lanes: LANES })?;
    let launch = match residual {
        Some(residual) => launch.read_rows("residual", residual, width),
        None => launch,
    };
    let work = Work { cost: 10.0 * width as f64, iterations: 3 * (width.div_ceil(LANES) + LANES) };
    launch.read_rows("x", x, width).read("scale", scale).read("bias", bias).write_rows("y", &y, width).rows(
        x.len() / width,
        work,
        |rows| {
            let params = Params {
                rows: rows as u32,
                width: width as u32,
                epsilon,
                large: LARGE * SHRINK,
                // Deviations as they are summed, shrunk.
                small: if epsilon < SMALL { SHRINK * SMALL.sqrt() } else { 0.0 },
                shrink: SHRINK,
                grow: 1.0 / SHRINK,
                smallest: SMALLEST,
                ..Params::default()
            };
            (params, rows.div_ceil(ROWS))
        },
    )?;
    Ok(Tensor::from_gpu(x.shape().to_vec(), gpu, y))
}

/// Every text that this operation may compile.
pub(crate) fn shaders() -> Result<Vec<Shader>> {
    let constants = |has_residual| Constants { has_residual, rows: ROWS, lanes: LANES };
    KERNEL.shaders([("".into(), constants(false)), ("residual".into(), constants(true))])
}
