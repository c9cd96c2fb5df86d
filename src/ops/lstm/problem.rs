//! The parameters of a cell, and what comes out of it.

use crate::{
    error::{Error, Result, check_shape, check_shapes},
    ops::Linear,
    tensor::{Tensor, check_operands, check_size},
};

pub(super) const OP: &str = "lstm";

/// The parameters; gates are in blocks i, f, g, o.
#[derive(Clone, Debug)]
pub struct Lstm {
    /// From inputs to gates: weight `[n_in, 4 hidden]`, and the sum of both biases.
    pub input: Linear,
    /// From the hidden state to gates, `[hidden, 4 hidden]`.
    pub hidden: Tensor,
}

/// Every hidden state, and the state after the last step.
#[derive(Clone, Debug)]
pub struct LstmOutput {
    /// `[batch, n, hidden]`.
    pub values: Tensor,
    /// `[batch, 2, hidden]`: h and c.
    pub state: Tensor,
}

/// The sizes of one call, checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem {
    pub batch: usize,
    pub n: usize,
    pub hidden: usize,
}

impl Lstm {
    pub(super) fn problem(&self, x: &Tensor, state: Option<&Tensor>) -> Result<Problem> {
        let (of_hidden, of_input) = (self.hidden.shape(), self.input.weight.shape());
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
        check_operands(OP, &[("x", Some(x)), ("hidden", Some(&self.hidden)), ("state", state)], &[])?;
        Ok(Problem { batch, n, hidden })
    }
}
