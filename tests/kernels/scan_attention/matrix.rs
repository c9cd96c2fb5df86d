//! The variant on matrix units, which rounds to f16: the bound that `GpuOptions::matrix_units` states, on a
//! CPU that rounds and sums as the kernel does, and on every adapter that has such units.

use super::{Case, RECORDED, case};
use crate::support::{Random, oracle};
use wgpu_attention::ops::scan_attention::MASKED;

/// Half a unit in the last place of f16.
const U: f64 = 1.0 / 2048.0;

/// Weights are at most this.
const WEIGHT_SCALE: f32 = 16384.0;

const TILE: usize = 32;

/// To the nearest number of f16, ties to even.
fn half(x: f32) -> f32 {
    let tiny = f32::exp2(-14.0);
    if x.abs() < tiny {
        let unit = f32::exp2(-24.0);
        return (x / unit).round_ties_even() * unit;
    }
    let bits = x.to_bits();
    f32::from_bits((bits + 0xfff + (bits >> 13 & 1)) & !0x1fff)
}

/// How far values and log-sum-exp may be off, as [`wgpu_attention::device::GpuOptions::matrix_units`] says, and what
/// f32 costs on top.
fn allowed(case: &Case) -> [f64; 2] {
    let scale = 1.0 / (case.head_dim as f64).sqrt();
    let mut most = 0f64;
    for head in 0..case.batch * case.n_heads {
        for i in 0..case.n_queries {
            let q = &case.q[(head * case.n_queries + i) * case.head_dim..][..case.head_dim];
            for j in 0..case.n_keys {
                let k = &case.k[(head * case.n_keys + j) * case.head_dim..][..case.head_dim];
                let sum: f64 = q.iter().zip(k).map(|(&q, &k)| (f64::from(q) * f64::from(k)).abs()).sum();
                most = most.max(if sum.is_finite() { scale * sum } else { 0.0 });
            }
        }
    }
    let largest = case.v.iter().filter(|v| v.is_finite()).fold(0f64, |most, v| most.max(f64::from(v.abs())));
    let logit = 2.01 * U * most;
    let float = (10.0 * RECORDED).max(1e-5);
    [(2.0 * logit + 3.0 * U) * largest + float, logit + U + float]
}

/// What the kernel computes for a case without biases: matrices of `size`, in its order.
fn emulated(case: &Case, size: usize) -> [Vec<f32>; 2] {
    let Case { n_queries, n_keys, head_dim, v_dim, .. } = *case;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let (mut values, mut lse) = (Vec::new(), Vec::new());
    for row in 0..case.batch * case.n_heads * n_queries {
        let head = row / n_queries;
        let q: Vec<f32> = case.q[row * head_dim..][..head_dim].iter().map(|&q| half(scale * q)).collect();
        let (mut largest, mut sum, mut out) = (0.5 * MASKED, 0f32, vec![0f32; v_dim]);
        for key0 in (0..n_keys).step_by(TILE) {
            let keys = key0..n_keys.min(key0 + TILE);
            let score = |j: usize| {
                let k = &case.k[(head * n_keys + j) * head_dim..][..head_dim];
                // A matrix at a time, each summed before it is added.
                let parts = q.chunks(size).zip(k.chunks(size));
                parts.fold(0f32, |sum, (q, k)| sum + q.iter().zip(k).map(|(q, &k)| q * half(k)).sum::<f32>())
            };
            let scores: Vec<f32> = keys.clone().map(score).collect();
            let top = scores.iter().fold(largest, |top, &s| top.max(s));
            let decay = (largest - top).exp();
            largest = top;
            let weights: Vec<f32> = scores.iter().map(|s| half(WEIGHT_SCALE * (s - top).exp())).collect();
            sum = sum * decay + weights.iter().sum::<f32>();
            for (d, out) in out.iter_mut().enumerate() {
                let v = |j: usize| half(case.v[(head * n_keys + key0 + j) * v_dim + d]);
                let parts = weights.chunks(size).enumerate();
                let part =
                    |(n, p): (usize, &[f32])| -> f32 { p.iter().enumerate().map(|(i, p)| p * v(n * size + i)).sum() };
                *out = *out * decay + parts.map(part).sum::<f32>();
            }
        }
        values.extend(out.iter().map(|out| out / sum));
        lse.push(largest + (sum / WEIGHT_SCALE).ln());
    }
    [values, lse]
}

fn off(found: &[f32], truth: &[f64]) -> f64 {
    assert_eq!(found.len(), truth.len());
    let one = |(&a, &b): (&f32, &f64)| {
        let e = (f64::from(a) - b).abs();
        if e.is_nan() { f64::INFINITY } else { e }
    };
    found.iter().zip(truth).map(one).fold(0.0, f64::max)
}

fn truth(case: &Case) -> [Vec<f64>; 2] {
    let (values, lse) = oracle::scan_attention(case);
    [values, lse.into_iter().map(|lse| lse.unwrap_or(f64::from(MASKED))).collect()]
}

fn assert_within(what: &str, found: [&[f32]; 2], case: &Case) {
    let (truth, allowed) = (truth(case), allowed(case));
    for (part, i) in [("values", 0), ("log_sum_exp", 1)] {
        let e = off(found[i], &truth[i]);
        assert!(e <= allowed[i], "{what}: {part} off by {e:.2e}, allowed {:.2e}", allowed[i]);
    }
}

#[test]
fn rounding_to_f16_stays_within_its_bound() {
    assert_eq!([half(1.0), half(65519.0), half(1.0 + 1.0 / 2048.0), half(6e-8)], [1.0, 65504.0, 1.0, f32::exp2(-24.0)]);
    let mut random = Random::new(31);
    let mut worst = [0f64; 2];
    for size in [8, 16] {
        for head_dim in [8, 16, 64, 128] {
            for (n_queries, n_keys) in [(7, 1), (33, 65), (16, 1000)] {
                for extent in [0.1, 1.0, 3.0] {
                    let mut case = case(&mut random, [1, 2, n_queries, n_keys, head_dim, 16]);
                    case.q.iter_mut().for_each(|q| *q *= extent);
                    let [values, lse] = emulated(&case, size);
                    let what = format!("{size} x {size}, head_dim {head_dim}, {n_keys} keys, {extent}");
                    assert_within(&what, [&values, &lse], &case);
                    let (truth, allowed) = (truth(&case), allowed(&case));
                    for (i, found) in [&values, &lse].into_iter().enumerate() {
                        worst[i] = worst[i].max(off(found, &truth[i]) / allowed[i]);
                    }
                }
            }
        }
    }
    println!("at most {worst:.2?} of what is allowed");
    // A bound that nothing comes near would hold for anything.
    assert!(worst.iter().all(|&part| part > 0.05), "{worst:?}");
}

#[cfg(feature = "gpu")]
mod units {
    use super::*;
    use crate::{
        scan_attention::{PLAIN, Run, add_terms, run},
        support::oracle::projected,
    };
    use wgpu_attention::{
        Device, Tensor,
        ops::{BiasKernel, Distance, ScanAttention, scan_attention::scan_attention},
    };

    /// Adapters with matrix units, opened for them.
    fn devices() -> Vec<(String, Device)> {
        let all = crate::support::matrix_units();
        if all.is_empty() {
            println!("no adapter has matrix units: this was not tried on any");
        }
        all
    }

    fn check(what: &str, name: &str, device: &Device, case: &Case, how: &Run<'_>) {
        let found = run(device, case, how);
        let [mut values, mut lse] = [found.values.read().unwrap(), found.log_sum_exp.read().unwrap()];
        if !how.head_major {
            // Back from `[batch, n_queries, heads, dim]`: the same exchange of two dimensions.
            let rows = [case.batch, case.n_queries, case.n_heads];
            values = projected(&values, [rows[0], rows[1], rows[2], case.v_dim]);
            lse = projected(&lse, [rows[0], rows[1], rows[2], 1]);
        }
        assert_within(&format!("{what} on {name}"), [&values, &lse], case);
    }

    #[test]
    fn lengths_and_head_sizes_on_matrix_units() {
        for (name, device) in devices() {
            let mut random = Random::new(32);
            for length in [1, 7, 63, 64, 65, 100, 1000] {
                let other = [1, 64, 33, 130, 9, 257, 100][random.below(7)];
                let case = case(&mut random, [1, 2, length, other, 16, 16]);
                check(&format!("{length} queries, {other} keys"), &name, &device, &case, &PLAIN);
                let case = self::case(&mut random, [2, 1, other.min(100), length, 8, 24]);
                check(&format!("{length} keys"), &name, &device, &case, &PLAIN);
            }
            for (head_dim, v_dim) in [
                (4, 4),
                (3, 5),
                (12, 20),
                (16, 32),
                (20, 12),
                (32, 36),
                (64, 64),
                (96, 128),
                (128, 8),
                (128, 128),
                (256, 256),
            ] {
                let case = case(&mut random, [1, 3, 70, 75, head_dim, v_dim]);
                check(&format!("head_dim {head_dim}, v_dim {v_dim}"), &name, &device, &case, &PLAIN);
                let x = |n: usize, dim: usize| Tensor::zeros(&device, &[1, 3, n, dim]).unwrap();
                let decision = ScanAttention::default().decision(&x(70, head_dim), &x(75, head_dim), &x(75, v_dim));
                let (decision, fits) = (decision.unwrap(), head_dim % 4 == 0 && head_dim <= 64);
                assert!(!fits || decision.variant == "matrix", "{name}: {decision}");
            }
        }
    }

    #[test]
    fn the_kernel_rounds_as_it_says() {
        for (name, device) in devices() {
            let mut random = Random::new(33);
            for (n_queries, n_keys, head_dim, v_dim) in [(70, 130, 16, 16), (33, 65, 64, 32), (32, 32, 8, 8)] {
                let case = case(&mut random, [2, 2, n_queries, n_keys, head_dim, v_dim]);
                let size = device.capabilities().matrix_units.unwrap() as usize;
                let found = run(&device, &case, &PLAIN);
                let found = [found.values.read().unwrap(), found.log_sum_exp.read().unwrap()];
                let expected = emulated(&case, size).map(|x| x.into_iter().map(f64::from).collect::<Vec<_>>());
                // A weight that lies between two numbers of f16 may become either.
                for (i, part) in ["values", "log_sum_exp"].into_iter().enumerate() {
                    let e = off(&found[i], &expected[i]);
                    println!("{name}: {part} off by {e:.2e}");
                    assert!(e <= 0.25 * U, "{name}: {part} off by {e:.2e}");
                }
            }
        }
    }

    #[test]
    fn masks_biases_and_splits_on_matrix_units() {
        for (name, device) in devices() {
            let mut random = Random::new(34);
            let mut case = case(&mut random, [3, 2, 40, 77, 12, 20]);
            let mut keep = random.booleans(3 * 77, 0.4);
            keep[77..2 * 77].fill(false);
            for (j, _) in keep.iter().enumerate().filter(|(_, keep)| !**keep) {
                for h in 0..2 {
                    let key = (j / 77 * 2 + h) * 77 + j % 77;
                    case.k[key * 12..][..12].fill(f32::NAN);
                    case.v[key * 20..][..20].fill(f32::NAN);
                }
            }
            case.mask = Some(keep);
            for n_splits in [None, Some(3), Some(77)] {
                let how = Run { n_splits, ..PLAIN };
                check(&format!("masked, splits {n_splits:?}"), &name, &device, &case, &how);
            }
            // Biases are those of the other variants, to the line.
            for (distance, kernel, columns) in [
                (Distance::Euclidean, BiasKernel::Rbf, 1..3),
                (Distance::GreatCircle, BiasKernel::Exponential, 0..2),
                (Distance::CausalTime, BiasKernel::Scalar, 2..3),
            ] {
                let n_basis = if kernel == BiasKernel::Scalar { 1 } else { 3 };
                let mut case = self::case(&mut random, [2, 2, 35, 50, 8, 8]);
                add_terms(&mut random, &mut case, 3, &[(columns, distance, kernel, n_basis)]);
                check(&format!("{kernel:?} over {distance:?}"), &name, &device, &case, &PLAIN);
                case.mask = Some(random.booleans(2 * 50, 0.8));
                case.matrix = Some(random.numbers(2 * 2 * 35 * 50));
                case.matrix.as_mut().unwrap().iter_mut().step_by(7).for_each(|x| *x = f32::NEG_INFINITY);
                let how = Run { head_major: false, n_splits: Some(2), extra: &[] };
                check(&format!("{kernel:?} over {distance:?}, masked"), &name, &device, &case, &how);
            }
        }
    }

    /// What f16 cannot hold is computed in f32, by the tile.
    #[test]
    fn numbers_beyond_f16_are_computed_in_f32() {
        for (name, device) in devices() {
            let mut random = Random::new(35);
            for (what, place) in [("a query", 0), ("a key", 1), ("a value", 2)] {
                for at in [0, 50] {
                    let mut case = case(&mut random, [1, 2, 70, 100, 16, 16]);
                    // A logit of that size would take its row whole, were the other operand not small.
                    let operand = [&mut case.q, &mut case.k, &mut case.v].into_iter().nth(place).unwrap();
                    operand[at * 16 + 3] = 1e5;
                    if place < 2 {
                        let other = if place == 0 { &mut case.k } else { &mut case.q };
                        other.iter_mut().skip(3).step_by(16).for_each(|x| *x *= 1e-5);
                    }
                    check(&format!("{what} of 1e5, row {at}"), &name, &device, &case, &PLAIN);
                }
            }
            // A value whose weight f16 does not hold is still NaN where it is, and only there.
            let [n_queries, n_keys] = [40, 40];
            let mut q = vec![0f32; n_queries * 8];
            let mut k = vec![0f32; n_keys * 8];
            q.iter_mut().step_by(8).for_each(|q| *q = 8f32.sqrt());
            k[7 * 8] = -60.0;
            let mut v = vec![1f32; n_keys * 8];
            v[7 * 8 + 2] = f32::NAN;
            let tensor = |x: &[f32]| Tensor::new(&device, &[1, 1, 40, 8], x).unwrap();
            let found = scan_attention(&tensor(&q), &tensor(&k), &tensor(&v), &ScanAttention::default()).unwrap();
            for (i, x) in found.values.read().unwrap().into_iter().enumerate() {
                assert!(if i % 8 == 2 { x.is_nan() } else { (x - 1.0).abs() < 1e-6 }, "{name}: number {i} is {x}");
            }
        }
    }
}
