//! The small operations against float64: dense layers, normalisation, the merge.

use crate::support::{Random, bound, devices, error, poison};
#[cfg(feature = "gpu")]
use crate::support::{few_bindings, forced, in_turn};
use wgpu_attention::{
    Device, Tensor,
    ops::{Activation, Linear, concat, layer_norm, linear, merge_attention, scan_attention::MASKED},
};

/// What f32 costs in sums of this length; [`bound`] multiplies it.
const RECORDED: f64 = 5e-7;

/// The complementary error function in float64, by its continued fraction and its series.
fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 2.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return 1.0 - sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let mut fraction = 0.0;
    for n in (1..200).rev() {
        fraction = f64::from(n) / 2.0 / (x + fraction);
    }
    (-x * x).exp() / ((x + fraction) * std::f64::consts::PI.sqrt())
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::None => x,
        Activation::Relu => x.max(0.0),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
        Activation::GeluErf => 0.5 * x * erfc(-x / std::f64::consts::SQRT_2),
        other => panic!("the oracle does not know {other:?}"),
    }
}

/// Dense layers of these sizes against float64.
fn linear_agrees(devices: &[(String, Device)], sizes: &[(usize, usize, usize)]) {
    let mut random = Random::new(1);
    for (name, device) in devices {
        for (i, &(rows, n_in, n_out)) in sizes.iter().enumerate() {
            let activation = [Activation::None, Activation::Relu, Activation::GeluTanh, Activation::GeluErf][i % 4];
            let x = random.scaled(rows * n_in, 2.0);
            let weight = random.scaled(n_in * n_out, 2.0 / (n_in as f32).sqrt());
            let (bias, residual) = (random.numbers(n_out), random.numbers(rows * n_out));
            let (has_bias, has_residual) = (i % 3 != 0, i % 2 == 0);
            let tensor = |shape: &[usize], data: &[f32]| Tensor::new(device, shape, data).unwrap();
            let layer =
                Linear { weight: tensor(&[n_in, n_out], &weight), bias: has_bias.then(|| tensor(&[n_out], &bias)) };
            let residual_tensor = has_residual.then(|| tensor(&[rows, n_out], &residual));
            poison(device, &[rows * n_out]);
            let y = linear(&tensor(&[rows, n_in], &x), &layer, activation, residual_tensor.as_ref()).unwrap();
            let truth: Vec<f64> = (0..rows * n_out)
                .map(|at| {
                    let (r, c) = (at / n_out, at % n_out);
                    let product = |i| f64::from(x[r * n_in + i]) * f64::from(weight[i * n_out + c]);
                    let sum: f64 = (0..n_in).map(product).sum();
                    let y = activate(activation, sum + if has_bias { f64::from(bias[c]) } else { 0.0 });
                    y + if has_residual { f64::from(residual[at]) } else { 0.0 }
                })
                .collect();
            let error = error(&y.read().unwrap(), &truth);
            let allowed = bound(device, RECORDED);
            assert!(error <= allowed, "{name}: {rows}x{n_in}x{n_out} {activation:?} off by {error:.2e}");
        }
    }
}

#[test]
fn linear_agrees_with_float64() {
    let sizes = [
        (1, 1, 1),
        (7, 5, 2),
        (63, 64, 65),
        (64, 128, 64),
        (65, 31, 100),
        (1000, 7, 33),
        (1100, 64, 256),
        (3, 1000, 3),
    ];
    linear_agrees(&devices(), &sizes);
}

#[cfg(feature = "gpu")]
#[test]
fn every_variant_of_linear_agrees_with_float64() {
    // Slices and tiles that are full, that end early and that are one; widths that vectors are not for.
    let sizes = [
        (1, 4, 4),
        (7, 20, 12),
        (63, 64, 68),
        (64, 128, 64),
        (65, 36, 100),
        (100, 12, 260),
        (130, 100, 132),
        (1000, 8, 64),
        (1, 1000, 4),
        (7, 5, 2),
        (65, 62, 64),
        (64, 64, 30),
    ];
    for variant in ["tile 32", "tile 64", "vector 32", "vector 64"] {
        linear_agrees(&forced("linear", variant), &sizes);
    }
    linear_agrees(&in_turn(few_bindings()), &sizes);
}

/// What lies past the end of an operand, or of a slice, is read where vectors are and must not count.
#[cfg(feature = "gpu")]
#[test]
fn what_is_past_the_end_of_linear_is_not_read() {
    for variant in ["tile 32", "tile 64", "vector 32", "vector 64"] {
        for (name, device) in forced("linear", variant) {
            let (rows, n_in, n_out) = (65, 20, 68);
            let tensor = |shape: &[usize], data: &[f32]| Tensor::new(&device, shape, data).unwrap();
            for bad in [f32::NAN, f32::INFINITY] {
                // The last row of x, and the last row of the weight: what is read past the end is one of them.
                let mut x = vec![1.0; rows * n_in];
                x[(rows - 1) * n_in..].fill(bad);
                let mut weight = vec![1.0; n_in * n_out];
                weight[n_in * n_out - 1] = bad;
                let layer = Linear { weight: tensor(&[n_in, n_out], &weight), bias: None };
                let y = linear(&tensor(&[rows, n_in], &x), &layer, Activation::None, None).unwrap().read().unwrap();
                for (i, &y) in y.iter().enumerate() {
                    let is_bad = i / n_out == rows - 1 || i % n_out == n_out - 1;
                    let same = if is_bad { y.is_nan() || y == bad } else { y == n_in as f32 };
                    assert!(same, "{name}: {bad} is {y} at {i}");
                }
            }
        }
    }
}

#[test]
fn activations_do_not_overflow() {
    let x = [-1e30f32, -1e4, -100.0, -10.0, -3.0, -0.0, 0.0, 3.0, 10.0, 100.0, 1e4, 1e30];
    for (name, device) in devices() {
        for activation in [Activation::Relu, Activation::GeluTanh, Activation::GeluErf] {
            let one = Linear { weight: Tensor::new(&device, &[1, 1], &[1.0]).unwrap(), bias: None };
            let input = Tensor::new(&device, &[x.len(), 1], &x).unwrap();
            let y = linear(&input, &one, activation, None).unwrap().read().unwrap();
            for (x, y) in x.iter().zip(y) {
                let truth = activate(activation, f64::from(*x));
                let error = (f64::from(y) - truth).abs() / (1.0 + truth.abs());
                assert!(error < 1e-5, "{name}: {activation:?}({x}) is {y}, truth {truth}");
            }
        }
    }
}

#[test]
fn concat_copies_rows_side_by_side() {
    for (name, device) in devices() {
        for (rows, width, columns, right_width) in [
            (1, 1, 0..1, 1),
            (7, 5, 1..4, 3),
            (64, 3, 2..2, 65),
            (3, 2, 0..2, 0),
            // Of whole vectors, and such as do not begin at one.
            (65, 12, 4..12, 8),
            (9, 8, 2..6, 4),
            (9, 8, 0..8, 0),
            (9, 8, 4..4, 4),
            (9, 0, 0..0, 4),
        ] {
            let numbers = |n: usize, sign: f32| (0..n).map(|i| sign * i as f32).collect::<Vec<_>>();
            let (left, right) = (numbers(rows * width, 1.0), numbers(rows * right_width, -1.0));
            let tensor = |width: usize, data: &[f32]| Tensor::new(&device, &[rows, width], data).unwrap();
            poison(&device, &[rows * (columns.len() + right_width)]);
            let joined = concat(&tensor(width, &left), columns.clone(), &tensor(right_width, &right)).unwrap();
            assert_eq!(joined.shape(), [rows, columns.len() + right_width]);
            let mut expected = Vec::new();
            for row in 0..rows {
                expected.extend_from_slice(&left[row * width..][columns.clone()]);
                expected.extend_from_slice(&right[row * right_width..][..right_width]);
            }
            assert!(joined.read().unwrap() == expected, "{rows} rows of {width} and {right_width} on {name}");
        }
    }
}

#[test]
fn layer_norm_agrees_with_float64() {
    let mut random = Random::new(2);
    for (name, device) in devices() {
        for (rows, width, offset) in
            [(1, 1, 0.0), (5, 7, 0.0), (64, 64, 3.0), (65, 100, 0.0), (1000, 16, 0.0), (3, 1000, 30.0)]
        {
            let mut x = random.numbers(rows * width);
            x.iter_mut().for_each(|x| *x += offset);
            let (scale, bias, residual) = (random.numbers(width), random.numbers(width), random.numbers(rows * width));
            let tensor = |shape: &[usize], data: &[f32]| Tensor::new(&device, shape, data).unwrap();
            poison(&device, &[rows * width]);
            let y = layer_norm(
                &tensor(&[rows, width], &x),
                &tensor(&[width], &scale),
                &tensor(&[width], &bias),
                1e-6,
                Some(&tensor(&[rows, width], &residual)),
            )
            .unwrap();
            let truth: Vec<f64> = x
                .chunks(width)
                .flat_map(|row| {
                    let n = width as f64;
                    let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
                    let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
                    let inverse = 1.0 / (variance + 1e-6).sqrt();
                    let (scale, bias) = (&scale, &bias);
                    row.iter()
                        .enumerate()
                        .map(move |(i, &x)| (f64::from(x) - mean) * inverse * f64::from(scale[i]) + f64::from(bias[i]))
                        .collect::<Vec<_>>()
                })
                .zip(&residual)
                .map(|(y, &residual)| y + f64::from(residual))
                .collect();
            let error = error(&y.read().unwrap(), &truth);
            // An input of size `offset` has lost that many units in the last place already.
            let allowed = bound(&device, RECORDED) * (1.0 + f64::from(offset));
            assert!(error <= allowed, "{name}: {rows}x{width} off by {error:.2e}, allowed {allowed:.2e}");
        }
    }
}

#[test]
fn layer_norm_of_large_rows_agrees_with_float64() {
    let mut random = Random::new(4);
    for (name, device) in devices() {
        for size in [1e6, 1e15, 1e17, 1e18, 1e19, 1e30, 1e38] {
            for width in [2, 64, 1000] {
                // A row of that size, one that is a single large number, and one of small numbers.
                let mut x = random.scaled(3 * width, size);
                x[width..].iter_mut().for_each(|x| *x /= size);
                x[width + 1] = size;
                let (scale, bias) = (random.numbers(width), random.numbers(width));
                let tensor = |shape: &[usize], data: &[f32]| Tensor::new(&device, shape, data).unwrap();
                let [scale_, bias_] = [&scale, &bias].map(|data| tensor(&[width], data));
                let y = layer_norm(&tensor(&[3, width], &x), &scale_, &bias_, 1e-5, None).unwrap();
                let mut truth = Vec::new();
                for row in x.chunks(width) {
                    let n = width as f64;
                    let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
                    let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
                    let normed = row.iter().map(|&x| (f64::from(x) - mean) / (variance + 1e-5).sqrt());
                    let of_row = normed.zip(&scale).zip(&bias);
                    truth.extend(of_row.map(|((x, &scale), &bias)| x * f64::from(scale) + f64::from(bias)));
                }
                let error = error(&y.read().unwrap(), &truth);
                let allowed = bound(&device, RECORDED);
                assert!(error <= allowed, "{name}: {size:e} {width}: off by {error:.2e}, allowed {allowed:.2e}");
            }
        }
        // A number whose sums are exact leaves no variance at all.
        let one = Tensor::new(&device, &[8], &[1.0; 8]).unwrap();
        let y = layer_norm(&Tensor::new(&device, &[8], &[2f32.powi(100); 8]).unwrap(), &one, &one, 1e-5, None).unwrap();
        assert_eq!(y.read().unwrap(), [1.0; 8], "{name}");
    }
}

#[test]
fn merge_agrees_with_float64_in_any_order() {
    let mut random = Random::new(3);
    for (name, device) in devices() {
        for (n_parts, rows, width) in [(1, 3, 4), (2, 65, 32), (7, 10, 5), (1000, 3, 3)] {
            let values = random.numbers(n_parts * rows * width);
            let mut lse = random.scaled(n_parts * rows, 80.0);
            // Some parts have no keys; the first row has none in any.
            lse.iter_mut().step_by(3).for_each(|l| *l = MASKED);
            (0..n_parts).for_each(|part| lse[part * rows] = MASKED);
            let merge = |order: &[usize]| {
                let pick = |data: &[f32], n: usize| -> Vec<f32> {
                    order.iter().flat_map(|part| &data[part * n..][..n]).copied().collect()
                };
                let part_values = Tensor::new(&device, &[n_parts, rows, width], &pick(&values, rows * width)).unwrap();
                let part_lse = Tensor::new(&device, &[n_parts, rows], &pick(&lse, rows)).unwrap();
                poison(&device, &[rows * width, rows]);
                let merged = merge_attention(&part_values, &part_lse).unwrap();
                assert_eq!(merged.values.shape(), [rows, width]);
                (merged.values.read().unwrap(), merged.log_sum_exp.read().unwrap())
            };
            let (mut truth, mut truth_lse) = (Vec::new(), Vec::new());
            for row in 0..rows {
                let parts: Vec<usize> = (0..n_parts).filter(|part| lse[part * rows + row] != MASKED).collect();
                let l = |part: usize| f64::from(lse[part * rows + row]);
                let largest = parts.iter().map(|&part| l(part)).fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = parts.iter().map(|&part| (l(part) - largest).exp()).sum();
                truth_lse.push(if parts.is_empty() { f64::from(MASKED) } else { largest + total.ln() });
                for d in 0..width {
                    let of = |part: usize| f64::from(values[(part * rows + row) * width + d]);
                    let sum: f64 = parts.iter().map(|&part| (l(part) - largest).exp() * of(part)).sum();
                    truth.push(if parts.is_empty() { 0.0 } else { sum / total });
                }
            }
            let forward: Vec<usize> = (0..n_parts).collect();
            let backward: Vec<usize> = (0..n_parts).rev().collect();
            for order in [forward, backward] {
                let (merged, merged_lse) = merge(&order);
                let allowed = bound(&device, RECORDED);
                assert!(error(&merged, &truth) <= allowed, "{name}: {n_parts} parts");
                assert!(error(&merged_lse, &truth_lse) <= allowed, "{name}: {n_parts} parts");
            }
        }
    }
}

#[test]
fn empty_inputs_give_empty_outputs() {
    for (_, device) in devices() {
        let empty = Tensor::new(&device, &[0, 4], &[]).unwrap();
        let layer = Linear { weight: Tensor::new(&device, &[4, 3], &[0.0; 12]).unwrap(), bias: None };
        let y = linear(&empty, &layer, Activation::None, None).unwrap();
        assert_eq!((y.shape(), y.read().unwrap().len()), (&[0, 3][..], 0));
        let scale = Tensor::new(&device, &[4], &[1.0; 4]).unwrap();
        assert!(layer_norm(&empty, &scale, &scale, 1e-6, None).unwrap().is_empty());
    }
}

#[test]
fn tensors_go_to_and_fro() {
    for (_, device) in devices() {
        let tensor = Tensor::new(&device, &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        assert_eq!(tensor.device(), device);
        let there = tensor.to(&Device::cpu()).unwrap().to(&device).unwrap();
        assert_eq!(there.read().unwrap(), tensor.read().unwrap());
        assert_eq!(tensor.reshape(&[3, 2]).unwrap().shape(), [3, 2]);
        assert_eq!(pollster::block_on(tensor.read_async()).unwrap(), tensor.read().unwrap());
    }
}
