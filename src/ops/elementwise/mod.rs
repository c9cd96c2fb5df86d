//! What is done number by number: one kernel, with an arm for each operation.
//!
//! To add one: an arm of [`Map`] or `Join` in `problem.rs`, an arm in `shaders/elementwise.wgsl`,
//! an arm in `cpu.rs`.

pub(crate) mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
mod probabilities;
mod problem;

use std::ops::Range;

use crate::{
    error::{Error, Result, check_argument, check_shape, check_shapes},
    tensor::{Storage, Tensor, check_operands, check_size, n_elements},
};
pub use probabilities::{Probabilities, gate};
pub use problem::Map;
use problem::{Join, Rows};

/// One number after another: `y` has the shape of `x`.
///
/// # Errors
/// The device has no room.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::{Map, map}};
/// # fn main() -> wgpu_attention::Result<()> {
/// let x = Tensor::new(&Device::best(), &[3], &[-1.0, 0.0, 2.0])?;
/// assert_eq!(map(&x, Map::Relu)?.read()?, [0.0, 0.0, 2.0]);
/// # Ok(())
/// # }
/// ```
pub fn map(x: &Tensor, map: Map) -> Result<Tensor> {
    check_operands("map", &[("x", Some(x))], &[])?;
    match x.storage() {
        Storage::Cpu(cpu, _) => Ok(Tensor::from_cpu(*cpu, x.shape().to_vec(), cpu::map(map, x.cpu())?)),
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::map(gpu, map, x),
    }
}

/// `max(x, 0)`, for where no dense layer comes before it that it could be fused with.
///
/// # Errors
/// As [`map`].
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::relu};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let x = Tensor::new(&Device::best(), &[3], &[-1.0, 0.0, 2.0])?;
/// assert_eq!(relu(&x)?.read()?, [0.0, 0.0, 2.0]);
/// # Ok(())
/// # }
/// ```
pub fn relu(x: &Tensor) -> Result<Tensor> {
    map(x, Map::Relu)
}

/// The result of a join, of a shape that the caller has checked.
fn join(join: Join, rows: Rows, shape: Vec<usize>, a: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    match a.storage() {
        Storage::Cpu(cpu, _) => {
            Ok(Tensor::from_cpu(*cpu, shape, cpu::join(cpu.0, join, &rows, a.cpu(), b.map_or(&[], Tensor::cpu))?))
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::join(gpu, join, rows, shape, a, b),
    }
}

/// `a + scale * b`, where the shape of `b` is that of the last dimensions of `a`: `b` is repeated
/// along the others.
///
/// # Errors
/// A shape of `b` that is not the end of that of `a`; a scale that is not finite; different
/// devices; on a GPU, a `b` larger than one binding.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::add};
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// let a = Tensor::new(&device, &[2, 2], &[1.0, 2.0, 3.0, 4.0])?;
/// let b = Tensor::new(&device, &[2], &[10.0, 20.0])?;
/// assert_eq!(add(&a, &b, 0.5)?.read()?, [6.0, 12.0, 8.0, 14.0]);
/// # Ok(())
/// # }
/// ```
pub fn add(a: &Tensor, b: &Tensor, scale: f32) -> Result<Tensor> {
    const OP: &str = "add";
    let (of_a, of_b) = (a.shape(), b.shape());
    let rule = "the shape of b must be that of the last dimensions of a";
    check_shapes(of_a.ends_with(of_b), OP, ("a", of_a), ("b", of_b), rule)?;
    check_argument(scale.is_finite(), OP, "scale", scale, "a finite number")?;
    check_operands(OP, &[("a", Some(a)), ("b", Some(b))], &[])?;
    if a.is_empty() {
        return Ok(a.clone());
    }
    let rows = Rows { scale, ..beside(a, b) };
    join(Join::AddScaled, rows, a.shape().to_vec(), a, Some(b))
}

/// `x [.., width]` times a number for each column, `scale [width]`, or for each number, `scale` of the shape of `x`.
///
/// # Errors
/// Another width; different devices.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::scale_columns};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// let x = Tensor::new(&device, &[2, 2], &[1.0, 2.0, 3.0, 4.0])?;
/// let scale = Tensor::new(&device, &[2], &[10.0, 100.0])?;
/// assert_eq!(scale_columns(&x, &scale)?.read()?, [10.0, 200.0, 30.0, 400.0]);
/// assert_eq!(scale_columns(&x, &x)?.read()?, [1.0, 4.0, 9.0, 16.0]);
/// # Ok(())
/// # }
/// ```
pub fn scale_columns(x: &Tensor, scale: &Tensor) -> Result<Tensor> {
    const OP: &str = "scale_columns";
    let (of_x, of_scale) = (x.shape(), scale.shape());
    let fit = of_x == of_scale || (of_scale.len() == 1 && of_x.ends_with(of_scale));
    let rule = "x must be [.., width] and scale [width] or of the shape of x";
    check_shapes(fit, OP, ("x", of_x), ("scale", of_scale), rule)?;
    check_operands(OP, &[("x", Some(x)), ("scale", Some(scale))], &[])?;
    if x.is_empty() {
        return Ok(x.clone());
    }
    join(Join::ScaleColumns, beside(x, scale), x.shape().to_vec(), x, Some(scale))
}

/// Some columns of `x [.., n]`: `[.., columns.len()]`.
///
/// # Errors
/// No last dimension, or columns that do not exist.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::columns};
/// # fn main() -> wgpu_attention::Result<()> {
/// let x = Tensor::new(&Device::best(), &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?;
/// assert_eq!(columns(&x, 1..3)?.read()?, [2.0, 3.0, 5.0, 6.0]);
/// # Ok(())
/// # }
/// ```
pub fn columns(x: &Tensor, columns: Range<usize>) -> Result<Tensor> {
    const OP: &str = "columns";
    let rows = left_columns(OP, "x", x, &columns)?;
    check_operands(OP, &[("x", Some(x))], &[])?;
    join(Join::Columns, rows, with_last(x, rows.width), x, None)
}

/// Some columns of `left [.., n]` and all of `right [.., m]`, side by side:
/// `[.., columns.len() + m]`.
///
/// # Errors
/// Shapes that differ in more than the last dimension, columns that do not exist, tensors on
/// different devices.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::concat};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// let left = Tensor::new(&device, &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?;
/// let right = Tensor::new(&device, &[2, 1], &[7.0, 8.0])?;
/// assert_eq!(concat(&left, 1..3, &right)?.read()?, [2.0, 3.0, 7.0, 5.0, 6.0, 8.0]);
/// # Ok(())
/// # }
/// ```
pub fn concat(left: &Tensor, columns: Range<usize>, right: &Tensor) -> Result<Tensor> {
    const OP: &str = "concat";
    let rows = left_columns(OP, "left", left, &columns)?;
    let (of_left, of_right) = (left.shape(), right.shape());
    let m = of_right.last().copied().unwrap_or(0);
    let fit = of_left.len() == of_right.len() && of_left[..of_left.len() - 1] == of_right[..of_left.len() - 1];
    let rule = "all dimensions but the last must be equal";
    check_shapes(fit, OP, ("left", of_left), ("right", of_right), rule)?;
    check_operands(OP, &[("left", Some(left)), ("right", Some(right))], &[])?;
    let rows = Rows { width: rows.width + m, b_width: m, b_stride: m, ..rows };
    let shape = with_last(left, rows.width);
    check_size(&shape)?;
    join(Join::Concat, rows, shape, left, Some(right))
}

/// `a gelu(g)` for `x = [a, g]`, `[.., 2 width]` to `[.., width]`: the first half of a row is the
/// value, the second the gate; the gelu is the exact one (GEGLU, arXiv 2002.05202).
///
/// # Errors
/// A last dimension that is empty or odd.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::geglu};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// // Two rows: a gate of 0 is shut, and far above 0 the gelu is its argument.
/// let x = Tensor::new(&Device::best(), &[2, 2], &[3.0, 0.0, 3.0, 10.0])?;
/// let y = geglu(&x)?.read()?;
/// assert!(y[0] == 0.0 && (y[1] - 30.0).abs() < 1e-4);
/// # Ok(())
/// # }
/// ```
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let both = x.shape().last().copied().unwrap_or(0);
    check_shape(both > 0 && both % 2 == 0, "geglu", "x", x.shape(), "[.., 2 width] with width > 0")?;
    check_operands("geglu", &[("x", Some(x))], &[])?;
    let rows = Rows { a_width: both, ..whole(x.len() / both, both / 2, 0) };
    join(Join::Geglu, rows, with_last(x, both / 2), x, None)
}

/// `x` where a mask of its rows, one number each, is not zero; else zeros, whatever `x` is. The
/// caller has checked that they fit.
pub(crate) fn keep(x: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let rows = Rows { b_stride: 1, ..whole(mask.len(), x.len() / mask.len().max(1), 1) };
    join(Join::Keep, rows, x.shape().to_vec(), x, Some(mask))
}

/// What comes behind the columns of [`widened`].
pub(crate) enum Number<'a> {
    /// One number for all rows, or one for each.
    Given(&'a Tensor),
    /// The sum of the columns' squares times this.
    Squares(f32),
}

/// The first `used` columns of `x [.., n]`, a number, and zeros: `[.., width]`. The caller has checked that they fit.
pub(crate) fn widened(x: &Tensor, used: usize, number: &Number<'_>, width: usize) -> Result<Tensor> {
    let shape = with_last(x, width);
    check_size(&shape)?;
    let b = match *number {
        Number::Given(b) => Some(b),
        Number::Squares(_) => None,
    };
    let (kind, rows) = widening(x, used, number, width);
    join(kind, rows, shape, x, b)
}

/// What [`widened`] is, and of which sizes.
fn widening(x: &Tensor, used: usize, number: &Number<'_>, width: usize) -> (Join, Rows) {
    let a_width = x.shape().last().copied().unwrap_or(1);
    let rows = Rows { a_width, a_used: used, ..whole(x.len() / a_width, width, 0) };
    match *number {
        Number::Given(b) => (Join::Widen, Rows { b_width: 1, b_stride: usize::from(b.len() > 1), ..rows }),
        Number::Squares(scale) => (Join::WidenBySquares, Rows { scale, ..rows }),
    }
}

/// Rows of `a`, and of `b` where there are as many numbers; else `b` is one row, for all. The caller has checked that
/// `b` is as wide as the last dimensions of `a`, which is not empty.
fn beside(a: &Tensor, b: &Tensor) -> Rows {
    // Equal shapes are rows of their last dimension, which can be cut; a `b` that is repeated is
    // needed whole.
    let is_equal = a.len() == b.len();
    let width = if is_equal { a.shape().last().copied().unwrap_or(1) } else { b.len() };
    Rows { b_stride: if is_equal { width } else { 0 }, ..whole(a.len() / width, width, width) }
}

/// Rows of `a` and of the result alike.
fn whole(rows: usize, width: usize, b_width: usize) -> Rows {
    Rows { rows, width, a_width: width, b_width, b_stride: 0, a_first: 0, a_used: width, scale: 1.0 }
}

fn left_columns(op: &'static str, name: &'static str, x: &Tensor, columns: &Range<usize>) -> Result<Rows> {
    let Some((&n, rows)) = x.shape().split_last() else {
        return Err(Error::shape(op, name, &[], "[.., n]"));
    };
    let exist = columns.start <= columns.end && columns.end <= n;
    check_argument(exist, op, "columns", format_args!("{columns:?}"), format_args!("a range within 0..{n}"))?;
    let used = columns.len();
    let of = whole(n_elements(rows), used, 0);
    Ok(Rows { a_width: n, a_first: columns.start, a_used: used, ..of })
}

/// The shape of `x` with another last dimension.
fn with_last(x: &Tensor, last: usize) -> Vec<usize> {
    let mut shape = x.shape().to_vec();
    shape.pop();
    shape.push(last);
    shape
}
