//! Vector code of the CPU twins: one source, compiled for every instruction set that
//! `fearless_simd` knows and chosen when the program runs.
//!
//! Functions that take and return vectors are `#[inline(always)]`, so that they are compiled
//! with the features of the `dispatch!` or `vectorize` that encloses them.

pub(crate) mod math;
pub(crate) mod tile;
