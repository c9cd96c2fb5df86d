//! Operands of f16: as exact as f32 with the numbers that were stored, and refused elsewhere.

use crate::support::{
    Random, bound, devices, error, layout,
    oracle::{self, Case, projected},
    part, poison, refused,
};
use wgpu_attention::{
    DType, Device, Mask, Tensor, f16,
    ops::{Activation, Linear, ScanAttention, ScanMemory, linear, scan_attention},
};

/// What f32 costs in sums of this length; [`bound`] multiplies it.
const RECORDED: f64 = 8e-7;

/// How far a number of f16 is from the one that it was rounded from: of what it is, and at least.
const RELATIVE: f64 = 1.0 / 2048.0;
const SMALLEST: f64 = 1.0 / (1 << 25) as f64;

/// The same numbers as f16, and what they are then.
fn rounded(device: &Device, shape: &[usize], numbers: &[f32]) -> (Tensor, Vec<f32>) {
    let halves: Vec<f16> = numbers.iter().map(|&x| f16::from_f32(x)).collect();
    let tensor = Tensor::from_f16(device, shape, &halves).unwrap();
    (tensor, halves.iter().map(|half| half.to_f32()).collect())
}

/// Every device, and those of every variant and of few bindings.
fn all_devices() -> Vec<(String, Device)> {
    #[allow(unused_mut)]
    let mut all = devices();
    #[cfg(feature = "gpu")]
    {
        use crate::support::{few_bindings, forced, in_turn};
        all.extend(["tile 32", "tile 64", "vector 32", "vector 64"].iter().flat_map(|name| forced("linear", name)));
        all.extend(in_turn(few_bindings()));
    }
    all
}

/// Every device, and those of every variant of scan attention.
fn scan_devices() -> Vec<(String, Device)> {
    #[allow(unused_mut)]
    let mut all = devices();
    #[cfg(feature = "gpu")]
    {
        use crate::support::{few_bindings, forced_scans, in_turn};
        all.extend(forced_scans());
        all.extend(in_turn(few_bindings()));
    }
    all
}

/// Against float64 with the numbers that were stored by the rule of f32; and with those that were rounded by
/// what rounding does to each product.
#[test]
fn a_weight_of_halves_agrees_with_float64() {
    let sizes =
        [(1, 1, 1), (7, 5, 3), (63, 64, 68), (65, 36, 100), (100, 31, 65), (130, 100, 132), (1000, 8, 64), (2, 7, 0)];
    for (name, device) in all_devices() {
        let mut random = Random::new(1);
        for (rows, n_in, n_out) in sizes {
            let (x, mut weight) =
                (random.scaled(rows * n_in, 2.0), random.scaled(n_in * n_out, 2.0 / (n_in as f32).sqrt()));
            // Also such that are subnormal in f16.
            weight.iter_mut().step_by(3).for_each(|w| *w *= 1e-5);
            let bias = random.numbers(n_out);
            let (half, stored) = rounded(&device, &[n_in, n_out], &weight);
            let layer = Linear { weight: half, bias: Some(Tensor::new(&device, &[n_out], &bias).unwrap()) };
            let input = Tensor::new(&device, &[rows, n_in], &x).unwrap();
            poison(&device, &[rows * n_out]);
            let y = linear(&input, &layer, Activation::None, None).unwrap().read().unwrap();
            let sum = |weight: &[f32], at: usize| -> f64 {
                let (r, c) = (at / n_out, at % n_out);
                let product = |i| f64::from(x[r * n_in + i]) * f64::from(weight[i * n_out + c]);
                (0..n_in).map(product).sum::<f64>() + f64::from(bias[c])
            };
            let truth: Vec<f64> = (0..rows * n_out).map(|at| sum(&stored, at)).collect();
            let (found, allowed) = (error(&y, &truth), bound(&device, RECORDED));
            assert!(found <= allowed, "{name}: {rows}x{n_in}x{n_out} off by {found:.2e}");
            for (at, y) in y.iter().enumerate() {
                let (r, c) = (at / n_out, at % n_out);
                let moved = |i| {
                    let (x, w) = (f64::from(x[r * n_in + i]).abs(), f64::from(weight[i * n_out + c]).abs());
                    x * (RELATIVE * w).max(SMALLEST)
                };
                let truth = sum(&weight, at);
                let allowed = (0..n_in).map(moved).sum::<f64>() + allowed * (1.0 + truth.abs());
                assert!((f64::from(*y) - truth).abs() <= allowed, "{name}: {rows}x{n_in}x{n_out} at {at}");
            }
        }
    }
}

/// A weight that is not finite stays so.
#[test]
fn a_weight_of_halves_may_be_infinite_or_nan() {
    for (name, device) in all_devices() {
        let weight = [1.0, f32::INFINITY, f32::NAN, -2.0].map(f16::from_f32);
        let layer = Linear { weight: Tensor::from_f16(&device, &[1, 4], &weight).unwrap(), bias: None };
        let x = Tensor::new(&device, &[1, 1], &[2.0]).unwrap();
        let y = linear(&x, &layer, Activation::None, None).unwrap().read().unwrap();
        assert!(y[0] == 2.0 && y[1] == f32::INFINITY && y[2].is_nan() && y[3] == -4.0, "{name}: {y:?}");
    }
}

/// Against float64 with the keys and values that were stored by the rule of f32. With those that were rounded,
/// logits are off by at most `d`, the scale times what rounding does to each product; so weights are off by a
/// factor of at most `e^2d`, and values by at most that less one, of the largest, and its rounding.
#[test]
fn keys_and_values_of_halves_agree_with_float64() {
    let sizes = [
        [1, 1, 1, 1, 1, 1],
        [2, 3, 7, 65, 5, 3],
        [1, 2, 64, 100, 32, 32],
        [1, 1, 1, 1000, 64, 17],
        [2, 2, 9, 63, 20, 64],
        [1, 2, 1, 200, 64, 64],
    ];
    for (turn, (name, device)) in scan_devices().into_iter().enumerate() {
        let mut random = Random::new(2);
        // What is no multiple of 4 a variant leaves to `portable`, which all devices run.
        let of_variant = |[.., head_dim, v_dim]: &[usize; 6]| head_dim % 4 == 0 && v_dim % 4 == 0;
        let is_forced = !device.capabilities().forced.is_empty();
        let sizes = sizes.into_iter().filter(|sizes| !is_forced || of_variant(sizes));
        for [batch, n_heads, n_queries, n_keys, head_dim, v_dim] in part(turn, 3, &device, sizes) {
            for is_head_major in [true, false] {
                let q = random.scaled(batch * n_heads * n_queries * head_dim, 2.0);
                let k = random.scaled(batch * n_heads * n_keys * head_dim, 2.0);
                let v = random.numbers(batch * n_heads * n_keys * v_dim);
                let case = |k: &[f32], v: &[f32]| Case {
                    batch,
                    n_heads,
                    n_queries,
                    n_keys,
                    head_dim,
                    v_dim,
                    q: q.clone(),
                    k: k.to_vec(),
                    v: v.to_vec(),
                    ..Case::default()
                };
                let sizes = |length, dim| [batch, n_heads, length, dim];
                let shape = |[b, h, n, d]: [usize; 4]| if is_head_major { vec![b, h, n, d] } else { vec![b, n, h * d] };
                let laid = |x: &[f32], sizes| if is_head_major { x.to_vec() } else { projected(x, sizes) };
                let half = |x: &[f32], sizes| rounded(&device, &shape(sizes), &laid(x, sizes)).0;
                let (of_q, of_k, of_v) = (sizes(n_queries, head_dim), sizes(n_keys, head_dim), sizes(n_keys, v_dim));
                let queries = Tensor::new(&device, &shape(of_q), &laid(&q, of_q)).unwrap();
                let options = ScanAttention::new(layout(is_head_major, n_heads));
                let (keys, reals) = (half(&k, of_k), half(&v, of_v));
                let read = scan_attention(&queries, &keys, &reals, &options).unwrap();
                // One of both alone, with the same numbers.
                let alone = scan_attention(&queries, &keys, &reals.to_f32().unwrap(), &options).unwrap();
                let alone = alone.values.read().unwrap();
                let (values, lse) = (read.values.read().unwrap(), read.log_sum_exp.read().unwrap());
                let stored = |x: &[f32]| x.iter().map(|&x| f16::from_f32(x).to_f32()).collect::<Vec<_>>();
                let laid_out = |truth: Vec<f64>, dim| {
                    let sizes = sizes(n_queries, dim);
                    if is_head_major { truth } else { projected(&truth, sizes) }
                };
                let oracle = |k: &[f32], v: &[f32]| {
                    let (values, lse) = oracle::scan_attention(&case(k, v));
                    let lse = lse.into_iter().map(|lse| lse.unwrap()).collect();
                    (laid_out(values, v_dim), laid_out(lse, 1))
                };
                let (of_values, of_lse) = oracle(&stored(&k), &stored(&v));
                let allowed = bound(&device, RECORDED);
                let what = format!("{name}: {n_queries} queries, {n_keys} keys of {head_dim}");
                assert!(error(&alone, &of_values) <= allowed, "{what}: {:.2e}", error(&alone, &of_values));
                assert!(error(&values, &of_values) <= allowed, "{what}: {:.2e}", error(&values, &of_values));
                assert!(error(&lse, &of_lse) <= allowed, "{what}: {:.2e}", error(&lse, &of_lse));
                let largest = |x: &[f32]| x.iter().fold(0.0f64, |a, &b| a.max(f64::from(b).abs()));
                let scale = 1.0 / (head_dim as f64).sqrt();
                let moved = scale * head_dim as f64 * largest(&q) * (RELATIVE * largest(&k)).max(SMALLEST);
                let moves = (RELATIVE * largest(&v)).max(SMALLEST) + ((2.0 * moved).exp() - 1.0) * largest(&v);
                let (of_values, of_lse) = oracle(&k, &v);
                assert!(error(&values, &of_values) <= moves + allowed, "{what}");
                assert!(error(&lse, &of_lse) <= moved + allowed, "{what}");
            }
        }
    }
}

#[test]
fn a_memory_keeps_halves_as_they_are() {
    for (name, device) in devices() {
        let mut random = Random::new(3);
        for layout in [layout(true, 2), layout(false, 2)] {
            let memory = ScanMemory::new(layout);
            let mut of = |n: usize| {
                let shape = if layout == crate::support::layout(true, 2) { vec![1, 2, n, 3] } else { vec![1, n, 6] };
                Tensor::new(&device, &shape, &random.numbers(6 * n)).unwrap().to_f16().unwrap()
            };
            let [q, k, v, more] = [4, 5, 5, 3].map(&mut of);
            let (q, mask) = (q.to_f32().unwrap(), Mask::new(&device, &[1, 3], &[true, false, true]).unwrap());
            let state = memory.write(None, &k, &v, None).unwrap();
            let state = memory.write(Some(&state), &more, &more, Some(&mask)).unwrap();
            assert_eq!((state.keys.dtype(), state.values.dtype()), (DType::F16, DType::F16));
            // The same as f32.
            let wide = |x: &Tensor| x.to_f32().unwrap();
            let of_f32 = memory.write(None, &wide(&k), &wide(&v), None).unwrap();
            refused(memory.write(Some(&of_f32), &more, &more, None), &["F16", "F32"]);
            let of_f32 = memory.write(Some(&of_f32), &wide(&more), &wide(&more), Some(&mask)).unwrap();
            assert_eq!(state.keys.read().unwrap(), of_f32.keys.read().unwrap(), "{name}");
            let read = |state| memory.read(&q, state).unwrap().values.read().unwrap();
            assert_eq!(read(&state), read(&of_f32), "{name}");
            let twice = state.merge(&state).unwrap();
            assert_eq!(twice.keys.dtype(), DType::F16);
            assert!(read(&twice).iter().zip(read(&state)).all(|(a, b)| (a - b).abs() < 1e-5), "{name}");
        }
    }
}

/// Every operand of every operation, of f16: read where [`DType`] says so, with the result of f32, and refused
/// by name elsewhere.
#[cfg(feature = "gpu")]
#[test]
fn every_operation_reads_halves_or_refuses_them() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let wanted = |operation: &str, operand: &str| match operation {
        "linear" | "lstm" | "lsam" => ["weight", "input"].contains(&operand),
        // Where no head jumps these are not looked at.
        "tape" => ["key", "query"].contains(&operand),
        "to_f16" => true,
        name => name.starts_with("scan_attention") && ["k", "v"].contains(&operand),
    };
    let mut n_read = 0;
    for (name, device) in devices() {
        let mut random = Random::new(4);
        for operation in crate::operations::operations() {
            for at in 0..operation.operands.len() {
                let mut operands: Vec<Tensor> = Vec::new();
                for operand in &operation.operands {
                    let numbers = random.numbers(operand.shape.iter().product());
                    operands.push(Tensor::new(&device, &operand.shape, &numbers).unwrap());
                }
                operands[at] = operands[at].to_f16().unwrap();
                let what = format!("{name}: {} of {}", operation.operands[at].name, operation.name);
                let outputs = catch_unwind(AssertUnwindSafe(|| (operation.run)(&device, &operands)));
                if !wanted(operation.name, operation.operands[at].name) {
                    let panic = outputs.expect_err(&what);
                    let said = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                    let is_named = said.contains("Argument") && said.contains("\"of f16\"") && said.contains("to_f32");
                    assert!(is_named, "{what}: {said}");
                    continue;
                }
                n_read += 1;
                let outputs = outputs.unwrap_or_else(|_| panic!("{what} is refused"));
                operands[at] = operands[at].to_f32().unwrap();
                for (found, truth) in outputs.iter().zip((operation.run)(&device, &operands)) {
                    let truth: Vec<f64> = truth.read().unwrap().into_iter().map(f64::from).collect();
                    assert!(error(&found.read().unwrap(), &truth) <= bound(&device, RECORDED), "{what}");
                }
            }
        }
    }
    assert!(n_read > 0, "nothing reads f16");
}

#[test]
fn what_is_refused_is_named() {
    for (_, device) in devices() {
        let t = |shape: &[usize]| crate::support::zeros(&device, shape);
        let layer = |weight: &Tensor, bias: &Tensor| Linear { weight: weight.clone(), bias: Some(bias.clone()) };
        let (x, weight, bias) = (t(&[2, 4]), t(&[4, 3]), t(&[3]));
        let half = |x: &Tensor| x.to_f16().unwrap();
        let run = |x: &Tensor, layer: &Linear| linear(x, layer, Activation::None, None);
        refused(
            run(&half(&x), &layer(&half(&weight), &bias)),
            &["linear", "x is of f16", "to_f32", "weight may be of f16"],
        );
        refused(run(&x, &layer(&weight, &half(&bias))), &["linear", "bias is of f16"]);
        let q = t(&[1, 1, 2, 4]);
        let options = ScanAttention::default();
        refused(
            scan_attention(&half(&q), &q, &q, &options),
            &["scan_attention", "q is of f16", "k and v may be of f16"],
        );
    }
}
