//! Rows side by side.

#[cfg(feature = "gpu")]
pub(crate) mod gpu;

use std::ops::Range;

use crate::{
    error::{Error, Result},
    tensor::{Storage, Tensor, check_same_device},
};

const OP: &str = "concat";

/// Some columns of `left [.., n]` and all of `right [.., m]`, side by side:
/// `[.., columns.len() + m]`.
///
/// # Errors
/// Shapes that differ in more than the last dimension, columns that do not exist, tensors on
/// different devices; on a GPU, an operand larger than one binding.
pub fn concat(left: &Tensor, columns: Range<usize>, right: &Tensor) -> Result<Tensor> {
    let (Some((&n, rows)), Some((&m, right_rows))) = (left.shape().split_last(), right.shape().split_last()) else {
        return Err(Error::Shape { op: OP, name: "left", found: left.shape().to_vec(), expected: "[.., n]".into() });
    };
    if rows != right_rows {
        return Err(Error::ShapeMismatch {
            op: OP,
            left_name: "left",
            left: left.shape().to_vec(),
            right_name: "right",
            right: right.shape().to_vec(),
            rule: "all dimensions but the last must be equal",
        });
    }
    if columns.start > columns.end || columns.end > n {
        return Err(Error::Argument {
            op: OP,
            name: "columns",
            found: format!("{columns:?}"),
            allowed: format!("a range within 0..{n}"),
        });
    }
    check_same_device(OP, left, &[Some(right)])?;
    let mut shape = rows.to_vec();
    shape.push(columns.len() + m);
    match left.storage() {
        Storage::Cpu(_) => {
            let n_rows: usize = rows.iter().product();
            let mut y = Vec::with_capacity(n_rows * (columns.len() + m));
            for row in 0..n_rows {
                y.extend_from_slice(&left.cpu()[row * n..][columns.clone()]);
                y.extend_from_slice(&right.cpu()[row * m..][..m]);
            }
            Ok(Tensor::from_cpu(shape, y))
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::concat(gpu, left, columns, right, shape),
    }
}
