//! What the processor can do at most, which times of the CPU's half are read beside: fused multiply-adds of numbers
//! that stay in registers, by one thread and by as many as there are processors.
//!
//!     cargo bench --bench peak_cpu

use std::{hint::black_box, thread::available_parallelism, time::Instant};

use fearless_simd::{Level, dispatch, prelude::*};

/// Sums that do not wait for each other: more than multiply-adds in flight, fewer than registers.
const SUMS: usize = 12;

/// Steps of a thread, some tenths of a second.
const STEPS: usize = 1 << 26;

#[inline(always)]
fn multiply_add<S: Simd>(simd: S) -> (S::f32s, usize) {
    let (a, b) = (S::f32s::splat(simd, black_box(0.5)), S::f32s::splat(simd, black_box(0.25)));
    let mut sums = [a; SUMS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = sum.mul_add(a, b);
        }
    }
    (sums.into_iter().fold(a, |x, y| x + y), 2 * S::f32s::LEN * SUMS * STEPS)
}

/// Operations of one thread.
fn work(level: Level) -> usize {
    dispatch!(level, simd => simd.vectorize(
        #[inline(always)]
        || {
            let (sum, operations) = multiply_add(simd);
            black_box(sum.as_slice()[0]);
            operations
        }
    ))
}

fn main() {
    let level = Level::new();
    let all = available_parallelism().map_or(1, usize::from);
    for n_threads in if all > 1 { vec![1, all] } else { vec![1] } {
        let run = || {
            let start = Instant::now();
            let operations: usize = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(|| work(level))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            operations as f64 / start.elapsed().as_secs_f64() / 1e9
        };
        let best = (0..5).map(|_| run()).fold(0.0, f64::max);
        println!("{level:?}, {n_threads} threads: {best:.0} GFLOP/s in f32 at most");
    }
}
