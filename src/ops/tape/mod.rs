//! The tapes of a NAM Turing machine (arXiv 2302.09422, section 4.3): attention memories whose
//! keys are positions, and heads that move or jump.

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
mod options;
#[cfg(feature = "gpu")]
mod plan;

use super::concat;
use crate::{
    error::{Error, Result},
    tensor::{Storage, Tensor, check_same_device, n_elements},
};
use options::Flags;
pub use options::{HeadMoves, KeyErase, TapeErase, TapeOptions, TapeProbabilities};

const OP: &str = "tape";

/// What drives the tapes. The last dimension of each is `n_tapes` blocks side by side.
#[derive(Clone, Copy, Debug)]
pub struct TapeInputs<'a> {
    /// What is written, `[batch, n, n_tapes * mem_size]`.
    pub value: &'a Tensor,
    /// Unit vectors, of `value`'s shape; none without jumps.
    pub key: Option<&'a Tensor>,
    /// Unit vectors, of `value`'s shape; none without jumps.
    pub query: Option<&'a Tensor>,
    /// `[batch, n, n_tapes * n_actions]`, see [`HeadMoves::n_actions`].
    pub action: &'a Tensor,
    /// Tapes.
    pub n_tapes: usize,
    /// Slots of a tape.
    pub tape_length: usize,
}

/// What was read, and the tapes after the last step.
#[derive(Clone, Debug)]
pub struct TapeOutput {
    /// `[batch, n, n_tapes * mem_size]`.
    pub values: Tensor,
    /// `[batch, n_tapes, tape_length, mem_size]`.
    pub tape: Tensor,
}

/// The sizes of one call, checked.
#[derive(Clone, Copy, Debug)]
struct Problem {
    batch: usize,
    n: usize,
    n_tapes: usize,
    slots: usize,
    mem: usize,
    options: Flags,
}

impl Problem {
    /// Numbers of a tape and its keys.
    fn n_cells(&self) -> usize {
        self.slots * self.mem * if self.options.heads.jumps() { 2 } else { 1 }
    }

    /// Numbers of the state of one tape: tape, keys, read head, write head.
    fn state_len(&self) -> usize {
        self.n_cells() + 2 * self.slots
    }
}

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
/// let options = TapeOptions { heads: HeadMoves::NoJump, ..Default::default() };
/// let output = tape(&inputs, options, None)?;
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
            let mut state = state.cpu().to_vec();
            let values = cpu::tape(&problem, inputs, &mut state);
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

/// The longest tape on a GPU, where the heads are in workgroup memory.
pub const MAX_TAPE_LENGTH: usize = 1024;

/// More than this is a mistake: 8 GiB.
const MAX_NUMBERS: usize = 1 << 31;

/// The state before the first step, `[batch, n_tapes, state_len]`, in a tensor of its own.
fn begin(problem: &Problem, value: &Tensor, tape: Option<&Tensor>) -> Result<Tensor> {
    let Problem { batch, n_tapes, slots, mem, .. } = *problem;
    let given = if tape.is_some() { slots * mem } else { 0 };
    let len = problem.state_len() - given;
    let mut rest = vec![0.0; batch * n_tapes * len];
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

fn check(inputs: &TapeInputs<'_>, options: TapeOptions, tape: Option<&Tensor>) -> Result<Problem> {
    let shape = |name, tensor: &Tensor, expected: String| {
        Err(Error::Shape { op: OP, name, found: tensor.shape().to_vec(), expected })
    };
    let n_tapes = inputs.n_tapes;
    let (batch, n, mem) = match *inputs.value.shape() {
        [batch, n, width] if n_tapes > 0 && width > 0 && width.is_multiple_of(n_tapes) => (batch, n, width / n_tapes),
        _ => return shape("value", inputs.value, format!("[batch, n, {n_tapes} * mem_size], for {n_tapes} tapes")),
    };
    if inputs.tape_length == 0 {
        return Err(Error::Argument {
            op: OP,
            name: "tape_length",
            found: "0".into(),
            allowed: "1 or more slots".into(),
        });
    }
    for (name, tensor) in [("key", inputs.key), ("query", inputs.query)] {
        match tensor {
            Some(tensor) if !options.heads.jumps() => {
                return shape(name, tensor, "none: the heads do not jump".into());
            }
            Some(tensor) if tensor.shape() != inputs.value.shape() => {
                return shape(name, tensor, format!("{:?}, that of value", inputs.value.shape()));
            }
            None if options.heads.jumps() => {
                return Err(Error::Argument {
                    op: OP,
                    name,
                    found: "none".into(),
                    allowed: "one, for heads that jump".into(),
                });
            }
            _ => {}
        }
    }
    let n_actions = n_tapes * options.heads.n_actions();
    if *inputs.action.shape() != [batch, n, n_actions] {
        return shape(
            "action",
            inputs.action,
            format!("[batch, n, n_tapes * n_actions] = [{batch}, {n}, {n_actions}]"),
        );
    }
    let slots = inputs.tape_length;
    let kinds = if options.heads.jumps() { 2 } else { 1 };
    let numbers = n_elements(&[batch, n_tapes, slots, mem + 1, kinds]);
    if numbers > MAX_NUMBERS {
        return Err(Error::LimitExceeded {
            limit: "numbers in all tapes",
            requested: numbers as u64,
            allowed: MAX_NUMBERS as u64,
        });
    }
    if let Some(tape) = tape
        && *tape.shape() != [batch, n_tapes, slots, mem]
    {
        let expected = format!("[batch, n_tapes, tape_length, mem_size] = [{batch}, {n_tapes}, {slots}, {mem}]");
        return shape("tape", tape, expected);
    }
    check_same_device(OP, inputs.value, &[inputs.key, inputs.query, Some(inputs.action), tape])?;
    Ok(Problem { batch, n, n_tapes, slots, mem, options: options.into() })
}
