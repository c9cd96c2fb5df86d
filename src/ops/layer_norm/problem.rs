//! What both twins do with rows whose squares f32 does not hold.

/// A row whose magnitudes or variance are beyond this is multiplied by [`SHRINK`] first, for the
/// squares of its numbers, or even their sum, may be beyond f32.
pub(super) const LARGE: f32 = 1e18;

/// A power of two, so that nothing is rounded, that makes squares of any f32 and of [`LARGE`] fit.
pub(super) const SHRINK: f32 = 1.0 / (1u128 << 80) as f32;

/// The least variance of a shrunk row, below what rounding leaves, so that none divides by zero.
pub(super) const SMALLEST: f32 = 1e-37;
