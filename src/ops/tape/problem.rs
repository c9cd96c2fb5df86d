//! What drives the tapes, and the sizes of a call.

use super::options::{Flags, TapeOptions};
use crate::{
    error::{Error, Result, check_argument, check_limit, check_shape},
    tensor::{Tensor, check_operands, n_elements},
};

/// More than this is a mistake: 8 GiB.
const MAX_NUMBERS: usize = 1 << 31;

pub(super) const OP: &str = "tape";

/// What drives the tapes. The last dimension of each is `n_tapes` blocks side by side.
#[derive(Clone, Copy, Debug)]
pub struct TapeInputs<'a> {
    /// What is written, `[batch, n, n_tapes * mem_size]`.
    pub value: &'a Tensor,
    /// Unit vectors, of `value`'s shape; none without jumps.
    pub key: Option<&'a Tensor>,
    /// Unit vectors, of `value`'s shape; none without jumps.
    pub query: Option<&'a Tensor>,
    /// `[batch, n, n_tapes * n_actions]`, see [`HeadMoves::n_actions`](super::HeadMoves::n_actions).
    pub action: &'a Tensor,
    /// Tapes.
    pub n_tapes: usize,
    /// Slots of a tape.
    pub tape_length: usize,
}

/// What was read, and what to go on with.
#[derive(Clone, Debug)]
pub struct TapeOutput {
    /// `[batch, n, n_tapes * mem_size]`.
    pub values: Tensor,
    /// After the last step.
    pub state: TapeState,
}

/// All that a machine keeps from step to step: plain data.
///
/// ```
/// use wgpu_attention::{Device, Tensor, ops::{HeadMoves, TapeInputs, TapeOptions, TapeState, tape}};
///
/// # fn main() -> wgpu_attention::Result<()> {
/// let tensor = |shape: &[usize], x: &[f32]| Tensor::new(&Device::cpu(), shape, x);
/// // Heads of one slot; nothing is erased, so the tape counts.
/// let (value, action) = (tensor(&[1, 1, 1], &[1.0])?, tensor(&[1, 1, 9], &[99.0, 99.0, 99.0, 99.0, 99.0, 99.0, 99.0, 99.0, -99.0])?);
/// let inputs = TapeInputs { value: &value, key: None, query: None, action: &action, n_tapes: 1, tape_length: 1 };
/// let options = TapeOptions { heads: HeadMoves::NoJump, ..Default::default() };
/// let first = tape(&inputs, options, Some(&TapeState::new(tensor(&[1, 1, 1, 1], &[40.0])?)))?;
/// let second = tape(&inputs, options, Some(&first.state))?; // goes on
/// assert_eq!(second.state.tape.read()?, [42.0]);
/// assert_eq!(second.state.heads.unwrap().shape(), [1, 1, 2, 1]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TapeState {
    /// `[batch, n_tapes, tape_length, mem_size]`.
    pub tape: Tensor,
    /// The table of keys, of the shape of the tape; zeros if not given. None for heads that do not
    /// jump.
    pub keys: Option<Tensor>,
    /// `[batch, n_tapes, 2, tape_length]`: the read head and the write head; both on slot 0 if not
    /// given.
    pub heads: Option<Tensor>,
}

impl TapeState {
    /// What was written on the tapes, with heads on slot 0 and without keys.
    pub fn new(tape: Tensor) -> Self {
        Self { tape, keys: None, heads: None }
    }

    fn check(&self, Problem { batch, n_tapes, slots, mem, options, .. }: Problem) -> Result<()> {
        let (cells, heads) = ([batch, n_tapes, slots, mem], [batch, n_tapes, 2, slots]);
        let expected = format_args!("[batch, n_tapes, tape_length, mem_size] = {cells:?}");
        check_shape(*self.tape.shape() == cells, OP, "state.tape", self.tape.shape(), expected)?;
        if let Some(found) = self.keys.as_ref().map(Tensor::shape) {
            check_shape(options.heads.jumps(), OP, "state.keys", found, "none: the heads do not jump")?;
            check_shape(*found == cells, OP, "state.keys", found, expected)?;
        }
        if let Some(found) = self.heads.as_ref().map(Tensor::shape) {
            let expected = format_args!("[batch, n_tapes, 2, tape_length] = {heads:?}");
            check_shape(*found == heads, OP, "state.heads", found, expected)?;
        }
        Ok(())
    }
}

/// The sizes of one call, checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem {
    pub batch: usize,
    pub n: usize,
    pub n_tapes: usize,
    pub slots: usize,
    pub mem: usize,
    pub options: Flags,
}

impl Problem {
    /// Numbers of a tape and its keys.
    pub fn n_cells(&self) -> usize {
        self.slots * self.mem * if self.options.heads.jumps() { 2 } else { 1 }
    }

    /// Numbers of the state of one tape: tape, keys, read head, write head.
    pub fn state_len(&self) -> usize {
        self.n_cells() + 2 * self.slots
    }
}

pub(super) fn check(inputs: &TapeInputs<'_>, options: TapeOptions, state: Option<&TapeState>) -> Result<Problem> {
    let (n_tapes, value, jumps) = (inputs.n_tapes, inputs.value.shape(), options.heads.jumps());
    let (batch, n, mem) = match *value {
        [batch, n, width] if n_tapes > 0 && width > 0 && width.is_multiple_of(n_tapes) => (batch, n, width / n_tapes),
        _ => {
            let expected = format!("[batch, n, {n_tapes} * mem_size], for {n_tapes} tapes");
            return Err(Error::shape(OP, "value", value, expected));
        }
    };
    check_argument(inputs.tape_length > 0, OP, "tape_length", 0, "1 or more slots")?;
    for (name, tensor) in [("key", inputs.key), ("query", inputs.query)] {
        match tensor.map(Tensor::shape) {
            Some(found) => {
                check_shape(jumps, OP, name, found, "none: the heads do not jump")?;
                check_shape(found == value, OP, name, found, format_args!("{value:?}, that of value"))?;
            }
            None => check_argument(!jumps, OP, name, "none", "one, for heads that jump")?,
        }
    }
    let n_actions = n_tapes.saturating_mul(options.heads.n_actions());
    let expected = format_args!("[batch, n, n_tapes * n_actions] = [{batch}, {n}, {n_actions}]");
    let action = inputs.action.shape();
    check_shape(*action == [batch, n, n_actions], OP, "action", action, expected)?;
    let slots = inputs.tape_length;
    let kinds = if jumps { 2 } else { 1 };
    // Those of one batch element, too, where there is none.
    let numbers = n_elements(&[batch.max(1), n_tapes, slots, mem + 1, kinds]);
    check_limit("numbers in all tapes", numbers as u64, MAX_NUMBERS as u64)?;
    let problem = Problem { batch, n, n_tapes, slots, mem, options: options.into() };
    if let Some(state) = state {
        state.check(problem)?;
    }
    let operands = [
        ("value", Some(inputs.value)),
        ("key", inputs.key),
        ("query", inputs.query),
        ("action", Some(inputs.action)),
        ("state.tape", state.map(|state| &state.tape)),
        ("state.keys", state.and_then(|state| state.keys.as_ref())),
        ("state.heads", state.and_then(|state| state.heads.as_ref())),
    ];
    check_operands(OP, &operands, &[])?;
    Ok(problem)
}
