//! Vector code of the CPU twins: one source, compiled for every instruction set that
//! `fearless_simd` knows and chosen when the program runs.
//!
//! Functions that take and return vectors are `#[inline(always)]`, so that they are compiled
//! with the features of the `dispatch!` or `vectorize` that encloses them.

pub(crate) mod math;
pub(crate) mod packed;
pub(crate) mod tile;
pub(crate) mod transpose;

use fearless_simd::prelude::*;

/// The most lanes of any instruction set.
pub(crate) const MOST_LANES: usize = 16;

/// Loads a whole vector, or fewer numbers followed by zeros.
#[inline(always)]
pub(crate) fn load_some<S: Simd>(simd: S, from: &[f32]) -> S::f32s {
    let lanes = S::f32s::LEN;
    if from.len() >= lanes {
        return S::f32s::from_slice(simd, &from[..lanes]);
    }
    let mut padded = [0.0; MOST_LANES];
    padded[..from.len()].copy_from_slice(from);
    S::f32s::from_slice(simd, &padded[..lanes])
}

/// Stores a whole vector, or as many lanes as there is room for.
#[inline(always)]
pub(crate) fn store_some<S: Simd>(vector: S::f32s, to: &mut [f32]) {
    let lanes = S::f32s::LEN;
    if to.len() >= lanes {
        vector.store_slice(&mut to[..lanes]);
    } else {
        to.copy_from_slice(&vector.as_slice()[..to.len()]);
    }
}

/// Every instruction set of this machine, the best first.
#[cfg(test)]
pub(crate) fn levels() -> Vec<fearless_simd::Level> {
    crate::device::Cpu::all().into_iter().map(|cpu| cpu.0).collect()
}
