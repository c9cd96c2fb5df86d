//! What a state of attention is made of.

/// How far the log-sum-exp of a part may be above a state's reference before that moves. Sums are
/// at most `e^8` a part, so that nothing overflows, and a reference that seldom moves is one
/// that seldom rounds.
pub(crate) const HEADROOM: f32 = 8.0;

/// References of states are multiples of this, the first at or above the largest log-sum-exp. Two
/// states then mostly have the same one, and merging them multiplies nothing, which would round
/// their sums to f32; where they differ, it is by a step at least. Weights begin at `e^-8`.
pub(crate) const REFERENCE_STEP: f32 = 8.0;

/// Numbers in a row of a state: the reference `m`, `sum e^(l - m)` and `sum e^(l - m) values`,
/// each sum as a large and a small half.
pub(crate) fn state_width(width: usize) -> usize {
    3 + 2 * width
}
