//! What is not finite, by the faults that it had.

use std::sync::Arc;

use crate::support::{devices, layout};
use wgpu_attention::{
    Device, Error, Tensor,
    ops::{
        AttentionMemory, Bias, BiasKernel, BiasTerm, CustomBias, Distance, Form, ScanAttention, attention_memory,
        merge_attention, scan_attention, scan_attention::MASKED,
    },
};

fn tensor(device: &Device, shape: &[usize], numbers: &[f32]) -> Tensor {
    Tensor::new(device, shape, numbers).unwrap()
}

/// Keys `[1, 1, n, 1]` and their values, of queries alike; values, then the log-sum-exp.
fn attend(device: &Device, q: &[f32], k: &[f32], v: &[f32], options: &ScanAttention<'_>) -> (Vec<f32>, Vec<f32>) {
    let row = |numbers: &[f32]| tensor(device, &[1, 1, numbers.len(), 1], numbers);
    let read = scan_attention(&row(q), &row(k), &row(v), &options.scale(1.0)).unwrap();
    (read.values.read().unwrap(), read.log_sum_exp.read().unwrap())
}

/// Fault F2. A NaN query read zeros, with a log-sum-exp of MASKED on the CPU and a finite one on
/// a GPU; of two keys the NaN one was dropped, 5 for 6 or NaN.
#[test]
fn f2_nan_is_never_a_number() {
    for (name, device) in devices() {
        for n_queries in [1, 9] {
            for n_keys in [2, 700] {
                let v = vec![5.0; n_keys];
                let mut q = vec![0.5; n_queries];
                let mut k = vec![0.25; n_keys];
                // Of either sign, and with payloads that an exponential could take for exponents.
                for bits in [0x7fc0_0000, 0xffc0_0000, 0x7fc0_0001, 0x7fff_ffff] {
                    q[n_queries - 1] = f32::from_bits(bits);
                    let (values, lse) = attend(&device, &q, &k, &v, &ScanAttention::default());
                    assert!(values[n_queries - 1].is_nan() && lse[n_queries - 1].is_nan(), "{name}: {bits:x}");
                    for i in 0..n_queries - 1 {
                        assert!((values[i] - 5.0).abs() < 1e-5 && lse[i].is_finite(), "{name}: query {i}");
                    }
                    q[n_queries - 1] = 0.5;
                    k[n_keys - 1] = f32::from_bits(bits);
                    let (values, lse) = attend(&device, &q, &k, &v, &ScanAttention::default());
                    assert!(values.iter().chain(&lse).all(|x| x.is_nan()), "{name}: {values:?} {lse:?}");
                    k[n_keys - 1] = 0.25;
                }
            }
        }
    }
}

/// Fault F3. Coordinates of 0 and 1e20 read 3: a square that overflowed masked the pair.
#[test]
fn f3_far_is_not_masked() {
    let here = [0.0, 1e20, -3e38];
    for (name, device) in devices() {
        for distance in [Distance::Euclidean, Distance::CausalTime, Distance::GreatCircle] {
            let width = if distance == Distance::GreatCircle { 2 } else { 1 };
            for kernel in BiasKernel::ALL {
                for b in [0.0, 1.0, -1.0] {
                    let point = |x: f32| [x, 0.0][..width].to_vec();
                    let q_coords = tensor(&device, &[1, 1, width], &point(3e38));
                    let k_coords = tensor(&device, &[1, 3, width], &here.map(point).concat());
                    let all = [[0.0], [b], [1e38]];
                    let parameters: Vec<&[f32]> = all[..kernel.parameters().len()].iter().map(|x| &x[..]).collect();
                    let terms = [BiasTerm::built_in(0..width, distance, kernel, &parameters)];
                    let options = ScanAttention::default().bias(Bias::new(&q_coords, &k_coords, &terms));
                    let (values, lse) = attend(&device, &[0.0], &[0.0; 3], &[1.0, 2.0, 6.0], &options);
                    let fits = (values[0] - 3.0).abs() < 1e-5 && (lse[0] - 3f32.ln()).abs() < 1e-5;
                    assert!(fits, "{name}: {distance:?}, {kernel:?}, b {b}: {values:?} {lse:?}");
                }
            }
        }
        // And a distance beyond the root of f32 is that, not the largest there is.
        let coords = tensor(&device, &[1, 3, 2], &[0.0, 0.0, 3e20, 4e20, 6e37, 8e37]);
        let here = tensor(&device, &[1, 1, 2], &[0.0, 0.0]);
        let terms = [BiasTerm::scalar(0..2, &[-1e-38])];
        let options = ScanAttention::default().bias(Bias::new(&here, &coords, &terms));
        let (values, _) = attend(&device, &[0.0], &[0.0; 3], &[0.0, 0.0, 1.0], &options);
        let truth = (-1f32).exp() / (2.0 + (-1f32).exp());
        assert!((values[0] - truth).abs() < 1e-5, "{name}: {values:?} for {truth}");
        let terms = [BiasTerm::scalar(0..2, &[-1e-21])];
        let options = ScanAttention::default().bias(Bias::new(&here, &coords, &terms));
        let (values, _) = attend(&device, &[0.0], &[0.0; 3], &[0.0, 1.0, 5.0], &options);
        let truth = (-0.5f32).exp() / (1.0 + (-0.5f32).exp());
        assert!((values[0] - truth).abs() < 1e-5, "{name}: {values:?} for {truth}");
    }
}

/// Fault F7. A GPU read the value of a key whose coordinates mask it, NaN, and both twins that of
/// a key in the future of others, 0 times NaN.
#[test]
fn f7_masked_pairs_may_hold_anything() {
    let n = 70;
    let coordinates: Vec<f32> = (0..n).map(|i| i as f32).collect();
    for (name, device) in devices() {
        for bad in [f32::NAN, f32::INFINITY] {
            for n_queries in [1, n] {
                let ones = vec![1.0; n_queries];
                let spoiled: Vec<f32> = (0..n).map(|i| if i == 40 { bad } else { 0.5 }).collect();
                let check = |what: &str, options: &ScanAttention<'_>, reads: &dyn Fn(usize) -> bool| {
                    for (k, v) in [(&spoiled, &spoiled), (&vec![0.5; n], &spoiled), (&spoiled, &vec![0.5; n])] {
                        let (values, lse) = attend(&device, &ones, k, v, options);
                        for i in 0..n_queries {
                            let is_number = (values[i] - 0.5).abs() < 1e-5 && lse[i].is_finite();
                            assert_eq!(is_number, !reads(i), "{name}: {what}, {bad}, query {i}: {values:?}, {lse:?}");
                        }
                    }
                };
                let q_coords = tensor(&device, &[1, n_queries, 1], &coordinates[..n_queries]);
                let mut of_keys = coordinates.clone();
                let terms = [BiasTerm::built_in(0..1, Distance::CausalTime, BiasKernel::Scalar, &[&[0.0]])];
                let k_coords = tensor(&device, &[1, n, 1], &of_keys);
                let causal = ScanAttention::default().bias(Bias::new(&q_coords, &k_coords, &terms));
                check("the future", &causal, &|i| i >= 40);
                of_keys[40] = bad;
                let k_coords = tensor(&device, &[1, n, 1], &of_keys);
                for distance in [Distance::CausalTime, Distance::Euclidean] {
                    let terms = [BiasTerm::built_in(0..1, distance, BiasKernel::Scalar, &[&[0.0]])];
                    let nowhere = ScanAttention::default().bias(Bias::new(&q_coords, &k_coords, &terms));
                    check("nowhere", &nowhere, &|_| false);
                }
                // No bias brings a masked pair back.
                let matrix: Vec<f32> = (0..n_queries * n)
                    .map(|i| if i % n == 40 && i / n != 3 { f32::NEG_INFINITY } else { 0.0 })
                    .collect();
                let matrix = tensor(&device, &[1, 1, n_queries, n], &matrix);
                check("a matrix", &ScanAttention::default().bias(Bias::matrix(&matrix)), &|i| i == 3);
                let large = tensor(&device, &[1, 1, n_queries, n], &vec![3e37; n_queries * n]);
                let nowhere = Bias::new(&q_coords, &k_coords, &terms).with_matrix(&large);
                check("nowhere and 1e37", &ScanAttention::default().bias(nowhere), &|_| false);
            }
        }
        // What is merged and has read nothing.
        let values = tensor(&device, &[2, 1, 1], &[f32::NAN, 7.0]);
        for nothing in [MASKED, f32::NEG_INFINITY] {
            let merged = merge_attention(&values, &tensor(&device, &[2, 1], &[nothing, 0.5])).unwrap();
            assert_eq!(merged.values.read().unwrap(), [7.0], "{name}");
        }
        let merged = merge_attention(&values, &tensor(&device, &[2, 1], &[MASKED; 2])).unwrap();
        assert_eq!(merged.values.read().unwrap(), [0.0], "{name}");
        assert_eq!(merged.log_sum_exp.read().unwrap(), [MASKED], "{name}");
    }
}

/// Fault F8. At logits of 1e9 a split of one key weighed as much as one of 2048: a half was read.
#[test]
fn f8_short_splits_weigh_little() {
    for (name, device) in devices() {
        for n_queries in [1, 9] {
            for n in [65, 513, 2049, 3000] {
                for n_splits in [None, Some(2), Some(3), Some(7)] {
                    for logit in [1.0, 1e7, 1e9, -1e9, 1e30] {
                        let (q, k) = (vec![logit; n_queries], vec![1.0; n]);
                        let v: Vec<f32> = (0..n).map(|i| if i + 1 == n { n as f32 } else { 0.0 }).collect();
                        let mut options = ScanAttention::default();
                        options.n_splits = n_splits;
                        let (values, lse) = attend(&device, &q, &k, &v, &options);
                        let fits = |x: &f32| (x - 1.0).abs() < 1e-4;
                        assert!(values.iter().all(fits), "{name}: {n} keys, {n_splits:?}, {logit:e}: {values:?}");
                        let truth = f64::from(logit) + (n as f64).ln();
                        let fits = |x: &f32| (f64::from(*x) / truth - 1.0).abs() < 1e-5;
                        assert!(lse.iter().all(fits), "{name}: {n} keys, {n_splits:?}, {logit:e}: {lse:?}");
                    }
                }
            }
        }
    }
}

/// Fault R11. An infinite query read differently on each twin, and NaN log-sum-exps were dropped
/// from a merge on a GPU.
#[test]
fn r11_infinities_and_lost_parts_spoil_their_rows_alone() {
    for (name, device) in devices() {
        let q = [f32::INFINITY, 1.0, f32::NEG_INFINITY, 1e38];
        for n in [3, 700] {
            let (k, v) = (vec![1.0; n], vec![2.0; n]);
            let (values, lse) = attend(&device, &q, &k, &v, &ScanAttention::default());
            assert!(values[0].is_nan() && lse[0].is_nan(), "{name}: {values:?} {lse:?}");
            assert_eq!((values[2], lse[2]), (0.0, MASKED), "{name}: no key has a weight");
            for i in [1, 3] {
                let logit = f64::from(q[i]) + (n as f64).ln();
                let fits = (values[i] - 2.0).abs() < 1e-5 && (f64::from(lse[i]) / logit - 1.0).abs() < 1e-5;
                assert!(fits, "{name}: {values:?} {lse:?}");
            }
        }
        let values = tensor(&device, &[2, 3, 1], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let lse = tensor(&device, &[2, 3], &[f32::NAN, 0.0, 0.0, 1.0, 0.0, f32::INFINITY]);
        let merged = merge_attention(&values, &lse).unwrap();
        let (values, lse) = (merged.values.read().unwrap(), merged.log_sum_exp.read().unwrap());
        for (numbers, right) in [(values, 3.5), (lse, 2f32.ln())] {
            let fits = numbers[0].is_nan() && (numbers[1] - right).abs() < 1e-6 && numbers[2].is_nan();
            assert!(fits, "{name}: {numbers:?} for NaN, {right}, NaN");
        }
    }
}

/// Fault R11. Biases of growing kernels with coefficients of both signs were infinity less infinity;
/// beyond 5.77e30 the CPU cut them off.
#[test]
fn r11_biases_of_both_signs_are_finite() {
    for (name, device) in devices() {
        for distance in [Distance::Euclidean, Distance::CausalTime] {
            for kernel in BiasKernel::ALL.into_iter().filter(|kernel| *kernel != BiasKernel::Scalar) {
                let (a, b, c) = ([3e38, -3e38], [-9.0, -9.0], [0.0, 0.0]);
                let terms =
                    [BiasTerm::built_in(0..1, distance, kernel, &[&a[..], &b, &c][..kernel.parameters().len()])];
                let coords = tensor(&device, &[1, 2, 1], &[-100.0, -1e20]);
                let here = tensor(&device, &[1, 1, 1], &[0.0]);
                let options = ScanAttention::default().bias(Bias::new(&here, &coords, &terms));
                let (values, lse) = attend(&device, &[0.0], &[0.0; 2], &[1.0, 3.0], &options);
                assert!((values[0] - 2.0).abs() < 1e-5 && lse[0].is_finite(), "{name}: {kernel:?} {values:?} {lse:?}");
            }
        }
        // 1e31 and 2e31 are told apart.
        let terms = [BiasTerm::scalar(0..1, &[1e30])];
        let coords = tensor(&device, &[1, 2, 1], &[10.0, 20.0]);
        let here = tensor(&device, &[1, 1, 1], &[0.0]);
        let options = ScanAttention::default().bias(Bias::new(&here, &coords, &terms));
        let (values, _) = attend(&device, &[0.0], &[0.0; 2], &[1.0, 3.0], &options);
        assert_eq!(values, [3.0], "{name}");
    }
}

/// Fault R11. A NaN that a step of a chunk wrote was multiplied by the zeros of the steps before it.
#[test]
fn r11_the_future_is_never_in_the_past() {
    let (n, at) = (80, 43);
    for (name, device) in devices() {
        for form in [Form::Recurrent, Form::Chunked] {
            for operand in 0..3 {
                let numbers = |which: usize| {
                    let mut numbers: Vec<f32> = (0..2 * n).map(|i| ((i * 7 + which) % 5) as f32 * 0.1).collect();
                    if which == operand {
                        numbers[2 * at + 1] = f32::NAN;
                    }
                    tensor(&device, &[1, 1, n, 2], &numbers)
                };
                let p = wgpu_attention::ops::Probabilities::new(&device, &[1, 1, n], &vec![0.5; n]).unwrap();
                let options = AttentionMemory::new(layout(true, 1)).p_write(&p).p_erase(&p).form(form);
                let recall = attention_memory(&numbers(0), &numbers(1), &numbers(2), &options).unwrap();
                let values = recall.values.read().unwrap();
                let first = values.iter().position(|x| x.is_nan()).unwrap() / 2;
                assert_eq!(first, at, "{name}: {form:?}, operand {operand}");
                // A query is one step's alone; a value one column's; a key is in all that follows.
                let n_nan = values.iter().filter(|x| x.is_nan()).count();
                assert_eq!(n_nan, [2, 2 * (n - at), n - at][operand], "{name}: {form:?}, operand {operand}");
            }
        }
    }
}

/// Fault R11. A function of the user's that panicked, as it does past the end of its parameters, took
/// the caller along.
#[test]
fn r11_a_function_that_panics_is_an_error() {
    let device = Device::cpu();
    let custom = CustomBias {
        name: "mine".into(),
        wgsl: "return params(7u);".into(),
        cpu: Arc::new(|_, _, _, params| params[7]),
        params: vec![1.0],
    };
    let terms = [BiasTerm::custom(0..1, custom)];
    let coords = tensor(&device, &[1, 2, 1], &[0.0, 1.0]);
    let options = ScanAttention::default().bias(Bias::new(&coords, &coords, &terms));
    let x = tensor(&device, &[1, 1, 2, 1], &[0.0, 1.0]);
    let error = scan_attention(&x, &x, &x, &options).unwrap_err();
    assert!(matches!(error, Error::Argument { .. }), "{error:?}");
    assert!(error.to_string().contains("mine") && error.to_string().contains("index out of bounds"), "{error}");
}
