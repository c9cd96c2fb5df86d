//! The long short-term attention memory (arXiv 2302.09422, section 4.2): a recurrent cell whose
//! state is an attention memory for each head.

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
mod problem;

use super::{Activation, linear};
use crate::{
    error::{Error, Result, check_shape, check_shapes},
    host::{copy, zeros},
    tensor::{Storage, Tensor, check_operands, check_size},
};
use problem::Problem;
pub use problem::{Direction, Lsam, LsamOutput, LsamState};

const OP: &str = "lsam";

/// Reads every step of `x [batch, n, n_in]` in one direction, beginning with a state or with zeros:
///
/// ```text
/// [q | k | v], w, r of [x ; h];   q, k unit vectors, w, r sigmoids
/// M = M + w (v - M k) k^T;   h = r M q
/// ```
///
/// What the inputs add is one dense layer over all steps; the recurrence then runs over the whole
/// sequence on the device, without a step back to the host.
///
/// # Errors
/// Shapes that do not fit; different devices; on a GPU, a state that workgroup memory does not
/// hold (`4 d_model + 4 n_heads` numbers against [`Capabilities::workgroup_bytes`](crate::device::Capabilities::workgroup_bytes)) or an operand larger than one
/// binding.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::{Direction, Linear, Lsam, lsam}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// // One head of one number: q = k = 1 and v = 3, the gates open, whatever comes in.
/// let bias = Some(Tensor::new(&device, &[5], &[1.0, 1.0, 3.0, 100.0, 100.0])?);
/// let input = Linear { weight: Tensor::zeros(&device, &[1, 5])?, bias };
/// let layer = Lsam { n_heads: 1, input, hidden: Tensor::zeros(&device, &[1, 5])? };
/// let output = lsam(&Tensor::zeros(&device, &[1, 2, 1])?, &layer, None, Direction::Forward)?;
/// // The second write finds 3 and changes nothing.
/// assert!(output.values.read()?.iter().all(|h| (h - 3.0).abs() < 1e-5));
/// # Ok(())
/// # }
/// ```
pub fn lsam(x: &Tensor, layer: &Lsam, state: Option<&LsamState>, direction: Direction) -> Result<LsamOutput> {
    let &[batch, n, _] = x.shape() else {
        return Err(Error::shape(OP, "x", x.shape(), "[batch, n, n_in]"));
    };
    let n_heads = layer.n_heads;
    let d_model = layer.hidden.shape().first().copied().unwrap_or(0);
    let width = n_heads.saturating_mul(2).saturating_add(3 * d_model);
    let fits = n_heads > 0 && d_model > 0 && d_model.is_multiple_of(n_heads);
    let (hidden, input) = (layer.hidden.shape(), layer.input.weight.shape());
    let fit = fits && *hidden == [d_model, width] && input.last() == Some(&width);
    let rule = "they must be [d_model, 3 d_model + 2 n_heads] and [n_in, 3 d_model + 2 n_heads], d_model a multiple of n_heads";
    check_shapes(fit, OP, ("hidden", hidden), ("input.weight", input), rule)?;
    let problem = Problem { batch, n, n_heads, dim: d_model / n_heads };
    check_size(&problem.memory_shape())?;
    if let Some(state) = state {
        let (hidden, memory) = (state.hidden.shape(), state.memory.shape());
        let (of_hidden, of_memory) = ([batch, d_model], problem.memory_shape());
        check_shape(*hidden == of_hidden, OP, "state.hidden", hidden, format_args!("{of_hidden:?}"))?;
        check_shape(*memory == of_memory, OP, "state.memory", memory, format_args!("{of_memory:?}"))?;
    }
    let operands = [
        ("x", Some(x)),
        ("hidden", Some(&layer.hidden)),
        ("state.hidden", state.map(|state| &state.hidden)),
        ("state.memory", state.map(|state| &state.memory)),
    ];
    check_operands(OP, &operands, &[])?;
    let reverse = direction == Direction::Reverse;
    let z = linear(x, &layer.input, Activation::None, None)?;
    match x.storage() {
        Storage::Cpu(cpu, _) => {
            let mut hidden = state.map_or_else(|| zeros(&[batch, d_model]), |state| copy(state.hidden.cpu()))?;
            let shape = problem.memory_shape();
            let mut memory = state.map_or_else(|| zeros(&shape), |state| copy(state.memory.cpu()))?;
            let values = cpu::lsam(cpu.0, &problem, z.cpu(), layer.hidden.cpu(), &mut hidden, &mut memory, reverse)?;
            let state = LsamState {
                hidden: Tensor::from_cpu(*cpu, vec![batch, d_model], hidden),
                memory: Tensor::from_cpu(*cpu, problem.memory_shape().to_vec(), memory),
            };
            Ok(LsamOutput { values: Tensor::from_cpu(*cpu, vec![batch, n, d_model], values), state })
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::lsam(gpu, &problem, &z, &layer.hidden, state, reverse),
    }
}
