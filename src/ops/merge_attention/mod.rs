//! The exact merge of attention over disjoint keys. Split keys, a context that does not fit
//! in memory and the rolling update of constant-memory attention (arXiv 2305.14567,
//! equation 4) are all this one function: what is merged are results of attention, and the
//! states of [`rolling_attention`](crate::ops::rolling_attention), which keep more digits.

pub(crate) mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
mod problem;

use crate::{
    error::{Error, Result, check_shape, check_shapes},
    ops::softmax::Attention,
    tensor::{Storage, Tensor, check_operands, n_elements},
};
pub(crate) use problem::state_width;

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
/// A part whose log-sum-exp is below half of [`MASKED`](crate::ops::scan_attention::MASKED) has read
/// nothing: its values are not looked at, whatever they are. A row of which that is so of every part
/// is zeros with that sentinel. A log-sum-exp that is NaN or plus infinity makes its row NaN.
///
/// A log-sum-exp in f32 is rounded, by up to `6e-8 |l|`, and the weight of a part changes by as much
/// relative to the others: by a thousandth at logits of `2e4`, and at `1e7` a part of one key may
/// weigh as much as one of two. [`scan_attention`](crate::ops::scan_attention()) merges its own splits
/// by their largest logits and sums instead, which lose nothing; what is merged from outside, and
/// the writes of [`RollingAttention`](crate::ops::RollingAttention), cannot be better than this.
///
/// # Errors
/// No parts, shapes that do not fit each other, tensors on different devices.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::merge_attention};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::cpu();
/// // Two parts of one row; the second has three times the weight.
/// let values = Tensor::new(&device, &[2, 1, 1], &[4.0, 8.0])?;
/// let log_sum_exp = Tensor::new(&device, &[2, 1], &[0.0, 3f32.ln()])?;
/// let merged = merge_attention(&values, &log_sum_exp)?;
/// assert!((merged.values.read()?[0] - 7.0).abs() < 1e-5);
/// assert!((merged.log_sum_exp.read()?[0] - 4f32.ln()).abs() < 1e-5);
/// # Ok(())
/// # }
/// ```
pub fn merge_attention(values: &Tensor, log_sum_exp: &Tensor) -> Result<Attention> {
    let (of_values, of_lse) = (values.shape(), log_sum_exp.shape());
    let n_parts = of_lse.first().copied().unwrap_or(0);
    let is_full = n_parts > 0 && !log_sum_exp.is_empty();
    check_shape(is_full, OP, "log_sum_exp", of_lse, "[n_parts, ..], nothing empty")?;
    let width = values.len() / log_sum_exp.len();
    let fit = of_values.first() == Some(&n_parts) && width > 0 && width * log_sum_exp.len() == values.len();
    let rule = "both begin with n_parts, and values holds a multiple of the elements of log_sum_exp";
    check_shapes(fit, OP, ("values", of_values), ("log_sum_exp", of_lse), rule)?;
    check_operands(OP, &[("values", Some(values)), ("log_sum_exp", Some(log_sum_exp))], &[])?;
    match values.storage() {
        Storage::Cpu(cpu, _) => {
            let (merged, lse) = cpu::merge_attention(n_parts, width, values.cpu(), log_sum_exp.cpu())?;
            Ok(Attention {
                values: Tensor::from_cpu(*cpu, values.shape()[1..].to_vec(), merged),
                log_sum_exp: Tensor::from_cpu(*cpu, log_sum_exp.shape()[1..].to_vec(), lse),
            })
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::merge_attention(gpu, n_parts, width, values, log_sum_exp),
    }
}

/// The state of what one or two states and a part hold together; `shape` is that of the result,
/// `[.., 3 + 2 width]`. The caller has checked that all fit and are on one device.
pub(crate) fn merge_states(states: &[&Tensor], part: Option<&Attention>, shape: Vec<usize>) -> Result<Tensor> {
    let sizes = sizes(&shape);
    let Some(first) = states.first().copied().or(part.map(|part| &part.values)) else {
        return Err(Error::shape(OP, "states", &[0], "one or more"));
    };
    match first.storage() {
        Storage::Cpu(cpu, _) => {
            let states: Vec<&[f32]> = states.iter().map(|state| state.cpu()).collect();
            let merged = cpu_inputs(&states, part, sizes).state()?;
            Ok(Tensor::from_cpu(*cpu, shape, merged))
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => Ok(Tensor::from_gpu(shape, gpu, gpu::merge_states(gpu, states, part, sizes)?)),
    }
}

/// What attention over all the keys of a state reads.
pub(crate) fn read_state(state: &Tensor, values_shape: Vec<usize>, lse_shape: Vec<usize>) -> Result<Attention> {
    let sizes = sizes(state.shape());
    let (values, log_sum_exp) = match state.storage() {
        Storage::Cpu(cpu, _) => {
            let (values, lse) = cpu_inputs(&[state.cpu()], None, sizes).attention()?;
            (Tensor::from_cpu(*cpu, values_shape, values), Tensor::from_cpu(*cpu, lse_shape, lse))
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => {
            let [values, lse] = gpu::read_state(gpu, state, sizes)?;
            (Tensor::from_gpu(values_shape, gpu, values), Tensor::from_gpu(lse_shape, gpu, lse))
        }
    };
    Ok(Attention { values, log_sum_exp })
}

/// Rows of a state, and columns of its values.
fn sizes(state: &[usize]) -> [usize; 2] {
    let state_width = state.last().copied().unwrap_or(3);
    [n_elements(state) / state_width.max(1), (state_width.max(3) - 3) / 2]
}

fn cpu_inputs<'a>(states: &'a [&'a [f32]], part: Option<&'a Attention>, [rows, width]: [usize; 2]) -> cpu::Inputs<'a> {
    let (values, log_sum_exp) = part.map_or((&[][..], &[][..]), |part| (part.values.cpu(), part.log_sum_exp.cpu()));
    cpu::Inputs { states, n_parts: usize::from(part.is_some()), values, log_sum_exp, rows, width }
}
