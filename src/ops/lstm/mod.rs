//! A long short-term memory of one layer (Hochreiter and Schmidhuber 1997, as PyTorch computes
//! it).

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
mod problem;

use super::{Activation, linear};
use crate::{
    error::{Error, Result},
    tensor::{Storage, Tensor, check_same_device},
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
    let &[hidden, width] = layer.hidden.shape() else {
        return Err(Error::Shape {
            op: OP,
            name: "hidden",
            found: layer.hidden.shape().to_vec(),
            expected: "[hidden, 4 hidden]".into(),
        });
    };
    if hidden == 0 || width != 4 * hidden || layer.input.weight.shape().last() != Some(&width) {
        return Err(Error::ShapeMismatch {
            op: OP,
            left_name: "hidden",
            left: layer.hidden.shape().to_vec(),
            right_name: "input.weight",
            right: layer.input.weight.shape().to_vec(),
            rule: "they must be [hidden, 4 hidden] and [n_in, 4 hidden]",
        });
    }
    let &[batch, n, _] = x.shape() else {
        return Err(Error::Shape { op: OP, name: "x", found: x.shape().to_vec(), expected: "[batch, n, n_in]".into() });
    };
    if let Some(state) = state
        && *state.shape() != [batch, 2, hidden]
    {
        return Err(Error::Shape {
            op: OP,
            name: "state",
            found: state.shape().to_vec(),
            expected: format!("[batch, 2, hidden] = [{batch}, 2, {hidden}]"),
        });
    }
    check_same_device(OP, x, &[Some(&layer.hidden), state])?;
    let gates = linear(x, &layer.input, Activation::None, None)?;
    let sizes = [batch, n, hidden];
    match x.storage() {
        Storage::Cpu(_) => {
            let before = state.map_or_else(|| vec![0.0; batch * 2 * hidden], |state| state.cpu().to_vec());
            let (values, state) = cpu::lstm(sizes, gates.cpu(), layer.hidden.cpu(), before);
            Ok(LstmOutput {
                values: Tensor::from_cpu(sizes.to_vec(), values),
                state: Tensor::from_cpu(vec![batch, 2, hidden], state),
            })
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => gpu::lstm(gpu, sizes, &gates, &layer.hidden, state),
    }
}
