//! What both twins do with rows whose squares f32 does not hold.

/// A row whose deviations from its mean, or their squares, are beyond this is multiplied by
/// [`SHRINK`] first, for their sum may be beyond f32.
pub(super) const LARGE: f32 = 1e18;

/// A power of two, so that nothing is rounded, that makes squares of any f32 and of [`LARGE`] fit.
pub(super) const SHRINK: f32 = 1.0 / (1u128 << 80) as f32;

/// Deviations of a row whose variance and epsilon are below this together are divided by
/// [`SHRINK`], for their squares vanish.
pub(super) const SMALL: f32 = 1e-28;

/// The least variance of a row that was multiplied, below what rounding leaves, so that one and
/// the same number does not divide by zero.
pub(super) const SMALLEST: f32 = 1e-37;
