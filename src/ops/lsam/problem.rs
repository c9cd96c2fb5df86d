//! The parameters of a cell, its state, and the sizes of a call.

use crate::{
    error::{Error, Result, check_shape, check_shapes},
    ops::Linear,
    tensor::{Tensor, check_operands, check_size},
};

pub(super) const OP: &str = "lsam";

/// The parameters. Columns are `[q | k | v | w | r]`: `d_model` each of the first three, heads
/// side by side, and `n_heads` of the gates.
#[derive(Clone, Debug)]
pub struct Lsam {
    /// Heads.
    pub n_heads: usize,
    /// From inputs: weight `[n_in, 3 d_model + 2 n_heads]` and bias.
    pub input: Linear,
    /// From the hidden state, `[d_model, 3 d_model + 2 n_heads]`.
    pub hidden: Tensor,
}

/// What a cell keeps: plain data.
#[derive(Clone, Debug)]
pub struct LsamState {
    /// The last output, `[batch, d_model]`.
    pub hidden: Tensor,
    /// `[batch, n_heads, dim, dim]`, rows are values and columns keys.
    pub memory: Tensor,
}

/// In which order the steps of a sequence are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the first to the last.
    #[default]
    Forward,
    /// From the last to the first.
    Reverse,
}

/// Every output, and the state after the last step.
#[derive(Clone, Debug)]
pub struct LsamOutput {
    /// `[batch, n, d_model]`.
    pub values: Tensor,
    /// After the last step; in reverse, after the first.
    pub state: LsamState,
}

/// The sizes of one call, checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem {
    pub batch: usize,
    pub n: usize,
    pub n_heads: usize,
    pub dim: usize,
}

impl Problem {
    pub fn d_model(&self) -> usize {
        self.n_heads * self.dim
    }

    pub fn width(&self) -> usize {
        3 * self.d_model() + 2 * self.n_heads
    }

    pub fn memory_shape(&self) -> [usize; 4] {
        [self.batch, self.n_heads, self.dim, self.dim]
    }
}

impl Lsam {
    pub(super) fn problem(&self, x: &Tensor, state: Option<&LsamState>) -> Result<Problem> {
        let &[batch, n, _] = x.shape() else {
            return Err(Error::shape(OP, "x", x.shape(), "[batch, n, n_in]"));
        };
        let n_heads = self.n_heads;
        let d_model = self.hidden.shape().first().copied().unwrap_or(0);
        let width = n_heads.saturating_mul(2).saturating_add(3 * d_model);
        let fits = n_heads > 0 && d_model > 0 && d_model.is_multiple_of(n_heads);
        let (hidden, input) = (self.hidden.shape(), self.input.weight.shape());
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
            ("hidden", Some(&self.hidden)),
            ("state.hidden", state.map(|state| &state.hidden)),
            ("state.memory", state.map(|state| &state.memory)),
        ];
        check_operands(OP, &operands, &[])?;
        Ok(problem)
    }
}
