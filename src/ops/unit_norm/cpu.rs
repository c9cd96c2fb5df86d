//! The CPU twin of `shaders/unit_norm.wgsl`.

use fearless_simd::{Level, dispatch, prelude::*};

use crate::{error::Result, host::any, parallel::*, simd::packed::dot};

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
                || y.chunks_exact_mut(width).zip(x.chunks_exact(width)).for_each(|(y, x)| unit(simd, x, y)),
            );
        });
    });
    Ok(y)
}

/// One vector, into `y`.
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
    let square = dot(simd, &shrunk, &shrunk);
    // Of a vector with an infinity the finite numbers would be zeros.
    [SHRINK, if square.is_finite() { 1.0 / square.sqrt() } else { f32::NAN }]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The finite numbers of a vector with an infinity were zeros, and on a GPU NaN.
    #[test]
    fn what_is_not_finite_has_no_direction() {
        let level = Level::new();
        for bad in [f32::INFINITY, f32::NAN] {
            let mut y = [0.0; 2];
            dispatch!(level, simd => unit(simd, &[bad, 1.0], &mut y));
            assert!(y.iter().all(|y| y.is_nan()), "{y:?}");
        }
    }
}
