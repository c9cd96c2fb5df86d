//! The parameters of a cell, and what comes out of it.

use crate::{ops::Linear, tensor::Tensor};

/// The widest hidden state on a GPU, where it is in workgroup memory.
pub const MAX_HIDDEN: usize = 1024;

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
