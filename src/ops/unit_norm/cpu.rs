//! The CPU twin of `shaders/unit_norm.wgsl`.

use fearless_simd::{Level, dispatch, prelude::*};

use crate::{
    error::Result,
    host::any,
    parallel::*,
    simd::{load_some, packed::dot, store_some},
};

/// Below this length a vector is divided by it instead: PyTorch's `F.normalize`.
const EPSILON: f32 = 1e-12;

/// Squares beyond this are added up of numbers times [`SHRINK`], a power of two.
const LARGE: f32 = 1e37;
const SHRINK: f32 = 1.0 / (1u128 << 80) as f32;

/// Numbers in a task: enough to be worth a thread.
const TASK: usize = 1 << 16;

pub(super) fn unit_norm(level: Level, x: &[f32], width: usize) -> Result<Vec<f32>> {
    let mut y = any(&[x.len()])?;
    let chunk = (TASK / width).max(1) * width;
    dispatch!(level, simd => {
        y.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(y, x)| {
            simd.vectorize(
                #[inline(always)]
                || y.chunks_exact_mut(width).zip(x.chunks_exact(width)).for_each(|(y, x)| row(simd, x, y)),
            );
        });
    });
    Ok(y)
}

/// One vector.
#[inline(always)]
fn row<S: Simd>(simd: S, x: &[f32], y: &mut [f32]) {
    let lanes = S::f32s::LEN;
    let mut largest = S::f32s::splat(simd, 0.0);
    for x in x.chunks(lanes) {
        largest = largest.max(load_some(simd, x).abs());
    }
    // Divided by the largest number first, so that no square overflows or vanishes.
    let largest = largest.as_slice().iter().copied().fold(1e-20f32, f32::max);
    let mut squares = S::f32s::splat(simd, 0.0);
    for x in x.chunks(lanes) {
        let x = load_some(simd, x) / largest;
        squares = x.mul_add(x, squares);
    }
    let length = squares.as_slice().iter().sum::<f32>().sqrt();
    // The other way round NaN would come out as a number.
    let is_short = length < EPSILON / largest;
    for (y, x) in y.chunks_mut(lanes).zip(x.chunks(lanes)) {
        let x = load_some(simd, x);
        store_some::<S>(if is_short { x * (1.0 / EPSILON) } else { x / largest / length }, y);
    }
}

/// A vector that is short, where dividing costs: into `y`.
#[inline(always)]
pub(crate) fn unit<S: Simd>(simd: S, x: &[f32], y: &mut [f32]) {
    let [shrink, inverse] = inverse_length(simd, x);
    y.iter_mut().zip(x).for_each(|(y, x)| *y = x * shrink * inverse);
}

/// Two numbers by which a vector is multiplied to become one of length one, or, if it is shorter
/// than [`EPSILON`], as much longer as one of that length would: so that no square overflows.
#[inline(always)]
pub(crate) fn inverse_length<S: Simd>(simd: S, x: &[f32]) -> [f32; 2] {
    let square = dot(simd, x, x);
    if square < LARGE {
        return [1.0, 1.0 / square.sqrt().max(EPSILON)];
    }
    // Too large, or not a number.
    let shrunk: Vec<f32> = x.iter().map(|x| x * SHRINK).collect();
    [SHRINK, 1.0 / dot(simd, &shrunk, &shrunk).sqrt()]
}
