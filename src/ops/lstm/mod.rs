//! A long short-term memory of one layer (Hochreiter and Schmidhuber 1997, as PyTorch computes
//! it).

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
pub use problem::{Lstm, LstmOutput, MAX_HIDDEN};

const OP: &str = "lstm";

/// `c = sigmoid(f) c + sigmoid(i) tanh(g)`, `h = sigmoid(o) tanh(c)` for every step of
/// `x [batch, n, n_in]`, beginning with `state [batch, 2, hidden]` (h and c), or with zeros.
///
/// What the inputs add to the gates is one dense layer over all steps; the recurrence then runs
/// over the whole sequence on the device.
///
/// # Errors
/// Shapes that do not fit; different devices; on a GPU, a hidden state wider than
/// [`MAX_HIDDEN`] or an operand larger than one binding.
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
    let (of_hidden, of_input) = (layer.hidden.shape(), layer.input.weight.shape());
    let &[hidden, width] = of_hidden else {
        return Err(Error::shape(OP, "hidden", of_hidden, "[hidden, 4 hidden]"));
    };
    let fit = hidden > 0 && width == 4 * hidden && of_input.last() == Some(&width);
    let rule = "they must be [hidden, 4 hidden] and [n_in, 4 hidden]";
    check_shapes(fit, OP, ("hidden", of_hidden), ("input.weight", of_input), rule)?;
    let &[batch, n, _] = x.shape() else {
        return Err(Error::shape(OP, "x", x.shape(), "[batch, n, n_in]"));
    };
    check_size(&[batch, n, 4, hidden])?;
    if let Some(found) = state.map(Tensor::shape) {
        let expected = format_args!("[batch, 2, hidden] = [{batch}, 2, {hidden}]");
        check_shape(*found == [batch, 2, hidden], OP, "state", found, expected)?;
    }
    check_operands(OP, &[("x", Some(x)), ("hidden", Some(&layer.hidden)), ("state", state)], &[])?;
    let gates = linear(x, &layer.input, Activation::None, None)?;
    let sizes = [batch, n, hidden];
    match x.storage() {
        Storage::Cpu(cpu, _) => {
            let before = state.map_or_else(|| zeros(&[batch, 2, hidden]), |state| copy(state.cpu()))?;
            let (values, state) = cpu::lstm(cpu.0, sizes, gates.cpu(), layer.hidden.cpu(), before)?;
            Ok(LstmOutput {
                values: Tensor::from_cpu(*cpu, sizes.to_vec(), values),
                state: Tensor::from_cpu(*cpu, vec![batch, 2, hidden], state),
            })
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::lstm(gpu, sizes, &gates, &layer.hidden, state),
    }
}
