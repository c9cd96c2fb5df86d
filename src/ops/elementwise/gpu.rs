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

/// Threads in a workgroup, each for one element: fewer would leave GPUs busy with starting groups.
const THREADS: usize = 256;

/// Floating-point operations of a number, about.
const COST: f64 = 8.0;

/// Storage buffers of the texts that read vectors: operands of those share no binding.
const VECTOR_BUFFERS: u32 = 3;

#[derive(Clone, Copy, Debug, Serialize)]
struct Constants {
    operation: Operation,
    has_b: bool,
    has_few_of_b: bool,
    /// Whether all operands are one long row.
    is_flat: bool,
    /// Whether elements are vectors of four numbers.
    vectors: bool,
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
    fn new(operation: Operation, is_flat: bool, vectors: bool) -> Self {
        let (has_b, has_few_of_b) = match operation {
            Operation::Map(_) => (false, false),
            Operation::Join(join) => (join.has_b(), join.has_few_of_b()),
        };
        Self { operation, has_b, has_few_of_b, is_flat, vectors, threads: THREADS, activation: "gelu_erf" }
    }
}

pub(super) fn map(gpu: &Arc<Gpu>, map: Map, x: &Tensor) -> Result<Tensor> {
    run(gpu, Operation::Map(map), flat(x.len(), 1.0), true, x.shape().to_vec(), x, None)
}

pub(super) fn join(
    gpu: &Arc<Gpu>,
    join: Join,
    sizes: Rows,
    shape: Vec<usize>,
    a: &Tensor,
    b: Option<&Tensor>,
) -> Result<Tensor> {
    let is_flat = join.may_be_flat() && sizes.b_stride == sizes.width;
    let sizes = if is_flat { flat(a.len(), sizes.scale) } else { sizes };
    run(gpu, Operation::Join(join), sizes, is_flat, shape, a, b)
}

/// One long row may be cut anywhere, so into vectors if there are whole ones.
fn flat(len: usize, scale: f32) -> Rows {
    let width = if len.is_multiple_of(4) { 4 } else { 1 };
    let (rows, a_first) = (len / width, 0);
    Rows { rows, width, a_width: width, b_width: width, b_stride: width, a_first, a_used: width, scale }
}

/// Whether rows of all operands, and what is looked at of them, are made of whole vectors.
fn are_vectors(sizes: &Rows, has_few_of_b: bool) -> bool {
    let Rows { width, a_width, b_width, b_stride, a_first, a_used, .. } = *sizes;
    // All of a vector meets the same number of b, where there are few.
    let of_b = if has_few_of_b { [width / b_width, 0] } else { [b_width, b_stride] };
    [width, a_width, a_first, a_used].iter().chain(&of_b).all(|n| n.is_multiple_of(4))
}

fn run(
    gpu: &Arc<Gpu>,
    operation: Operation,
    sizes: Rows,
    is_flat: bool,
    shape: Vec<usize>,
    a: &Tensor,
    b: Option<&Tensor>,
) -> Result<Tensor> {
    let Rows { rows, width, .. } = sizes;
    // What is bound of an operand without numbers is shorter than a vector.
    let is_empty = a.is_empty() || b.is_some_and(Tensor::is_empty);
    let can_bind = !is_empty && gpu.capabilities().storage_buffers >= VECTOR_BUFFERS;
    let has_few_of_b = matches!(operation, Operation::Join(join) if join.has_few_of_b());
    let vectors = can_bind && are_vectors(&sizes, has_few_of_b);
    let y = gpu.allocate(rows * width)?;
    let launch = gpu.kernel(&KERNEL, &Constants::new(operation, is_flat, vectors))?;
    let launch = match b {
        Some(b) if sizes.b_stride > 0 => launch.read_rows("b", b, sizes.b_stride),
        b => launch.read_some("b", b),
    };
    let sums = operation == Operation::Join(Join::WidenBySquares);
    let work = Work { cost: COST * width as f64, iterations: if sums { sizes.a_used } else { 0 } };
    launch.read_rows("a", a, sizes.a_width).write_rows("y", &y, width).rows(rows, work, |rows| {
        let of = |size: usize| move |n: usize| (n / size) as u32;
        let of_a = of(if vectors { 4 } else { 1 });
        let of_b = of(if vectors && !has_few_of_b { 4 } else { 1 });
        let params = Params {
            n: of_a(rows * width),
            width: of_a(width),
            a_width: of_a(sizes.a_width),
            a_first: of_a(sizes.a_first),
            a_used: of_a(sizes.a_used),
            b_width: of_b(sizes.b_width),
            b_stride: of_b(sizes.b_stride),
            scale: sizes.scale,
            ..Params::default()
        };
        (params, (params.n as usize).div_ceil(THREADS))
    })?;
    Ok(Tensor::from_gpu(shape, gpu, y))
}

/// Every text that this operation may compile.
pub(crate) fn shaders() -> Result<Vec<Shader>> {
    let mut all = Vec::new();
    let mut add = |name: String, operation, is_flat| {
        for (elements, vectors) in [("vectors", true), ("scalars", false)] {
            let rows = if is_flat { "flat" } else { "rows" };
            all.push((format!("{name} {rows} {elements}"), Constants::new(operation, is_flat, vectors)));
        }
    };
    for map in Map::ALL {
        add(format!("{map:?}"), Operation::Map(map), true);
    }
    for join in Join::ALL {
        add(format!("{join:?}"), Operation::Join(join), false);
        if join.may_be_flat() {
            add(format!("{join:?}"), Operation::Join(join), true);
        }
    }
    KERNEL.shaders(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Device,
        ops::elementwise::{Number, widening},
    };

    /// Which text runs shows in no result.
    #[test]
    fn rows_are_widened_by_vectors_where_their_columns_are_vectors() {
        let zeros = |shape: &[usize]| Tensor::zeros(&Device::cpu(), shape).unwrap();
        for (used, width, vectors) in [(32, 36, true), (4, 8, true), (33, 36, false)] {
            for number in [Number::Squares(1.0), Number::Given(&zeros(&[1])), Number::Given(&zeros(&[7]))] {
                let (join, rows) = widening(&zeros(&[7, used]), used, &number, width);
                assert_eq!(are_vectors(&rows, join.has_few_of_b()), vectors, "{used} of {width}");
            }
        }
    }
}
