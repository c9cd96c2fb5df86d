//! The long short-term attention memory (arXiv 2302.09422, section 4.2): a recurrent cell whose
//! state is an attention memory for each head.

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
#[cfg(feature = "gpu")]
mod plan;
mod problem;

use super::{Activation, linear};
use crate::{
    error::Result,
    host::{copy, zeros},
    tensor::{Storage, Tensor},
};
pub use problem::{Direction, Lsam, LsamOutput, LsamState};

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
/// Shapes that do not fit; different devices; on a GPU, an operand larger than one binding.
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
    let problem = layer.problem(x, state)?;
    let (batch, n, d_model) = (problem.batch, problem.n, problem.d_model());
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
