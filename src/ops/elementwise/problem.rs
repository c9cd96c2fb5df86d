//! The operations, and the sizes of a call.

use serde::Serialize;

/// What becomes of a number by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Map {
    /// `max(x, 0)`.
    Relu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `x x`.
    Square,
}

/// What becomes of the rows of `a`, most with those of `b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Join {
    /// `a + scale b`.
    AddScaled,
    /// `a b`, a row of `b` for each or one for all.
    ScaleColumns,
    /// `a b`, a number of `b` for each head of a row.
    Gate,
    /// `a` where `b` is not zero, else zero, whatever `a` is: a number of `b` for each row.
    Keep,
    /// Some columns of `a`.
    Columns,
    /// Some columns of `a`, then all of `b`.
    Concat,
    /// Some columns of `a`, then a number of `b`, one for each row or one for all, then zeros.
    Widen,
    /// Some columns of `a`, then the sum of their squares times `scale`, then zeros.
    WidenBySquares,
    /// `v gelu(g)` for `a = [v, g]`.
    Geglu,
}

impl Map {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Relu, Self::Sigmoid, Self::Square];
}

impl Join {
    /// All of them.
    #[cfg(feature = "gpu")]
    pub(crate) const ALL: [Self; 9] = [
        Self::AddScaled,
        Self::ScaleColumns,
        Self::Gate,
        Self::Keep,
        Self::Columns,
        Self::Concat,
        Self::Widen,
        Self::WidenBySquares,
        Self::Geglu,
    ];

    /// Whether there is a `b`.
    #[cfg(feature = "gpu")]
    pub(crate) fn has_b(self) -> bool {
        !matches!(self, Self::Columns | Self::WidenBySquares | Self::Geglu)
    }

    /// Whether rows do not matter where `a` and `b` are of one shape.
    #[cfg(feature = "gpu")]
    pub(crate) fn may_be_flat(self) -> bool {
        matches!(self, Self::AddScaled | Self::ScaleColumns)
    }

    /// Whether `b` is read a number at a time.
    #[cfg(feature = "gpu")]
    pub(crate) fn has_few_of_b(self) -> bool {
        matches!(self, Self::Gate | Self::Keep | Self::Widen)
    }
}

/// The sizes of a [`Join`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    pub rows: usize,
    /// Numbers in a row of the result, of `a` and of `b`.
    pub width: usize,
    pub a_width: usize,
    pub b_width: usize,
    /// From one row of `b` to the next: 0 where one serves all rows.
    pub b_stride: usize,
    /// The columns of `a` that are looked at.
    pub a_first: usize,
    pub a_used: usize,
    pub scale: f32,
}
