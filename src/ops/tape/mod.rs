//! The tapes of a NAM Turing machine (arXiv 2302.09422, section 4.3): attention memories whose
//! keys are positions, and heads that move or jump.

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
mod options;
#[cfg(feature = "gpu")]
mod plan;
mod problem;

use super::{columns, concat};
use crate::{
    error::Result,
    host::{copy, zeros},
    tensor::{Storage, Tensor},
};
pub use options::{HeadMoves, KeyErase, TapeErase, TapeOptions, TapeProbabilities};
use problem::{Problem, check};
pub use problem::{TapeInputs, TapeOutput, TapeState};

/// All steps of all tapes, beginning with a state or with zeros and both heads on slot 0. What it
/// returns goes on where it ended: a sequence in parts is the sequence at once.
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
/// different devices; on a GPU, an operand larger than
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
/// assert!(near(output.values.read()?, [5.0, 5.0]) && near(output.state.tape.read()?, [5.0, 7.0]));
/// # Ok(())
/// # }
/// ```
pub fn tape(inputs: &TapeInputs<'_>, options: TapeOptions, state: Option<&TapeState>) -> Result<TapeOutput> {
    let problem = check(inputs, options, state)?;
    let Problem { batch, n, n_tapes, slots, mem, .. } = problem;
    let values_shape = vec![batch, n, n_tapes * mem];
    let state = begin(&problem, inputs.value, state)?;
    let (values, state) = match inputs.value.storage() {
        Storage::Cpu(cpu, _) => {
            let mut state = copy(state.cpu())?;
            let values = cpu::tape(cpu.0, &problem, inputs, &mut state)?;
            let state = Tensor::from_cpu(*cpu, vec![batch, n_tapes, problem.state_len()], state);
            (Tensor::from_cpu(*cpu, values_shape, values), state)
        }
        #[cfg(feature = "gpu")]
        Storage::Gpu(gpu, _) => (gpu::tape(gpu, &problem, inputs, &state, values_shape)?, state),
    };
    let part = |range, shape: [usize; 2]| columns(&state, range)?.reshape(&[batch, n_tapes, shape[0], shape[1]]);
    let (of_tape, of_cells) = (slots * mem, problem.n_cells());
    let state = TapeState {
        tape: part(0..of_tape, [slots, mem])?,
        keys: options.heads.jumps().then(|| part(of_tape..of_cells, [slots, mem])).transpose()?,
        heads: Some(part(of_cells..problem.state_len(), [2, slots])?),
    };
    Ok(TapeOutput { values, state })
}

/// The state before the first step, `[batch, n_tapes, state_len]`, in a tensor of its own.
fn begin(problem: &Problem, value: &Tensor, state: Option<&TapeState>) -> Result<Tensor> {
    let Problem { batch, n_tapes, slots, mem, options, .. } = *problem;
    let device = value.device();
    // Zeros, and behind them both heads on slot 0.
    let fresh = |n_zeros: usize| {
        let len = n_zeros + 2 * slots;
        let mut numbers = zeros(&[batch, n_tapes, len])?;
        for numbers in numbers.chunks_exact_mut(len) {
            numbers[len - 2 * slots] = 1.0;
            numbers[len - slots] = 1.0;
        }
        Tensor::new(&device, &[batch, n_tapes, len], &numbers)
    };
    let Some(TapeState { tape, keys, heads }) = state else { return fresh(problem.n_cells()) };
    let row = |x: &Tensor, len: usize| x.reshape(&[batch, n_tapes, len]);
    let of_keys = if options.heads.jumps() { slots * mem } else { 0 };
    let rest = match (keys, heads) {
        (None, None) => fresh(of_keys)?,
        (keys, heads) => {
            let heads = heads.as_ref().map_or_else(|| fresh(0), |heads| row(heads, 2 * slots))?;
            let zeros = || Tensor::zeros(&device, &[batch, n_tapes, of_keys]);
            let keys = keys.as_ref().map_or_else(zeros, |keys| row(keys, of_keys))?;
            concat(&keys, 0..of_keys, &heads)?
        }
    };
    concat(&row(tape, slots * mem)?, 0..slots * mem, &rest)
}
