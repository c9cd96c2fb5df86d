//! The CPU twin of `shaders/geglu.wgsl`.

use fearless_simd::{Level, dispatch, prelude::*};
use rayon::prelude::*;

use crate::{
    ops::linear::cpu::gelu_erf,
    simd::{load_some, store_some},
};

/// Numbers in a task: enough to be worth a thread.
const TASK: usize = 1 << 14;

pub(super) fn geglu(x: &[f32], width: usize) -> Vec<f32> {
    dispatch!(Level::new(), simd => run(simd, x, width))
}

fn run<S: Simd>(simd: S, x: &[f32], width: usize) -> Vec<f32> {
    let mut y = vec![0.0; x.len() / 2];
    let rows = (TASK / width).max(1);
    y.par_chunks_mut(rows * width).zip(x.par_chunks(2 * rows * width)).for_each(|(y, x)| {
        simd.vectorize(
            #[inline(always)]
            || {
                for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(2 * width)) {
                    let (a, gate) = x.split_at(width);
                    let lanes = S::f32s::LEN;
                    for ((y, a), gate) in y.chunks_mut(lanes).zip(a.chunks(lanes)).zip(gate.chunks(lanes)) {
                        store_some::<S>(load_some(simd, a) * gelu_erf(simd, load_some(simd, gate)), y);
                    }
                }
            },
        );
    });
    y
}
