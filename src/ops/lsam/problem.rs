//! The parameters of a cell, its state, and the sizes of a call.

use crate::{ops::Linear, tensor::Tensor};

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
