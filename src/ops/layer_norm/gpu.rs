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

/// Threads of a workgroup: fewer would leave GPUs busy with starting groups.
const THREADS: usize = 128;

/// Threads that share a row, up to so many numbers wide and of any width: what threads add up of each other should
/// be little beside what they add up themselves.
const NARROW: usize = 128;
const LANES: [usize; 2] = [8, 16];

/// Storage buffers of a text, which with vectors share none.
const VECTOR_BUFFERS: u32 = 5;

#[derive(Clone, Copy, Debug, Serialize)]
struct Constants {
    has_residual: bool,
    vectors: bool,
    rows: usize,
    lanes: usize,
}

impl Constants {
    fn new(has_residual: bool, vectors: bool, lanes: usize) -> Self {
        Self { has_residual, vectors, rows: THREADS / lanes, lanes }
    }
}

params! {
    Params {
        rows: u32,
        width: u32,
        n_groups: u32,
        epsilon: f32,
        epsilon_of_large: f32,
        epsilon_of_small: f32,
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
    let vectors = width.is_multiple_of(4) && gpu.capabilities().storage_buffers >= VECTOR_BUFFERS;
    let constants = Constants::new(residual.is_some(), vectors, LANES[usize::from(width > NARROW)]);
    let launch = gpu.kernel(&KERNEL, &constants)?;
    let launch = match residual {
        Some(residual) => launch.read_rows("residual", residual, width),
        None => launch,
    };
    let elements = if vectors { width / 4 } else { width };
    let iterations = 3 * elements.div_ceil(constants.lanes) + 2 * constants.lanes;
    let work = Work { cost: 10.0 * width as f64, iterations };
    launch.read_rows("x", x, width).read("scale", scale).read("bias", bias).write_rows("y", &y, width).rows(
        x.len() / width,
        work,
        |rows| {
            let params = Params {
                rows: rows as u32,
                width: elements as u32,
                epsilon,
                epsilon_of_large: epsilon * SHRINK * SHRINK,
                epsilon_of_small: if epsilon < SMALL { epsilon / SHRINK / SHRINK } else { 0.0 },
                large: LARGE,
                small: if epsilon < SMALL { SMALL.sqrt() } else { 0.0 },
                shrink: SHRINK,
                grow: 1.0 / SHRINK,
                smallest: SMALLEST,
                ..Params::default()
            };
            (params, rows.div_ceil(constants.rows))
        },
    )?;
    Ok(Tensor::from_gpu(x.shape().to_vec(), gpu, y))
}

/// Every text that this operation may compile.
pub(crate) fn shaders() -> Result<Vec<Shader>> {
    let mut all = Vec::new();
    for (residual, has_residual) in [("", false), ("residual ", true)] {
        for (elements, vectors) in [("vectors", true), ("scalars", false)] {
            for lanes in LANES {
                let label = format!("{residual}{elements}, {lanes} threads a row");
                all.push((label, Constants::new(has_residual, vectors, lanes)));
            }
        }
    }
    KERNEL.shaders(all)
}
