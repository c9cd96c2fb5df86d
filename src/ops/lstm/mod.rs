//! A long short-term memory of one layer (Hochreiter and Schmidhuber 1997, as PyTorch computes
//! it).

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
use problem::Problem;
pub use problem::{Lstm, LstmOutput};

/// `c = sigmoid(f) c + sigmoid(i) tanh(g)`, `h = sigmoid(o) tanh(c)` for every step of
/// `x [batch, n, n_in]`, beginning with `state [batch, 2, hidden]` (h and c), or with zeros.
///
/// What the inputs add to the gates is one dense layer over all steps; the recurrence then runs
/// over the whole sequence on the device.
///
/// # Errors
/// Shapes that do not fit; different devices; on a GPU, an operand larger than one
/// binding.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::{Linear, Lstm, lstm}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// // All gates are open whatever comes in, so that c counts the steps.
/// let bias = Some(Tensor::new(&device, &[4], &[100.0; 4])?);
/// let input = Linear { weight: Tensor::zeros(&device, &[1, 4])?, bias };
/// let layer = Lstm { input, hidden: Tensor::zeros(&device, &[1, 4])? };
/// let output = lstm(&Tensor::zeros(&device, &[1, 2, 1])?, &layer, None)?;
/// let state = output.state.read()?;
/// assert!((state[1] - 2.0).abs() < 1e-5 && (state[0] - 2f32.tanh()).abs() < 1e-5);
/// # Ok(())
/// # }
/// ```
pub fn lstm(x: &Tensor, layer: &Lstm, state: Option<&Tensor>) -> Result<LstmOutput> {
    let problem = layer.problem(x, state)?;
    let gates = linear(x, &layer.input, Activation::None, None)?;
    match x.storage() {
        Storage::Cpu(cpu, _) => {
            let Problem { batch, n, hidden } = problem;
            let sizes = [batch, n, hidden];
            let before = state.map_or_else(|| zeros(&[batch, 2, hidden]), |state| copy(state.cpu()))?;
            let (values, state) = cpu::lstm(cpu.0, sizes, gates.cpu(), layer.hidden.cpu(), before)?;
            Ok(LstmOutput {
                values: Tensor::from_cpu(*cpu, sizes.to_vec(), values),
                state: Tensor::from_cpu(*cpu, vec![batch, 2, hidden], state),
            })
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::lstm(gpu, &problem, &gates, &layer.hidden, state),
    }
}
