//! LSTM and LSAM against float64.

use crate::support::{Random, bound, devices, error, poison, sigmoid, wide};
use proptest::prelude::*;
use wgpu_attention::{
    Device, Tensor,
    ops::{Direction, Linear, Lsam, LsamState, Lstm, lsam, lstm},
};

/// `x W` for `W [n_in, n_out]`.
fn product(x: &[f64], weight: &[f32]) -> Vec<f64> {
    let n_out = weight.len() / x.len();
    (0..n_out).map(|o| x.iter().enumerate().map(|(i, x)| x * f64::from(weight[i * n_out + o])).sum()).collect()
}

/// All devices, and those that take every step of an operation in many workgroups.
fn devices_and_forced(_operation: &str) -> Vec<(String, Device)> {
    #[allow(unused_mut)]
    let mut all = devices();
    #[cfg(feature = "gpu")]
    all.extend(crate::support::forced(_operation, "many workgroups"));
    all
}

#[test]
fn lstm_agrees_with_float64() {
    for (name, device) in devices_and_forced("lstm") {
        for [batch, n, n_in, hidden] in [
            [1, 1, 1, 1],
            [2, 30, 5, 7],
            [7, 9, 3, 70],
            [1, 100, 16, 33],
            [3, 65, 2, 16],
            [2, 63, 2, 17],
            [1, 64, 2, 16],
            [1, 1000, 1, 3],
        ] {
            let mut random = Random::new((batch * n) as u64);
            let width = 4 * hidden;
            let x = random.numbers(batch * n * n_in);
            let (w_x, bias) = (random.scaled(n_in * width, 0.8), random.numbers(width));
            let w_h = random.scaled(hidden * width, 1.5 / (hidden as f32).sqrt());
            let start = random.numbers(batch * 2 * hidden);
            let (mut truth, mut end) = (Vec::new(), wide(&start));
            for (b, state) in end.chunks_mut(2 * hidden).enumerate() {
                let (h, c) = state.split_at_mut(hidden);
                for x in x[b * n * n_in..][..n * n_in].chunks(n_in) {
                    let (from_x, from_h) = (product(&wide(x), &w_x), product(h, &w_h));
                    let z: Vec<f64> = (0..width).map(|j| from_x[j] + from_h[j] + f64::from(bias[j])).collect();
                    for j in 0..hidden {
                        c[j] = sigmoid(z[hidden + j]) * c[j] + sigmoid(z[j]) * z[2 * hidden + j].tanh();
                        h[j] = sigmoid(z[3 * hidden + j]) * c[j].tanh();
                    }
                    truth.extend_from_slice(h);
                }
            }
            let tensor = |shape: &[usize], data: &[f32]| Tensor::new(&device, shape, data).unwrap();
            let layer = Lstm {
                input: Linear { weight: tensor(&[n_in, width], &w_x), bias: Some(tensor(&[width], &bias)) },
                hidden: tensor(&[hidden, width], &w_h),
            };
            let start = tensor(&[batch, 2, hidden], &start);
            poison(&device, &[truth.len(), end.len()]);
            let output = lstm(&tensor(&[batch, n, n_in], &x), &layer, Some(&start)).unwrap();
            for (found, truth) in [(&output.values, &truth), (&output.state, &end)] {
                // Errors of a step are damped by the gates: those of sums of up to 70 products.
                let error = error(&found.read().unwrap(), truth);
                assert!(error <= bound(&device, 1e-6), "{name}: {batch} {n} {n_in} {hidden} off by {error:.2e}");
            }
        }
    }
}

#[test]
fn lsam_agrees_with_float64() {
    for (name, device) in devices_and_forced("lsam") {
        for [batch, n, n_in, n_heads, dim] in [
            [1, 1, 1, 1, 1],
            [2, 20, 5, 3, 7],
            [8, 10, 4, 1, 70],
            [1, 65, 16, 4, 8],
            [2, 9, 2, 2, 16],
            [2, 63, 2, 1, 5],
            [1, 64, 2, 2, 4],
            // In few dimensions some of a thousand keys are nearly zero, and what is made of one has no digits.
            [1, 1000, 1, 1, 24],
        ] {
            let mut random = Random::new((batch * n) as u64);
            let d_model = n_heads * dim;
            let width = 3 * d_model + 2 * n_heads;
            let x = random.numbers(batch * n * n_in);
            let (w_x, bias) = (random.scaled(n_in * width, 0.8), random.numbers(width));
            let w_h = random.scaled(d_model * width, 1.5 / (d_model as f32).sqrt());
            let (h, m) = (random.numbers(batch * d_model), random.numbers(batch * d_model * dim));
            for reverse in [false, true] {
                let (mut hidden, mut memory) = (wide(&h), wide(&m));
                let mut truth = vec![0.0; batch * n * d_model];
                for b in 0..batch {
                    let h = &mut hidden[b * d_model..][..d_model];
                    for s in 0..n {
                        let row = b * n + if reverse { n - 1 - s } else { s };
                        let (from_x, from_h) = (product(&wide(&x[row * n_in..][..n_in]), &w_x), product(h, &w_h));
                        let z: Vec<f64> = (0..width).map(|j| from_x[j] + from_h[j] + f64::from(bias[j])).collect();
                        for head in 0..n_heads {
                            let part = |i: usize| &z[i * d_model + head * dim..][..dim];
                            let unit = |x: &[f64]| -> Vec<f64> {
                                let length = x.iter().map(|x| x * x).sum::<f64>().sqrt();
                                x.iter().map(|x| x / length).collect()
                            };
                            let (q, k, v) = (unit(part(0)), unit(part(1)), part(2));
                            let (w, r) = (sigmoid(z[3 * d_model + head]), sigmoid(z[3 * d_model + n_heads + head]));
                            for i in 0..dim {
                                let row = &mut memory[(b * d_model + head * dim + i) * dim..][..dim];
                                let known: f64 = row.iter().zip(&k).map(|(m, k)| m * k).sum();
                                row.iter_mut().zip(&k).for_each(|(m, k)| *m += w * (v[i] - known) * k);
                                h[head * dim + i] = r * row.iter().zip(&q).map(|(m, q)| m * q).sum::<f64>();
                            }
                        }
                        truth[row * d_model..][..d_model].copy_from_slice(h);
                    }
                }
                let tensor = |shape: &[usize], data: &[f32]| Tensor::new(&device, shape, data).unwrap();
                let layer = Lsam {
                    n_heads,
                    input: Linear { weight: tensor(&[n_in, width], &w_x), bias: Some(tensor(&[width], &bias)) },
                    hidden: tensor(&[d_model, width], &w_h),
                };
                let state = LsamState {
                    hidden: tensor(&[batch, d_model], &h),
                    memory: tensor(&[batch, n_heads, dim, dim], &m),
                };
                poison(&device, &[truth.len(), memory.len()]);
                let direction = if reverse { Direction::Reverse } else { Direction::Forward };
                let output = lsam(&tensor(&[batch, n, n_in], &x), &layer, Some(&state), direction).unwrap();
                let state = output.state;
                for (found, truth) in [(&output.values, &truth), (&state.hidden, &hidden), (&state.memory, &memory)] {
                    // A short key or query is made longer and its rounding with it; the memory
                    // hands errors on.
                    let error = error(&found.read().unwrap(), truth);
                    let what = format!("{name}: {batch} {n} {n_in} {n_heads} {dim}");
                    assert!(error <= bound(&device, 5e-6), "{what} off by {error:.2e}");
                }
            }
        }
    }
}

/// States too large for any workgroup's memory, in storage: against the CPU twin.
#[test]
fn wide_recurrences_run_on_every_adapter() {
    let on = |device: &Device, n_heads: usize, d_model: usize| {
        let mut random = Random::new(d_model as u64);
        let mut tensor = |shape: &[usize], scale: f32| {
            Tensor::new(device, shape, &random.scaled(shape.iter().product(), scale)).unwrap()
        };
        let x = tensor(&[2, 3, 2], 1.0);
        let mut cell = |width: usize| {
            let input = Linear { weight: tensor(&[2, width], 0.8), bias: None };
            (input, tensor(&[d_model, width], 1.5 / (d_model as f32).sqrt()))
        };
        let (input, hidden) = cell(4 * d_model);
        let long = lstm(&x, &Lstm { input, hidden }, None).unwrap();
        let (input, hidden) = cell(3 * d_model + 2 * n_heads);
        let short = lsam(&x, &Lsam { n_heads, input, hidden }, None, Direction::Forward).unwrap();
        [long.values, long.state, short.values, short.state.hidden, short.state.memory]
            .map(|y| wide(&y.read().unwrap()))
    };
    for (n_heads, d_model) in [(8, 1024), (8, 1536), (1, 1536)] {
        let truth = on(&Device::cpu(), n_heads, d_model);
        for (name, device) in devices() {
            for (found, truth) in on(&device, n_heads, d_model).iter().zip(&truth) {
                let found: Vec<f32> = found.iter().map(|x| *x as f32).collect();
                let error = error(&found, truth);
                assert!(error <= bound(&device, 5e-6), "{name}: {n_heads} heads of {d_model} off by {error:.2e}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// A recurrence may be cut anywhere: the state is all that goes on.
    #[test]
    fn recurrences_may_be_cut(n in 2..40usize, at in 1..39usize, seed: u64) {
        let at = at.min(n - 1);
        let device = Device::cpu();
        let mut random = Random::new(seed);
        let mut tensor = |shape: &[usize], scale: f32| {
            Tensor::new(&device, shape, &random.scaled(shape.iter().product(), scale)).unwrap()
        };
        let input = |weight: Tensor| Linear { weight, bias: None };
        let (long, short) = (Lstm { input: input(tensor(&[3, 20], 1.0)), hidden: tensor(&[5, 20], 0.6) },
            Lsam { n_heads: 2, input: input(tensor(&[3, 16], 1.0)), hidden: tensor(&[4, 16], 0.6) });
        let x = tensor(&[1, n, 3], 1.0);
        let numbers = x.read().unwrap();
        let part = |steps: std::ops::Range<usize>| {
            Tensor::new(&device, &[1, steps.len(), 3], &numbers[3 * steps.start..3 * steps.end]).unwrap()
        };
        let whole = lstm(&x, &long, None).unwrap();
        let first = lstm(&part(0..at), &long, None).unwrap();
        let second = lstm(&part(at..n), &long, Some(&first.state)).unwrap();
        prop_assert_eq!([first.values.read().unwrap(), second.values.read().unwrap()].concat(), whole.values.read().unwrap());
        let whole = lsam(&x, &short, None, Direction::Forward).unwrap();
        let first = lsam(&part(0..at), &short, None, Direction::Forward).unwrap();
        let second = lsam(&part(at..n), &short, Some(&first.state), Direction::Forward).unwrap();
        prop_assert_eq!([first.values.read().unwrap(), second.values.read().unwrap()].concat(), whole.values.read().unwrap());
        prop_assert_eq!(second.state.memory.read().unwrap(), whole.state.memory.read().unwrap());
    }
}
