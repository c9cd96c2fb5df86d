//! The exact merge of attention over disjoint keys. Split keys, a context that does not fit
//! in memory and the rolling update of constant-memory attention (arXiv 2305.14567,
//! equation 4) are all this one function.

pub(crate) mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;

use crate::{
    error::{Error, Result},
    ops::Attention,
    tensor::{Storage, Tensor, check_same_device},
};

const OP: &str = "merge_attention";

/// Merges `n_parts` partial results of attention, over disjoint keys and for the same
/// queries, into what attention over all the keys would have read.
///
/// `values` is `[n_parts, .., width]` and `log_sum_exp` is `[n_parts, ..]` with natural
/// logarithms; every number of `log_sum_exp` belongs to `values.len() / log_sum_exp.len()`
/// consecutive numbers of `values`, so both layouts of
/// [`scan_attention`](crate::ops::scan_attention()) fit. The result has the shapes without
/// their first dimension:
///
/// `l = log sum_p e^(l_p)`, `values = sum_p e^(l_p - l) values_p`.
///
/// A row that has no valid key in any part stays zeros with the sentinel
/// [`MASKED`](crate::ops::scan_attention::MASKED).
///
/// # Errors
/// No parts, shapes that do not fit each other, tensors on different devices.
pub fn merge_attention(values: &Tensor, log_sum_exp: &Tensor) -> Result<Attention> {
    let n_parts = log_sum_exp.shape().first().copied().unwrap_or(0);
    if n_parts == 0 || log_sum_exp.is_empty() {
        return Err(Error::Shape {
            op: OP,
            name: "log_sum_exp",
            found: log_sum_exp.shape().to_vec(),
            expected: "[n_parts, ..], nothing empty".into(),
        });
    }
    let width = values.len() / log_sum_exp.len();
    if values.shape().first() != Some(&n_parts) || width == 0 || width * log_sum_exp.len() != values.len() {
        return Err(Error::ShapeMismatch {
            op: OP,
            left_name: "values",
            left: values.shape().to_vec(),
            right_name: "log_sum_exp",
            right: log_sum_exp.shape().to_vec(),
            rule: "both begin with n_parts, and values holds a multiple of the elements of log_sum_exp",
        });
    }
    check_same_device(OP, values, &[Some(log_sum_exp)])?;
    match values.storage() {
        Storage::Cpu(_) => {
            let (merged, lse) = cpu::merge_attention(n_parts, width, values.cpu(), log_sum_exp.cpu());
            Ok(Attention {
                values: Tensor::from_cpu(values.shape()[1..].to_vec(), merged),
                log_sum_exp: Tensor::from_cpu(log_sum_exp.shape()[1..].to_vec(), lse),
            })
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::merge_attention(gpu, n_parts, width, values, log_sum_exp),
    }
}
