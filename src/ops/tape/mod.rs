//! The tapes of a NAM Turing machine (arXiv 2302.09422, section 4.3): attention memories whose
//! keys are positions, and heads that move or jump.

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
mod options;
#[cfg(feature = "gpu")]
mod plan;
mod problem;

use super::concat;
use crate::{
    error::Result,
    host::{copy, zeros},
    tensor::{Storage, Tensor},
};
pub use options::{HeadMoves, KeyErase, TapeErase, TapeOptions, TapeProbabilities};
pub use problem::{MAX_TAPE_LENGTH, TapeInputs, TapeOutput};
use problem::{Problem, check};

/// All steps of all tapes, beginning with `tape [batch, n_tapes, tape_length, mem_size]` or with
/// zeros. Keys are zero and both heads on slot 0 at the beginning, always.
///
/// With `^` for division by the length over the slots (not without jumps), one step is
///
/// ```text
/// T = T + W^ (p_w v - p_e sum_l T_l W^_l);   read = p_r sum_l T_l R^_l
/// K_l = K_l + (p_w W_l - p_e K_l . k) k;     J_l = K_l . q
/// W = d_0 back(W) + d_1 W + d_2 on(W) + d_3 J, and R likewise
/// ```
///
/// The read head is where it was before it moves. The tape is a ring. The table of keys is erased
/// by content and its heads are as they are, as in the authors' code since May 2023; the paper
/// erases it by position, `K = K + W^ (p_w k - p_e sum_l K_l W^_l)`, and has `p_e = p_w`, see
/// [`TapeOptions`].
///
/// # Errors
/// Shapes that do not fit; a tape of length 0; keys or queries that are missing or too many;
/// different devices; on a GPU, a tape longer than [`MAX_TAPE_LENGTH`] or an operand larger than
/// one binding.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::{HeadMoves, TapeInputs, TapeOptions, tape}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let device = Device::best();
/// // Two steps on a tape of two slots: the read head stays, the write head goes on.
/// let value = Tensor::new(&device, &[1, 2, 1], &[5.0, 7.0])?;
/// let step = [0.0, 99.0, 0.0, /* write head */ 0.0, 0.0, 99.0, /* p_r, p_w, p_e */ 99.0, 99.0, 99.0];
/// let action = Tensor::new(&device, &[1, 2, 9], &step.repeat(2))?;
/// let inputs = TapeInputs { value: &value, key: None, query: None, action: &action, n_tapes: 1, tape_length: 2 };
/// let output = tape(&inputs, TapeOptions { heads: HeadMoves::NoJump, ..Default::default() }, None)?;
/// let near = |a: Vec<f32>, b: [f32; 2]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
/// assert!(near(output.values.read()?, [5.0, 5.0]) && near(output.tape.read()?, [5.0, 7.0]));
/// # Ok(())
/// # }
/// ```
pub fn tape(inputs: &TapeInputs<'_>, options: TapeOptions, tape: Option<&Tensor>) -> Result<TapeOutput> {
    let problem = check(inputs, options, tape)?;
    let Problem { batch, n, n_tapes, slots, mem, .. } = problem;
    let values_shape = vec![batch, n, n_tapes * mem];
    let state = begin(&problem, inputs.value, tape)?;
    let (values, state) = match inputs.value.storage() {
        Storage::Cpu(_) => {
            let mut state = copy(state.cpu())?;
            let values = cpu::tape(&problem, inputs, &mut state)?;
            let state = Tensor::from_cpu(vec![batch, n_tapes, problem.state_len()], state);
            (Tensor::from_cpu(values_shape, values), state)
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => (gpu::tape(gpu, &problem, inputs, &state, values_shape)?, state),
    };
    let nothing = Tensor::new(&state.device(), &[batch, n_tapes, 0], &[])?;
    let tape = concat(&state, 0..slots * mem, &nothing)?.reshape(&[batch, n_tapes, slots, mem])?;
    Ok(TapeOutput { values, tape })
}

/// The state before the first step, `[batch, n_tapes, state_len]`, in a tensor of its own.
fn begin(problem: &Problem, value: &Tensor, tape: Option<&Tensor>) -> Result<Tensor> {
    let Problem { batch, n_tapes, slots, mem, .. } = *problem;
    let given = if tape.is_some() { slots * mem } else { 0 };
    let len = problem.state_len() - given;
    let mut rest = zeros(&[batch, n_tapes, len])?;
    for state in rest.chunks_exact_mut(len) {
        state[len - 2 * slots] = 1.0;
        state[len - slots] = 1.0;
    }
    let rest = Tensor::new(&value.device(), &[batch, n_tapes, len], &rest)?;
    match tape {
        Some(tape) => concat(&tape.reshape(&[batch, n_tapes, given])?, 0..given, &rest),
        None => Ok(rest),
    }
}
