//! Fault F15: biases that are the same along a dimension, fewer heads of keys than of queries, and
//! no keys at all.

use super::{RECORDED, Run, add_terms, case, check, devices};
use crate::support::{
    Random, bound, error, layout,
    oracle::{self, Case, projected},
    refused, zeros,
};
use wgpu_attention::{
    Device, Mask, Tensor,
    ops::{
        AttentionMemory, Bias, BiasKernel, BiasTerm, Distance, FeatureMap, Layout, LinearAttention, Normalizer,
        ProjectionRows, Read, RollingAttention, ScanAttention, ScanMemory, attention_memory, random_features,
        scan_attention::{MASKED, scan_attention},
    },
};

/// [`devices`], those that bind four buffers, and those whose bindings hold few KiB: there the work
/// is cut into batch elements, heads and ranges of queries and keys.
#[cfg_attr(not(feature = "gpu"), allow(unused_mut, unused_variables))]
fn all_devices(kib: u64) -> Vec<(String, Device)> {
    let mut all = devices();
    #[cfg(feature = "gpu")]
    {
        use wgpu_attention::{device::GpuOptions, wgpu::Limits};
        let limits = Limits { max_storage_buffer_binding_size: kib << 10, ..Limits::default() };
        let options = GpuOptions::default().limits(limits);
        all.extend(crate::support::in_turn(crate::support::few_bindings()));
        all.extend(
            Device::adapters().iter().map(|adapter| {
                (format!("{}, {kib} KiB", adapter.name), Device::on_adapter(adapter, &options).unwrap())
            }),
        );
    }
    all
}

fn assert_near(what: &str, device: &Device, found: &Tensor, truth: &[f64]) {
    let (e, allowed) = (error(&found.read().unwrap(), truth), bound(device, RECORDED));
    assert!(e <= allowed, "{what}: off by {e:.2e}, allowed {allowed:.2e}");
}

/// The truth, in the layout that is asked for.
fn truth(case: &Case, head_major: bool) -> [Vec<f64>; 2] {
    let (values, lse) = oracle::scan_attention(case);
    let lse: Vec<f64> = lse.into_iter().map(|lse| lse.unwrap_or(f64::from(MASKED))).collect();
    let Case { batch, n_heads, n_queries, v_dim, .. } = *case;
    match head_major {
        true => [values, lse],
        false => [(values, v_dim), (lse, 1)].map(|(x, dim)| projected(&x, [batch, n_heads, n_queries, dim])),
    }
}

/// Head-major numbers as a tensor.
fn rows(device: &Device, head_major: bool, numbers: &[f32], sizes: [usize; 4]) -> Tensor {
    let [batch, heads, n, dim] = sizes;
    match head_major {
        true => Tensor::new(device, &sizes, numbers).unwrap(),
        false => Tensor::new(device, &[batch, n, heads * dim], &projected(numbers, sizes)).unwrap(),
    }
}

/// The numbers of `small`, whose dimensions are those of `shape` or 1, in all of `shape`.
fn repeated(numbers: &[f32], small: [usize; 4], shape: [usize; 4]) -> Vec<f32> {
    let n = shape.iter().product();
    let from = |mut i: usize| {
        let (mut at, mut stride) = (0, 1);
        for d in (0..4).rev() {
            at += if small[d] == 1 { 0 } else { i % shape[d] * stride };
            stride *= small[d];
            i /= shape[d];
        }
        at
    };
    (0..n).map(|i| numbers[from(i)]).collect()
}

/// All of these shapes but the full one were refused.
#[test]
fn f15_a_matrix_may_be_the_same_along_batch_heads_or_queries() {
    for (sizes, extent) in [([2, 3, 37, 70, 8, 5], 1.0), ([3, 2, 130, 150, 16, 16], 0.8)] {
        let [batch, heads, n_queries, n_keys, ..] = sizes;
        let full = [batch, heads, n_queries, n_keys];
        for mask in 0..8 {
            let small = [0, 1, 2, 3].map(|d| if d < 3 && mask >> d & 1 == 1 { 1 } else { full[d] });
            let mut random = Random::new(mask);
            let mut case = case(&mut random, sizes);
            add_terms(&mut random, &mut case, 2, &[(0..2, Distance::Euclidean, BiasKernel::Rbf, 2)]);
            let mut numbers = random.scaled(small.iter().product(), extent);
            numbers.iter_mut().step_by(7).for_each(|x| *x = f32::NEG_INFINITY);
            case.matrix = Some(repeated(&numbers, small, full));
            let mut shapes = vec![small.to_vec()];
            if small[..2] == [1, 1] && small[2] == n_queries {
                shapes.push(vec![n_queries, n_keys]);
            }
            for (name, device) in all_devices(64) {
                for (shape, head_major) in shapes.iter().flat_map(|shape| [true, false].map(|h| (shape, h))) {
                    let dims = |n: usize, dim: usize| [batch, heads, n, dim];
                    let q = rows(&device, head_major, &case.q, dims(n_queries, case.head_dim));
                    let k = rows(&device, head_major, &case.k, dims(n_keys, case.head_dim));
                    let v = rows(&device, head_major, &case.v, dims(n_keys, case.v_dim));
                    let coords = |n: usize, x: &[f32]| Tensor::new(&device, &[batch, n, 2], x).unwrap();
                    let (q_coords, k_coords) = (coords(n_queries, &case.q_coords), coords(n_keys, &case.k_coords));
                    let terms: Vec<BiasTerm> = case.terms.iter().map(|term| term.bias_term()).collect();
                    let matrix = Tensor::new(&device, shape, &numbers).unwrap();
                    let bias = Bias::new(&q_coords, &k_coords, &terms).with_matrix(&matrix);
                    let options = ScanAttention::new(layout(head_major, heads)).bias(bias);
                    // A matrix of all heads side by side is bound whole: more than this device binds.
                    let bytes = 4 * heads * n_queries * n_keys;
                    if name.ends_with("64 KiB") && !head_major && small[1] > 1 && small[2] > 1 && bytes > 64 << 10 {
                        refused(scan_attention(&q, &k, &v, &options), &["bytes of one operand"]);
                        continue;
                    }
                    let found = scan_attention(&q, &k, &v, &options).unwrap();
                    let [values, lse] = truth(&case, head_major);
                    let what = format!("{shape:?} for {full:?} on {name}");
                    assert_near(&what, &device, &found.values, &values);
                    assert_near(&what, &device, &found.log_sum_exp, &lse);
                    // A memory reads the same.
                    let memory = ScanMemory::new(options.layout).terms(&terms).matrix(&matrix);
                    let state = memory.write(None, (&k, &k_coords), &v, None).unwrap();
                    assert_near(&what, &device, &memory.read((&q, &q_coords), &state).unwrap().values, &values);
                }
            }
        }
    }
}

/// Coordinates had to be given for each batch element.
#[test]
fn f15_coordinates_may_be_those_of_all_batch_elements() {
    let (batch, heads, n_queries, n_keys) = (3, 2, 37, 70);
    let mut random = Random::new(5);
    let mut case = case(&mut random, [batch, heads, n_queries, n_keys, 8, 5]);
    let kinds =
        [(0..2, Distance::GreatCircle, BiasKernel::Rbf, 2), (2..3, Distance::CausalTime, BiasKernel::Scalar, 1)];
    add_terms(&mut random, &mut case, 3, &kinds);
    // One of them is nowhere.
    case.k_coords[3 * 11] = f32::NAN;
    let own = [case.q_coords.clone(), case.k_coords.clone()];
    let shared = own.each_ref().map(|x| x[..x.len() / batch].to_vec());
    let custom = wgpu_attention::ops::CustomBias {
        name: "alibi".into(),
        wgsl: "return -params(head) * abs(q_coord[0] - k_coord[0]);".into(),
        cpu: std::sync::Arc::new(|q, k, head, params| -params[head] * (q[0] - k[0]).abs()),
        params: vec![0.5, 0.25],
    };
    case.custom = Some(Box::new(|q, k, head| Some(-[0.5, 0.25][head] * f64::from((q[2] - k[2]).abs()))));
    for i in 0..4 {
        let (share_q, share_k) = (i & 1 == 1, i & 2 == 2);
        let flags = [share_q, share_k];
        let coords = |j: usize| if flags[j] { shared[j].repeat(batch) } else { own[j].clone() };
        (case.q_coords, case.k_coords) = (coords(0), coords(1));
        let [values, lse] = truth(&case, true);
        let mut terms: Vec<BiasTerm> = case.terms.iter().map(|term| term.bias_term()).collect();
        terms.push(BiasTerm::custom(2..3, custom.clone()));
        for (name, device) in all_devices(64) {
            let dims = |n: usize, dim: usize| [batch, heads, n, dim];
            let q = rows(&device, true, &case.q, dims(n_queries, 8));
            let (k, v) = (rows(&device, true, &case.k, dims(n_keys, 8)), rows(&device, true, &case.v, dims(n_keys, 5)));
            for rank in [2, 3] {
                let tensor = |j: usize, n: usize| match (flags[j], rank) {
                    (false, _) => Tensor::new(&device, &[batch, n, 3], &own[j]).unwrap(),
                    (true, 2) => Tensor::new(&device, &[n, 3], &shared[j]).unwrap(),
                    (true, _) => Tensor::new(&device, &[1, n, 3], &shared[j]).unwrap(),
                };
                let (q_coords, k_coords) = (tensor(0, n_queries), tensor(1, n_keys));
                let options = ScanAttention::default().bias(Bias::new(&q_coords, &k_coords, &terms));
                let found = scan_attention(&q, &k, &v, &options).unwrap();
                assert_near(&name, &device, &found.values, &values);
                assert_near(&name, &device, &found.log_sum_exp, &lse);
            }
        }
    }
}

#[test]
fn f15_other_shapes_of_biases_are_refused_by_name() {
    for (_, device) in devices() {
        let t = |shape: &[usize]| zeros(&device, shape);
        let (q, k) = (t(&[2, 3, 5, 4]), t(&[2, 3, 6, 4]));
        for shape in [&[6][..], &[5, 5], &[6, 5], &[3, 5, 6], &[2, 5, 6], &[2, 3, 5, 1], &[3, 3, 5, 6], &[2, 2, 5, 6]] {
            let matrix = t(shape);
            let refusal = scan_attention(&q, &k, &k, &ScanAttention::default().bias(Bias::matrix(&matrix)));
            refused(refusal, &["bias.matrix", &format!("{shape:?}"), "[2, 3, 5, 6]", "[n_queries, n_keys]"]);
        }
        let terms = [BiasTerm::rbf(0..2, &[1.0; 3], &[1.0; 3])];
        for shape in [&[2][..], &[6, 2], &[3, 5, 2], &[1, 6, 2]] {
            let (q_coords, k_coords) = (t(shape), t(&[6, 2]));
            let bias = Bias::new(&q_coords, &k_coords, &terms);
            let refusal = scan_attention(&q, &k, &k, &ScanAttention::default().bias(bias));
            refused(refusal, &["bias.q_coords", &format!("{shape:?}"), "[2, 5, 2]", "[5, 2]"]);
        }
    }
}

/// Refused: "batch and heads must agree".
#[test]
fn f15_keys_may_have_fewer_heads_than_queries() {
    for (seed, (sizes, kv_heads)) in [
        ([2, 6, 37, 70, 8, 5], 2),
        ([1, 8, 1, 300, 16, 16], 1),
        ([3, 4, 200, 150, 16, 24], 2),
        ([1, 3, 65, 33, 4, 4], 3),
        ([2, 12, 70, 900, 8, 8], 4),
    ]
    .into_iter()
    .enumerate()
    {
        let [batch, heads, n_queries, n_keys, head_dim, v_dim] = sizes;
        let mut random = Random::new(seed as u64);
        let mut case = case(&mut random, sizes);
        add_terms(&mut random, &mut case, 2, &[(0..2, Distance::Euclidean, BiasKernel::Tisa, 2)]);
        case.mask = Some(random.booleans(batch * n_keys, 0.8));
        let few_k = random.scaled(batch * kv_heads * n_keys * head_dim, 2.0);
        let few_v = random.numbers(batch * kv_heads * n_keys * v_dim);
        let each = |x: &[f32], dim: usize| -> Vec<f32> {
            x.chunks(n_keys * dim).flat_map(|head| head.repeat(heads / kv_heads)).collect()
        };
        (case.k, case.v) = (each(&few_k, head_dim), each(&few_v, v_dim));
        let terms: Vec<BiasTerm> = case.terms.iter().map(|term| term.bias_term()).collect();
        for (name, device) in all_devices(256) {
            for (head_major, n_splits) in [(true, None), (false, None), (true, Some(3)), (false, Some(2))] {
                let layout = match head_major {
                    true => Layout::HeadMajor,
                    false => Layout::Grouped { n_heads: heads, n_kv_heads: kv_heads },
                };
                let q = rows(&device, head_major, &case.q, [batch, heads, n_queries, head_dim]);
                let k = rows(&device, head_major, &few_k, [batch, kv_heads, n_keys, head_dim]);
                let v = rows(&device, head_major, &few_v, [batch, kv_heads, n_keys, v_dim]);
                let coords = |n: usize, x: &[f32]| Tensor::new(&device, &[batch, n, 2], x).unwrap();
                let (q_coords, k_coords) = (coords(n_queries, &case.q_coords), coords(n_keys, &case.k_coords));
                let mask = Mask::new(&device, &[batch, n_keys], case.mask.as_ref().unwrap()).unwrap();
                let mut options = ScanAttention::new(layout).key_mask(&mask);
                options.bias = Some(Bias::new(&q_coords, &k_coords, &terms));
                options.n_splits = n_splits;
                let found = scan_attention(&q, &k, &v, &options).unwrap();
                let [values, lse] = truth(&case, head_major);
                let what = format!("{sizes:?} of {kv_heads} heads of keys on {name}, {layout:?}");
                assert_near(&what, &device, &found.values, &values);
                assert_near(&what, &device, &found.log_sum_exp, &lse);
                assert_eq!(found.values.shape().len(), q.shape().len());

                let memory = ScanMemory::new(layout).terms(&terms);
                let state = memory.write(None, (&k, &k_coords), &v, Some(&mask)).unwrap();
                assert_near(&what, &device, &memory.read((&q, &q_coords), &state).unwrap().values, &values);
            }
        }
    }
}

/// The rolling and the linear memory against themselves with the heads of keys written out.
#[test]
fn f15_memories_of_fewer_heads_of_keys() {
    [2, 1].into_iter().for_each(memories_of_fewer_heads);
}

fn memories_of_fewer_heads(kv_heads: usize) {
    let (batch, heads, n_queries, n_keys, dim, v_dim) = (2, 6, 9, 40, 5, 4);
    let mut random = Random::new(3);
    let q = random.numbers(batch * heads * n_queries * dim);
    let k = random.numbers(batch * kv_heads * n_keys * dim);
    let v = random.numbers(batch * kv_heads * n_keys * v_dim);
    let each = |x: &[f32], dim: usize| -> Vec<f32> {
        x.chunks(n_keys * dim).flat_map(|head| head.repeat(heads / kv_heads)).collect()
    };
    let (all_k, all_v) = (each(&k, dim), each(&v, v_dim));
    let keep = random.booleans(batch * n_keys, 0.7);
    let wide = |x: &Read| -> Vec<f64> { x.values.read().unwrap().into_iter().map(f64::from).collect() };
    for (name, device) in devices() {
        for head_major in [true, false] {
            let few = match head_major {
                true => Layout::HeadMajor,
                false => Layout::Grouped { n_heads: heads, n_kv_heads: kv_heads },
            };
            let all = layout(head_major, heads);
            let tensor =
                |x: &[f32], heads: usize, n: usize, dim: usize| rows(&device, head_major, x, [batch, heads, n, dim]);
            let q = tensor(&q, heads, n_queries, dim);
            let (k, v) = (tensor(&k, kv_heads, n_keys, dim), tensor(&v, kv_heads, n_keys, v_dim));
            let (all_k, all_v) = (tensor(&all_k, heads, n_keys, dim), tensor(&all_v, heads, n_keys, v_dim));
            let mask = Mask::new(&device, &[batch, n_keys], &keep).unwrap();

            let [few_rolling, all_rolling] = [few, all].map(|layout| RollingAttention::new(layout, q.clone()));
            let state = few_rolling.write(None, &k, &v, Some(&mask)).unwrap();
            let found = few_rolling.read(&few_rolling.write(Some(&state), &k, &v, None).unwrap()).unwrap();
            let state = all_rolling.write(None, &all_k, &all_v, Some(&mask)).unwrap();
            let truth = all_rolling.read(&all_rolling.write(Some(&state), &all_k, &all_v, None).unwrap()).unwrap();
            assert_near(&format!("rolling on {name}"), &device, &found.values, &wide(&truth));

            let projection = random_features(&device, 1, 7, dim, ProjectionRows::Orthogonal).unwrap();
            let floor = Normalizer::FeatureSum { floor: 1e-3 };
            for normalizer in [Normalizer::None, Normalizer::KeyCount, floor, Normalizer::Stable] {
                let is_stable = normalizer == Normalizer::Stable;
                let [few, all] = [few, all].map(|layout| match is_stable {
                    true => LinearAttention::favor(layout, projection.clone()),
                    false => LinearAttention::new(layout, FeatureMap::identity(0.7), normalizer),
                });
                assert_eq!(few.normalizer, normalizer);
                let decision = few.decision(&k, &v).unwrap();
                assert_eq!(decision.launches == 0, device.capabilities().adapter.is_none(), "{name}: {decision}");
                let state = few.write(None, &k, &v, Some(&mask)).unwrap();
                assert_eq!(state.sums.shape()[if is_stable && !head_major { 2 } else { 1 }], kv_heads);
                let found = few.read(&q, &few.write(Some(&state), &k, &v, None).unwrap()).unwrap();
                let state = all.write(None, &all_k, &all_v, Some(&mask)).unwrap();
                let truth = all.read(&q, &all.write(Some(&state), &all_k, &all_v, None).unwrap()).unwrap();
                // The divisor may be as small as the floor, which magnifies the rounding of the sums.
                if !matches!(normalizer, Normalizer::FeatureSum { .. }) {
                    assert_near(&format!("linear on {name}"), &device, &found.values, &wide(&truth));
                }
                // Another number of heads may be cut otherwise, and then rounds otherwise.
                if !is_stable {
                    assert_eq!(found.values.read().unwrap(), truth.values.read().unwrap(), "{name}");
                }
            }
        }
    }
}

#[test]
fn f15_heads_that_do_not_divide_are_refused_by_name() {
    for (_, device) in devices() {
        let t = |shape: &[usize]| zeros(&device, shape);
        let attend = |layout, q: &[usize], k: &[usize]| {
            scan_attention(&t(q), &t(k), &t(k), &ScanAttention::new(layout)).map(|read| read.values)
        };
        for heads in [4, 12, 5] {
            let k = [1, heads, 5, 4];
            refused(attend(Layout::HeadMajor, &[1, 6, 3, 4], &k), &["heads", "multiple", &format!("{k:?}")]);
        }
        for n_kv_heads in [0, 4, 12] {
            let layout = Layout::Grouped { n_heads: 6, n_kv_heads };
            let found = format!("n_kv_heads is {n_kv_heads}");
            refused(attend(layout, &[1, 3, 24], &[1, 5, 4 * n_kv_heads]), &[&found, "n_heads = 6"]);
        }
        let grouped = Layout::Grouped { n_heads: 6, n_kv_heads: 2 };
        refused(attend(grouped, &[1, 3, 24], &[1, 5, 24]), &["same width"]);
        refused(attend(grouped, &[1, 3, 25], &[1, 5, 8]), &["q", "6 * dim"]);
        let linear = LinearAttention::new(Layout::HeadMajor, FeatureMap::identity(1.0), Normalizer::None);
        let state = linear.write(None, &t(&[1, 4, 5, 4]), &t(&[1, 4, 5, 4]), None).unwrap();
        refused(linear.read(&t(&[1, 6, 5, 4]), &state), &["state", "[1, 4, 4, 4]", "[1, 6, 4, 4]"]);
        // Of a layout that says otherwise.
        let mut eight = linear;
        eight.layout = Layout::Projected { n_heads: 8 };
        refused(eight.read(&t(&[1, 5, 32]), &state), &["state", "[1, 8, 4, 4]"]);
        // Every step of these has a query and a key.
        let memory = AttentionMemory::new(grouped);
        let (q, k) = (t(&[1, 3, 24]), t(&[1, 3, 8]));
        let words = ["n_kv_heads", "a key for every query"];
        refused(attention_memory(&q, &k, &k, &memory), &words);
        refused(memory.write(None, &k, &k, None), &words);
        let state = AttentionMemory::new(Layout::Projected { n_heads: 2 }).write(None, &k, &k, None).unwrap();
        refused(memory.read(&q, &state), &words);
    }
}

/// No keys were refused, where a linear memory has always read them as zeros.
#[test]
fn f15_no_keys_read_as_zeros_and_no_queries_as_nothing() {
    for (name, device) in devices() {
        for head_major in [true, false] {
            let t = |heads: usize, n: usize, dim: usize| match head_major {
                true => zeros(&device, &[2, heads, n, dim]),
                false => zeros(&device, &[2, n, heads * dim]),
            };
            let options = ScanAttention::new(layout(head_major, 3));
            let read = scan_attention(&t(3, 5, 4), &t(3, 0, 4), &t(3, 0, 7), &options).unwrap();
            assert_eq!(read.values.shape(), t(3, 5, 7).shape(), "{name}");
            assert_eq!(read.values.read().unwrap(), [0.0; 2 * 3 * 5 * 7], "{name}");
            assert_eq!(read.log_sum_exp.read().unwrap(), [MASKED; 2 * 3 * 5], "{name}");
            assert!(options.decision(&t(3, 5, 4), &t(3, 0, 4), &t(3, 0, 7)).is_ok());
            let read = scan_attention(&t(3, 0, 4), &t(3, 6, 4), &t(3, 6, 7), &options).unwrap();
            assert_eq!((read.values.shape(), read.values.len()), (t(3, 0, 7).shape(), 0), "{name}");

            let rolling = RollingAttention::new(options.layout, t(3, 0, 4));
            let state = rolling.write(None, &t(3, 6, 4), &t(3, 6, 7), None).unwrap();
            let state = rolling.write(Some(&state), &t(3, 6, 4), &t(3, 6, 7), None).unwrap();
            assert!(rolling.read(&state.merge(&state).unwrap()).unwrap().values.is_empty(), "{name}");
        }
    }
}

/// More than 16 KiB were refused on a GPU.
#[test]
fn f15_biases_may_have_many_parameters() {
    const N: usize = 4000;
    let (batch, heads, n_queries, n_keys) = (1, 2, 37, 70);
    let mut random = Random::new(6);
    let mut case = case(&mut random, [batch, heads, n_queries, n_keys, 8, 5]);
    add_terms(&mut random, &mut case, 2, &[(0..1, Distance::Euclidean, BiasKernel::Rbf, 1200)]);
    // The weights of so many functions add up to a few.
    case.terms[0].a.iter_mut().for_each(|a| *a *= 0.01);
    // A table of biases, by where queries and keys are.
    for coords in [&mut case.q_coords, &mut case.k_coords] {
        coords.chunks_mut(2).enumerate().for_each(|(i, x)| x[1] = (i * 53 % 1900) as f32);
    }
    let table = random.numbers(heads * N);
    let custom = wgpu_attention::ops::CustomBias {
        name: "table".into(),
        wgsl: format!("return params(head * {N}u + u32(q_coord[0] + k_coord[0]));"),
        cpu: std::sync::Arc::new(|q, k, head, params| params[head * N + (q[0] + k[0]) as usize]),
        params: table.clone(),
    };
    case.custom = Some(Box::new(move |q, k, head| Some(f64::from(table[head * N + (q[1] + k[1]) as usize]))));
    let [values, lse] = truth(&case, true);
    let terms = [case.terms[0].bias_term(), BiasTerm::custom(1..2, custom)];
    for (name, device) in all_devices(1 << 10) {
        let tensor = |x: &[f32], n: usize, dim: usize| rows(&device, true, x, [batch, heads, n, dim]);
        let (q, k, v) = (tensor(&case.q, n_queries, 8), tensor(&case.k, n_keys, 8), tensor(&case.v, n_keys, 5));
        let coords = |n: usize, x: &[f32]| Tensor::new(&device, &[batch, n, 2], x).unwrap();
        let (q_coords, k_coords) = (coords(n_queries, &case.q_coords), coords(n_keys, &case.k_coords));
        let options = ScanAttention::default().bias(Bias::new(&q_coords, &k_coords, &terms));
        let found = scan_attention(&q, &k, &v, &options).unwrap();
        assert_near(&name, &device, &found.values, &values);
        assert_near(&name, &device, &found.log_sum_exp, &lse);
    }
}

/// The largest logits and sums of many splits are more than values of one number.
#[test]
fn many_splits_of_narrow_values_are_cut_into_pieces() {
    let mut random = Random::new(12);
    let case = case(&mut random, [1, 2, 500, 500, 1, 1]);
    for (name, device) in all_devices(256) {
        for head_major in [true, false] {
            let how = Run { head_major, n_splits: Some(100), extra: &[] };
            check("100 splits", &name, &device, &case, &how);
        }
    }
}
