//! Launches `shaders/elementwise.wgsl`.

use std::sync::Arc;

use serde::Serialize;

use super::problem::{Join, Map, Rows};
use crate::{
    device::gpu::{Gpu, Kernel, Shader, Work, params},
    error::Result,
    tensor::Tensor,
};

const KERNEL: Kernel<Constants, Params> = Kernel::new("elementwise", include_str!("../../../shaders/elementwise.wgsl"));

/// Threads in a workgroup, one for each number.
pub(crate) const THREADS: usize = 64;

/// Floating-point operations of a number, about.
const COST: f64 = 8.0;

#[derive(Clone, Copy, Debug, Serialize)]
struct Constants {
    operation: Operation,
    has_b: bool,
    threads: usize,
    /// Of the activation in `lib/activation.wgsl`.
    activation: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Operation {
    Map(Map),
    Join(Join),
}

params! {
    Params {
        n: u32,
        width: u32,
        a_width: u32,
        a_first: u32,
        a_used: u32,
        b_width: u32,
        b_stride: u32,
        scale: f32,
        a_base: u32,
        b_base: u32,
        y_base: u32,
    }
}

impl Constants {
    fn new(operation: Operation) -> Self {
        let has_b = matches!(operation, Operation::Join(join) if join.has_b());
        Self { operation, has_b, threads: THREADS, activation: "gelu_erf" }
    }
}

pub(super) fn map(gpu: &Arc<Gpu>, map: Map, x: &Tensor) -> Result<Tensor> {
    let y = gpu.allocate(x.len())?;
    gpu.kernel(&KERNEL, &Constants::new(Operation::Map(map)))?.read_rows("a", x, 1).write_rows("y", &y, 1).rows(
        x.len(),
        Work { cost: COST, iterations: 0 },
        |n| (Params { n: n as u32, width: 1, a_width: 1, a_used: 1, ..Params::default() }, n.div_ceil(THREADS)),
    )?;
    Ok(Tensor::from_gpu(x.shape().to_vec(), gpu, y))
}

pub(super) fn join(
    gpu: &Arc<Gpu>,
    join: Join,
    sizes: Rows,
    shape: Vec<usize>,
    a: &Tensor,
    b: Option<&Tensor>,
) -> Result<Tensor> {
    let Rows { rows, width, .. } = sizes;
    let y = gpu.allocate(rows * width)?;
    let launch = gpu.kernel(&KERNEL, &Constants::new(Operation::Join(join)))?;
    let launch = match b {
        Some(b) if sizes.b_stride > 0 => launch.read_rows("b", b, sizes.b_stride),
        b => launch.read_some("b", b),
    };
    let work = Work { cost: COST * width as f64, iterations: 0 };
    launch.read_rows("a", a, sizes.a_width).write_rows("y", &y, width).rows(rows, work, |rows| {
        let params = Params {
            n: (rows * width) as u32,
            width: width as u32,
            a_width: sizes.a_width as u32,
            a_first: sizes.a_first as u32,
            a_used: sizes.a_used as u32,
            b_width: sizes.b_width as u32,
            b_stride: sizes.b_stride as u32,
            scale: sizes.scale,
            ..Params::default()
        };
        (params, (rows * width).div_ceil(THREADS))
    })?;
    Ok(Tensor::from_gpu(shape, gpu, y))
}

/// Every text that this operation may compile.
pub(crate) fn shaders() -> Result<Vec<Shader>> {
    let maps = Map::ALL.map(|map| (format!("{map:?}"), Constants::new(Operation::Map(map))));
    let joins = Join::ALL.map(|join| (format!("{join:?}"), Constants::new(Operation::Join(join))));
    KERNEL.shaders(maps.into_iter().chain(joins))
}
