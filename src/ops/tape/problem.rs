//! What drives the tapes, and the sizes of a call.

use super::options::{Flags, TapeOptions};
use crate::{
    error::{Error, Result},
    tensor::{Tensor, check_same_device, n_elements},
};

/// The longest tape on a GPU, where the heads are in workgroup memory.
pub const MAX_TAPE_LENGTH: usize = 1024;

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

pub(super) fn check(inputs: &TapeInputs<'_>, options: TapeOptions, tape: Option<&Tensor>) -> Result<Problem> {
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
