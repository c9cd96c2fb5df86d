//! Launches `shaders/unit_norm.wgsl`.

use std::sync::Arc;

use serde::Serialize;

use crate::{
    device::gpu::{Gpu, Kernel, Shader, Work, params},
    error::Result,
    tensor::Tensor,
};

const KERNEL: Kernel<Constants, Params> = Kernel::new("unit_norm", include_str!("../../../shaders/unit_norm.wgsl"));

/// Rows that one workgroup takes, and threads that share a row.
const CONSTANTS: Constants = Constants { rows: 4, lanes: 16 };

#[derive(Clone, Copy, Debug, Serialize)]
struct Constants {
    rows: usize,
    lanes: usize,
}

params! {
    Params {
        rows: u32,
        width: u32,
        n_groups: u32,
        x_base: u32,
        y_base: u32,
    }
}

pub(super) fn unit_norm(gpu: &Arc<Gpu>, x: &Tensor, width: usize) -> Result<Tensor> {
    let Constants { rows: of_group, lanes } = CONSTANTS;
    let y = gpu.allocate(x.len())?;
    let work = Work { cost: 10.0 * width as f64, iterations: 3 * width.div_ceil(lanes) + 2 * lanes };
    gpu.kernel(&KERNEL, &CONSTANTS)?.read_rows("x", x, width).write_rows("y", &y, width).rows(
        x.len() / width,
        work,
        |rows| {
            let params = Params { rows: rows as u32, width: width as u32, ..Params::default() };
            (params, rows.div_ceil(of_group))
        },
    )?;
    Ok(Tensor::from_gpu(x.shape().to_vec(), gpu, y))
}

/// The one text of this operation.
pub(crate) fn shaders() -> Result<Vec<Shader>> {
    KERNEL.shaders([("".into(), CONSTANTS)])
}
